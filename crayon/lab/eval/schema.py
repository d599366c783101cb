"""How many JSON schemas of others can be kept, and whether answers under them are valid documents on each side."""

from __future__ import annotations

import hashlib
import json
import re
import time
from collections import Counter, deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from crayon.completion import FinishReason
from crayon.constraint import Constraint, ConstraintKind
from crayon.constraints import check_constraint
from crayon.engine import Delta, Finished, GenerateRequest
from crayon.errors import CrayonError, InvalidRequestError, MissingExtraError
from crayon.messages import Message
from crayon.sampling import Sampling

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping, Sequence
    from pathlib import Path

    from crayon.engine import Engine, Stream

QUESTION = "Write a short example of such a document."
AT_ONCE = 8


@dataclass(frozen=True, slots=True)
class NamedSchema:
    """A schema by its name, with the hash of its file."""

    name: str
    schema: Any
    sha256: str = ""


@dataclass(slots=True)
class Side:
    """What came of the schemas at one engine; names of those of each kind."""

    valid: list[str] = field(default_factory=list)
    invalid: list[str] = field(default_factory=list)
    cut: list[str] = field(default_factory=list)
    refused: dict[str, str] = field(default_factory=dict)
    failed: dict[str, str] = field(default_factory=dict)


@dataclass(slots=True)
class SchemaReport:
    """What was measured. `refused` says why, by name; `compile_ms` is how long it took to find out."""

    schemas: int
    refused: dict[str, str]
    compile_ms: list[float]
    sides: dict[str, Side]
    sample_sha256: str = ""
    """Of `listed`: tells which schemas these were."""

    @property
    def accepted(self) -> float:
        """The share that can be kept."""
        return 1 - len(self.refused) / self.schemas if self.schemas else 0.0

    @property
    def disagreements(self) -> list[str]:
        """Schemas that the sides refuse in different words, or not all of them."""
        found = [*(side.refused for side in self.sides.values()), self.refused]
        names = sorted({name for refused in found for name in refused})
        return [name for name in names if len({refused.get(name) for refused in found}) > 1]

    def as_json(self) -> dict[str, Any]:
        """Return it as plain values; schemas stand in it by name, and no text of theirs."""
        times = sorted(self.compile_ms)
        return {
            "schemas": self.schemas,
            "sample_sha256": self.sample_sha256,
            "accepted": self.accepted,
            "refused": len(self.refused),
            "why": dict(Counter(map(reason, self.refused.values())).most_common()),
            "compile_ms": {str(q): times[min(int(q * len(times)), len(times) - 1)] for q in (0.5, 0.95, 0.99, 1.0)}
            if times
            else {},
            "disagreements": self.disagreements,
            "sides": {
                name: {
                    "valid": len(side.valid),
                    "invalid": side.invalid,
                    "cut": len(side.cut),
                    "refused": len(side.refused),
                    "failed": side.failed,
                }
                for name, side in self.sides.items()
            },
        }


def reason(message: str) -> str:
    """Return why a schema was refused, without its own words: the keyword, or the first words of the message."""
    keywords = re.findall(r"keywords? ('[^']*'(?: (?:and|or) '[^']*')*)", re.sub(r" at /\S*", "", message))
    return str(keywords[0]) if keywords else " ".join(message.split()[1:4])


def read_cases(folder: Path, most: int) -> list[NamedSchema]:
    """Return up to `most` of the schemas in a folder's `*.json` files: always the same ones, by their names' hash.

    A file holds a schema, or an object with one under "schema", as JSONSchemaBench's do.

    Raises:
        InvalidRequestError: there is none.
    """
    files = sorted(folder.rglob("*.json"), key=lambda file: hashlib.sha256(file.name.encode()).hexdigest())
    cases: list[NamedSchema] = []
    for file in files:
        if len(cases) >= most:
            break
        try:
            data = file.read_bytes()
            found = json.loads(data)
        except (OSError, ValueError):
            continue
        schema = found.get("schema", found) if isinstance(found, dict) else None
        if isinstance(schema, dict):
            cases.append(NamedSchema(file.name, schema, hashlib.sha256(data).hexdigest()))
    if not cases:
        raise InvalidRequestError("folder", f"{folder} holds no *.json with a schema")
    return cases


def evaluate_schemas(
    cases: Sequence[NamedSchema],
    sides: Mapping[str, Engine],
    *,
    max_tokens: int,
    tell: Callable[[str, int, int], None] = lambda *_: None,
) -> SchemaReport:
    """Check each schema, and have each engine write a document of it.

    Args:
        cases: the schemas.
        sides: engines by what they are called.
        max_tokens: of a document.
        tell: is told the side, how many are done, and of how many.

    Raises:
        MissingExtraError: `jsonschema` is not installed, and there are sides.
    """
    validator = _validator() if sides else None
    refused: dict[str, str] = {}
    times: list[float] = []
    for case in cases:
        begun = time.perf_counter()
        try:
            check_constraint(_constraint(case))
        except InvalidRequestError as error:
            refused[case.name] = str(error)
        times.append(1000 * (time.perf_counter() - begun))
    found = {name: Side() for name in sides}
    for name, engine in sides.items():
        for i, (case, text) in enumerate(_answers(engine, cases, max_tokens), 1):
            _book(found[name], case, text, validator)
            tell(name, i, len(cases))
    sample = hashlib.sha256(listed(cases).encode()).hexdigest()
    return SchemaReport(len(cases), refused, times, found, sample)


def listed(cases: Sequence[NamedSchema]) -> str:
    """Return the hashes and names of schemas, a line each: what has to be the same for two results to be compared."""
    return "".join(f"{case.sha256}  {case.name}\n" for case in cases)


def _constraint(case: NamedSchema) -> Constraint:
    return Constraint(ConstraintKind.SCHEMA, json.dumps(case.schema, ensure_ascii=False), show=False)


def _answers(
    engine: Engine, cases: Iterable[NamedSchema], max_tokens: int
) -> Iterable[tuple[NamedSchema, tuple[str, FinishReason] | CrayonError]]:
    running: deque[tuple[NamedSchema, Stream | CrayonError]] = deque()
    for case in cases:
        try:
            request = GenerateRequest(
                messages=(Message("user", QUESTION),),
                sampling=Sampling(max_tokens=max_tokens),
                constraint=_constraint(case),
                signals=False,
            )
            running.append((case, engine.generate(request)))
        except CrayonError as error:
            running.append((case, error))
        if len(running) >= AT_ONCE:
            yield _read(*running.popleft())
    while running:
        yield _read(*running.popleft())


def _read(
    case: NamedSchema, stream: Stream | CrayonError
) -> tuple[NamedSchema, tuple[str, FinishReason] | CrayonError]:
    if isinstance(stream, CrayonError):
        return case, stream
    text, last = "", FinishReason.LENGTH
    try:
        for event in stream:
            if isinstance(event, Delta):
                text += event.text
            elif isinstance(event, Finished):
                last = event.finish_reason
    except CrayonError as error:
        return case, error
    return case, (text, last)


def _book(side: Side, case: NamedSchema, answer: tuple[str, FinishReason] | CrayonError, validator: Any) -> None:
    if isinstance(answer, InvalidRequestError):
        side.refused[case.name] = str(answer)
    elif isinstance(answer, CrayonError):
        side.failed[case.name] = str(answer)
    elif answer[1] is FinishReason.LENGTH:
        side.cut.append(case.name)
    else:
        try:
            validator.validators.validator_for(case.schema)(case.schema).validate(json.loads(answer[0]))
        except (ValueError, validator.ValidationError):
            side.invalid.append(case.name)
        except Exception as error:  # noqa: BLE001 - the validator does not know every schema
            side.failed[case.name] = f"the validator: {type(error).__name__}"
        else:
            side.valid.append(case.name)


def _validator() -> Any:
    try:
        import jsonschema.validators
    except ImportError:
        raise MissingExtraError("eval", "checking documents by their schemas") from None
    return jsonschema
