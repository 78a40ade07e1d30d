"""A training as a value: a `Run` says what to train, and a folder keeps what came of it."""

import hashlib
import json
import time
from collections.abc import Callable, Generator, Sequence
from dataclasses import asdict, dataclass, fields, replace
from functools import lru_cache
from pathlib import Path
from typing import Any

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import save_adapter
from copra_lab.methods.lora import LoRA
from copra_lab.methods.parametrisation import AdapterMethod
from copra_lab.methods.registry import name_of
from copra_lab.models.clip import Clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task, class_names, load_task
from copra_lab.training.base import as_json
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.fitting import fit_many_steps
from copra_lab.training.jobs import Job, Step
from copra_lab.training.running import Result
from copra_lab.training.settings import (
    PROMPT_VIEWS,
    CompleteSettings,
    TrainingSettings,
    defaults_of,
)
from copra_lab.utils.files import write_atomically

__all__ = ["Run", "TaskOptions", "trained"]

DONE_FILE = "run.json"
CHECKPOINT = "fit.part"


@dataclass(frozen=True)
class TaskOptions:
    """Which images of a task a run is trained on.

    Args:
        shots: Training images a class, at most.
        task_seed: Chooses the training images. None means 0 for an adapter, so that adapters of
            different seeds may be put on one line, and the run's seed for a soft prompt, as is
            usual for few shots.
        part: "all" classes, or "base", the first half.
        template: Of a folder of images, the prompt with {} for a class's name.
        splits: Of a folder of images, whether folders called train, val and test are splits.
    """

    shots: int = 16
    task_seed: int | None = None
    part: str = "all"
    template: str | None = None
    splits: bool = True


@dataclass(frozen=True)
class Run:
    """One training: the arguments of `load_task` and of `Job`.

    Args:
        task: A task by name, or a folder of images.
        method: The settings of an adapter's method, CoOp or VPT.
        dropping: What is dropped while an adapter is trained.
        penalty: What the norms of a soft prompt cost.
        settings: Of the training; what is None becomes the default of the method.
        options: Of the task.

    Raises:
        ValueError: For settings that make no sense.
    """

    task: str
    method: AdapterMethod | CoOp | VPT = LoRA()  # noqa: RUF009 (frozen)
    dropping: Dropping = PLAIN
    penalty: Nemesis | None = None
    settings: TrainingSettings = TrainingSettings()  # noqa: RUF009 (frozen)
    options: TaskOptions = TaskOptions()

    def __post_init__(self) -> None:
        complete = self.settings.resolve(self.method, self.dropping)
        object.__setattr__(self, "settings", complete)

    @classmethod
    def of(cls, task: str, seed: int = 0, **options: Any) -> "Run":
        """A run from options of every kind.

        Args:
            task: The task.
            seed: The seed of the training.
            **options: Fields of `Run`, `TrainingSettings` and `TaskOptions` by their names, such
                as ``dropping=CopRA(), lr=1e-3, shots=4``. What is not said is as everything that
                ships was trained; of a soft prompt, four views are kept.
        """
        prompt = isinstance(options.get("method"), CoOp | VPT)
        usual = {"views": PROMPT_VIEWS} if prompt else {}
        parts, settings, of_task = _sorted_out({**usual, **options, "seed": seed})
        return cls(
            task, settings=TrainingSettings(**settings), options=TaskOptions(**of_task), **parts
        )

    def changed(self, **options: Any) -> "Run":
        """The run with some options changed, which are those of `of`."""
        parts, settings, of_task = _sorted_out(options)
        return replace(
            self,
            settings=replace(self.settings, **settings),
            options=replace(self.options, **of_task),
            **parts,
        )

    @property
    def complete(self) -> CompleteSettings:
        """The settings, in which nothing is left open."""
        assert isinstance(self.settings, CompleteSettings)
        return self.settings

    @property
    def seed(self) -> int:
        """The seed of the training."""
        return self.settings.seed

    @property
    def name(self) -> str:
        """The name of the method with what is dropped or penalised, as in the registry."""
        return name_of(self.method, self.penalty, self.dropping)

    def as_json(self) -> dict[str, Any]:
        """Everything about this run, as JSON holds it.

        The folder of a run is named after it. What was added later, or is for a folder of images
        alone, is there only if it is not the default.
        """
        learned, usual = self.complete, defaults_of(self.method, self.dropping)
        about = {"task": self.task, "method": self.name, **asdict(learned), **asdict(self.options)}
        unsaid = {"template": None, "splits": True, "weight_decay": usual["weight_decay"]}
        if isinstance(self.method, AdapterMethod):
            about |= {"lora": as_json(self.method), "dropping": as_json(self.dropping)}
            about["task_seed"] = self.task_seed
        else:
            about |= {"prompt": asdict(self.method)}
            about |= {"penalty": asdict(self.penalty) if self.penalty else None}
            unsaid |= {"schedule": usual["schedule"], "precision": "float32", "task_seed": None}
        said = {k: v for k, v in about.items() if k not in unsaid or v != unsaid[k]}
        return json.loads(json.dumps(said))

    @property
    def adapter(self) -> None:
        """What the CLIP has while a prompt is learned: nothing."""

    @property
    def classes(self) -> tuple[str, ...] | None:
        """The class names of its task, if they are known without downloading anything."""
        names = _class_names(self.task, self.options.splits)
        if names and self.options.part == "base":
            return names[: (len(names) + 1) // 2]  # as `Task.base_and_new`
        return names

    @property
    def task_seed(self) -> int:
        """What chooses the training images."""
        if self.options.task_seed is not None:
            return self.options.task_seed
        return 0 if isinstance(self.method, AdapterMethod) else self.seed

    def folder(self, clip: Clip, work: Path) -> Path:
        """Where its result is kept: one folder for each base and each choice of settings."""
        words = json.dumps([clip.hash, self.as_json()], sort_keys=True)
        key = hashlib.blake2b(words.encode(), digest_size=6).hexdigest()
        return work / f"{Path(self.task).name}-{self.name}-{self.seed}-{key}"

    def load_task(self, clip: Clip | None = None) -> Task:
        """The task that it trains on."""
        o = self.options
        task = load_task(
            self.task,
            clip,
            shots=o.shots,
            seed=self.task_seed,
            template=o.template,
            splits=o.splits,
        )
        return task.base_and_new()[0] if o.part == "base" else task

    def job(self, clip: Clip) -> Job:
        """The run with its task loaded, as `fit_many` takes it."""
        task = self.load_task(clip)
        return Job(task, self.method, self.dropping, self.settings, self.penalty)

    def read(self, folder: Path, clip: Clip) -> Adapter | SoftPrompt:
        """What an earlier training saved in `folder`."""
        adapter = isinstance(self.method, AdapterMethod)
        return load_adapter(folder, clip) if adapter else SoftPrompt.load(folder, clip)


_PARTS = {"method", "dropping", "penalty"}
_OF_SETTINGS, _OF_TASK = ({f.name for f in fields(c)} for c in (TrainingSettings, TaskOptions))


@lru_cache(256)
def _class_names(task: str, splits: bool) -> tuple[str, ...] | None:
    try:
        return class_names(task, splits=splits)
    except (OSError, ValueError):
        return None  # whoever trains on it is told why


def _sorted_out(options: dict[str, Any]) -> tuple[dict[str, Any], ...]:
    """Options that belong to `Run`, to `TrainingSettings`, and to `TaskOptions`."""
    if unknown := options.keys() - _PARTS - _OF_SETTINGS - _OF_TASK:
        raise TypeError(f"a run has no option {min(unknown)!r}")
    kinds = (_PARTS, _OF_SETTINGS, _OF_TASK)
    return tuple({k: v for k, v in options.items() if k in names} for names in kinds)


def trained(run: Run, clip: Clip, work: Path, device: str = "cpu") -> tuple[Any, float]:
    """What came of a run, trained now or read from where it was kept.

    An interrupted training is continued.

    Args:
        run: What to train.
        clip: The model.
        work: Where runs are kept, a folder each.
        device: As `fit` has it.

    Returns:
        The adapter or soft prompt, and the seconds that the training took; of a run that was
        trained in a group, its share of the group's.
    """
    [found] = trained_together([run], clip, work, run.folder(clip, work), device)
    if isinstance(found, Exception):
        raise found
    return found


def trained_together(
    runs: Sequence[Run],
    clip: Clip,
    work: Path,
    folder: Path,
    device: str = "cpu",
    on_step: Callable[[Step], None] | None = None,
) -> list[tuple[Any, float] | Exception]:
    """`trained` of runs that advance together.

    Args:
        runs: What to train.
        clip: The model.
        work: Where runs are kept, a folder each.
        folder: Where the checkpoint of these runs is kept.
        device: As `fit` has it.
        on_step: Called after each step of each run.

    Returns:
        For each run what came of it, as `trained` has it, or the error with which it ended.
    """
    try:
        errors = _train(runs, clip, work, folder / CHECKPOINT, device, on_step)
    except Exception as e:
        if len(runs) == 1:
            return [e]
        # whatever it was, it costs only the runs that cannot be trained by themselves either
        (folder / CHECKPOINT).unlink(missing_ok=True)
        places = [run.folder(clip, work) for run in runs]
        return [
            found
            for run, place in zip(runs, places, strict=True)
            for found in trained_together([run], clip, work, place, device, on_step)
        ]
    return [errors.get(run) or _read(run, clip, work) for run in runs]


def _train(
    runs: Sequence[Run],
    clip: Clip,
    work: Path,
    checkpoint: Path,
    device: str,
    on_step: Callable[[Step], None] | None,
) -> dict[Run, Exception]:
    """Train and save what is not yet, and say why of what cannot be."""
    errors, jobs, begun = dict[Run, Exception](), dict[Run, Job](), checkpoint.exists()
    for run in runs:
        # a checkpoint is continued with all its runs, also with those that are saved
        if begun or not (run.folder(clip, work) / DONE_FILE).exists():
            try:
                jobs[run] = run.job(clip)
            except Exception as e:
                errors[run] = e
    if not jobs:
        return errors
    start = time.perf_counter()
    steps = fit_many_steps(
        clip,
        list(jobs.values()),
        at_once=len(jobs),
        device=device,
        checkpoint=checkpoint,
        checkpoint_every=100,
        keep_checkpoint=True,
    )
    results = _followed(steps, on_step)
    seconds = (time.perf_counter() - start) / len(jobs)
    for run, result in zip(jobs, results, strict=True):
        try:
            _save(run, result, seconds, run.folder(clip, work))
        except Exception as e:
            errors[run] = e
    checkpoint.unlink(missing_ok=True)
    return errors


def _followed(
    steps: Generator[Step, None, list[Result]], on_step: Callable[[Step], None] | None
) -> list[Result]:
    while True:
        try:
            step = next(steps)
        except StopIteration as end:
            return end.value
        if on_step:
            on_step(step)


def _save(run: Run, result: Result, seconds: float, folder: Path) -> None:
    if isinstance(result, ValueError):
        raise result
    if not (folder / DONE_FILE).exists():
        save_adapter(result, folder) if isinstance(result, Adapter) else result.save(folder)
        about = {"seconds": round(seconds, 2), "settings": run.as_json()}
        write_atomically(folder / DONE_FILE, json.dumps(about, indent=1).encode())
    (folder / CHECKPOINT).unlink(missing_ok=True)  # of an earlier training by itself


def _read(run: Run, clip: Clip, work: Path) -> tuple[Any, float] | Exception:
    folder = run.folder(clip, work)
    try:
        about = json.loads((folder / DONE_FILE).read_text(encoding="utf-8"))
        return run.read(folder, clip), float(about["seconds"])
    except Exception as e:
        return e
