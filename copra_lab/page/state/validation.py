"""What comes from a control, a program or an address, checked: it may be anything, and becomes a part of a place or one clear sentence."""

import math
from collections.abc import Sequence
from typing import Any

from copra_lab.bench.prompt_survey import SIGMAS
from copra_lab.page.server.limits import ASKED_SECONDS
from copra_lab.page.state.lab import BASE, NO_LONGER, OWN, Lab
from copra_lab.page.state.view_states import BEYOND, HIGH, LOW, MOST_PERCENT, SPACES, STEP, UNITS


def position(value: object) -> float:
    """What came from the slider of λ or its number field → a λ on the slider's grid, within its ends."""
    return (
        round(round(_within(value, LOW, HIGH, "λ") / STEP) * STEP, 2) + 0.0
    )  # + 0.0: there is no −0


def space_of(value: object) -> str:
    """Raises ValueError for what is none of `SPACES`."""
    if not isinstance(value, str) or value not in SPACES:
        raise ValueError(f"what is mixed must be one of {' or '.join(SPACES)}")
    return value


def point_of(value: object) -> tuple[int, int]:
    """What came from a triangle, the weights of B and of C as in ``"0.333 0.25"`` → both in `UNITS`, no farther outside than `BEYOND`.
    Raises ValueError for what is not two numbers."""
    found = value.split() if isinstance(value, str) else ()
    if len(found) != 2:
        raise ValueError(
            "the point must be two numbers, the weights of B and of C, such as 0.25 0.5"
        )
    # In the larger triangle, as seen from the corner where A counts most.
    low, high = round(-BEYOND / UNITS, 2), round(1 + 2 * BEYOND / UNITS, 2)
    b, c = (
        round(UNITS * _within(x, low, high, f"the weight of {name}")) + BEYOND
        for x, name in zip(found, "BC", strict=True)
    )
    side = UNITS + 3 * BEYOND
    if b + c > side:
        b = round(b * side / (b + c))
        c = side - b
    return b - BEYOND, c - BEYOND


def percentage(value: object) -> int:
    """What came from the slider of sparsity or its number field → whole percent."""
    return round(_within(value, 0, 100, "the sparsity"))


def duration(value: object) -> float:
    """For how long a program wants to wait → seconds, at most a minute."""
    return _within(value, 0, ASKED_SECONDS, "seconds")


def stretched(values: Sequence[object], length: int) -> tuple[int, ...] | None:
    """What came from the sliders of a prompt's vectors or their number fields → whole percent for each of its `length` vectors, or
    None where none differs from 100. Raises ValueError for what is no number."""
    found = tuple(
        round(_within(v, 0, MOST_PERCENT, f"vector {i}")) for i, v in enumerate(values[:length], 1)
    )
    return None if all(p == 100 for p in found) else found


def whole_number(value: object, most: int, name: str) -> int:
    """What came from a slider of whole numbers from 0 to `most`, or its number field."""
    return round(_within(value, 0, most, name))


def _within(value: object, low: float, high: float, name: str) -> float:
    """`value`, or the end that it lies beyond. Raises ValueError for what is no number."""
    try:
        number = float(value)  # type: ignore[arg-type]
    except (TypeError, ValueError, OverflowError):
        number = math.nan
    if math.isnan(number):
        raise ValueError(f"{name} must be a number from {low} to {high}")
    return min(max(number, low), high)


def inside(value: object, low: float, high: float, name: str) -> float:
    """`value` where it lies from `low` to `high`: a hand that goes too far is held at the end, but an address must say what is meant.
    Raises ValueError for all else."""
    number = _within(value, low, high, name)
    if number != float(value):  # type: ignore[arg-type]
        raise ValueError(f"{name} must be a number from {low} to {high}")
    return number


def adapter_of(lab: Lab, task: str, key: object, base: bool = False) -> str:
    """`key`, which may be anything, where `task` has an adapter of that key, or, if ``base``, where it means none. Raises ValueError."""
    keys = [k for _, k in lab.adapters(task)] + [BASE] * base
    if key not in keys:
        if str(key).startswith(OWN):
            raise ValueError(NO_LONGER)
        raise ValueError(f"the task has no adapter {key!r:.40}; it has {', '.join(keys)}")
    return str(key)


def prompt_of(lab: Lab, task: str, key: object) -> str:
    """`key`, which may be anything, where `task` has a soft prompt of that key. Raises ValueError."""
    keys = [k for _, k in lab.prompt_menu(task)]
    if key not in keys:
        raise ValueError(
            f"the task has no soft prompt {key!r:.40}; it has {', '.join(keys) or 'none'}"
        )
    return str(key)


def shares_of(values: Any, length: int) -> tuple[int, ...] | None:
    """A program's list of percents for each of a prompt's `length` vectors, as `stretched` gives it. Raises ValueError."""
    if not isinstance(values, list) or len(values) != length:
        raise ValueError(
            f"percents must be a list of {length} numbers from 0 to {MOST_PERCENT}, one for each vector of the prompt"
        )
    return stretched(values, length)


def switched_on(
    given: object, have: Sequence[Any], name: str, others: bool = False, whose: str = "adapter"
) -> tuple[Any, ...] | None:
    """Which of `have` a group of switches keeps, in the order of `have`; None for all of them. ``whose``: what has them.

    `others`: the switches may still be those of another adapter, so what this one lacks is left out.
    Raises ValueError for what is no list, and for a switch that is not there.
    """
    if not isinstance(given, list | tuple):
        raise ValueError(
            f"{name} must come as a list of those to keep, out of {', '.join(map(str, have))}"
        )
    if not others and (unknown := [g for g in given if g not in have]):
        raise ValueError(
            f"the {whose} has no {name} {unknown[0]!r:.40}; it has {', '.join(map(str, have))}"
        )
    on = tuple(h for h in have if h in given)
    return None if len(on) == len(have) else on


def noise(value: object) -> float:
    """What came from the choice of σ. Raises ValueError for what is not on it."""
    if value not in SIGMAS:
        raise ValueError(f"σ must be one of {', '.join(f'{s:g}' for s in SIGMAS)}")
    return SIGMAS[SIGMAS.index(value)]
