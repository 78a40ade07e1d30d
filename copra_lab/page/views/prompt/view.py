"""The Prompt view: a slider for each learned vector, and accuracy under them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.components.live import EVENT, MODEL, Shown, Stage, bench_of, follow, panel
from copra_lab.page.components.panels import copy_button, html
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.state import address
from copra_lab.page.state.controls import corrupted
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.session import Walk
from copra_lab.page.state.validation import noise, stretched, switched_on
from copra_lab.page.state.view_states import MOST_PERCENT, Bent
from copra_lab.page.views.prompt import comparison
from copra_lab.page.views.prompt import html as draw

BUTTONS = {"As learned": 100, "All halved": 50, "All gone": 0}
"""What they set every slider to, in percent."""

HOW_TO_READ = """<p class="how"><b>How to read this.</b> A soft prompt is a row of learned vectors that stand before each class name, where <i>a drawing of a</i>
stood; those of CoOp are mostly longer than a word’s embedding. Each slider sets one vector to a share of its learned length (<b>RESCALE</b>), each switch below puts noise of
standard deviation σ in its place, always the same draw (<b>REPLACE</b>; with σ = 0 the vector is gone), and the CLIP with this new prompt is run on test images that
training did not see. That a <b>shorter vector</b> now and then classifies better is the <b>Low-Norm Effect</b>;
PUN and PAN (<b>Nemesis</b>) make length cost something while the prompt is learned; what you do to this prompt is done to theirs too, below. RESCALE takes the same share of
each, but noise of one σ is more to a short vector than to a long one. An image more or less means nothing: look at the interval.</p>"""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    tasks = lab.prompt_tasks()
    if not tasks:
        html(
            '<p class="about">There is no soft prompt to show; make some with <code>recipes/prompts.py</code>.</p>'
        )
        return
    first = tasks[0][1]
    longest = lab.longest_prompt()
    with gr.Row(elem_classes="choice", equal_height=False):
        task = gr.Dropdown(
            tasks, value=first, label="Task", scale=3, min_width=220, elem_id="prompt-task"
        )
        key = gr.Dropdown(
            lab.prompt_menu(first),
            value=lab.one_prompt(first, None),
            label="Prompt",
            scale=2,
            min_width=150,
            elem_id="prompt-key",
        )
    about = html(lab.about(first), elem_id="prompt-about", elem_classes="about")
    with gr.Row(equal_height=True):
        with gr.Column(scale=6, min_width=320, elem_classes="card"):
            number = panel(draw.number, "prompt-number")
            chart = panel(partial(draw.chart, lab), "prompt-chart")
            with gr.Row(elem_classes="bank", elem_id="prompt-bank"):
                sliders = [
                    gr.Slider(
                        0,
                        MOST_PERCENT,
                        100,
                        step=5,
                        label=f"vector {i}, %",
                        min_width=10,
                        elem_id=f"prompt-{i}",
                    )
                    for i in range(1, longest + 1)
                ]
            replaced = gr.CheckboxGroup(
                [],
                label="REPLACE by noise",
                elem_id="prompt-replaced",
                elem_classes="switches plain",
            )
            sigma = gr.Radio(
                [(f"{s:g}", s) for s in SIGMAS],
                value=SIGMAS[-1],
                label="σ of the noise",
                elem_id="prompt-sigma",
                elem_classes="switches one",
            )
            with gr.Row(elem_id="prompt-presets"):
                buttons = {
                    percent: gr.Button(label, size="sm", min_width=20)
                    for label, percent in BUTTONS.items()
                }
                clear = gr.Button("Clear", size="sm", min_width=80, elem_id="prompt-clear")
        with gr.Column(scale=5, min_width=320, elem_classes="card"):
            changed = panel(lambda walk: draw.changed(walk, bench_of(lab, walk)), "prompt-changed")
    with gr.Column(elem_classes="card"):
        beside = html(comparison.drawn(lab, first, None), elem_id="prompt-against")
        copy_button("prompt-against")
    html(HOW_TO_READ)
    with gr.Accordion("All settings of this prompt in numbers", open=False, elem_id="prompt-more"):
        table = panel(partial(draw.table, lab), "prompt-table")
        copy_button("prompt-table")

    stage = Stage(Bent, number, chart, changed, table, partial(arrives, longest))
    inputs, controls = (
        [task, key, replaced, sigma, *sliders],
        [about, key, replaced, *sliders, beside, task, sigma],
    )
    rested = follow(lab, session, stage, partial(ask, lab), entrance, inputs, controls, clear)
    rested.success(partial(comparison.measured, lab), session, beside, **MODEL)
    for percent, button in buttons.items():
        button.click(
            partial(pressed, lab, percent), [task, key], entrance.go, preprocess=False, **EVENT
        )


def ask(
    lab: Lab, walk: Walk, task: Any, key: Any, replaced: Any, sigma: Any, *percents: Any
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab.check(task)
    if any(p is None for p in percents):  # an empty field is somebody typing
        return None
    here, key_ = walk.place, lab.one_prompt(task, key)
    length = lab.prompt(task, key_).length
    vectors = tuple(range(1, length + 1))
    updates: list[Any] = [gr.skip()] * (4 + len(percents))
    stays = isinstance(here, Bent) and here.learned == Bent(task, key_)
    came_back = (
        not isinstance(here, Bent) and Bent(task, key_) in walk.points
    )  # from another view: the controls are as they were left
    chosen = switched_on(replaced, vectors, "vector", others=not stays, whose="prompt")
    shares, noised = (
        stretched(percents, length),
        [i - 1 for i in (vectors if chosen is None else chosen)],
    )
    place = (
        Bent(task, key_, *corrupted(shares, noised, noise(sigma), length))
        if stays or came_back
        else Bent(task, key_)
    )
    if not stays:
        left = (shares, noised) if came_back else (None, [])
        known = came_back or (isinstance(here, Bent) and here.task == task)
        updates = [
            *_controls(lab, place, len(percents), *left),
            gr.skip() if known else comparison.drawn(lab, task, None),
        ]
    return place, updates


def arrives(sliders: int, lab: Lab, place: Bent) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    controls = _controls(lab, place, sliders, place.percents, place.replaced)
    return place, [
        *controls,
        comparison.drawn(lab, place.task, None),
        place.task,
        place.sigma or SIGMAS[-1],
    ]


def pressed(lab: Lab, percent: int, task: Any, key: Any) -> Any:
    """The address of a prompt all of whose vectors are at so many percent of their learned length."""
    try:
        lab.check(task)
        place = Bent(task, lab.one_prompt(task, key))
        length = lab.prompt(task, place.key).length
    except (ValueError, OSError):  # said in place of the number
        return gr.skip()
    return going(address.write(lab, replace(place, percents=stretched([percent] * length, length))))


def _controls(
    lab: Lab, place: Bent, sliders: int, shares: Sequence[int] | None, noised: Sequence[int]
) -> list[Any]:
    """An update for the words about the task, the menu, the switches and the sliders: with these ``shares`` in percent, and the vectors
    ``noised`` switched on."""
    length = lab.prompt(place.task, place.key).length
    values = [*(shares or [100] * length), *[100] * (sliders - length)]
    menu = gr.update(choices=lab.prompt_menu(place.task), value=place.key)
    replaced = gr.update(
        choices=[(str(i), i) for i in range(1, length + 1)], value=[i + 1 for i in noised]
    )
    return [
        lab.about(place.task),
        menu,
        replaced,
        *(gr.update(visible=i < length, value=p) for i, p in enumerate(values)),
    ]


VIEW = View(
    "prompt", "Prompt", "Bend a learned prompt",
    "Four vectors were learned in place of a prompt’s words. Make any of them shorter or longer, and watch which images still find their class.", fill,
)  # fmt: skip
