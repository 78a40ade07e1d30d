"""Pieces of HTML that all views share: pure functions."""

import base64
import io
from collections.abc import Mapping, Sequence
from functools import lru_cache
from html import escape
from typing import Any

import gradio as gr
from PIL import Image
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.page.components.numbers import percent
from copra_lab.page.state.session import Change, History, Point, changes
from copra_lab.utils.statistics import Accuracy

TILES = 10
"""Changed images that are shown; how many more there are is said."""


def html(value: str, **options: Any) -> gr.HTML:
    """A piece of HTML without Gradio's own styles."""
    return gr.HTML(value, apply_default_css=False, **options)


def number(history: History, recipe: str, data: Mapping[str, object], measuring: str) -> str:
    """The accuracy where the visitor stands, with its interval.

    `recipe`: what the model is made of, as HTML; `data`: the same for programs.
    """
    if history.here is None:
        doing = (
            f"{measuring} A very first start also draws all images: about a minute."
            if history.state
            else "Waking the model."
        )
        return _now("…", "", recipe, doing, "", "waiting")
    a = history.here.accuracy
    low, high = (f"{100 * end:.1f}" for end in a.interval)
    part = a.n < history.total
    images = (
        f"first {a.n} of {history.total} images" if part else f"{a.correct} of {a.n} images right"
    )
    held = {**data, "correct": a.correct, "n": a.n, "total": history.total}
    words = f'95\u202f% <span class="long">interval</span> <b>{low} to {high}</b><br>{images}'
    attributes = "".join(f' data-{name}="{escape(str(value))}"' for name, value in held.items())
    return _now(f"{100 * a.value:.1f}", "%", recipe, words, attributes, "first" if part else "")


def trouble(error: Exception) -> str:
    """In place of the number, why there is none."""
    return f'<div class="trouble" role="alert"><b>No number here.</b> {escape(str(error))}</div>'


def _now(figure: str, unit: str, recipe: str, words: str, data: str, kind: str) -> str:
    return (
        f'<div class="now {kind}" role="status"{data}><div '
        f'class="figure">{figure}<small>{unit}</small></div>'
        f'<div class="words"><div class="recipe">{recipe}</div>{words}</div></div>'
    )


def facts(*cells: str) -> str:
    """A row of facts."""
    return f'<dl class="facts">{"".join(cells)}</dl>'


def fact(name: str, value: str, kind: str, title: str = "") -> str:
    """A name and its value, as HTML; `title` is shown when it is pointed at."""
    return f'<div class="{kind}" title="{escape(title)}"><dt>{name}</dt><dd>{value}</dd></div>'


def measured(name: str, point: Point | None, kind: str) -> str:
    """The fact that a point is, or will be."""
    return fact(
        name,
        percent(point.accuracy.value) if point else "…",
        kind,
        str(point.accuracy) if point else "",
    )


@lru_cache(4096)
def thumbnail(bench: Bench, image: int) -> str:
    """Image number `image` of the bench's order as a data address."""
    return address(bench.split.images[bench.order[image]])


def address(pixels: Tensor) -> str:
    """An image, uint8 (h, w, 3), as a data address."""
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "WEBP", quality=85)
    return f"data:image/webp;base64,{base64.b64encode(file.getvalue()).decode()}"


def _verdict(change: Change, label: int) -> str:
    return "right" if change.after == label else "wrong" if change.before == label else "still"


VERDICTS = {
    "right": ("✓", "now right"),
    "wrong": ("✗", "now wrong"),
    "still": ("○", "wrong either way"),
}


def changed(bench: Bench, before: Point, after: Point, head: str) -> str:
    """The images whose prediction differs between two places, the gained before the lost.

    `head`: between which.
    """
    found = changes(before, after)
    labels = [int(bench.labels[c.image]) for c in found]
    order = list(VERDICTS)
    shown = sorted(
        ((_verdict(c, label), c, label) for c, label in zip(found, labels, strict=True)),
        key=lambda s: order.index(s[0]),
    )
    counts = {v: sum(s[0] == v for s in shown) for v in order}
    if not shown:
        n = min(before.accuracy.n, after.accuracy.n)
        return nothing_changed(
            head, f"No prediction changed{f' among the first {n}' if n < len(bench) else ''}."
        )
    tally = "".join(
        f'<span class="{v}">{VERDICTS[v][0]} {n} {VERDICTS[v][1]}</span>' for v, n in counts.items()
    )
    # A few of each verdict, so that many gains do not hide the losses.
    room, picked = TILES, []
    for i, v in enumerate(order):
        own = [s for s in shown if s[0] == v]
        reserved = sum(min(3, counts[later]) for later in order[i + 1 :])
        picked += own[: max(room - reserved, 0)]
        room -= min(len(own), max(room - reserved, 0))
    more = (
        f'<p class="more">and {len(shown) - len(picked)} more</p>'
        if len(shown) > len(picked)
        else ""
    )
    return section(
        "Changed",
        head,
        f'<p class="tally">{tally}</p><ul '
        f'class="tiles">{"".join(_tile(bench, *s) for s in picked)}</ul>{more}',
    )


def nothing_changed(head: str, words: str) -> str:
    """The section of changed images, without any."""
    return section("Changed", head, f'<p class="empty">{words}</p>')


def section(title: str, head: str, body: str) -> str:
    """A section of images with its heads."""
    return f'<section class="changed"><h2>{title} <span>{head}</span></h2>{body}</section>'


def _tile(bench: Bench, verdict: str, change: Change, label: int) -> str:
    truth, before, after = (
        escape(bench.task.classes[i]) for i in (label, change.before, change.after)
    )
    sign, words = VERDICTS[verdict]
    return (
        f'<li class="{verdict}" title="{truth}: {before} → {after}, {words}"><img '
        f'src="{thumbnail(bench, change.image)}" alt="{truth}" width="56" height="56">'
        f'<div><b>{truth}</b><s>{before}</s><em><i aria-label="{words}">{sign}</i> {after}</em>'
        "</div></li>"
    )


def table(heads: Sequence[str], rows: Sequence[tuple[Sequence[str], Accuracy]]) -> str:
    """Accuracies with their intervals; `heads` names what stands before them in each row."""
    columns = "".join(
        f"<th scope=col>{h}</th>"
        for h in (*heads, "accuracy %", "from %", "to %", "right", "images")
    )
    body = "".join(
        "<tr><th "
        f"scope=row>{first}</th>{''.join(f'<td>{escape(o)}</td>' for o in others)}"
        f"<td>{100 * a.value:.2f}</td>"
        f"<td>{100 * a.interval[0]:.2f}</td><td>{100 * a.interval[1]:.2f}</td><td>{a.correct}</td>"
        f"<td>{a.n}</td></tr>"
        for (first, *others), a in rows
    )
    return (
        f'<div class="numbers" tabindex="0"><table><thead><tr>{columns}</tr></thead>'
        f"<tbody>{body}</tbody></table></div>"
    )


def spans(numbers: Sequence[int]) -> str:
    """0, 1, 2, 5 → ``0–2, 5``."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(str(r[0]) if len(r) == 1 else f"{r[0]}–{r[-1]}" for r in runs)


def copy_button(table: str) -> None:
    """A button that copies the table in the element of that id."""
    gr.Button("Copy the table", size="sm", scale=0, min_width=140).click(
        None, js=f"() => copra.copyTable('{table}')"
    )
