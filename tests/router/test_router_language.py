"""Which languages a text may be in; where it cannot be told, nothing is said."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from crayon.router.language import LANGUAGES, possible_languages

LATIN = [
    ("en", "How can I sleep better when it is hot outside?"),
    ("en", "What is the difference between a virus and a bacterium?"),
    ("en", "Please write a short poem about the sea for my sister, who lives there."),
    ("de", "Wie kann ich besser schlafen, wenn es draußen heiß ist?"),
    ("de", "Was ist der Unterschied zwischen einem Virus und einem Bakterium?"),
    ("de", "Schreibe mir ein kurzes Gedicht über das Meer und die Berge."),
    ("fr", "Comment est-ce que je peux mieux dormir quand il fait chaud dehors ?"),
    ("fr", "Quelle est la différence entre un virus et une bactérie ?"),
    ("fr", "Écris un petit poème sur la mer pour ma sœur qui vit dans les montagnes."),
    ("es", "¿Cómo puedo dormir mejor cuando hace calor en la casa?"),
    ("es", "¿Cuál es la diferencia entre un virus y una bacteria?"),
    ("es", "Escribe un poema corto sobre el mar para mi hermana y su hijo."),
    ("it", "Come posso dormire meglio quando fuori fa molto caldo?"),
    ("it", "Qual è la differenza tra un virus e un batterio?"),
    ("it", "Scrivi una breve poesia sul mare per mia sorella che non è mai stata nella città."),
    ("pt", "Como posso dormir melhor quando está muito quente lá fora?"),
    ("pt", "Qual é a diferença entre um vírus e uma bactéria?"),
    ("pt", "Você pode escrever um poema sobre o mar para a minha irmã?"),
    ("nl", "Hoe kan ik beter slapen als het buiten warm is?"),
    ("nl", "Wat is het verschil tussen een virus en een bacterie?"),
    ("nl", "Schrijf een kort gedicht over de zee voor mijn zus die in de bergen woont."),
]
OTHER = [
    ("ru", "Как мне лучше спать, когда на улице жарко?"),
    ("uk", "Як мені краще спати, коли надворі спекотно?"),
    ("el", "Πώς μπορώ να κοιμηθώ καλύτερα;"),  # noqa: RUF001 # it is Greek
    ("he", "איך אפשר לישון טוב יותר?"),
    ("ar", "كيف يمكنني أن أنام بشكل أفضل؟"),
    ("hi", "मैं बेहतर कैसे सो सकता हूँ?"),
    ("ta", "நான் எப்படி நன்றாக தூங்குவது?"),
    ("th", "ฉันจะนอนหลับดีขึ้นได้อย่างไร"),
    ("ko", "어떻게 하면 더 잘 잘 수 있을까요?"),
    ("ja", "どうすればよく眠れますか"),
    ("ja", "東京の天気は?カタカナ"),
    ("zh", "我怎样才能睡得更好?"),
    ("ka", "როგორ დავიძინო უკეთ?"),
]


@pytest.mark.parametrize(("language", "text"), LATIN)
def test_sentences_in_latin_letters(language, text):
    assert possible_languages(text) == {language}


@pytest.mark.parametrize(("language", "text"), OTHER)
def test_sentences_in_other_scripts(language, text):
    assert language in possible_languages(text)


def test_a_script_that_several_languages_share_names_them_all():
    assert {"ru", "uk", "bg"} <= possible_languages("Привет")
    assert possible_languages("東京") == {"ja", "zh"}


@pytest.mark.parametrize(
    "text",
    [
        "",
        "?!",
        "42 + 17",
        "hi",
        "ok thanks",
        "Berlin",
        "import os; print(os.environ)",
        "```python\nfor the of and in is are you: pass\n```",
        "https://example.org/the/of/and/is/are/you",
        "Hur kan jag sova bättre när det är varmt ute?",  # Swedish
        "Jak mogę lepiej spać, kiedy na zewnątrz jest gorąco?",  # Polish
        "Hogyan tudok jobban aludni, ha meleg van?",  # Hungarian
        "привет hello мир world",
    ],
)
def test_what_cannot_be_told_is_not_told(text):
    assert possible_languages(text) == frozenset()


def test_a_foreign_word_does_not_change_the_language():
    assert possible_languages("What does the word Schadenfreude mean, and how do you say it?") == {"en"}
    assert possible_languages("What does the Russian word привет mean, and how is it spelled?") == {"en"}


@given(st.text())
def test_any_text_gets_known_languages_or_none(text):
    assert possible_languages(text) <= LANGUAGES


def test_a_very_long_text_is_judged_by_its_beginning():
    assert possible_languages("Why is the sea salty and how did it get there? " * 100 + "ы" * 2_000_000) == {"en"}
