"""The `Picture` that every plot returns, and the look that all plots share.

The colours are Okabe and Ito's, which stay apart for colour-blind readers and in grey. Whatever a
colour says, a marker or a word says too.
"""

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure

BLUE, VERMILION, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#767676", "#D9DDE2"
WIDTH = 7.6
"""Width of a figure, in inches."""
PIXELS_PER_INCH = 100
"""Scale on a page: 10-point type is then as large as the text around it."""

LINES = (
    ("o", "-", BLUE),
    ("s", "--", VERMILION),
    ("^", "-.", GREEN),
    ("D", ":", GREY),
    ("v", "-", "#56B4E9"),
)
"""Marker, line style and colour of the first, second, … series."""

Interval = tuple[float, float]
Estimate = tuple[float, Interval]
"""A value and its interval."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure on white, for light and dark pages alike, with a description for screen readers.

    Attributes:
        figure: The matplotlib figure.
        alt: What the figure shows, in words.
    """

    figure: Figure
    alt: str

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG file, with 1.5 times the pixels it is shown at, for sharp screens."""
        file = io.BytesIO()
        look: dict[str, Any] = {"dpi": 1.5 * PIXELS_PER_INCH, "facecolor": "white"}
        self.figure.savefig(file, format="png", metadata={"Software": None}, **look)
        return file.getvalue()

    @property
    def html(self) -> str:
        """An ``<img>`` element that contains the figure, with its description."""
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return (
            f'<img alt="{alt}" width="{self._width}" style="max-width: 100%" '
            f'src="data:image/png;base64,{self._base64}">'
        )

    @property
    def _width(self) -> int:
        """Width on the page, in pixels."""
        return round(self.figure.get_figwidth() * PIXELS_PER_INCH)

    @property
    def _base64(self) -> str:
        return base64.b64encode(self.png).decode()

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        data = {"image/png": self._base64, "text/plain": self.alt}
        return data, {"image/png": {"width": self._width, "alt": self.alt}}


def titled(picture: Picture, words: str) -> Picture:
    """Put a title on a picture, and at the start of its description."""
    picture.figure.suptitle(words, fontsize=11)
    return Picture(picture.figure, f"{words} {picture.alt}")


def new_figure(height: float, width: float = WIDTH) -> Figure:
    """An empty figure of this size, in inches."""
    return Figure(figsize=(width, height), layout="constrained")


def grid_behind(ax: Axes, axis: Literal["both", "x", "y"] = "both") -> None:
    """Pale grid lines, and no frame at the top and on the right."""
    ax.grid(axis=axis, color=PALE, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
