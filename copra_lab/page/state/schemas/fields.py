"""Fields that the states of several views share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

from typing_extensions import override

from copra_lab.page.state.lab import BASE, NO_LONGER, OWN, SHELF, Lab
from copra_lab.page.state.schemas.reading import Field, Known, Reading, Source


@dataclass(frozen=True)
class TaskName(Field):
    """The name of a task, by default the first one."""

    address: str = "task"
    needs: ClassVar[tuple[str, ...]] = ()

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> str:
        reading.lab.check(value)
        return value

    @override
    def default(self, reading: Reading, known: Known) -> str:
        return next(iter(reading.lab.tasks()))


@dataclass(frozen=True)
class AdapterKey(Field):
    """The key of an adapter of the task, by default the one at position `first` of its menu.

    Attributes:
        first: counted from 0; the last one where the menu is shorter.
        base: whether "no adapter" is offered too.
    """

    first: int = 0
    base: bool = False

    def _keys(self, lab: Lab, task: str) -> list[str]:
        return [key for _, key in (lab.menu(task) if self.base else lab.adapters(task))]

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> str:
        lab, task = reading.lab, known["task"]
        keys = self._keys(lab, task)
        if reading.is_address and value != BASE and "/" not in value:
            value = SHELF + value
        if value not in keys:
            if reading.source is Source.CONTROLS:
                return self.default(reading, known)
            if str(value).startswith(OWN):
                raise ValueError(NO_LONGER)
            raise ValueError(f"the task has no adapter {value!r:.40}; it has {', '.join(keys)}")
        if reading.is_address:
            lab.adapter(task, value)  # raises for a file that is broken
        return str(value)

    @override
    def default(self, reading: Reading, known: Known) -> str:
        keys = self._keys(reading.lab, known["task"])
        return keys[: self.first + 1][-1]

    @override
    def text(self, value: str, state: Any, lab: Lab) -> str:
        return value.removeprefix(SHELF)


@dataclass(frozen=True)
class Number(Field):
    """A number from `low` to `high`, called `name` in sentences, in whole `steps`."""

    name: str = ""
    low: float = 0
    high: float = 1
    step: float = 1
    usual: float = field(default=0, kw_only=True)

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> float:
        check = inside if reading.is_address else within
        return self.rounded(check(value, self.low, self.high, self.name))

    def rounded(self, value: float) -> float:
        """The nearest of the steps."""
        if self.step == 1:
            return round(value)
        return round(round(value / self.step) * self.step, 2) + 0.0  # + 0.0: there is no −0

    @override
    def text(self, value: float, state: Any, lab: Lab) -> str:
        return f"{value:g}"


def within(value: object, low: float, high: float, name: str) -> float:
    """`value`, or the bound that it lies beyond. Raises ValueError for what is not a number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{name} must be a number from {low} to {high}")
    return min(max(number, low), high)


def inside(value: object, low: float, high: float, name: str) -> float:
    """`value`. Raises ValueError for what is not a number from `low` to `high`."""
    number = within(value, low, high, name)
    if number != float(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a number from {low} to {high}")
    return number


def switched_on(
    chosen: object, have: Sequence[Any], name: str, others: bool = False, whose: str = "adapter"
) -> tuple[Any, ...] | None:
    """Which of `have` a group of switches keeps, in the order of `have`; None for all of them.

    Args:
        chosen: the switches that are on.
        have: all switches that there are.
        name: of one of them, in sentences.
        others: the switches may still be those of another adapter, so what this one lacks is left
            out.
        whose: what has them, in sentences.

    Raises:
        ValueError: for what is not a list, and for a switch that does not exist.
    """
    if not isinstance(chosen, list | tuple):
        raise ValueError(
            f"{name} must be a list of those to keep, out of {', '.join(map(str, have))}"
        )
    if not others and (unknown := [c for c in chosen if c not in have]):
        raise ValueError(
            f"the {whose} has no {name} {unknown[0]!r:.40}; it has {', '.join(map(str, have))}"
        )
    on = tuple(h for h in have if h in chosen)
    return None if len(on) == len(have) else on
