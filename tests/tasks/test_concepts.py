"""Names, kinds and the held-out share: nothing that pretraining reads beside an image names a
held-out concept.
"""

import re
from collections import Counter

import captions  # recipes/captions.py
import pytest
from hypothesis import given
from hypothesis import strategies as st

from copra_lab.tasks.emoji.concepts import (
    GENERIC,
    KINDS,
    SYNONYMS,
    concepts,
    held_out_names,
    mentions,
    plain,
)

HELD_OUT = sorted(held_out_names())
KIND_WORDS = {plain(w) + s for w in GENERIC | set(KINDS.values()) for s in ("", "s")}
"""A held-out concept may share one of these with others: a dog is a mammal, and so is what
pretraining sees.
"""

PHOTOGRAPHED = [name for names in captions.PHOTO_KINDS.values() for name in names.split(", ")]
"""The classes of CIFAR-100 and Tiny ImageNet."""

words = st.text("abcdefghijklmnopqrstuvwxyz", min_size=1, max_size=8)


@pytest.fixture(scope="module")
def caption_names() -> set[str]:
    """Every name that pretraining may put beside an image, of every source."""
    emoji = {name for names in captions.emoji_names() for name in names}
    icons = {name for style in ("mdi", "fa") for name in captions.icon_names(style) if name}
    photos = {name for name in PHOTOGRAPHED if captions.seen_photo(name)}
    return emoji | icons | {name for own in photos for name in captions.names_of_photo(own)}


def test_no_caption_names_a_held_out_concept(caption_names):
    """Searched for without `mentions`, which decides it: as whole words, singular or plural."""
    forbidden = {name for c in concepts() if c.held_out for name in c.names} - KIND_WORDS
    pattern = re.compile(rf"\b(?:{'|'.join(map(re.escape, forbidden))})(?:s|es)?\b")
    assert len(forbidden) > 600
    assert len(caption_names) > 4000
    assert {name: m.group() for name in caption_names if (m := pattern.search(name))} == {}


def test_no_held_out_drawing_has_a_caption():
    by_key = {c.key: c for c in concepts()}
    shown = [
        by_key[key]
        for key, names in zip(
            captions.drawings("openmoji").keys, captions.emoji_names(), strict=True
        )
        if names
    ]
    assert len(shown) > 1000
    assert not any(c.held_out for c in shown)


def test_no_caption_names_a_digit(caption_names):
    assert [name for name in caption_names if re.search(r"\d", name)] == []


def test_about_a_third_is_held_out_in_every_kind():
    total, held = (
        Counter(c.kind for c in concepts()),
        Counter(c.kind for c in concepts() if c.held_out),
    )
    assert 0.25 < held.total() / total.total() < 0.4
    assert [kind for kind, n in total.items() if n >= 20 and not 0.05 < held[kind] / n < 0.95] == []


def test_photographs_lose_classes_too():
    assert len(PHOTOGRAPHED) == len(set(PHOTOGRAPHED)) == 290  # 100 and 200, 10 of them the same
    assert 40 <= sum(not captions.seen_photo(name) for name in PHOTOGRAPHED) <= 60


def test_what_a_photograph_is_called_besides_is_held_out_with_it():
    """A monarch is a butterfly: drawings of butterflies are held out, so its photographs are."""
    assert captions.names_of_photo("monarch") == ("monarch", "butterfly")
    assert captions.seen("monarch")
    assert not captions.seen_photo("monarch")
    assert captions.names_of_photo("tabby") == ("tabby", "cat")
    assert captions.seen_photo("tabby")
    known = set(PHOTOGRAPHED)
    assert {name for names in captions.IS_A.values() for name in names.split(", ")} <= known


@pytest.mark.parametrize("group", SYNONYMS)
def test_synonyms_are_held_out_together(group):
    assert (
        len(
            {
                mentions(name, held_out_names())
                for name in group.split(", ")
                if name not in KIND_WORDS
            }
        )
        == 1
    )


def test_all_names_of_a_held_out_concept_are_held_out():
    left = {
        name
        for c in concepts()
        if c.held_out
        for name in c.names
        if not mentions(name, held_out_names())
    }
    assert left <= KIND_WORDS


def test_names_tell_concepts_apart():
    assert len({c.key for c in concepts()}) == len(concepts())
    assert [name for name, n in Counter(c.name for c in concepts()).items() if n > 1] == [
        "man in tuxedo"
    ]  # the data names two alike
    assert all(c.kind in KINDS.values() and c.name == plain(c.name) for c in concepts())


@given(st.text())
def test_plain_leaves_words_and_changes_nothing_twice(text):
    once = plain(text)
    assert re.fullmatch(r"(?:[a-z0-9]+(?: [a-z0-9]+)*)?", once)
    assert not re.search(r"[a-z]\d+$", once)
    assert plain(once) == once


@given(st.sampled_from(HELD_OUT), words, words)
def test_a_name_is_found_between_other_words(name, before, after):
    assert mentions(f"a {before} {name.upper()}, {after}", held_out_names())


@given(st.sampled_from([n for n in HELD_OUT if len(n.split()[-1]) > 2 and n[-1] != "s"]))
def test_a_name_is_found_in_the_plural(name):
    assert mentions(f"two {name}s", held_out_names())


@given(st.sampled_from([n for n in HELD_OUT if " " not in n]), words, words)
def test_a_name_within_a_longer_word_is_not_found(name, before, after):
    assert not mentions(f"{before}{name}{after}x", {name})
