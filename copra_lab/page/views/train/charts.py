"""The drawings of the Train view, against steps.

Loss, accuracy on the test images, and which layers were on.
"""

import math
from collections.abc import Sequence

import numpy as np
from PIL import Image

from copra_lab.page.components import images
from copra_lab.page.components.axes import QUARTERS, Axes
from copra_lab.page.components.numbers import percent
from copra_lab.page.state.lab import METHODS
from copra_lab.page.state.schemas.train import DROPPING
from copra_lab.page.views.train.session import Course
from copra_lab.training.dropping import CopRA
from copra_lab.utils.statistics import Accuracy

HEIGHT = 150
"""Pixels of each drawing."""

POINTS = 50
"""Of the loss: a single batch tells little, so each is the mean of several steps."""

COLUMNS = 300
"""Of the picture of layers, at most: on a screen more would not be told apart."""


def losses(course: Course, steps: int) -> list[tuple[float, float]]:
    """(step, mean loss of the steps around it).

    As many steps a point as give `POINTS` in all; steps in which nothing was on do not count.
    """
    size = max(1, steps // POINTS)
    out = []
    for start in range(0, course.steps - size + 1, size):
        some = [x for x in course.losses[start : start + size] if x is not None]
        if some:
            out.append((start + size / 2, sum(some) / len(some)))
    return out


def loss_svg(courses: Sequence[Course], steps: int, classes: int) -> str:
    """Loss against steps.

    The axis runs to one and a half times the loss of guessing evenly, which is drawn dotted; what
    is beyond is cut. Without ``classes``, 0 as long as the task is not known, neither is drawn.
    """
    label = "Loss on training images against steps"
    if not classes:
        axes = Axes(HEIGHT, (0, steps))
        return axes.svg(label, _frame(axes, [(i / 3, "") for i in range(4)]))
    even = math.log(max(2, classes))
    axes = Axes(HEIGHT, (0, steps), (0, 1.5 * even))
    out = _frame(axes, [(i * even / 2, f"{i * even / 2:.1f}") for i in range(4)])
    out += [axes.level("chord", even), axes.name(even, f"guessing {even:.2f}", -6)]
    said = []
    for course in courses:
        found = losses(course, steps)
        out += axes.curve(f"course {course.method}", [(x, min(1.5 * even, y)) for x, y in found])
        if found:
            said.append(f"{METHODS[course.method]}: {found[-1][1]:.2f} at step {course.steps}.")
    return axes.svg(label, out, " ".join(said))


def accuracy_svg(courses: Sequence[Course], steps: int, base: Accuracy | None) -> str:
    """Accuracy on the test images with its 95 % intervals; from 0 to 100 %, always.

    ``base``: before the first step.
    """
    axes = Axes(HEIGHT, (0, steps))
    out = _frame(axes, [(share, f"{share:.0%}") for share in QUARTERS])
    said = []
    if base:
        out += [
            axes.level("base", base.value),
            axes.name(base.value, f"base {percent(base.value)}", 14),
        ]
        said.append(f"Without an adapter: {base}.")
    for course in courses:
        known = [(0, base), *course.measured] if base else list(course.measured)
        out += axes.curve(f"course {course.method}", [(step, a.value) for step, a in known])
        out += [
            axes.point(course.method, f"{METHODS[course.method]}, step {step}", step, a, 3.5)
            for step, a in course.measured
        ]
        said += [f"{METHODS[course.method]} at step {step}: {a}." for step, a in course.measured]
    return axes.svg("Accuracy on test images against steps", out, " ".join(said))


def _frame(axes: Axes, ticks: Sequence[tuple[float, str]]) -> list[str]:
    out = [part for y, words in ticks for part in axes.tick(y, words)]
    steps = axes.across[1]
    return out + [axes.below(share * steps, f"{share * steps:.0f}") for share in QUARTERS]


def layers_on(course: Course, steps: int) -> np.ndarray:
    """The share of a column's steps in which each layer was on, (layers, columns).

    0 where none is done yet. At most `COLUMNS`.
    """
    on = np.array(course.on, dtype=float).reshape(course.steps, -1)
    columns = min(steps, COLUMNS)
    column = np.arange(course.steps) * columns // steps
    total = np.zeros((columns, on.shape[1]))
    np.add.at(total, column, on)
    return (total / np.maximum(1, np.bincount(column, minlength=columns))[:, None]).T


def layers_html(course: Course | None, steps: int) -> str:
    """A row a layer, a column a step, coloured where CopRA had it on.

    Above it the chance p that it is.
    """
    copra = DROPPING["copra"]
    assert isinstance(copra, CopRA)
    picture, said = "", "Nothing trained yet"
    if course and course.steps:
        alpha = Image.fromarray((255 * layers_on(course, steps)).round().astype(np.uint8))
        address = f"url({images.address(Image.merge('LA', [Image.new('L', alpha.size), alpha]))})"
        picture = f'<i style="-webkit-mask-image:{address};mask-image:{address}"></i>'
        said = f"In step {course.steps} {sum(course.on[-1])} of {len(course.on[-1])} layers were on"
    left, right = f"{1 - copra.start:.0%}", f"{copra.ramp:.0%}"
    ramp = f'<line class="ramp" x1="0" y1="{left}" x2="{right}" y2="0"/>'
    return (
        '<div class="layers"><div role="img" aria-label="Layers that CopRA had on at each '
        f'step. {said}.">{picture}'
        f'<svg width="100%" height="100%" aria-hidden="true">{ramp}</svg></div>'
        "<p>CopRA’s layers, the first on top: coloured when on; the line is the probability p, "
        "which rises to 1</p></div>"
    )
