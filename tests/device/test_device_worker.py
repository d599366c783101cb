from __future__ import annotations

import subprocess
import sys
import threading
import time
from concurrent.futures import Future, wait
from typing import TYPE_CHECKING, Any

import pytest

from crayon.device.job import Job
from crayon.device.worker import Worker
from crayon.engine import Delta, Stream
from crayon.errors import (
    AbortedError,
    CancelledError,
    DeadlineExceededError,
    EngineClosedError,
    EngineError,
    KvFullError,
    OverloadedError,
)
from crayon.stream import Promise

if TYPE_CHECKING:
    from collections.abc import Iterator

PATIENCE = 30.0


class FakeCompute:
    """Steps that run until they are aborted, as a long llama.cpp graph does."""

    def __init__(self) -> None:
        self.flag = threading.Event()
        self.running = threading.Event()

    def step(self) -> None:
        self.running.set()
        if self.flag.wait(PATIENCE):
            raise AbortedError("the step was aborted")
        raise TimeoutError


@pytest.fixture
def compute() -> FakeCompute:
    return FakeCompute()


@pytest.fixture
def worker(compute: FakeCompute) -> Iterator[Worker]:
    worker = Worker(abort=compute.flag.set, clear_abort=compute.flag.clear, limit=4)
    yield worker
    worker.close()


def future_job(steps: Iterator[None], deadline: float | None = None) -> tuple[Future[Any], Job]:
    promise: Promise[Any] = Promise()
    return promise.future, Job(promise, deadline, steps)


def deliver(promise: Promise[Any], value: object, steps: int = 1) -> Iterator[None]:
    for _ in range(steps):
        yield
    promise.succeed(value)


def test_jobs_advance_in_turn(worker: Worker) -> None:
    order: list[str] = []
    go = threading.Event()

    def steps(name: str, promise: Promise[None]) -> Iterator[None]:
        go.wait(PATIENCE)
        for _ in range(3):
            order.append(name)
            yield
        promise.succeed(None)

    promises = [Promise[None](), Promise[None]()]
    for name, promise in zip("ab", promises, strict=True):
        worker.submit(Job(promise, None, steps(name, promise)))
    go.set()
    for promise in promises:
        promise.future.result(PATIENCE)
    assert sorted(order) == list("aaabbb")
    assert order != list("aaabbb")
    assert order != list("bbbaaa")


def test_a_failure_of_any_kind_ends_its_job_only(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def fail(error: Exception) -> Iterator[None]:
        yield
        raise error

    typed, typed_job = future_job(fail(KvFullError("no room")))
    fault, fault_job = future_job(fail(RuntimeError("a bug")))
    worker.submit(typed_job)
    worker.submit(fault_job)
    with pytest.raises(KvFullError, match="no room"):
        typed.result(PATIENCE)
    with pytest.raises(EngineError, match="RuntimeError") as caught:
        fault.result(PATIENCE)
    assert "a device job failed: RuntimeError" in caplog.text
    assert "test_device_worker.py" in caplog.text, "where it failed"
    for said in (caplog.text, str(caught.value)):
        assert "a bug" not in said, "foreign words may quote a prompt"
    after = Promise[int]()
    worker.submit(Job(after, None, deliver(after, 7)))
    assert after.future.result(PATIENCE) == 7


def test_cancelling_stops_the_running_step_and_cleans_up(worker: Worker, compute: FakeCompute) -> None:
    cleaned = threading.Event()

    def steps() -> Iterator[None]:
        try:
            while True:
                compute.step()
                yield
        finally:
            cleaned.set()

    stream = Stream(on_cancel=lambda: worker.cancelled(job))
    job = Job(stream, None, steps())
    worker.submit(job)
    assert compute.running.wait(PATIENCE)
    stream.cancel()
    assert cleaned.wait(PATIENCE)
    with pytest.raises(CancelledError):
        next(stream)
    after = Promise[bool]()

    def following() -> Iterator[None]:
        after.succeed(compute.flag.is_set())
        yield

    worker.submit(Job(after, None, following()))
    assert after.future.result(PATIENCE) is False, "the abort is held against the next job"


def test_a_cancelled_future_frees_its_job(worker: Worker, compute: FakeCompute) -> None:
    cleaned = threading.Event()

    def steps() -> Iterator[None]:
        try:
            compute.step()
            yield
        finally:
            cleaned.set()

    future, job = future_job(steps())
    future.add_done_callback(lambda _: worker.cancelled(job))
    worker.submit(job)
    assert compute.running.wait(PATIENCE)
    assert future.cancel()
    assert cleaned.wait(PATIENCE)


def test_a_passed_deadline_carries_what_there_was(worker: Worker) -> None:
    stream = Stream()

    def steps() -> Iterator[None]:
        while True:
            job.partial += "x"
            stream.push(Delta("x"))
            time.sleep(0.01)
            yield

    job = Job(stream, time.monotonic() + 0.2, None)
    job.steps = steps()
    worker.submit(job)
    seen: list[str] = []

    def read() -> None:
        for event in stream:
            assert isinstance(event, Delta)
            seen.append(event.text)

    with pytest.raises(DeadlineExceededError) as caught:
        read()
    assert seen
    assert caught.value.partial == "".join(seen)


def test_a_deadline_that_passed_in_the_queue_runs_nothing(worker: Worker) -> None:
    ran: list[int] = []

    def steps() -> Iterator[None]:
        ran.append(1)
        yield

    future, job = future_job(steps(), time.monotonic() - 1)
    worker.submit(job)
    with pytest.raises(DeadlineExceededError):
        future.result(PATIENCE)
    assert ran == []


def test_too_many_waiting_jobs_are_refused(worker: Worker, compute: FakeCompute) -> None:
    def steps() -> Iterator[None]:
        compute.step()
        yield

    jobs = [future_job(steps())[1] for _ in range(5)]
    for job in jobs[:4]:
        worker.submit(job)
    with pytest.raises(OverloadedError, match="4 requests wait") as caught:
        worker.submit(jobs[4])
    assert caught.value.retry_after > 0


def test_closing_ends_running_and_waiting_jobs(worker: Worker, compute: FakeCompute) -> None:
    def steps() -> Iterator[None]:
        compute.step()
        yield

    futures = []
    for _ in range(3):
        future, job = future_job(steps())
        worker.submit(job)
        futures.append(future)
    assert compute.running.wait(PATIENCE)
    worker.close()
    worker.close()
    for future in futures:
        with pytest.raises(EngineClosedError):
            future.result(PATIENCE)
    with pytest.raises(EngineClosedError):
        worker.submit(future_job(steps())[1])
    assert not worker._thread.is_alive()


def test_closing_from_a_callback_on_the_thread_itself_does_not_hang(worker: Worker) -> None:
    promise = Promise[int]()
    closed = threading.Event()

    def close(_: Future[Any]) -> None:
        worker.close()
        closed.set()

    promise.future.add_done_callback(close)
    worker.submit(Job(promise, None, deliver(promise, 1)))
    assert closed.wait(PATIENCE)
    worker._thread.join(PATIENCE)
    assert not worker._thread.is_alive()


def test_cleanup_that_fails_is_logged_and_the_caller_told(worker: Worker, caplog: pytest.LogCaptureFixture) -> None:
    def steps() -> Iterator[None]:
        try:
            while True:
                yield
        finally:
            raise RuntimeError("cannot clean up")

    stream = Stream(on_cancel=lambda: worker.cancelled(job))
    job = Job(stream, time.monotonic() + 0.05, steps())
    worker.submit(job)
    with pytest.raises(DeadlineExceededError):
        next(stream)
    assert "could not be ended cleanly" in caplog.text


EXIT = """
import sys, threading
from crayon.device.job import Job
from crayon.device.worker import Worker
from crayon.engine import Stream
flag, running = threading.Event(), threading.Event()
def steps():
    try:
        while not flag.is_set():
            running.set()
            yield
        yield
    finally:
        print("cleaned", flush=True)
worker = Worker(abort=flag.set, clear_abort=flag.clear)
worker.submit(Job(Stream(), None, steps()))
running.wait(30)
sys.exit(5)
"""


def test_a_process_that_ends_without_close_stops_the_thread_first() -> None:
    found = subprocess.run([sys.executable, "-c", EXIT], capture_output=True, text=True, timeout=60, check=False)
    assert (found.returncode, found.stdout, found.stderr) == (5, "cleaned\n", "")


def test_who_waits_for_a_cancelled_future_is_told() -> None:
    worker = Worker(abort=lambda: None, clear_abort=lambda: None)
    try:
        promise = Promise[int]()
        worker.submit(Job(promise, None, iter_forever()))
        assert promise.future.cancel()
        done, waiting = wait([promise.future], timeout=30)
        assert (done, waiting) == ({promise.future}, set())
    finally:
        worker.close()


def iter_forever() -> Iterator[None]:
    while True:
        yield
