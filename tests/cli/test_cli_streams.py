"""Standard streams as daemons and job runners leave them: closed, or full."""

import os
import subprocess
import sys

import pytest
from test_cli_process import CRAYON, PATIENCE, serving

PLAIN = ["bash", "-c"]


@pytest.fixture(scope="module")
def address(tmp_path_factory):
    with serving(tmp_path_factory.mktemp("server")) as found:
        yield found


def shell(line, *arguments):
    """Run a line of shell in which "$@" is `crayon` with these arguments."""
    command = [*PLAIN, line, "bash", *CRAYON, *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)


def asking(address):
    return ("ask", "--server", address, "--mode", "only_on_server", "one two")


@pytest.mark.parametrize("closed", ["2>&-", "0<&-", "0<&- 2>&-", "2>/dev/full"])
def test_an_answer_needs_neither_input_nor_errors(address, closed):
    done = shell(f'"$@" {closed}', *asking(address))
    assert (done.stdout, done.returncode) == ("one two\n", 0)


@pytest.mark.parametrize("way", [">&-", ">/dev/full", "0<&- >&-"])
@pytest.mark.parametrize("flags", [[], ["--json"], ["--no-stream"]])
def test_an_output_that_takes_nothing_is_one_plain_line(address, way, flags):
    done = shell(f'"$@" {way}', *asking(address), *flags)
    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert line.startswith("error: standard output cannot be written: ")


@pytest.mark.parametrize("command", [["config", "path"], ["--help"], ["models", "ls"], ["--version"]])
def test_every_command_says_so(command):
    done = shell('"$@" >/dev/full', *command)
    assert done.returncode == 1
    assert done.stderr.startswith("error: standard output cannot be written: ")
    assert len(done.stderr.splitlines()) == 1


def test_a_server_starts_without_any_stream_and_a_probe_needs_none(tmp_path):
    ready = tmp_path / "ready"
    line = f'"$@" <&- >&- 2>&- & echo $!; while ! [ -s {ready} ]; do sleep 0.1; done'
    started = shell(line, "serve", "--engine", "echo", "--port", "0", "--ready-file", str(ready))
    try:
        address = ready.read_text().strip()
        assert shell('"$@" <&- >&- 2>&-', "health", address).returncode == 0
        assert shell('"$@"', "health", address).stdout == "SERVING\n"
    finally:
        os.kill(int(started.stdout), 15)


def test_chat_reads_nothing_from_a_closed_input(address):
    done = shell('"$@" <&-', "chat", "--server", address, "--mode", "only_on_server")
    assert (done.stdout, done.returncode) == ("", 0)


def test_the_sdk_works_where_there_are_no_streams_at_all(address):
    program = (
        "import sys; sys.stdin = sys.stdout = sys.stderr = None\n"
        "from crayon import Crayon\n"
        f"with Crayon(device=None, server={address!r}) as client:\n"
        "    assert client.ask('one two').text == 'one two'"
    )
    assert subprocess.run([sys.executable, "-c", program], timeout=PATIENCE, check=False).returncode == 0
