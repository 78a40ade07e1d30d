"""The Blend view's pieces of HTML: pure functions of a walk."""

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape

from PIL import Image

from copra_lab.bench import Bench
from copra_lab.page.walk import HIGH, LOW, Change, Walk
from copra_lab.plots import highest_barrier, path_svg, percent, signed
from copra_lab.stats import Accuracy

TILES = 10
"""Changed images that are shown; how many more there are is said."""


def accuracies(walk: Walk) -> list[tuple[float, Accuracy]]:
    return sorted((w, p.accuracy) for w, p in walk.points.items())


def number(walk: Walk) -> str:
    """The accuracy where the thumb is, with its interval, and the facts to hold it against."""
    point = walk.points.get(walk.at)
    if point is None:
        doing = "Measuring the base and both ends. A very first start also draws all images: about a minute." if walk.pair else "Waking the model."
        return _now("…", "", _recipe(walk.at), doing, "", "waiting") + _facts(walk)
    a = point.accuracy
    low, high = (f"{100 * end:.1f}" for end in a.interval)
    part = a.n < walk.total
    images = f"first {a.n} of {walk.total} images" if part else f"{a.correct} of {a.n} images right"
    data = f' data-weight="{walk.at}" data-correct="{a.correct}" data-n="{a.n}" data-total="{walk.total}"'
    words = f'95\u202f% <span class="long">interval</span> <b>{low} to {high}</b><br>{images}'
    return _now(f"{100 * a.value:.1f}", "%", _recipe(walk.at), words, data, "first" if part else "") + _facts(walk)


def trouble(error: Exception) -> str:
    """In place of the number, why there is none."""
    return f'<div class="trouble" role="alert"><b>No number here.</b> {escape(str(error))}</div>'


def _now(figure: str, unit: str, recipe: str, words: str, data: str, kind: str) -> str:
    return (
        f'<div class="now {kind}" role="status"{data}><div class="figure">{figure}<small>{unit}</small></div>'
        f'<div class="words"><div class="recipe">{recipe}</div>{words}</div></div>'
    )


def _recipe(at: float) -> str:
    """What the model at λ is made of: ``λ = 0.30: 0.70 A + 0.30 B``."""
    sign = "−" if at < 0 else "+"
    return f'<b>λ = {signed(at)}</b> <span>{signed(1 - at)} <i class="a">A</i> {sign} {abs(at):.2f} <i class="b">B</i></span>'


def _facts(walk: Walk) -> str:
    def fact(name: str, value: str, kind: str, title: str = "") -> str:
        return f'<div class="{kind}" title="{escape(title)}"><dt>{name}</dt><dd>{value}</dd></div>'

    def known(weight: float) -> Accuracy | None:
        return walk.points[weight].accuracy if weight in walk.points else None

    rows = [("base", walk.base.accuracy if walk.base else None, "base"), ("A", known(0.0), "a"), ("B", known(1.0), "b")]
    facts = [fact(name, percent(a.value) if a else "…", kind, str(a or "")) for name, a, kind in rows]
    found = highest_barrier([(w, a) for w, a in accuracies(walk) if a.n >= walk.total])
    if found is None:
        barrier = "…"
    elif found[0] * walk.total < 1:  # less than one image
        barrier = "none so far"
    else:
        barrier = f"{100 * found[0]:.1f} points <span>at {signed(found[1])}</span>"
    facts.append(fact("barrier", barrier, "barrier", "How far the measured path falls below the straight line from A to B"))
    return f'<dl class="facts">{"".join(facts)}</dl>'


def chart(walk: Walk) -> str:
    base = walk.base.accuracy if walk.base else None
    return f'<div class="chart">{path_svg(accuracies(walk), total=walk.total, base=base, at=walk.at, low=LOW, high=HIGH)}</div>'


@lru_cache(4096)
def thumbnail(bench: Bench, image: int) -> str:
    """Image number `image` of the bench's order as a data address."""
    pixels = bench.split.images[bench.order[image]].numpy()
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _verdict(change: Change, label: int) -> str:
    return "right" if change.after == label else "wrong" if change.before == label else "still"


VERDICTS = {"right": ("✓", "now right"), "wrong": ("✗", "now wrong"), "still": ("○", "wrong either way")}


def changed(walk: Walk, bench: Bench | None) -> str:
    """The images whose prediction the last move changed, the gained before the lost."""
    found: Sequence[Change] = walk.changes if bench else []
    labels = [int(bench.labels[c.image]) for c in found] if bench else []
    order = list(VERDICTS)
    shown = sorted(((_verdict(c, label), c, label) for c, label in zip(found, labels, strict=True)), key=lambda s: order.index(s[0]))
    counts = {v: sum(s[0] == v for s in shown) for v in order}
    step = f"from λ = {signed(walk.since)} to {signed(walk.at)}"
    point = walk.points.get(walk.at)
    if walk.since == walk.at or point is None or bench is None:
        head, body = "What the last move changed", _empty("Move λ: images whose prediction changes appear here.")
    elif not shown:
        among = f" among the first {point.accuracy.n}" if point.accuracy.n < walk.total else ""
        head, body = f"{step}", _empty(f"No prediction changed{among}.")
    else:
        tally = "".join(f'<span class="{v}">{VERDICTS[v][0]} {n} {VERDICTS[v][1]}</span>' for v, n in counts.items())
        # A few of each verdict, so that many gains do not hide the losses.
        room, picked = TILES, []
        for i, v in enumerate(order):
            own = [s for s in shown if s[0] == v]
            reserved = sum(min(3, counts[later]) for later in order[i + 1 :])
            picked += own[: max(room - reserved, 0)]
            room -= min(len(own), max(room - reserved, 0))
        more = f'<p class="more">and {len(shown) - len(picked)} more</p>' if len(shown) > len(picked) else ""
        head = step
        body = f'<p class="tally">{tally}</p><ul class="tiles">{"".join(_tile(bench, *s) for s in picked)}</ul>{more}'
    return f'<section class="changed"><h2>Changed <span>{head}</span></h2>{body}</section>'


def _empty(words: str) -> str:
    return f'<p class="empty">{words}</p>'


def _tile(bench: Bench, verdict: str, change: Change, label: int) -> str:
    truth, before, after = (escape(bench.task.classes[i]) for i in (label, change.before, change.after))
    sign, words = VERDICTS[verdict]
    return (
        f'<li class="{verdict}" title="{truth}: {before} → {after}, {words}"><img src="{thumbnail(bench, change.image)}" alt="{truth}" width="56" height="56">'
        f'<div><b>{truth}</b><s>{before}</s><em><i aria-label="{words}">{sign}</i> {after}</em></div></li>'
    )


def table(walk: Walk) -> str:
    """The curve's numbers, those of the base first."""
    names = {0.0: "A", 1.0: "B"}
    rows = [("base", "", walk.base.accuracy)] if walk.base else []
    rows += [(names.get(w, ""), signed(w), a) for w, a in accuracies(walk)]
    cells = "".join(
        f"<tr><th scope=row>{name}</th><td>{weight}</td><td>{100 * a.value:.2f}</td><td>{100 * a.interval[0]:.2f}</td>"
        f"<td>{100 * a.interval[1]:.2f}</td><td>{a.correct}</td><td>{a.n}</td></tr>"
        for name, weight, a in rows
    )
    heads = "".join(f"<th scope=col>{h}</th>" for h in ("", "λ", "accuracy %", "from %", "to %", "right", "images"))
    return f'<div class="numbers" tabindex="0"><table><thead><tr>{heads}</tr></thead><tbody>{cells}</tbody></table></div>'
