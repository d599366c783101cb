from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest

from crayon.cli.shared.client import open_client, server_report
from crayon.cli.shared.device_model import suited
from crayon.completion import Mode
from crayon.config import load
from crayon.customising.customization import Customization
from crayon.customising.profiles import Profile
from crayon.customising.store import CustomizationStore
from crayon.data import scope_names
from crayon.device.auto import Wish
from crayon.device.choice import ModelChoice
from crayon.errors import ConfigError, InvalidRequestError, ModelFileError, ServerUnavailableError
from crayon.models import load_catalogue
from crayon.router.hardness import Hardness
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from pathlib import Path


class Opened:
    """What `crayon.Crayon` and `resolve` were called with."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.fetched: list[tuple[str, Any]] = []
        self.options: dict[str, Any] = {}
        self.wishes: list[Wish] = []
        monkeypatch.setattr("crayon.sdk.Crayon", self._crayon)
        monkeypatch.setattr("crayon.models.resolve", self._resolve)
        monkeypatch.setattr("crayon.device.auto.pick", self._pick)

    def _crayon(self, **options: Any) -> str:
        self.options = options
        return "client"

    def _resolve(self, reference: str, *, progress: Any, models_dir: Path | None) -> None:
        assert callable(progress)
        self.fetched.append((reference, models_dir))

    def _pick(self, wish: Wish, fetch: Any) -> ModelChoice:
        self.wishes.append(wish)
        return ModelChoice("the-best", "it is a test")

    def __call__(self, **flags: Any) -> dict[str, Any]:
        given = {key.replace("__", "."): value for key, value in flags.items()}
        assert open_client(load(given).settings) == "client"
        return self.options


@pytest.fixture
def opened(monkeypatch: pytest.MonkeyPatch) -> Opened:
    return Opened(monkeypatch)


def test_defaults_ask_the_device_alone_and_fetch_what_auto_takes_first(opened: Opened) -> None:
    options = opened()
    assert opened.fetched == [("the-best", None)]
    assert (options["device"], options["server"], options["device_options"]) == ("the-best", None, {})
    assert opened.wishes == [Wish()]
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


def test_auto_is_asked_for_a_model_as_the_settings_open_it(opened: Opened, tmp_path: Path) -> None:
    opened(device__threads=2, device__context=512, models_dir=tmp_path)
    assert opened.wishes == [Wish(models_dir=tmp_path, n_ctx=512, threads=2)]


def test_a_customisation_brings_the_model_that_it_was_made_for(
    opened: Opened, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    small = load_catalogue().find("smollm2")
    store = CustomizationStore(tmp_path)
    for name, sha256 in (("travel", small.sha256), ("odd", "0" * 64)):
        store.save(
            Customization(
                name=name,
                pool_id="p",
                base=small.name,
                base_sha256=sha256,
                members=("m",),
                layer=1,
                profiles=(Profile(name="one", weights=(1.0,), similarity=(1.0,), samples=1, threshold=0.5),),
                samples=1,
                answered=1,
                created="2025-01-01T00:00:00+00:00",
            )
        )
    with caplog.at_level("DEBUG", "crayon.cli"):
        assert opened(customization="travel", customizations_dir=tmp_path)["device"] == small.name
    assert f"auto takes {small.name}: customisation travel was made for it" in caplog.text
    assert opened(customization="odd", customizations_dir=tmp_path)["device"] == "the-best"
    assert opened(customization="travel", customizations_dir=tmp_path, device__model="m.gguf")["device"] == "m.gguf"
    settings = load({"customizations_dir": tmp_path}).settings
    assert suited(settings, "travel").device.model == small.name
    assert suited(settings, "base") == suited(settings, None) == settings
    with pytest.raises(InvalidRequestError, match="unknown"):
        suited(settings, "nobody")


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


def test_a_broken_device_is_an_error_only_where_no_server_may_answer(
    opened: Opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any, **__: Any) -> None:
        raise ModelFileError("truncated")

    monkeypatch.setattr("crayon.models.resolve", broken)
    assert opened(server__address="localhost:1")["server"] == "localhost:1"
    for flags in ({}, {"server__address": "localhost:1", "private": True}, {"mode": "only_on_device"}):
        with pytest.raises(ModelFileError):
            opened(**flags)
