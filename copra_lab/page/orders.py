"""What a visitor can have trained, as a value: checked, and bounded, so that nobody waits for it long."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from copra_lab.copra import PLAIN, CopRA, Dropping
from copra_lab.page.lab import Lab
from copra_lab.sites import KINDS
from copra_lab.sweep import RATES, TRAINING

DROPPING: dict[str, Dropping] = {"lora": PLAIN, "copra": CopRA()}

BOTH = "both"
SITES = {"q, k, v": ("q", "k", "v"), "all six": KINDS}
BATCHES, SHOTS = (4, 8, 16), (1, 2, 4, 8, 16)
MOST_RANK, STEPS, MOST_SEED = 8, (50, 1200), 999
TUNED = "tuned"
LEARNING_RATES = {TUNED: None, "0.0005": 5e-4, "0.001": 1e-3, "0.002": 2e-3, "0.004": 4e-3, "0.008": 8e-3, "0.016": 1.6e-2}


@dataclass(frozen=True)
class Order:
    """What a visitor wants trained. ``lr`` None: each method at the rate that was tuned for it."""

    task: str
    methods: tuple[str, ...] = tuple(DROPPING)
    rank: int = 4
    lr: float | None = None
    steps: int = 300
    batch: int = TRAINING["batch"]
    sites: tuple[str, ...] = SITES["q, k, v"]
    shots: int = 16
    seed: int = 0

    @property
    def work(self) -> int:
        """Training images to be looked at, each as often as it is."""
        return self.steps * self.batch * len(self.methods)

    def rate(self, method: str) -> float:
        return self.lr or RATES[method]


def ordered(lab: Lab, task: Any, method: Any, rank: Any, lr: Any, steps: Any, batch: Any, sites: Any, shots: Any, seed: Any) -> Order:
    """What came from the controls as an order. Raises ValueError, one sentence, for what is not offered."""
    lab.check(task)
    return Order(
        task,
        tuple(DROPPING) if _one_of(method, (BOTH, *DROPPING), "the method") == BOTH else (method,),
        _whole(rank, 1, MOST_RANK, "the rank"),
        LEARNING_RATES[_one_of(lr, tuple(LEARNING_RATES), "the learning rate")],
        _whole(steps, *STEPS, "the number of steps"),
        _one_of(batch, BATCHES, "the batch size"),
        SITES[_one_of(sites, tuple(SITES), "the choice of matrices")],
        _one_of(shots, SHOTS, "the number of shots"),
        _whole(seed, 0, MOST_SEED, "the seed"),
    )


def _whole(value: object, low: int, high: int, name: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int | float) or not low <= value <= high or value != int(value):
        raise ValueError(f"{name} must be a whole number from {low} to {high}")
    return int(value)


def _one_of(value: Any, offered: Sequence[Any], name: str) -> Any:
    if isinstance(value, bool) or value not in offered:
        raise ValueError(f"{name} must be one of {', '.join(map(str, offered))}")
    return offered[offered.index(value)]
