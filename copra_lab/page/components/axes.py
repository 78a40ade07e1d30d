"""Axes of a drawing that fills its parent's width.

Positions across are percentages and positions down are pixels, so that text keeps its size on a
phone. Labels stand outside of the plot: the parent needs padding. Colours come from CSS classes
(``page.css``), which are what every ``kind`` below names.
"""

import itertools
from collections.abc import Iterable, Sequence
from html import escape
from typing import NamedTuple

from copra_lab.utils.statistics import Accuracy

Points = Sequence[tuple[float, Accuracy]]
"""(Where across, accuracy) of what was measured."""

QUARTERS = (0, 0.25, 0.5, 0.75, 1)


class Axes(NamedTuple):
    """A plot `height` pixels high.

    ``across`` and ``up``: the numbers at its left and right, and at its bottom and top edge.
    """

    height: int
    across: tuple[float, float] = (0, 1)
    up: tuple[float, float] = (0, 1)

    def x(self, number: float) -> str:
        """A number across, as the percentage of the width."""
        left, right = self.across
        return f"{100 * (number - left) / (right - left):.2f}%"

    def y(self, number: float) -> str:
        """A number up, as pixels from the top."""
        bottom, top = self.up
        return f"{self.height * (top - number) / (top - bottom):.1f}"

    def line(self, kind: str, x1: float, y1: float, x2: float, y2: float, style: str = "") -> str:
        """A straight line between two points."""
        return (
            f'<line class="{kind}" x1="{self.x(x1)}" y1="{self.y(y1)}" x2="{self.x(x2)}" '
            f'y2="{self.y(y2)}"{_styled(style)}/>'
        )

    def level(self, kind: str, y: float) -> str:
        """A line from edge to edge."""
        return self.line(kind, self.across[0], y, self.across[1], y)

    def upright(self, kind: str, x: float, style: str = "") -> str:
        """A line from top to bottom."""
        return self.line(kind, x, self.up[1], x, self.up[0], style)

    def curve(self, kind: str, points: Iterable[tuple[float, float]]) -> list[str]:
        """The points, joined; a line each, as a polyline takes no percentages."""
        return [self.line(kind, *a, *b) for a, b in itertools.pairwise(points)]

    def text(
        self, kind: str, x: float, y: float, words: str, anchor: str, dx: float = 0, dy: float = 0
    ) -> str:
        """Words at a point.

        ``anchor``: "start", "middle" or "end" of the words is at x; ``dx`` and ``dy``: pixels from
        there to the right and down.
        """
        moved = "".join(f' {name}="{by:g}"' for name, by in (("dx", dx), ("dy", dy)) if by)
        return (
            f'<text class="{kind}" x="{self.x(x)}" y="{self.y(y)}"{moved} '
            f'text-anchor="{anchor}">{escape(words)}</text>'
        )

    def tick(self, y: float, words: str, kind: str = "grid") -> list[str]:
        """A line across with its number at the left."""
        return [
            self.level(kind, y),
            self.text("tick", self.across[0], y, words, "end", dx=-8, dy=4),
        ]

    def below(self, x: float, words: str, dy: float = 18) -> str:
        """A number under the plot."""
        return self.text("tick", x, self.up[0], words, "middle", dy=dy)

    def name(self, y: float, words: str, dy: float, end: int = 1) -> str:
        """What a line at height `y` is, `dy` pixels below it, at its left (0) or right (1) end."""
        dx, anchor = ((4, "start"), (-4, "end"))[end]
        return self.text("base-name", self.across[end], y, words, anchor, dx, dy)

    def legend(self, words: str, dy: float = -12) -> str:
        """Words above the plot, at the right."""
        return self.text("tick", self.across[1], self.up[1], words, "end", dy=dy)

    def bar(
        self, kind: str, x: float, width: float, y1: float, y2: float = 0, least: float = 0
    ) -> str:
        """A bar between two heights.

        It is at `least` so many pixels high, so that nothing can still be seen.
        """
        top, bottom = sorted(float(self.y(y)) for y in (y1, y2))
        wide = 100 * width / (self.across[1] - self.across[0])
        return (
            f'<rect class="{kind}" x="{self.x(x)}" width="{wide:.2f}%" y="{top:.1f}" '
            f'height="{max(least, bottom - top):.1f}"/>'
        )

    def point(
        self, kind: str, name: str, x: float, accuracy: Accuracy, radius: float, style: str = ""
    ) -> str:
        """An accuracy on its 95 % interval, which says itself when pointed at."""
        start, stop = accuracy.interval
        return (
            f'<g class="{" ".join(["point", *kind.split()])}"{_styled(style)}>'
            f"<title>{escape(f'{name}: {accuracy}')}</title>{self.line('bar', x, start, x, stop)}"
            f'<circle cx="{self.x(x)}" cy="{self.y(accuracy.value)}" r="{radius:g}"/></g>'
        )

    def svg(self, label: str, parts: Iterable[str] = (), said: str = "", style: str = "") -> str:
        """The drawing.

        ``label`` says what it shows and ``said`` what is in it, to those who do not see it.
        """
        description = f"<desc>{escape(said)}</desc>" if said else ""
        return (
            f'<svg class="path" role="img" aria-label="{label}" width="100%" '
            f'height="{self.height}"{_styled(style)}>{description}{"".join(parts)}</svg>'
        )


def row_svg(label: str, height: int, dots: Iterable[str]) -> str:
    """A drawing for a row of a table: `dots` over a line from 0 to 100 %."""
    y = height / 2
    return (
        f'<svg role="img" aria-label="{label}" width="100%" height="{height}"><line class="grid" '
        f'x1="0" x2="100%" y1="{y}" y2="{y}"/>{"".join(dots)}</svg>'
    )


def dot(accuracy: Accuracy, y: float, radius: float, kind: str = "") -> str:
    """An accuracy on its 95 % interval, `y` pixels below the top of a `row_svg`.

    ``kind``: the class of the interval.
    """
    styled = f' class="{kind}"' if kind else ""
    low, high = (f"{100 * end:.2f}%" for end in accuracy.interval)
    return (
        f'<line{styled} x1="{low}" x2="{high}" y1="{y}" y2="{y}"/>'
        f'<circle cx="{100 * accuracy.value:.2f}%" cy="{y}" r="{radius:g}"/>'
    )


def _styled(style: str) -> str:
    return f' style="{style}"' if style else ""
