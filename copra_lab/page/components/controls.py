"""Controls and layout that several views share."""

from collections.abc import Sequence
from typing import Any, TypeVar

import gradio as gr

from copra_lab.page.components.panels import html
from copra_lab.page.components.templates import render
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.reading import Reading, Source, read

State = TypeVar("State")


def state(kind: type[State], lab: Lab, **values: Any) -> State:
    """What the controls of a view say, as its state. Raises ValueError."""
    return read(kind, Reading(lab, Source.CONTROLS), values)


def how_to_read(view: str) -> None:
    """The words below a view that say how to read it."""
    html(render(f"how_to_read/{view}"))


def menus() -> gr.Row:
    """The row of menus that a view begins with."""
    return gr.Row(elem_classes="choice", equal_height=False)


def card(scale: int, **options: Any) -> gr.Column:
    """A framed part of a view, beside others."""
    return gr.Column(scale=scale, min_width=320, elem_classes="card", **options)


def menu(
    choices: Sequence[Any], value: str, label: str, elem_id: str, **options: Any
) -> gr.Dropdown:
    """A menu with this value chosen, as wide as those that stand beside that of the tasks."""
    options = {"min_width": 150, "scale": 2} | options
    return gr.Dropdown(choices, value=value, label=label, elem_id=elem_id, **options)


def task_menu(lab: Lab, elem_id: str, label: str = "Task", **options: Any) -> gr.Dropdown:
    """The tasks, the first one chosen."""
    options = {"min_width": 220, "scale": 3} | options
    return menu(lab.titles(), next(iter(lab.tasks())), label, elem_id, **options)


def adapter_menu(lab: Lab, task: str, view: str) -> gr.Dropdown:
    """The adapters of a task."""
    return menu(lab.adapters(task), lab.one(task, None), "Adapter", f"{view}-adapter")


def about(lab: Lab, task: str, view: str) -> gr.HTML:
    """What the view says of a task."""
    return html(lab.about(task), elem_id=f"{view}-about", elem_classes="about")


def upload(label: str, kinds: Sequence[str], elem_id: str) -> gr.File:
    """Where a file is dropped; handlers get the path of Gradio's copy."""
    return gr.File(
        label=label, file_types=list(kinds), type="filepath", height=110, elem_id=elem_id
    )


def one_of(choices: Sequence[Any], label: str, elem_id: str, **options: Any) -> gr.Radio:
    """Switches of which one is on."""
    return gr.Radio(choices, label=label, elem_id=elem_id, elem_classes="switches one", **options)


def any_of(label: str, elem_id: str, kind: str = "switches", **options: Any) -> gr.CheckboxGroup:
    """Switches of which any may be on. Which there are is told later."""
    return gr.CheckboxGroup([], label=label, elem_id=elem_id, elem_classes=kind, **options)


def button(
    label: str, elem_id: str | None = None, min_width: int = 20, **options: Any
) -> gr.Button:
    """A small button."""
    return gr.Button(label, size="sm", min_width=min_width, elem_id=elem_id, **options)
