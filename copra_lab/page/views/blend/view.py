"""The Blend view: two adapters, λ between and beyond them, and accuracy that follows the thumb."""

from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import gradio as gr

from copra_lab.page.components import controls
from copra_lab.page.components.events import EVENT
from copra_lab.page.components.live import LiveView, Shown, Stage, changed_panel, panel
from copra_lab.page.components.panels import folded, standing
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.components.updates import Updates
from copra_lab.page.state import address
from copra_lab.page.state.lab import METHODS, Lab, counterpart
from copra_lab.page.state.schemas.blend import HIGH, LOW, SPACES, STEP, Beside, BlendState
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import History, Session
from copra_lab.page.views.blend import html as draw

CHOICES = [("ΔW", "delta"), ("the factors", "factors"), ("aligned", "aligned")]

COMPARED = {"lora": "copra", "copra": "lora"}
"""Each method with the one that it is compared with."""

GRID = tuple(round(LOW + i / 10, 1) + 0.0 for i in range(round(10 * (HIGH - LOW)) + 1))
"""Where lines are measured while the visitor rests."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    a, b = lab.first(first, 2)
    with controls.menus():
        task = controls.task_menu(lab, "blend-task")
        ends = {
            name: controls.menu(lab.menu(first), key, name.upper(), f"blend-{name}")
            for name, key in (("a", a), ("b", b))
        }
        swap = gr.Button("⇄ Swap", elem_id="blend-swap", min_width=90, scale=0)
    about = controls.about(lab, first, "blend")
    with gr.Row(equal_height=True):
        with controls.card(6):
            number = panel(draw.number, "blend-number")
            with gr.Row(elem_id="blend-how", equal_height=True):
                space = controls.one_of(
                    CHOICES, "What is mixed", "blend-space", value="delta", min_width=200
                )
                offer = _offer(rival(lab, first, a, b))
                compare = gr.Checkbox(label=offer, min_width=150, elem_id="blend-compare")
            chart = panel(draw.chart, "blend-chart")
            weight = gr.Slider(
                LOW, HIGH, 0, step=STEP, label="λ", elem_id="blend-weight", elem_classes="dial"
            )
            clear = controls.button("Clear the curve", "blend-clear", 140, elem_classes="clear")
        with controls.card(5):
            changed = changed_panel(lab, draw.changed, "blend-changed")
    controls.how_to_read("blend")
    with folded("The curve in numbers", "blend"):
        table = panel(draw.table, "blend-table")

    stage = Stage(BlendState, number, chart, changed, table, ask, arrives, ahead)
    inputs = {"task": task, **ends, "weight": weight, "space": space, "compare": compare}
    LiveView(lab, session, stage, entrance, inputs, {"about": about}, clear).bind()
    swap.click(partial(turned, lab), session, entrance.go, **EVENT)


def turned(lab: Lab, session: Session) -> Any:
    """The address of the same model, seen from the other end."""
    history = session.change(swapped)
    here = standing(history, BlendState)
    return going(address.write(history.lab(lab), here)) if here else gr.skip()


def ask(
    lab: Lab, history: History, task: Any, a: Any, b: Any, weight: Any, space: Any, compare: Any
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = history.lab(lab)
    lab.check(task)
    if weight is None:  # an empty field is somebody typing
        return None
    state = controls.state(
        BlendState, lab, task=task, a=a, b=b, weight=weight, space=space, compare=compare
    )
    here = standing(history, BlendState)
    other = rival(lab, task, state.a, state.b)
    state = _with_lines(lab, state, other, here.beside if here else ())
    updates: Updates = {}
    if not here or here.task != task or (state.a, state.b) != (a, b):
        updates |= _menus(lab, state)
    if not here or here.subject != state.subject:
        updates["compare"] = gr.update(label=_offer(other), interactive=other is not None)
    if abs(state.weight - float(weight)) > 1e-6:
        updates["weight"] = gr.update(value=state.weight)
    return state, updates


def arrives(lab: Lab, state: BlendState) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    other = rival(lab, state.task, state.a, state.b)
    compare = gr.update(label=_offer(other), interactive=other is not None, value=state.compare)
    updates = {"weight": state.weight, "compare": compare, "task": state.task, "space": state.space}
    return _with_lines(lab, state, other), _menus(lab, state) | updates


def _menus(lab: Lab, state: BlendState) -> Updates:
    menu = lab.menu(state.task)
    return {
        "about": lab.about(state.task),
        "a": gr.update(choices=menu, value=state.a),
        "b": gr.update(choices=menu, value=state.b),
    }


class Rival(NamedTuple):
    """The two adapters that another method made of the same seeds."""

    method: str
    a: str
    b: str


def rival(lab: Lab, task: str, a: str, b: str) -> Rival | None:
    """None where `a` and `b` are not of one method, or one of the other's is missing."""
    shelf = lab.shelf(task)
    if a not in shelf or b not in shelf or shelf[a].method != shelf[b].method:
        return None
    other = COMPARED.get(shelf[a].method)
    if other is None:
        return None
    one, two = (counterpart(shelf, key, other) for key in (a, b))
    return Rival(METHODS[other], one, two) if one and two else None


def _offer(other: Rival | None) -> str:
    return f"compare with {other.method}" if other else "no other method to compare with"


def _with_lines(
    lab: Lab, state: BlendState, other: Rival | None, known: tuple[Beside, ...] = ()
) -> BlendState:
    """`state`, with the lines that are wanted beside it and can be made, as those ``known`` can."""
    lines = _beside(state, other if state.compare else None)
    return replace(state, beside=tuple(b for b in lines if b in known or _can_be_made(lab, b.line)))


def _beside(state: BlendState, other: Rival | None) -> list[Beside]:
    """The same two adapters in the other spaces, and the `other` two in this one."""
    line = replace(state, weight=0.5)
    spaces = [s for s in SPACES if s != state.space]
    lines = [Beside(s, draw.NAMES[s], replace(line, space=s)) for s in spaces]
    if other:
        name = f"{other.method}’s, {draw.NAMES[state.space]}"
        lines.append(Beside("rival", name, replace(line, a=other.a, b=other.b)))
    return lines


def _can_be_made(lab: Lab, state: BlendState) -> bool:
    """Factors of different ranks do not line up, and a file may be broken."""
    try:
        state.model(lab)
    except (ValueError, OSError):
        return False
    return True


def ahead(history: History) -> list[list[Measured]]:
    """The other lines at the visitor's λ and at their ends, then all lines from there on.

    See `copra_lab.page.state.measurement.Ahead`.
    """
    here = standing(history, BlendState)
    if here is None:
        return []
    others = [b.line for b in here.beside]
    near = sorted(GRID, key=lambda w: abs(w - here.weight))
    rounds: list[list[Measured]] = [[o.at(w) for o in others for w in (here.weight, 0.0, 1.0)]]
    return rounds + [[line.at(w) for w in near] for line in (here, *others)]


def swapped(history: History) -> History:
    """The same history seen from the other end."""
    here, since = history.state, history.since
    if not isinstance(here, BlendState) or not isinstance(since, BlendState):
        return history
    turned = {here.subject, *(b.line.subject for b in here.beside)}
    points = {
        p.swapped() if isinstance(p, BlendState) and p.subject in turned else p: point
        for p, point in history.points.items()
    }
    return replace(
        history,
        state=here.swapped(),
        since=since.swapped(),
        points=points,
        version=history.version + 1,
    )


VIEW = View(
    "blend",
    "Blend",
    "Blend two fine‑tuned CLIPs",
    "Two adapters taught one small CLIP the same task. Drag λ along the line between them: every "
    "position is a new model, tested as you go.",
    fill,
)
