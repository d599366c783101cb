"""The device against transformers on the very same weights: `make test-train` runs this in its own environment.

transformers computes the dequantized weights in float32. The device multiplies 4-bit weights with activations rounded
to 8 bits, so on the real model states differ by 2 to 3 % and distributions by about 0.005 nats; a wrong permutation,
position, template or layer differs by far more. On the small float32 model only keys and values in float16 are left.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_chat

from crayon.device import DeviceEngine
from crayon.device.encoder import Encoder
from crayon.engine import EncodeRequest
from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.encoder import READ, middle_layer
from crayon.llama.model import Model
from crayon.llama.tap import Tap
from crayon.messages import Message

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

pytestmark = [
    pytest.mark.train,
    pytest.mark.models,
    # Other people's libraries under our "warnings are errors".
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

TEXTS = (
    "Transfer fifty pounds to my savings account",
    "How long do I boil an egg?",
    "Wie lange muss ein Ei kochen? 🥚 漢字",
    "def add(a, b):\n    return a + b  # 12345",
    "x",
    " ".join(f"Line {i}: the river rose by {i * 7 % 13} feet." for i in range(12)),
)
BACKGROUND = (
    "The train leaves at half past seven from platform two.",
    "Mix the flour with two eggs and a little milk.",
    "Interest rates were left unchanged by the central bank.",
    "She scored twice in the second half of the match.",
    "How do I reset the password of my account?",
)
CHATS = (
    [Message("user", "What is the capital of France?")],
    [Message("system", "Be brief."), Message("user", "Hello, 漢字 🙂!")],
    [Message("user", "a"), Message("assistant", " b\n"), Message("user", "c  d\n\ne")],
)


@dataclass
class Reference:
    """A model of transformers: float32, on the CPU."""

    network: Any

    def run(self, tokens: Sequence[int]) -> tuple[NDArray[np.float64], list[NDArray[np.float32]]]:
        """Return log-probabilities (tokens, n_vocab) and the states after the embedding and after each layer."""
        import torch

        with torch.no_grad():
            out = self.network(torch.tensor([list(tokens)]), output_hidden_states=True)
        return (
            torch.log_softmax(out.logits[0].double(), -1).numpy(),
            [states[0].float().numpy() for states in out.hidden_states],
        )


def load(path: Path) -> Reference:
    # Not skipped where it is missing: `make test-train` would pass without having compared anything.
    import torch
    import transformers

    torch.set_num_threads(1)
    network = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    return Reference(network.eval())


@pytest.fixture(scope="module", autouse=True)
def offline() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("HF_HUB_OFFLINE", "1")
        yield


@pytest.fixture(scope="module")
def reference(device_model_path: Path) -> Reference:
    return load(device_model_path)


@pytest.fixture(scope="module")
def tokenizer(device_model_path: Path) -> Any:
    import transformers

    return transformers.AutoTokenizer.from_pretrained(device_model_path.parent, gguf_file=device_model_path.name)


@pytest.fixture(scope="module")
def model(device_model_path: Path) -> Iterator[Model]:
    with Model(device_model_path) as model:
        yield model


def run(model: Model, tokens: Sequence[int], layer: int) -> tuple[NDArray[np.float64], NDArray[np.float32]]:
    """Log-probabilities of every row, and the states after a layer, as llama.cpp computes them."""
    tap = Tap(f"l_out-{layer}", model.n_embd, stop=False)
    with Context(model, n_ctx=512, n_batch=512, threads=1, tap=tap) as context:
        batch = Batch(512)
        rows = batch.add(tokens, 0, 0, "all")
        context.decode(batch)
        logits = np.stack([context.logits(row).astype(np.float64) for row in rows])
    logits -= logits.max(axis=1, keepdims=True)
    return logits - np.log(np.exp(logits).sum(axis=1, keepdims=True)), tap.take()


def relative(found: NDArray[Any], wanted: NDArray[Any]) -> NDArray[Any]:
    return np.asarray(np.linalg.norm(found - wanted, axis=-1) / np.linalg.norm(wanted, axis=-1))


# -- text


def test_texts_have_the_same_tokens(model: Model, tokenizer: Any) -> None:
    odd = (
        "",
        " ",
        "\n\n",
        "  two  spaces ",
        "naïve café",
        "👩‍👩‍👧",
        "1234567890",
        "<|im_end|>",
        "a\tb\r\nc",
        "\u00a0x",
        "don't DON'T",
    )
    for text in (*TEXTS, *odd):
        expected = tokenizer.encode(text, add_special_tokens=False)
        assert model.tokenize(text, special=True) == expected, text


def test_chats_are_rendered_and_read_alike(model: Model, tokenizer: Any) -> None:
    for chat in CHATS:
        plain = [{"role": message.role, "content": message.content} for message in chat]
        rendered = tokenizer.apply_chat_template(plain, tokenize=False, add_generation_prompt=True)
        assert model.template.render(chat) == rendered
        assert model.tokenize_chat(chat) == tokenizer.encode(rendered, add_special_tokens=False)


# -- numbers


def test_next_token_distributions_agree(model: Model, reference: Reference) -> None:
    divergences: list[float] = []
    for chat in CHATS:
        tokens = model.tokenize_chat(chat)
        found, _ = run(model, tokens, 0)
        wanted, _ = reference.run(tokens)
        divergences += (np.exp(wanted) * (wanted - found)).sum(axis=1).tolist()
        # Where the first choice is clear it is the same one.
        ranked = np.sort(wanted, axis=1)
        clear = ranked[:, -1] - ranked[:, -2] > 0.7
        assert clear.any()
        assert np.array_equal(found.argmax(axis=1)[clear], wanted.argmax(axis=1)[clear])
    assert np.mean(divergences) < 0.02
    assert np.max(divergences) < 0.15


@pytest.mark.parametrize("layer", [0, 5, 14, 20, 28])
def test_hidden_states_agree(model: Model, reference: Reference, layer: int) -> None:
    tokens = model.tokenize_chat(CHATS[1])
    _, found = run(model, tokens, layer)
    _, wanted = reference.run(tokens)
    assert np.median(relative(found, wanted[layer + 1])) < 0.06
    assert relative(found, wanted[layer + 1]).max() < 0.12
    assert np.median(relative(found, wanted[layer])) > 0.1, "the layer below is told apart"


def test_encodings_are_centred_means_of_the_middle_layer(
    device_model_path: Path, model: Model, reference: Reference
) -> None:
    layer = middle_layer(model.n_layer)

    def mean(text: str) -> NDArray[np.float64]:
        _, states = reference.run([model.bos, *model.tokenize(text)])
        own = np.asarray(states[layer + 1][1:], np.float64)
        own /= np.linalg.norm(own, axis=1, keepdims=True)
        return np.asarray(np.average(own, axis=0, weights=np.minimum(np.arange(1, len(own) + 1), 4)))

    wanted = np.stack([mean(text) for text in TEXTS])
    encoder = Encoder(model, n_ctx=512, background=(), threads=1)
    raw = np.empty_like(wanted, np.float32)
    for _ in encoder._raw([encoder.tokenize(text, "text") for text in TEXTS], raw):
        pass
    encoder.close()
    one_token = np.array([text == "x" for text in TEXTS])
    assert relative(raw, wanted)[~one_token].max() < 0.03  # rounding averages out over the tokens
    assert relative(raw, wanted)[one_token].max() < 0.12

    centred = wanted - np.mean([mean(text) for text in BACKGROUND], axis=0)
    centred /= np.linalg.norm(centred, axis=1, keepdims=True)
    with DeviceEngine(device_model_path, n_ctx=512, threads=1, background=BACKGROUND) as engine:
        found = engine.encode(EncodeRequest(texts=TEXTS)).result(120).vectors
    assert (found * centred).sum(axis=1).min() > 0.99
    assert np.abs(found @ found.T - centred @ centred.T).max() < 0.05


@pytest.mark.parametrize("layer", range(tiny_chat.LAYERS - 1))
def test_a_float32_model_agrees_closely(tmp_path: Path, layer: int) -> None:
    path = tiny_chat.write_model(tmp_path / "tiny-chat.gguf")
    tokens = [1, 50, 60, 260, 7, 7, 99, 130, 2, 1, 33]
    wanted, states = load(path).run(tokens)
    with Model(path) as model:
        found, hidden = run(model, tokens, layer)
        encoder = Encoder(model, n_ctx=64, background=(), threads=1, layer=layer)
        pooled = np.empty((3, model.n_embd), np.float32)
        for _ in encoder._raw([tokens] * 3, pooled):
            pass
        encoder.close()
    assert relative(hidden, states[layer + 1]).max() < 5e-3
    own = states[layer + 1][1:]
    weights = np.minimum(np.arange(1, len(own) + 1), READ)[:, None]
    directions = own / np.linalg.norm(own, axis=1, keepdims=True)
    assert relative(pooled, (weights * directions).sum(axis=0) / weights.sum()).max() < 5e-3
    assert np.abs(found - wanted).max() < tiny_chat.CLOSE
