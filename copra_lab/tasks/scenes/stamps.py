"""Puts a drawing into a picture with an exact size, place and angle.

A *stamp* is a drawing in the layout of `emoji.corruptions`: float (4, side, side), colour
premultiplied with alpha, then alpha. Lengths are shares of the side; x goes right and y down.
"""

import math
from collections.abc import Iterable

import torch
import torch.nn.functional as F

FAINT = 26
"""Alpha below this is no ink: a tenth of full."""


def between(g: torch.Generator, low: float, high: float) -> float:
    """A random number in [low, high)."""
    return low + (high - low) * torch.rand((), generator=g).item()


def cut(rgba: torch.Tensor) -> torch.Tensor:
    """What is drawn, without the empty margin.

    Args:
        rgba: uint8 (h, w, 4) with straight alpha.

    Returns:
        Float (4, n, n), premultiplied: the ink in the middle of the square that just holds it.
    """
    ink = rgba[..., 3] > FAINT
    rows, columns = (ink.any(1 - axis).nonzero().flatten() for axis in (0, 1))
    top, bottom = int(rows[0]), int(rows[-1]) + 1
    left, right = int(columns[0]), int(columns[-1]) + 1
    drawing = rgba[top:bottom, left:right].permute(2, 0, 1).float() / 255
    drawing = torch.cat([drawing[:3] * drawing[3:], drawing[3:]])
    high, wide = bottom - top, right - left
    n = max(high, wide)
    x, y = (n - wide) // 2, (n - high) // 2
    return F.pad(drawing, (x, n - wide - x, y, n - high - y))


def stamp(
    rgba: torch.Tensor,
    side: int,
    *,
    size: float,
    at: tuple[float, float] = (0.5, 0.5),
    angle: float = 0.0,
) -> torch.Tensor:
    """One drawing in an empty picture.

    Args:
        rgba: uint8 (h, w, 4) with straight alpha.
        side: Width and height of the picture in pixels.
        size: The longer side of what is drawn, before it is turned.
        at: Where its middle lies.
        angle: How far it is turned clockwise, in degrees.

    Returns:
        The stamp.
    """
    drawing = cut(rgba).unsqueeze(0)
    pixels = max(1, round(size * side))
    if pixels < drawing.shape[-1]:  # bilinear sampling alone would skip thin lines
        drawing = F.interpolate(drawing, size=(pixels, pixels), mode="bilinear", antialias=True)
    n = drawing.shape[-1]
    drawing = F.pad(drawing, (1, 1, 1, 1))  # or the outermost pixels would be cut hard
    scale = n / (n + 2) / size
    cos, sin = math.cos(math.radians(angle)) * scale, math.sin(math.radians(angle)) * scale
    x, y = 2 * at[0] - 1, 2 * at[1] - 1
    theta = torch.tensor([[cos, sin, -cos * x - sin * y], [-sin, cos, sin * x - cos * y]])
    grid = F.affine_grid(theta.unsqueeze(0), [1, 4, side, side], align_corners=False)
    return F.grid_sample(drawing, grid, align_corners=False)[0].clamp(0, 1)


def together(stamps: Iterable[torch.Tensor]) -> torch.Tensor:
    """Stamps in one picture, later ones over earlier ones."""
    first, *others = stamps
    for other in others:
        first = other + first * (1 - other[3:])
    return first
