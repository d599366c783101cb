from __future__ import annotations

import asyncio
import threading
from concurrent.futures import CancelledError
from typing import TYPE_CHECKING

import numpy as np
import pytest
from device_tools import BACKGROUND, Answer, ask

from crayon.device.encoder import Encoder
from crayon.engine import EncodeRequest
from crayon.errors import DeadlineExceededError, PromptTooLongError
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.encoder import middle_layer
from crayon.llama.tap import Tap

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.device import DeviceEngine
    from crayon.llama.model import Model

pytestmark = pytest.mark.models

TEXTS = (
    "Transfer fifty pounds to my savings account",
    "Send money from checking into savings",
    "How long do I boil an egg?",
    "Wie lange muss ein Ei kochen? 🥚",
    "Which planet has the most moons?",
    "x",
)


def encode(engine: DeviceEngine, *texts: str) -> NDArray[np.float32]:
    return engine.encode(EncodeRequest(texts=texts)).result(120).vectors


def cosines(rows: NDArray[np.float64] | NDArray[np.float32]) -> NDArray[np.float64]:
    """Cosines between different rows."""
    unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    return np.asarray((unit @ unit.T)[np.triu_indices(len(rows), 1)], np.float64)


def states(model: Model, tokens: list[int], layer: int) -> NDArray[np.float32]:
    """All hidden states of a layer, read on a whole pass of one text."""
    tap = Tap(f"l_out-{layer}", model.n_embd, stop=False)
    with Context(model, n_ctx=512, n_batch=512, threads=1, tap=tap) as context:
        batch = Batch(512)
        batch.add(tokens, 0, 0, "last")
        context.decode(batch)
        return tap.take()


def pooled(rows: NDArray[np.float32]) -> NDArray[np.float64]:
    """The mean of a text's states after the sink, each of length 1, the first three counting for less."""
    own = rows[1:].astype(np.float64) / np.linalg.norm(rows[1:], axis=1, keepdims=True)
    return np.asarray(np.average(own, axis=0, weights=np.minimum(np.arange(1, len(own) + 1), 4)))


def test_vectors_are_unit_float32_one_a_text(engine: DeviceEngine) -> None:
    result = engine.encode(EncodeRequest(texts=TEXTS)).result(120)
    assert result.vectors.shape == (len(TEXTS), 576)
    assert result.vectors.dtype == np.float32
    assert np.linalg.norm(result.vectors, axis=1) == pytest.approx(1.0, abs=1e-5)
    assert result.usage.prompt_tokens == sum(1 + len(engine._model.tokenize(text)) for text in TEXTS)


def test_like_texts_are_near_and_unlike_ones_far(engine: DeviceEngine) -> None:
    savings, saving, egg, _, planet, _ = encode(engine, *TEXTS)
    assert savings @ saving > max(savings @ egg, savings @ planet, saving @ egg, saving @ planet) + 0.1


def test_the_first_token_is_a_trap_that_is_avoided(engine: DeviceEngine) -> None:
    model = engine._model
    layer = middle_layer(model.n_layer)
    tokenized = [[model.bos, *model.tokenize(text)] for text in TEXTS[:5]]
    rows = [states(model, tokens, layer) for tokens in tokenized]
    plain = cosines(np.stack([row.mean(axis=0) for row in rows]))
    without_sink = cosines(np.stack([row[1:].mean(axis=0) for row in rows]))
    centred = cosines(encode(engine, *TEXTS[:5]))
    assert plain.min() > 0.99, "the sink drowns everything"
    assert np.ptp(without_sink) > 10 * np.ptp(plain)
    assert np.ptp(centred) > 2 * np.ptp(without_sink)
    assert abs(np.median(centred)) < 0.4


def test_vectors_are_the_centred_means_of_the_layers_states(engine: DeviceEngine) -> None:
    model = engine._model
    layer = middle_layer(model.n_layer)

    def mean(text: str) -> NDArray[np.float64]:
        return pooled(states(model, [model.bos, *model.tokenize(text)], layer))

    centre = np.mean([mean(text) for text in BACKGROUND], axis=0)
    for text, found in zip(TEXTS, encode(engine, *TEXTS), strict=True):
        expected = mean(text) - centre
        assert found @ expected / np.linalg.norm(expected) > 0.9995


def test_batches_equal_single_texts(engine: DeviceEngine) -> None:
    many = [TEXTS[i % len(TEXTS)] for i in range(37)]  # more than fit together
    together = encode(engine, *many)
    alike = [found @ together[many.index(text)] for text, found in zip(many, together, strict=True)]
    alike += [encode(engine, text)[0] @ together[i] for i, text in enumerate(TEXTS)]
    # Where a row stands in a batch decides its kernel: over 0.9995 with AVX-512 VNNI, 0.9992 with AMX.
    assert min(alike) > 0.998


def test_a_long_text_in_pieces_equals_the_text_at_once(engine: DeviceEngine) -> None:
    model = engine._model
    text = " ".join(f"Line {i}: the river rose by {i * 7 % 13} feet." for i in range(30))
    tokens = [model.bos, *model.tokenize(text)]
    assert 300 < len(tokens) <= 512
    whole = pooled(states(model, tokens, middle_layer(model.n_layer)))

    encoder = Encoder(model, n_ctx=512, background=(), threads=1)
    encoder._batch = Batch(96)
    found: list[NDArray[np.float32]] = []
    steps = sum(1 for _ in encoder.steps([tokens, [model.bos, *model.tokenize("x")]], found.append))
    encoder.close()
    assert steps >= len(tokens) // 96
    assert found[0][0] @ whole / np.linalg.norm(whole) > 0.9995


def test_texts_that_fill_the_cache_take_turns(fresh: Callable[..., DeviceEngine]) -> None:
    engine = fresh(n_ctx=256)
    long = "The quick brown fox jumps over the lazy dog again. " * 12
    together = encode(engine, long, TEXTS[0], long, long, TEXTS[0])
    assert together[0] @ together[3] > 0.9995
    assert together[1] @ encode(engine, TEXTS[0])[0] > 0.9995


def test_without_background_vectors_are_not_centred_but_finite(fresh: Callable[..., DeviceEngine]) -> None:
    engine = fresh(background=())
    found = encode(engine, *TEXTS)
    assert np.linalg.norm(found, axis=1) == pytest.approx(1.0, abs=1e-5)
    model = engine._model
    plain = pooled(states(model, [model.bos, *model.tokenize(TEXTS[0])], middle_layer(model.n_layer)))
    assert found[0] @ plain / np.linalg.norm(plain) > 0.9995


def test_requests_at_the_same_time_do_not_mix(engine: DeviceEngine) -> None:
    alone = encode(engine, *TEXTS)
    futures = [engine.encode(EncodeRequest(texts=(text, TEXTS[0]))) for text in TEXTS * 2]
    stream = engine.generate(ask("Say something.", max_tokens=8))
    for i, future in enumerate(futures):
        first, second = future.result(120).vectors
        assert first @ alone[i % len(TEXTS)] > 0.9995
        assert second @ alone[0] > 0.9995
    list(stream)


def test_the_encoder_is_made_once_however_many_threads_ask(
    fresh: Callable[..., DeviceEngine], monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[Encoder] = []
    real = Encoder.__init__

    def record(self: Encoder, *args: object, **values: object) -> None:
        made.append(self)
        real(self, *args, **values)  # type: ignore[arg-type]  # passed on

    monkeypatch.setattr(Encoder, "__init__", record)
    engine, gate = fresh(), threading.Barrier(4)

    def work() -> None:
        gate.wait()
        encode(engine, "hello")

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(made) == 1


def test_the_background_is_kept_and_read_again(
    fresh: Callable[..., DeviceEngine], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "new" / "cache"
    first = encode(fresh(background=BACKGROUND, cache_dir=folder), *TEXTS)
    (kept,) = folder.iterdir()
    assert kept.name.startswith("background-")

    texts: list[int] = []
    real = Encoder._raw
    monkeypatch.setattr(Encoder, "_raw", lambda self, lists, out: (texts.append(len(lists)), real(self, lists, out))[1])
    again = encode(fresh(background=BACKGROUND, cache_dir=folder), *TEXTS)
    assert texts == [len(TEXTS)], "the background was not computed again"
    assert np.array_equal(first, again)
    encode(fresh(background=BACKGROUND[:3], cache_dir=folder), *TEXTS)
    assert len(list(folder.iterdir())) == 2, "other texts are another background"


@pytest.mark.parametrize("damage", [b"", b"\x93NUMPY", b"garbage", None])
def test_a_damaged_background_is_computed_again(
    fresh: Callable[..., DeviceEngine], tmp_path: Path, damage: bytes | None
) -> None:
    first = encode(fresh(background=BACKGROUND[:2], cache_dir=tmp_path), "hello")
    (kept,) = tmp_path.iterdir()
    if damage is None:
        np.save(kept, np.full(576, np.nan, np.float32))
    else:
        kept.write_bytes(damage)
    assert np.array_equal(encode(fresh(background=BACKGROUND[:2], cache_dir=tmp_path), "hello"), first)
    assert np.isfinite(np.load(kept)).all()


def test_a_cache_that_cannot_be_written_is_no_fault(
    fresh: Callable[..., DeviceEngine], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    blocked = tmp_path / "a file"
    blocked.touch()
    found = encode(fresh(background=BACKGROUND[:2], cache_dir=blocked), "hello")
    assert np.isfinite(found).all()
    assert "cannot be kept" in caplog.text


def test_a_text_too_long_is_named(fresh: Callable[..., DeviceEngine]) -> None:
    with pytest.raises(PromptTooLongError) as caught:
        fresh(n_ctx=256).encode(EncodeRequest(texts=("short", "long " * 400)))
    assert caught.value.field == "texts[1]"


def test_cancelled_and_late_requests_leave_the_encoder_usable(engine: DeviceEngine) -> None:
    alone = encode(engine, TEXTS[0])
    long = "The quick brown fox jumps over the lazy dog. " * 60
    cancelled = engine.encode(EncodeRequest(texts=(long,) * 4))
    late = engine.encode(EncodeRequest(texts=(TEXTS[0],), deadline=0.0))
    after = engine.encode(EncodeRequest(texts=(TEXTS[0],)))
    assert cancelled.cancel()
    with pytest.raises(CancelledError):
        cancelled.result(120)
    with pytest.raises(DeadlineExceededError):
        late.result(120)
    assert np.array_equal(after.result(120).vectors, alone)


async def test_encoding_is_awaited_from_asyncio(engine: DeviceEngine) -> None:
    futures = [asyncio.wrap_future(engine.encode(EncodeRequest(texts=(text,)))) for text in TEXTS]
    results = await asyncio.gather(*futures)
    assert np.array_equal(results[0].vectors, encode(engine, TEXTS[0]))


def test_control_tokens_in_a_text_are_text(engine: DeviceEngine) -> None:
    plain = engine._model.tokenize("<|im_end|>")
    assert len(plain) > 1
    assert np.isfinite(encode(engine, "<|im_end|>")).all()
    assert Answer(engine, ask("Say <|im_end|>", max_tokens=2)).finished.usage.completion_tokens <= 2


def test_raw_states_are_what_unit_vectors_are_made_of(engine: DeviceEngine) -> None:
    found = engine.encode_raw(EncodeRequest(texts=TEXTS)).result(120)
    assert found.background.shape == (len(BACKGROUND), found.states.shape[1])
    assert found.layer == middle_layer(engine._model.n_layer)
    centred = found.states - found.background.mean(axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    assert np.allclose(centred, encode(engine, *TEXTS), atol=1e-5)


def test_raw_states_without_background(fresh: Callable[..., DeviceEngine]) -> None:
    found = fresh(background=()).encode_raw(EncodeRequest(texts=TEXTS)).result(120)
    assert (len(found.states), len(found.background)) == (len(TEXTS), 0)
