"""The texts of ours that the runtime measures with."""

from __future__ import annotations

from crayon.data.texts import background_texts, everyday_groups


def test_every_everyday_group_says_its_one_thing_in_five_ways() -> None:
    groups = everyday_groups()
    assert len(groups) >= 80
    assert all(len(group) >= 5 for group in groups)
    assert all(text.strip() == text and text for group in groups for text in group)


def test_no_everyday_text_stands_twice() -> None:
    texts = [text.casefold() for group in everyday_groups() for text in group]
    assert len(set(texts)) == len(texts)


def test_everyday_texts_and_background_texts_share_none() -> None:
    background = {text.casefold() for text in background_texts()}
    assert not [text for group in everyday_groups() for text in group if text.casefold() in background]


def test_everyday_groups_are_read_once_and_cannot_be_changed() -> None:
    groups = everyday_groups()
    assert everyday_groups() is groups
    assert isinstance(groups, tuple)
    assert {type(group) for group in groups} == {tuple}
