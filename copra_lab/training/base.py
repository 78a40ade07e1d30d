"""What every training has: batches, a rate that falls, and a checkpoint."""

import json
import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save as to_bytes
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.utils.devices import Place
from copra_lab.utils.files import write_atomically

SCHEDULES: dict[str, Callable[[float], float]] = {
    "cosine": lambda x: 0.5 * (1 + math.cos(math.pi * x)),
    "cooldown": lambda x: min(1.0, 4 * (1 - x)),
}
"""What is left of the learning rate when the share x of all steps is done."""


class Training(ABC):
    """Parameters and their optimiser, whose rate follows a schedule over so many steps. ``place`` says where, and which of several
    processes this is. What is learned, and how a step of it goes, a subclass says."""

    def __init__(
        self,
        parameters: Sequence[Tensor],
        optimiser: torch.optim.Optimizer,
        seed: int,
        steps: int,
        schedule: str,
        place: Place,
    ):
        if schedule not in SCHEDULES:
            raise ValueError(f"schedule must be one of {', '.join(SCHEDULES)}, got {schedule!r}")
        self.parameters, self.optimiser, self.seed, self.steps, self.place = (
            parameters,
            optimiser,
            seed,
            steps,
            place,
        )
        self._rates, self._lr = SCHEDULES[schedule], optimiser.param_groups[0]["lr"]

    @abstractmethod
    def start_from(self, learned: Adapter | SoftPrompt, /) -> None:
        """Begin with these numbers. Raises ValueError for what does not match the settings."""

    @abstractmethod
    def step(self, step: int, batch: int) -> float | None:
        """Learn from one batch, in step number `step`, counted from 0: its loss, None where nothing was switched on."""

    @abstractmethod
    def validate(self) -> float:
        """Accuracy on the validation images, 0…1."""

    @abstractmethod
    def result(self, recipe: dict[str, Any]) -> Adapter | SoftPrompt:
        """What is learned by now, a copy, with `recipe` as its provenance."""

    @property
    def on(self) -> dict[str, bool]:
        """Which units were on in the last step; none of what drops nothing."""
        return {}

    @property
    def norms(self) -> tuple[float, ...]:
        """The L2 norm of each vector; none of what has no vectors."""
        return ()

    def rows(self, n: int, batch: int, g: torch.Generator) -> Tensor:
        """A batch of n training images: every image once before any comes twice, also where a batch is larger than n."""
        return torch.cat([torch.randperm(n, generator=g) for _ in range(-(-batch // n))])[:batch]

    def set_rate(self, step: int) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self._lr * self._rates(step / self.steps)

    def learn(self, loss: Tensor, own: int, whole: int) -> float:
        """One update from this process's mean loss over `own` images of a batch of `whole`; the loss of the whole batch."""
        loss = self.place.weighted(loss, own, whole)
        self.optimiser.zero_grad(
            set_to_none=True
        )  # None, not zeros: AdamW shall leave alone what was off
        loss.backward()
        told = loss.detach()
        self.place.average([told, *(p.grad for p in self.parameters if p.grad is not None)])
        self.optimiser.step()
        return told.item()

    def save(self, path: Path, identity: str, step: int) -> None:
        tensors = {f"p{i}": p.detach() for i, p in enumerate(self.parameters)}
        for i, state in self.optimiser.state_dict()["state"].items():
            tensors |= {f"o{i}.{k}": v for k, v in state.items()}
        write_atomically(
            path, to_bytes(tensors, {"fit": json.dumps({"identity": identity, "step": step})})
        )

    def resume(self, path: Path, identity: str) -> int:
        """The number of steps that the checkpoint at `path` has behind it; 0 if there is none. Raises ValueError for one that is
        damaged or of another run."""
        if not path.exists():
            return 0
        try:
            with safe_open(path, "pt") as f:
                about = json.loads((f.metadata() or {})["fit"])
                tensors = {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
        except (SafetensorError, OSError, KeyError, ValueError) as e:
            raise ValueError(
                f"{path} is not a checkpoint of fit ({e}); remove it to start afresh"
            ) from e
        if about["identity"] != identity:
            raise ValueError(
                f"{path} belongs to a run with other settings; remove it or give another file"
            )
        with torch.no_grad():
            for i, p in enumerate(self.parameters):
                p.copy_(tensors[f"p{i}"])
        state: dict[int, dict[str, Tensor]] = {}
        for key, value in tensors.items():
            if key[0] == "o":
                i, name = key[1:].split(".")
                state.setdefault(int(i), {})[name] = value
        self.optimiser.load_state_dict(
            {"state": state, "param_groups": self.optimiser.state_dict()["param_groups"]}
        )
        return int(about["step"])
