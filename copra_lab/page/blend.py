"""The Blend view: two adapters, λ between and beyond them, and accuracy that follows the thumb."""

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page import blend_parts as draw
from copra_lab.page.lab import Lab
from copra_lab.page.live import EVENT, Stage, bench_of, follow, panel
from copra_lab.page.parts import copy_button, html
from copra_lab.page.places import HIGH, LOW, STEP, Blended, Place, position
from copra_lab.page.views import View
from copra_lab.page.walk import Session, Walk

HOW_TO_READ = """<p class="how"><b>How to read this.</b> At every stop the weights of A and B are mixed, ΔW = (1 − λ)·ΔW<sub>A</sub> + λ·ΔW<sub>B</sub>,
and this new model is run on test images that neither adapter saw in training; nothing is looked up. Bars are 95&#8202;% intervals: wide and pale
after the first images, narrower once all were run. Where the path sinks below the dotted line from A to B there is a <b>barrier</b>: the two lie in
different valleys. Outside of the shaded part λ goes on beyond A and B.</p>"""


def fill(lab: Lab, session: gr.State, opened: Any) -> None:
    first = next(iter(lab.tasks()))
    menu = lab.menu(first)
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="blend-task")
        a = gr.Dropdown(menu, value=lab.pair(first, None, None)[0], label="A", scale=2, min_width=150, elem_id="blend-a")
        b = gr.Dropdown(menu, value=lab.pair(first, None, None)[1], label="B", scale=2, min_width=150, elem_id="blend-b")
        swap = gr.Button("⇄ Swap", elem_id="blend-swap", min_width=90, scale=0)
    about = html(lab.about(first), elem_id="blend-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = panel(draw.number, "blend-number")
            chart = panel(draw.chart, "blend-chart")
            weight = gr.Slider(LOW, HIGH, 0, step=STEP, label="λ", elem_id="blend-weight", elem_classes="dial")
            clear = gr.Button("Clear the curve", size="sm", min_width=140, elem_id="blend-clear", elem_classes="clear")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = panel(lambda walk: draw.changed(walk, bench_of(lab, walk)), "blend-changed")
    html(HOW_TO_READ)
    with gr.Accordion("The curve in numbers", open=False, elem_id="blend-more"):
        table = panel(draw.table, "blend-table")
        copy_button("blend-table")

    def turned(session: Session) -> list[Any]:
        place = session.change(swapped).place
        return [place.a, place.b, place.weight] if isinstance(place, Blended) else [gr.skip()] * 3

    stage = Stage(Blended, number, chart, changed, table)
    follow(lab, session, stage, partial(ask, lab), opened, [task, a, b, weight], [about, a, b, weight], clear)
    swap.click(turned, session, [a, b, weight], **EVENT)


def ask(lab: Lab, walk: Walk, task: Any, a: Any, b: Any, weight: Any) -> tuple[Place, list[Any]] | None:
    """See `copra_lab.page.live.Ask`."""
    lab = walk.lab(lab)
    lab.check(task)
    if weight is None:  # an empty field is somebody typing
        return None
    place, here = Blended(task, *lab.pair(task, a, b), position(weight)), walk.place
    updates = [gr.skip()] * 4
    if not isinstance(here, Blended) or here.task != task or (place.a, place.b) != (a, b):
        menu = lab.menu(task)
        updates[:3] = [lab.about(task), gr.update(choices=menu, value=place.a), gr.update(choices=menu, value=place.b)]
    if abs(place.weight - float(weight)) > 1e-6:
        updates[3] = gr.update(value=place.weight)
    return place, updates


def swapped(walk: Walk) -> Walk:
    """The same walk seen from the other end."""
    here, since = walk.place, walk.since
    if not isinstance(here, Blended) or not isinstance(since, Blended):
        return walk
    points = {p.swapped() if isinstance(p, Blended) and p.line == here.line else p: point for p, point in walk.points.items()}
    return replace(walk, place=here.swapped(), since=since.swapped(), points=points)


VIEW = View(
    "blend", "Blend", "Blend two fine‑tuned CLIPs",
    "Two adapters taught one small CLIP the same task. Drag λ along the line between them: every stop is a new model, tested as you arrive.", fill,
)  # fmt: skip
