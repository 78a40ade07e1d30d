"""Clock faces at full hours, drawn by our own code: no two in the same colours, size and place."""

import math

import numpy as np
import torch
from PIL import Image, ImageDraw

from copra_lab.tasks.scenes.stamps import between

FINE = 4
"""Faces are drawn this many times larger and shrunk, for smooth edges."""

Colour = tuple[int, int, int]


def clock(hour: int, g: torch.Generator, side: int, *, hands: float) -> torch.Tensor:
    """A clock at a full hour: a long thin hand at twelve, a short thick one at the hour.

    The face is round or square, with twelve marks, four or none. A mirror image shows another
    time.

    Args:
        hour: 1 to 12.
        g: Source of randomness.
        side: Width and height of the picture in pixels.
        hands: Length of the hour hand, as a share of the minute hand's.

    Returns:
        A stamp, float (4, side, side).
    """
    n = side * FINE
    picture = Image.new("RGBA", (n, n))
    pen = ImageDraw.Draw(picture)
    radius = between(g, 0.34, 0.48) * n
    x, y = (between(g, radius + 1, n - radius - 1) for _ in range(2))
    rim, long_hand, short_hand = (_colour(g, 0, 110) for _ in range(3))
    box = (x - radius, y - radius, x + radius, y + radius)
    corner = radius if between(g, 0, 1) < 0.5 else 0.2 * radius
    pen.rounded_rectangle(box, corner, _colour(g, 190, 256), rim, round(0.09 * radius))
    for mark in range(0, 12, (1, 3, 12)[int(between(g, 0, 3))]):
        _ray(pen, (x, y), 30 * mark, (0.74 * radius, 0.86 * radius), 0.05 * radius, rim)
    length = between(g, 0.66, 0.74) * radius
    _ray(pen, (x, y), 0, (0, length), 0.07 * radius, long_hand)
    _ray(pen, (x, y), 30 * hour, (0, hands * length), 0.15 * radius, short_hand)
    _dot(pen, (x, y), 0.1 * radius, short_hand)
    small = np.asarray(picture.reduce(FINE), np.float32) / 255
    rgba = torch.from_numpy(small).permute(2, 0, 1)
    return torch.cat([rgba[:3] * rgba[3:], rgba[3:]])


def _colour(g: torch.Generator, low: int, high: int) -> Colour:
    red, green, blue = torch.randint(low, high, (3,), generator=g).tolist()
    return red, green, blue


def _ray(
    pen: ImageDraw.ImageDraw,
    middle: tuple[float, float],
    angle: float,
    reach: tuple[float, float],
    width: float,
    colour: Colour,
) -> None:
    """A line outwards from `middle`; `angle` in degrees, clockwise from the top."""
    right, down = math.sin(math.radians(angle)), -math.cos(math.radians(angle))
    ends = [(middle[0] + right * r, middle[1] + down * r) for r in reach]
    pen.line(ends, colour, max(1, round(width)))
    _dot(pen, ends[1], width / 2, colour)


def _dot(pen: ImageDraw.ImageDraw, at: tuple[float, float], radius: float, colour: Colour) -> None:
    pen.ellipse((at[0] - radius, at[1] - radius, at[0] + radius, at[1] + radius), fill=colour)
