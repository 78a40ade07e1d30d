"""A short tour for a first visit: six controls to put one's hand on, pointed at where they are.

A native modal dialog, moved by ``static/tour.js``: the browser keeps Tab inside it and closes it on
Escape. While it is open it goes through the views as they were left; at its end the visitor is back
where it began. The invitation comes once (``?tour=0``: never; ``?tour=1`` opens the tour at once),
and not to browsers that a program drives.
"""

import json
from collections.abc import Sequence
from typing import NamedTuple

from copra_lab.page.components.templates import TEMPLATES, render


class Step(NamedTuple):
    """Points at the element `at` of a view."""

    view: str
    at: str
    title: str
    words: str


STEPS = tuple(Step(**step) for step in json.loads((TEMPLATES / "tour.json").read_text("utf-8")))


def html(steps: Sequence[Step]) -> str:
    """The button that opens the tour, the invitation to it and the tour itself, both closed."""
    return render("tour", steps=json.dumps([step._asdict() for step in steps]))
