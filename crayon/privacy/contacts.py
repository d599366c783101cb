"""E-mail addresses and phone numbers in a folded text."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from crayon.privacy.finding import EMAIL, PHONE, Finding

if TYPE_CHECKING:
    from collections.abc import Iterator

# Every repeat is bounded or cannot be entered twice at one place, here and in the rooms' other patterns: reading a text
# takes time in proportion to its length, whatever it holds.
_AT = r"(?:@| ?[\[({<] ?(?:@|at|a) ?[\])}>] ?)"
# The full stop of Chinese and Japanese is a dot between letters that need none.
_DOT = r"(?:\.|(?<=[a-z0-9])\u3002(?=[a-z0-9])| ?[\[({<] ?(?:\.|dot|punkt|point|punto) ?[\])}>] ?)"
_TOP = r"(?:xn--[a-z0-9-]{2,59}|[a-z]{2,24}|[^\W\d_]{2,24})"
_DOMAIN = re.compile(rf"{_AT}(?:[\w-]{{1,63}}{_DOT}){{1,8}}{_TOP}", re.IGNORECASE)
# With gaps around it, or an address in place of a name, only what cannot well be anything else: code has such @, too.
_KNOWN = (
    "com|org|net|edu|gov|mil|int|info|biz|io|ai|app|dev|me|co|tv|xyz|online|site|email|cloud|tech|shop|eu|us|uk|ca|au|nz"
    "|ie|in|de|at|ch|fr|be|nl|lu|es|pt|it|gr|pl|cz|sk|hu|ro|bg|hr|si|rs|se|no|dk|fi|is|ee|lv|lt|ua|ru|by|tr|il|ae|sa|eg"
    "|za|ng|ke|ma|jp|kr|cn|tw|hk|sg|my|th|vn|id|ph|pk|br|ar|cl|pe|mx|ve|example|test|invalid"
)
_GAP = r"(?:[ \t]{0,3}\n?[> \t]{0,4})"
_SPACED = re.compile(
    rf"(?:@(?=\s)|(?<=\s)@){_GAP}(?:[\w-]{{2,63}} ?\. ?){{1,4}}(?:{_KNOWN})(?![\w(=])(?!\.\w)", re.IGNORECASE
)
# Wrapped at the last dot. "me" and "in" begin a sentence, too.
_WRAPPED = re.compile(
    rf"@[\w-]{{2,63}}(?:\.[\w-]{{1,63}}){{0,4}}[ \t]{{0,3}}"
    rf"(?:\n[> \t]{{0,4}}\.(?:{_KNOWN})|\.\n[> \t]{{0,4}}(?:com|org|net|edu|gov))"
    r"(?![\w(=])(?!\.\w)",
    re.IGNORECASE,
)
_ROUTED = re.compile(r"@\[(?:ipv6:[0-9a-f:.]{2,45}|[0-9]{1,3}(?:\.[0-9]{1,3}){3})\]", re.IGNORECASE)
_SPACED_LOCAL = re.compile(r"[A-Za-z0-9_\u00c0-\u024f][\w.%+-]{1,63}(?=\s{0,4}\Z)")
_QUOTED_LOCAL = re.compile(r"\"[^\"\n]{1,62}\"\Z")
_LOCAL = re.compile(r"[A-Za-z\u00c0-\u024f0-9._%+'&*=/?^{}|~!#$-]{1,64}\Z")
_LOCAL_ANY = re.compile(r"[\w.%+'-]{1,64}\Z")
# Pictures for dense screens, and how git spells a repository.
_NO_MAIL = re.compile(r"@[23]x\.(?:png|jpe?g|gif|webp|svg)\Z", re.IGNORECASE)

_REST = r"(?:[ ().\-/\u00b7]{0,4}[0-9])"
_WRAPPED_REST = r"(?:[ ().\-/\u00b7\n>\t]{0,4}[0-9])"
_LEFT = r"(?<![\w.,+/:-])"
_PHONES = (
    # +49 30 1234567, +1 (415) 555-2671
    re.compile(rf"(?<![\w+])\+ ?\(?[1-9]{_WRAPPED_REST}{{6,14}}(?![0-9])"),
    # 0049 30 1234567
    re.compile(rf"{_LEFT}00 ?[1-9]{_REST}{{8,13}}(?![\w])"),
    # 0043 1 58858; rows of numbers begin with noughts, or are as long as each other
    re.compile(rf"{_LEFT}00[2-9][0-9]{{1,2}}(?:[ /-][1-9][0-9]{{0,3}}){{1,3}}[ /-][1-9][0-9]{{4,7}}(?!\w|[ ][0-9])"),
    # (415) 555-2671, 415.555.2671, 415/555-2671, 1-415-555-2671; not out of a row of numbers
    re.compile(
        rf"{_LEFT}(?<![0-9][ ])(?:1[ .-])?(?:\([2-9][0-9]{{2}}\) ?-?|[2-9][0-9]{{2}}[ ./-])"
        r"[2-9][0-9]{2}[ .-][0-9]{4}(?!\w|[ ][0-9]{2})"
    ),
    # 030 1234567, (0171) 123 45 67, 06 12 34 56 78; a date is none
    re.compile(
        rf"{_LEFT}(?![0-9]{{1,2}}[./-][0-9]{{1,2}}[./-](?:[0-9]{{4}}|[0-9]{{2}})(?![./-]?[0-9]))"
        r"(?:\(0\) ?)?\(?0[1-9][0-9]{0,4}\)?(?:[ ./-]{1,3}[0-9]{2,8}){1,5}(?!\w)"
    ),
    # 0612345678
    re.compile(rf"{_LEFT}0[1-9][0-9]{{8,9}}(?![\w])"),
    # 8 (912) 345-67-89, 89123456789
    re.compile(
        rf"{_LEFT}8[ -]?(?:\([3489][0-9]{{2}}\)|[3489][0-9]{{2}})[ -]?[0-9]{{3}}[ -]?[0-9]{{2}}[ -]?[0-9]{{2}}(?!\w)"
    ),
    # (11) 91234-5678, 11 91234-5678
    re.compile(rf"{_LEFT}(?:\([1-9][0-9]\)|[1-9][0-9]) ?(?:9[0-9]{{4}}|[2-5][0-9]{{3}})-[0-9]{{4}}(?!\w)"),
    # 138 0013 8000, 13800138000
    re.compile(rf"{_LEFT}1[3-9][0-9][ -][0-9]{{4}}[ -][0-9]{{4}}(?!\w)|{_LEFT}1[3-9][0-9]{{9}}(?!\w)(?<!0000)"),
    # 98765-43210
    re.compile(rf"{_LEFT}[6-9][0-9]{{4}}-[0-9]{{5}}(?![\w-])"),
    # 612 34 56 78, 91 234 56 78, 347 123 4567
    re.compile(
        rf"{_LEFT}(?:[67][0-9]{{2}}(?:[ .-][0-9]{{2}}){{3}}|9[0-9][ .-][0-9]{{3}}[ .-][0-9]{{2}}[ .-][0-9]{{2}}"
        r"|3[2-9][0-9][ .-][0-9]{3}[ .-][0-9]{4})(?![\w]|[ .-][0-9])"
    ),
    # https://wa.me/4915112345678
    re.compile(r"(?<=wa\.me/)\+?[1-9][0-9]{7,14}(?![0-9])"),
)
_WORDS = (
    r"tel|tél|tlf|tfno|phone|telephone|telefon|telefono|teléfono|telefone|téléphone|telefoon|telefonnummer|mobile|mobil"
    r"|mobiel|móvil|movil|cellulare|celular|telemóvel|komórka|mob|cell|handy|handynummer|rufnummer|portable|whatsapp|sms"
    r"|fax|landline|hotline|phone number|contact number|телефон|тел|мобильный"
    r"|звоните|позвоните|номер|电话|手机|電話|携帯|전화"
)
_CALLS = (
    r"(?:call|text|ring|phone|reach|dial|message)(?: (?:me|us|her|him|them))?(?: (?:at|on|under))?"
    r"|ll[aá]m[ae]\w{0,3}(?: al)?"
    r"|appel\w{1,4}(?:[ -]moi)?(?: au)?|ruf\w{0,3}(?: (?:mich|uns))?(?: (?:an|unter))?"
    r"|chiam\w{1,4}(?: al)?|lig\w{1,3}(?: para)?"
    r"|bel(?: me| mij)?(?: op)?|dzwo[nń]\w{0,3}"
)
_MY = (
    r"(?:my|our|his|her|mein\w{0,2}|unser\w{0,2}|mi|mon|notre|mio|il mio|la mia|minha"
    r"|meu|mijn|min|mitt|mój|мой|我的|私の)"
)
_NUMBER = r"(?:number|no|nummer|nr|número|numero|numéro|numer|номер)"
# After one of these words 9 digits are a phone number, fewer where they stand right behind it; before "my phone", too.
_CALLED = (
    re.compile(
        rf"(?<!\w)(?:{_WORDS}|{_MY} {_NUMBER})(?!\w)[^0-9+\n]{{0,24}}(\+?[0-9]{_REST}{{8,14}})(?![0-9])", re.IGNORECASE
    ),
    re.compile(rf"(?<!\w)(?:{_CALLS})[ :]{{1,3}}(\+?[0-9]{_REST}{{6,14}})(?![0-9])", re.IGNORECASE),
    re.compile(rf"(?<!\w)(?:{_WORDS})(?!\w)[^0-9+\n\w]{{0,4}}(\+?[0-9]{_REST}{{6,14}})(?![0-9])", re.IGNORECASE),
    re.compile(
        rf"{_LEFT}(\+?\(?[0-9]{_REST}{{8,14}})(?![0-9])[^0-9\n\w]{{0,4}}(?:\w{{1,4}} )?{_MY}"
        rf" \w{{0,9}} ?(?:{_WORDS}|{_NUMBER})(?!\w)",
        re.IGNORECASE,
    ),
    re.compile(rf"{_LEFT}(\+?\(?[0-9]{_REST}{{8,14}}) ?\((?:{_WORDS})\)", re.IGNORECASE),
)
_FEWEST, _MOST = 9, 15
_ANY_LENGTH = frozenset({0, len(_PHONES) - 1})
_COUNTING = frozenset({"01234567890", "0123456789"})


def find_emails(text: str) -> Iterator[Finding]:
    """Yield e-mail addresses, those written with (at), [dot], spaces or a machine's number too."""
    for found in _DOMAIN.finditer(text):
        before = text[max(0, found.start() - 64) : found.start()]
        local = _LOCAL.search(before) or _LOCAL_ANY.search(before)
        if local is None or _NO_MAIL.match(found[0]):
            continue
        if local[0].rpartition("/")[2] == "git" and text[found.end() : found.end() + 1] in {":", "/"}:
            continue
        yield Finding(found.start() - len(local[0]), found.end(), EMAIL)
    for pattern, locals_ in (
        (_SPACED, (_SPACED_LOCAL,)),
        (_WRAPPED, (_LOCAL, _QUOTED_LOCAL)),
        (_ROUTED, (_LOCAL, _QUOTED_LOCAL)),
        (_DOMAIN, (_QUOTED_LOCAL,)),
    ):
        for found in pattern.finditer(text):
            before = text[max(0, found.start() - 70) : found.start()]
            local = next(filter(None, (each.search(before) for each in locals_)), None)
            if local is not None:
                yield Finding(found.start() - len(before) + local.start(), found.end(), EMAIL)


def find_phones(text: str) -> Iterator[Finding]:
    """Yield phone numbers: with a country code, in the usual national spellings, or after a word such as "phone"."""
    for i, pattern in enumerate(_PHONES):
        for found in pattern.finditer(text):
            digits = "".join(char for char in found[0] if char.isdigit())
            if (i in _ANY_LENGTH or _FEWEST <= len(digits) <= _MOST) and digits not in _COUNTING:
                yield Finding(found.start(), found.end(), PHONE)
    for pattern in _CALLED:
        for found in pattern.finditer(text):
            yield Finding(found.start(1), found.end(1), PHONE)
