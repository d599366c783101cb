"""What is found, what is not, and that nothing hides a number."""

from __future__ import annotations

import sys
import types

import pytest

from crayon.errors import InvalidRequestError, MissingExtraError
from crayon.privacy import (
    BuiltInDetector,
    Finding,
    PatternDetector,
    PresidioDetector,
    Restorer,
    Scanner,
    detectors_of,
    redact,
)

CARD = "4111 1111 1111 1111"
FOUND = [
    ("ada@example.com", "email"),
    ("ada (at) example [dot] com", "email"),
    ("müller@bücher.de", "email"),
    ("+49 30 1234567", "phone"),
    ("(415) 555-2671", "phone"),
    ("06.12.34.56.78", "phone"),
    (CARD, "card"),
    ("378282246310005", "card"),
    ("4111-1111-1111-1111", "card"),
    ("DE89 3704 0044 0532 0130 00", "iban"),
    ("GB82WEST12345698765432", "iban"),
    ("078-05-1120", "national_id"),
    ("AB 12 34 56 C", "national_id"),
    ("86 095 742 719", "national_id"),
    ("2 55 08 14 168 025 38", "national_id"),
    ("12345678Z", "national_id"),
    ("X1234567L", "national_id"),
    ("RSSMRA85T10A562S", "national_id"),
    ("AKIAIOSFODNN7EXAMPLE", "secret"),
    ("ghp_" + "a1" * 18, "secret"),
    ("glpat-" + "a1" * 10, "secret"),
    ("xoxb-123456789012-abcdef", "secret"),
    ("AIza" + "a1_b-" * 7, "secret"),
    ("sk-proj-abcdefghijklmnop1234567890", "secret"),
    ("eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxIn0.abc", "secret"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "secret"),
]


@pytest.mark.parametrize(("value", "kind"), FOUND)
def test_each_kind_is_found_whole(value, kind):
    text = f"Please note: {value} thanks"
    found = [item for item in BuiltInDetector([kind]).find(text) if text[item.start : item.end] == value]
    assert found


@pytest.mark.parametrize(
    "text",
    [
        "4111 1111 1111 1112",  # Luhn
        "DE88 3704 0044 0532 0130 00",  # mod 97
        "12345678A",
        "X1234567A",
        "RSSMRA85T10A562T",
        "86095742710",
        "000-12-3456",
        "0.1+0.2=0.30000000000000004",
        "2024-01-01 2024-01-02 03",
        "05/06/2024 12:30",
        "192.168.1.1",
        "01.02.2024 12",
        "git@github.com:org/repo",
        "icon@2x.png",
        "@app.route",
        "1234567890123456",
        "ISBN 978-3-16-148410-0",
        "1700000000000",
        "sk-learn-something-long-name-here",
        "package@1.2.3",
        "20240101T120000",
    ],
)
def test_what_only_looks_alike_is_not_found(text):
    kinds = {item.kind for item in BuiltInDetector(["email", "card", "iban", "national_id", "secret"]).find(text)}
    assert kinds == set()


@pytest.mark.parametrize(
    "text",
    [
        "\uff14" + "\uff11" * 15,
        "4111\u00a01111\u202f1111\u20091111",
        "4111\u200b1111\u2060111\ufeff1\u00ad1111",
        "4111\u20111111\u20131111\u22121111",
        "\u0664\u0661\u0661\u0661 1111 1111 1111",
        "4\u03321\u03321\u03321 1111 1111 1111",
        "4 1 1 1 1 1 1 1 1 1 1 1 1 1 1 1",
        "\u202e4111\x001111\x1f1111 1111",
    ],
)
def test_nothing_hides_a_card_number(text):
    given = f"card {text}."
    (found,) = BuiltInDetector(["card"]).find(given)
    assert given[found.start : found.end] == text.lstrip("\u202e")


def test_patterns_find_by_name_and_through_zero_width_characters():
    detector = PatternDetector("staff", r"E[0-9]{5}")
    assert detector.find("E12345") == [Finding(0, 6, "staff")]
    assert Finding(0, 7, "staff") in detector.find("E1\u200b2345")


def test_a_pattern_that_takes_too_long_counts_as_found():
    scan = Scanner([PatternDetector("slow", r"(a|a)+c")]).scan(["a" * 60 + "b"])
    assert scan
    assert scan.undecided == ("slow",)


def test_a_detector_that_fails_or_lies_counts_as_found():
    class Bad:
        name = "bad"

        def find(self, text):
            raise RuntimeError(text)

    class Liar(Bad):
        def find(self, text):
            return [Finding(5, 500, "x")]

    for detector in (Bad(), Liar()):
        assert Scanner([detector]).scan(["hello"]).undecided == ("bad",)


@pytest.mark.parametrize(
    ("name", "pattern"), [("staff", "("), ("Staff", "a"), ("email", "a"), ("x", ""), ("x", 5), ("x" * 41, "a")]
)
def test_a_pattern_that_cannot_be_used_is_named(name, pattern):
    with pytest.raises(InvalidRequestError) as caught:
        PatternDetector(name, pattern)
    assert caught.value.field == f"privacy.patterns.{name}"


def test_presidio_is_an_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "presidio_analyzer", None)
    with pytest.raises(MissingExtraError, match="presidio"):
        detectors_of(["presidio"], {})


def test_presidio_answers_behind_the_same_protocol(monkeypatch):
    class AnalyzerEngine:
        def analyze(self, text, language, entities, score_threshold):
            start = text.index("Ada")
            return [types.SimpleNamespace(start=start, end=start + 3, entity_type="PERSON")]

    monkeypatch.setitem(sys.modules, "presidio_analyzer", types.SimpleNamespace(AnalyzerEngine=AnalyzerEngine))
    assert Scanner([PresidioDetector()]).scan(["I am Ada"]).counts == {"person": 1}


# -- placeholders


def redacted(*texts):
    scan = Scanner([BuiltInDetector()]).scan(texts)
    return redact(texts, scan.texts)


def test_the_same_value_gets_the_same_placeholder_in_all_texts():
    done = redacted("ada@x.org and bob@x.org", "ADA@x.org", f"{CARD} is 4111111111111111")
    assert done.texts == ("[EMAIL_1] and [EMAIL_2]", "[EMAIL_1]", "[CARD_1] is [CARD_1]")


def test_a_value_found_by_its_context_is_replaced_where_it_stands_alone_too():
    assert redacted("call me at 5551234567", "is 5551234567 free?").texts[1] == "is [PHONE_1] free?"


def test_a_placeholder_that_the_text_holds_already_is_not_used():
    done = redacted("[EMAIL_1] is not ada@x.org")
    assert done.texts == ("[EMAIL_1] is not [EMAIL_2]",)


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_originals_come_back_however_the_text_is_cut(size):
    restorer = Restorer({"[EMAIL_1]": "ada@x.org", "[EMAIL_10]": "bob@x.org"})
    text = "to [EMAIL_1], [email_10] [EMAIL_2] a[0] [EMAIL_1"
    pieces = [restorer.push(text[i : i + size]) for i in range(0, len(text), size)]
    assert "".join([*pieces, restorer.finish()]) == "to ada@x.org, bob@x.org [EMAIL_2] a[0] [EMAIL_1"
