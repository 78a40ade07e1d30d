"""The Triangle view's pieces of HTML: pure functions of a walk."""

import math
from collections.abc import Sequence
from html import escape

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels
from copra_lab.page.components.numbers import signed
from copra_lab.page.state.session import Point, Walk
from copra_lab.page.state.view_states import BEYOND, UNITS, Mixed
from copra_lab.utils.statistics import Accuracy

WIDTH, HEIGHT = 420, 372
"""Of the drawing, in its own units."""

SIDE, LEFT, BOTTOM = 240.0, 90.0, 307.4
"""From A to B, and where A is."""

CELLS = (20, 10, 5)
"""Steps of the lattices that places lie on, in `UNITS`, the coarsest first: a cell is as large as its lattice is coarse."""


def xy(b: float, c: float) -> tuple[float, float]:
    """Where a place is in the drawing: A at the left, B at the right, C on top."""
    return LEFT + SIDE * (b + c / 2) / UNITS, BOTTOM - SIDE * math.sqrt(3) / 2 * c / UNITS


def landscape(walk: Walk) -> dict[Mixed, Point]:
    """What was measured in the triangle where the visitor stands."""
    here = _here(walk)
    return {
        p: point
        for p, point in walk.points.items()
        if isinstance(p, Mixed) and here and p.line == here.line
    }


def dip(walk: Walk) -> tuple[float, Mixed] | None:
    """How far the landscape falls below the plane through its three corners, at most, and where; None as long as a corner
    is missing. Places outside of the triangle do not count."""
    here = _here(walk)
    if here is None or not all(walk.whole(corner) for corner in here.corners):
        return None
    ends = [walk.points[corner].accuracy.value for corner in here.corners]
    depths = [
        (sum(w * v for w, v in zip(p.weights, ends, strict=True)) - point.accuracy.value, p)
        for p, point in landscape(walk).items()
        if walk.whole(p) and min(p.weights) >= 0
    ]
    return max(depths, key=lambda d: d[0])


def _here(walk: Walk) -> Mixed | None:
    return walk.place if isinstance(walk.place, Mixed) else None


def number(walk: Walk) -> str:
    """The accuracy at the point, and the facts to hold it against."""
    here = _here(walk)
    data = dict(zip("abc", (f"{w:.4f}" for w in here.weights), strict=True)) if here else {}
    return panels.number(
        walk, recipe(here) if here else "", data, "Measuring the base and three corners."
    ) + _facts(walk)


def recipe(place: Mixed) -> str:
    """``0.50 A + 0.25 B + 0.25 C``"""
    words = [
        f'{"−" if w < 0 else "+"} {signed(abs(w))} <i class="{name.lower()}">{name}</i>'
        for w, name in zip(place.weights, "ABC", strict=True)
    ]
    return f"<b>{' '.join(words).removeprefix('+ ')}</b>"


def _facts(walk: Walk) -> str:
    here, found = _here(walk), dip(walk)
    if found is None:
        words = "…"
    elif found[0] * walk.total < 1:  # less than one image
        words = "none so far"
    else:
        words = f"{100 * found[0]:.1f} points"
    title = "How far the landscape falls below the plane through its three corners"
    if found and found[0] > 0:
        title += f", at weights {', '.join(signed(w) for w in found[1].weights)}"
    corners = [walk.points.get(corner) for corner in here.corners] if here else [None] * 3
    return panels.facts(
        panels.measured("base", walk.base, "base"),
        *(
            panels.measured(name, point, name.lower())
            for name, point in zip("ABC", corners, strict=True)
        ),
        panels.fact("deepest dip", words, "barrier wide", title),
    )


def scale(walk: Walk) -> tuple[int, int]:
    """The accuracies, in percent, of the palest and the fullest colour. They depend on the corners alone, so that colours stay while one drags."""
    here = _here(walk)
    values = [
        100 * walk.points[p].accuracy.value
        for p in (here.corners if here else ())
        if p in walk.points
    ]
    if not values:
        return 0, 100
    low, high = 5 * math.floor(min(values) / 5) - 15, 5 * math.ceil(max(values) / 5) + 5
    return max(low, 0), min(high, 100)


def chart(walk: Walk) -> str:
    """The landscape: a cell for each place that was measured, fuller where accuracy is higher, the finer lattices over the coarser ones."""
    low, high = scale(walk)
    points = landscape(walk)
    cells: list[list[str]] = [[] for _ in CELLS]
    words = []
    for place, point in points.items():
        level = next(
            (i for i, step in enumerate(CELLS) if place.b % step == place.c % step == 0),
            len(CELLS) - 1,
        )
        x, y = xy(place.b, place.c)
        percent = 100 * point.accuracy.value
        share = min(max((percent - low) / (high - low), 0), 1)
        first = " first" if point.accuracy.n < walk.total else ""
        standing = " at" if place == walk.place else ""
        cells[level].append(
            f'<use href="#cell-{level}" class="cell{first}{standing}" x="{x:.1f}" y="{y:.1f}" style="--v:{100 * share:.0f}%"/>'
        )
        if (
            level == 0 and not standing and place not in place.corners
        ):  # at the corners there is a name
            words.append(
                f'<text class="value{first}" x="{x:.1f}" y="{y + 4:.1f}">{percent:.0f}</text>'
            )
    shapes = "".join(
        f'<polygon id="cell-{i}" points="{_hexagon(step)}"/>' for i, step in enumerate(CELLS)
    )
    return (
        f'<svg class="landscape" role="img" aria-label="Accuracy over the triangle of three adapters" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<desc>{escape(_in_words(walk))}</desc><defs>{shapes}</defs>{_key(low, high)}{''.join(c for level in cells for c in level)}"
        f'<polygon class="edge" points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in _corners())}"/>{"".join(words)}{_badges()}</svg>'
    )


def _hexagon(step: int) -> str:
    """The cell of a triangular lattice: a hexagon that stands on a corner."""
    radius = SIDE * step / UNITS / math.sqrt(3)
    return " ".join(
        f"{radius * math.sin(k * math.pi / 3):.2f},{radius * math.cos(k * math.pi / 3):.2f}"
        for k in range(6)
    )


def _corners() -> list[tuple[float, float]]:
    return [xy(0, 0), xy(UNITS, 0), xy(0, UNITS)]


def _badges() -> str:
    return "".join(
        f'<circle class="badge {name.lower()}" cx="{x:.1f}" cy="{y:.1f}" r="11"/><text class="badge-name" x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>'
        for name, (x, y) in zip("ABC", _corners(), strict=True)
    )


def _key(low: int, high: int) -> str:
    """What the colours say."""
    steps = 5
    boxes = "".join(
        f'<rect class="cell" x="6" y="{16 + 18 * i}" width="16" height="18" style="--v:{100 - 25 * i}%"/>'
        for i in range(steps)
    )
    names = "".join(
        f'<text class="tick" x="28" y="{29 + 18 * i}">{"≤ " if i == 4 and low > 0 else ""}{high - (high - low) * i / 4:.0f}\u202f%</text>'
        for i in (0, 2, 4)
    )
    return boxes + names


def _in_words(walk: Walk) -> str:
    here, found = _here(walk), dip(walk)
    said = [f"{sum(map(walk.whole, landscape(walk)))} places measured on all images."]
    if here:
        said += [
            f"{name}: {walk.points[p].accuracy}."
            for name, p in zip("ABC", here.corners, strict=True)
            if p in walk.points
        ]
    if found:
        said.append(f"Deepest dip below the corners' plane: {100 * found[0]:.1f} points.")
    return " ".join(said)


def changed(walk: Walk, bench: Bench | None) -> str:
    """The images whose prediction the last move changed."""
    before = walk.points.get(walk.since) if walk.since else None
    if walk.since == walk.place or before is None or walk.here is None or bench is None:
        return panels.nothing_changed(
            "What the last move changed",
            "Move the point: images whose prediction changes appear here.",
        )
    return panels.changed(bench, before, walk.here, "by the last move")


def table(walk: Walk) -> str:
    """All places of the triangle, the base first; A, B and C are weights."""
    rows: list[tuple[Sequence[str], Accuracy]] = (
        [(("base", "", "", ""), walk.base.accuracy)] if walk.base else []
    )
    names = dict(zip(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), "ABC", strict=True))
    for place, point in sorted(landscape(walk).items(), key=lambda item: (item[0].c, item[0].b)):
        rows.append(((names.get(place.weights, ""), *map(signed, place.weights)), point.accuracy))
    return panels.table(("", "A", "B", "C"), rows)


OUTSIDE = " ".join(
    f"{x:.1f},{y:.1f}"
    for x, y in (
        xy(-BEYOND, -BEYOND),
        xy(UNITS + 2 * BEYOND, -BEYOND),
        xy(-BEYOND, UNITS + 2 * BEYOND),
    )
)
"""The larger triangle, in which the point can be moved."""
