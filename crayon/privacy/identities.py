"""National ids in a folded text, told by their check characters where they have any."""

from __future__ import annotations

import re
from importlib import import_module
from typing import TYPE_CHECKING

from crayon.privacy.finding import NATIONAL_ID, Finding

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

_SEPARATORS = re.compile(r"[ .\-/]")
_NO_NINO = frozenset({"BG", "GB", "KN", "NK", "NT", "TN", "ZZ"})
_FREE = r"(?<![A-Za-z0-9])"
_END = r"(?![A-Za-z0-9])"
# An omocodia writes letters for digits.
_DIGIT = "[0-9LMNPQRSTUV]"


def _ssn(value: str) -> bool:
    return value[:3] not in {"000", "666"} and value[0] != "9" and value[3:5] != "00" and value[5:] != "0000"


def _nino(value: str) -> bool:
    return value[:2] not in _NO_NINO


def _checked(kind: str) -> Callable[[str], bool]:
    """Return the library's check, imported (20 ms) with the first text that holds what looks like such an id."""
    return lambda value: bool(import_module(f"stdnum.{kind}").is_valid(value))


def _codice_fiscale(value: str) -> bool:
    from stdnum.it import codicefiscale

    # Not whether its date of birth is one: better one too many.
    return codicefiscale.calc_check_digit(value[:15]) == value[15]


def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(text, re.IGNORECASE)


# Each with what decides on the value, in capitals and without separators.
_IDS: tuple[tuple[re.Pattern[str], Callable[[str], bool]], ...] = (
    # United States, social security number: no check digit, so only as it is written, or after its name
    (_pattern(r"(?<![\w.-])[0-9]{3}([ .-])[0-9]{2}\1[0-9]{4}(?![\w-])"), _ssn),
    (
        _pattern(
            r"(?:\bssn|social(?: security|\s))[^0-9\n]{0,24}"
            rf"(?P<value>[0-9]{{3}}[ .-]?[0-9]{{2}}[ .-]?[0-9]{{4}}){_END}"
        ),
        _ssn,
    ),
    # United Kingdom, national insurance number
    (_pattern(rf"{_FREE}[A-CEGHJ-PR-TW-Z][A-CEGHJ-NPR-TW-Z](?:[ -]?[0-9]{{2}}){{3}}[ -]?[A-D]{_END}"), _nino),
    # Germany, tax id
    (_pattern(rf"{_FREE}(?<![.,])[1-9](?:[ ./-]?[0-9]){{10}}{_END}"), _checked("de.idnr")),
    # France, NIR (numéro de sécurité sociale), with its key
    (
        _pattern(
            rf"{_FREE}[1-478] ?[0-9]{{2}} ?[0-9]{{2}} ?(?:[0-9]{{2}}|2[AB])"
            rf" ?[0-9]{{3}} ?[0-9]{{3}}[ /-]{{0,3}}[0-9]{{2}}{_END}"
        ),
        _checked("fr.nir"),
    ),
    # Spain, DNI and NIE
    (
        _pattern(rf"{_FREE}(?:[0-9]{{8}}|[0-9]{{2}}[. ][0-9]{{3}}[. ][0-9]{{3}})[ -]?[A-HJ-NP-TV-Z]{_END}"),
        _checked("es.dni"),
    ),
    (
        _pattern(rf"{_FREE}[XYZ][ .-]?(?:[0-9]{{7}}|[0-9][. ][0-9]{{3}}[. ][0-9]{{3}})[ .-]?[A-HJ-NP-TV-Z]{_END}"),
        _checked("es.nie"),
    ),
    # Italy, codice fiscale
    (
        _pattern(
            rf"{_FREE}[A-Z]{{3}} ?[A-Z]{{3}} ?{_DIGIT}{{2}}[A-EHLMPRST]{_DIGIT}{{2}} ?[A-Z]{_DIGIT}{{3}}[A-Z]{_END}"
        ),
        _codice_fiscale,
    ),
)


def find_national_ids(text: str) -> Iterator[Finding]:
    """Yield national ids of the United States, the United Kingdom, Germany, France, Spain and Italy."""
    for pattern, right in _IDS:
        group = "value" if "value" in pattern.groupindex else 0
        for found in pattern.finditer(text):
            if right(_SEPARATORS.sub("", found[group]).upper()):
                yield Finding(found.start(group), found.end(group), NATIONAL_ID)
