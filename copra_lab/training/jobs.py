"""A training as a value, and what is known of it while it runs."""

import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.lora import LoRA
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.settings import CompleteSettings, TrainingSettings
from copra_lab.utils.devices import Process

__all__ = ["Execution", "Job", "Step"]


@dataclass(frozen=True)
class Step:
    """What is known after a step of a training.

    Args:
        step: Its number, from 1.
        steps: How many there are.
        loss: Of the batch; None where nothing was switched on, so that nothing was learned.
            No finite number where the run diverged.
        units: Which units were on, see `copra_lab.training.dropping.group`; empty for a prompt.
        validation: Accuracy on the validation images (0…1), where it was measured.
        norms: Of a soft prompt, the L2 norm of each vector.
        learned: Call it for the adapter or prompt as it is now, a copy; before the next step.
            None where the run diverged.
        run: The number of the run among those of `fit_many`.
        error: Of those, why the run diverged; this step was its last.
    """

    step: int
    steps: int
    loss: float | None
    units: dict[str, bool]
    validation: float | None = None
    norms: tuple[float, ...] = ()
    learned: Callable[[], Adapter | SoftPrompt] | None = field(
        default=None, repr=False, compare=False
    )
    run: int = 0
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Execution:
    """How a training runs; its result does not depend on it.

    Args:
        device: ``"cpu"``, ``"auto"`` (a GPU if there is one), or torch's name of one. Only float32
            on the processor is exact to the byte.
        validate_every: Measure the validation accuracy every so many steps; 0 never.
        checkpoint: A file to continue from after an interruption, removed at the end. A resumed
            training ends with the same numbers as an unbroken one.
        checkpoint_every: Write the checkpoint every so many steps.
        keep_checkpoint: Leave a checkpoint of the end, for a caller who has more to do and then
            removes it. The same call then gives the same again, without training.

    Raises:
        ValueError: For an interval that makes no sense.
    """

    device: str = "cpu"
    validate_every: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int = 50
    keep_checkpoint: bool = False

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1 or self.validate_every < 0:
            raise ValueError(
                "checkpoint_every must be at least 1 and validate_every 0 or more, got "
                f"{self.checkpoint_every} and {self.validate_every}"
            )


@dataclass(frozen=True)
class Job:
    """One training: what `fit` takes, but for how it runs.

    Args:
        task: The images and class names.
        method: `LoRA` or another method of an adapter; `CoOp` or `VPT` for a soft prompt.
        dropping: Of an adapter, what is dropped; nothing by default.
        settings: The settings of the training; the defaults of the method without.
        penalty: Of a soft prompt, what the norms of its vectors cost.
        adapter: For a soft prompt, an adapter that the CLIP has while the prompt is learned.
        start_from: The adapter or prompt to begin with, of the same sites and shapes.

    Raises:
        ValueError: For settings that make no sense, or a task without training images.
    """

    task: Task
    method: AdapterMethod | CoOp | VPT = LoRA()  # noqa: RUF009 (frozen)
    dropping: Dropping = PLAIN
    settings: TrainingSettings | None = None
    penalty: Nemesis | None = None
    adapter: Adapter | None = None
    start_from: Adapter | SoftPrompt | None = None

    @classmethod
    def of(
        cls,
        task: Task,
        method: AdapterMethod | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
        dropping: Dropping = PLAIN,
        *,
        penalty: Nemesis | None = None,
        adapter: Adapter | None = None,
        start_from: Adapter | SoftPrompt | None = None,
        **settings: Any,
    ) -> "Job":
        """A job with its settings by name, as `fit` takes them: ``Job.of(task, seed=1, lr=4e-3)``.

        Raises:
            ValueError: As `Job` does.
            TypeError: For a name that is no field of `TrainingSettings`.
        """
        chosen = TrainingSettings(**settings)
        return cls(task, method, dropping, chosen, penalty, adapter, start_from)

    def __post_init__(self) -> None:
        complete = (self.settings or TrainingSettings()).resolve(self.method, self.dropping)
        object.__setattr__(self, "settings", complete)
        if not len(self.task.train):
            raise ValueError(
                f"{self.task.name} has no training images; choose a task that has some"
            )
        if isinstance(self.method, AdapterMethod):
            if self.penalty or self.adapter:
                raise ValueError("penalty and adapter are for soft prompts; for LoRA, set dropping")
        elif self.dropping != PLAIN or complete.precision != "float32":
            raise ValueError("dropping and precision are for LoRA; set penalty for a soft prompt")

    @property
    def complete(self) -> CompleteSettings:
        """The settings, in which nothing is left open."""
        assert isinstance(self.settings, CompleteSettings)
        return self.settings

    @property
    def classes(self) -> tuple[str, ...]:
        """The class names of its task."""
        return self.task.classes

    def check(self, execution: Execution, process: Process) -> None:
        """Check that it can run so.

        Raises:
            ValueError: For a batch that is smaller than the number of processes, or a task
                without the validation images that are asked for.
        """
        if execution.validate_every and not len(self.task.val):
            raise ValueError(f"{self.task.name} has no validation images; leave out validate_every")
        if self.complete.batch < process.world_size:
            raise ValueError(
                f"a batch of {self.complete.batch} is too small for {process.world_size} processes"
            )

    def recipe(self, clip: Clip) -> dict[str, Any]:
        """What provenance says of any training; the order of keys is that of the saved files."""
        task, settings = self.task, self.complete
        about = {
            "clip": clip.name,
            "task": task.name,
            "classes": len(task.classes),
            "shots": task.shots,
            "task seed": task.seed,
            "seed": settings.seed,
            "steps": settings.steps,
            "lr": settings.lr,
            "batch": settings.batch,
            "weight decay": settings.weight_decay,
            "schedule": settings.schedule,
            "views": settings.views,
        }
        return about | ({"task options": dict(task.options)} if task.options else {})

    def identity(self, clip: Clip, recipe: dict[str, Any]) -> str:
        """Names the run: a checkpoint of another one must not be continued."""
        h = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8)
        h.update(clip.hash.encode())
        h.update(self.task.train.images.numpy().tobytes())
        return h.hexdigest()
