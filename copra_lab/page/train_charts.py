"""The drawings of the Train view: loss, accuracy on the test images, and which layers were on, each against the steps."""

import base64
import io
import itertools
import math
from collections.abc import Sequence
from html import escape

import numpy as np
from PIL import Image

from copra_lab.copra import CopRA
from copra_lab.page.lab import METHODS
from copra_lab.page.orders import DROPPING
from copra_lab.page.training import Course
from copra_lab.page.words import percent
from copra_lab.stats import Accuracy

HEIGHT = 150
"""Pixels of each drawing."""

POINTS = 50
"""Of the loss: a single batch tells little, so each is the mean of several steps."""

COLUMNS = 300
"""Of the picture of layers, at most: on a screen more would not be told apart."""


def losses(course: Course, steps: int) -> list[tuple[float, float]]:
    """(step, mean loss of the steps around it): as many steps a point as give `POINTS` in all; steps in which nothing was on do not count."""
    size = max(1, steps // POINTS)
    out = []
    for start in range(0, course.steps - size + 1, size):
        some = [x for x in course.losses[start : start + size] if x is not None]
        if some:
            out.append((start + size / 2, sum(some) / len(some)))
    return out


def loss_svg(courses: Sequence[Course], steps: int, classes: int) -> str:
    """The loss axis runs to one and a half times the loss of guessing evenly, which is drawn dotted; what is beyond is cut."""
    even = math.log(max(2, classes))
    top = 1.5 * even
    out = _frame([(i * even / 2, f"{i * even / 2:.1f}") for i in range(4)], top, steps)
    out.append(_line("chord", 0, even / top, 1, even / top))
    out.append(f'<text class="base-name" x="100%" y="{_y(even / top)}" dx="-4" dy="-6" text-anchor="end">guessing {even:.2f}</text>')
    said = []
    for course in courses:
        found = [(x / steps, min(1, y / top)) for x, y in losses(course, steps)]
        out += [_line(f"course {course.method}", *a, *b) for a, b in itertools.pairwise(found)]
        if found:
            said.append(f"{METHODS[course.method]}: {losses(course, steps)[-1][1]:.2f} at step {course.steps}.")
    return _svg("Loss on training images against steps", out, said)


def accuracy_svg(courses: Sequence[Course], steps: int, base: Accuracy | None) -> str:
    """Accuracy on the test images with its 95 % intervals; from 0 to 100 %, always. ``base``: before the first step."""
    out = _frame([(share, f"{share:.0%}") for share in (0, 0.25, 0.5, 0.75, 1)], 1, steps)
    said = []
    if base:
        out.append(_line("base", 0, base.value, 1, base.value))
        out.append(f'<text class="base-name" x="100%" y="{_y(base.value)}" dx="-4" dy="14" text-anchor="end">base {percent(base.value)}</text>')
        said.append(f"Without an adapter: {base}.")
    for course in courses:
        known = [(0, base), *course.measured] if base else list(course.measured)
        found = [(step / steps, a) for step, a in known if a]
        out += [_line(f"course {course.method}", x1, a1.value, x2, a2.value) for (x1, a1), (x2, a2) in itertools.pairwise(found)]
        out += [_point(course.method, step / steps, a, f"{METHODS[course.method]}, step {step}") for step, a in course.measured]
        said += [f"{METHODS[course.method]} at step {step}: {a}." for step, a in course.measured]
    return _svg("Accuracy on test images against steps", out, said)


def _frame(ticks: Sequence[tuple[float, str]], top: float, steps: int) -> list[str]:
    out = []
    for value, words in ticks:
        out.append(_line("grid", 0, value / top, 1, value / top))
        out.append(f'<text class="tick" x="0" y="{_y(value / top)}" dx="-8" dy="4" text-anchor="end">{words}</text>')
    for share in (0, 0.25, 0.5, 0.75, 1):
        out.append(f'<text class="tick" x="{share:.0%}" y="{HEIGHT}" dy="18" text-anchor="middle">{share * steps:.0f}</text>')
    return out


def _line(kind: str, x1: float, y1: float, x2: float, y2: float) -> str:
    return f'<line class="{kind}" x1="{100 * x1:.2f}%" y1="{_y(y1)}" x2="{100 * x2:.2f}%" y2="{_y(y2)}"/>'


def _y(share: float) -> str:
    return f"{HEIGHT * (1 - share):.1f}"


def _point(method: str, x: float, a: Accuracy, name: str) -> str:
    start, stop = a.interval
    return (
        f'<g class="point {method}"><title>{escape(name)}: {escape(str(a))}</title>{_line("bar", x, start, x, stop)}'
        f'<circle cx="{100 * x:.2f}%" cy="{_y(a.value)}" r="3.5"/></g>'
    )


def _svg(name: str, out: Sequence[str], said: Sequence[str]) -> str:
    return (
        f'<svg class="path" role="img" aria-label="{name}" width="100%" height="{HEIGHT}"><desc>{escape(" ".join(said))}</desc>{"".join(out)}</svg>'
    )


def layers_on(course: Course, steps: int) -> np.ndarray:
    """(layers, columns): the share of a column's steps in which each layer was on, 0 where none is done yet. At most `COLUMNS`."""
    on = np.array(course.on, dtype=float).reshape(course.steps, -1)
    columns = min(steps, COLUMNS)
    column = np.arange(course.steps) * columns // steps
    total = np.zeros((columns, on.shape[1]))
    np.add.at(total, column, on)
    return (total / np.maximum(1, np.bincount(column, minlength=columns))[:, None]).T


def layers_html(course: Course | None, steps: int) -> str:
    """A row a layer, a column a step, coloured where CopRA had it on, below the chance p that it is."""
    copra = DROPPING["copra"]
    assert isinstance(copra, CopRA)
    picture, said = "", "Nothing was trained yet"
    if course and course.steps:
        alpha = Image.fromarray((255 * layers_on(course, steps)).round().astype(np.uint8))
        file = io.BytesIO()
        Image.merge("LA", [Image.new("L", alpha.size), alpha]).save(file, "PNG")
        address = f"url(data:image/png;base64,{base64.b64encode(file.getvalue()).decode()})"
        picture = f'<i style="-webkit-mask-image:{address};mask-image:{address}"></i>'
        said = f"In step {course.steps} {sum(course.on[-1])} of {len(course.on[-1])} layers were on"
    ramp = f'<line class="ramp" x1="0" y1="{100 * (1 - copra.start):.0f}%" x2="{copra.ramp:.0%}" y2="0"/>'
    return (
        f'<div class="layers"><div role="img" aria-label="Layers that CopRA had on, against steps. {said}.">{picture}'
        f'<svg width="100%" height="100%" aria-hidden="true">{ramp}</svg></div>'
        "<p>CopRA’s layers, the first on top: coloured where on; the line is the chance p, which rises to 1</p></div>"
    )
