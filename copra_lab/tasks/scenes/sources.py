"""Which drawings the structured tasks show, and in which part (train, val or test) each is.

All are drawings that pretraining saw. A concept is in the same part in every one of these tasks,
with its near copies and in both styles (`emoji.selection.part_of_concepts`).
"""

from collections import defaultdict
from collections.abc import Callable
from dataclasses import replace

from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.scenes.questions import SAMENESS

UPRIGHT = frozenset(
    "mammal;happy face;loving face;face with tongue;face with hand;doubtful face;sleepy face;"
    "sick face;face with hat;face with glasses;sad face;angry face;costume face;face of a cat;"
    "face of a monkey;person;worker;gesturing person;fantasy figure;family;active person;building;"
    "place of worship;land vehicle;boat;drink;flower;plant".split(";")
)
"""Kinds whose drawings have a top and a bottom."""

NOT_UPRIGHT = frozenset(
    "anchor;badger;beaver;bottle with popping cork;brick;head shaking horizontally;"
    "head shaking vertically;herb;horizontal traffic light;ice cube;leaf fluttering in wind;otter;"
    "pouring liquid;rock;wilted flower;wood".split(";")
)
"""Concepts of these kinds that have none, or are drawn aslant."""

CLOCKS = 1400
"""Renderings of clock faces, of all parts."""

BETWEEN = "+"
"""Stands between the drawings of an image in its source."""


def drawings(upright: bool = False) -> list[so.Entry]:
    """Known drawings in both styles, at most three near copies of one thing, without labels.

    Args:
        upright: Only those that have a top and a bottom.
    """
    found = so.at_most(3, so.shown(False), so.near_copies)
    few = [c for c in found if not upright or (c.kind in UPRIGHT and c.name not in NOT_UPRIGHT)]
    part = so.part_of_concepts()
    named = [(c, so.near_copies(c)) for c in few]
    return [so.Entry(f"{s}:{c.key}", "", name, part[name]) for c, name in named for s in so.STYLES]


def pairs() -> list[so.Entry]:
    """Pairs of known drawings of one part and style, each drawing in one pair at most."""
    alike = defaultdict(list)
    for e in sorted(drawings(), key=lambda e: so.rank(e.source)):
        alike[e.part, e.source.split(":")[0]].append(e)
    found = []
    for them in alike.values():
        for a, b in zip(them[::2], them[1::2], strict=False):
            if a.group != b.group:
                found.append(replace(a, source=f"{a.source}{BETWEEN}{b.source}"))
    return found


def clocks() -> list[so.Entry]:
    """Renderings of clocks by number; no drawing is behind them."""
    return so.dealt([so.Entry(f"clock:{i:04d}", "", f"{i:04d}") for i in range(CLOCKS)])


def labelled(
    entries: Callable[[], list[so.Entry]], labels: tuple[str, ...], task: str
) -> list[so.Entry]:
    """Give the drawings of each kind the `labels` in turn, in an order that hashing decides.

    So a label tells nothing of the kind, nor of the label in another task.

    Args:
        entries: Lists the entries; each has its part.
        labels: The classes.
        task: The task's name.
    """
    kind = {c.key: c.kind for c in so.concepts()}

    def order(e: so.Entry) -> tuple[str, int]:
        first = e.source.split(BETWEEN)[0].split(":")[1]
        return kind.get(first, ""), so.rank(f"{task}/{e.source}")

    return so.labelled_in_turn(entries(), labels, order)


def same_or_different(task: str) -> list[so.Entry]:
    """Pairs labelled as `SAMENESS` has it; of those that are the same, only the first is shown."""
    return [
        replace(e, source=e.source.split(BETWEEN)[0]) if e.label == SAMENESS[0] else e
        for e in labelled(pairs, SAMENESS, task)
    ]
