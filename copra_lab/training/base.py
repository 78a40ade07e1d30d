"""What every training has: batches, a learning rate that falls, and a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.dropping import Dropping
from copra_lab.training.settings import SCHEDULES, CompleteSettings
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator


class Group(ABC):
    """Runs that advance together, numbered from 0, all with the same number of steps.

    Args:
        runs: How many there are.
        process: The device, and which of several processes this is.

    Attributes:
        alive: The runs that go on; a run whose loss is no number is taken out.
    """

    def __init__(self, runs: int, process: Process) -> None:
        self.alive, self.process = set(range(runs)), process

    @abstractmethod
    def start_from(self, run: int, learned: Adapter | SoftPrompt, /) -> None:
        """Let a run begin with these numbers.

        Raises:
            ValueError: For an adapter or prompt that does not match the settings.
        """

    @abstractmethod
    def step(self, step: int) -> list[float | None]:
        """Step number `step`, counted from 0, of every run that goes on.

        Returns:
            The loss of each run; None where nothing was switched on, or the run is over.
        """

    @abstractmethod
    def validate(self, run: int) -> float:
        """Accuracy on a run's validation images, 0…1."""

    @abstractmethod
    def recipe(self, run: int) -> dict[str, Any]:
        """What the provenance says of a run's method."""

    @abstractmethod
    def result(self, run: int, recipe: dict[str, Any]) -> Adapter | SoftPrompt:
        """What a run has learned by now, a copy, with `recipe` as its provenance."""

    @abstractmethod
    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps."""

    @abstractmethod
    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""

    def on(self, run: int) -> dict[str, bool]:
        """Which units of a run were on in the last step; empty where nothing is dropped."""
        return {}

    def norms(self, run: int) -> tuple[float, ...]:
        """The L2 norm of each vector of a run; empty where there are no vectors."""
        return ()


class Training(Group):
    """Runs that an optimiser of torch moves, each a parameter group with a rate of its own.

    A subclass says what is learned, and how one step goes.

    Args:
        settings: The settings of each run, complete.
        process: The device, and which of several processes this is.
        optimiser: The optimiser; a run's parameters are one of its groups.
    """

    def __init__(
        self,
        settings: Sequence[CompleteSettings],
        process: Process,
        optimiser: torch.optim.Optimizer,
    ) -> None:
        super().__init__(len(settings), process)
        self.settings, self.optimiser = list(settings), optimiser

    def set_rates(self, step: int) -> None:
        """Let the learning rates follow their schedules."""
        for s, group in zip(self.settings, self.optimiser.param_groups, strict=True):
            group["lr"] = s.lr * SCHEDULES[s.schedule](step / s.steps)

    @property
    def parameters(self) -> list[Tensor]:
        """What the optimiser moves."""
        return [p for group in self.optimiser.param_groups for p in group["params"]]

    def state(self) -> dict[str, Tensor]:
        """What a checkpoint keeps: the parameters and the optimiser's state."""
        tensors = {f"p{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"o{i}.{k}": v for k, v in state.items()}
        return tensors

    def load_state(self, tensors: Mapping[str, Tensor]) -> None:
        """Go on from what a checkpoint kept."""
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                p.copy_(tensors[f"p{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key[0] == "o":
                number, name = key[1:].split(".")
                state.setdefault(int(number), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})


def batch_rows(n: int, batch: int, g: torch.Generator) -> Tensor:
    """The indices of a batch out of n images, (batch,).

    Every image comes once before any comes twice, also where a batch is larger than the task.
    """
    return torch.cat([torch.randperm(n, generator=g) for _ in range(-(-batch // n))])[:batch]


def adapter_recipe(method: AdapterMethod, dropping: Dropping, precision: str) -> dict[str, Any]:
    """What the provenance says of an adapter's settings and what was dropped."""
    return {
        "method": name_of(method, dropping=dropping),
        "precision": precision,
        "lora": as_json(method),
        "dropping": as_json(dropping),
    }


def as_json(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def augmented_copies(clip: Clip, task: Task, views: int, seed: int) -> Iterator[Tensor]:
    """Augmented copies of the training images one by one, normalised pixels (n, 3, side, side)."""
    pixels = clip.pixels(task.train.images)
    return (task.augment(pixels, generator(seed, v, "view")) for v in range(views))
