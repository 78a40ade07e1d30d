"""The Blend view's pieces of HTML: pure functions of a walk."""

from copra_lab.bench import Bench
from copra_lab.page import parts
from copra_lab.page.places import HIGH, LOW
from copra_lab.page.walk import Walk
from copra_lab.plots import highest_barrier, path_svg, signed
from copra_lab.stats import Accuracy


def accuracies(walk: Walk) -> list[tuple[float, Accuracy]]:
    return [(w, p.accuracy) for w, p in walk.curve().items()]


def number(walk: Walk) -> str:
    """The accuracy where the thumb is, and the facts to hold it against."""
    data = {"weight": walk.position}
    return parts.number(walk, _recipe(walk.position), data, "Measuring the base and both ends.") + _facts(walk)


def _recipe(at: float) -> str:
    """What the model at λ is made of: ``λ = 0.30: 0.70 A + 0.30 B``."""
    sign = "−" if at < 0 else "+"
    return f'<b>λ = {signed(at)}</b> <span>{signed(1 - at)} <i class="a">A</i> {sign} {abs(at):.2f} <i class="b">B</i></span>'


def _facts(walk: Walk) -> str:
    curve = walk.curve()
    found = highest_barrier([(w, a) for w, a in accuracies(walk) if a.n >= walk.total])
    if found is None:
        barrier = "…"
    elif found[0] * walk.total < 1:  # less than one image
        barrier = "none so far"
    else:
        barrier = f"{100 * found[0]:.1f} points <span>at {signed(found[1])}</span>"
    return parts.facts(
        parts.measured("base", walk.base, "base"),
        parts.measured("A", curve.get(0.0), "a"),
        parts.measured("B", curve.get(1.0), "b"),
        parts.fact("barrier", barrier, "barrier wide", "How far the measured path falls below the straight line from A to B"),
    )


def chart(walk: Walk) -> str:
    base = walk.base.accuracy if walk.base else None
    return f'<div class="chart">{path_svg(accuracies(walk), total=walk.total, base=base, at=walk.position, low=LOW, high=HIGH)}</div>'


def changed(walk: Walk, bench: Bench | None) -> str:
    """The images whose prediction the last move changed."""
    before = walk.points.get(walk.since) if walk.since else None
    if walk.since is None or walk.since == walk.place or before is None or walk.here is None or bench is None:
        return parts.nothing_changed("What the last move changed", "Move λ: images whose prediction changes appear here.")
    return parts.changed(bench, before, walk.here, f"from λ = {signed(walk.since.position)} to {signed(walk.position)}")


def table(walk: Walk) -> str:
    """The curve's numbers, those of the base first."""
    names = {0.0: "A", 1.0: "B"}
    rows = [(("base", ""), walk.base.accuracy)] if walk.base else []
    return parts.table(("", "λ"), rows + [((names.get(w, ""), signed(w)), a) for w, a in accuracies(walk)])
