"""What a user shows of a task: questions, with their answers where there are any."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeAlias

from crayon.errors import InvalidRequestError
from crayon.messages import check_unicode
from crayon.text_form import one_form, same_key

MAX_SAMPLES = 1000
MAX_CHOICES = 100
# Answers that are cut out of their questions, and numbers: others will come, unless each was seen this often.
OFTEN = 3.0


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of a task, its texts in one Unicode form (NFC).

    Args:
        question: what the user would ask, the text of one user message.
        answer: what should be answered, or None where it is not known.
        choices: the answers among which `answer` is one, if the task is a choice. It is kept as it is written there.

    Raises:
        InvalidRequestError: a text is empty, two choices are the same text (Unicode form and spaces around it aside),
            or the answer is not one of the choices (letter case aside too).
    """

    question: str
    answer: str | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        object.__setattr__(self, "question", _text("question", self.question))
        if self.answer is not None:
            object.__setattr__(self, "answer", _text("answer", self.answer))
        choices: object = self.choices
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise InvalidRequestError("choices", "must be a list of texts")
        if not choices:
            object.__setattr__(self, "choices", ())
            return
        texts = tuple(_text(f"choices[{i}]", choice) for i, choice in enumerate(choices))
        if not 2 <= len(texts) <= MAX_CHOICES or len({text.strip() for text in texts}) != len(texts):
            raise InvalidRequestError("choices", f"must be 2 to {MAX_CHOICES} different texts")
        if self.answer is not None and self.answer not in texts:
            alike = [text for text in texts if same_key(text) == same_key(self.answer)]
            if len(alike) != 1:
                raise InvalidRequestError("answer", "is none of the choices")
            object.__setattr__(self, "answer", alike[0])
        object.__setattr__(self, "choices", texts)


SampleLike: TypeAlias = Sample | str | tuple[str, str] | Mapping[str, object]

_PAIRS = (("question", "answer"), ("prompt", "completion"), ("text", None))
_KNOWN = frozenset({"question", "answer", "choices", "prompt", "completion", "text", "messages"})


def as_samples(values: Iterable[SampleLike]) -> tuple[Sample, ...]:
    """Return checked samples from texts, (question, answer) pairs, records as in a sample file, or `Sample`s.

    Raises:
        InvalidRequestError: none, too many, a wrong one, or two that contradict each other; names it by index.
    """
    if isinstance(values, str | Mapping) or not isinstance(values, Iterable):
        raise InvalidRequestError("samples", "must be a list of samples, or the path of a sample file")
    found: list[tuple[str, Sample]] = []
    for i, value in enumerate(values):
        place = f"samples[{i}]"
        found += ((place, sample) for sample in from_record(place, value))
        check_count(len(found))
    return checked(found)


def checked(found: Sequence[tuple[str, Sample]]) -> tuple[Sample, ...]:
    """Return the samples of (place, sample) pairs without repetitions, in their order.

    Raises:
        InvalidRequestError: none or too many, or one question with two answers; `place` names the second.
    """
    if not found:
        raise InvalidRequestError("samples", "there are none; give at least one, 8 or more are a better start")
    check_count(len(found))
    first: dict[str, tuple[str, Sample]] = {}
    for place, sample in found:
        key = _key(sample.question)
        before, other = first.setdefault(key, (place, sample))
        if other.answer is None or sample.answer is None:
            # A question with its answer tells more than the question alone.
            first[key] = (before, sample if other.answer is None else other)
        elif _key(sample.answer) != _key(other.answer):
            raise InvalidRequestError(place, f"asks what {before} asks, with another answer; keep one of the two")
    return tuple(sample for _, sample in first.values())


def check_count(count: int) -> None:
    """Raise InvalidRequestError if there are more samples than can be used."""
    if count > MAX_SAMPLES:
        raise InvalidRequestError(
            "samples", f"are more than {MAX_SAMPLES}, which is the most; choose some of them, 16 to 64 are plenty"
        )


def from_record(place: str, value: object) -> list[Sample]:
    """Return the samples of one record: usually one, of a conversation one for each user message.

    Raises:
        InvalidRequestError: the record is wrong; the field begins with `place`.
    """
    try:
        return _parse(value)
    except InvalidRequestError as error:
        raise InvalidRequestError(f"{place}.{error.field}" if error.field else place, error.problem) from None


def closed_answers(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the answers of a task whose answers are a closed set of 2 to 100, as they were written first; else ().

    They are one if every answered sample has the same choices, in whatever order. Else it is told from how often the
    answers repeat. Of n answers, the share that came once is about the chance that the next one is a new one (Good and
    Turing), so a set is closed if

    - at most a third came once; or
    - two or more came again, and at most half came once, or there are at most two thirds as many answers as samples.

    So 16 samples of 10 labels are closed, some of them with one sample. 16 samples with 15 answers are free texts of
    which two are equal by chance; and so are many that came once beside a single one that repeats ("unknown"). Answers
    that mostly are words of their questions, or numbers, are closed only if each was seen three times, on average.
    """
    answered = [sample for sample in samples if sample.answer is not None]
    key = answer_key(answered)
    sets = {frozenset(map(key, sample.choices)) for sample in answered}
    if len(sets) == 1 and answered[0].choices:
        return answered[0].choices
    if len(sets - {frozenset()}) > 1:
        return ()  # each question has choices of its own
    spelled: dict[str, str] = {}
    for sample in answered:
        for text in _answers(sample):
            spelled.setdefault(key(text), text)
    counts = Counter(key(sample.answer or "") for sample in answered)
    if len(counts) < 2 or len(spelled) > MAX_CHOICES or not _repeat(list(counts.values())):
        return ()
    if 2 * sum(map(_found_or_counted, answered)) > len(answered) and len(answered) < OFTEN * len(counts):
        return ()
    return tuple(spelled.values())


def one_spelling(samples: Sequence[Sample]) -> tuple[tuple[Sample, ...], int]:
    """Return the samples with each answer as it was written first, and how many were written in several ways.

    Answers that differ only by case, Unicode form or spaces around them are one, unless somebody is to choose between
    them. In one that was written in several ways, those spaces are left out.
    """
    key = answer_key(samples)
    written: dict[str, dict[str, None]] = {}
    for sample in samples:
        for text in _answers(sample):
            written.setdefault(key(text), {})[text] = None
    several = {of: next(iter(texts)).strip() for of, texts in written.items() if len(texts) > 1}
    if not several:
        return tuple(samples), 0

    def first(text: str) -> str:
        return several.get(key(text), text)

    found = (
        replace(
            sample,
            answer=None if sample.answer is None else first(sample.answer),
            choices=tuple(map(first, sample.choices)),
        )
        for sample in samples
    )
    return tuple(found), len(several)


def _answers(sample: Sample) -> tuple[str, ...]:
    return (*sample.choices, *(() if sample.answer is None else (sample.answer,)))


def by_answer(samples: Sequence[Sample], numbers: Iterable[int]) -> list[int]:
    """Return numbers of samples in groups of one answer, as the answers were met; those of a group in their order.

    Whoever deals samples out in this order, or takes every second one, is fair to each answer, even where the samples
    were given with their answers in turn.
    """
    key = answer_key(samples)
    groups: dict[str | None, list[int]] = {}
    for number in numbers:
        answer = samples[number].answer
        groups.setdefault(None if answer is None else key(answer), []).append(number)
    return [number for group in groups.values() for number in group]


def answer_key(samples: Iterable[Sample]) -> Callable[[str], str]:
    """Return what makes two answers one: case aside, unless choices tell them apart by nothing else."""
    apart: set[str] = set()
    for choices in {sample.choices for sample in samples}:
        keys = Counter(map(same_key, choices))
        apart |= {key for key, count in keys.items() if count > 1}
    return lambda text: text.strip() if same_key(text) in apart else same_key(text)


def _found_or_counted(sample: Sample) -> bool:
    """Return whether an answer stands in its question, or is a number."""
    answer = same_key(sample.answer or "")
    number = any(map(str.isdigit, answer)) and not any(map(str.isalpha, answer))
    # "no" does not stand in "know"; but not every script has spaces between its words.
    pattern = rf"(?<!\w){re.escape(answer)}(?!\w)" if answer.isascii() else re.escape(answer)
    return number or re.search(pattern, same_key(sample.question)) is not None


def _repeat(counts: Sequence[int]) -> bool:
    """Return whether answers that came so often are likely to be all that there are."""
    samples, once, again = sum(counts), counts.count(1), sum(count > 1 for count in counts)
    return 3 * once <= samples or (again >= 2 and (2 * once <= samples or 3 * len(counts) <= 2 * samples))


def _parse(value: object) -> list[Sample]:
    if isinstance(value, Sample):
        return [value]
    if isinstance(value, str):
        return [Sample(value)]
    if isinstance(value, tuple) and len(value) == 2:
        return [Sample(*value)]
    if not isinstance(value, Mapping):
        raise InvalidRequestError("", f"must be a record, a text or a (question, answer) pair, not {_name(value)}")
    unknown = sorted(str(key) for key in value if key not in _KNOWN)
    if "messages" in value:
        return _from_messages(value["messages"])
    for question, answer in _PAIRS:
        if question in value:
            choices = value.get("choices") or ()
            given = value.get(answer) if answer else None
            if isinstance(choices, str) or not isinstance(choices, Sequence):
                raise InvalidRequestError("choices", "must be a list of texts")
            return [Sample(value[question], given, tuple(choices))]
    hint = f" (it has {', '.join(unknown[:3])})" if unknown else ""
    raise InvalidRequestError("", f"has no question{hint}; name it question, prompt, text or messages")


def _from_messages(messages: object) -> list[Sample]:
    if isinstance(messages, str) or not isinstance(messages, Sequence):
        raise InvalidRequestError("messages", "must be a list of {'role', 'content'}")
    found: list[Sample] = []
    for i, message in enumerate(messages):
        if not isinstance(message, Mapping) or not isinstance(message.get("content"), str):
            raise InvalidRequestError(f"messages[{i}]", "must be {'role', 'content'} with text")
        role, content = message.get("role"), message["content"]
        if role == "user":
            found.append(Sample(content))
        elif role == "assistant":
            if found and found[-1].answer is None and content.strip():
                found[-1] = Sample(found[-1].question, content)
        elif role != "system":
            raise InvalidRequestError(f"messages[{i}].role", "must be system, user or assistant")
    if not found:
        raise InvalidRequestError("messages", "holds no user message")
    return found


def _text(field: str, value: object) -> str:
    """Return a text in one Unicode form."""
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"must be text, not {_name(value)}")
    if not value.strip():
        raise InvalidRequestError(field, "is empty")
    check_unicode(field, value)
    return one_form(value)


def _key(text: str) -> str:
    return " ".join(same_key(text).split())


def _name(value: object) -> str:
    return "null" if value is None else type(value).__name__
