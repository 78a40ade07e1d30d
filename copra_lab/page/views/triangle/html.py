"""The Triangle view's pieces of HTML: pure functions of a history."""

import math
from collections.abc import Sequence
from html import escape

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels
from copra_lab.page.components.numbers import signed
from copra_lab.page.state.schemas.triangle import BEYOND, UNITS, TriangleState
from copra_lab.page.state.session import History, Point
from copra_lab.utils.statistics import Accuracy

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
    here = _here(history)
    return {
        p: point
        for p, point in history.points.items()
        if isinstance(p, TriangleState) and here and p.line == here.line
    }


def dip(history: History) -> tuple[float, TriangleState] | None:
    """How far the landscape falls below the plane through its three corners, and where.

    At most; None as long as a corner is missing. Points outside of the triangle do not count.
    """
    here = _here(history)
    if here is None or not all(history.whole(corner) for corner in here.corners):
        return None
    ends = [history.points[corner].accuracy.value for corner in here.corners]
    depths = [
        (sum(w * v for w, v in zip(p.weights, ends, strict=True)) - point.accuracy.value, p)
        for p, point in landscape(history).items()
        if history.whole(p) and min(p.weights) >= 0
    ]
    return max(depths, key=lambda d: d[0])


def _here(history: History) -> TriangleState | None:
    return history.state if isinstance(history.state, TriangleState) else None


def number(history: History) -> str:
    """The accuracy at the point, and the facts to hold it against."""
    here = _here(history)
    data = dict(zip("abc", (f"{w:.4f}" for w in here.weights), strict=True)) if here else {}
    return panels.number(
        history, recipe(here) if here else "", data, "Measuring the base and three corners."
    ) + _facts(history)


def recipe(state: TriangleState) -> str:
    """What a point is made of: ``0.50 A + 0.25 B + 0.25 C``."""
    words = [
        f'{"−" if w < 0 else "+"} {signed(abs(w))} <i class="{name.lower()}">{name}</i>'
        for w, name in zip(state.weights, "ABC", strict=True)
    ]
    return f"<b>{' '.join(words).removeprefix('+ ')}</b>"


def _facts(history: History) -> str:
    here, found = _here(history), dip(history)
    if found is None:
        words = "…"
    elif found[0] * history.total < 1:  # less than one image
        words = "none so far"
    else:
        words = f"{100 * found[0]:.1f} points"
    title = "How far the landscape falls below the plane through its three corners"
    if found and found[0] > 0:
        title += f", at weights {', '.join(signed(w) for w in found[1].weights)}"
    corners = [history.points.get(corner) for corner in here.corners] if here else [None] * 3
    return panels.facts(
        panels.measured("base", history.base, "base"),
        *(
            panels.measured(name, point, name.lower())
            for name, point in zip("ABC", corners, strict=True)
        ),
        panels.fact("deepest dip", words, "barrier wide", title),
    )


def scale(history: History) -> tuple[int, int]:
    """The accuracies, in percent, of the palest and the fullest colour.

    They depend on the corners alone, so that colours stay while one drags.
    """
    here = _here(history)
    values = [
        100 * history.points[p].accuracy.value
        for p in (here.corners if here else ())
        if p in history.points
    ]
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
        level = next(
            (
                i
                for i, step in enumerate(CELLS)
                if state.point[0] % step == state.point[1] % step == 0
            ),
            len(CELLS) - 1,
        )
        x, y = xy(*state.point)
        percent = 100 * point.accuracy.value
        share = min(max((percent - low) / (high - low), 0), 1)
        first = " first" if point.accuracy.n < history.total else ""
        standing = " at" if state == history.state else ""
        cells[level].append(
            f'<use href="#cell-{level}" class="cell{first}{standing}" x="{x:.1f}" y="{y:.1f}" '
            f'style="--v:{100 * share:.0f}%"/>'
        )
        if (
            level == 0 and not standing and state not in state.corners
        ):  # at the corners there is a name
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
        '<polygon class="edge" '
        f'points="{" ".join(f"{x:.1f},{y:.1f}" for x, y in _corners())}"/>'
        f"{''.join(words)}{_badges()}</svg>"
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
        f'<circle class="badge {name.lower()}" cx="{x:.1f}" cy="{y:.1f}" r="11"/><text '
        f'class="badge-name" x="{x:.1f}" y="{y + 4.5:.1f}">{name}</text>'
        for name, (x, y) in zip("ABC", _corners(), strict=True)
    )


def _key(low: int, high: int) -> str:
    """What the colours say."""
    steps = 5
    boxes = "".join(
        f'<rect class="cell" x="6" y="{16 + 18 * i}" width="16" height="18" '
        f'style="--v:{100 - 25 * i}%"/>'
        for i in range(steps)
    )
    names = "".join(
        '<text class="tick" x="28" '
        f'y="{29 + 18 * i}">{"≤ " if i == 4 and low > 0 else ""}'
        f"{high - (high - low) * i / 4:.0f}\u202f%</text>"
        for i in (0, 2, 4)
    )
    return boxes + names


def _in_words(history: History) -> str:
    here, found = _here(history), dip(history)
    said = [f"{sum(map(history.whole, landscape(history)))} places measured on all images."]
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
    before = history.points.get(history.since) if history.since else None
    if history.since == history.state or before is None or history.here is None or bench is None:
        return panels.nothing_changed(
            "What the last move changed",
            "Move the point: images whose prediction changes appear here.",
        )
    return panels.changed(bench, before, history.here, "by the last move")


def table(history: History) -> str:
    """All places of the triangle, the base first; A, B and C are weights."""
    rows: list[tuple[Sequence[str], Accuracy]] = (
        [(("base", "", "", ""), history.base.accuracy)] if history.base else []
    )
    names = dict(zip(((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)), "ABC", strict=True))
    for state, point in sorted(landscape(history).items(), key=lambda item: item[0].point[::-1]):
        rows.append(((names.get(state.weights, ""), *map(signed, state.weights)), point.accuracy))
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
