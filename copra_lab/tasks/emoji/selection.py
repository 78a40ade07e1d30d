"""Which drawings a task shows, their labels, and their parts (train, val or test).

Parts are assigned by hashing names, the same on every machine and for every seed. A drawing is in
one part only, with its twin in the other style and with its near copies (man/woman, left/right,
colours of one shape).
"""

import hashlib
import itertools
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, TypeVar

import torch

from copra_lab.tasks.emoji.concepts import DIGIT_GLYPHS, Concept, concepts, held_out_names, mentions
from copra_lab.tasks.emoji.drawings import drawings
from copra_lab.tasks.splits import PARTS
from copra_lab.utils.extras import needs

T = TypeVar("T")

TEST_SHARE, VAL_SHARE = 0.45, 0.15
"""Shares of each class; the rest trains."""

MOST_TEST, MOST_NAMES = 1200, 40
"""Test images of a task at most, and classes of a task with one class for each thing."""

NEAR_COPY_WORDS = frozenset(
    "man woman person men women people boy girl child adult older mans womans mx father mother "
    "happy with slightly facing left right pointing leftwards rightwards up down upwards downwards "
    "large small medium heavy face symbol sign black white red orange yellow green blue purple "
    "brown grey pink light dark".split()
)
"""Concepts whose names differ only in these words look much the same."""

ICON_VARIANTS = frozenset(
    "outline variant side simple alt open closed full empty multiple box circle large small front "
    "back fast half vintage layered badge bold thin".split()
)
"""Last words of an icon's name that change how a thing is drawn, not what it is."""

AMBIGUOUS_ICONS = frozenset(
    "seal apple boom bank link label chart pound seat computer eject".split()
)
"""Names that mean something else as an icon: mdi's ``seal`` is made of wax."""

VAGUE_KINDS = frozenset(("symbol", "object", "emotion symbol", "person", "person symbol"))
"""Kinds that the drawings of another kind would fit as well."""

GROUPS = {
    "animal": "mammal;bird;sea animal;insect;reptile;amphibian;face of a cat;face of a monkey",
    "plant": "flower;plant",
    "food": "fruit;vegetable;meal;asian food;seafood;dessert;drink",
    "vehicle": "land vehicle;boat;aircraft",
    "building": "building;place of worship",
    "landscape": "scenery;landscape;weather",
    "face": "happy face;loving face;face with tongue;face with hand;doubtful face;sleepy face;"
    "sick face;face with hat;face with glasses;sad face;angry face;costume face",
    "person": "gesturing person;worker;fantasy figure;active person;athlete;resting person",
    "hand": "open hand;hand sign;pointing finger;closed hand;pair of hands;hand with a prop",
    "clothes": "clothes",
    "tool": "tool;writing tool;science equipment;medical item",
    "sign": "traffic sign;warning sign;arrow;player button;math sign;punctuation mark;letter sign;"
    "zodiac sign;religious symbol",
}
"""Kinds in broader groups; captions of pretraining used few of the groups' names as kinds."""

GROUP_OF = {kind: group for group, kinds in GROUPS.items() for kind in kinds.split(";")}

THINGS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
NAMED = ("Animals & Nature", "Food & Drink")
STYLES = ("openmoji", "twemoji")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Entry:
    """One image of a task.

    Attributes:
        source: Where it comes from, such as ``twemoji:1f415``.
        label: Its class.
        group: Entries of one group stay in one part.
        part: "train", "val" or "test"; "" until it is assigned.
    """

    source: str
    label: str
    group: str
    part: str = ""


def rank(text: str) -> int:
    """A fixed random number below 2**56, the same on every machine: to shuffle by, or a seed."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def near_copies(concept: Concept) -> str:
    """The name that a concept shares with its near copies."""
    words = [w for w in concept.name.split() if w not in NEAR_COPY_WORDS]
    return "family" if concept.kind == "family" else " ".join(words) or concept.name


@cache
def shown(held_out: bool) -> tuple[Concept, ...]:
    """Concepts that pretraining saw, or else those it did not see even as a near copy."""
    drawn = set(drawings("openmoji").keys)
    things = (c for c in concepts() if c.key in drawn and c.category != "Flags")
    found = [c for c in things if not DIGIT_GLYPHS.search(c.name)]
    known = {near_copies(c) for c in found if not c.held_out}
    return tuple(c for c in found if (near_copies(c) not in known if held_out else not c.held_out))


def groups_by_label(entries: Iterable[Entry]) -> dict[str, set[str]]:
    """The groups of each label."""
    found: defaultdict[str, set[str]] = defaultdict(set)
    for e in entries:
        found[e.label].add(e.group)
    return found


def at_most(most: int, items: Iterable[T], key: Callable[[T], str]) -> Iterator[T]:
    """The first `most` items of each key."""
    count: Counter[str] = Counter()
    for item in items:
        count[key(item)] += 1
        if count[key(item)] <= most:
            yield item


def _filled(entries: list[Entry]) -> list[Entry]:
    """The entries of labels with at least five groups, label by label."""
    full = [label for label, groups in groups_by_label(entries).items() if len(groups) >= 5]
    kept = [e for e in entries if e.label in full]
    return sorted(kept, key=lambda e: full.index(e.label))


def kinds(*categories: str, held_out: bool = False) -> list[Entry]:
    """Drawings labelled with their kind, of kinds with at least five different concepts."""
    return _filled(_labelled(categories, held_out))


def _labelled(categories: tuple[str, ...], held_out: bool) -> list[Entry]:
    """Drawings labelled with their kind, at most three near copies of one thing."""
    few = [c for c in at_most(3, shown(held_out), near_copies) if c.kind not in VAGUE_KINDS]
    asked = [c for c in few if not categories or c.category in categories]
    return [Entry(f"{s}:{c.key}", c.kind, near_copies(c)) for c in asked for s in STYLES]


def groups(held_out: bool = False) -> list[Entry]:
    """Drawings labelled with the group of their kind, of groups with at least five concepts."""
    grouped = [e for e in _labelled((), held_out) if e.label in GROUP_OF]
    found = _filled([replace(e, label=GROUP_OF[e.label]) for e in grouped])
    return sorted(found, key=lambda e: list(GROUPS).index(e.label))


def style_shift() -> list[Entry]:
    """Held-out groups: one style trains and validates, the other tests on other concepts."""
    style = {"train": "openmoji", "val": "openmoji", "test": "twemoji"}
    return [e for e in dealt(groups(held_out=True)) if e.source.startswith(style[e.part])]


def novel_names() -> list[Entry]:
    """Some held-out animals, plants and foods, one class for each.

    OpenMoji's drawing trains, Twemoji's tests; an icon, if there is one, validates.
    """
    icon = {c.key: source for c, source in reversed(_icons(True))}
    taken, out = set[str](), []
    for c in shown(True):
        words = c.name.split()
        short = len(words) <= 3 and not {"left", "right"} & set(words)
        if short and c.category in NAMED and near_copies(c) not in taken:
            taken.add(near_copies(c))
            sources = (f"openmoji:{c.key}", icon.get(c.key), f"twemoji:{c.key}")
            parts = zip(sources, PARTS, strict=True)
            out += [Entry(source, c.name, c.key, part) for source, part in parts if source]
    chosen = set(sorted({e.group for e in out}, key=rank)[:MOST_NAMES])
    return [e for e in out if e.group in chosen]


def same_drawings() -> list[Entry]:
    """A hundred known things with one-word names; both drawings of each are in every part."""
    short = [c for c in shown(False) if c.category in THINGS and " " not in c.name]
    chosen = sorted(short, key=lambda c: rank(c.key))[:100]
    pairs = [(c, style) for c in short if c in chosen for style in STYLES]
    return [Entry(f"{s}:{c.key}", c.name, c.key, part) for c, s in pairs for part in PARTS]


def _icons(held_out: bool) -> list[tuple[Concept, str]]:
    """(concept, source) of icons named like concepts, plain ones first, at most five a concept.

    Names may end in words of `ICON_VARIANTS`.
    """
    by_name = {n: c for c in reversed(shown(held_out)) for n in c.synonyms}
    by_name |= {c.name: c for c in shown(held_out)}
    found = []
    for style in ("mdi", "fa"):
        for key, name in zip(drawings(style).keys, drawings(style).names, strict=True):
            words = name.split()
            while len(words) > 1 and " ".join(words) not in by_name and words[-1] in ICON_VARIANTS:
                words.pop()
            c = by_name.get(" ".join(words))
            clear = words[0] not in AMBIGUOUS_ICONS and not DIGIT_GLYPHS.search(name)
            if c and clear and mentions(name, held_out_names()) == held_out:
                found.append((len(name.split()) - len(words), c, f"{style}:{key}"))
    ordered = [(c, source) for _, c, source in sorted(found, key=lambda f: f[0])]
    return list(at_most(5, ordered, lambda icon: icon[0].key))


def icon_groups() -> list[Entry]:
    """Icons of known concepts labelled with the group of their kind, of groups of five concepts."""
    icons = [(c, source) for c, source in _icons(False) if c.kind in GROUP_OF]
    return _filled([Entry(source, GROUP_OF[c.kind], near_copies(c)) for c, source in icons])


def unlabelled() -> list[Entry]:
    """Held-out drawings, for a task that gives them labels in turn."""
    return [Entry(f"{s}:{c.key}", "", near_copies(c)) for c in shown(True) for s in STYLES]


@cache
def digits() -> tuple[torch.Tensor, list[int]]:
    """Scikit-learn's 1,797 handwritten digits: ink in [0, 1], float (n, 1, 8, 8), and labels."""
    with needs("drawings"):
        from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float().unsqueeze(1) / 16, data.target.tolist()


def digit_entries() -> list[Entry]:
    """All handwritten digits, ordered by label."""
    rows = sorted(enumerate(digits()[1]), key=lambda row: row[1])
    return [Entry(f"digits:{i:04d}", NUMBERS[d], f"{i:04d}") for i, d in rows]


def dealt(
    entries: list[Entry], test_share: float = TEST_SHARE, val_share: float = VAL_SHARE
) -> list[Entry]:
    """Give every group of a label its part, by hashing its name.

    A label with at least three groups has one or more in each part; one with two has none to
    validate.

    Args:
        entries: The entries; those that have a part keep it.
        test_share: Share of each label's groups that test.
        val_share: Share of each label's groups that validate.
    """
    parts = {}
    for label, names in groups_by_label(entries).items():
        n = len(names)
        test = max(1, min(round(test_share * n), n - 2))
        val = test + (max(1, round(val_share * n)) if n > 2 else 0)
        for i, name in enumerate(sorted(names, key=rank)):
            parts[label, name] = "test" if i < test else "val" if i < val else "train"
    return [e if e.part else replace(e, part=parts[e.label, e.group]) for e in entries]


def part_of_groups(entries: Iterable[Entry]) -> dict[str, str]:
    """The part of each group; one in several parts tests, or else validates."""
    parts: dict[str, str] = {}
    for e in entries:
        parts[e.group] = max(parts.get(e.group, e.part), e.part, key=PARTS.index)
    return parts


@cache
def part_of_concepts() -> dict[str, str]:
    """The part of each group of near copies, the same for every task that asks.

    It is dealt kind by kind, so that a task of any kinds has about the same shares; a group with
    several kinds is in one part (`part_of_groups`).
    """
    found: dict[str, str] = {}
    for held_out in (False, True):
        them = [Entry(c.key, c.kind, near_copies(c)) for c in shown(held_out)]
        found |= part_of_groups(dealt(them))
    return found


def labelled_in_turn(
    entries: list[Entry],
    labels: tuple[str, ...],
    key: Callable[[Entry], Any] = lambda e: rank(e.source),
) -> list[Entry]:
    """Give the entries of each part the `labels` in turn, in the order of their `key`."""
    turns = {part: itertools.cycle(labels) for part in PARTS}
    shuffled = sorted(entries, key=key)
    return [replace(e, label=next(turns[e.part])) for e in shuffled]


def first(entries: Iterable[Entry], most: int, salt: str = "") -> list[Entry]:
    """At most `most` entries of each label, in their own order.

    `salt` decides which; fewer are always a subset of more.
    """
    entries = list(entries)
    shuffled = sorted(entries, key=lambda e: rank(salt + e.source))
    kept = set(at_most(most, shuffled, lambda e: e.label))
    return [e for e in entries if e in kept]


def tested(entries: Iterable[Entry], most: int | None = MOST_TEST) -> list[Entry]:  # noqa: PT028
    """The entries of the part "test"; of more than `most`, the same number per class."""
    own = [e for e in entries if e.part == "test"]
    if most is None or len(own) <= most:
        return own
    return first(own, max(1, most // len({e.label for e in own})))
