"""What this device cannot do is not the caller's error: where a server may answer, it does."""

import logging

import pytest
from sdk_fakes import Fake, FakeServer, answer

import crayon
from crayon import Crayon
from crayon.completion import Reason, Source
from crayon.errors import (
    ChatTemplateError,
    DownloadError,
    EngineError,
    InvalidRequestError,
    ModelFileError,
    NoMemoryError,
    PrivacyError,
)

REFUSED = ChatTemplateError("refused by the model's chat template: no system role here")


class Broken:
    """Stands in for `DeviceEngine`: cannot be opened."""

    error: Exception = ModelFileError("/m.gguf is truncated")
    tries = 0

    @classmethod
    def open(cls, reference, **options):
        cls.tries += 1
        raise cls.error


@pytest.fixture
def broken(monkeypatch):
    import crayon.device

    Broken.tries, Broken.error = 0, ModelFileError("/m.gguf is truncated")
    monkeypatch.setattr(crayon.device, "DeviceEngine", Broken)
    return Broken


def test_what_the_devices_template_refuses_the_server_answers(sdk):
    server = FakeServer("large")
    done = sdk.call(sdk.make(Fake("small", [REFUSED]), server).ask("hi"))
    assert (done.route.source, done.route.reason) == (Source.SERVER, Reason.DEVICE_FAILED)
    assert done.route.fallback_from is Source.DEVICE
    assert "no system role" in done.route.fallback_error
    assert len(server.requests) == 1


@pytest.mark.parametrize("options", [{"mode": "only_on_device"}, {"private": True}])
def test_what_the_template_refuses_is_raised_where_the_server_may_not_answer(sdk, options):
    server = FakeServer("large")
    with pytest.raises(ChatTemplateError, match="no system role"):
        sdk.call(sdk.make(Fake("small", [REFUSED]), server).ask("hi", **options))
    assert server.requests == []


@pytest.mark.parametrize(
    "error",
    [
        ModelFileError("truncated"),
        DownloadError("no source could deliver it"),
        EngineError("no context"),
        NoMemoryError("too little memory"),
    ],
)
def test_a_device_that_cannot_be_opened_leaves_the_answer_to_the_server(sdk, broken, error, caplog):
    broken.error = error
    client = sdk.make("some-model", FakeServer("large"))
    with caplog.at_level(logging.WARNING, "crayon.sdk"):
        first = sdk.call(client.ask("hi"))
        second = sdk.call(client.ask("again"))
    assert {first.route.source, second.route.source} == {Source.SERVER}
    assert first.route.reason is Reason.DEVICE_FAILED
    assert first.route.fallback_error == str(error)
    assert broken.tries == 1, "it is left alone for a while: opening takes its time"
    assert [str(error) in record.getMessage() for record in caplog.records] == [True], "said once"


def test_a_broken_device_is_still_an_error_where_it_alone_may_answer(sdk, broken):
    client = sdk.make("some-model", FakeServer("large"))
    with pytest.raises(ModelFileError, match="truncated"):
        sdk.call(client.ask("hi", private=True))
    assert sdk.call(client.ask("hi")).route.source is Source.SERVER
    with pytest.raises(ModelFileError, match="truncated"):
        sdk.call(client.ask("hi", mode="only_on_device"))


def test_a_broken_device_leaves_a_choice_and_a_conversation_to_the_server(sdk, broken):
    client = sdk.make("some-model", FakeServer("large"))
    assert sdk.call(client.choose("hi", ["yes", "no"])).route.source is Source.SERVER
    assert sdk.call(client.chat().ask("hi")).route.source is Source.SERVER


def test_explain_says_that_the_device_cannot(broken):
    with Crayon("some-model", FakeServer("large")) as client:
        found = client.explain("hi")
    assert (found.source, found.reason) == (Source.SERVER, Reason.DEVICE_FAILED)


def test_a_broken_device_behind_a_failing_server_is_told_with_it(sdk, broken):
    server = FakeServer("large", [crayon.ServerUnavailableError("gone")])
    with pytest.raises(ModelFileError) as caught:
        sdk.call(sdk.make("some-model", server).ask("hi", mode="prefer_on_server"))
    assert any("gone" in note for note in caught.value.__notes__)


def test_scopes_that_no_device_can_judge_leave_the_answer_to_the_server(sdk, broken):
    client = sdk.make("some-model", FakeServer("large"), scopes=["healthy-habits"])
    assert sdk.call(client.ask("hi")).route.reason is Reason.DEVICE_FAILED


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"device_options": {"n_gpu_layers": 99}}, "'n_gpu_layers' is no such option; there are: .*n_ctx"),
        ({"device_options": {"n_ctx": "big"}}, "whole number"),
        ({"device_options": {"n_ctx": 0}}, "whole number"),
        ({"device_options": {"models_dir": 3}}, "path"),
        ({"device_options": {"models_dir": "\0"}}, "a character that no path does"),
        ({"device_options": {"pools": 3}}, "list of pools"),
        ({"server_options": {"tsl": True}}, "'tsl' is no such option"),
        ({"server_options": {"timeout": "soon"}}, "seconds"),
    ],
)
def test_wrong_engine_options_are_refused_by_name(sdk, given, said):
    with pytest.raises(InvalidRequestError, match=said):
        sdk.make("some-model", "localhost:1", **given)


def test_a_context_beyond_the_models_is_said(tmp_path, monkeypatch, caplog):
    from tiny_chat import CONTEXT, write_model

    monkeypatch.setenv("CRAYON_MODELS_DIR", str(tmp_path / "models"))
    path = write_model(tmp_path / "m.gguf")
    with caplog.at_level(logging.WARNING, "crayon.sdk"), Crayon(path, device_options={"n_ctx": 4 * CONTEXT}) as client:
        client.load()
    assert f"made for {CONTEXT}" in caplog.text


@pytest.mark.parametrize(("error", "kind"), [(MemoryError(), NoMemoryError), (TypeError("odd"), EngineError)])
def test_whatever_opening_raises_is_an_error_of_ours(sdk, broken, error, kind):
    broken.error = error
    with pytest.raises(kind):
        sdk.call(sdk.make("some-model").ask("hi"))
    assert sdk.call(sdk.make("some-model", FakeServer("large")).ask("hi")).route.source is Source.SERVER


def test_the_options_are_those_that_the_engines_take():
    import inspect

    from crayon.client.access import AccessOptions
    from crayon.client.remote import RemoteEngine
    from crayon.device import DeviceEngine
    from crayon.sdk.call.engine_options import DEVICE_OPTIONS, SERVER_OPTIONS

    def keywords(function):
        parameters = inspect.signature(function).parameters.values()
        return {each.name for each in parameters if each.kind is inspect.Parameter.KEYWORD_ONLY}

    assert set(DEVICE_OPTIONS) == keywords(DeviceEngine.open)
    assert set(SERVER_OPTIONS) == (keywords(RemoteEngine.__init__) - {"ledger"}) | set(AccessOptions.__annotations__)


def test_a_private_call_with_no_device_stays_a_privacy_error(sdk):
    with pytest.raises(PrivacyError):
        sdk.call(sdk.make(None, FakeServer("large", [answer("x")])).ask("hi", private=True))
