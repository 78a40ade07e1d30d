"""The state of the Blend view: a point on the line between two adapters."""

from collections.abc import Hashable
from dataclasses import dataclass, field, replace
from typing import Annotated, Any, ClassVar, NamedTuple

from pydantic import SkipValidation
from typing_extensions import override

from copra_lab.adapters.adapter import Adapter
from copra_lab.merging.linear import SPACES
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import AdapterKey, Number, TaskName
from copra_lab.page.state.schemas.measured import Base, Measured, Model
from copra_lab.page.state.schemas.reading import Field, Known, Reading

LOW, HIGH, STEP = -0.5, 1.5, 0.02


class Space(Field):
    """One of `SPACES`."""

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> str:
        if not isinstance(value, str) or value not in SPACES:
            raise ValueError(f"what is mixed must be one of {', '.join(SPACES)}")
        return value


class Compare(Field):
    """Whether another method's line is wanted.

    Yes or no in an address, a box to tick among the controls.
    """

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> bool:
        if not reading.is_address:
            return value is True
        if value not in ("yes", "no"):
            raise ValueError("compare must be yes or no")
        return value == "yes"

    @override
    def text(self, value: bool, state: Any, lab: Lab) -> str:
        return "yes" if value else "no"


class Beside(NamedTuple):
    """A line to be drawn beside another one.

    Attributes:
        kind: one of `SPACES`, for the same two adapters in that space, or "rival", another two.
        name: what a legend calls it.
        line: a state on it.
    """

    kind: str
    name: str
    line: "BlendState"


@dataclass(frozen=True)
class BlendState:
    """The point λ = ``weight`` on the line between two adapters, in one of `SPACES`.

    ``beside`` are lines to be drawn beside this one, and ``compare`` whether another method's is
    wanted there: neither is part of the model.
    """

    view: ClassVar = "blend"

    task: Annotated[str, TaskName()]
    a: Annotated[str, AdapterKey("a", 0, base=True)]
    b: Annotated[str, AdapterKey("b", 1, base=True)]
    weight: Annotated[float, Number("weight", "λ", LOW, HIGH, STEP)] = 0.0
    space: Annotated[str, Space("mix", usual="delta")] = "delta"
    beside: SkipValidation[tuple[Any, ...]] = field(default=(), compare=False)
    compare: Annotated[bool, Compare("compare", usual=False)] = field(default=False, compare=False)

    @property
    def position(self) -> float:
        """λ."""
        return self.weight

    @property
    def line(self) -> Hashable:
        """The same for all λ."""
        return replace(self, weight=0.0)

    @property
    def subject(self) -> Hashable:
        """The same for all λ in every space."""
        return replace(self, weight=0.0, space="delta")

    def at(self, weight: float) -> "BlendState":
        """Another point of this line. Its ends are the two adapters, in whatever space."""
        return replace(self, weight=weight, space="delta" if weight in (0.0, 1.0) else self.space)

    @property
    def references(self) -> tuple[Measured, ...]:
        """The base and both ends."""
        return Base(self.task), self.at(0.0), self.at(1.0)

    def model(self, lab: Lab) -> Model:
        """The two adapters mixed."""
        return Model(self.adapter(lab))

    def adapter(self, lab: Lab) -> Adapter:
        """The two adapters mixed."""
        return SPACES[self.space](
            lab.adapter(self.task, self.a), lab.adapter(self.task, self.b), self.weight
        )

    def swapped(self) -> "BlendState":
        """The same model, seen from the other end: λ becomes 1 − λ."""
        beside = tuple(other._replace(line=other.line.swapped()) for other in self.beside)
        return replace(self, a=self.b, b=self.a, weight=mirror(self.weight), beside=beside)


def mirror(weight: float) -> float:
    """λ as seen from the other end."""
    return round(LOW + HIGH - weight, 2) + 0.0
