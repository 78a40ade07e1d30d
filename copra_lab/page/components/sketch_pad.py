"""White paper to draw on, by mouse, touch or keyboard: after each stroke its value is the drawing, as the data address of a PNG."""

import base64
import binascii
import io
import struct
from typing import Any

import gradio as gr
from torch import Tensor

from copra_lab.page.components.panels import html
from copra_lab.page.components.scripts import script
from copra_lab.tasks.task import photo

SIDE = 256
"""Pixels of the paper."""

MOST_SIDE = 8 * SIDE
"""Pixels of a drawing, at most, across and down: some screens have several for each of the paper's."""

LONGEST = 1_000_000
"""Characters of a drawing's address; a paper full of strokes takes a tenth."""

START = "data:image/png;base64,"

COLOURS = {
    "black": "#1b1b1b", "red": "#d92f2f", "orange": "#f08c1e", "yellow": "#f6d02f", "green": "#3aa54a", "blue": "#2f6fd9", "brown": "#8a5a34",
    "white": "#ffffff",
}  # fmt: skip
WIDTHS = {"thin": 6, "middle": 14, "thick": 30}

KEYS = "Arrows move the pen, the space bar puts it down and lifts it."


def _choices(name: str, options: dict[str, Any], chosen: str, looks: str) -> str:
    return "".join(
        f'<label title="{word}" style="{looks.format(value)}"><input type="radio" name="{name}" '
        f'value="{value}" aria-label="{word}"'
        f"{' checked' if word == chosen else ''}></label>"
        for word, value in options.items()
    )


TEMPLATE = f"""<div class="sketch"><div class="paper"><canvas width="{SIDE}" height="{SIDE}" tabindex="0" role="application"
aria-label="Paper to draw on. {KEYS}" title="{KEYS}"></canvas><i class="pen" hidden></i><p aria-hidden="true">Draw here</p></div>
<div class="tools"><div role="radiogroup" aria-label="Colour" class="colours">{_choices("sketch-colour", COLOURS, "black", "--ink-of:{}")}</div>
<div role="radiogroup" aria-label="Thickness" class="widths">{_choices("sketch-width", WIDTHS, "middle", "--wide:{}px")}</div>
<div class="undo"><button type="button" data-do="undo">Undo</button><button type="button" data-do="clear">Clear</button></div></div></div>"""


def paper(elem_id: str) -> gr.HTML:
    """Its value changes after each stroke: a data address, or "" where nothing is drawn."""
    return html("", html_template=TEMPLATE, js_on_load=script("sketch_pad"), elem_id=elem_id)


def pixels(drawing: object, side: int) -> Tensor:
    """A drawing as uint8 (side, side, 3). Raises ValueError for what is not the data address of a PNG, which anybody can send in place of it."""
    if not isinstance(drawing, str) or not drawing.startswith(START) or len(drawing) > LONGEST:
        raise ValueError(
            f"a drawing must come as {START}… of at most {LONGEST:,} characters; draw it anew"
        )
    try:
        file = base64.b64decode(drawing[len(START) :], validate=True)
        if (
            max(struct.unpack(">II", file[16:24])) > MOST_SIDE
        ):  # where a PNG says its width and height
            raise ValueError("larger than any paper")
        return photo(io.BytesIO(file), side)
    except (binascii.Error, struct.error, ValueError) as e:
        raise ValueError("this drawing cannot be read as a PNG; draw it anew") from e
