"""The Triangle view: three adapters, a point to drag, and the landscape that it lies in."""

from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page.components.live import LiveView, Shown, Stage, changed_panel, panel
from copra_lab.page.components.menus import task_menu
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.scripts import script
from copra_lab.page.components.tabs import Entrance, View
from copra_lab.page.components.templates import render
from copra_lab.page.components.updates import Updates
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.schemas.reading import Reading, Source, read
from copra_lab.page.state.schemas.triangle import BEYOND, MIDDLE, UNITS, TriangleState
from copra_lab.page.state.session import History
from copra_lab.page.views.triangle import html as draw
from copra_lab.page.views.triangle.handle import HANDS


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    menu, keys = lab.menu(first), lab.first(first, 3)
    with gr.Row(elem_classes="choice", equal_height=False):
        task = task_menu(lab, "triangle-task", 260)
        corners = [
            gr.Dropdown(
                menu,
                value=key,
                label=name,
                scale=2,
                min_width=140,
                elem_id=f"triangle-{name.lower()}",
            )
            for name, key in zip("ABC", keys, strict=True)
        ]
    about = html(lab.about(first), elem_id="triangle-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = panel(draw.number, "triangle-number")
            with gr.Column(elem_classes="board"):
                chart = panel(draw.chart, "triangle-chart")
                hands = html(HANDS, elem_id="triangle-hands", js_on_load=script("triangle_handle"))
                clear = gr.Button(
                    "Clear", size="sm", min_width=60, scale=0, elem_id="triangle-clear"
                )
            point = gr.Textbox(_text(*MIDDLE), visible="hidden", elem_id="triangle-point")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = changed_panel(lab, draw.changed, "triangle-changed")
    html(render("how_to_read/triangle"))
    with gr.Accordion("The landscape in numbers", open=False, elem_id="triangle-more"):
        table = panel(draw.table, "triangle-table")
        copy_button("triangle-table")

    stage = Stage(TriangleState, number, chart, changed, table, arrives, ahead)
    inputs = {"task": task, **dict(zip("abc", corners, strict=True)), "point": point}
    LiveView(
        lab,
        session,
        stage,
        partial(ask, lab),
        entrance,
        inputs,
        {"about": about},
        clear,
        events=[hands.input],
    ).bind()


def ask(lab: Lab, history: History, task: Any, a: Any, b: Any, c: Any, point: Any) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = history.lab(lab)
    lab.check(task)
    values = {"task": task, "a": a, "b": b, "c": c, "point": point}
    state, here = read(TriangleState, Reading(lab, Source.CONTROLS), values), history.state
    updates: Updates = {}
    if not isinstance(here, TriangleState) or here.task != task or state.keys != (a, b, c):
        updates |= _menus(lab, state)
    if any(abs(w - float(x)) > 0.01 for w, x in zip(state.weights[1:], point.split(), strict=True)):
        updates["point"] = gr.update(value=_text(*state.point))
    return state, updates


def arrives(lab: Lab, state: TriangleState) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    return state, _menus(lab, state) | {"point": _text(*state.point), "task": state.task}


def _menus(lab: Lab, state: TriangleState) -> Updates:
    menu = lab.menu(state.task)
    corners = zip("abc", state.keys, strict=True)
    return {"about": lab.about(state.task)} | {
        name: gr.update(choices=menu, value=key) for name, key in corners
    }


def _text(*units: int) -> str:
    """A point as the text box has it, and as `point_of` reads it."""
    return " ".join(f"{n / UNITS:.3f}" for n in units)


def lattice(state: TriangleState, step: int) -> list[TriangleState]:
    """The points of a triangular lattice of so many `UNITS`.

    Those inside of the triangle first, and of them what is near to `state`.
    """
    side = range(-BEYOND, UNITS + 2 * BEYOND + 1, step)
    found = [replace(state, point=(b, c)) for b in side for c in side if b + c <= UNITS + BEYOND]

    def order(p: TriangleState) -> tuple[bool, float]:
        b, c = (x - y for x, y in zip(p.point, state.point, strict=True))
        # The squared distance, on axes at 60 degrees.
        return min(p.weights) < 0, b * b + b * c + c * c

    return sorted(found, key=order)


def ahead(history: History) -> list[list[Measured]]:
    """See `copra_lab.page.state.measurement.Ahead`: a coarse lattice, then a finer one."""
    here = history.state
    return (
        [list(lattice(here, step)) for step in draw.CELLS[:-1]]
        if isinstance(here, TriangleState)
        else []
    )


VIEW = View(
    "triangle",
    "Triangle",
    "Walk between three fine‑tuned CLIPs",
    "Three adapters taught one small CLIP the same task. Drag the point over the plane that they "
    "span: every place is a new model, tested as you arrive.",
    fill,
)
