"""The Shapley view's pieces of HTML: pure functions of what is known of a game."""

import math

import numpy as np

from copra_lab.bench.bench import Bench
from copra_lab.page.components import images, panels
from copra_lab.page.components.axes import QUARTERS, Axes
from copra_lab.page.components.numbers import gained, percent, signed
from copra_lab.page.state.layer_game import Values

HEIGHT, LOW_HEIGHT = 210, 130
"""Pixels of the drawing of values, and of the curve."""


def number(v: Values | None) -> str:
    """What all layers together are worth, and how far the game is."""
    if v is None:
        return (
            '<div class="now waiting" role="status"><div class="figure">…</div><div '
            'class="words">Sampling the first orders.'
            " The very first start also draws all images, which takes about a minute.</div></div>"
        ) + _facts(None)
    total = 100 * (v.full - v.empty)
    n = v.of_images.shape[1]
    how = (
        "<b>exact</b>, all coalitions measured"
        if v.exact
        else "<b>sampled</b>, bars are 95\u202f% intervals"
    )
    recipe = f"what {len(v.layers)} layers add together, on {n} images"
    words = f"{how}<br>{v.asked:,} of {v.every:,} coalitions"
    data = {"asked": v.asked, "every": v.every, "total": f"{total:.6f}"}
    kind = "" if v.exact else "first"
    return panels.figure(gained(total, 0), "pt", recipe, words, data, kind) + _facts(v)


FACTS = {
    "no layer": ("base", "Accuracy of the base on these images"),
    "all layers": ("a", "Accuracy with the whole adapter on these images"),
    "best four": (
        "b",
        "What the four layers of highest value add, as a share of what all add; other layers may "
        "subtract",
    ),
    "area under g(p)": (
        "left wide",
        "Mean accuracy when each layer is on with probability p, averaged over p from 0 to 1",
    ),
}
"""The class of each fact, and what is said when it is pointed at."""


def _facts(v: Values | None) -> str:
    if v is None:
        return panels.facts(*(panels.fact(name, "…", kind) for name, (kind, _) in FACTS.items()))
    best, total = np.sort(v.values)[::-1][:4].sum(), v.full - v.empty
    values = (
        f"{100 * v.empty:.0f}\u202f%",
        f"{100 * v.full:.0f}\u202f%",
        f"{100 * best / total:.0f}\u202f% <span>of all</span>" if total > 0 else "—",
        percent(v.curve.area),
    )
    cells = zip(FACTS.items(), values, strict=True)
    return panels.facts(*(panels.fact(name, x, kind, title) for (name, (kind, title)), x in cells))


def _span(v: Values) -> tuple[float, float]:
    """The axis in points: multiples of five around all that is drawn.

    So it seldom moves.
    """
    half = np.where(np.isfinite(v.halves), v.halves, 0)
    low, high = 100 * min(0, (v.values - half).min()), 100 * max(0, (v.values + half).max())
    return 5 * math.floor(low / 5 - 1e-9) if low < -0.5 else 0.0, max(5, 5 * math.ceil(high / 5))


def bars(v: Values | None, layer: int) -> str:
    """The value of each layer with its interval, in points of accuracy."""
    if v is None:
        return f'<div class="chart shapley">{Axes(HEIGHT).svg("Values")}</div>'
    (low, high), n = _span(v), len(v.layers)
    axes = Axes(HEIGHT, (0, n), (low, high))
    out = []
    step = 5 if high - low <= 30 else 10 if high - low <= 60 else 20
    for tick in range(int(math.ceil(low / step) * step), int(high) + 1, step):
        out += axes.tick(tick, signed(tick, 0), "grid" if tick else "zero")
    named = dict(zip(v.layers, 100 * v.values, strict=True))
    for i, ((name, value), half) in enumerate(zip(named.items(), 100 * v.halves, strict=True)):
        chosen = " chosen" if name == layer else ""
        interval, whisker = "", ""
        if not v.exact and np.isfinite(half):
            interval = f" ± {half:.1f}"
            whisker = axes.line("whisker", i + 0.5, value - half, i + 0.5, value + half)
        out.append(
            f'<g class="shapley{chosen}"><title>layer {name}: {gained(value, 1)}{interval} '
            f"points</title>{axes.bar('is', i + 0.16, 0.68, value, least=1)}{whisker}</g>"
        )
    even = 100 * (v.full - v.empty) / n
    legend = f"points of accuracy · dotted: equal shares, {gained(even, 1)}"
    out += [axes.level("chord", even), axes.legend(legend)]
    said = ", ".join(f"layer {name} {gained(value, 1)}" for name, value in named.items())
    drawing = axes.svg("Shapley value of each layer", out, f"{said}.")
    return f'<div class="chart shapley">{drawing}</div>'


def curve(v: Values | None) -> str:
    """The multilinear curve: mean accuracy when each layer is on with probability p."""
    axes = Axes(LOW_HEIGHT)
    if v is None:
        return f'<div class="chart shapley low">{axes.svg("Curve")}</div>'
    out = [part for share in (0, 0.5, 1) for part in axes.tick(share, f"{share:.0%}")]
    out += [axes.below(p, f"{p:g}") for p in QUARTERS]
    ps = np.linspace(0, 1, 41)
    out += axes.curve("curve", zip(ps.tolist(), v.curve(ps).tolist(), strict=True))
    out += [
        axes.line("chord", 0, v.empty, 1, v.full),
        axes.legend("accuracy when each layer is on with probability p", dy=-10),
    ]
    said = ", ".join(f"{100 * float(v.curve(p)):.0f} % at p = {p:g}" for p in QUARTERS)
    drawing = axes.svg("The multilinear curve", out, f"{said}.")
    return f'<div class="chart shapley low">{drawing}</div>'


def decided(v: Values | None, bench: Bench | None, layer: int) -> str:
    """The images for which a layer matters most, those it helps before those it harms."""
    head = f"by layer {layer}" if layer >= 0 else "by a layer"
    if v is None or bench is None or layer not in v.layers:
        return images.empty("Decided", head, "Images that a layer helps or harms appear here.")
    own = v.of_images[v.layers.index(layer)]
    helped, harmed = (
        [int(i) for i in np.argsort(-sign * own, kind="stable") if sign * own[i] > 0.02]
        for sign in (1, -1)
    )
    if not helped and not harmed:
        return images.empty("Decided", head, "No image depends on this layer.")
    tally = [
        ("right", len(helped), "helped"),
        ("wrong", len(harmed), "harmed"),
        ("still", len(own) - len(helped) - len(harmed), "as they were"),
    ]
    first_helped, first_harmed = images.few_of_each([helped, harmed])
    tiles = [_tile(bench, i, "right", float(own[i])) for i in first_helped]
    tiles += [_tile(bench, i, "wrong", float(own[i])) for i in first_harmed]
    return images.gallery("Decided", head, tally, tiles)


def _tile(bench: Bench, image: int, kind: str, value: float) -> str:
    words, said = f"{kind} more often", f"{gained(100 * value, 0)}\u202f%"
    title = f"the layer’s own share in getting this image right, {said}"
    return images.tile(bench, image, kind, title, f"<span>{words}</span>", words, said)


def table(v: Values | None) -> str:
    """The values in points, with their intervals, and the sum."""
    rows = []
    if v is not None:
        for name, x, half in zip(v.layers, 100 * v.values, 100 * v.halves, strict=True):
            ends = (f"{x - half:.2f}", f"{x + half:.2f}") if np.isfinite(half) else ("", "")
            rows.append((str(name), f"{x:.2f}", *ends))
        rows.append(("all", f"{100 * v.values.sum():.2f}", "", ""))
    return panels.grid(("layer", "points", "from", "to"), rows)
