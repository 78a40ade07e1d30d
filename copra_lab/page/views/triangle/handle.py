"""What one holds in the Triangle view: a point to drag, and a field for each weight.

It never comes from the server again, so that what redraws the landscape does not take it out of
one's hand.
"""

import json
from html import escape

from markupsafe import Markup

from copra_lab.page.components.templates import render
from copra_lab.page.state.schemas.triangle import BEYOND, UNITS
from copra_lab.page.views.triangle.html import BOTTOM, CELLS, HEIGHT, LEFT, OUTSIDE, SIDE, WIDTH

_GEOMETRY = {
    "unit": UNITS,
    "beyond": BEYOND,
    "step": CELLS[-1],
    "side": SIDE,
    "left": LEFT,
    "bottom": BOTTOM,
}

HANDS = render(
    "triangle_handle",
    width=WIDTH,
    height=HEIGHT,
    geometry=Markup(escape(json.dumps(_GEOMETRY))),
    outside=OUTSIDE,
    low=-BEYOND / UNITS,
    high=1 + 2 * BEYOND / UNITS,
)
