"""The settings of a training, and what they are by default."""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Any

from copra_lab.methods.lora import LoRA
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.prompts.soft_prompt import VPT, CoOp
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.utils.checks import one_of

__all__ = ["DEFAULTS", "PROMPT_VIEWS", "RATES", "SCHEDULES", "TrainingSettings"]

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "cooldown": lambda x: min(1.0, 4 * (1 - x)),
}
"""The share of the learning rate that is left when the share x of all steps is done."""

PRECISIONS = ("float32", "bfloat16")

DEFAULTS: dict[type, dict[str, Any]] = {
    LoRA: {"steps": 1200, "lr": 2e-3, "batch": 8, "weight_decay": 1e-2, "schedule": "cooldown"},
    CoOp: {"steps": 200, "lr": 1e-2, "batch": 32, "weight_decay": 5e-4, "schedule": "cosine"},
    VPT: {"steps": 400, "lr": 2e-2, "batch": 16, "weight_decay": 5e-4, "schedule": "cosine"},
}
"""What a training takes where nothing is said, by the class of its method or a parent of it.

Other methods of an adapter take LoRA's, but for what they say in `AdapterMethod.defaults`. LoRA's
are those of everything that ships; its rate depends on what is dropped, see `RATES`. A prompt's
rate suits vectors with a penalty; without one, five times as much is a little better
(``experiments/nemesis.py``)."""

RATES = {"lora": DEFAULTS[LoRA]["lr"], "copra": 4e-3}
"""LoRA's learning rate by the name of its dropping; that of plain LoRA for any other. A method
with a rate of its own has it whatever is dropped.

Of 1e-3, 2e-3, 4e-3 and 8e-3 it is the one that does best alone on validation images
(``experiments/regimes.py``)."""

PROMPT_VIEWS = 4
"""Augmented copies of each image that sweeps and the command line keep for a soft prompt."""


@dataclass(frozen=True, kw_only=True)
class TrainingSettings:
    """What the result of a training depends on, besides its task and method.

    None stands for the default of the method, see `DEFAULTS` and `RATES`.

    Args:
        seed: Of the start, the order of the images, and what is dropped.
        steps: How many updates.
        lr: The learning rate at the start.
        batch: Images a step.
        weight_decay: AdamW's for LoRA, SGD's for a soft prompt.
        schedule: ``"cooldown"`` keeps `lr` for three quarters of the steps and then lets it fall
            to 0 in a straight line; ``"cosine"`` follows half a cosine. CopRA's layers are mostly
            off while a cosine is high; with a cooldown the rate falls when all are on.
        views: How many augmented copies of each image to draw once and keep. With 0, LoRA and VPT
            see new ones in every step, and CoOp the images as they are. Of kept copies, what lies
            below LoRA's lowest active layer is computed once (up to 1 GiB of it is kept).
        precision: ``"float32"``, or ``"bfloat16"`` for the products with frozen weights, which
            needs a plain ViT and LoRA on the image tower alone.
    """

    seed: int = 0
    steps: int | None = None
    lr: float | None = None
    batch: int | None = None
    weight_decay: float | None = None
    schedule: str | None = None
    views: int = 0
    precision: str = "float32"

    def resolve(
        self, method: AdapterMethod | CoOp | VPT, dropping: Dropping = PLAIN
    ) -> "CompleteSettings":
        """The same with the defaults of `method` in place of every None.

        Raises:
            ValueError: For something that is not a method, or settings that make no sense.
        """
        chosen = {f.name: getattr(self, f.name) for f in fields(TrainingSettings)}
        given = {k: v for k, v in chosen.items() if v is not None}
        complete = defaults_of(method, dropping) | given
        for name, kind in (("steps", int), ("lr", float), ("batch", int)):
            complete[name] = kind(complete[name])
        return CompleteSettings(**complete)


@dataclass(frozen=True, kw_only=True)
class CompleteSettings(TrainingSettings):
    """`TrainingSettings` in which nothing is left open.

    Raises:
        ValueError: For settings that make no sense.
    """

    steps: int
    lr: float
    batch: int
    weight_decay: float
    schedule: str

    def __post_init__(self) -> None:
        if (
            not 1 <= self.steps <= 10**9
            or not 1 <= self.batch <= 10**6
            or not 0 < self.lr < math.inf
            or not 0 <= self.views <= 10**4
        ):
            raise ValueError(
                "steps and batch must be at least 1, lr positive, views 0 or more, and none of "
                f"them endless; got steps={self.steps}, batch={self.batch}, lr={self.lr}, "
                f"views={self.views}"
            )
        one_of("schedule", self.schedule, SCHEDULES)
        one_of("precision", self.precision, PRECISIONS)


def defaults_of(method: AdapterMethod | CoOp | VPT, dropping: Dropping = PLAIN) -> dict[str, Any]:
    """Steps, learning rate, batch, weight decay and schedule of a method where nothing is said.

    Raises:
        ValueError: For something that is not a method.
    """
    own = next((DEFAULTS[kind] for kind in type(method).__mro__ if kind in DEFAULTS), None)
    if isinstance(method, AdapterMethod):
        rate = {"lr": RATES[dropping.method]} if dropping.method in RATES else {}
        return (own or DEFAULTS[LoRA]) | rate | dict(method.defaults)
    if own is not None:
        return own
    raise ValueError(
        f"method must be LoRA(), CoOp() or VPT(), got {method!r:.80}; CopRA() goes into dropping="
    )
