"""The scopes that come with Crayon, and scopes from files."""

from __future__ import annotations

import itertools

import pytest
from sdk_fakes import COLOURS, Fake

from crayon import InvalidRequestError, Scope, load_scope, scope_names
from crayon.data.scope_files import read_scope


def test_names():
    assert scope_names() == ("healthy-habits", "nature-basics")


@pytest.mark.parametrize("name", scope_names())
def test_shipped_scopes_are_whole_and_their_test_queries_are_held_out(name):
    scope, table = load_scope(name), read_scope(name)
    assert scope.name == table["name"] == name
    assert scope.description
    assert len(scope.examples) >= 12
    assert len(table["own"]) >= 20
    assert len(table["foreign"]) >= 20
    groups = [{text.casefold() for text in texts} for texts in (scope.examples, table["own"], table["foreign"])]
    assert sum(map(len, groups)) == len(scope.examples) + len(table["own"]) + len(table["foreign"])
    for one, other in itertools.combinations(groups, 2):
        assert not one & other


def test_a_scope_from_a_file(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(f'name = "mine"\nthreshold = 0.5\nexamples = {[f"query {i}" for i in range(9)]}\n')
    scope = load_scope(str(path))
    assert (scope.name, scope.threshold, len(scope.examples)) == ("mine", 0.5, 9)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"name = ", "not TOML"),
        (b"\xff\xfe", "not TOML"),
        (b"", "lacks name and examples"),
        (b'name = "a"', "lacks examples"),
        (b'name = "a"\nexamples = ["one"]', "at least 8"),
        (b'name = "a"\nexamples = "one"', "list of texts"),
        (b'name = "a"\nexamples = ["one"]\ndescription = 3', "description"),
        (b"#" * (1 << 20 | 1), "larger than"),
    ],
)
def test_a_file_that_holds_no_scope_is_refused(tmp_path, content, words):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(InvalidRequestError, match=words):
        load_scope(str(path))


@pytest.mark.parametrize(
    ("name", "words"),
    [("nonsense", "there are healthy-habits"), ("missing.toml", "cannot be read"), ("../quality", "is unknown")],
)
def test_an_unknown_scope_is_refused(name, words):
    with pytest.raises(InvalidRequestError, match=words):
        load_scope(name)


def test_a_question_is_embedded_in_the_form_that_scopes_are_kept_in(sdk):
    device = Fake("small")
    client = sdk.make(device, Fake("large"), scopes=[Scope("colours", COLOURS)])
    sdk.call(client.ask("e\u0301te\u0301?"))
    assert device.encoded[-1].texts == ("\u00e9t\u00e9?",)
