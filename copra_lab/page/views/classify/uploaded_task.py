"""A visitor's own task in the Try view: a zip of class folders.

The base and every adapter that comes with the page classify it.
"""

import time
from collections.abc import Callable, Iterator
from html import escape
from typing import Any, NamedTuple

import gradio as gr
import torch
from torch import Tensor

from copra_lab.adapters.adapter import NONE
from copra_lab.bench.bench import Bench
from copra_lab.page.components import panels, staleness
from copra_lab.page.components.live import BACKGROUND, EVENT, NUMBERED
from copra_lab.page.components.numbers import percent
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.staleness import of
from copra_lab.page.components.templates import render
from copra_lab.page.components.updates import Shows, Updates, by_component
from copra_lab.page.server.limits import WATCHED_SECONDS
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.measurement import traffic
from copra_lab.page.state.session import Asked, Requests
from copra_lab.tasks.zip_upload import CLASSES, IMAGES, MEGABYTES, zip_task
from copra_lab.utils.statistics import Accuracy

TILES = 12
"""Wrong images that are shown of each model; how many there are is said."""

ROW = 18
"""Pixels: the height of a row's picture."""

TOO_LONG = "was not asked: your zip took too long; give fewer images"

PART = "try-own"
"""Where answers grow old when another zip is given."""


class Answer(NamedTuple):
    """What one model predicts, (n,) in the bench's order; or why it cannot be asked.

    ``group``: the task it was made for.
    """

    group: str
    label: str
    predictions: "Tensor | str"


def fill(lab: Lab) -> None:
    """Lay out what asks for a zip."""
    with gr.Column(elem_classes="card", elem_id="try-own"):
        html(render("uploaded_task", megabytes=MEGABYTES, classes=CLASSES, images=IMAGES))
        file = gr.File(
            label="Your zip", file_types=[".zip"], type="filepath", height=110, elem_id="try-zip"
        )
        result = html("", elem_id="try-models")
        with gr.Accordion("All models in numbers", open=False, elem_id="try-more"):
            table = html(panels.table(("task", "model"), []), elem_id="try-table")
            copy_button("try-table")

    zips, number = gr.State(Requests()), gr.Number(visible=False)
    gr.on(
        [file.upload, file.clear], None, None, None, js=staleness.asks(PART), show_progress="hidden"
    )

    def begins(zips: Requests, number: Any) -> str:
        zips.take(number)
        return of(
            Asked(at=number, part=PART),
            '<p class="how" role="status">Waiting for a free place, then reading your zip.</p>',
        )

    components = {"result": result, "table": table}

    def run(file: Any, zips: Requests, number: Any) -> Iterator[Shows]:
        yield gr.skip()  # a generator that gives nothing would empty its outputs
        asked = Asked(at=number, part=PART)
        for updates in classified(lab, file, lambda: zips.overtaken(number)):
            pieces = {name: of(asked, piece) for name, piece in updates.items()}
            yield by_component(components, pieces)
        if zips.overtaken(number):  # Gradio gives what came last once more at the end
            yield gr.skip()

    # It counts before it waits for a place, so that the zip before it ends and leaves its own.
    waits = file.upload(begins, [zips, number], result, js=NUMBERED, **EVENT)
    waits.then(run, [file, zips, number], [result, table], js=NUMBERED, **BACKGROUND)


def classified(
    lab: Lab, file: Any, overtaken: Callable[[], bool] = lambda: False
) -> Iterator[Updates]:
    """What is shown and the table, as one task's adapters after the other are asked.

    Nothing more once another zip has ``overtaken`` this one.
    """
    try:
        if not isinstance(file, str):
            raise ValueError("choose a zip first")
        whole = lab.bench(next(iter(lab.tasks())))
        bench = Bench(
            whole.clip,
            zip_task(file, whole.split.images.shape[1], fit=whole.clip.fit),
            precision=lab.precision,
        )
    except (ValueError, OSError) as e:
        if not overtaken():
            yield {"result": panels.trouble(e)}
        return
    found, until = (
        [Answer("", "No adapter (the base)", bench.predictions(NONE))],
        time.monotonic() + WATCHED_SECONDS,
    )
    for task, title in lab.tasks().items():
        if overtaken():
            return
        yield {"result": drawn(bench, found), "table": table(bench, found)}
        for label, key in lab.adapters(task):
            traffic.give_way()
            in_time = time.monotonic() < until
            found.append(
                Answer(title, label, _asked(lab, bench, task, key) if in_time else TOO_LONG)
            )
    if not overtaken():
        yield {"result": drawn(bench, found, done=True), "table": table(bench, found)}


def _asked(lab: Lab, bench: Bench, task: str, key: str) -> "Tensor | str":
    try:
        return bench.predictions(lab.adapter(task, key))
    except (ValueError, OSError) as e:  # AdapterError is a ValueError
        return str(e)


def drawn(bench: Bench, found: list[Answer], done: bool = False) -> str:
    """A line for each model, which opens to the images that it gets wrong once all are ``done``."""
    task = bench.task
    progress = "" if done else " <i>asking the adapters …</i>"
    out = [
        f'<section class="models" role="status" data-done="{int(done)}"><h2>{escape(task.title)} '
        f"<span>{len(bench)} images of {len(task.classes)} classes{progress}</span></h2>"
        + (f'<p class="about">{escape(task.about)}</p>' if task.about else "")
    ]
    addresses: dict[int, str] = {}
    base = found[0].predictions
    group = ""
    for answer in found:
        if answer.group != group:
            group = answer.group
            out.append(f"<h3>Made for: {escape(group)}</h3>")
        out.append(
            _model(
                bench,
                answer,
                base if isinstance(base, torch.Tensor) else None,
                addresses if done else None,
            )
        )
    return "".join([*out, "</section>"])


def _model(
    bench: Bench, answer: Answer, base: "Tensor | None", addresses: "dict[int, str] | None"
) -> str:
    if isinstance(answer.predictions, str):
        return f'<p class="broken"><b>{escape(answer.label)}</b> {escape(answer.predictions)}</p>'
    a = bench.score(answer.predictions)
    less = (
        ""
        if base is None or answer.group == ""
        else f"{a.correct - bench.score(base).correct:+d}".replace("-", "−").replace("+0", "0")
    )
    low, high = (f"{100 * end:.1f}" for end in a.interval)
    line = (
        f"<b>{escape(answer.label)}</b>{_bar(a)}<span "
        f'data-correct="{a.correct}">{percent(a.value)} <small>{low} to {high}</small></span>'
        f'<span class="less" title="Images right, more or fewer than the base">{less}</span>'
    )
    wrong = (answer.predictions != bench.labels).nonzero().flatten().tolist()
    if addresses is None or not wrong:
        return f'<div class="model">{line}</div>'
    tiles = "".join(_tile(bench, i, int(answer.predictions[i]), addresses) for i in wrong[:TILES])
    more = f"<p>and {len(wrong) - TILES} more</p>" if len(wrong) > TILES else ""
    return (
        f'<details><summary class="model">{line}</summary><ul '
        f'class="wrongs">{tiles}</ul>{more}</details>'
    )


def _tile(bench: Bench, image: int, predicted: int, addresses: dict[int, str]) -> str:
    if image not in addresses:  # not `parts.thumbnail`, which would remember a visitor's images
        addresses[image] = panels.address(bench.split.images[bench.order[image]])
    truth, taken = (escape(bench.task.classes[c]) for c in (int(bench.labels[image]), predicted))
    return (
        f'<li><img src="{addresses[image]}" alt="{truth}" width="48" height="48">'
        f'<span>{truth}</span><em><i aria-label="taken for">✗</i> {taken}</em></li>'
    )


def _bar(a: Accuracy) -> str:
    low, high = (f"{100 * end:.2f}%" for end in a.interval)
    y = ROW / 2
    return (
        f'<svg role="img" aria-label="{a}" width="100%" height="{ROW}"><line class="grid" x1="0" '
        f'x2="100%" y1="{y}" y2="{y}"/>'
        f'<line class="span" x1="{low}" x2="{high}" y1="{y}" y2="{y}"/><circle '
        f'cx="{100 * a.value:.2f}%" cy="{y}" r="4"/></svg>'
    )


def table(bench: Bench, found: list[Answer]) -> str:
    """The accuracies of all models."""
    return panels.table(
        ("task", "model"),
        [
            ((escape(f.group) or "base", f.label), bench.score(f.predictions))
            for f in found
            if isinstance(f.predictions, torch.Tensor)
        ],
    )
