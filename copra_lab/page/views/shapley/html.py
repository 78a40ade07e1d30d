"""The Shapley view's pieces of HTML: pure functions of what is known of a game."""

import math
from html import escape

import numpy as np

from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels
from copra_lab.page.components.axes import QUARTERS, Axes
from copra_lab.page.components.numbers import signed
from copra_lab.page.state.layer_game import Values

HEIGHT, LOW_HEIGHT = 210, 130
"""Pixels of the drawing of values, and of the curve."""


def number(v: Values | None) -> str:
    """What all layers together are worth, and how far the game is."""
    if v is None:
        return (
            '<div class="now waiting" role="status"><div class="figure">…</div><div '
            'class="words">Asking what the first layers are worth.'
            " A very first start also draws all images: about a minute.</div></div>"
        ) + _facts(None)
    total = 100 * (v.full - v.empty)
    n = v.of_images.shape[1]
    how = (
        "<b>exact</b>, all coalitions measured"
        if v.exact
        else "<b>sampled</b>, bars are 95\u202f% intervals"
    )
    kind = "" if v.exact else "first"
    return (
        f'<div class="now {kind}" role="status" data-asked="{v.asked}" data-every="{v.every}" '
        f'data-total="{total:.6f}">'
        f'<div class="figure">{_points(total, 0)}<small>pt</small></div>'
        f'<div class="words"><div class="recipe">what {len(v.layers)} layers add together, on {n} '
        f"images</div>{how}<br>"
        f"{v.asked:,} of {v.every:,} coalitions</div></div>"
    ) + _facts(v)


def _facts(v: Values | None) -> str:
    if v is None:
        return panels.facts(
            *(
                panels.fact(name, "…", kind)
                for name, kind in (
                    ("no layer", "base"),
                    ("all layers", "a"),
                    ("best four", "b"),
                    ("area of g", "left wide"),
                )
            )
        )
    best = np.sort(v.values)[::-1][:4].sum()
    total = v.full - v.empty
    share = f"{100 * best / total:.0f}\u202f% <span>of it</span>" if total > 0 else "—"
    return panels.facts(
        panels.fact(
            "no layer",
            f"{100 * v.empty:.0f}\u202f%",
            "base",
            "Accuracy of the base on these images",
        ),
        panels.fact(
            "all layers",
            f"{100 * v.full:.0f}\u202f%",
            "a",
            "Accuracy with the whole adapter on these images",
        ),
        panels.fact(
            "best four",
            share,
            "b",
            "What the four layers of highest value add, of what all add; others may take away",
        ),
        panels.fact(
            "area of g",
            f"{100 * v.curve.area:.1f}\u202f%",
            "left wide",
            "Mean accuracy when each layer is on with a chance that is drawn from 0 to 1",
        ),
    )


def _points(x: float, digits: int = 1) -> str:
    return ("+" if round(x, digits) > 0 else "") + signed(x, digits)


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
    for i, (name, value, half) in enumerate(
        zip(v.layers, 100 * v.values, 100 * v.halves, strict=True)
    ):
        chosen = " chosen" if name == layer else ""
        interval = "" if v.exact or not np.isfinite(half) else f" ± {half:.1f}"
        whisker = (
            axes.line("whisker", i + 0.5, value - half, i + 0.5, value + half) if interval else ""
        )
        out.append(
            f'<g class="shapley{chosen}"><title>layer {name}: {_points(value)}{interval} '
            "points</title>"
            f"{axes.bar('is', i + 0.16, 0.68, value, least=1)}{whisker}</g>"
        )
    even = 100 * (v.full - v.empty) / n
    out += [
        axes.level("chord", even),
        axes.legend(f"points of accuracy · dotted: equal shares, {_points(even)}"),
    ]
    said = ", ".join(
        f"layer {name} {_points(100 * x)}" for name, x in zip(v.layers, v.values, strict=True)
    )
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
    return (
        f'<div class="chart shapley low">{axes.svg("The multilinear curve", out, f"{said}.")}</div>'
    )


def decided(v: Values | None, bench: Bench | None, layer: int) -> str:
    """The images for which a layer matters most, those it helps before those it harms."""
    head = f"by layer {layer}" if layer >= 0 else "by a layer"
    if v is None or bench is None or layer not in v.layers:
        return panels.section(
            "Decided", head, '<p class="empty">Images that a layer helps or harms appear here.</p>'
        )
    own = v.of_images[v.layers.index(layer)]
    helped, harmed = (
        [int(i) for i in np.argsort(-sign * own, kind="stable") if sign * own[i] > 0.02]
        for sign in (1, -1)
    )
    kept = min(len(harmed), 3)
    picked = [
        *((i, "right") for i in helped[: panels.TILES - kept]),
        *((i, "wrong") for i in harmed[: panels.TILES - min(len(helped), panels.TILES - kept)]),
    ]
    if not picked:
        return panels.section(
            "Decided", head, '<p class="empty">No image depends on this layer.</p>'
        )
    tally = (
        f'<p class="tally"><span class="right">✓ {len(helped)} helped</span><span class="wrong">✗ '
        f"{len(harmed)} harmed</span>"
        f'<span class="still">○ {len(own) - len(helped) - len(harmed)} as they were</span></p>'
    )
    tiles = "".join(_tile(bench, i, kind, float(own[i])) for i, kind in picked)
    return panels.section("Decided", head, f'{tally}<ul class="tiles">{tiles}</ul>')


def _tile(bench: Bench, image: int, kind: str, value: float) -> str:
    truth = escape(bench.task.classes[int(bench.labels[image])])
    sign, words = ("✓", "right more often") if kind == "right" else ("✗", "wrong more often")
    said = f"{_points(100 * value, 0)}\u202f%"
    return (
        f'<li class="{kind}" title="{truth}: the layer’s own share in getting this image right, '
        f'{said}"><img src="{panels.thumbnail(bench, image)}" alt="{truth}" '
        f'width="56" height="56"><div><b>{truth}</b><span>{words}</span><em><i '
        f'aria-label="{words}">{sign}</i> {said}</em></div></li>'
    )


def table(v: Values | None) -> str:
    """The values in points, with their intervals, and the sum."""
    heads = "".join(f"<th scope=col>{h}</th>" for h in ("layer", "points", "from", "to"))
    rows = []
    if v is not None:
        for name, x, half in zip(v.layers, 100 * v.values, 100 * v.halves, strict=True):
            ends = (f"{x - half:.2f}", f"{x + half:.2f}") if np.isfinite(half) else ("", "")
            rows.append((str(name), f"{x:.2f}", *ends))
        rows.append(("all", f"{100 * v.values.sum():.2f}", "", ""))
    body = "".join(
        f"<tr><th scope=row>{first}</th>{''.join(f'<td>{c}</td>' for c in rest)}</tr>"
        for first, *rest in rows
    )
    return (
        f'<div class="numbers" tabindex="0"><table><thead><tr>{heads}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )
