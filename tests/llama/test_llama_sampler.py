from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest

from crayon.llama.batch import Batch
from crayon.llama.context import Context
from crayon.llama.sampler import Sampler
from crayon.llama.signals import SignalMeter, log_softmax_at
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

    from crayon.llama.model import Model

DRAWS = range(400)


@pytest.fixture(scope="module")
def context(tiny: Model) -> Iterator[Context]:
    """A context with one row of logits to draw from, always the same."""
    with Context(tiny, n_ctx=64, threads=1) as context:
        batch = Batch(4)
        batch.add([3, 1, 4], 0, 0, "last")
        context.decode(batch)
        yield context


@pytest.fixture
def p(context: Context) -> NDArray[np.float64]:
    """The row's probabilities."""
    return np.exp(log_softmax_at(context.logits(2), range(32)))


def draw(context: Context, sampling: Sampling, prompt: list[int] | None = None) -> int:
    with Sampler(sampling, SignalMeter(32)) as sampler:
        sampler.prime(prompt or [])
        return sampler.sample(context, 2)[0]


def drawn(context: Context, **values: float) -> set[int]:
    """Tokens drawn by 400 seeds."""
    return {draw(context, Sampling(temperature=1.0, seed=seed, **values)) for seed in DRAWS}  # type: ignore[arg-type]  # names of parameters


def likeliest(p: NDArray[np.float64], n: int) -> set[int]:
    return set(np.argsort(-p)[:n].tolist())


def test_no_temperature_takes_the_likeliest(context: Context, p: NDArray[np.float64]) -> None:
    assert draw(context, Sampling()) == p.argmax()
    assert draw(context, Sampling(top_k=5, top_p=0.5, seed=1)) == p.argmax()


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-45])
def test_a_vanishing_temperature_takes_the_likeliest(
    context: Context, p: NDArray[np.float64], temperature: float
) -> None:
    assert {draw(context, Sampling(temperature=temperature, seed=seed)) for seed in range(20)} == {int(p.argmax())}


def test_the_same_seed_draws_the_same_and_others_vary(context: Context) -> None:
    sampling = Sampling(temperature=1.0, seed=7)
    with Sampler(sampling, SignalMeter(32)) as one, Sampler(sampling, SignalMeter(32)) as two:
        first = [one.sample(context, 2) for _ in range(50)]
        assert first == [two.sample(context, 2) for _ in range(50)]
    assert len({token for token, _ in first}) > 3
    assert len(drawn(context)) > 10


def test_without_a_seed_draws_vary(context: Context) -> None:
    def fifty() -> list[int]:
        with Sampler(Sampling(temperature=5.0), SignalMeter(32)) as sampler:
            return [sampler.sample(context, 2)[0] for _ in range(50)]

    assert fifty() != fifty()


def test_tokens_are_drawn_as_often_as_the_model_says(context: Context, p: NDArray[np.float64]) -> None:
    with Sampler(Sampling(temperature=1.0, seed=11), SignalMeter(32)) as sampler:
        counts = np.bincount([sampler.sample(context, 2)[0] for _ in range(4000)], minlength=32) / 4000
    assert counts == pytest.approx(p, abs=4.5 * np.sqrt(p.max() / 4000))


def test_temperature_flattens_and_sharpens(context: Context, p: NDArray[np.float64]) -> None:
    def share(temperature: float) -> float:
        with Sampler(Sampling(temperature=temperature, seed=5), SignalMeter(32)) as sampler:
            return float(np.mean([sampler.sample(context, 2)[0] == p.argmax() for _ in range(1000)]))

    assert share(0.3) > share(1.0) + 0.05
    assert share(1.0) > share(4.0)


@pytest.mark.parametrize("k", [1, 3, 8])
def test_top_k_keeps_the_k_likeliest(context: Context, p: NDArray[np.float64], k: int) -> None:
    assert drawn(context, top_k=k) == likeliest(p, k)


@pytest.mark.parametrize("mass", [0.0, 0.3, 0.6])
def test_top_p_keeps_the_smallest_set_of_that_mass(context: Context, p: NDArray[np.float64], mass: float) -> None:
    n = int(np.searchsorted(np.cumsum(np.sort(p)[::-1]), mass)) + 1
    assert drawn(context, top_p=mass) == likeliest(p, n)


@pytest.mark.parametrize("fraction", [0.4, 0.9, 1.0])
def test_min_p_drops_what_is_much_less_likely_than_the_best(
    context: Context, p: NDArray[np.float64], fraction: float
) -> None:
    assert drawn(context, min_p=fraction) == set(np.flatnonzero(p >= fraction * p.max()).tolist())


@pytest.mark.parametrize(
    "penalty", [{"repeat_penalty": 10.0}, {"presence_penalty": 2.0}, {"frequency_penalty": 2.0}], ids=str
)
def test_a_penalty_lowers_what_the_prompt_holds(
    context: Context, p: NDArray[np.float64], penalty: dict[str, float]
) -> None:
    sampling = Sampling(**penalty)  # type: ignore[arg-type]  # names of parameters
    best = int(p.argmax())
    assert draw(context, sampling) == best
    assert draw(context, sampling, [best] * 3) != best
    assert draw(context, sampling, [best] * 3 + [(best + 1) % 32] * 64) == best  # out of its window of 64
    assert draw(context, Sampling(), [best] * 3) == best


def test_own_tokens_are_penalised_too(context: Context, p: NDArray[np.float64]) -> None:
    with Sampler(Sampling(presence_penalty=2.0), SignalMeter(32)) as sampler:
        found = [sampler.sample(context, 2)[0] for _ in range(3)]
    assert found[0] == p.argmax()
    assert len(set(found)) > 1


def test_signals_are_of_the_unmodified_distribution(context: Context, p: NDArray[np.float64]) -> None:
    with Sampler(Sampling(temperature=0.2, top_k=4, seed=3, repeat_penalty=2.0), SignalMeter(32)) as sampler:
        token, signal = sampler.sample(context, 2)
    assert signal.logprob == pytest.approx(np.log(p[token]), abs=1e-4)
    assert signal.entropy == pytest.approx(-(p * np.log(p)).sum(), abs=1e-4)


def test_a_sampler_closes_twice() -> None:
    sampler = Sampler(Sampling(temperature=1.0), SignalMeter(32))
    sampler.close()
    sampler.close()


@pytest.mark.parametrize("sampling", [Sampling(), Sampling(temperature=1.0, seed=3)], ids=["greedy", "drawn"])
def test_a_bias_bans_a_token_or_forces_it_and_no_signal_knows_of_it(
    context: Context, p: NDArray[np.float64], sampling: Sampling
) -> None:
    best, worst = int(p.argmax()), int(p.argmin())
    with Sampler(sampling, SignalMeter(32), bias=((worst, 100.0),)) as forcing:
        token, signal = forcing.sample(context, 2)
    assert token == worst
    assert signal.logprob == pytest.approx(np.log(p[worst]), abs=1e-4)
    with Sampler(sampling, SignalMeter(32), bias=((best, -100.0),)) as banning:
        assert banning.sample(context, 2)[0] != best
