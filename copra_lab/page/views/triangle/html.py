"""The Triangle view's pieces of HTML: pure functions of a history."""

import math
from collections.abc import Iterable
from html import escape

from copra_lab.bench.bench import Bench
from copra_lab.page.components import images, panels
from copra_lab.page.components.numbers import signed
from copra_lab.page.components.panels import same_subject, standing
from copra_lab.page.state.schemas.triangle import BEYOND, UNITS, TriangleState
from copra_lab.page.state.session import History, Point

WIDTH, HEIGHT = 420, 372
"""Of the drawing, in its own units."""

SIDE, LEFT, BOTTOM = 240.0, 90.0, 307.4
"""From A to B, and where A is."""

CELLS = (20, 10, 5)
"""Steps of the lattices that places lie on, in `UNITS`, the coarsest first: a cell is as large as
its lattice is coarse."""


def xy(b: float, c: float) -> tuple[float, float]:
    """Where a place is in the drawing: A at the left, B at the right, C on top."""
    return LEFT + SIDE * (b + c / 2) / UNITS, BOTTOM - SIDE * math.sqrt(3) / 2 * c / UNITS


def landscape(history: History) -> dict[TriangleState, Point]:
    """What was measured in the triangle where the visitor stands."""
    here = standing(history, TriangleState)
    return same_subject(history, here) if here else {}


def dip(history: History) -> tuple[float, TriangleState] | None:
    """How far the landscape falls below the plane through its three corners, and where.

    At most; None as long as a corner is missing. Points outside of the triangle do not count.
    """
    here = standing(history, TriangleState)
    if here is None or not all(map(history.whole, here.corners)):
        return None
    ends = [history.points[corner].accuracy.value for corner in here.corners]
    depths = [
        (sum(w * v for w, v in zip(p.weights, ends, strict=True)) - point.accuracy.value, p)
        for p, point in landscape(history).items()
        if history.whole(p) and min(p.weights) >= 0
    ]
    return max(depths, key=lambda d: d[0])


def number(history: History) -> str:
    """The accuracy at the point, and the facts to hold it against."""
    here = standing(history, TriangleState)
    data = dict(zip("abc", (f"{w:.4f}" for w in here.weights), strict=True)) if here else {}
    made_of, measuring = recipe(here) if here else "", "Measuring the base and three corners."
    return panels.number(history, made_of, data, measuring) + _facts(history)


def recipe(state: TriangleState) -> str:
    """What a point is made of: ``0.50 A + 0.25 B + 0.25 C``."""
    words = [
        f'{"−" if w < 0 else "+"} {signed(abs(w))} <i class="{name.lower()}">{name}</i>'
        for w, name in zip(state.weights, "ABC", strict=True)
    ]
    return f"<b>{' '.join(words).removeprefix('+ ')}</b>"


def _facts(history: History) -> str:
    here, found = standing(history, TriangleState), dip(history)
    if found is None:
        words = "…"
    elif found[0] * history.total < 1:  # less than one image
        words = "none so far"
    else:
        words = f"{100 * found[0]:.1f} points"
    title = "How far the landscape falls below the plane through its three corners"
    if found and found[0] > 0:
        title += f", at weights {', '.join(signed(w) for w in found[1].weights)}"
    corners = map(history.points.get, here.corners) if here else [None] * 3
    return panels.facts(
        panels.measured("base", history.base, "base"),
        *map(panels.measured, "ABC", corners, "abc"),
        panels.fact("deepest dip", words, "barrier wide", title),
    )


def scale(history: History) -> tuple[int, int]:
    """The accuracies, in percent, of the palest and the fullest colour.

    They depend on the corners alone, so that colours stay while one drags.
    """
    here = standing(history, TriangleState)
    corners = map(history.points.get, here.corners) if here else ()
    values = [100 * point.accuracy.value for point in corners if point]
    if not values:
        return 0, 100
    low, high = 5 * math.floor(min(values) / 5) - 15, 5 * math.ceil(max(values) / 5) + 5
    return max(low, 0), min(high, 100)


def chart(history: History) -> str:
    """The landscape: a cell for each point that was measured.

    Fuller where accuracy is higher, the finer lattices over the coarser ones.
    """
    low, high = scale(history)
    points = landscape(history)
    cells: list[list[str]] = [[] for _ in CELLS]
    words = []
    for state, point in points.items():
        fits = (i for i, step in enumerate(CELLS) if not any(n % step for n in state.point))
        level = next(fits, len(CELLS) - 1)
        x, y = xy(*state.point)
        percent = 100 * point.accuracy.value
        share = min(max((percent - low) / (high - low), 0), 1)
        first = " first" if point.accuracy.n < history.total else ""
        here = " at" if state == history.state else ""
        cells[level].append(
            f'<use href="#cell-{level}" class="cell{first}{here}" x="{x:.1f}" y="{y:.1f}" '
            f'style="--v:{100 * share:.0f}%"/>'
        )
        if level == 0 and not here and state not in state.corners:  # at the corners is a name
            words.append(
                f'<text class="value{first}" x="{x:.1f}" y="{y + 4:.1f}">{percent:.0f}</text>'
            )
    shapes = "".join(
        f'<polygon id="cell-{i}" points="{_hexagon(step)}"/>' for i, step in enumerate(CELLS)
    )
    return (
        '<svg class="landscape" role="img" aria-label="Accuracy over the triangle of three '
        f'adapters" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"<desc>{escape(_in_words(history))}</desc>"
        f"<defs>{shapes}</defs>{_key(low, high)}{''.join(c for level in cells for c in level)}"
        f'<polygon class="edge" points="{_points(CORNERS)}"/>{"".join(words)}{_badges()}</svg>'
    )


def _hexagon(step: int) -> str:
    """The cell of a triangular lattice: a hexagon that stands on a corner."""
    radius = SIDE * step / UNITS / math.sqrt(3)
    angles = [k * math.pi / 3 for k in range(6)]
    return _points(((radius * math.sin(a), radius * math.cos(a)) for a in angles), digits=2)


def _points(corners: Iterable[tuple[float, float]], digits: int = 1) -> str:
    """The corners of a polygon, as SVG has them."""
    return " ".join(f"{x:.{digits}f},{y:.{digits}f}" for x, y in corners)


def _badges() -> str:
    return "".join(
        f'<circle class="badge {name.lower()}" cx="{x:.1f}" cy="{y:.1f}" r="11"/><text '
        f'class="badge-name" x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>'
        for name, (x, y) in zip("ABC", CORNERS, strict=True)
    )


def _key(low: int, high: int) -> str:
    """What the colours say."""
    boxes = "".join(
        f'<rect class="cell" x="6" y="{16 + 18 * i}" width="16" height="18" '
        f'style="--v:{100 - 25 * i}%"/>'
        for i in range(5)
    )
    ends = (("", high), ("", (high + low) / 2), ("≤ " if low > 0 else "", low))
    names = "".join(
        f'<text class="tick" x="28" y="{29 + 36 * i}">{sign}{percent:.0f}\u202f%</text>'
        for i, (sign, percent) in enumerate(ends)
    )
    return boxes + names


def _in_words(history: History) -> str:
    here, found = standing(history, TriangleState), dip(history)
    said = [f"{sum(map(history.whole, landscape(history)))} points measured on all images."]
    if here:
        said += [
            f"{name}: {history.points[p].accuracy}."
            for name, p in zip("ABC", here.corners, strict=True)
            if p in history.points
        ]
    if found:
        said.append(f"Deepest dip below the corners' plane: {100 * found[0]:.1f} points.")
    return " ".join(said)


def changed(history: History, bench: Bench | None) -> str:
    """The images whose prediction the last move changed."""
    hint = "Move the point, and the images whose prediction changes appear here."
    idle = "What the last move changed"
    return images.changed(history, bench, history.since, "by the last move", hint, idle)


def table(history: History) -> str:
    """All places of the triangle, the base first; A, B and C are weights."""
    names = {(1.0, 0.0, 0.0): "A", (0.0, 1.0, 0.0): "B", (0.0, 0.0, 1.0): "C"}
    points = sorted(landscape(history).items(), key=lambda item: item[0].point[::-1])
    rows = [
        ((names.get(state.weights, ""), *map(signed, state.weights)), point.accuracy)
        for state, point in points
    ]
    return panels.table(("", "A", "B", "C"), rows, panels.accuracy(history.base))


def _triangle(low: int, high: int) -> list[tuple[float, float]]:
    """The corners, in the drawing, of where no weight is below `low` nor above `high`."""
    return [xy(low, low), xy(high, low), xy(low, high)]


CORNERS = _triangle(0, UNITS)
"""A, B and C."""

OUTSIDE = _points(_triangle(-BEYOND, UNITS + 2 * BEYOND))
"""The larger triangle, in which the point can be moved."""
