"""The Triangle view: three adapters, a point to drag, and the landscape that it lies in."""

from dataclasses import replace
from typing import Any

import gradio as gr

from copra_lab.page.components import controls
from copra_lab.page.components.live import LiveView, Shown, Stage, changed_panel, panel
from copra_lab.page.components.panels import folded, html, standing
from copra_lab.page.components.scripts import script
from copra_lab.page.components.tabs import Entrance, View
from copra_lab.page.components.updates import Updates
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.schemas.triangle import BEYOND, MIDDLE, UNITS, TriangleState
from copra_lab.page.state.session import History
from copra_lab.page.views.triangle import html as draw
from copra_lab.page.views.triangle.handle import HANDS


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    menu, keys = lab.menu(first), lab.first(first, 3)
    with controls.menus():
        task = controls.task_menu(lab, "triangle-task", min_width=260)
        corners = [
            controls.menu(menu, key, name, f"triangle-{name.lower()}", min_width=140)
            for name, key in zip("ABC", keys, strict=True)
        ]
    about = controls.about(lab, first, "triangle")
    with gr.Row(equal_height=True):
        with controls.card(6):
            number = panel(draw.number, "triangle-number")
            with gr.Column(elem_classes="board"):
                chart = panel(draw.chart, "triangle-chart")
                hands = html(HANDS, elem_id="triangle-hands", js_on_load=script("triangle_handle"))
                clear = controls.button("Clear", "triangle-clear", 60, scale=0)
            point = gr.Textbox(_text(*MIDDLE), visible="hidden", elem_id="triangle-point")
        with controls.card(5):
            changed = changed_panel(lab, draw.changed, "triangle-changed")
    controls.how_to_read("triangle")
    with folded("The landscape in numbers", "triangle"):
        table = panel(draw.table, "triangle-table")

    stage = Stage(TriangleState, number, chart, changed, table, ask, arrives, ahead)
    inputs = {"task": task, **dict(zip("abc", corners, strict=True)), "point": point}
    others, events = {"about": about}, [hands.input]
    LiveView(lab, session, stage, entrance, inputs, others, clear, events=events).bind()


def ask(lab: Lab, history: History, task: Any, a: Any, b: Any, c: Any, point: Any) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = history.lab(lab)
    lab.check(task)
    state = controls.state(TriangleState, lab, task=task, a=a, b=b, c=c, point=point)
    here = standing(history, TriangleState)
    updates: Updates = {}
    if not here or here.task != task or state.keys != (a, b, c):
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
    here = standing(history, TriangleState)
    return [list(lattice(here, step)) for step in draw.CELLS[:-1]] if here else []


VIEW = View(
    "triangle",
    "Triangle",
    "Walk between three fine‑tuned CLIPs",
    "Three adapters taught one small CLIP the same task. Drag the point over the plane that they "
    "span: every point is a new model, tested as you go.",
    fill,
)
