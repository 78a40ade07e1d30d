"""How the picture of each structured question is drawn: drawings and a label in, a stamp out.

Every function takes the drawings of one image, each uint8 (h, w, 4), the number of its class, a
generator and the picture's side in pixels. What the label does not say (place, size, a slight
turn) is random.
"""

from collections.abc import Callable, Sequence

import torch

from copra_lab.tasks.scenes.clock import clock as clock_face
from copra_lab.tasks.scenes.stamps import between, stamp, together

Drawings = Sequence[torch.Tensor]
Question = Callable[[Drawings, int, torch.Generator, int], torch.Tensor]
Range = tuple[float, float]

SLANT = 12.0
"""Largest slight turn, in degrees."""

CELLS = tuple(
    f"{row} {column}".replace("middle centre", "centre")
    for row in ("top", "middle", "bottom")
    for column in ("left", "centre", "right")
)
CORNERS = ("top left", "top right", "bottom left", "bottom right")
SIZES = ("tiny", "small", "medium", "large", "huge")
WAYS = ("up", "right", "down", "left")
SIDES = ("to the left of", "to the right of", "above", "below")
SAMENESS = ("the same", "different")
HOURS = ("one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven",
         "twelve")  # fmt: skip

_CORNER = ((0.25, 0.25), (0.75, 0.25), (0.25, 0.75), (0.75, 0.75))

_DOT = 0.07
"""Radius of the dot of `beside`."""


def _slant(g: torch.Generator) -> float:
    return between(g, -SLANT, SLANT)


def _within(g: torch.Generator, size: float) -> float:
    """A coordinate at which something of this size lies inside the picture, even slanted."""
    margin = min(0.5, 0.6 * size)
    return between(g, margin, 1 - margin)


def where(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, sizes: Range
) -> torch.Tensor:
    """A drawing in one of the nine cells of `CELLS`, never across a cell's border."""
    size = between(g, *sizes)
    x, y = ((i + _within(g, 3 * size)) / 3 for i in (label % 3, label // 3))
    return stamp(drawings[0], side, size=size, at=(x, y), angle=_slant(g))


def size(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, ratio: float
) -> torch.Tensor:
    """A drawing of one of five sizes, of which each is `ratio` times the one before."""
    share = 0.92 * ratio ** (label - len(SIZES) + 1) * between(g, 0.95, 1.05)
    at = (_within(g, share), _within(g, share))
    return stamp(drawings[0], side, size=share, at=at, angle=between(g, -6, 6))


def turn(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, tilt: float
) -> torch.Tensor:
    """A drawing with its top in one of the directions of `WAYS`, give or take `tilt` degrees."""
    share = between(g, 0.55, 0.68)
    at = (between(g, 0.46, 0.54), between(g, 0.46, 0.54))
    angle = 360 / len(WAYS) * label + between(g, -tilt, tilt)
    return stamp(drawings[0], side, size=share, at=at, angle=angle)


def same_or_different(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, sizes: Range
) -> torch.Tensor:
    """Two pictures of the one drawing that is given, or one of each of two."""
    return together(
        stamp(
            drawing,
            side,
            size=(share := between(g, *sizes)),
            at=((half + _within(g, 2 * share)) / 2, _within(g, share)),
            angle=_slant(g),
        )
        for half, drawing in enumerate((drawings[0], drawings[-1]))
    )


def odd_one_out(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, sizes: Range
) -> torch.Tensor:
    """Four drawings, three of them the first; the second is in the corner that `label` says."""
    share = between(g, *sizes)
    return together(
        stamp(drawings[int(i == label)], side, size=share, at=at) for i, at in enumerate(_CORNER)
    )


def largest(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, ratio: float
) -> torch.Tensor:
    """Four copies of a drawing; that in the corner of `label` is `ratio` times as large."""
    share = between(g, 0.8, 1) * 0.42 / ratio
    return together(
        stamp(
            drawings[0],
            side,
            size=share * (ratio if i == label else 1),
            at=at,
            angle=_slant(g),
        )
        for i, at in enumerate(_CORNER)
    )


def beside(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, sizes: Range
) -> torch.Tensor:
    """A red dot on one side of a drawing, wherever in the picture the two are."""
    share, gap = between(g, *sizes), between(g, 0.03, 0.07)
    along = (-1, 1, -1, 1)[label] * (share / 2 + gap + _DOT)
    across = between(g, -0.2, 0.2) * share
    step = (along, across) if label < 2 else (across, along)
    # The drawing stands where it and the dot lie inside the picture.
    at = []
    for d in step:
        low, high = max(share * 0.6, _DOT + 0.01 - d), min(1 - share * 0.6, 1 - _DOT - 0.01 - d)
        at.append(between(g, low, high))
    drawing = stamp(drawings[0], side, size=share, at=(at[0], at[1]), angle=_slant(g))
    return together([drawing, dot(side, (at[0] + step[0], at[1] + step[1]))])


def dot(side: int, at: tuple[float, float]) -> torch.Tensor:
    """A red dot with a dark rim."""
    middle = (torch.arange(side) + 0.5) / side
    far = ((middle - at[0]) ** 2 + (middle.unsqueeze(1) - at[1]) ** 2).sqrt()
    alpha, inside = (((r - far) * side + 0.5).clamp(0, 1) for r in (_DOT, _DOT - 0.02))
    colour = torch.tensor([0.9, 0.05, 0.1]).view(3, 1, 1) * inside
    return torch.cat([colour, alpha.unsqueeze(0)])


def clock(
    drawings: Drawings, label: int, g: torch.Generator, side: int, *, hands: float
) -> torch.Tensor:
    """A clock face at the hour of `HOURS`; there are no drawings."""
    return clock_face(label + 1, g, side, hands=hands)
