"""Which drawings a task shows, what each is called there, and in which part (train, val, test) it occurs.

Parts are dealt by hashing names, the same way everywhere and for every seed. A drawing occurs in one part only, with
its twin in the other style and with its near copies (man/woman, left/right, colours of one shape).
"""

import hashlib
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cache

import torch

from copra_lab.tasks.emoji.concepts import DIGIT_GLYPHS, Concept, concepts, held_out_names, mentions
from copra_lab.tasks.emoji.drawings import drawings
from copra_lab.utils.extras import needs

TEST_SHARE, VAL_SHARE = 0.45, 0.15
"""Of what a class has; the rest is there to train on."""

MOST_TEST, MOST_NAMES = 1200, 40
"""Test images of a task, and classes of one that has a class for each thing."""

NEAR_COPY_WORDS = frozenset(
    "man woman person men women people boy girl child adult older mans womans mx father mother happy with slightly "
    "facing left right pointing leftwards rightwards up down upwards downwards large small medium heavy face symbol sign "
    "black white red orange yellow green blue purple brown grey pink light dark".split()
)
"""Concepts whose names differ in these words alone look much the same."""

ICON_VARIANTS = frozenset(
    "outline variant side simple alt open closed full empty multiple box circle large small front back fast half vintage "
    "layered badge bold thin".split()
)
"""Last words of an icon's name that change how a thing is drawn, not what it is."""

AMBIGUOUS_ICONS = frozenset(
    "seal apple boom bank link label chart pound seat computer eject".split()
)
"""Names that mean something else as an icon: mdi's ``seal`` is made of wax."""

VAGUE_KINDS = frozenset(("symbol", "object", "emotion symbol", "person", "person symbol"))
"""Kinds that another kind's drawings would fit as well."""

GROUPS = {
    "animal": "mammal;bird;sea animal;insect;reptile;amphibian;face of a cat;face of a monkey",
    "plant": "flower;plant",
    "food": "fruit;vegetable;meal;asian food;seafood;dessert;drink",
    "vehicle": "land vehicle;boat;aircraft",
    "building": "building;place of worship",
    "landscape": "scenery;landscape;weather",
    "face": "happy face;loving face;face with tongue;face with hand;doubtful face;sleepy face;sick face;face with hat;"
    "face with glasses;sad face;angry face;costume face",
    "person": "gesturing person;worker;fantasy figure;active person;athlete;resting person",
    "hand": "open hand;hand sign;pointing finger;closed hand;pair of hands;hand with a prop",
    "clothes": "clothes",
    "tool": "tool;writing tool;science equipment;medical item",
    "sign": "traffic sign;warning sign;arrow;player button;math sign;punctuation mark;letter sign;zodiac sign;religious symbol",
}
"""Kinds in broader groups. Most of their words were never a kind in pretraining's captions."""

THINGS = ("Animals & Nature", "Food & Drink", "Travel & Places", "Activities", "Objects")
NAMED = ("Animals & Nature", "Food & Drink")
STYLES = ("openmoji", "twemoji")
NUMBERS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True)
class Entry:
    """One source of a task, e.g. ``twemoji:1f415``. `group` names what stays in one part; `part` is "train", "val" or
    "test", or "" until it is dealt."""

    source: str
    label: str
    group: str
    part: str = ""


def rank(text: str) -> int:
    """A fixed random number: sorting by it shuffles, the same way everywhere. At most 63 bits: also a seed."""
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=7).digest(), "big")


def near_copies(concept: Concept) -> str:
    """The name that `concept` shares with its near copies."""
    words = [w for w in concept.name.split() if w not in NEAR_COPY_WORDS]
    return "family" if concept.kind == "family" else " ".join(words) or concept.name


@cache
def shown(held_out: bool) -> tuple[Concept, ...]:
    """The concepts whose drawings pretraining saw, or else those of which it saw neither themselves nor a near copy."""
    drawn = set(drawings("openmoji").keys)
    found = [
        c
        for c in concepts()
        if c.key in drawn and c.category != "Flags" and not DIGIT_GLYPHS.search(c.name)
    ]
    known = {near_copies(c) for c in found if not c.held_out}
    return tuple(c for c in found if (near_copies(c) not in known if held_out else not c.held_out))


def _filled(entries: Iterable[Entry], groups: int, sources: int = 0) -> list[Entry]:
    """The entries of labels with at least so many groups and sources."""
    by_label: dict[str, list[Entry]] = {}
    for e in entries:
        by_label.setdefault(e.label, []).append(e)
    return [
        e
        for es in by_label.values()
        if len({e.group for e in es}) >= groups and len(es) >= sources
        for e in es
    ]


def kinds(*categories: str, held_out: bool = False) -> list[Entry]:
    """Drawings labelled with their kind, of kinds with five concepts that differ."""
    return _filled(_labelled(categories, held_out), 5)


def _labelled(categories: tuple[str, ...], held_out: bool) -> list[Entry]:
    """Drawings labelled with their kind. At most three near copies of one thing."""
    count: Counter[str] = Counter()
    out = []
    for c in shown(held_out):
        count[near_copies(c)] += 1
        if (
            count[near_copies(c)] <= 3
            and c.kind not in VAGUE_KINDS
            and (not categories or c.category in categories)
        ):
            out += [Entry(f"{style}:{c.key}", c.kind, near_copies(c)) for style in STYLES]
    return out


def groups(held_out: bool = False) -> list[Entry]:
    """Drawings labelled with the group of their kind, of groups with five concepts that differ."""
    of = _group_of()
    found = _filled(
        (replace(e, label=of[e.label]) for e in _labelled((), held_out) if e.label in of), 5
    )
    return sorted(found, key=lambda e: list(GROUPS).index(e.label))


def _group_of() -> dict[str, str]:
    return {kind: group for group, kinds in GROUPS.items() for kind in kinds.split(";")}


def style_shift() -> list[Entry]:
    """Held-out groups: one style trains and validates, the other tests, never with the same concept."""
    style = {"train": "openmoji", "val": "openmoji", "test": "twemoji"}
    return [e for e in dealt(groups(held_out=True)) if e.source.startswith(style[e.part])]


def novel_names() -> list[Entry]:
    """One class for each of some held-out animals, plants and foods: OpenMoji's drawing trains, Twemoji's tests; an icon, where there is one, validates."""
    icon = {c.key: source for c, source in reversed(_icons(True))}
    taken, out = set[str](), []
    for c in shown(True):
        words = c.name.split()
        if (
            c.category in NAMED
            and near_copies(c) not in taken
            and len(words) <= 3
            and not {"left", "right"} & set(words)
        ):
            taken.add(near_copies(c))
            sources = {
                "train": f"openmoji:{c.key}",
                "val": icon.get(c.key),
                "test": f"twemoji:{c.key}",
            }
            out += [
                Entry(source, c.name, c.key, part) for part, source in sources.items() if source
            ]
    chosen = set(sorted({e.group for e in out}, key=rank)[:MOST_NAMES])
    return [e for e in out if e.group in chosen]


def same_drawings() -> list[Entry]:
    """A hundred seen things with names of one word, in Unicode's order; both drawings of each are in every part."""
    short = sorted(
        (c for c in shown(False) if c.category in THINGS and " " not in c.name),
        key=lambda c: rank(c.key),
    )[:100]
    known = [c for c in shown(False) if c in short]
    return [
        Entry(f"{s}:{c.key}", c.name, c.key, part)
        for c in known
        for s in STYLES
        for part in ("train", "val", "test")
    ]


def _icons(held_out: bool) -> list[tuple[Concept, str]]:
    """Icons named like a concept but for `ICON_VARIANTS`, as (concept, source): plain ones first, at most five a concept."""
    by_name = {n: c for c in reversed(shown(held_out)) for n in c.synonyms} | {
        c.name: c for c in shown(held_out)
    }
    found = []
    for style in ("mdi", "fa"):
        for key, name in zip(drawings(style).keys, drawings(style).names, strict=True):
            words = name.split()
            while len(words) > 1 and " ".join(words) not in by_name and words[-1] in ICON_VARIANTS:
                words.pop()
            c = by_name.get(" ".join(words))
            hidden = mentions(name, held_out_names())
            if (
                c
                and words[0] not in AMBIGUOUS_ICONS
                and hidden == held_out
                and not DIGIT_GLYPHS.search(name)
            ):
                found.append((len(name.split()) - len(words), c, f"{style}:{key}"))
    count: Counter[str] = Counter()
    out = []
    for _, c, source in sorted(found, key=lambda f: f[0]):
        count[c.key] += 1
        if count[c.key] <= 5:
            out.append((c, source))
    return out


def icon_groups() -> list[Entry]:
    """Icons of seen concepts labelled with the group of their kind, of groups with five concepts that differ."""
    of = _group_of()
    return _filled(
        (Entry(source, of[c.kind], near_copies(c)) for c, source in _icons(False) if c.kind in of),
        5,
    )


def unlabelled() -> list[Entry]:
    """Held-out drawings, for a task that deals them labels."""
    return [Entry(f"{s}:{c.key}", "", near_copies(c)) for c in shown(True) for s in STYLES]


@cache
def digits() -> tuple[torch.Tensor, list[int]]:
    """Scikit-learn's 1,797 handwritten digits: ink in [0, 1], float (n, 1, 8, 8), and which digit each is."""
    with needs("drawings"):
        from sklearn.datasets import load_digits

    data = load_digits()
    return torch.from_numpy(data.images).float().unsqueeze(1) / 16, data.target.tolist()


def digit_entries() -> list[Entry]:
    return sorted(
        (Entry(f"digits:{i:04d}", NUMBERS[d], f"{i:04d}") for i, d in enumerate(digits()[1])),
        key=lambda e: NUMBERS.index(e.label),
    )


def dealt(
    entries: list[Entry], test_share: float = TEST_SHARE, val_share: float = VAL_SHARE
) -> list[Entry]:
    """Gives every group of a label its part, by its name; leaves entries that have one.

    A label of three groups or more has at least one in each part; one of two has none to validate.
    """
    groups: dict[str, set[str]] = {}
    for e in entries:
        groups.setdefault(e.label, set()).add(e.group)
    parts = {}
    for label, names in groups.items():
        n = len(names)
        test = max(1, min(round(test_share * n), n - 2))
        val = test + (max(1, round(val_share * n)) if n > 2 else 0)
        for i, name in enumerate(sorted(names, key=rank)):
            parts[label, name] = "test" if i < test else "val" if i < val else "train"
    return [e if e.part else replace(e, part=parts[e.label, e.group]) for e in entries]


def labelled_in_turn(entries: list[Entry], labels: tuple[str, ...]) -> list[Entry]:
    """Gives the entries of each part the `labels` in turn, in an order fixed by their names."""
    count: Counter[str] = Counter()
    out = []
    for e in sorted(entries, key=lambda e: rank(e.source)):
        out.append(replace(e, label=labels[count[e.part] % len(labels)]))
        count[e.part] += 1
    return out


def first(entries: Iterable[Entry], most: int, salt: str = "") -> list[Entry]:
    """At most `most` entries of each label, in their own order; `salt` decides which. Fewer are a subset of more."""
    entries = list(entries)
    by_label: dict[str, list[Entry]] = {}
    for e in sorted(entries, key=lambda e: rank(salt + e.source)):
        by_label.setdefault(e.label, []).append(e)
    kept = {e for es in by_label.values() for e in es[:most]}
    return [e for e in entries if e in kept]


def tested(
    entries: Iterable[Entry],
    most: int | None = MOST_TEST,  # noqa: PT028 (no test)
) -> list[Entry]:
    """The entries to test on: all of the part "test", but of more than `most` the same number a class."""
    own = [e for e in entries if e.part == "test"]
    return (
        own
        if most is None or len(own) <= most
        else first(own, max(1, most // len({e.label for e in own})))
    )
