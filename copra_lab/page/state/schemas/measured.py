"""What is measured of a state: a model, on the images of a task."""

from collections.abc import Hashable
from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

from copra_lab.adapters.adapter import NONE, Adapter
from copra_lab.bench.bench import Bench
from copra_lab.page.state.lab import Lab
from copra_lab.prompts.soft_prompt import SoftPrompt


@dataclass(frozen=True)
class Model:
    """What is put on the CLIP."""

    adapter: Adapter = NONE
    prompt: SoftPrompt | None = None

    def predictions(self, bench: Bench, start: int = 0, stop: int | None = None) -> Tensor:
        """Classes of the images `start` to `stop` in the bench's order."""
        return bench.logits(self.adapter, start, stop, self.prompt).argmax(-1)


class Measured(Protocol):
    """A state with a model.

    Equal states are the same model, so that what was measured is found again.
    """

    @property
    def task(self) -> str:
        """The name of the task whose images it is measured on."""

    @property
    def position(self) -> float:
        """Where the slider is."""

    @property
    def line(self) -> Hashable:
        """The same for all states that the slider leads to: they make one curve."""

    @property
    def subject(self) -> Hashable:
        """The same for all states that belong into one table, and that are cleared together."""

    @property
    def references(self) -> "tuple[Measured, ...]":
        """What the number here is compared with: measured before it, on all images."""

    def model(self, lab: Lab) -> Model:
        """Raises AdapterError or PromptError if a file is broken or does not fit."""


class WithoutSlider:
    """A state that no slider moves: it makes no curve."""

    position = 0.0

    @property
    def line(self) -> Hashable:
        """Itself."""
        return self


@dataclass(frozen=True)
class Base(WithoutSlider):
    """No adapter at all."""

    task: str
    references = ()
    subject = WithoutSlider.line

    def model(self, lab: Lab) -> Model:
        """The CLIP as it is."""
        return Model()
