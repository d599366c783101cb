"""The device `auto` in the SDK: a customisation brings the model it was made for, and another model is refused."""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace

import pytest
from custom_fakes import Device, about
from sdk_fakes import SURE, FakeServer, answer

from crayon import AdapterMismatchError, AsyncCrayon, Crayon
from crayon.customising.store import CustomizationStore
from crayon.engine import ModelInfo
from crayon.models import load_catalogue

SMALL = load_catalogue().find("smollm2")


@pytest.fixture
def folder(tmp_path):
    """Holds `mine`, for the small model, and `odd`, for a model that nobody knows."""
    path = tmp_path / "customizations"
    store = CustomizationStore(path)
    with Crayon(Device("small"), customizations_dir=path) as client:
        for name, base, sha256 in (("mine", SMALL.name, SMALL.sha256), ("odd", "lost", "e" * 64)):
            made = client.customize(name, about("colour"), check=False)
            store.save(replace(made, base=base, base_sha256=sha256), replace=True)
    return path


@pytest.fixture
def opened(monkeypatch):
    """References that devices were opened with; a device stands in for each."""
    monkeypatch.delenv("CRAYON_DEVICE__MODEL", raising=False)
    references = []

    def open_(reference, **_):
        references.append(reference)
        return Device("small", [answer("a b", SURE)] * 4)

    monkeypatch.setattr("crayon.device.DeviceEngine.open", open_)
    return references


def test_auto_is_the_default_and_left_to_the_engine(opened, folder):
    with Crayon(customizations_dir=folder) as client:
        assert client.ask("hello").text == "a b"
    assert opened == ["auto"]


def test_the_environment_decides_for_auto_alone(opened, folder, monkeypatch):
    monkeypatch.setenv("CRAYON_DEVICE__MODEL", "pinned.gguf")
    for device in ("auto", "other.gguf"):
        with Crayon(device, customizations_dir=folder, customization="mine") as client:
            client.load()
    assert opened == ["pinned.gguf", "other.gguf"]


@pytest.mark.parametrize("how", ["client", "call", "explain"])
def test_a_customisation_brings_its_model(opened, folder, how, caplog):
    caplog.set_level(logging.DEBUG, "crayon.sdk")
    with Crayon(customizations_dir=folder, customization="mine" if how == "client" else None) as client:
        if how == "client":
            client.load()
        elif how == "call":
            client.ask("what colour is the sky", blend="mine")
        else:
            client.explain("what colour is the sky", blend="mine")
    assert opened == [SMALL.name]
    assert f"auto takes {SMALL.name}: customisation mine was made for it" in caplog.text


def test_calibrating_a_customisation_opens_its_model(opened, folder):
    with Crayon(customizations_dir=folder) as client:
        client.calibrate("mine")
    assert opened == [SMALL.name]


def test_a_model_that_is_set_or_unknown_is_not_replaced(opened, folder):
    with Crayon("other.gguf", customizations_dir=folder, customization="mine") as client:
        client.load()
    with Crayon(customizations_dir=folder, customization="odd") as client:
        client.load()
    assert opened == ["other.gguf", "auto"]


class Other(Device):
    """A device that says which file its model is."""

    def models(self):
        return (ModelInfo("other", 1024, source_sha256="f" * 64),)


def test_a_customisation_for_another_model_is_refused_with_both_names(folder):
    with Crayon(Other("other", [answer("a b", SURE)]), customizations_dir=folder) as client:
        for call in (client.ask, client.explain):
            with pytest.raises(AdapterMismatchError, match=f"'mine' was made for {SMALL.name}, not for other"):
                call("what colour is the sky", blend="mine")
        with pytest.raises(AdapterMismatchError, match="not for other"):
            client.calibrate("mine")
        assert client.ask("hello").text == "a b"


def test_it_is_refused_in_asyncio_and_with_a_server_too(folder):
    async def ask():
        server = FakeServer("large", [answer("from the server")])
        client = AsyncCrayon(Other("other"), server, customizations_dir=folder, customization="mine", calibration=False)
        async with client:
            await client.ask("what colour is the sky")

    with pytest.raises(AdapterMismatchError, match="open the device with smollm2-135m-instruct"):
        asyncio.run(ask())
