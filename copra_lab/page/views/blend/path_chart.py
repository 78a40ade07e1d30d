"""The drawing of the Blend view: accuracy along the line between two adapters."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

from copra_lab.merging.barriers import highest_barrier
from copra_lab.page.components.axes import QUARTERS, Axes, Points
from copra_lab.page.components.numbers import percent, signed
from copra_lab.page.state.schemas.blend import HIGH, LOW
from copra_lab.utils.statistics import Accuracy

HEIGHT = 270
"""Pixels from 0 to 100 % in `path_svg`."""

ENDS = {0.0: "A", 1.0: "B"}


class Line(NamedTuple):
    """A line drawn beside the one that `path_svg` is about.

    ``kind``: "delta" (long dashes, with filled squares), "factors" (dashes, with rings), "aligned"
    (dots, with discs) or "rival" (dashes and dots, with empty squares); ``points``: (λ, accuracy),
    in order.
    """

    kind: str
    name: str
    points: Points


def whole(points: Iterable[tuple[float, Accuracy]], total: int) -> list[tuple[float, Accuracy]]:
    """Those of the (λ, accuracy) that were measured on all images."""
    return [(w, a) for w, a in points if a.n >= total]


def barrier(points: Points) -> tuple[float, float] | None:
    """The barrier of a path and the λ where it is; None as long as an end is missing.

    See `copra_lab.merging.barriers.highest_barrier`.
    """
    weights, values = [w for w, _ in points], [a.value for _, a in points]
    return highest_barrier(weights, values) if ENDS.keys() <= set(weights) else None


def path_svg(
    points: Points,
    *,
    total: int,
    base: Accuracy | None = None,
    at: float | None = None,
    beside: Sequence[Line] = (),
) -> str:
    """Accuracy along the line between two adapters, as an inline SVG that fills its parent's width.

    ``points``: (λ, accuracy); those with fewer than `total` images count as first estimates, drawn
    wide and pale. ``base``: the accuracy without an adapter, a dashed line. ``at``: where the
    visitor stands. With both ends known, the chord between them and the barrier below it are drawn.
    ``beside``: other lines on the same axes, paler. λ runs from `LOW` to `HIGH`, accuracy from 0 to
    100 %, always, so that two drawings can be compared.
    """
    axes = Axes(HEIGHT, (LOW, HIGH))
    points = sorted(points, key=lambda p: p[0])
    sure = whole(points, total)
    heights = {w: a.value for w, a in sure}
    beside = [other._replace(points=whole(other.points, total)) for other in beside]
    out = _frame(axes)
    if base:
        out.append(axes.level("base", base.value))
    if ENDS.keys() <= heights.keys():
        out.append(axes.line("chord", 0, heights[0.0], 1, heights[1.0]))
    for other in beside:
        out += axes.curve(f"other {other.kind}", [(w, a.value) for w, a in other.points])
        out += [_mark(axes, other.kind, w, a.value) for w, a in other.points]
    out += axes.curve("curve", heights.items())
    found = barrier(sure)
    if found and found[0] * total >= 1:  # at least one image
        depth, weight = found
        out.append(axes.line("barrier", weight, heights[weight] + depth, weight, heights[weight]))
    if at is not None:
        out.append(axes.upright("here", at))
    out += [_point(axes, w, a, first=a.n < total, here=w == at) for w, a in points]
    if base:
        # Below its line, where the path seldom is; last, so that it stays readable.
        dy = 14 if HEIGHT * (1 - base.value) + 14 < HEIGHT - 2 else -7
        out.append(axes.name(base.value, f"base {percent(base.value)}", dy))
    said = _in_words(sure, total, base, beside)
    return axes.svg("Accuracy along the line from A to B", out, said)


def _frame(axes: Axes) -> list[str]:
    """The axes, and where A and B are."""
    out = [axes.bar("between", 0, 1, 1)]
    for share in QUARTERS:
        out += axes.tick(share, f"{share:.0%}")
        weight = LOW + share * (HIGH - LOW)
        out.append(axes.below(weight, signed(weight, 1), dy=20))
    for weight, name in ENDS.items():
        style = f"--mix:{100 * weight:.0f}%"
        out += [
            axes.upright("end", weight, style),
            f'<circle class="badge" cx="{axes.x(weight)}" cy="-14" r="11" style="{style}"/>',
            axes.text("badge-name", weight, 1, name, "middle", dy=-9.5),
        ]
    return out


def _mark(axes: Axes, kind: str, weight: float, share: float) -> str:
    """A point of a line beside: a ring, a disc or a square."""
    x, y = axes.x(weight), axes.y(share)
    if kind in ("rival", "delta"):
        return (
            f'<rect class="mark {kind}" x="{x}" y="{y}" width="6" height="6" '
            'transform="translate(-3 -3)"/>'
        )
    return f'<circle class="mark {kind}" cx="{x}" cy="{y}" r="3"/>'


def _point(axes: Axes, weight: float, accuracy: Accuracy, first: bool, here: bool) -> str:
    """A measured point: an end, or where the visitor stands, is larger than the others."""
    end = weight in ENDS and not first
    kind = f"{' first' if first else ''}{' at' if here else ''}{' mark-end' if end else ''}"
    radius = 7 if here else 5.5 if end else 3.2
    style = f"--mix:{100 * min(max(weight, 0), 1):.0f}%"
    return axes.point(kind, f"λ = {signed(weight)}", weight, accuracy, radius, style)


def _in_words(points: Points, total: int, base: Accuracy | None, beside: Sequence[Line]) -> str:
    said = [f"{len(points)} positions measured on all images."]
    if base:
        said.append(f"Without an adapter: {base}.")
    said += [f"{ENDS[w]}: {a}." for w, a in points if w in ENDS]
    if found := barrier(points):
        said.append(f"{_height(found, total).capitalize()}.")
    said += [
        f"Beside it: {other.name}, {_height(found, total)}."
        for other in beside
        if (found := barrier(other.points))
    ]
    return " ".join(said)


def _height(found: tuple[float, float], total: int) -> str:
    depth, weight = found
    if depth * total < 1:  # less than one image
        return "no barrier"
    return f"barrier {100 * depth:.1f} points at λ = {signed(weight)}"
