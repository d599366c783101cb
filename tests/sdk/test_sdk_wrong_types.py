"""Whatever is passed for whatever argument, only errors of ours come out."""

from __future__ import annotations

import contextlib
import inspect
import math

import pytest
from sdk_fakes import Fake

import crayon
from crayon import Crayon, CrayonError, InvalidRequestError
from crayon.sdk.call.engine_options import DEVICE_OPTIONS, SERVER_OPTIONS
from crayon.sdk.call.options import CALL_FIELDS, SIDE_FIELDS

ODD = [
    0, -1, 1.5, math.nan, math.inf, 10**30, "", "\0", "\ud800", b"x", [], {}, (), set(), object(), "a" * 10_000,
    {"x": 1}, {1: 2}, True, None, [None], [[]], "/dev/null", "/", "~nobody/x", "host:99999", "hf:", int, len,
    "\0.json", "\ud800.json", "\0.toml", "\ud800.toml",
]  # fmt: skip
# What an argument needs to be looked at at all.
NEEDED = {
    "messages": "hi", "choices": ["a", "b"], "continuations": ["a", "b"], "texts": "hi", "name": "mine",
    "path": "x.json", "role": "user", "content": "hi", "examples": ["a"], "question": "q", "pool_id": "p",
    "weights": (1.0,), "samples": [{"question": "q", "answer": "a"}], "text": "hi", "others": [], "functions": [],
}  # fmt: skip
VALUES = [
    "Blend", "Budget", "Conditions", "Hardness", "MaxDeviceError", "Message", "MinQuality", "Privacy", "Sample",
    "Sampling", "Scope", "ServerShare", "load_scope", "read_samples",
]  # fmt: skip
METHODS = [name for name, _ in inspect.getmembers(Crayon, callable) if not name.startswith("_") and name != "close"]


def named(function):
    """Return the names of a function's arguments, with those of the typed keywords that it takes."""
    names = []
    for parameter in list(inspect.signature(function).parameters.values()):
        if parameter.name == "self" or parameter.kind is parameter.VAR_POSITIONAL:
            continue
        if parameter.kind is parameter.VAR_KEYWORD:
            names += SIDE_FIELDS if "Side" in str(parameter.annotation) else CALL_FIELDS
        else:
            names.append(parameter.name)
    return names


def only_ours(call):
    try:
        call()
    except CrayonError:
        pass
    except Exception as error:  # noqa: BLE001 - that is what is looked for
        return f"{type(error).__name__}: {error}"
    return None


def escaped(make, arguments):
    found = {}
    for argument in arguments:
        for value in ODD:
            said = only_ours(lambda argument=argument, value=value: make(argument, value))
            if said:
                found[f"{argument}={value!r}"[:60]] = said[:200]
    return found


@pytest.fixture(autouse=True)
def elsewhere(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)


@pytest.mark.parametrize("name", ["Crayon", "AsyncCrayon"])
def test_a_client_is_made_or_refused(name, tmp_path):
    kind = getattr(crayon, name)

    def make(argument, value):
        kind(**{"device": Fake("small"), "customizations_dir": tmp_path / "c", argument: value})

    assert escaped(make, named(kind.__init__)) == {}


@pytest.mark.parametrize("field", ["device_options", "server_options"])
def test_options_of_engines_are_taken_or_refused_by_name(field):
    for value in ["x", "", 0, False, [], (), b"x", 5, object()]:
        with pytest.raises(InvalidRequestError, match=f"^{field}: must be a mapping of options"):
            Crayon(Fake("small"), **{field: value})
    known = DEVICE_OPTIONS if field == "device_options" else SERVER_OPTIONS
    assert escaped(lambda name, value: Crayon(Fake("small"), **{field: {name: value}}), known) == {}


@pytest.mark.parametrize("value", [5, b"x", [], object(), "\0", "\ud800"])
def test_a_folder_of_customisations_is_a_path(value):
    with pytest.raises(InvalidRequestError, match=r"^customizations_dir: "):
        Crayon(Fake("small"), customizations_dir=value)


@pytest.mark.parametrize("name", VALUES)
def test_a_value_is_made_or_refused(name):
    kind = getattr(crayon, name)
    parameters = inspect.signature(kind).parameters.values()
    needed = {each.name: NEEDED.get(each.name, 0.5) for each in parameters if each.default is each.empty}
    with contextlib.suppress(CrayonError):
        kind(**needed)
    assert escaped(lambda argument, value: kind(**{**needed, argument: value}), named(kind)) == {}


@pytest.mark.parametrize("name", METHODS)
def test_a_call_answers_or_is_refused(name, tmp_path):
    with Crayon(Fake("small"), Fake("large"), customizations_dir=tmp_path / "c") as client:
        method = getattr(client, name)
        arguments = named(method)

        def call(argument, value):
            found = method(**{**{key: NEEDED[key] for key in arguments if key in NEEDED}, argument: value})
            if name == "stream":
                list(found)

        assert escaped(call, arguments) == {}


def test_a_conversation_answers_or_is_refused():
    with Crayon(Fake("small"), Fake("large")) as client:
        assert (
            escaped(
                lambda argument, value: client.chat().ask(**{"text": "hi", argument: value}), ["text", *CALL_FIELDS]
            )
            == {}
        )
