"""Many trainings, each done once: a `Run` or a `PromptRun` says what to train, a folder remembers what came of it."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, overload

import torch
from tqdm.auto import tqdm

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import save_adapter
from copra_lab.methods.lora import LoRA
from copra_lab.models.clip import Clip
from copra_lab.models.loading import load_clip
from copra_lab.prompts.nemesis import Nemesis
from copra_lab.prompts.soft_prompt import VPT, CoOp, SoftPrompt
from copra_lab.tasks.task import Task, load_task
from copra_lab.training.dropping import PLAIN, Dropping
from copra_lab.training.fitting import DEFAULTS, RATES, fit
from copra_lab.training.prompt import name_of
from copra_lab.utils.extras import needs
from copra_lab.utils.files import write_atomically

__all__ = ["PromptRun", "Run", "trained"]

_OF_FOLDERS = {"template": None, "splits": True}


@dataclass(frozen=True)
class _Kept:
    """What a training's arguments have in common: the task, and the name of the folder that keeps what came of it."""

    task: str
    seed: int = 0

    @property
    def method(self) -> str:
        raise NotImplementedError

    def settings(self) -> dict[str, Any]:
        """Everything about this run, as JSON holds it. What a folder of images alone can be given is there if it was."""
        unsaid = {k for k, usual in _OF_FOLDERS.items() if getattr(self, k) == usual}
        return json.loads(
            json.dumps(
                {k: v for k, v in asdict(self).items() if k not in unsaid} | {"method": self.method}
            )
        )

    def folder(self, clip: Clip, work: Path) -> Path:
        """Where its result is kept: one folder for each base and each choice of settings."""
        key = hashlib.blake2b(
            json.dumps([clip.hash, self.settings()], sort_keys=True).encode(), digest_size=6
        ).hexdigest()
        return work / f"{Path(self.task).name}-{self.method}-{self.seed}-{key}"


@dataclass(frozen=True)
class Run(_Kept):
    """One training of LoRA: the arguments of `load_task` and of `fit`. ``part``: "all" classes, or "base", the first half.
    ``template`` and ``splits`` are for a folder of images.

    `seed` varies A, the order of the images and the masks; the training images are those of ``task_seed``, so that runs
    of different seeds may be put on one line. The defaults are those of plain LoRA; a sweep and `fit` have a rate of its own for CopRA.
    """

    lora: LoRA = LoRA()  # noqa: RUF009 (frozen)
    dropping: Dropping = PLAIN
    steps: int = DEFAULTS[LoRA]["steps"]
    lr: float = DEFAULTS[LoRA]["lr"]
    batch: int = DEFAULTS[LoRA]["batch"]
    schedule: str = DEFAULTS[LoRA]["schedule"]
    views: int = 0
    precision: str = "float32"
    shots: int = 16
    task_seed: int = 0
    part: str = "all"
    template: str | None = None
    splits: bool = True

    @property
    def method(self) -> str:
        """What tables call it: that of its dropping."""
        return self.dropping.method

    def load_task(self, clip: Clip | None = None) -> Task:
        """The task that it trains on."""
        task = load_task(
            self.task,
            clip,
            shots=self.shots,
            seed=self.task_seed,
            template=self.template,
            splits=self.splits,
        )
        return task.base_and_new()[0] if self.part == "base" else task

    def fit(self, clip: Clip, checkpoint: Path, device: str = "cpu") -> Adapter:
        """Train, or go on from `checkpoint`."""
        return fit(
            clip, self.load_task(clip), self.lora, self.dropping, seed=self.seed, steps=self.steps, lr=self.lr, batch=self.batch,
            schedule=self.schedule, views=self.views, precision=self.precision, checkpoint=checkpoint, checkpoint_every=100, progress=False,
            device=device,
        )  # fmt: skip

    @staticmethod
    def read(folder: Path, clip: Clip) -> Adapter:
        """What an earlier training saved."""
        return load_adapter(folder, clip)


@dataclass(frozen=True)
class PromptRun(_Kept):
    """One training of a soft prompt: the arguments of `load_task` and of `fit`, `part` as `Run` has it. A `seed` chooses the
    training images too, as is usual for few shots. The defaults are CoOp's; a sweep has VPT's own for VPT."""

    prompt: CoOp | VPT = CoOp()  # noqa: RUF009 (frozen)
    penalty: Nemesis | None = None
    shots: int = 16
    steps: int = DEFAULTS[CoOp]["steps"]
    lr: float = DEFAULTS[CoOp]["lr"]
    batch: int = DEFAULTS[CoOp]["batch"]
    views: int = 4
    part: str = "all"
    template: str | None = None
    splits: bool = True

    @property
    def method(self) -> str:
        """What tables call it: coop, vpt, pun, …"""
        return name_of(self.prompt, self.penalty)

    def load_task(self, clip: Clip | None = None) -> Task:
        """The task that it trains on."""
        task = load_task(
            self.task,
            clip,
            shots=self.shots,
            seed=self.seed,
            template=self.template,
            splits=self.splits,
        )
        return task.base_and_new()[0] if self.part == "base" else task

    def fit(self, clip: Clip, checkpoint: Path, device: str = "cpu") -> SoftPrompt:
        """Train, or go on from `checkpoint`."""
        return fit(
            clip, self.load_task(clip), self.prompt, penalty=self.penalty, seed=self.seed, steps=self.steps, lr=self.lr, batch=self.batch,
            views=self.views, checkpoint=checkpoint, checkpoint_every=100, progress=False, device=device,
        )  # fmt: skip

    @staticmethod
    def read(folder: Path, clip: Clip) -> SoftPrompt:
        """What an earlier training saved."""
        return SoftPrompt.load(folder, clip)


def chosen(task: str, seed: int, dropping: Dropping = PLAIN, **more: Any) -> Run:
    """A run with the settings that everything that ships was trained with; `more` differs from them. It takes half a minute to a minute
    and a half of one core."""
    return Run(
        task, seed, dropping=dropping, **{"lr": RATES.get(dropping.method, RATES["lora"]), **more}
    )


@overload
def trained(run: Run, clip: Clip, work: Path, device: str = ...) -> tuple[Adapter, float]: ...
@overload
def trained(
    run: PromptRun, clip: Clip, work: Path, device: str = ...
) -> tuple[SoftPrompt, float]: ...
def trained(
    run: Run | PromptRun, clip: Clip, work: Path, device: str = "cpu"
) -> tuple[Adapter | SoftPrompt, float]:
    """What came of a run and the seconds that it took: from `work`, or trained now and kept there. Taken up again
    after an interruption."""
    folder = run.folder(clip, work)
    done = folder / "run.json"
    if done.exists():
        return run.read(folder, clip), float(
            json.loads(done.read_text(encoding="utf-8"))["seconds"]
        )
    start = time.perf_counter()
    result = run.fit(clip, folder / "fit.part", device)
    seconds = time.perf_counter() - start
    save_adapter(result, folder) if isinstance(result, Adapter) else result.save(folder)
    write_atomically(
        done,
        json.dumps({"seconds": round(seconds, 2), "settings": run.settings()}, indent=1).encode(),
    )
    return result, seconds


def train_all(
    runs: Iterable[Run | PromptRun], work: Path, jobs: int = -1, clip_name: str | None = None
) -> None:
    """Train what `work` does not hold yet, one process a core (`jobs` as joblib understands it), each on one thread. Safe to
    interrupt and to start again."""
    with needs("sweeps"):
        from joblib import Parallel, delayed

    clip = load_clip(clip_name)
    missing: Sequence[Run | PromptRun] = [
        r for r in dict.fromkeys(runs) if not (r.folder(clip, work) / "run.json").exists()
    ]
    if missing:
        parallel = Parallel(jobs, return_as="generator_unordered")
        for _ in tqdm(
            parallel(delayed(_train_one)(r, work, clip_name) for r in missing),
            total=len(missing),
            desc="trainings",
        ):
            pass


def _train_one(run: Run | PromptRun, work: Path, clip_name: str | None) -> None:
    torch.set_num_threads(1)
    trained(run, load_clip(clip_name), work)
