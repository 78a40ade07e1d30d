"""What a figure is to a notebook: a picture with its description, and what all figures look like. Colours are Okabe and Ito's, chosen to stay
apart for the colour-blind and in grey; what a colour says, a mark or a word says too."""

import base64
import io
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from torch import Tensor

BLUE, VERMILION, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#767676", "#D9DDE2"
PIXELS_PER_INCH = 100  # of a page's pixels: 10 points print as large as the text around them

LINES = (
    ("o", "-", BLUE),
    ("s", "--", VERMILION),
    ("^", "-.", GREEN),
    ("D", ":", GREY),
    ("v", "-", "#56B4E9"),
)
"""Mark, line and colour of the first, second, … series."""

Interval = tuple[float, float]
Estimate = tuple[float, Interval]
"""A value and its interval."""


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure on white, for light and dark pages alike, and what it shows in words for those who do not see it."""

    figure: Figure
    alt: str

    @cached_property
    def png(self) -> bytes:
        """The figure as a PNG file, half as large again as it is shown."""
        file = io.BytesIO()  # half as many pixels again as shown: sharp on fine screens
        self.figure.savefig(
            file,
            format="png",
            dpi=1.5 * PIXELS_PER_INCH,
            facecolor="white",
            metadata={"Software": None},
        )
        return file.getvalue()

    @property
    def html(self) -> str:
        """An ``<img>`` that holds the figure, with its description."""
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return f'<img alt="{alt}" width="{self._width}" style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'

    @property
    def _width(self) -> int:
        return round(self.figure.get_figwidth() * PIXELS_PER_INCH)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"width": self._width, "alt": self.alt}}


def titled(picture: Picture, words: str) -> Picture:
    """The same picture under a line of `words`, which its description begins with."""
    picture.figure.suptitle(words, fontsize=11)
    return Picture(picture.figure, f"{words} {picture.alt}")


def pixels(image: Tensor) -> np.ndarray:
    return torch.as_tensor(image).numpy()


def draw_image(ax: Any, image: Tensor) -> None:
    ax.imshow(pixels(image))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=PALE, linewidth=0.8)
