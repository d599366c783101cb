"""Continuations as a tree: what is computed once, and that it is all that is asked for."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from prefix_tools import near
from tiny_kinds import write_kind

from crayon.device import DeviceEngine
from crayon.device.branches import Group, groups
from crayon.engine import ScoreRequest
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.model import Model
from crayon.llama.signals import log_softmax_at
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

LABELS = tuple(f"card_{what}" for what in ("arrival", "arrived late", "linking", "lost", "not working", "swallowed"))
MANY = tuple(f"{first} {second} {i}" for first in ("balance", "card", "transfer") for second in "ab" for i in range(17))


def replayed(group: Group) -> dict[int, list[tuple[int, int]]]:
    """What each branch of a group holds: (depth, token), in the order of the nodes."""
    found: dict[int, list[tuple[int, int]]] = {branch: [] for branch in range(group.branches)}
    for node in group.nodes:
        for branch in node.branches:
            found[branch].append((node.depth, node.token))
    return found


lists = st.lists(st.lists(st.integers(0, 2), min_size=1, max_size=6), min_size=1, max_size=20)


@settings(deadline=None)
@given(lists, st.integers(1, 5), st.integers(1, 12), st.booleans())
def test_every_token_after_the_first_is_read_once_behind_its_own_start(
    parts: list[list[int]], branches: int, cells: int, shared: bool
) -> None:
    read: dict[tuple[int, int], int] = {}
    for group in groups(parts, branches=branches, cells=cells, shared=shared):
        assert 1 <= group.branches <= branches
        assert len(group.nodes) <= cells or group.branches == 1
        paths = replayed(group)
        for path in paths.values():
            assert [depth for depth, _ in path] == list(range(len(path)))
        for node in group.nodes:
            assert shared or len(node.branches) == 1
            start = [token for _, token in paths[node.branches[0]][: node.depth + 1]]
            assert all([t for _, t in paths[b][: node.depth + 1]] == start for b in node.branches)
            for token, readers in node.reads.items():
                for i in readers:
                    assert parts[i][: node.depth + 2] == [*start, token]
                    read[i, node.depth + 1] = read.get((i, node.depth + 1), 0) + 1
    assert read == {(i, at): 1 for i, part in enumerate(parts) for at in range(1, len(part))}


@given(lists)
def test_no_start_is_computed_twice_where_there_is_room(parts: list[list[int]]) -> None:
    nodes = [node for group in groups(parts, branches=99, cells=999) for node in group.nodes]
    assert len(nodes) == len({tuple(part[:n]) for part in parts for n in range(1, len(part))})


def the_plain_way(path: Path, question: str, texts: Sequence[str], *, ended: bool = False) -> list[list[float]]:
    """Each continuation with a sequence of its own after the prompt, and all of its tokens computed."""
    with Model(path) as model, Context(model, n_ctx=1024, n_batch=1024, n_seq_max=2, threads=1) as context:
        batch = Batch(1024)
        prompt = model.tokenize_chat([Message("user", question)])
        row = batch.add(prompt, 0, 0, "last")[-1]
        context.decode(batch)
        first = context.logits(row).copy()
        found = []
        for text in texts:
            tokens = [*model.tokenize(text), *([model.eos] if ended else [])]
            context.copy(0, 1)
            batch.clear()
            rows = [first]
            if len(tokens) > 1:
                numbers = batch.add(tokens[:-1], len(prompt), 1, "all")
                context.decode(batch)
                rows += [context.logits(number).copy() for number in numbers]
            found.append([float(log_softmax_at(row, [token])[0]) for row, token in zip(rows, tokens, strict=True)])
            context.remove(1)
    return found


@pytest.fixture(scope="module", params=["llama", "qwen2", "gemma3", "mamba", "jamba"])
def path(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, tiny_chat_path: Path) -> Path:
    if request.param == "llama":
        return tiny_chat_path
    return write_kind(tmp_path_factory.mktemp("kinds") / f"{request.param}.gguf", request.param)


@pytest.mark.parametrize("ended", [False, True])
@pytest.mark.parametrize("texts", [LABELS, MANY, (*LABELS, *LABELS, "c", "ca", "card")], ids=["few", "many", "starts"])
def test_scores_are_those_of_the_plain_way(path: Path, texts: tuple[str, ...], ended: bool) -> None:
    expected = the_plain_way(path, "Where is it?", texts, ended=ended)
    with DeviceEngine(path, n_ctx=512, n_batch=64, threads=1) as engine:
        request = ScoreRequest(messages=(Message("user", "Where is it?"),), continuations=texts)
        found = [score.token_logprobs for score in engine.score(request, ended=ended).result(120).scores]
    assert list(map(len, found)) == list(map(len, expected))
    assert near(np.concatenate(found).tolist(), np.concatenate(expected).tolist())


def test_labels_that_begin_alike_cost_less(tiny: Callable[..., DeviceEngine], monkeypatch: pytest.MonkeyPatch) -> None:
    engine = tiny(n_ctx=1024)
    sizes: list[int] = []
    real = Context.decode
    monkeypatch.setattr(Context, "decode", lambda self, batch: (sizes.append(batch.size), real(self, batch))[1])
    engine.score(ScoreRequest(messages=(Message("user", "Where?"),), continuations=MANY)).result(120)
    prompt = len(engine._model.tokenize_chat([Message("user", "Where?")]))
    plain = sum(len(engine._model.tokenize(text)) - 1 for text in MANY)
    assert sum(sizes) - prompt < plain / 2
