"""Several servers behind one client: real ones, that are killed, frozen, drained, full and back again."""

from __future__ import annotations

import asyncio
import signal
import socket
import threading
import time
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing
from typing import TYPE_CHECKING

import pytest
from serving_tools import LONG, PATIENCE, ScriptedEngine, ServerProcess, Serving, ask, server_process, until
from tls_tools import Authority

from crayon.client import Breaker, BreakerState, Health, RemoteEngine, prober, resolver
from crayon.completion import FinishReason, Timings, Usage
from crayon.engine import Delta, EncodeRequest, Finished, Started, deadline_after
from crayon.errors import (
    ConfigError,
    CrayonError,
    EngineClosedError,
    OverloadedError,
    PrivacyError,
    ServerInterruptedError,
    ServerUnavailableError,
)
from crayon.server.certificates import TlsFiles
from crayon.server.engines.echo import EchoEngine

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from crayon.client import EndpointStatus
    from crayon.engine import GenerateRequest, Stream

FINISHED = Finished(FinishReason.STOP, Usage(1, 1), Timings())
NEVER = "3600"


class Counting(EchoEngine):
    """Counts who asks it."""

    def __init__(self, **options: float) -> None:
        super().__init__(**{"context_tokens": 8192, **options})  # type: ignore[arg-type] # as the caller says
        self.asked = 0

    def generate(self, request: GenerateRequest) -> Stream:
        self.asked += 1
        return super().generate(request)


def fleet(*addresses: str, **more: float) -> RemoteEngine:
    return RemoteEngine(",".join(addresses), **{"timeout": PATIENCE, **more})  # type: ignore[arg-type] # numbers only


def of(remote: RemoteEngine, address: str) -> EndpointStatus:
    return next(each for each in remote.endpoints() if each.address == address)


def of_host(remote: RemoteEngine, host: str) -> EndpointStatus | None:
    return next((each for each in remote.endpoints() if each.address.startswith(f"{host}:")), None)


def text_of(stream: Stream) -> str:
    return "".join(event.text for event in stream if isinstance(event, Delta))


def processes(stack: ExitStack, folder: Path, *options: tuple[str, ...]) -> list[ServerProcess]:
    found = []
    for index, words in enumerate(options):
        (own := folder / str(index)).mkdir()
        found.append(stack.enter_context(server_process(own, *words)))
    return found


@pytest.fixture
def three() -> Iterator[list[tuple[Serving, Counting]]]:
    with ExitStack() as stack:
        engines = [Counting() for _ in range(3)]
        yield [(stack.enter_context(Serving(lambda engine=engine: engine)), engine) for engine in engines]  # type: ignore[misc] # bound now


def test_the_servers_share_requests_evenly(three: list[tuple[Serving, Counting]]) -> None:
    with closing(fleet(*(serving.address for serving, _ in three), connect_timeout=PATIENCE)) as remote:
        for _ in range(30):
            assert text_of(remote.generate(ask("one two"))) == "one two"
        assert [engine.asked for _, engine in three] == [10, 10, 10]
        assert [(each.sent, each.running) for each in remote.endpoints()] == [(10, 0)] * 3
        for _ in range(3):
            remote.encode(EncodeRequest(texts=("a",))).result(PATIENCE)
        assert [each.sent for each in remote.endpoints()] == [11] * 3


async def test_requests_at_the_same_time_are_shared_evenly_too(three: list[tuple[Serving, Counting]]) -> None:
    async def read(remote: RemoteEngine, text: str) -> str:
        return "".join([event.text async for event in remote.generate(ask(text)) if isinstance(event, Delta)])

    with closing(fleet(*(serving.address for serving, _ in three), connect_timeout=PATIENCE)) as remote:
        texts = [f"number {index}" for index in range(60)]
        assert await asyncio.gather(*(read(remote, text) for text in texts)) == texts
        assert [engine.asked for _, engine in three] == [20, 20, 20]


class Flow:
    """Requests that keep coming, and what became of each."""

    def __init__(self, remote: RemoteEngine, workers: int = 4) -> None:
        self.outcomes: Counter[str] = Counter()
        self.wrong: list[str] = []
        self._remote = remote
        self._stopped = threading.Event()
        self._pool = ThreadPoolExecutor(workers)
        self._done = [self._pool.submit(self._work, worker) for worker in range(workers)]

    def _work(self, worker: int) -> None:
        sent = 0
        while not self._stopped.is_set():
            text = f"request {sent} of worker {worker} and some more words"
            sent += 1
            try:
                answer = text_of(self._remote.generate(ask(text)))
            except ServerInterruptedError as error:
                self.outcomes["interrupted"] += 1
                # Begun is what anything has come back of: it may be that no text was among it.
                if not text.startswith(error.partial):
                    self.wrong.append(f"{text!r} began with {error.partial!r}")
            except CrayonError as error:
                self.outcomes[type(error).__name__] += 1
                self.wrong.append(str(error))
            else:
                self.outcomes["answered"] += 1
                if answer != text:
                    self.wrong.append(f"{text!r} was answered {answer!r}")

    def more(self, count: int = 20) -> None:
        """Wait until so many more were answered."""
        goal = self.outcomes["answered"] + count
        until(lambda: self.outcomes["answered"] >= goal)

    def stop(self) -> None:
        self._stopped.set()
        for done in self._done:
            done.result(PATIENCE)
        self._pool.shutdown()


def test_servers_killed_in_turn_lose_nothing_that_had_not_begun(tmp_path: Path) -> None:
    with ExitStack() as stack:
        options = ("--echo-delay", "0.01")
        servers = processes(stack, tmp_path, options, options, options)
        addresses = [server.address for server in servers]
        remote = stack.enter_context(closing(fleet(*addresses)))
        flow = Flow(remote)
        try:
            for index, server in enumerate(servers):
                flow.more()
                server.signal(signal.SIGKILL)
                server.process.wait(PATIENCE)
                flow.more()
                before = of(remote, server.address).sent
                assert of(remote, server.address).health is Health.AWAY
                (again := tmp_path / f"again-{index}").mkdir()
                port = server.address.rpartition(":")[2]
                back = stack.enter_context(server_process(again, *options, "--port", port))
                assert back.address == server.address
                # It gets its share of the requests again.
                until(lambda address=back.address, before=before: of(remote, address).sent >= before + 5)  # type: ignore[misc] # bound now
        finally:
            flow.stop()
        assert flow.wrong == []
        assert set(flow.outcomes) <= {"answered", "interrupted"}
        assert {each.health for each in remote.endpoints()} == {Health.SERVING}


def test_all_that_waited_for_a_killed_server_is_answered_by_the_others(tmp_path: Path) -> None:
    # More of them than the retry budget has tokens: what was lost together is one failure.
    with ExitStack() as stack:
        slots = ("--slots", "64")
        slow, *_ = servers = processes(stack, tmp_path, (*slots, "--echo-delay", NEVER), slots, slots)
        addresses = [server.address for server in servers]
        remote = stack.enter_context(closing(fleet(*addresses, connect_timeout=PATIENCE)))
        streams = [remote.generate(ask(f"number {index}")) for index in range(60)]
        until(lambda: of(remote, slow.address).running == 20)
        until(lambda: sum(each.running for each in remote.endpoints()) == 20)
        slow.signal(signal.SIGKILL)
        assert [text_of(stream) for stream in streams] == [f"number {index}" for index in range(60)]
        assert of(remote, slow.address).failures == 1
        assert remote.retry_budget.left


def test_a_draining_server_gets_nothing_new_and_ends_what_runs() -> None:
    draining, other = Counting(delay=0.02), Counting()
    with (
        Serving(lambda: draining, drain_seconds=PATIENCE) as first,
        Serving(lambda: other) as second,
        closing(fleet(first.address, second.address)) as remote,
    ):
        running = []
        while draining.asked == 0:
            running.append(remote.generate(ask(LONG[:600])))
            until(lambda: draining.asked + other.asked == len(running))
        first.begin_stop()
        until(lambda: first.server._service.draining)
        asked = draining.asked
        for _ in range(20):
            assert text_of(remote.generate(ask("hello"))) == "hello"
        assert draining.asked == asked
        assert [text_of(stream) for stream in running] == [LONG[:600]] * len(running)


def test_a_server_that_loads_gets_its_share_once_it_serves() -> None:
    loaded, late, ready = threading.Event(), Counting(), Counting()

    def load() -> Counting:
        loaded.wait(PATIENCE)
        return late

    with (
        Serving(load, wait=False) as first,
        Serving(lambda: ready) as second,
        closing(fleet(first.address, second.address)) as remote,
    ):
        try:
            remote.models()
            until(lambda: of(remote, first.address).health is Health.NOT_SERVING)
            sent = of(remote, first.address).sent
            for _ in range(10):
                text_of(remote.generate(ask()))
            assert of(remote, first.address).sent == sent
        finally:
            loaded.set()
        until(lambda: of(remote, first.address).health is Health.SERVING)
        for _ in range(10):
            text_of(remote.generate(ask()))
        assert late.asked == 5


def test_a_frozen_server_loses_what_waits_there_and_comes_back(tmp_path: Path) -> None:
    with ExitStack() as stack:
        frozen, *_ = servers = processes(stack, tmp_path, (), (), ())
        remote = stack.enter_context(closing(fleet(*(server.address for server in servers), connect_timeout=0.5)))
        for _ in range(6):
            text_of(remote.generate(ask()))
        frozen.signal(signal.SIGSTOP)
        try:
            streams = [remote.generate(ask(f"number {index}")) for index in range(9)]
            # They would wait for a minute, or half of one until gRPC's own pings give up.
            begin = time.monotonic()
            assert [text_of(stream) for stream in streams] == [f"number {index}" for index in range(9)]
            assert time.monotonic() - begin < 25
            assert of(remote, frozen.address).health is Health.AWAY
            sent = of(remote, frozen.address).sent
            for _ in range(9):
                text_of(remote.generate(ask()))
            assert of(remote, frozen.address).sent == sent
        finally:
            frozen.signal(signal.SIGCONT)
        until(lambda: of(remote, frozen.address).health is Health.SERVING)
        text_of(remote.generate(ask()))
        text_of(remote.generate(ask()))
        text_of(remote.generate(ask()))
        assert of(remote, frozen.address).sent > sent


def test_an_answer_that_has_begun_stays_with_a_server_that_is_frozen(tmp_path: Path) -> None:
    with ExitStack() as stack:
        options = ("--echo-delay", "0.05")
        servers = processes(stack, tmp_path, options, options)
        addresses = [server.address for server in servers]
        remote = stack.enter_context(closing(fleet(*addresses, connect_timeout=0.3)))
        stream = remote.generate(ask("word " * 40, deadline=deadline_after(PATIENCE)))
        while not isinstance(next(stream), Delta):
            pass
        (busy,) = [server for server in servers if of(remote, server.address).running]
        busy.signal(signal.SIGSTOP)
        until(lambda: of(remote, busy.address).health is Health.AWAY)
        remote._leave(busy.address)
        busy.signal(signal.SIGCONT)
        assert isinstance(list(stream)[-1], Finished)


def test_a_full_server_leaves_its_turns_to_the_others() -> None:
    full = ScriptedEngine(error=OverloadedError("all slots taken", retry_after=600.0), raise_at_once=True)
    free = Counting()
    with (
        Serving(lambda: full) as first,
        Serving(lambda: free) as second,
        closing(fleet(first.address, second.address)) as remote,
    ):
        for _ in range(20):
            assert text_of(remote.generate(ask("hello"))) == "hello"
        assert len(full.asked) == 1
        assert of(remote, first.address).breaker is BreakerState.CLOSED


def test_where_all_are_full_each_is_asked_once_and_the_caller_is_told() -> None:
    engines = [ScriptedEngine(error=OverloadedError("all slots taken", retry_after=2.0)) for _ in range(2)]
    with (
        Serving(lambda: engines[0]) as first,
        Serving(lambda: engines[1]) as second,
        closing(fleet(first.address, second.address)) as remote,
    ):
        with pytest.raises(OverloadedError) as caught:
            list(remote.generate(ask()))
        assert caught.value.retry_after == 2.0
        assert [len(engine.asked) for engine in engines] == [1, 1]


def test_what_has_begun_is_not_tried_elsewhere() -> None:
    broken = ScriptedEngine(Started("r", "scripted"), Delta("x"), error=ServerUnavailableError("gone"))
    well = Counting()
    with (
        Serving(lambda: broken) as first,
        Serving(lambda: well) as second,
        closing(fleet(first.address, second.address)) as remote,
    ):
        while not broken.asked:
            before, stream = well.asked, remote.generate(ask("hello"))
            until(lambda stream=stream: stream.closed)  # type: ignore[misc] # bound now
            if broken.asked:
                with pytest.raises(ServerInterruptedError, match=first.address) as caught:
                    text_of(stream)
                assert caught.value.partial == "x"
                assert well.asked == before
        assert of(remote, first.address).failures == 1


def free_ports(count: int) -> list[int]:
    probes = [socket.socket() for _ in range(count)]
    for probe in probes:
        probe.bind(("127.0.0.1", 0))
    ports = [int(probe.getsockname()[1]) for probe in probes]
    for probe in probes:
        probe.close()
    return ports


def test_where_all_are_away_the_caller_is_told_soon_and_each_breaker_opens() -> None:
    addresses = [f"127.0.0.1:{port}" for port in free_ports(3)]
    remote = RemoteEngine(",".join(addresses), breaker=Breaker(failures=2, cooldown=600.0))
    with closing(remote):
        for _ in range(6):
            with pytest.raises(ServerUnavailableError):
                list(remote.generate(ask()))
        with pytest.raises(ServerUnavailableError, match="left alone") as caught:
            list(remote.generate(ask()))
        assert all(address in str(caught.value) for address in addresses)
        assert {each.breaker for each in remote.endpoints()} == {BreakerState.OPEN}
        assert remote.breaker.state is BreakerState.OPEN
        assert remote.breaker.retry_after > 0


def test_one_that_is_away_leaves_the_breaker_of_all_closed(three: list[tuple[Serving, Counting]]) -> None:
    addresses = [f"127.0.0.1:{free_ports(1)[0]}", *(serving.address for serving, _ in three[:2])]
    with closing(RemoteEngine(",".join(addresses), breaker=Breaker(failures=1, cooldown=600.0))) as remote:
        for _ in range(9):
            text_of(remote.generate(ask()))
        assert of(remote, addresses[0]).breaker is BreakerState.OPEN or of(remote, addresses[0]).sent == 0
        assert (remote.breaker.state, remote.breaker.failures) == (BreakerState.CLOSED, 0)
        status = remote.check(PATIENCE)
        assert status.serving
        assert {each.address: each.serving for each in status.each} == {
            address: address != addresses[0] for address in addresses
        }


def test_closing_ends_what_runs_and_leaves_no_thread(three: list[tuple[Serving, Counting]]) -> None:
    remote = fleet(*(serving.address for serving, _ in three))
    streams = [remote.generate(ask(LONG)) for _ in range(6)]
    until(lambda: sum(each.sent for each in remote.endpoints()) == 6)
    remote.close()
    remote.close()
    for stream in streams:
        with pytest.raises(EngineClosedError):
            list(stream)
    with pytest.raises(EngineClosedError):
        remote.generate(ask())
    assert not [thread for thread in threading.enumerate() if thread.name in ("crayon-remote", "crayon-prober")]


def test_nobody_is_asked_for_health_while_nobody_asks_anything(
    three: list[tuple[Serving, Counting]], monkeypatch: pytest.MonkeyPatch
) -> None:
    def probing() -> bool:
        return any(thread.name == "crayon-prober" for thread in threading.enumerate())

    with closing(fleet(*(serving.address for serving, _ in three))) as remote:
        assert not probing()
        remote.models()
        assert probing()
        monkeypatch.setattr(prober, "IDLE_S", 0.0)
        until(lambda: not probing())
        monkeypatch.undo()
        remote.models()
        assert probing()


# -- who may be spoken to, and how


def test_each_address_must_be_on_this_machine_unless_there_is_tls() -> None:
    for addresses in ("127.0.0.1:1,192.0.2.1:443", "example.org:443, localhost:1", "localhost:1,localhost", ",", ""):
        with pytest.raises(ConfigError) as caught:
            RemoteEngine(addresses)
        assert caught.value.key == "server"
    RemoteEngine("127.0.0.1:1,192.0.2.1:443", tls=True).close()


def test_local_only_asks_nobody(three: list[tuple[Serving, Counting]], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRAYON_LOCAL_ONLY", "1")
    with closing(fleet(*(serving.address for serving, _ in three))) as remote:
        with pytest.raises(PrivacyError):
            list(remote.generate(ask()))
        with pytest.raises(PrivacyError):
            remote.check()
        assert [each.sent for each in remote.endpoints()] == [0, 0, 0]
        assert not [thread for thread in threading.enumerate() if thread.name == "crayon-prober"]


TOKEN = "alice-0123456789abcdef"


class Names:
    """What fleet.test is: addresses of this machine, at which servers listen on one port, certified for the name."""

    def __init__(self, stack: ExitStack, folder: Path, host: str) -> None:
        self.authority = Authority(folder)
        cert, key = self.authority.issue("server", host)
        (tokens := folder / "tokens").write_text(f"alice:{TOKEN}\n")
        tokens.chmod(0o600)
        secured = {"tls": TlsFiles(cert=cert, key=key), "tokens_file": tokens}
        self.engines = [Counting(), Counting()]
        first = stack.enter_context(Serving(lambda: self.engines[0], **secured))
        stack.enter_context(Serving(lambda: self.engines[1], host="127.0.0.2", port=first.port, **secured))
        self.port = first.port
        self.known = ["127.0.0.1", "127.0.0.2"]

    def look_up(self, host: str, port: int, **_: object) -> list[tuple[object, ...]]:
        assert (host, port) == ("fleet.test", self.port)
        # A machine that has IPv6, too, is not twice as many servers.
        return [
            *((socket.AF_INET, socket.SOCK_STREAM, 6, "", (address, port)) for address in self.known),
            (socket.AF_INET6, socket.SOCK_STREAM, 6, "", ("::1", port, 0, 0)),
        ]

    def client(self) -> RemoteEngine:
        address = f"fleet.test:{self.port}"
        return RemoteEngine(address, ca_file=self.authority.file, token=TOKEN, timeout=PATIENCE)


def test_a_name_with_several_addresses_is_several_servers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(prober, "NAMES_S", 0.05)
    with ExitStack() as stack:
        names = Names(stack, tmp_path, "fleet.test")
        monkeypatch.setattr(resolver.socket, "getaddrinfo", names.look_up)
        remote = stack.enter_context(closing(names.client()))
        for _ in range(10):
            assert text_of(remote.generate(ask("one two"))) == "one two"
        assert [engine.asked for engine in names.engines] == [5, 5]
        assert {each.address for each in remote.endpoints()} == {f"{host}:{names.port}" for host in names.known}
        # The name is looked up again while the client is in use. Nobody listens at the new address.
        names.known = ["127.0.0.2", "127.0.0.3"]
        until(lambda: len(remote.models()) == 1 and of_host(remote, "127.0.0.1") is None)
        assert of_host(remote, "127.0.0.3") is not None
        for _ in range(4):
            assert text_of(remote.generate(ask("one two"))) == "one two"
        assert [engine.asked for engine in names.engines] == [5, 9]


def test_a_certificate_must_be_for_the_name_and_not_for_what_it_resolves_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with ExitStack() as stack:
        names = Names(stack, tmp_path, "127.0.0.1")
        monkeypatch.setattr(resolver.socket, "getaddrinfo", names.look_up)
        remote = stack.enter_context(closing(names.client()))
        with pytest.raises(ServerUnavailableError):
            list(remote.generate(ask()))
        assert [engine.asked for engine in names.engines] == [0, 0]


def test_a_resolver_that_hangs_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    end = threading.Event()

    def hang(*_: object, **__: object) -> list[object]:
        end.wait(PATIENCE)
        return []

    monkeypatch.setattr(resolver.socket, "getaddrinfo", hang)
    remote = RemoteEngine("nowhere.invalid:443", tls=True, timeout=PATIENCE, connect_timeout=0.2)
    try:
        with pytest.raises(ServerUnavailableError, match=r"nowhere\.invalid"):
            list(remote.generate(ask()))
    finally:
        remote.close()
        end.set()
