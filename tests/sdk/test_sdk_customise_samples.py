"""Samples that are odd: one alone, one answer, a hundred of them, one written in several ways."""

from __future__ import annotations

import unicodedata

import pytest
from custom_fakes import Device, about
from sdk_fakes import SURE, answer

from crayon import InvalidRequestError
from crayon.customising.store import CustomizationStore
from crayon.sdk.call.choosing import check_choices

QUESTIONS = [question for question, _ in about("colour", 100)]


@pytest.fixture
def folder(tmp_path):
    return tmp_path / "customizations"


def customised(sdk, folder, samples, **options):
    client = sdk.make(Device("small", [answer("a b", SURE)]), customizations_dir=folder)
    found = sdk.call(client.customize("mine", samples, **options))
    assert CustomizationStore(folder).load("mine") == found
    assert sdk.call(client.ask("what colour is the sky", blend="mine")).route.customization == "mine"
    return found


@pytest.mark.parametrize("check", [True, False])
def test_a_single_sample_promises_nothing(sdk, folder, check):
    found = customised(sdk, folder, [(QUESTIONS[0], "red")], check=check)
    assert found.expectation is None
    assert found.note.startswith("a single answered sample cannot be checked")


@pytest.mark.parametrize("check", [True, False])
def test_one_answer_of_all_samples_is_said_to_teach_no_other(sdk, folder, check):
    found = customised(sdk, folder, [(question, "red") for question in QUESTIONS[:8]], check=check)
    assert found.expectation.metric == "logprob", "among one answer nothing is right or wrong"
    assert found.note.startswith("all samples have one answer, so nothing says when another one is right")


def test_a_hundred_answers_of_one_sample_each_are_free_texts(sdk, folder):
    found = customised(sdk, folder, [(question, f"thing {i}") for i, question in enumerate(QUESTIONS)])
    assert (found.samples, found.expectation.metric) == (100, "logprob")
    assert found.note == ""


def test_an_answer_written_in_several_ways_is_one_and_that_is_said(sdk, folder):
    ways = ["Café", "thé", "café ", unicodedata.normalize("NFD", "Café"), "CAFÉ", "Thé", "thé", "café"]
    found = customised(sdk, folder, list(zip(QUESTIONS, ways, strict=False)))
    assert found.expectation.metric == "accuracy"
    assert found.note == (
        "2 answers were written in several ways (case, Unicode form or spaces): the first of them counts"
    )
    assert {sample.answer for sample in CustomizationStore(folder).samples("mine")} == {"Café", "thé"}
    assert not any(way.strip() in found.note for way in ways), "notes are exported"


def test_several_things_to_be_known_are_all_said(sdk, folder):
    found = customised(sdk, folder, list(zip(QUESTIONS, ["Red", "red"] * 8, strict=False)), check=False)
    assert [note.split(",")[0] for note in found.note.split("; ")] == [
        "1 answer was written in several ways (case",
        "all samples have one answer",
        "only the quick check was made",
    ]


def test_choices_are_compared_in_one_unicode_form_and_given_back_as_they_were_written(sdk, folder):
    apart = unicodedata.normalize("NFD", "été")
    assert check_choices([apart, "hiver"]) == ("été", "hiver")
    with pytest.raises(InvalidRequestError, match=r"choices\[1\]: is the same text as choices\[0\]"):
        check_choices([apart, "été"])
    device = Device("small")
    client = sdk.make(device, customizations_dir=folder)
    chosen = sdk.call(client.choose("what season is it", [apart, "the winter"]))
    assert device.scored[0].continuations == ("été", "the winter")
    assert (chosen.index, chosen.text) == (0, apart)
