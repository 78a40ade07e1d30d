"""Fine-tune a CLIP on a task: with LoRA, which gives an `Adapter`, or a soft prompt.

`fit` runs a training to its end; `fit_steps` hands out one step at a time; `fit_many` trains many
on one base, side by side.
"""

from collections.abc import Callable, Collection, Generator, Sequence
from contextlib import closing
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, overload

from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.methods.lora import LoRA
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.grouping import build, grouped
from copra_lab.training.jobs import Execution, Job, Step
from copra_lab.training.running import Result, run_group
from copra_lab.training.settings import CompleteSettings, TrainingSettings
from copra_lab.utils.checks import spelling_hint, whole_number
from copra_lab.utils.devices import Process, this_process

__all__ = ["Diverged", "Execution", "Job", "Step", "fit", "fit_many", "fit_many_steps", "fit_steps"]


@overload
def fit(
    clip: Clip, task: Task, method: AdapterMethod = ..., dropping: Dropping = ..., **options: Any
) -> Adapter: ...
@overload
def fit(clip: Clip, task: Task, method: CoOp | VPT, **options: Any) -> SoftPrompt: ...
def fit(
    clip: Clip,
    task: Task,
    method: AdapterMethod | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
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
    give the same bytes. Several trainings may run in threads of one process. Under
    ``accelerate launch`` all processes share each of LoRA's batches, draw the same layers, and end
    with the same adapter, that of one process up to rounding.

    Args:
        clip: The model.
        task: The images and class names.
        method: `LoRA` or another method of an adapter; `CoOp` or `VPT` for a soft prompt.
        dropping: Of an adapter, `CopRA` or one of its baselines; nothing is dropped by default.
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
    method: AdapterMethod | CoOp | VPT = LoRA(),  # noqa: B008 (frozen)
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
        method: `LoRA` or another method of an adapter; `CoOp` or `VPT` for a soft prompt.
        dropping: Of an adapter, what is dropped.
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
    job = Job(task, method, dropping, complete, penalty, adapter, start_from)
    process = this_process(execution.device)
    job.check(execution, process)
    clip = clip.on(process.device)
    return _only(run_group(clip, build(clip, [job], process), [job], execution))


def _only(
    steps: Generator[list[Step], None, list[Result]],
) -> Generator[Step, None, Adapter | SoftPrompt]:
    """The steps of a group of one."""
    while True:
        try:
            [step] = next(steps)
        except StopIteration as end:
            [result] = end.value
            if isinstance(result, ValueError):
                raise result from None
            return result
        if not step.error:
            yield step


class Diverged(ValueError):
    """Some runs of `fit_many` ended with an error; the others are done.

    Attributes:
        results: For each job what it learned; None where it ended with an error.
    """

    def __init__(self, message: str, results: list[Adapter | SoftPrompt | None]) -> None:
        super().__init__(message)
        self.results = results


def fit_many(
    clip: Clip,
    jobs: Sequence[Job],
    *,
    at_once: int | None = None,
    progress: bool = True,
    on_step: Callable[[Step], None] | None = None,
    **options: Any,
) -> list[Any]:
    """Train many adapters or prompts on one base, side by side where that is faster.

    Runs with the same number of steps and of images a step advance together: the frozen products
    are computed for all of them at once. Their seeds and rates may differ; of LoRA on the image
    tower also tasks, ranks, matrices and droppings; of soft prompts with as many vectors the
    penalties, of VPT also the tasks, while CoOp needs the same class names. Others train in turn.
    Each ends as `fit` would end it, up to rounding.

    Args:
        clip: The model.
        jobs: What to train.
        at_once: How many advance together at most. By default as many as make 64 images a step on
            the processor, 1,024 on a GPU; of CoOp 160 class names, or 1,024. Memory grows with
            them, in proportion.
        progress: Show a progress bar, of steps of all runs.
        on_step: Called after each step of each run; `Step.run` is the number of its job. The last
            step of a run that diverges says why in `Step.error`.
        **options: The fields of `Execution`. A checkpoint is a file for each group: the name that
            is given, with the number of the group before its ending where there are several.

    Returns:
        What each job learned, in order.

    Raises:
        ValueError: For no jobs, and as `fit` does, before anything is trained.
        Diverged: When all are done, if the loss of some became infinite or no number. It holds
            what the others learned.
        TypeError: For an unknown option.
    """
    steps = fit_many_steps(clip, jobs, at_once=at_once, **options)
    total = sum(job.complete.steps for job in jobs)
    quiet = not (progress and this_process(options.get("device", "cpu")).first)
    with closing(steps), tqdm(total=total, desc=f"{len(jobs)} runs", disable=quiet) as bar:
        while True:
            try:
                step = next(steps)
            except StopIteration as end:
                results = end.value
                break
            bar.update()
            if on_step:
                on_step(step)
    errors = {j: r for j, r in enumerate(results) if isinstance(r, ValueError)}
    if errors:
        words = "; ".join(f"run {j} ({_name(jobs[j])}): {e}" for j, e in errors.items())
        kept = [None if isinstance(r, ValueError) else r for r in results]
        raise Diverged(f"{len(errors)} of {len(jobs)} runs failed: {words}", kept)
    return results


def fit_many_steps(
    clip: Clip, jobs: Sequence[Job], *, at_once: int | None = None, **options: Any
) -> Generator[Step, None, list[Result]]:
    """The steps of `fit_many`, one at a time: those of a group's runs follow each other.

    Args:
        clip: The model.
        jobs: What to train.
        at_once: As `fit_many` has it.
        **options: The fields of `Execution`.

    Yields:
        Each step of each run; `Step.run` says whose. The last step of a run that diverges says why
        in `Step.error`; the others go on.

    Returns:
        For each job what it learned, or the error with which it ended.

    Raises:
        ValueError: As `fit_many` does, before the first step is asked for.
        TypeError: For an unknown option.
    """
    if not jobs:
        raise ValueError("there is nothing to train: the list of jobs is empty")
    if at_once is not None:
        whole_number("at_once", at_once)
    _known(options, {f.name for f in fields(Execution)}, "fit_many")
    execution = Execution(**options)
    process = this_process(execution.device)
    for job in jobs:
        job.check(execution, process)
    clip = clip.on(process.device)
    groups = grouped(clip, jobs, process.device.type, at_once)
    return _many(clip, jobs, groups, execution, process)


def _many(
    clip: Clip,
    jobs: Sequence[Job],
    groups: Sequence[Sequence[int]],
    execution: Execution,
    process: Process,
) -> Generator[Step, None, list[Result]]:
    results: dict[int, Result] = {}
    files: list[Path] = []
    for number, members in enumerate(groups):
        own = execution
        if execution.checkpoint and len(groups) > 1:
            path = Path(execution.checkpoint)
            files.append(path.with_stem(f"{path.stem}-{number}"))
            own = replace(execution, checkpoint=files[-1], keep_checkpoint=True)
        mine = [jobs[j] for j in members]
        steps = run_group(clip, build(clip, mine, process), mine, own)
        while True:
            try:
                each = next(steps)
            except StopIteration as end:
                results |= dict(zip(members, end.value, strict=True))
                break
            for step in each:
                yield replace(step, run=members[step.run])
    for file in files if process.first and not execution.keep_checkpoint else ():
        file.unlink(missing_ok=True)
    return [results[j] for j in range(len(jobs))]


def _name(job: Job) -> str:
    return f"{name_of(job.method, job.penalty, job.dropping)} {job.task.name}"


def _known(options: dict[str, Any], known: Collection[str], function: str) -> None:
    for name in options:
        if name not in known:
            hint = spelling_hint(name, sorted(known))
            raise TypeError(f"{function}() has no option {name!r}{hint}")


def _split(
    method: AdapterMethod | CoOp | VPT,
    dropping: Dropping,
    settings: TrainingSettings | None,
    options: dict[str, Any],
) -> tuple[CompleteSettings, Execution]:
    """The settings with the options that belong to them, and the execution with its own."""
    of_settings, of_execution = ({f.name for f in fields(k)} for k in (TrainingSettings, Execution))
    _known(options, of_settings | of_execution, "fit")
    changes = {k: v for k, v in options.items() if k in of_settings and v is not None}
    complete = replace(settings or TrainingSettings(), **changes).resolve(method, dropping)
    return complete, Execution(**{k: v for k, v in options.items() if k in of_execution})
