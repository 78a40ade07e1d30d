"""White paper to draw on, by mouse, touch or keyboard.

After each stroke its value is the drawing, as the data address of a PNG.
"""

import base64
import binascii
import io
import struct

import gradio as gr
from torch import Tensor

from copra_lab.page.components.panels import html
from copra_lab.page.components.scripts import script
from copra_lab.page.components.templates import render
from copra_lab.tasks.task import photo

SIDE = 256
"""Pixels of the paper."""

MOST_SIDE = 8 * SIDE
"""Pixels of a drawing, at most, across and down: some screens have several for each of the paper's.
"""

LONGEST = 1_000_000
"""Characters of a drawing's address; a paper full of strokes takes a tenth."""

START = "data:image/png;base64,"

COLOURS = {
    "black": "#1b1b1b",
    "red": "#d92f2f",
    "orange": "#f08c1e",
    "yellow": "#f6d02f",
    "green": "#3aa54a",
    "blue": "#2f6fd9",
    "brown": "#8a5a34",
    "white": "#ffffff",
}
WIDTHS = {"thin": 6, "middle": 14, "thick": 30}

KEYS = "The arrow keys move the pen; the space bar puts it down and lifts it."


def paper(elem_id: str) -> gr.HTML:
    """Its value changes after each stroke: a data address, or "" where nothing is drawn."""
    template = render("sketch_pad", side=SIDE, keys=KEYS, colours=COLOURS, widths=WIDTHS)
    return html("", html_template=template, js_on_load=script("sketch_pad"), elem_id=elem_id)


def pixels(drawing: object, side: int) -> Tensor:
    """A drawing as uint8 (side, side, 3).

    Raises ValueError for what is not the data address of a PNG, which anybody can send in place of
    it.
    """
    if not isinstance(drawing, str) or not drawing.startswith(START) or len(drawing) > LONGEST:
        raise ValueError(
            f"a drawing must come as {START}… of at most {LONGEST:,} characters; draw it again"
        )
    try:
        file = base64.b64decode(drawing[len(START) :], validate=True)
        width, height = struct.unpack(">II", file[16:24])  # where a PNG says its size
        if max(width, height) > MOST_SIDE:
            raise ValueError("larger than any paper")
        return photo(io.BytesIO(file), side)
    except (binascii.Error, struct.error, ValueError) as e:
        raise ValueError("this drawing cannot be read as a PNG; draw it again") from e
