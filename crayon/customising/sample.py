"""What a user shows of a task: questions, with their answers where there are any."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from crayon.errors import InvalidRequestError
from crayon.messages import check_unicode

MAX_SAMPLES = 1000
MAX_CHOICES = 100
# Few different answers over all samples are taken for a fixed set of labels.
MAX_LABELS = 20


@dataclass(frozen=True, slots=True)
class Sample:
    """One example of a task.

    Args:
        question: what the user would ask, the text of one user message.
        answer: what should be answered, or None where it is not known.
        choices: the answers among which `answer` is one, if the task is a choice.

    Raises:
        InvalidRequestError: a text is empty, or the answer is not one of the choices.
    """

    question: str
    answer: str | None = None
    choices: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        _text("question", self.question)
        if self.answer is not None:
            _text("answer", self.answer)
        choices: object = self.choices
        if isinstance(choices, str) or not isinstance(choices, Sequence):
            raise InvalidRequestError("choices", "must be a list of texts")
        if not choices:
            object.__setattr__(self, "choices", ())
            return
        for i, choice in enumerate(choices):
            _text(f"choices[{i}]", choice)
        if not 2 <= len(choices) <= MAX_CHOICES or len(set(choices)) != len(choices):
            raise InvalidRequestError("choices", f"must be 2 to {MAX_CHOICES} different texts")
        if self.answer is not None and self.answer not in choices:
            raise InvalidRequestError("answer", "is none of the choices")
        object.__setattr__(self, "choices", tuple(choices))


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


def choices_of(samples: Sequence[Sample]) -> tuple[str, ...]:
    """Return the labels of the task if the answers are few and each question has one: 2 to 20 of them, else ()."""
    answers = [sample.answer for sample in samples if sample.answer is not None]
    labels = tuple(dict.fromkeys(answers))
    # As many answers as questions are answers, not labels.
    return labels if 2 <= len(labels) <= MAX_LABELS and len(labels) < len(answers) else ()


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


def _text(field: str, value: object) -> None:
    if not isinstance(value, str):
        raise InvalidRequestError(field, f"must be text, not {_name(value)}")
    if not value.strip():
        raise InvalidRequestError(field, "is empty")
    check_unicode(field, value)


def _key(text: str) -> str:
    return " ".join(text.split()).casefold()


def _name(value: object) -> str:
    return "null" if value is None else type(value).__name__
