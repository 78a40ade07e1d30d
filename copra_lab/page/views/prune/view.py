"""The Prune view: one adapter, a switch for each layer and kind of site, a slider of sparsity, and accuracy that follows."""

from collections.abc import Sequence
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.page.components.live import EVENT, Shown, Stage, bench_of, follow, panel
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.state import address
from copra_lab.page.state.controls import kept_sites, matrices_of, named, switches_of
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Session, Walk
from copra_lab.page.state.validation import percentage, switched_on
from copra_lab.page.state.view_states import Pruned
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

HOW_TO_READ = """<p class="how"><b>How to read this.</b> At each of its matrices (q, k, v of every layer) the adapter adds ΔW = s·B·A. First the switches choose which
layers and kinds keep theirs; the others show the base again. Then the slider acts on what is left: it sets the entries of A, and those of B, that are
smallest in magnitude to zero, ranked over all that is kept together, so some layers lose more than others. A file with zeros in it is as long as before, but
zips better. “Keep the best” plays the layer game of the Shapley view on a hundred of the test images, so what it keeps is chosen with some of the images that then
judge it. Every setting is a new model, run on test images that the adapter did not see in training. Bars are 95&#8202;% intervals: wide and pale after the first images, narrower once all were run.
As long as the curve stays near the dotted line, what was cut away <b>was not needed</b>.</p>"""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    first = next(iter(lab.tasks()))
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(
            lab.titles(), value=first, label="Task", scale=3, min_width=220, elem_id="prune-task"
        )
        adapter = gr.Dropdown(
            lab.adapters(first),
            value=lab.one(first, None),
            label="Adapter",
            scale=2,
            min_width=150,
            elem_id="prune-adapter",
        )
    about = html(lab.about(first), elem_id="prune-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = panel(partial(draw.number, lab), "prune-number")
            # Which switches there are, the adapter tells when a visitor comes.
            with gr.Row(elem_id="prune-quick", equal_height=True):
                kinds = gr.CheckboxGroup(
                    [], label="Kinds", min_width=90, elem_id="prune-kinds", elem_classes="switches"
                )
                with gr.Row(elem_id="prune-presets"):
                    buttons = {
                        name: gr.Button(label, size="sm", min_width=20)
                        for label, name in BUTTONS.items()
                    }
            layers = gr.CheckboxGroup(
                [],
                label="Layers, from the image on",
                elem_id="prune-layers",
                elem_classes="switches",
            )
            with gr.Accordion("Single matrices", open=False, elem_id="prune-more-switches"):
                single = gr.CheckboxGroup(
                    [],
                    label="A matrix stays if its layer, its kind and its own switch here are on",
                    elem_id="prune-single",
                    elem_classes="switches",
                )
            with gr.Group(elem_id="prune-best"):
                count = gr.Slider(
                    0, LAYERS, LAYERS, step=1, label="keep the best", elem_id="prune-count"
                )
                said = html(keep_best.words(None, 0), elem_id="prune-said")
            chart = panel(partial(draw.chart, lab), "prune-chart")
            sparsity = gr.Slider(
                0, 100, 0, step=1, label="sparsity %", elem_id="prune-sparsity", elem_classes="dial"
            )
            clear = gr.Button(
                "Clear", size="sm", min_width=80, elem_id="prune-clear", elem_classes="clear"
            )
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = panel(lambda walk: draw.changed(walk, bench_of(lab, walk)), "prune-changed")
    html(HOW_TO_READ)
    with gr.Accordion("All settings of this adapter in numbers", open=False, elem_id="prune-more"):
        table = panel(partial(draw.table, lab), "prune-table")
        copy_button("prune-table")

    stage = Stage(Pruned, number, chart, changed, table, arrives)
    inputs, controls = (
        [task, adapter, layers, kinds, sparsity, single],
        [about, adapter, layers, kinds, sparsity, single, count, said, task],
    )
    follow(
        lab, session, stage, partial(ask, lab), entrance, inputs, controls, clear, led={count: kept}
    )
    for name, button in buttons.items():
        button.click(
            partial(pressed, lab, name),
            [task, adapter, kinds, sparsity, session],
            entrance.go,
            preprocess=False,
            **EVENT,
        )
    by_hand = [layers.input, single.input, *(b.click for b in buttons.values())]
    keep_best.keeping(lab, session, count, [task, adapter], said, entrance, by_hand)


def ask(
    lab: Lab, walk: Walk, task: Any, key: Any, layers: Any, kinds: Any, percent: Any, single: Any
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab = walk.lab(lab)
    lab.check(task)
    if percent is None:  # an empty field is somebody typing
        return None
    here, whole = walk.place, Pruned(task, lab.one(task, key))
    stays = isinstance(here, Pruned) and here.whole == whole
    adapter = lab.adapter(task, whole.key)
    have, matrices = switches_of(adapter), {named(m): m for m in matrices_of(adapter)}
    groups = zip(
        (layers, kinds, single), (*have, tuple(matrices)), ("layer", "kind", "matrix"), strict=True
    )
    on = [switched_on(given, own, name, others=not stays) for given, own, name in groups]
    if whole not in walk.points:  # a new adapter comes with something on
        on = [some or None for some in on]
    rows, columns, off = kept_sites(
        list(matrices.values()),
        on[0],
        on[1],
        None if on[2] is None else [matrices[m] for m in on[2]],
    )
    place = Pruned(task, whole.key, rows, columns, percentage(percent), off)
    updates = [gr.skip()] * 8 if stays else _controls(lab, place, on)
    if stays and isinstance(here, Pruned) and here.layers != rows:
        updates[6] = gr.update(value=kept(lab, place))
    updates[4] = gr.skip() if place.percent == percent else gr.update(value=place.percent)
    return place, updates


def kept(lab: Lab, place: Pruned) -> int:
    """Of how many layers something is left."""
    return len(
        switches_of(lab.adapter(place.task, place.key))[0] if place.layers is None else place.layers
    )


def arrives(lab: Lab, place: Pruned) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    matrices = matrices_of(lab.adapter(place.task, place.key))
    on = [place.layers, place.kinds, [named(m) for m in matrices if m not in place.off]]
    updates = _controls(lab, place, on)
    updates[7] = gr.skip()  # what is said of the best layers is dimmed where it is not of these
    return place, [*updates, place.task]


def _controls(lab: Lab, place: Pruned, on: Sequence[Sequence[Any] | None]) -> list[Any]:
    """An update for every control but the task, with these layers, kinds and single matrices ``on`` (None: all)."""
    adapter = lab.adapter(place.task, place.key)
    layers, kinds, single = map(
        _switches, (*switches_of(adapter), tuple(map(named, matrices_of(adapter)))), on
    )
    count = gr.update(maximum=max(1, len(layers["choices"])), value=kept(lab, place))
    menu = gr.update(choices=lab.adapters(place.task), value=place.key)
    return [
        lab.about(place.task),
        menu,
        layers,
        kinds,
        place.percent,
        single,
        count,
        keep_best.words(None, 0),
    ]


def pressed(
    lab: Lab, name: str, task: Any, key: Any, kinds: Any, percent: Any, session: Session
) -> Any:
    """The address of an adapter of which the button `name` chooses the layers, each with all its matrices of these `kinds`."""
    lab = session.walk.lab(lab)
    try:
        lab.check(task)
        key = lab.one(task, key)
        adapter = lab.adapter(task, key)
        have, matrices = switches_of(adapter), matrices_of(adapter)
        layers = (
            have[0]
            if name == "all" or not have[0]
            else ()
            if name == "none"
            else preset(name, max(have[0]) + 1)
        )
        rows, columns, off = kept_sites(
            matrices, layers, switched_on(kinds, have[1], "kind", others=True), None
        )
        return going(address.write(lab, Pruned(task, key, rows, columns, percentage(percent), off)))
    except (ValueError, OSError):  # said in place of the number
        return gr.skip()


def _switches(have: Sequence[Any], on: Sequence[Any] | None) -> dict[str, Any]:
    return gr.update(choices=[(str(h), h) for h in have], value=list(have if on is None else on))


VIEW = View(
    "prune", "Prune", "Prune a fine‑tuned CLIP",
    "An adapter sits on every layer of the image tower. Switch layers off, or cut away its smallest numbers, and see how much of it was needed.", fill,
)  # fmt: skip
