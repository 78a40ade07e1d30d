"""What handlers give: an update for each control or piece that changes, by its name in the view."""

from collections.abc import Mapping
from typing import Any

import gradio as gr

Updates = dict[str, Any]
"""Updates by the names that a view gives its controls and pieces."""

Components = Mapping[str, Any]
"""Controls and pieces by those names."""

Shows = Any
"""What Gradio takes: a dictionary of updates by component, or `gr.skip()` where all stay as they
are."""


def by_component(components: Components, updates: Mapping[str, Any]) -> Shows:
    """Named updates as Gradio takes them. What is not named stays as it is."""
    return {components[name]: update for name, update in updates.items()} or gr.skip()
