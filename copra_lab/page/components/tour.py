"""A short tour for a first visit: six controls to put one's hand on, pointed at where they are.

A native modal dialog, moved by ``static/tour.js``: the browser keeps Tab inside it and closes it on
Escape. While it is open it goes through the views as they were left; at its end the visitor is back
where it began. The invitation comes once (``?tour=0``: never; ``?tour=1`` opens the tour at once),
and not to browsers that a program drives.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from copra_lab.page.components.templates import render


class Step(NamedTuple):
    """Points at the element `at` of a view."""

    view: str
    at: str
    title: str
    words: str


STEPS = (
    Step(
        "blend",
        "blend-weight",
        "Drag λ from A to B",
        "Two adapters taught one small CLIP the same task. Every stop between them, and beyond, "
        "is a new model, tested on real images as you arrive.",
    ),
    Step(
        "blend",
        "blend-changed",
        "See what that changed",
        "The images whose label the last move changed: those now right before those now wrong. "
        "The number counts all test images.",
    ),
    Step(
        "prune",
        "prune-layers",
        "Switch layers off",
        "The adapter sits on every layer of the image tower. Switch some off, or drag the "
        "sparsity up, and see how little of it was needed, and for which images.",
    ),
    Step(
        "shapley",
        "shapley-layer",
        "Ask what a layer is worth",
        "Shapley values sharpen from samples until they are exact. Choose a layer to see the "
        "images that it decides.",
    ),
    Step(
        "prompt",
        "prompt-bank",
        "Bend a learned prompt",
        "In place of a prompt’s words stand learned vectors. Make one shorter: sometimes that "
        "classifies better.",
    ),
    Step(
        "try",
        "try-file",
        "Show it a picture of your own",
        "Every adapter says what it takes it for, side by side with the CLIP that was never tuned.",
    ),
)


def html(steps: Sequence[Step]) -> str:
    """The button that opens the tour, the invitation to it and the tour itself, both closed."""
    return render("tour", steps=json.dumps([step._asdict() for step in steps]))
