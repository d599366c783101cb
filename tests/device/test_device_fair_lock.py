from __future__ import annotations

from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from crayon.device.fair_lock import FairLock

if TYPE_CHECKING:
    from collections.abc import Generator


@given(
    st.lists(st.integers(0, 4), min_size=1, max_size=6),
    st.lists(st.tuples(st.integers(0, 5), st.booleans()), max_size=60),
)
def test_one_holds_it_at_a_time_in_the_order_of_arrival(lengths: list[int], schedule: list[tuple[int, bool]]) -> None:
    turns, holding, arrived, served = FairLock(), set(), [], []

    def work(name: int, length: int) -> Generator[None, None, int]:
        holding.add(name)
        served.append(name)
        try:
            for _ in range(length):
                yield
            return name
        finally:
            holding.discard(name)

    def job(name: int, length: int) -> Generator[None, None, None]:
        arrived.append(name)
        assert (yield from turns.held(work(name, length))) == name

    jobs = {name: job(name, length) for name, length in enumerate(lengths)}
    for name, cancel in [*schedule, *((name, False) for _ in range(40) for name in range(len(lengths)))]:
        if name not in jobs:
            continue
        if cancel:
            jobs.pop(name).close()
        elif next(jobs[name], StopIteration) is StopIteration:
            del jobs[name]
        assert len(holding) <= 1
    assert not jobs
    assert not holding
    assert served == [name for name in arrived if name in served]
    assert turns._line == []
