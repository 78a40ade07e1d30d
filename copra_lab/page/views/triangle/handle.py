"""What one holds in the Triangle view: a point to drag, and a field for each weight.

It never comes from the server again, so that what redraws the landscape does not take it out of
one's hand.
"""

import json
from html import escape

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

_FIELDS = "".join(
    f'<label><i class="{name.lower()}">{name}</i><input type="number" step="0.05" '
    f'min="{-BEYOND / UNITS:.2f}" max="{1 + 2 * BEYOND / UNITS:.2f}" '
    f'aria-label="weight of {name}"></label>'
    for name in "ABC"
)

HANDS = (
    f'<svg class="hands" viewBox="0 0 {WIDTH} {HEIGHT}" '
    f'data-geometry="{escape(json.dumps(_GEOMETRY))}"><polygon class="ground" points="{OUTSIDE}"/>'
    '<g class="hand" tabindex="0" role="slider" aria-roledescription="point in a triangle" '
    'aria-label="Weights of A, B and C; arrow keys move it" '
    'aria-valuemin="0" aria-valuemax="100" aria-valuenow="0"><circle class="grip" r="14"/>'
    '<circle class="dot" r="3.5"/></g></svg>'
    f'<div class="weights">{_FIELDS}</div>'
)
