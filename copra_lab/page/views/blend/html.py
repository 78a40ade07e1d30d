"""The Blend view's pieces of HTML: pure functions of a history."""

from html import escape

from copra_lab.bench.bench import Bench
from copra_lab.page.components import images, panels
from copra_lab.page.components.axes import Points
from copra_lab.page.components.numbers import percent, signed
from copra_lab.page.components.panels import standing
from copra_lab.page.state.schemas.blend import BlendState
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import History, Point
from copra_lab.page.views.blend.path_chart import ENDS, Line, barrier, path_svg, whole
from copra_lab.utils.statistics import Accuracy

NAMES = {"delta": "in ΔW", "factors": "in the factors", "aligned": "in aligned factors"}
"""What a line is called by what it mixes, one of `copra_lab.merging.SPACES`."""


def curve(history: History, line: BlendState | None = None) -> dict[float, Point]:
    """What was measured on `line`, or else where the visitor stands, by λ.

    In the factors too it ends at the two adapters.
    """
    line = line or standing(history, BlendState)
    if line is None:
        return {}
    points = {
        p.weight: point
        for p, point in history.points.items()
        if isinstance(p, BlendState) and p.line == line.line
    }
    points |= {w: history.points[line.at(w)] for w in ENDS if line.at(w) in history.points}
    return dict(sorted(points.items()))


def accuracies(history: History, line: BlendState | None = None) -> list[tuple[float, Accuracy]]:
    """(λ, accuracy) of what was measured on `line`, in order."""
    return [(w, p.accuracy) for w, p in curve(history, line).items()]


def _beside(history: History) -> list[Line]:
    """The lines beside the visitor's own, as far as they were measured: two ends make none."""
    here, lines = standing(history, BlendState), []
    for kind, name, line in here.beside if here else ():
        points = accuracies(history, line)
        lines.append(Line(kind, name, points if {w for w, _ in points} - ENDS.keys() else []))
    return lines


def number(history: History) -> str:
    """The accuracy where the thumb is, and the facts to hold it against."""
    here, at = standing(history, BlendState), history.position
    data = {"weight": at, "space": here.space if here else ""}
    measuring = "Measuring the base and both ends."
    return panels.number(history, _recipe(at), data, measuring) + _facts(history)


def _recipe(at: float) -> str:
    """What the model at λ is made of: ``λ = 0.30: 0.70 A + 0.30 B``."""
    sign = "−" if at < 0 else "+"
    return (
        f'<b>λ = {signed(at)}</b> <span>{signed(1 - at)} <i class="a">A</i> {sign} '
        f'{signed(abs(at))} <i class="b">B</i></span>'
    )


def _facts(history: History) -> str:
    known = curve(history)
    words = _barrier(accuracies(history), history.total, " points")
    title = "How far the measured path falls below the straight line from A to B"
    return panels.facts(
        panels.measured("base", history.base, "base"),
        panels.measured("A", known.get(0.0), "a"),
        panels.measured("B", known.get(1.0), "b"),
        panels.fact("barrier", words, "barrier wide", title),
    )


def _barrier(points: Points, total: int, unit: str = "") -> str:
    """The barrier of what was measured on all images, as HTML."""
    found = barrier(whole(points, total))
    if found is None:
        return "…"
    if found[0] * total < 1:  # less than one image
        return "none so far"
    return f"{100 * found[0]:.1f}{unit} <span>at {signed(found[1])}</span>"


def chart(history: History) -> str:
    """The curve, with a legend of all lines."""
    points, base, beside = accuracies(history), panels.accuracy(history.base), _beside(history)
    drawing = path_svg(points, total=history.total, base=base, at=history.position, beside=beside)
    return f'<div>{_legend(history)}<div class="chart">{drawing}</div></div>'


def _legend(history: History) -> str:
    """What each line is, the accuracy of each where the visitor's λ is, and the barrier of each."""
    here, rows = standing(history, BlendState), []
    own = Line("own", NAMES[here.space if here else "delta"], accuracies(history))
    for kind, name, points in (own, *_beside(history)):
        a = dict(points).get(history.position)
        value = "…" if a is None else percent(a.value)
        part = "" if a is None or a.n >= history.total else ' class="first"'
        rows.append(
            f'<tr class="{kind}"><th scope="row">{_sample(kind)}{escape(name)}</th>'
            f"<td{part}>{value}</td><td>{_barrier(points, history.total)}</td></tr>"
        )
    heads = (
        '<th scope="col">lines from A to B</th><th scope="col">at λ = '
        f'{signed(history.position)}</th><th scope="col">barrier</th>'
    )
    return (
        f'<table class="legend"><thead><tr>{heads}</tr></thead><tbody>{"".join(rows)}</tbody>'
        "</table>"
    )


def _sample(kind: str) -> str:
    """A piece of the line, drawn as in the chart."""
    marks = {
        "own": '<circle class="mark" cx="17" cy="7" r="3.5"/>',
        "delta": '<rect class="mark delta" x="14" y="4" width="6" height="6"/>',
        "factors": '<circle class="mark factors" cx="17" cy="7" r="3"/>',
        "aligned": '<circle class="mark aligned" cx="17" cy="7" r="3"/>',
        "rival": '<rect class="mark rival" x="14" y="4" width="6" height="6"/>',
    }
    line = "curve" if kind == "own" else f"other {kind}"
    return (
        f'<svg class="path" width="34" height="14" aria-hidden="true"><line class="{line}" '
        f'x1="0" x2="34" y1="7" y2="7"/>{marks[kind]}</svg>'
    )


def changed(history: History, bench: Bench | None) -> str:
    """The images whose prediction the last move changed."""
    since, here = history.since, history.state
    head = f"from {_where(since, here)} to {_where(here, since)}"
    hint = "Move λ, and the images whose prediction changes appear here."
    return images.changed(history, bench, since, head, hint, idle="What the last move changed")


def _where(state: Measured | None, other: Measured | None) -> str:
    """λ, and what is mixed if that is something else at the `other` place."""
    if not isinstance(state, BlendState) or not isinstance(other, BlendState):
        return ""
    mixed = "" if state.space == other.space else f" {NAMES[state.space]}"
    return f"λ = {signed(state.weight)}{mixed}"


def table(history: History) -> str:
    """The curve's numbers, the base first, and the lines beside it last.

    In the other spaces the ends are the same.
    """
    rows = [((ENDS.get(w, ""), signed(w)), a) for w, a in accuracies(history)]
    for line in _beside(history):
        rows += [
            ((escape(line.name), signed(w)), a)
            for w, a in line.points
            if line.kind == "rival" or w not in ENDS
        ]
    return panels.table(("", "λ"), rows, panels.accuracy(history.base))
