"""A visitor's own task in the Try view: a zip of class folders.

The base and every adapter that comes with the page classify it.
"""

import itertools
import time
from collections.abc import Callable, Iterator
from functools import cache
from html import escape
from typing import Any, NamedTuple

import gradio as gr
from torch import Tensor

from copra_lab.adapters.adapter import NONE
from copra_lab.bench.bench import Bench
from copra_lab.page.components import controls, images, panels, staleness
from copra_lab.page.components.axes import dot, row_svg
from copra_lab.page.components.events import BACKGROUND, EVENT, NUMBERED, READ
from copra_lab.page.components.numbers import gained, interval, percent
from copra_lab.page.components.panels import folded, html
from copra_lab.page.components.staleness import of
from copra_lab.page.components.templates import render
from copra_lab.page.components.updates import Shows, Updates, by_component
from copra_lab.page.server.limits import WATCHED_SECONDS
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.measurement import traffic
from copra_lab.page.state.session import Asked, Requests
from copra_lab.tasks.zip_upload import CLASSES, IMAGES, MEGABYTES, zip_task

TILES = 12
"""Wrong images that are shown of each model; how many there are is said."""

ROW = 18
"""Pixels: the height of a row's picture."""

TOO_LONG = "was not run: your zip took too long; use fewer images"

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
        file = controls.upload("Your zip", [".zip"], "try-zip")
        result = html("", elem_id="try-models")
        with folded("All models in numbers", "try"):
            table = html(panels.table(("task", "model"), []), elem_id="try-table")

    zips, number = gr.State(Requests()), gr.Number(visible=False)
    staleness.outdate(PART, [file.upload, file.clear])

    def begins(zips: Requests, number: Any) -> str:
        zips.take(number)
        words = '<p class="how" role="status">Waiting for a free slot, then reading your zip.</p>'
        return of(Asked(at=number, part=PART), words)

    components = {"result": result, "table": table}

    def run(file: Any, zips: Requests, number: Any) -> Iterator[Shows]:
        yield gr.skip()  # a generator that gives nothing would empty its outputs
        asked = Asked(at=number, part=PART)
        for updates in classified(lab, file, lambda: zips.overtaken(number)):
            yield by_component(components, staleness.all_of(asked, updates, updates))
        if zips.overtaken(number):  # Gradio gives what came last once more at the end
            yield gr.skip()

    # It counts before it waits for a place, so that the zip before it ends and leaves its own.
    waits = file.upload(begins, [zips, number], result, js=NUMBERED, **EVENT)
    waits.then(run, [file, zips, number], [result, table], js=NUMBERED, **BACKGROUND | READ)


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
        own = zip_task(file, whole.split.images.shape[1], fit=whole.clip.fit)
        bench = Bench(whole.clip, own, precision=lab.precision)
    except (ValueError, OSError) as e:
        if not overtaken():
            yield {"result": panels.trouble(e)}
        return
    found = [Answer("", "No adapter (the base)", bench.predictions(NONE))]
    until = time.monotonic() + WATCHED_SECONDS
    for task, title in lab.tasks().items():
        if overtaken():
            return
        yield {"result": drawn(bench, found), "table": table(bench, found)}
        for label, key in lab.adapters(task):
            traffic.give_way()
            in_time = time.monotonic() < until
            answer = _asked(lab, bench, task, key) if in_time else TOO_LONG
            found.append(Answer(title, label, answer))
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
    progress = "" if done else " <i>running the adapters …</i>"
    about = f'<p class="about">{escape(task.about)}</p>' if task.about else ""
    out = [
        f'<section class="models" role="status" data-done="{int(done)}"><h2>{escape(task.title)} '
        f"<span>{len(bench)} images of {len(task.classes)} classes{progress}</span></h2>{about}"
    ]

    @cache  # not `images.thumbnail`, which would remember a visitor's images
    def address(image: int) -> str:
        return images.small(bench.split.images[bench.order[image]])

    for group, answers in itertools.groupby(found, key=lambda answer: answer.group):
        if group:
            out.append(f"<h3>Made for: {escape(group)}</h3>")
        out += [_model(bench, a, found[0], address if done else None) for a in answers]
    return "".join([*out, "</section>"])


def _model(bench: Bench, answer: Answer, base: Answer, address: Callable[[int], str] | None) -> str:
    """A line, with the images that the model gets wrong by their ``address``, if there is one."""
    if isinstance(answer.predictions, str):
        return f'<p class="broken"><b>{escape(answer.label)}</b> {escape(answer.predictions)}</p>'
    a, less = bench.score(answer.predictions), ""
    if answer.group and not isinstance(base.predictions, str):
        less = gained(a.correct - bench.score(base.predictions).correct, 0)
    drawing = row_svg(str(a), ROW, [dot(a, ROW / 2, 4, "span")])
    line = (
        f'<b>{escape(answer.label)}</b>{drawing}<span data-correct="{a.correct}">'
        f"{percent(a.value)} <small>{interval(a)}</small></span>"
        f'<span class="less" title="Images right, more or fewer than the base">{less}</span>'
    )
    wrong = (answer.predictions != bench.labels).nonzero().flatten().tolist()
    if address is None or not wrong:
        return f'<div class="model">{line}</div>'
    tiles = "".join(_tile(bench, i, int(answer.predictions[i]), address(i)) for i in wrong[:TILES])
    more = f"<p>and {len(wrong) - TILES} more</p>" if len(wrong) > TILES else ""
    return (
        f'<details><summary class="model">{line}</summary><ul '
        f'class="wrongs">{tiles}</ul>{more}</details>'
    )


def _tile(bench: Bench, image: int, predicted: int, address: str) -> str:
    truth, taken = (escape(bench.task.classes[c]) for c in (int(bench.labels[image]), predicted))
    return (
        f'<li><img src="{address}" alt="{truth}" width="48" height="48">'
        f'<span>{truth}</span><em><i aria-label="taken for">✗</i> {taken}</em></li>'
    )


def table(bench: Bench, found: list[Answer]) -> str:
    """The accuracies of all models."""
    rows = [
        ((escape(answer.group) or "base", answer.label), bench.score(answer.predictions))
        for answer in found
        if not isinstance(answer.predictions, str)
    ]
    return panels.table(("task", "model"), rows)
