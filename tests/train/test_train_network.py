"""What training computes, against transformers and PEFT on the same weights in float32, and that it can be repeated."""

from __future__ import annotations

import random
from collections import Counter
from dataclasses import dataclass
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import tiny_chat

from crayon.adapters import Target
from crayon.adapters.formats.matrices import module_name
from crayon.adapters.shared_a import random_a, split_b
from crayon.errors import AdapterError, ConfigError, ModelFileError
from crayon.training.examples import Example

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

    from crayon.training.network import Network
    from crayon.training.trainer import Trainer

    Made = Callable[..., "tuple[Network, Trainer]"]

pytestmark = [
    pytest.mark.train,
    # Other people's libraries under our "warnings are errors".
    pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning", "ignore::UserWarning"),
]

FIRST, RANK, SCALE, END = 2, 4, 2.0, 2
START = (1, 40, 50, 60, 70, 80, 90)
TARGETS = tuple(
    Target(f"blk.{layer}.{name}.weight", *shape)
    for layer in range(FIRST, tiny_chat.LAYERS)
    for name, shape in tiny_chat.SHAPES.items()
)
A = {target.name: random_a(3, target.name, RANK, target.inputs) for target in TARGETS}
N = RANK * sum(target.outputs for target in TARGETS)
M = RANK * sum(target.inputs for target in TARGETS)
# Logits of this model differ by whole units between one B and another.
CLOSE = 2e-3


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> None:
    import torch

    torch.set_num_threads(1)


@pytest.fixture(scope="module")
def path(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_chat.write_model(tmp_path_factory.mktemp("tiny") / "tiny-chat.gguf")


@pytest.fixture(scope="module")
def made(path: Path) -> Made:
    def make(**options: Any) -> tuple[Network, Trainer]:
        from crayon.training.network import Network
        from crayon.training.trainer import Trainer

        network = Network(path, **{"dtype": "float32", **options})
        network.adapt(TARGETS, RANK, SCALE, A)
        return network, Trainer(network, START, FIRST, END)

    return make


@pytest.fixture
def network(made: Made) -> tuple[Network, Trainer]:
    return made()


@dataclass
class Peft:
    """The same model and change as PEFT computes them, whole sequences at once."""

    model: Any

    def set(self, b: NDArray[np.float32] | None, a: dict[str, NDArray[np.float32]] = A) -> None:
        import torch

        parts = split_b(np.zeros(N, np.float32) if b is None else b, TARGETS, RANK)
        for target in TARGETS:
            module = self.model.base_model.model.get_submodule(module_name(target.name))
            module.lora_A["default"].weight.data = torch.from_numpy(np.array(a[target.name]))
            module.lora_B["default"].weight.data = torch.from_numpy(np.array(parts[target.name]))

    def logits(self, tokens: Sequence[int]) -> Any:
        return self.model(torch_tokens(tokens)).logits[0]

    def log_probabilities(self, prompt: Sequence[int], following: Sequence[int]) -> list[float]:
        """Of each following token, each from a forward pass of its own over all that stands before it."""
        import torch

        found, seen = [], [*START, *prompt]
        with torch.no_grad():
            for token in following:
                found.append(float(torch.log_softmax(self.logits(seen)[-1].double(), -1)[token]))
                seen.append(token)
        return found


def torch_tokens(tokens: Sequence[int]) -> Any:
    import torch

    return torch.tensor([list(tokens)])


@pytest.fixture(scope="module")
def peft(path: Path) -> Peft:
    import torch
    import transformers
    from peft import LoraConfig, get_peft_model

    base = transformers.AutoModelForCausalLM.from_pretrained(
        path.parent,
        gguf_file=path.name,
        quantization_config=transformers.GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    config = LoraConfig(
        r=RANK,
        lora_alpha=int(RANK * SCALE),
        target_modules=["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"],
        layers_to_transform=list(range(FIRST, tiny_chat.LAYERS)),
    )
    return Peft(get_peft_model(base, config).eval())


def random_b(seed: int, size: float = 0.5) -> NDArray[np.float32]:
    return (size * np.random.default_rng(seed).standard_normal(N)).astype(np.float32)


def random_examples(count: int, *, options: bool = False, seed: int = 0) -> list[Example]:
    """Prompts, answers and options of different lengths."""
    rng = random.Random(seed)

    def words(most: int) -> tuple[int, ...]:
        return tuple(rng.randrange(3, 260) for _ in range(rng.randint(1, most)))

    examples = []
    for _ in range(count):
        choices = tuple(words(5) for _ in range(rng.randint(2, 4))) if options else ()
        gold = rng.randrange(len(choices)) if choices else None
        answer = words(4) if gold is None else choices[gold]
        examples.append(Example(words(12), (*answer, END), choices, gold))
    return examples


def answer_logits(made: tuple[Network, Trainer], batch: Sequence[Example]) -> list[NDArray[np.float32]]:
    """Logits from which each answer's tokens would be drawn, as training computes them."""
    import torch

    network, trainer = made
    with torch.no_grad():
        states, rows, columns, _ = trainer._answers(batch)
        logits = network.logits(states[rows, columns])
    return [logits[rows == row].numpy() for row in range(len(batch))]


def check_logits(found: list[NDArray[np.float32]], peft: Peft, batch: Sequence[Example]) -> None:
    import torch

    for logits, example in zip(found, batch, strict=True):
        with torch.no_grad():
            wanted = peft.logits((*START, *example.prompt, *example.answer)).numpy()
        first = len(START) + len(example.prompt) - 1
        assert np.abs(logits - wanted[first:-1]).max() < CLOSE


# -- one batch


def test_the_plain_base_gives_the_logits_of_transformers(network: tuple[Network, Trainer], peft: Peft) -> None:
    batch = random_examples(7)
    peft.set(None)
    network[0].apply(None)
    check_logits(answer_logits(network, batch), peft, batch)


def test_one_b_for_all_rows_gives_the_logits_of_peft(network: tuple[Network, Trainer], peft: Peft) -> None:
    import torch

    batch = random_examples(7)
    plain = answer_logits(network, batch)
    for seed in (1, 2):
        peft.set(random_b(seed))
        network[0].apply(torch.from_numpy(random_b(seed)))
        found = answer_logits(network, batch)
        check_logits(found, peft, batch)
        assert min(np.abs(one - other).max() for one, other in zip(found, plain, strict=True)) > 100 * CLOSE


def test_each_row_may_have_its_own_b(network: tuple[Network, Trainer], peft: Peft) -> None:
    import torch

    batch = random_examples(4)
    network[0].apply(torch.from_numpy(np.stack([random_b(row) for row in range(4)])))
    found = answer_logits(network, batch)
    for row, example in enumerate(batch):
        peft.set(random_b(row))
        check_logits([found[row]], peft, [example])
    network[0].apply(None)
    peft.set(None)
    check_logits(answer_logits(network, batch), peft, batch)


def test_an_adapter_may_bring_its_own_a(network: tuple[Network, Trainer], peft: Peft) -> None:
    import torch

    batch = random_examples(4)
    own = {target.name: random_a(9, target.name, RANK, target.inputs) for target in TARGETS}
    network[0].apply(torch.from_numpy(np.concatenate([*(own[t.name].ravel() for t in TARGETS), random_b(1)])))
    peft.set(random_b(1), own)
    check_logits(answer_logits(network, batch), peft, batch)


@pytest.mark.parametrize("kind", ["B alone", "A and B"])
def test_loss_and_gradient_are_those_of_peft(network: tuple[Network, Trainer], peft: Peft, kind: str) -> None:
    import torch
    from torch.nn import functional

    batch = random_examples(6)
    both = kind == "A and B"
    numbers = [*(A[target.name].ravel() for target in TARGETS)] if both else []
    vector = torch.nn.Parameter(torch.from_numpy(np.concatenate([*numbers, random_b(4)])))
    network[0].apply(vector)
    loss = network[1].loss(batch)
    (found,) = torch.autograd.grad(loss, vector)

    peft.set(random_b(4))
    rows, wanted = [], []
    for example in batch:
        logits = peft.logits((*START, *example.prompt, *example.answer))
        rows.append(logits[len(START) + len(example.prompt) - 1 : -1])
        wanted += example.answer
    expected = functional.cross_entropy(torch.cat(rows), torch.tensor(wanted))
    modules = [peft.model.base_model.model.get_submodule(module_name(target.name)) for target in TARGETS]
    weights = [module.lora_A["default"].weight for module in modules] if both else []
    weights += [module.lora_B["default"].weight for module in modules]
    for weight in weights:
        weight.requires_grad_(requires_grad=True)
    gradient = torch.cat([part.ravel() for part in torch.autograd.grad(expected, weights)])
    assert abs(float(loss) - float(expected)) < 1e-4
    assert float((found - gradient).norm() / gradient.norm()) < 1e-3


def test_bfloat16_weights_give_nearly_the_same_loss(made: Made, network: tuple[Network, Trainer]) -> None:
    import torch

    batch = random_examples(16)
    losses = []
    for one, trainer in (network, made(dtype="bfloat16")):
        one.apply(torch.from_numpy(random_b(1)))
        with torch.no_grad():
            losses.append(float(trainer.loss(batch)))
    assert losses[0] != losses[1]
    assert losses[1] == pytest.approx(losses[0], rel=0.02)


# -- measuring


def test_options_are_scored_as_token_by_token(
    network: tuple[Network, Trainer], peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("crayon.training.trainer.CHUNK", 3)
    monkeypatch.setattr("crayon.training.trainer.HEAD_ROWS", 5)
    examples = random_examples(7, options=True)
    for b in (None, random_b(5)):
        peft.set(b)
        network[0].apply(None if b is None else torch.from_numpy(b))
        with torch.no_grad():
            found = list(network[1]._option_scores(examples))
        wanted = []
        for example, scores in zip(examples, found, strict=True):
            rows = [peft.log_probabilities(example.prompt, (*option, END)) for option in example.options]
            wanted.append(np.array([[sum(row), sum(row[:-1]), np.mean(row[:-1])] for row in rows]).T)
            assert np.abs(scores - wanted[-1]).max() < CLOSE
        accuracy = network[1].accuracy(examples, b)
        right = [
            np.mean([scores[rule].argmax() == e.gold for scores, e in zip(wanted, examples, strict=True)])
            for rule in range(3)
        ]
        assert accuracy.scored == pytest.approx(100 * (right[0] if b is not None else max(right[1:])))
        assert accuracy.n == 7


def test_exact_answers_are_those_that_greedy_writing_would_give(
    network: tuple[Network, Trainer], peft: Peft, monkeypatch: pytest.MonkeyPatch
) -> None:
    import torch

    monkeypatch.setattr("crayon.training.trainer.CHUNK", 3)
    monkeypatch.setattr("crayon.training.trainer.HEAD_ROWS", 5)
    examples = random_examples(8)
    b = network[1].train(examples[:5], steps=60, rate=0.02, batch=5, seed=0)
    peft.set(b)
    right = 0
    for example in examples:
        seen = [*START, *example.prompt]
        with torch.no_grad():
            for _ in example.answer:
                seen.append(int(peft.logits(seen)[-1].argmax()))
        right += tuple(seen[-len(example.answer) :]) == example.answer
    assert 5 <= right < 8, "what was trained is known, the rest is not"
    found = network[1].accuracy(examples, b)
    assert found.exact == pytest.approx(100 * right / 8)
    assert np.isnan(found.scored)


# -- training


def test_training_lowers_the_loss_and_equal_arguments_give_equal_numbers(
    made: Made, network: tuple[Network, Trainer]
) -> None:
    from crayon.training.descent import Watch

    examples = random_examples(10)
    losses: list[float] = []
    watch = Watch(progress=lambda _, loss: losses.append(loss))

    def train(trainer: Trainer, seed: int = 1) -> NDArray[np.float32]:
        return trainer.train(examples, steps=25, rate=0.02, batch=4, seed=seed, watch=watch)

    first = train(network[1])
    assert losses[-1] < 0.5 * losses[0]
    assert np.array_equal(train(network[1]), first)
    assert np.array_equal(train(made()[1]), first)
    assert not np.array_equal(train(network[1], seed=2), first)


def test_one_that_was_stopped_goes_on_to_the_very_same_numbers(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    from crayon.training.descent import TrainState, Watch

    monkeypatch.setattr("crayon.training.descent.SAVE_EVERY", 7)
    examples = random_examples(11)
    states: list[TrainState] = []

    def train(watch: Watch) -> NDArray[np.float32]:
        return made()[1].train(examples, steps=20, rate=0.02, batch=4, seed=1, watch=watch)

    whole = train(Watch(save=states.append))
    assert [state.step for state in states] == [7, 14]
    for state in states:
        # A network of its own: nothing but the state is left of the first run.
        assert np.array_equal(train(Watch(resume=state)), whole)


def test_states_that_are_not_kept_are_computed_again(made: Made, monkeypatch: pytest.MonkeyPatch) -> None:
    examples = random_examples(6)
    kept = made()[1].train(examples, steps=6, rate=0.02, batch=4, seed=1)
    monkeypatch.setattr("crayon.training.trainer.LOW_BYTES", 3 * 4 * tiny_chat.WIDTH * 15)
    trainer = made()[1]
    assert np.array_equal(trainer.train(examples, steps=6, rate=0.02, batch=4, seed=1), kept)
    assert 0 < len(trainer._low_states) < 6


def test_a_and_b_are_trained_together(network: tuple[Network, Trainer], peft: Peft) -> None:
    examples = random_examples(5)
    init = np.concatenate([*(A[target.name].ravel() for target in TARGETS), np.zeros(N, np.float32)])
    before = init.copy()
    trained = network[1].train(examples, steps=20, rate=0.02, batch=5, seed=0, init=init)
    assert np.array_equal(init, before), "what was given is not changed"
    assert trained.shape == (M + N,)
    assert (trained[:M] != init[:M]).mean() > 0.9
    assert network[1].accuracy(examples, trained).exact > network[1].accuracy(examples, None).exact


def test_blends_are_trained_for_the_tasks_that_they_blend_for(network: tuple[Network, Trainer]) -> None:
    import torch

    _, trainer = network
    tasks = [random_examples(4, seed=seed) for seed in range(3)]
    shares = np.array([[0.0, 0.5, 0.5], [0.7, 0.0, 0.3], [0.5, 0.5, 0.0]])
    init = np.stack([random_b(seed, 0.05) for seed in range(3)])

    def train(seed: int) -> NDArray[np.float32]:
        return trainer.train_blends(tasks, shares, init, steps=30, rate=0.02, batch=4, seed=seed)

    def losses(b: NDArray[np.float32]) -> list[float]:
        found = []
        for task, share in zip(tasks, shares, strict=True):
            network[0].apply(torch.from_numpy((share @ b).astype(np.float32)))
            with torch.no_grad():
                found.append(float(trainer.loss(task)))
        return found

    trained = train(0)
    assert all(now < before for now, before in zip(losses(trained), losses(init), strict=True))
    assert np.array_equal(train(0), trained)
    assert not np.array_equal(train(1), trained)


def test_every_example_comes_once_before_any_comes_again() -> None:
    from crayon.training.trainer import _order

    for n, batch in ((10, 4), (3, 7), (5, 5)):
        seen = Counter(range(n))
        for part in islice(_order(n, batch, 0), 10):
            assert len(part) == batch
            seen.update(part)
            assert max(seen.values()) - min(seen.values()) <= 1


# -- bad input


def test_what_cannot_be_computed_is_refused(made: Made, network: tuple[Network, Trainer], tmp_path: Path) -> None:
    from crayon.training.network import Network

    with pytest.raises(AdapterError, match=r"no matrix blk\.9\.attn_q\.weight"):
        network[0].shape("blk.9.attn_q.weight")
    with pytest.raises(AdapterError, match="no matrix token_embd"):
        network[0].shape("token_embd.weight")
    with pytest.raises(ConfigError, match="torch cannot compute on 'abacus'"):
        made(device="abacus")
    broken = tmp_path / "broken.gguf"
    broken.write_bytes(b"GGUF" + bytes(64))
    with pytest.raises(ModelFileError, match=r"broken\.gguf: transformers cannot read it"):
        Network(broken)
