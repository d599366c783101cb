"""Finds common beginnings: the token ids of what is in the cache, as a tree for each blend."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol, TypeAlias

from crayon.errors import EngineError
from crayon.server.steps.request import Kind

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence

    from crayon.server.scheduler.draft import Draft
    from crayon.server.steps.request import Request
    from crayon.server.steps.step_plan import IdlePrefix

_Ids: TypeAlias = tuple[int, ...]


@dataclass(slots=True)
class _Node:
    """Tokens that follow those of the node above, and the requests that go on from there or end there."""

    run: _Ids
    below: dict[int, _Node] = field(default_factory=dict)
    """By first token."""
    names: dict[str, None] = field(default_factory=dict)
    """Those that end here, in the order they came; a set would not repeat itself."""


class TokenIndex:
    """A `PrefixIndex` that an engine tells what its requests are.

    Args:
        shortest: beginnings of fewer tokens are not worth copying.
    """

    def __init__(self, shortest: int = 1) -> None:
        self._shortest = shortest
        self._asked: dict[str, tuple[str, _Ids]] = {}
        """Blend and tokens of each request that may ask."""
        self._held: dict[str, tuple[str, _Ids]] = {}
        """Blend and tokens of each that is in a tree."""
        self._trees: dict[str, _Node] = {}

    def __len__(self) -> int:
        return len(self._held)

    def add(self, request_id: str, blend: str, ids: Sequence[int]) -> None:
        """Say what a request's prompt is: when it is queued."""
        self.forget(request_id)
        self._asked[request_id] = (blend, tuple(ids))

    def hold(self, request_id: str, ids: Sequence[int] | None = None) -> None:
        """Say that a sequence holds, or will hold, these tokens (None: the prompt): at admission, and at the end.

        At the end `ids` are the prompt and what was written, as far as it was computed; the request asks no more.

        Raises:
            EngineError: the request was never added.
        """
        known = self._asked.get(request_id) or self._held.get(request_id)
        if known is None:
            raise EngineError(f"request {request_id} is not in the index")
        self._remove(request_id)
        blend, tokens = known[0], known[1] if ids is None else tuple(ids)
        if ids is not None:
            self._asked.pop(request_id, None)
        self._held[request_id] = (blend, tokens)
        _insert(self._trees.setdefault(blend, _Node(())), tokens, request_id)

    def forget(self, request_id: str) -> None:
        """Say that a request's tokens are in no sequence any more and that it asks no more. Safe to call twice."""
        self._asked.pop(request_id, None)
        self._remove(request_id)

    def match(self, request_id: str) -> Iterator[tuple[str, int]]:
        """Yield held requests of the same blend that begin alike, with the number of common tokens, longest first."""
        blend, ids = self._asked.get(request_id, ("", ()))
        tree = self._trees.get(blend)
        if tree is None:
            return
        # Who is below the last node has the most in common; who leaves the path earlier has what is above.
        done: _Node | None = None
        for node, common in reversed(list(_path(tree, ids))):
            if common < self._shortest:
                return
            for name in _names(node, done):
                yield name, common
            done = node

    def _remove(self, request_id: str) -> None:
        held = self._held.pop(request_id, None)
        if held is not None:
            blend, ids = held
            _delete(self._trees[blend], ids, request_id)
            if not self._trees[blend].below and not self._trees[blend].names:
                del self._trees[blend]


def _common(run: _Ids, ids: _Ids, at: int) -> int:
    """Return how many tokens `run` and `ids[at:]` begin with in common."""
    part = ids[at : at + len(run)]
    if part == run:
        return len(run)
    low, high = 0, len(part)  # slices compare faster than a loop over tokens
    while low < high:
        middle = (low + high + 1) // 2
        low, high = (middle, high) if part[:middle] == run[:middle] else (low, middle - 1)
    return low


def _path(tree: _Node, ids: _Ids) -> Iterator[tuple[_Node, int]]:
    """Yield the nodes that `ids` leads through, and how many of its tokens are above and in each."""
    node: _Node | None = tree
    at = 0
    while node is not None:
        same = _common(node.run, ids, at)
        at += same
        yield node, at
        if same < len(node.run) or at == len(ids):
            return
        node = node.below.get(ids[at])


def _names(node: _Node, but: _Node | None) -> Iterator[str]:
    """Yield the names in and below a node, except in and below another one."""
    left = [node]
    while left:
        current = left.pop()
        yield from current.names
        left.extend(below for below in current.below.values() if below is not but)


def _insert(tree: _Node, ids: _Ids, name: str) -> None:
    node, at = tree, 0
    while at < len(ids):
        below = node.below.get(ids[at])
        if below is None:
            node.below[ids[at]] = _Node(ids[at:], names={name: None})
            return
        same = _common(below.run, ids, at)
        if same < len(below.run):
            upper = node.below[ids[at]] = _Node(below.run[:same], {below.run[same]: below})
            below.run = below.run[same:]
            below = upper
        node, at = below, at + same
    node.names[name] = None


def _delete(tree: _Node, ids: _Ids, name: str) -> None:
    path = [node for node, _ in _path(tree, ids)]
    del path[-1].names[name]
    for above, node in zip(path[-2::-1], path[:0:-1], strict=True):
        if node.names or len(node.below) > 1:
            return
        first = node.run[0]
        if node.below:  # a node without a name and a fork is none
            (only,) = node.below.values()
            only.run = node.run + only.run
            above.below[first] = only
            return
        del above.below[first]


class PrefixIndex(Protocol):
    """Knows tokens, which the policy does not."""

    def match(self, request_id: str) -> Iterable[tuple[str, int]]:
        """Yield requests, running or finished, and how many tokens the request's prompt begins with as they do.

        The longest first. Only those of the same blend; who is not in the cache does no harm.
        """
        ...


def best_source(draft: Draft, index: PrefixIndex, request: Request) -> IdlePrefix | None:
    """Return the sequence to begin with, if one holds more of the request's prompt than its own does.

    `tokens` are those to copy. The last token of the prompt is computed in any case, for its logits.
    """
    if request.kind is Kind.ENCODE:
        return None
    best: IdlePrefix | None = None
    most = draft.start(request)
    for name, found in index.match(request.id):
        common = min(found, request.prompt - 1)
        if common <= most:
            break
        source = draft.source(name)
        if source is None or source.group != request.group or name == request.id:
            continue
        tokens = min(common, source.tokens)
        if tokens > most and draft.cuts(source.seq, tokens):
            best, most = source._replace(tokens=tokens), tokens
    return best
