"""Menus that several views begin with."""

from collections.abc import Sequence
from typing import Any

import gradio as gr

from copra_lab.page.state.lab import Lab


def task_menu(lab: Lab, elem_id: str, min_width: int = 220) -> gr.Dropdown:
    """The tasks, the first one chosen."""
    return gr.Dropdown(
        lab.titles(),
        value=next(iter(lab.tasks())),
        label="Task",
        scale=3,
        min_width=min_width,
        elem_id=elem_id,
    )


def menu(
    choices: Sequence[Any], value: str, label: str, elem_id: str, min_width: int = 150
) -> gr.Dropdown:
    """A menu beside that of the tasks."""
    return gr.Dropdown(
        choices, value=value, label=label, scale=2, min_width=min_width, elem_id=elem_id
    )
