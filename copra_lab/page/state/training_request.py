"""What a visitor can have trained, as a value: checked, and bounded, so that nobody waits for it long."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from copra_lab.methods.lora import LoRA
from copra_lab.models.sites import KINDS
from copra_lab.page.state.lab import Lab
from copra_lab.training.dropping import PLAIN, CopRA, Dropping
from copra_lab.training.settings import DEFAULTS, RATES

DROPPING: dict[str, Dropping] = {"lora": PLAIN, "copra": CopRA()}

BOTH = "both"
SITES = {"q, k, v": ("q", "k", "v"), "all six": KINDS}
BATCHES, SHOTS = (4, 8, 16), (1, 2, 4, 8, 16)
MOST_RANK, STEPS, MOST_SEED = 8, (50, 1200), 999
TUNED = "tuned"
LEARNING_RATES = {
    TUNED: None,
    "0.0005": 5e-4,
    "0.001": 1e-3,
    "0.002": 2e-3,
    "0.004": 4e-3,
    "0.008": 8e-3,
    "0.016": 1.6e-2,
}


@dataclass(frozen=True)
class Order:
    """What a visitor wants trained. ``lr`` None: each method at the rate that was tuned for it."""

    task: str
    methods: tuple[str, ...] = tuple(DROPPING)
    rank: int = 4
    lr: float | None = None
    steps: int = 300
    batch: int = DEFAULTS[LoRA]["batch"]
    sites: tuple[str, ...] = SITES["q, k, v"]
    shots: int = 16
    seed: int = 0

    @property
    def work(self) -> int:
        """Training images to be looked at, each as often as it is."""
        return self.steps * self.batch * len(self.methods)

    def rate(self, method: str) -> float:
        return self.lr or RATES[method]


def _whole(value: object, low: int, high: int, name: str) -> int:
    if (
        isinstance(value, bool)
        or not isinstance(value, int | float)
        or not low <= value <= high
        or value != int(value)
    ):
        raise ValueError(f"{name} must be a whole number from {low} to {high}")
    return int(value)


def _one_of(value: Any, offered: Sequence[Any], name: str) -> Any:
    if isinstance(value, bool) or value not in offered:
        raise ValueError(f"{name} must be one of {', '.join(map(str, offered))}")
    return offered[offered.index(value)]


CHECKS: dict[str, Callable[[Any], Any]] = {
    "method": lambda v: (
        tuple(DROPPING) if _one_of(v, (BOTH, *DROPPING), "the method") == BOTH else (v,)
    ),
    "rank": lambda v: _whole(v, 1, MOST_RANK, "the rank"),
    "lr": lambda v: LEARNING_RATES[_one_of(v, tuple(LEARNING_RATES), "the learning rate")],
    "steps": lambda v: _whole(v, *STEPS, "the number of steps"),
    "batch": lambda v: _one_of(v, BATCHES, "the batch size"),
    "sites": lambda v: SITES[_one_of(v, tuple(SITES), "the choice of matrices")],
    "shots": lambda v: _one_of(v, SHOTS, "the number of shots"),
    "seed": lambda v: _whole(v, 0, MOST_SEED, "the seed"),
}
"""What each control of the view says → the field of `Order`, in their order. Each raises ValueError, one sentence, for what is not offered."""


def ordered(lab: Lab, task: Any, *settings: Any) -> Order:
    """What came from the controls, in the order of `CHECKS`, as an order. Raises ValueError, one sentence, for what is not offered."""
    lab.check(task)
    return Order(
        task, *(check(value) for check, value in zip(CHECKS.values(), settings, strict=True))
    )


def settings(order: Order) -> dict[str, Any]:
    """What the controls say for an order, by the names of `CHECKS`."""
    method = BOTH if len(order.methods) > 1 else order.methods[0]
    lr, sites = (
        next(k for k, v in offered.items() if v == value)
        for offered, value in ((LEARNING_RATES, order.lr), (SITES, order.sites))
    )
    return {
        "method": method,
        "rank": order.rank,
        "lr": lr,
        "steps": order.steps,
        "batch": order.batch,
        "sites": sites,
        "shots": order.shots,
        "seed": order.seed,
    }
