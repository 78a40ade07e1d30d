"""The drawing of the Blend view: accuracy along the line between two adapters."""

import itertools
from collections.abc import Sequence
from html import escape
from typing import NamedTuple

from copra_lab.merge import highest_barrier
from copra_lab.page.words import percent, signed
from copra_lab.stats import Accuracy

HEIGHT = 270
"""Pixels from 0 to 100 % in `path_svg`."""


class Line(NamedTuple):
    """A line drawn beside the one that `path_svg` is about. ``kind``: "space" (dashed, with rings) or "rival" (dashes and dots, with squares);
    ``points``: (λ, accuracy), in order."""

    kind: str
    name: str
    points: Sequence[tuple[float, Accuracy]]


def barrier(points: Sequence[tuple[float, Accuracy]]) -> tuple[float, float] | None:
    """The barrier of a path and the λ where it is, see `copra_lab.merge.highest_barrier`; None as long as an end is missing."""
    weights, values = [w for w, _ in points], [a.value for _, a in points]
    return highest_barrier(weights, values) if {0.0, 1.0} <= set(weights) else None


def path_svg(
    points: Sequence[tuple[float, Accuracy]],
    *,
    total: int,
    base: Accuracy | None = None,
    at: float | None = None,
    low: float = -0.5,
    high: float = 1.5,
    beside: Sequence[Line] = (),
) -> str:
    """Accuracy along the line between two adapters, as an inline SVG that fills its parent's width.

    ``points``: (λ, accuracy); those with fewer than `total` images count as first estimates, drawn wide and pale.
    ``base``: the accuracy without an adapter, a dashed line. ``at``: where the visitor stands. With both ends known,
    the chord between them and the barrier below it are drawn. ``beside``: other lines on the same axes, paler. λ runs from `low` to `high`, accuracy from 0 to 100 %,
    always, so that two drawings can be compared.

    Positions across are percentages and positions down are pixels, so text keeps its size on a phone. Labels stand
    outside of the plot: the parent needs padding. Colours come from CSS classes (``page.css``).
    """

    def x(weight: float) -> str:
        return f"{100 * (weight - low) / (high - low):.2f}%"

    def y(share: float) -> str:
        return f"{HEIGHT * (1 - share):.1f}"

    def line(kind: str, x1: str, y1: str, x2: str, y2: str, more: str = "") -> str:
        return f'<line class="{kind}" x1="{x1}" y1="{y1}" x2="{x2}" y2="{y2}"{more}/>'

    def dot(kind: str, at_x: str, at_y: str) -> str:
        if kind == "rival":
            return f'<rect class="mark {kind}" x="{at_x}" y="{at_y}" width="6" height="6" transform="translate(-3 -3)"/>'
        return f'<circle class="mark {kind}" cx="{at_x}" cy="{at_y}" r="3"/>'

    def text(kind: str, at_x: str, at_y: float | str, words: str, more: str = "") -> str:
        return f'<text class="{kind}" x="{at_x}" y="{at_y}"{more}>{escape(words)}</text>'

    points = sorted(points, key=lambda p: p[0])
    whole = [(w, a) for w, a in points if a.n >= total]
    beside = [other._replace(points=[(w, a) for w, a in other.points if a.n >= total]) for other in beside]
    ends = {w: a for w, a in whole if w in (0.0, 1.0)}
    out = [f'<rect class="between" x="{x(0)}" y="0" width="{100 / (high - low):.2f}%" height="{HEIGHT}"/>']
    for share in (0, 0.25, 0.5, 0.75, 1):
        out += [line("grid", "0", y(share), "100%", y(share)), text("tick", "0", y(share), f"{share:.0%}", ' dx="-8" dy="4" text-anchor="end"')]
    for i in range(5):
        weight = low + i * (high - low) / 4
        out.append(text("tick", x(weight), HEIGHT + 20, signed(weight, 1), ' text-anchor="middle"'))
    for weight, name in ((0.0, "A"), (1.0, "B")):
        style = f' style="--mix:{100 * weight:.0f}%"'
        out += [
            line("end", x(weight), "0", x(weight), str(HEIGHT), style),
            f'<circle class="badge" cx="{x(weight)}" cy="-14" r="11"{style}/>',
            text("badge-name", x(weight), -9.5, name, ' text-anchor="middle"'),
        ]
    if base:
        out.append(line("base", "0", y(base.value), "100%", y(base.value)))
    if len(ends) == 2:
        out.append(line("chord", x(0), y(ends[0.0].value), x(1), y(ends[1.0].value)))
    for other in beside:
        out += [line(f"other {other.kind}", x(w1), y(a1.value), x(w2), y(a2.value)) for (w1, a1), (w2, a2) in itertools.pairwise(other.points)]
        out += [dot(other.kind, x(w), y(a.value)) for w, a in other.points]
    for (w1, a1), (w2, a2) in itertools.pairwise(whole):
        out.append(line("curve", x(w1), y(a1.value), x(w2), y(a2.value)))
    found = barrier(whole)
    if found and found[0] * total >= 1:  # at least one image
        depth, weight = found
        value = dict(whole)[weight].value
        out.append(line("barrier", x(weight), y(value + depth), x(weight), y(value)))
    if at is not None:
        out.append(line("here", x(at), "0", x(at), str(HEIGHT)))
    for weight, accuracy in points:
        start, stop = accuracy.interval
        first = " first" if accuracy.n < total else ""
        standing = " at" if weight == at else ""
        mark = " mark-end" if weight in ends and not first else ""
        radius = 7 if standing else 5.5 if mark else 3.2
        out.append(
            f'<g class="point{first}{standing}{mark}" style="--mix:{100 * min(max(weight, 0), 1):.0f}%">'
            f"<title>λ = {signed(weight)}: {escape(str(accuracy))}</title>"
            f"{line('bar', x(weight), y(start), x(weight), y(stop))}"
            f'<circle cx="{x(weight)}" cy="{y(accuracy.value)}" r="{radius}"/></g>'
        )
    if base:  # last, so that it stays readable: below the line, where the path seldom is
        below = HEIGHT * (1 - base.value) + 14
        label = f"base {percent(base.value)}"
        out.append(text("base-name", "100%", f"{below if below < HEIGHT - 2 else below - 21:.1f}", label, ' dx="-4" text-anchor="end"'))
    return (
        f'<svg class="path" role="img" aria-label="Accuracy along the line from A to B" width="100%" height="{HEIGHT}">'
        f"<desc>{escape(_in_words(whole, total, base, beside))}</desc>{''.join(out)}</svg>"
    )


def _in_words(whole: Sequence[tuple[float, Accuracy]], total: int, base: Accuracy | None, beside: Sequence[Line]) -> str:
    said = [f"{len(whole)} positions measured on all images."]
    if base:
        said.append(f"Without an adapter: {base}.")
    said += [f"{name}: {a}." for w, a in whole for weight, name in ((0.0, "A"), (1.0, "B")) if w == weight]
    if found := barrier(whole):
        said.append(f"{_height(found, total).capitalize()}.")
    said += [f"Beside it: {other.name}, {_height(found, total)}." for other in beside if (found := barrier(other.points))]
    return " ".join(said)


def _height(found: tuple[float, float], total: int) -> str:
    depth, weight = found
    return f"barrier {100 * depth:.1f} points at λ = {signed(weight)}" if depth * total >= 1 else "no barrier"
