"""Files with a byte order mark, hosts in brackets, arguments that are no UTF-8, no home."""

import json
import os
import subprocess
import sys

import pytest
from test_cli_process import CRAYON, PATIENCE

from crayon.cli.shared.app import app
from crayon.config import load
from crayon.data import load_scope
from crayon.messages import Message
from crayon.models import load_catalogue
from crayon.wire.address import is_local, join

BOM = b"\xef\xbb\xbf"


def test_settings_with_a_mark_are_read(tmp_path, monkeypatch):
    path = tmp_path / "config.toml"
    path.write_bytes(BOM + b"timeout = 7\n")
    monkeypatch.setenv("CRAYON_CONFIG", str(path))
    assert load({}).settings.timeout == 7


def test_a_scope_a_catalogue_and_a_chat_with_a_mark_are_read(tmp_path):
    from crayon.cli.chat.transcript import load_transcript, save_transcript
    from crayon.models.catalogue import SHIPPED

    scope = tmp_path / "mine.toml"
    scope.write_bytes(BOM + f'name = "mine"\nexamples = {json.dumps([f"question {i}" for i in range(9)])}\n'.encode())
    catalogue = tmp_path / "models.toml"
    catalogue.write_bytes(BOM + SHIPPED.read_bytes())
    chat = tmp_path / "chat.json"
    save_transcript(chat, (Message("user", "hi"), Message("assistant", "ho")), private=False)
    chat.write_bytes(BOM + chat.read_bytes())
    assert load_scope(str(scope)).name == "mine"
    assert list(load_catalogue(catalogue))
    assert len(load_transcript(chat).messages) == 2


@pytest.mark.parametrize("command", [["ask"], ["chat"]])
def test_a_pipe_with_a_mark_is_asked_without_it(runner, client, command):
    runner.invoke(app, command, input=BOM + b"why?\n")
    assert client.asked == [[("user", "why?")]]


@pytest.mark.parametrize("host", ["::1", "[::1]"])
def test_a_host_in_brackets_is_the_host(host):
    assert is_local(host)
    assert join(host, 5) == "[::1]:5"


def test_an_argument_that_is_no_text_is_refused_in_plain_words():
    command = [*CRAYON, "ask", "-q", "--mode", "only_on_server", "--server", "localhost:1", b"\xff\xfe"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, check=False)
    assert done.returncode == 2
    assert done.stderr.startswith("error: text: is not UTF-8 text")


def test_no_home_is_no_obstacle(tmp_path):
    environment = {name: value for name, value in os.environ.items() if name != "HOME" and not name.startswith("XDG_")}
    environment |= {"HOME": "/nonexistent", "CRAYON_MODELS_DIR": str(tmp_path)}
    program = (
        "import json\nfrom crayon import Crayon\nfrom crayon.server.engines.echo import EchoEngine\n"
        "with Crayon(device=EchoEngine(), hardness=False) as client:\n    print(json.dumps(client.ask('a b').text))"
    )
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=PATIENCE, env=environment, check=False)
    assert json.loads(done.stdout) == "a b", done.stderr
