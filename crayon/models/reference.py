"""Model references: what users write to say which model they mean."""

from __future__ import annotations

import hashlib
import re
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from crayon.errors import UnknownModelError
from crayon.models.catalogue import RESERVED, Catalogue, CatalogueEntry
from crayon.models.source import HubSource, PypiSource, Wanted

_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[\w.-]*(?<!\.gguf)")
_QUANTIZATION = re.compile(r"[A-Za-z0-9_]+")
FORMS = "a path, a catalogue name (`crayon models ls`), hf:owner/repo:QUANT or pypi:package==version"


@dataclass(frozen=True, slots=True)
class PathReference:
    """A GGUF file on this machine."""

    path: Path


AUTO = RESERVED


def is_auto(reference: object) -> bool:
    """Whether a reference leaves the choice of the device's model to Crayon. A file of that name is `./auto`."""
    return isinstance(reference, str) and reference.strip().lower() == AUTO


Reference: TypeAlias = PathReference | CatalogueEntry | Wanted


def parse_reference(text: str, catalogue: Catalogue) -> Reference:
    """Return what `text` stands for: an existing file, a catalogue entry, or something to fetch from PyPI or the hub.

    Raises:
        UnknownModelError: it is none of these; the message says which form it looked like and what is wrong with it.
    """
    if not text.strip() or "\0" in text:
        raise UnknownModelError(f"the model reference is empty; give {FORMS}")
    if is_auto(text):
        raise UnknownModelError(f"{AUTO!r} stands for whichever model suits the device; here, name one: {FORMS}")
    if text.startswith("hf:"):
        return _hub(text)
    if text.startswith("pypi:"):
        return _pypi(text)
    path = Path(text).expanduser()
    if path.is_file():
        return PathReference(path)
    entry = catalogue.get(text)
    if entry is not None:
        return entry
    if path.is_dir():
        raise UnknownModelError(f"{text} is a directory; name the GGUF file in it")
    if "://" in text:
        raise UnknownModelError(f"{text}: addresses are not fetched, nothing would vouch for the file; give {FORMS}")
    if "/" in text or text.endswith(".gguf"):
        hub = f"; if it is of Hugging Face: hf:{text}:Q4_K_M" if _REPOSITORY.fullmatch(text) else ""
        raise UnknownModelError(f"there is no file {text}{hub}")
    return catalogue.find(text)


def _hub(text: str) -> Wanted:
    owner, _, rest = text.removeprefix("hf:").partition("/")
    try:
        if ":" in rest:
            name, _, quantization = rest.partition(":")
            if not _QUANTIZATION.fullmatch(quantization):
                raise ValueError(f"{quantization!r} is no quantization such as Q4_K_M")
            source = HubSource(f"{owner}/{name}", quantization=quantization.upper())
        else:
            name, _, file = rest.partition("/")
            if not file.endswith(".gguf"):
                raise ValueError("name a quantization (hf:owner/repo:Q4_K_M) or a .gguf file of the repository")
            source = HubSource(f"{owner}/{name}", file)
    except ValueError as error:
        raise UnknownModelError(f"{text}: {error}; write hf:owner/repo:QUANT or hf:owner/repo/file.gguf") from None
    return Wanted(text, _file_name(text), (source,))


def _pypi(text: str) -> Wanted:
    try:
        source = PypiSource((text.removeprefix("pypi:"),))
    except ValueError as error:
        raise UnknownModelError(f"{text}: {error}; write pypi:package==version") from None
    return Wanted(text, _file_name(text), (source,))


def _file_name(text: str) -> str:
    # The digest keeps two references apart whose cleaned names agree.
    cleaned = re.sub(r"[^A-Za-z0-9._-]+", "-", text.removesuffix(".gguf")).strip("-.")[:80]
    return f"{cleaned}-{hashlib.sha256(text.encode()).hexdigest()[:8]}.gguf"
