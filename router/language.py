"""Which languages a text may be in: by its script, and for a few languages in Latin letters by their small words.

Made to be sure rather than complete: of a short text, a mixture or any other language it says nothing.
"""

from __future__ import annotations

import re
from bisect import bisect_right
from collections import Counter

# Where a script begins and ends, and the languages that are written in it. Sorted; what lies between counts for none.
_SCRIPTS: tuple[tuple[int, int, str], ...] = (
    (0x0041, 0x024F, "latin"),
    (0x0370, 0x03FF, "greek"),
    (0x0400, 0x052F, "cyrillic"),
    (0x0530, 0x058F, "armenian"),
    (0x0590, 0x05FF, "hebrew"),
    (0x0600, 0x06FF, "arabic"),
    (0x0750, 0x077F, "arabic"),
    (0x0900, 0x097F, "devanagari"),
    (0x0980, 0x09FF, "bengali"),
    (0x0A00, 0x0A7F, "gurmukhi"),
    (0x0A80, 0x0AFF, "gujarati"),
    (0x0B80, 0x0BFF, "tamil"),
    (0x0C00, 0x0C7F, "telugu"),
    (0x0C80, 0x0CFF, "kannada"),
    (0x0D00, 0x0D7F, "malayalam"),
    (0x0D80, 0x0DFF, "sinhala"),
    (0x0E00, 0x0E7F, "thai"),
    (0x0E80, 0x0EFF, "lao"),
    (0x0F00, 0x0FFF, "tibetan"),
    (0x1000, 0x109F, "burmese"),
    (0x10A0, 0x10FF, "georgian"),
    (0x1100, 0x11FF, "hangul"),
    (0x1200, 0x139F, "ethiopic"),
    (0x1780, 0x17FF, "khmer"),
    (0x1E00, 0x1EFF, "latin"),
    (0x1F00, 0x1FFF, "greek"),
    (0x3040, 0x30FF, "kana"),
    (0x31F0, 0x31FF, "kana"),
    (0x3400, 0x4DBF, "han"),
    (0x4E00, 0x9FFF, "han"),
    (0xAC00, 0xD7AF, "hangul"),
    (0xF900, 0xFAFF, "han"),
    (0xFB1D, 0xFB4F, "hebrew"),
    (0xFB50, 0xFDFF, "arabic"),
    (0xFE70, 0xFEFF, "arabic"),
    (0x20000, 0x3134F, "han"),
)
_STARTS = [start for start, _, _ in _SCRIPTS]
_WRITTEN_IN: dict[str, tuple[str, ...]] = {
    "greek": ("el",),
    "cyrillic": ("be", "bg", "kk", "ky", "mk", "mn", "ru", "sr", "tg", "uk"),
    "armenian": ("hy",),
    "hebrew": ("he", "yi"),
    "arabic": ("ar", "ckb", "fa", "ps", "sd", "ug", "ur"),
    "devanagari": ("hi", "mr", "ne", "sa"),
    "bengali": ("as", "bn"),
    "gurmukhi": ("pa",),
    "gujarati": ("gu",),
    "tamil": ("ta",),
    "telugu": ("te",),
    "kannada": ("kn",),
    "malayalam": ("ml",),
    "sinhala": ("si",),
    "thai": ("th",),
    "lao": ("lo",),
    "tibetan": ("bo",),
    "burmese": ("my",),
    "georgian": ("ka",),
    "hangul": ("ko",),
    "ethiopic": ("am", "ti"),
    "khmer": ("km",),
    "kana": ("ja",),
    "han": ("ja", "zh"),
}
_SMALL_WORDS: dict[str, frozenset[str]] = {
    language: frozenset(words.split())
    for language, words in {
        "en": "the of and to is are was were you your it its that this what which who how why when where do does did "
        "can could would should have has had with for from not be been will my i we they he she if there about an",
        "de": "der die das den dem des ein eine einen einem einer und ist sind war nicht ich du er sie wir ihr mein "
        "dein mit für von zu zum zur auf im ins bei nach wie was wer wo wann warum kann können wird werden habe hat "
        "haben auch noch nur oder aber wenn dass über sich mir mich dich man gibt",
        "fr": "le la les un une des du de et est sont était je tu il elle nous vous ils mon ma mes ton votre avec pour "
        "dans sur par pas ne que qui quoi quel quelle comment pourquoi où quand au aux ce cette ces peut faire plus "
        "mais ou si être avoir c'est qu'est",
        "es": "el la los las un una unos de del y es son está era yo tú él ella nosotros mi mis tu su sus con para por "
        "en no que qué quién cómo cuál cuándo dónde al lo se le puede puedo hacer más pero o si hay ser muy como "
        "este esta",
        "it": "il lo la gli le un una uno di del della dei delle e è sono era io tu lui lei noi mio mia con per in non "
        "che chi cosa come quando dove perché al alla nel nella si può posso fare più ma o se essere molto quale "
        "questo questa ho hai qual",
        "pt": "o a os as um uma uns de do da dos das e é são era eu você ele ela nós meu minha seu sua com para por em "
        "no na não que quem como qual quando onde ao se pode posso fazer mais mas ou ser muito isso este esta "
        "está há",
        "nl": "de het een en is zijn was ik jij je hij zij wij we mijn jouw met voor van naar op in niet dat die wat "
        "wie hoe waar wanneer waarom kan kunnen wordt worden heb heeft hebben ook nog maar of als er aan bij om te "
        "dit deze zich",
    }.items()
}
LANGUAGES = frozenset(_SMALL_WORDS) | {code for codes in _WRITTEN_IN.values() for code in codes}

# More is not needed to be sure, and a question may bring a whole book along.
_LOOKED_AT = 4000
_LEAST_LETTERS = 2
_MAIN_SCRIPT = 0.6
_LEAST_WORDS = 3
_LEAST_SHARE = 0.25
_LEAD = 1.3
_NO_PROSE = re.compile(r"```.*?(?:```|\Z)|`[^`\n]*`|\S+://\S+|\S+@\S+", re.DOTALL)
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")


def possible_languages(text: str) -> frozenset[str]:
    """Return the languages (ISO 639 codes) that a text may be in; empty: it cannot be told."""
    text = _NO_PROSE.sub(" ", text[:_LOOKED_AT])
    scripts = Counter(script for char in text if char.isalpha() and (script := _script(char)))
    letters = sum(scripts.values())
    if letters < _LEAST_LETTERS:
        return frozenset()
    if scripts["kana"] and scripts["kana"] + scripts["han"] >= _MAIN_SCRIPT * letters:
        return frozenset({"ja"})
    main, count = scripts.most_common(1)[0]
    if count < _MAIN_SCRIPT * letters:
        return frozenset()
    return _latin(text) if main == "latin" else frozenset(_WRITTEN_IN[main])


def _script(char: str) -> str:
    place = bisect_right(_STARTS, ord(char)) - 1
    if place < 0:
        return ""
    _, end, script = _SCRIPTS[place]
    return script if ord(char) <= end else ""


def _latin(text: str) -> frozenset[str]:
    words = _WORD.findall(text.lower().replace("\N{RIGHT SINGLE QUOTATION MARK}", "'"))
    hits = Counter({language: sum(word in small for word in words) for language, small in _SMALL_WORDS.items()})
    (best, first), (_, second) = hits.most_common(2)
    sure = first >= _LEAST_WORDS and first >= _LEAST_SHARE * len(words) and first >= _LEAD * second
    return frozenset({best}) if sure else frozenset()
