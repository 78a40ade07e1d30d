"""The Prune view: one adapter, switches, a slider of sparsity, and accuracy that follows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page.components import controls
from copra_lab.page.components.events import EVENT
from copra_lab.page.components.live import LiveView, Shown, Stage, changed_panel, panel
from copra_lab.page.components.panels import folded, standing
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.components.updates import Updates
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prune import PruneState, Switches
from copra_lab.page.state.schemas.reading import Reading, read
from copra_lab.page.state.session import History, Session
from copra_lab.page.state.switches import matrices_of, named, switches_of
from copra_lab.page.views.prune import html as draw
from copra_lab.page.views.prune import keep_best
from copra_lab.pruning import preset

BUTTONS = {
    "All": "all",
    "None": "none",
    "Even": "even",
    "Odd": "odd",
    "Low ⅓": "low",
    "Mid ⅓": "middle",
    "High ⅓": "high",
}

LAYERS = 12
"""Of the bundled CLIP; another number comes with the adapter."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    first = next(iter(lab.tasks()))
    with controls.menus():
        task = controls.task_menu(lab, "prune-task")
        adapter = controls.adapter_menu(lab, first, "prune")
    about = controls.about(lab, first, "prune")
    with gr.Row(equal_height=True):
        with controls.card(6):
            number = panel(partial(draw.number, lab), "prune-number")
            switches, single, buttons = _switchboard()
            with gr.Group(elem_id="prune-best"):
                count, said = keep_best.slider(LAYERS)
            chart = panel(partial(draw.chart, lab), "prune-chart")
            sparsity = gr.Slider(
                0, 100, 0, step=1, label="sparsity %", elem_id="prune-sparsity", elem_classes="dial"
            )
            clear = controls.button("Clear", "prune-clear", 80, elem_classes="clear")
        with controls.card(5):
            changed = changed_panel(lab, draw.changed, "prune-changed")
    controls.how_to_read("prune")
    with folded("All settings of this adapter in numbers", "prune"):
        table = panel(partial(draw.table, lab), "prune-table")

    stage = Stage(PruneState, number, chart, changed, table, ask, arrives)
    inputs = {"task": task, "adapter": adapter, **switches, "sparsity": sparsity, "single": single}
    others = {"about": about, "count": count, "said": said}
    LiveView(lab, session, stage, entrance, inputs, others, clear, follows={count: kept}).bind()
    chosen = [task, adapter, switches["kinds"], sparsity, session]
    for name, button in buttons.items():
        press = partial(pressed, lab, name)
        button.click(press, chosen, entrance.go, **EVENT)
    by_hand = [switches["layers"].input, single.input]
    by_hand += [button.click for button in buttons.values()]
    keep_best.keeping(lab, session, count, [task, adapter], said, entrance, by_hand)


def _switchboard() -> tuple[dict[str, gr.CheckboxGroup], gr.CheckboxGroup, dict[str, gr.Button]]:
    """Switches of layers and kinds, of single matrices, and buttons that set those of layers."""
    with gr.Row(elem_id="prune-quick", equal_height=True):
        kinds = controls.any_of("Kinds", "prune-kinds", min_width=90)
        with gr.Row(elem_id="prune-presets"):
            buttons = {name: controls.button(label) for label, name in BUTTONS.items()}
    layers = controls.any_of("Layers, from input to output", "prune-layers")
    with gr.Accordion("Single matrices", open=False, elem_id="prune-more-switches"):
        label = "A matrix keeps its ΔW if its layer, its kind and its own switch here are on"
        single = controls.any_of(label, "prune-single")
    return {"layers": layers, "kinds": kinds}, single, buttons


def ask(
    lab: Lab,
    history: History,
    task: Any,
    key: Any,
    layers: Any,
    kinds: Any,
    percent: Any,
    single: Any,
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = history.lab(lab)
    lab.check(task)
    if percent is None:  # an empty field is somebody typing
        return None
    here, whole = standing(history, PruneState), PruneState(task, lab.one(task, key))
    stays = here is not None and here.whole == whole
    # A new adapter comes with something on.
    switches = Switches(layers, kinds, single, others=not stays, first=whole not in history.points)
    state = controls.state(PruneState, lab, task=task, key=key, kept=switches, percent=percent)
    updates: Updates = {}
    if not here or here.whole != whole:
        updates |= _controls(lab, state, switches.on(matrices_of(lab.adapter(task, state.key))))
    elif here.kept.layers != state.kept.layers:
        updates["count"] = gr.update(value=kept(lab, state))
    if state.percent == percent:
        updates.pop("sparsity", None)
    else:
        updates["sparsity"] = gr.update(value=state.percent)
    return state, updates


def kept(lab: Lab, state: PruneState) -> int:
    """Of how many layers something is left."""
    layers = state.kept.layers
    return len(switches_of(lab.adapter(state.task, state.key))[0] if layers is None else layers)


def arrives(lab: Lab, state: PruneState) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    matrices = matrices_of(lab.adapter(state.task, state.key))
    layers, kinds, off = state.kept
    updates = _controls(lab, state, [layers, kinds, [named(m) for m in matrices if m not in off]])
    del updates["said"]  # what is said of the best layers is dimmed where it is not of these
    return state, updates | {"task": state.task}


def _controls(lab: Lab, state: PruneState, on: Sequence[Sequence[Any] | None]) -> Updates:
    """Updates of all controls but the task.

    With these layers, kinds and single matrices ``on`` (None: all).
    """
    adapter = lab.adapter(state.task, state.key)
    layers, kinds, single = map(
        _switches, (*switches_of(adapter), tuple(map(named, matrices_of(adapter)))), on
    )
    return {
        "about": lab.about(state.task),
        "adapter": gr.update(choices=lab.adapters(state.task), value=state.key),
        "layers": layers,
        "kinds": kinds,
        "sparsity": state.percent,
        "single": single,
        "count": gr.update(maximum=max(1, len(layers["choices"])), value=kept(lab, state)),
        "said": keep_best.neutral(),
    }


def pressed(
    lab: Lab, name: str, task: Any, key: Any, kinds: Any, percent: Any, session: Session
) -> Any:
    """The address of an adapter of which the button `name` chooses the layers.

    Each with all its matrices of these `kinds`.
    """
    lab = session.history.lab(lab)
    try:
        lab.check(task)
        key = lab.one(task, key)
        have, _ = switches_of(lab.adapter(task, key))
        switches = Switches(_preset(name, have), kinds, others=True)
        values = {"task": task, "key": key, "kept": switches, "percent": percent}
        return going(address.write(lab, read(PruneState, Reading(lab), values)))
    except (ValueError, OSError):  # said in place of the number
        return gr.skip()


def _preset(name: str, have: tuple[int, ...]) -> Sequence[int]:
    """The layers that a button chooses, of those that an adapter has."""
    if name == "none":
        return ()
    return have if name == "all" or not have else preset(name, max(have) + 1)


def _switches(have: Sequence[Any], on: Sequence[Any] | None) -> dict[str, Any]:
    return gr.update(choices=[(str(h), h) for h in have], value=list(have if on is None else on))


VIEW = View(
    "prune",
    "Prune",
    "Prune a fine‑tuned CLIP",
    "An adapter sits on every layer of the image tower. Switch layers off, or set its smallest "
    "entries to zero, and see how much of it was needed.",
    fill,
)
