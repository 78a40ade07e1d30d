"""The drawing of the Prune view: accuracy against sparsity."""

from copra_lab.page.components.axes import QUARTERS, Axes, Points
from copra_lab.page.components.numbers import percent
from copra_lab.utils.statistics import Accuracy

AXES = Axes(200)
"""Both from 0 to 100 %, always."""


def sparsity_svg(
    points: Points,
    *,
    total: int,
    base: Accuracy | None = None,
    whole: Accuracy | None = None,
    at: float | None = None,
) -> str:
    """Accuracy against the share of an adapter's entries that is zero, as an SVG.

    It is inline, and fills its parent's width.

    ``points``: (sparsity, accuracy); those with fewer than `total` images count as first estimates,
    drawn wide and pale. ``base`` and ``whole``: without the adapter, a dashed line, and with all of
    it, a dotted one. ``at``: where the visitor stands. See
    `copra_lab.page.views.blend.path_chart.path_svg`, whose classes it shares.
    """
    points = sorted(points, key=lambda p: p[0])
    out = []
    for share in QUARTERS:
        out += [*AXES.tick(share, f"{share:.0%}"), AXES.below(share, f"{share:.0%}", dy=20)]
    out += [AXES.level(kind, a.value) for kind, a in (("base", base), ("chord", whole)) if a]
    out += AXES.curve("curve", [(x, a.value) for x, a in points if a.n >= total])
    if at is not None:
        out.append(AXES.upright("here", at))
    for x, a in points:
        kind = f"{'first' if a.n < total else ''}{' at' if x == at else ''}"
        out.append(AXES.point(kind, f"sparsity {x:.0%}", x, a, 7 if x == at else 3.2))
    # The names come last, so that they stay readable: each at the side where the curve, which falls
    # from the whole adapter to the base, is far from it.
    above = not (base and whole and whole.value < base.value)
    if base:
        out.append(_name(base, "base", 0, above=not above))
    if whole:
        out.append(_name(whole, "whole", 1, above=above))
    said = _in_words(points, total, base, whole)
    return AXES.svg("Accuracy against sparsity", out, said, style="--mix:0%")


def _name(accuracy: Accuracy, name: str, end: int, above: bool) -> str:
    """A label at its line, above or below it, at the left (0) or right (1) end."""
    y = accuracy.value
    above = above if 0.1 < y < 0.9 else y <= 0.1
    return AXES.name(y, f"{name} {percent(y)}", -6 if above else 14, end)


def _in_words(points: Points, total: int, base: Accuracy | None, whole: Accuracy | None) -> str:
    said = [f"{sum(a.n >= total for _, a in points)} positions measured on all images."]
    if base:
        said.append(f"Without an adapter: {base}.")
    if whole:
        said.append(f"The whole adapter: {whole}.")
    return " ".join([*said, *(f"Sparsity {x:.0%}: {a}." for x, a in points if a.n >= total)])
