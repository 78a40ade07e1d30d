"""What a row of the table of bundled tasks says."""

from collections.abc import Callable
from dataclasses import dataclass

from copra_lab.tasks.emoji import corruptions as nu
from copra_lab.tasks.emoji import selection as so
from copra_lab.tasks.scenes.questions import Question

TASK_GROUPS = {
    "near": "drawings that pretraining saw, changed or asked for anew",
    "novel": "drawings that pretraining never saw, of things it never read of beside an image",
    "structured": "what a name does not tell: how many, where, how large, which way",
    "real": "images that nobody drew for this package",
}
"""The groups of tasks, and what each holds.

VTAB (arXiv:1910.04867) tells natural, specialised and structured tasks apart.
"""


@dataclass(frozen=True)
class Recipe:
    """A row of `TASKS`.

    Attributes:
        title: The task's title.
        about: What it asks, and what pretraining knew of it.
        entries: Lists the drawings.
        template: The prompt.
        group: One of `TASK_GROUPS`.
        nuisance: A corruption of the images.
        flip: Whether a mirror image keeps its label.
        shadow: Makes drawings dark shapes that show this share of their own colours.
        deal: The classes, where a drawing does not decide its own.
        number: Whether a drawing of class i appears as i + 1 copies.
        scene: Draws an image of its drawings and its class, instead of the drawing alone.
        crop: Least share of the area that a training crop keeps.
    """

    title: str
    about: str
    entries: Callable[[], list[so.Entry]]
    template: str = "a drawing of a {}"
    group: str = "near"
    nuisance: nu.Nuisance | None = None
    flip: bool = True
    shadow: float | None = None
    deal: tuple[str, ...] = ()
    number: bool = False
    scene: Question | None = None
    crop: float = 0.5
