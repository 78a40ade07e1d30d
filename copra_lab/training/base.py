"""What every training has: batches, a learning rate that falls, and a checkpoint."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.lora import LoRA
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
    """A run by itself: parameters and their optimiser, whose learning rate follows a schedule.

    A subclass says what is learned, and how one step goes.

    Args:
        clip: The model that is adapted.
        task: What it is trained on.
        settings: The settings, complete.
        process: The device, and which of several processes this is.
        parameters: What the optimiser moves.
        optimiser: The optimiser, at its full learning rate.
    """

    def __init__(
        self,
        clip: Clip,
        task: Task,
        settings: CompleteSettings,
        process: Process,
        parameters: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
    ) -> None:
        super().__init__(1, process)
        self.clip, self.task, self.settings = clip, task, settings
        self.parameters, self.optimiser = parameters, optimiser

    def rows(self, g: torch.Generator) -> Tensor:
        """The indices of a batch of training images, (batch,)."""
        return batch_rows(len(self.task.train), self.settings.batch, g)

    def set_rate(self, step: int) -> None:
        """Let the learning rate follow its schedule."""
        left = SCHEDULES[self.settings.schedule](step / self.settings.steps)
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.lr * left

    def learn(self, loss: Tensor, images: int) -> float:
        """One update from this process's mean loss over so many images of the batch.

        Returns:
            The loss of the whole batch.
        """
        loss = self.process.weighted(loss, images, self.settings.batch)
        # None, not zeros: AdamW leaves alone what was off
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        mean = loss.detach()
        self.process.average([mean, *(p.grad for p in self.parameters if p.grad is not None)])
        self.optimiser.step()
        return mean.item()

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


def lora_recipe(lora: LoRA, dropping: Dropping, precision: str) -> dict[str, Any]:
    """What the provenance says of an adapter's settings and what was dropped."""
    return {
        "method": name_of(lora, dropping=dropping),
        "precision": precision,
        "lora": as_json(lora),
        "dropping": as_json(dropping),
    }


def as_json(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def augmented_copies(clip: Clip, task: Task, views: int, seed: int) -> Iterator[Tensor]:
    """Augmented copies of the training images one by one, normalised pixels (n, 3, side, side)."""
    pixels = clip.pixels(task.train.images)
    return (task.augment(pixels, generator(seed, v, "view")) for v in range(views))
