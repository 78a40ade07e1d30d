"""What every training has: batches, a learning rate that falls, and a checkpoint."""

import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.models.clip import Clip
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.settings import SCHEDULES, CompleteSettings
from copra_lab.utils.devices import Process
from copra_lab.utils.files import write_atomically
from copra_lab.utils.rng import generator


class Training(ABC):
    """Parameters and their optimiser, whose learning rate follows a schedule.

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
        self.clip, self.task, self.settings, self.process = clip, task, settings, process
        self.parameters, self.optimiser = parameters, optimiser

    @abstractmethod
    def start_from(self, learned: Adapter | SoftPrompt, /) -> None:
        """Begin with these numbers.

        Raises:
            ValueError: For an adapter or prompt that does not match the settings.
        """

    @abstractmethod
    def step(self, step: int) -> float | None:
        """Learn from one batch, in step number `step`, counted from 0.

        Returns:
            The loss; None where nothing was switched on.
        """

    @abstractmethod
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1."""

    @abstractmethod
    def recipe(self) -> dict[str, Any]:
        """What the provenance says of the method."""

    @abstractmethod
    def result(self, recipe: dict[str, Any]) -> Adapter | SoftPrompt:
        """What is learned by now, a copy, with `recipe` as its provenance."""

    @property
    def on(self) -> dict[str, bool]:
        """Which units were on in the last step; empty where nothing is dropped."""
        return {}

    @property
    def norms(self) -> tuple[float, ...]:
        """The L2 norm of each vector; empty where there are no vectors."""
        return ()

    def rows(self, g: torch.Generator) -> Tensor:
        """The indices of a batch of training images, (batch,).

        Every image comes once before any comes twice, also where a batch is larger than the task.
        """
        n, batch = len(self.task.train), self.settings.batch
        return torch.cat([torch.randperm(n, generator=g) for _ in range(-(-batch // n))])[:batch]

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

    def save(self, path: Path, identity: str, step: int) -> None:
        """Write a checkpoint after so many steps; `identity` names the run."""
        tensors = {f"p{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"o{i}.{k}": v for k, v in state.items()}
        about = json.dumps({"identity": identity, "step": step})
        write_atomically(path, to_bytes(tensors, {"fit": about}))

    def resume(self, path: Path, identity: str) -> int:
        """Continue from the checkpoint at `path`, if there is one.

        Returns:
            The number of steps that are done.

        Raises:
            ValueError: For a checkpoint that is damaged or of another run.
        """
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as f:
                about = json.loads((f.metadata() or {})["fit"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError) as e:
            raise ValueError(f"{path} is not a checkpoint of fit ({e}); remove it") from e
        if about["identity"] != identity:
            raise ValueError(f"{path} is of a run with other settings; choose another file")
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                p.copy_(tensors[f"p{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key[0] == "o":
                i, name = key[1:].split(".")
                state.setdefault(int(i), {})[name] = value
        groups = self.optimiser.state_dict()["param_groups"]
        self.optimiser.load_state_dict({"state": state, "param_groups": groups})
        return int(about["step"])


def as_json(settings: Any) -> dict[str, Any]:
    """The fields of a dataclass as JSON holds them: tuples become lists."""
    return {k: list(v) if isinstance(v, tuple) else v for k, v in asdict(settings).items()}


def augmented_copies(clip: Clip, task: Task, views: int, seed: int) -> Iterator[Tensor]:
    """Augmented copies of the training images one by one, normalised pixels (n, 3, side, side)."""
    pixels = clip.pixels(task.train.images)
    return (task.augment(pixels, generator(seed, v, "view")) for v in range(views))
