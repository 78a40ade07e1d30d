"""The state of the Triangle view: a point of the plane through three adapters."""

from collections.abc import Hashable
from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar

from typing_extensions import override

from copra_lab.adapters.adapter import Adapter
from copra_lab.merging.linear import weighted_sum
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import AdapterKey, TaskName, within
from copra_lab.page.state.schemas.measured import Base, Measured, Model
from copra_lab.page.state.schemas.reading import Field, Known, Reading

UNITS = 120
"""Weights in a triangle are whole numbers of these parts: two decimals, and thirds."""

MIDDLE = (UNITS // 3, UNITS // 3)
"""The weights of B and C, in `UNITS`, where a visitor of the triangle begins."""

BEYOND = 20
"""How far, in `UNITS`, a weight in a triangle may be below zero."""


class Point(Field):
    """The weights of B and of C, in `UNITS`.

    ``0.333 0.25`` from the page, ``0.333,0.25`` in an address.
    """

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> tuple[int, int]:
        if not reading.is_address:
            return point_of(value)
        said = value.replace(",", " ")
        point = point_of(said)
        if any(
            abs(x / UNITS - float(text)) > 0.01 for x, text in zip(point, said.split(), strict=True)
        ):
            raise ValueError("the point lies too far outside of the triangle")
        return point

    @override
    def text(self, value: tuple[int, int], state: Any, lab: Lab) -> str:
        return ",".join(f"{round(x / UNITS, 3):g}" for x in value)


def point_of(value: object) -> tuple[int, int]:
    """The weights of B and of C as in ``"0.333 0.25"`` → both in `UNITS`, at most `BEYOND` outside.

    Raises:
        ValueError: for what is not two numbers.
    """
    found = value.split() if isinstance(value, str) else ()
    if len(found) != 2:
        raise ValueError(
            "the point must be two numbers, the weights of B and of C, such as 0.25 0.5"
        )
    # In the larger triangle, as seen from the corner where A counts most.
    low, high = round(-BEYOND / UNITS, 2), round(1 + 2 * BEYOND / UNITS, 2)
    b, c = (
        round(UNITS * within(x, low, high, f"the weight of {name}")) + BEYOND
        for x, name in zip(found, "BC", strict=True)
    )
    side = UNITS + 3 * BEYOND
    if b + c > side:
        b = round(b * side / (b + c))
        c = side - b
    return b - BEYOND, c - BEYOND


@dataclass(frozen=True)
class TriangleState:
    """A point of the plane through the adapters ``a``, ``b`` and ``c``.

    ``point`` holds the weights of the second and the third, in `UNITS`; the first has what is left.
    """

    view: ClassVar = "triangle"

    task: Annotated[str, TaskName()]
    a: Annotated[str, AdapterKey("a", 0, base=True)]
    b: Annotated[str, AdapterKey("b", 1, base=True)]
    c: Annotated[str, AdapterKey("c", 2, base=True)]
    point: Annotated[tuple[int, int], Point("point", usual=MIDDLE)] = (0, 0)

    position = 0.0

    @property
    def line(self) -> Hashable:
        """The same for all points of this plane."""
        return self.task, self.a, self.b, self.c

    subject = line

    @property
    def keys(self) -> tuple[str, str, str]:
        """Of the three adapters."""
        return self.a, self.b, self.c

    @property
    def weights(self) -> tuple[float, float, float]:
        """Of the three adapters; they add up to 1."""
        b, c = self.point
        return (UNITS - b - c) / UNITS, b / UNITS, c / UNITS

    @property
    def corners(self) -> "tuple[TriangleState, TriangleState, TriangleState]":
        """Each adapter by itself."""
        return (
            replace(self, point=(0, 0)),
            replace(self, point=(UNITS, 0)),
            replace(self, point=(0, UNITS)),
        )

    @property
    def references(self) -> tuple[Measured, ...]:
        """The base and the corners."""
        return Base(self.task), *self.corners

    def model(self, lab: Lab) -> Model:
        """The weighted sum of the three adapters."""
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        """The weighted sum of the three adapters."""
        return weighted_sum([lab.adapter(self.task, key) for key in self.keys], self.weights)
