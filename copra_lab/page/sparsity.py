"""The drawing of the Prune view: accuracy against sparsity."""

import itertools
from collections.abc import Sequence
from html import escape

from copra_lab.page.words import percent
from copra_lab.stats import Accuracy

HEIGHT = 200
"""Pixels from 0 to 100 % accuracy."""

TICKS = (0, 0.25, 0.5, 0.75, 1)


def sparsity_svg(
    points: Sequence[tuple[float, Accuracy]], *, total: int, base: Accuracy | None = None, whole: Accuracy | None = None, at: float | None = None
) -> str:
    """Accuracy against the share of an adapter's entries that is zero, as an inline SVG that fills its parent's width.

    ``points``: (sparsity, accuracy); those with fewer than `total` images count as first estimates, drawn wide and
    pale. ``base`` and ``whole``: without the adapter, a dashed line, and with all of it, a dotted one. ``at``: where
    the visitor stands. Both axes run from 0 to 100 %, always. See `copra_lab.page.path.path_svg`, whose classes it shares.
    """
    points = sorted(points, key=lambda p: p[0])
    out = []
    for share in TICKS:
        out += [_line("grid", 0, share, 1, share), _text("tick", 0, share, f"{share:.0%}", 'dx="-8" dy="4" text-anchor="end"')]
        out.append(_text("tick", share, 0, f"{share:.0%}", 'dy="20" text-anchor="middle"'))
    if base:
        out.append(_line("base", 0, base.value, 1, base.value))
    if whole:
        out.append(_line("chord", 0, whole.value, 1, whole.value))
    for (x1, a1), (x2, a2) in itertools.pairwise((x, a) for x, a in points if a.n >= total):
        out.append(_line("curve", x1, a1.value, x2, a2.value))
    if at is not None:
        out.append(_line("here", at, 0, at, 1))
    out += [_point(x, a, first=a.n < total, standing=x == at) for x, a in points]
    # The names come last, so that they stay readable: each at the side where the curve, which falls from the whole
    # adapter to the base, is far from it.
    above = not (base and whole and whole.value < base.value)
    if base:
        out.append(_name(base, "base", 0, 'dx="4"', above=not above))
    if whole:
        out.append(_name(whole, "whole", 1, 'text-anchor="end" dx="-4"', above=above))
    said = escape(_in_words(points, total, base, whole))
    return (
        '<svg class="path" style="--mix:0%" role="img" aria-label="Accuracy against sparsity" '
        f'width="100%" height="{HEIGHT}"><desc>{said}</desc>{"".join(out)}</svg>'
    )


def _x(share: float) -> str:
    return f"{100 * share:.2f}%"


def _y(share: float) -> str:
    return f"{HEIGHT * (1 - share):.1f}"


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{_x(x1)}" y1="{_y(y1)}" x2="{_x(x2)}" y2="{_y(y2)}"/>'


def _text(kind: str, x: float, y: float, words: str, more: str) -> str:
    return f'<text class="{kind}" x="{_x(x)}" y="{_y(y)}" {more}>{escape(words)}</text>'


def _name(accuracy: Accuracy, name: str, x: float, more: str, above: bool) -> str:
    """A label at its line, above or below it as long as there is room."""
    above = above if 0.1 < accuracy.value < 0.9 else accuracy.value <= 0.1
    return _text("base-name", x, accuracy.value, f"{name} {percent(accuracy.value)}", f'{more} dy="{-6 if above else 14}"')


def _point(x: float, accuracy: Accuracy, first: bool, standing: bool) -> str:
    start, stop = accuracy.interval
    return (
        f'<g class="point{" first" if first else ""}{" at" if standing else ""}"><title>sparsity {x:.0%}: {escape(str(accuracy))}</title>'
        f'{_line("bar", x, start, x, stop)}<circle cx="{_x(x)}" cy="{_y(accuracy.value)}" r="{7 if standing else 3.2}"/></g>'
    )


def _in_words(points: Sequence[tuple[float, Accuracy]], total: int, base: Accuracy | None, whole: Accuracy | None) -> str:
    said = [f"{sum(a.n >= total for _, a in points)} positions measured on all images."]
    if base:
        said.append(f"Without an adapter: {base}.")
    if whole:
        said.append(f"The whole adapter: {whole}.")
    return " ".join([*said, *(f"Sparsity {x:.0%}: {a}." for x, a in points if a.n >= total)])
