"""Fine-tune a CLIP on a task: with LoRA, which gives an `Adapter`, or a soft prompt.

`fit` runs a training to its end; `fit_steps` hands out one step at a time.
"""

import hashlib
import json
import math
from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, overload

from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.lora import LoRA
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.base import Training
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.lora import LoRATraining
from copra_lab.training.prompt import PromptTraining
from copra_lab.training.settings import CompleteSettings, TrainingSettings
from copra_lab.utils.checks import spelling_hint
from copra_lab.utils.devices import Process, this_process

__all__ = ["Execution", "Step", "fit", "fit_steps"]


@dataclass(frozen=True)
class Step:
    """What is known after a step of a training.

    Args:
        step: Its number, from 1.
        steps: How many there are.
        loss: Of the batch; None where nothing was switched on, so that nothing was learned.
        units: Which units were on, see `copra_lab.training.dropping.group`; empty for a prompt.
        validation: Accuracy on the validation images (0…1), where it was measured.
        norms: Of a soft prompt, the L2 norm of each vector.
        learned: Call it for the adapter or prompt as it is now, a copy; before the next step.
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

    Raises:
        ValueError: For an interval that makes no sense.
    """

    device: str = "cpu"
    validate_every: int = 0
    checkpoint: str | Path | None = None
    checkpoint_every: int = 50

    def __post_init__(self) -> None:
        if self.checkpoint_every < 1 or self.validate_every < 0:
            raise ValueError(
                "checkpoint_every must be at least 1 and validate_every 0 or more, got "
                f"{self.checkpoint_every} and {self.validate_every}"
            )


@overload
def fit(
    clip: Clip, task: Task, method: LoRA = ..., dropping: Dropping = ..., **options: Any
) -> Adapter: ...
@overload
def fit(clip: Clip, task: Task, method: CoOp | VPT, **options: Any) -> SoftPrompt: ...
def fit(
    clip: Clip,
    task: Task,
    method: LoRA | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
    dropping: Dropping = PLAIN,
    settings: TrainingSettings | None = None,
    *,
    progress: bool = True,
    on_step: Callable[[Step], None] | None = None,
    **options: Any,
) -> Adapter | SoftPrompt:
    """Fine-tune `clip` on the training images of `task`; `clip` itself is not changed.

    Cross-entropy over the class prompts. LoRA: AdamW (β .9, .999) on augmented batches; a quick
    look at it needs half of the time (``steps=300, batch=16, lr=4e-3, schedule="cosine"``);
    CopRA, whose layers train in five of eight steps, needs it all. Prompts: SGD (momentum .9), the
    images' features computed once. The same arguments on the same machine and number of threads
    give the same bytes. Several trainings may run in threads of one process: steps of LoRA then
    take turns. Under ``accelerate launch`` all processes share each of LoRA's batches, draw the
    same layers, and end with the same adapter, that of one process up to rounding.

    Args:
        clip: The model.
        task: The images and class names.
        method: `LoRA`, or `CoOp` or `VPT` for a soft prompt.
        dropping: Of LoRA, `CopRA` or one of its baselines; nothing is dropped by default.
        settings: The settings of the training; the defaults of the method without.
        progress: Show a progress bar.
        on_step: Called after each step.
        **options: The fields of `TrainingSettings` and `Execution`, such as ``steps=300`` or
            ``device="auto"``, and what else `fit_steps` takes: ``penalty``, ``adapter`` and
            ``start_from``.

    Returns:
        What was learned. Its provenance holds every setting, and the accuracy on the validation
        images if there are some.

    Raises:
        ValueError: For settings that make no sense, for a task without training images, for a
            checkpoint that is damaged or of another run, and if the training diverges.
        TypeError: For an unknown option.
    """
    steps = fit_steps(clip, task, method, dropping, settings, **options)
    name = f"{name_of(method, options.get('penalty'), dropping)} {task.name}"
    quiet = not (progress and this_process(options.get("device", "cpu")).first)
    with closing(steps), tqdm(desc=name, disable=quiet, leave=False) as bar:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                return end.value
            if bar.total is None:
                bar.total, bar.initial, bar.n = step.steps, step.step - 1, step.step - 1
            bar.update()
            if on_step:
                on_step(step)


def fit_steps(
    clip: Clip,
    task: Task,
    method: LoRA | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
    dropping: Dropping = PLAIN,
    settings: TrainingSettings | None = None,
    *,
    penalty: Nemesis | None = None,
    adapter: Adapter | None = None,
    start_from: Adapter | SoftPrompt | None = None,
    **options: Any,
) -> Generator[Step, None, Adapter | SoftPrompt]:
    """The steps of `fit`, one at a time.

    For example::

        steps = fit_steps(clip, task, LoRA(), CopRA())
        for step in steps:
            print(step.step, step.loss)

    Nothing is held between two steps, so that several trainings may go on in turn in one thread.
    Closing the generator ends the training; a checkpoint stays where it is.

    Args:
        clip: The model.
        task: The images and class names.
        method: `LoRA`, or `CoOp` or `VPT` for a soft prompt.
        dropping: Of LoRA, what is dropped.
        settings: The settings of the training.
        penalty: Of a soft prompt, what the norms of its vectors cost.
        adapter: For a soft prompt, an adapter that the CLIP has while the prompt is learned.
        start_from: The adapter or prompt to begin with, of the same sites and shapes.
        **options: The fields of `TrainingSettings` and `Execution`.

    Yields:
        Each step, when it is done.

    Returns:
        What was learned, as the generator's value (``result = yield from fit_steps(…)``).

    Raises:
        ValueError: As `fit` does; for settings before the first step is asked for.
        TypeError: For an unknown option.
    """
    complete, execution = _split(method, dropping, settings, options)
    process = this_process(execution.device)
    clip = clip.on(process.device)
    _check(task, complete, execution, process)
    training: Training
    if isinstance(method, LoRA):
        if penalty or adapter:
            raise ValueError("penalty and adapter are for soft prompts; for LoRA, set dropping")
        training = LoRATraining(clip, task, method, dropping, complete, process)
    else:
        if dropping != PLAIN or complete.precision != "float32":
            raise ValueError("dropping and precision are for LoRA; set penalty for a soft prompt")
        training = PromptTraining(clip, task, method, penalty, adapter, complete, process)
    recipe = _recipe(clip, task, complete) | training.recipe()
    if start_from:
        training.start_from(start_from)
        recipe["start from"] = start_from.hash
    return _steps(training, recipe, execution)


def _steps(
    training: Training, recipe: dict[str, Any], execution: Execution
) -> Generator[Step, None, Adapter | SoftPrompt]:
    task, steps = training.task, training.settings.steps
    path = Path(execution.checkpoint) if execution.checkpoint else None
    writes = training.process.first
    identity = _identity(training.clip, task, recipe)
    every = execution.validate_every
    for done in range(1 + (training.resume(path, identity) if path else 0), steps + 1):
        loss = training.step(done - 1)
        if loss is not None and not math.isfinite(loss):
            raise ValueError(
                f"the loss became {loss} at step {done}; lower the learning rate "
                f"(now {training.settings.lr:g})"
            )
        if path and writes and done % execution.checkpoint_every == 0 and done < steps:
            training.save(path, identity, done)
        measured = every and (done % every == 0 or done == steps)
        accuracy = training.validate() if measured else None
        learned = partial(training.result, {**recipe, "steps done": done})
        yield Step(done, steps, loss, training.on, accuracy, training.norms, learned)
    if len(task.val):
        recipe["validation accuracy"] = round(training.validate(), 4)
    result = training.result(recipe)
    if path and writes:
        path.unlink(missing_ok=True)
    return result


def _split(
    method: LoRA | CoOp | VPT,
    dropping: Dropping,
    settings: TrainingSettings | None,
    options: dict[str, Any],
) -> tuple[CompleteSettings, Execution]:
    """The settings with the options that belong to them, and the execution with its own."""
    of_settings, of_execution = ({f.name for f in fields(k)} for k in (TrainingSettings, Execution))
    known = of_settings | of_execution
    for name in options:
        if name not in known:
            raise TypeError(f"fit() has no option {name!r}{spelling_hint(name, sorted(known))}")
    changes = {k: v for k, v in options.items() if k in of_settings and v is not None}
    complete = replace(settings or TrainingSettings(), **changes).resolve(method, dropping)
    return complete, Execution(**{k: v for k, v in options.items() if k in of_execution})


def _check(task: Task, settings: CompleteSettings, execution: Execution, process: Process) -> None:
    if not len(task.train):
        raise ValueError(f"{task.name} has no training images; choose a task that has some")
    if execution.validate_every and not len(task.val):
        raise ValueError(f"{task.name} has no validation images; leave out validate_every")
    if settings.batch < process.world_size:
        raise ValueError(
            f"a batch of {settings.batch} is too small for {process.world_size} processes"
        )


def _recipe(clip: Clip, task: Task, settings: CompleteSettings) -> dict[str, Any]:
    """What provenance says of any training; the order of its keys is that of the saved files."""
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


def _identity(clip: Clip, task: Task, recipe: dict[str, Any]) -> str:
    """Names a run: a checkpoint of another one must not be continued."""
    h = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=8)
    h.update(clip.hash.encode())
    h.update(task.train.images.numpy().tobytes())
    return h.hexdigest()
