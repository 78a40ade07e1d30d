"""The state of the Train view: what a visitor can have trained.

It is bounded, so that nobody waits for it long.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from typing_extensions import override

from copra_lab.methods.lora import LoRA
from copra_lab.models.sites import KINDS
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.fields import TaskName
from copra_lab.page.state.schemas.reading import Field, Known, Reading, Source, read, schema
from copra_lab.training.dropping import PLAIN, CopRA, Dropping
from copra_lab.training.settings import DEFAULTS, RATES

DROPPING: dict[str, Dropping] = {"lora": PLAIN, "copra": CopRA()}

BOTH = "both"
METHODS = {BOTH: tuple(DROPPING), **{name: (name,) for name in DROPPING}}
SITES = {"q, k, v": ("q", "k", "v"), "all six": KINDS}
BATCHES, SHOTS = (4, 8, 16), (1, 2, 4, 8, 16)
MOST_RANK, STEPS, MOST_SEED = 8, (50, 1200), 999
TUNED = "tuned"
_RATES = ("0.0005", "0.001", "0.002", "0.004", "0.008", "0.016")
LEARNING_RATES = {TUNED: None} | {text: float(text) for text in _RATES}


@dataclass(frozen=True)
class Setting(Field):
    """A setting of a training, called `name` in sentences.

    `control` is its default, as the control says it.
    """

    name: str = ""
    control: Any = None

    @override
    def default(self, reading: Reading, known: Known) -> Any:
        return self.chosen(self.control)

    @override
    def read(self, value: Any, reading: Reading, known: Known) -> Any:
        if reading.is_address and value.isdecimal() and len(value) < 10:
            value = int(value)
        return self.chosen(value)

    def chosen(self, value: Any) -> Any:
        """The setting that a control's value stands for. Raises ValueError."""
        raise NotImplementedError

    def shown(self, value: Any) -> Any:
        """What the control says for a setting."""
        return value

    @override
    def text(self, value: Any, state: Any, lab: Lab) -> str:
        return str(self.shown(value))


@dataclass(frozen=True)
class Whole(Setting):
    """A whole number from `low` to `high`."""

    low: int = 0
    high: int = 1

    @override
    def chosen(self, value: Any) -> int:
        if (
            isinstance(value, bool)
            or not isinstance(value, int | float)
            or not self.low <= value <= self.high
            or value != int(value)
        ):
            raise ValueError(f"{self.name} must be a whole number from {self.low} to {self.high}")
        return int(value)


@dataclass(frozen=True)
class Choice(Setting):
    """One of what is `offered`: what the control says → the setting."""

    offered: Mapping[Any, Any] = field(default_factory=dict, hash=False)

    @override
    def chosen(self, value: Any) -> Any:
        if isinstance(value, bool) or value not in tuple(self.offered):  # what has no hash, too
            raise ValueError(f"{self.name} must be one of {', '.join(map(str, self.offered))}")
        return self.offered[value]

    @override
    def shown(self, value: Any) -> Any:
        return next(choice for choice, offered in self.offered.items() if offered == value)


def _numbers(numbers: tuple[int, ...]) -> dict[int, int]:
    return {n: n for n in numbers}


@dataclass(frozen=True)
class TrainState:
    """What a visitor wants trained. ``lr`` None: each method at the rate that was tuned for it."""

    view: ClassVar = "train"

    task: Annotated[str, TaskName()]
    methods: Annotated[tuple[str, ...], Choice("method", "the method", BOTH, METHODS)] = METHODS[
        BOTH
    ]
    rank: Annotated[int, Whole("rank", "the rank", 4, 1, MOST_RANK)] = 4
    lr: Annotated[float | None, Choice("lr", "the learning rate", TUNED, LEARNING_RATES)] = None
    steps: Annotated[int, Whole("steps", "the number of steps", 300, *STEPS)] = 300
    batch: Annotated[
        int, Choice("batch", "the batch size", DEFAULTS[LoRA]["batch"], _numbers(BATCHES))
    ] = DEFAULTS[LoRA]["batch"]
    sites: Annotated[
        tuple[str, ...], Choice("sites", "the choice of matrices", "q, k, v", SITES)
    ] = SITES["q, k, v"]
    shots: Annotated[int, Choice("shots", "the number of shots", 16, _numbers(SHOTS))] = 16
    seed: Annotated[int, Whole("seed", "the seed", 0, 0, MOST_SEED)] = 0

    @classmethod
    def from_controls(cls, lab: Lab, task: Any, *settings: Any) -> "TrainState":
        """What the controls say, the settings in the order of `SETTINGS`.

        Raises ValueError for what is not offered.
        """
        values = {"task": task} | dict(zip(SETTINGS, settings, strict=True))
        return read(cls, Reading(lab, Source.CONTROLS), values)

    @property
    def work(self) -> int:
        """Training images to be looked at, each as often as it is."""
        return self.steps * self.batch * len(self.methods)

    def rate(self, method: str) -> float:
        """The learning rate of a method."""
        return self.lr or RATES[method]

    def controls(self) -> dict[str, Any]:
        """What the controls say for this state, by their names in an address."""
        return {
            f.address: f.shown(getattr(self, name))
            for name, f in schema(TrainState).items()
            if isinstance(f, Setting)
        }


SETTINGS = tuple(name for name, f in schema(TrainState).items() if isinstance(f, Setting))
"""The names of the settings, in the order of the view's controls."""
