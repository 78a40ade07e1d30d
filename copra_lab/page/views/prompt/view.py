"""The Prompt view: a slider for each learned vector, and accuracy under them."""

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import gradio as gr

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.components import controls
from copra_lab.page.components.events import EVENT, MODEL
from copra_lab.page.components.live import LiveView, Shown, Stage, changed_panel, panel
from copra_lab.page.components.panels import copy_button, folded, html, standing
from copra_lab.page.components.tabs import Entrance, View, going
from copra_lab.page.components.updates import Updates
from copra_lab.page.state import address
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prompt import MOST_PERCENT, PromptState, Switched, stretched
from copra_lab.page.state.session import History
from copra_lab.page.views.prompt import comparison
from copra_lab.page.views.prompt import html as draw

BUTTONS = {"As learned": 100, "All halved": 50, "All gone": 0}
"""What they set every slider to, in percent."""


def fill(lab: Lab, session: gr.State, entrance: Entrance) -> None:
    """Lay the view out."""
    tasks = lab.prompt_tasks()
    if not tasks:
        html(
            '<p class="about">There is no soft prompt to show; make some with '
            "<code>recipes/prompts.py</code>.</p>"
        )
        return
    first = tasks[0][1]
    longest = lab.longest_prompt()
    with controls.menus():
        task = controls.menu(tasks, first, "Task", "prompt-task", min_width=220, scale=3)
        key = controls.menu(
            lab.prompt_menu(first), lab.one_prompt(first, None), "Prompt", "prompt-key"
        )
    about = controls.about(lab, first, "prompt")
    with gr.Row(equal_height=True):
        with controls.card(6):
            number = panel(draw.number, "prompt-number")
            chart = panel(partial(draw.chart, lab), "prompt-chart")
            sliders, replaced, sigma = _vectors(longest)
            with gr.Row(elem_id="prompt-presets"):
                buttons = {percent: controls.button(label) for label, percent in BUTTONS.items()}
                clear = controls.button("Clear", "prompt-clear", 80)
        with controls.card(5):
            changed = changed_panel(lab, draw.changed, "prompt-changed")
    with gr.Column(elem_classes="card"):
        beside = html(comparison.drawn(lab, first, None), elem_id="prompt-against")
        copy_button("prompt-against")
    controls.how_to_read("prompt")
    with folded("All settings of this prompt in numbers", "prompt"):
        table = panel(partial(draw.table, lab), "prompt-table")

    stage = Stage(PromptState, number, chart, changed, table, ask, partial(arrives, longest))
    inputs = {"task": task, "key": key, "replaced": replaced, "sigma": sigma}
    inputs |= {f"vector {i}": slider for i, slider in enumerate(sliders, 1)}
    others = {"about": about, "beside": beside}
    rested = LiveView(lab, session, stage, entrance, inputs, others, clear).bind()
    rested.success(partial(comparison.measured, lab), session, beside, **MODEL)
    for percent, button in buttons.items():
        press = partial(pressed, lab, percent)
        button.click(press, [task, key], entrance.go, **EVENT)


def _vectors(longest: int) -> tuple[list[gr.Slider], gr.CheckboxGroup, gr.Radio]:
    """A slider and a switch for each vector, and the size of the noise."""
    bounds: dict[str, Any] = {"maximum": MOST_PERCENT, "value": 100, "step": 5, "min_width": 10}
    with gr.Row(elem_classes="bank", elem_id="prompt-bank"):
        sliders = [
            gr.Slider(label=f"vector {i}, %", elem_id=f"prompt-{i}", **bounds)
            for i in range(1, longest + 1)
        ]
    replaced = controls.any_of("REPLACE by noise", "prompt-replaced", "switches plain")
    offered = [(f"{s:g}", s) for s in SIGMAS]
    sigma = controls.one_of(offered, "σ of the noise", "prompt-sigma", value=SIGMAS[-1])
    return sliders, replaced, sigma


def ask(
    lab: Lab, history: History, task: Any, key: Any, replaced: Any, sigma: Any, *percents: Any
) -> Shown | None:
    """See `copra_lab.page.components.live.Ask`."""
    lab.check(task)
    if any(p is None for p in percents):  # an empty field is somebody typing
        return None
    here, learned = standing(history, PromptState), PromptState(task, lab.one_prompt(task, key))
    length = lab.prompt(task, learned.key).length
    stays = here is not None and here.learned == learned
    noise = Switched(replaced, others=not stays)
    asked = controls.state(
        PromptState, lab, task=task, key=key, percents=percents, replaced=noise, sigma=sigma
    )
    if stays:
        return asked, {}
    if here is None and learned in history.points:
        # Back from another view: the controls are as they were left.
        noised = [i - 1 for i in range(1, length + 1) if i in replaced]
        return asked, _controls(lab, asked, len(percents), stretched(percents, length), noised)
    updates = _controls(lab, learned, len(percents), None, [])
    if here is None or here.task != task:
        updates["beside"] = comparison.drawn(lab, task, None)
    return learned, updates


def arrives(sliders: int, lab: Lab, state: PromptState) -> Shown:
    """See `copra_lab.page.components.live.Stage`."""
    return state, _controls(lab, state, sliders, state.percents, state.replaced) | {
        "beside": comparison.drawn(lab, state.task, None),
        "task": state.task,
        "sigma": state.sigma or SIGMAS[-1],
    }


def pressed(lab: Lab, percent: int, task: Any, key: Any) -> Any:
    """The address of a prompt whose vectors all have so many percent of their learned length."""
    try:
        lab.check(task)
        state = PromptState(task, lab.one_prompt(task, key))
        length = lab.prompt(task, state.key).length
    except (ValueError, OSError):  # said in place of the number
        return gr.skip()
    return going(address.write(lab, replace(state, percents=stretched([percent] * length, length))))


def _controls(
    lab: Lab, state: PromptState, sliders: int, shares: Sequence[int] | None, noised: Sequence[int]
) -> Updates:
    """Updates of the words about the task, the menu, the switches and the sliders.

    With these ``shares`` in percent (None: 100 of each), and the vectors at the positions
    ``noised`` switched on.
    """
    length = lab.prompt(state.task, state.key).length
    values = [*(shares or [100] * length), *[100] * (sliders - length)]
    updates = {
        f"vector {i}": gr.update(visible=i <= length, value=p) for i, p in enumerate(values, 1)
    }
    return updates | {
        "about": lab.about(state.task),
        "key": gr.update(choices=lab.prompt_menu(state.task), value=state.key),
        "replaced": gr.update(
            choices=[(str(i), i) for i in range(1, length + 1)], value=[i + 1 for i in noised]
        ),
    }


VIEW = View(
    "prompt",
    "Prompt",
    "Bend a learned prompt",
    "Four vectors were learned in place of a prompt’s words. Make any of them shorter or longer, "
    "and watch which images are still classified correctly.",
    fill,
)
