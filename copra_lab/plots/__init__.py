"""Figures for notebooks: images next to numbers, and numbers with their intervals.

Each function returns a `Picture`, which a notebook shows if it is the last line of a cell.
"""

from copra_lab.utils.extras import needs

with needs("plots"):
    from copra_lab.plots.curves import bands, curve, lines
    from copra_lab.plots.images import answers, grid, matrices, walk
    from copra_lab.plots.picture import BLUE, GREEN, GREY, PALE, VERMILION, Picture, titled
    from copra_lab.plots.rows import accuracies, differences, dots, estimates
    from copra_lab.plots.tables import changes, landscape, masks, table

__all__ = [
    "BLUE", "GREEN", "GREY", "PALE", "VERMILION", "Picture", "accuracies", "answers", "bands",
    "changes", "curve", "differences", "dots", "estimates", "grid", "landscape", "lines", "masks",
    "matrices", "table", "titled", "walk",
]  # fmt: skip
