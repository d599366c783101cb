from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from crayon.cli.client import open_client, server_report
from crayon.completion import Mode
from crayon.config import load
from crayon.data import scope_names
from crayon.errors import ConfigError, InvalidRequestError, ServerUnavailableError
from crayon.router.hardness import Hardness
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from pathlib import Path


class Opened:
    """What `crayon.Crayon` and `resolve` were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[tuple[str, Any]] = []
        self.options: dict[str, Any] = {}
        monkeypatch.setattr("crayon.sdk.Crayon", self._crayon)
        monkeypatch.setattr("crayon.models.resolve", self._resolve)

    def _crayon(self, **options: Any) -> str:
        self.options = options
        return "client"

    def _resolve(self, reference: str, *, progress: Any, models_dir: Path | None) -> None:
        assert callable(progress)
        self.fetched.append((reference, models_dir))

    def __call__(self, **flags: Any) -> dict[str, Any]:
        given = {key.replace("__", "."): value for key, value in flags.items()}
        assert open_client(load(given).settings) == "client"
        return self.options


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def test_defaults_ask_the_device_alone_and_fetch_its_model_first(opened: Opened) -> None:
    options = opened()
    assert opened.fetched == [("smollm2-135m-instruct", None)]
    assert (options["device"], options["server"], options["device_options"]) == ("smollm2-135m-instruct", None, {})
    assert options["hardness"] == Hardness()
    assert Sampling(**{name: options[name] for name in Sampling.__slots__}) == Sampling()


def test_settings_reach_the_client(opened: Opened, tmp_path: Path) -> None:
    name = scope_names()[0]
    options = opened(
        device__model="m.gguf",
        device__threads=2,
        device__context=512,
        models_dir=tmp_path,
        server__address="localhost:1",
        scopes=[name],
        hardness__threshold=-2.0,
        hardness__hold_tokens=5,
        hardness__choice_margin=0.25,
        timeout=7.0,
        private=True,
        sampling__top_k=3,
    )
    assert opened.fetched == [("m.gguf", tmp_path)]
    assert options["device_options"] == {"threads": 2, "n_ctx": 512, "models_dir": tmp_path}
    assert opened(device__pools=["auto", "mine"])["device_options"] == {"pools": ("auto", "mine")}
    assert [scope.name for scope in options["scopes"]] == [name]
    assert options["hardness"] == Hardness(threshold=-2.0, hold_tokens=5, choice_margin=0.25)
    assert (options["timeout"], options["private"], options["top_k"]) == (7.0, True, 3)


def test_the_hardness_gate_can_be_off(opened: Opened) -> None:
    assert opened(hardness__enabled=False)["hardness"] is False


@pytest.mark.parametrize(
    ("flags", "device", "fetched"),
    [
        ({"mode": Mode.ONLY_ON_SERVER, "server__address": "localhost:1"}, False, False),
        ({"mode": Mode.PREFER_ON_SERVER, "server__address": "localhost:1"}, True, False),
        ({"mode": Mode.PREFER_ON_SERVER}, True, True),
        ({"mode": Mode.PREFER_ON_SERVER, "server__address": "localhost:1", "private": True}, True, True),
        ({"mode": Mode.PREFER_ON_DEVICE, "server__address": "localhost:1"}, True, True),
        ({"mode": Mode.ONLY_ON_DEVICE}, True, True),
    ],
)
def test_the_model_is_fetched_only_where_the_first_answer_needs_it(
    opened: Opened, flags: dict[str, Any], device: bool, fetched: bool
) -> None:
    options = opened(**flags)
    assert (options["device"] is not None, bool(opened.fetched)) == (device, fetched)


def test_an_unknown_scope_is_named_before_anything_is_fetched(opened: Opened) -> None:
    with pytest.raises(InvalidRequestError, match="nonsense"):
        opened(scopes=["nonsense"])
    assert opened.fetched == []


def test_a_look_at_a_server_that_is_not_there(unused_tcp_port: int) -> None:
    with pytest.raises(ServerUnavailableError, match=str(unused_tcp_port)):
        server_report(load({"server.address": f"localhost:{unused_tcp_port}"}).settings.server, 5.0)
    with pytest.raises(ConfigError):
        server_report(load({"server.address": "no address at all"}).settings.server, 5.0)
