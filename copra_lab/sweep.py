"""Many trainings, each done once: a `Run` says what to train, a folder remembers what came of it."""

import hashlib
import json
import time
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from copra_lab.clip import Clip, load_clip
from copra_lab.copra import PLAIN, Dropping
from copra_lab.lora import Adapter, LoRA
from copra_lab.storage import write_atomically
from copra_lab.tasks import Task, load_task
from copra_lab.train import fit


@dataclass(frozen=True)
class Run:
    """One training: the arguments of `load_task` and of `fit`. ``part``: "all" classes, or "base", the first half.

    `seed` varies A, the order of the images and the masks; the training images are those of ``task_seed``, so that runs
    of different seeds may be put on one line.
    """

    task: str
    seed: int = 0
    lora: LoRA = LoRA()  # noqa: RUF009 (frozen)
    dropping: Dropping = PLAIN
    steps: int = 1200
    lr: float = 2e-3
    batch: int = 8
    schedule: str = "cooldown"
    views: int = 0
    precision: str = "float32"
    shots: int = 16
    task_seed: int = 0
    part: str = "all"

    @property
    def method(self) -> str:
        return self.dropping.method

    def load_task(self) -> Task:
        task = load_task(self.task, shots=self.shots, seed=self.task_seed)
        return task.base_and_new()[0] if self.part == "base" else task

    def settings(self) -> dict[str, Any]:
        """Everything about this run, as JSON holds it."""
        return json.loads(json.dumps(asdict(self) | {"method": self.method}))

    def folder(self, clip: Clip, work: Path) -> Path:
        """Where its adapter is kept: one folder for each base and each choice of settings."""
        key = hashlib.blake2b(json.dumps([clip.hash, self.settings()], sort_keys=True).encode(), digest_size=6).hexdigest()
        return work / f"{Path(self.task).name}-{self.method}-{self.seed}-{key}"


TRAINING: dict[str, Any] = {"steps": 1200, "batch": 8, "schedule": "cooldown"}
"""Half a minute to a minute and a half of one core: how everything that ships, and every table, is trained."""

RATES = {"lora": 2e-3, "copra": 4e-3}
"""By method, of 1e-3, 2e-3, 4e-3 and 8e-3 the one that does best alone on validation images (``experiments/regimes.py``)."""


def chosen(task: str, seed: int, dropping: Dropping = PLAIN, **more: Any) -> Run:
    """A run with the settings that everything that ships was trained with; `more` differs from them."""
    return Run(task, seed, dropping=dropping, **{**TRAINING, "lr": RATES.get(dropping.method, RATES["lora"]), **more})


def trained(run: Run, clip: Clip, work: Path) -> tuple[Adapter, float]:
    """The adapter of a run and the seconds that it took: from `work`, or trained now and kept there. Taken up again
    after an interruption."""
    folder = run.folder(clip, work)
    done = folder / "run.json"
    if done.exists():
        return Adapter.load(folder, clip), float(json.loads(done.read_text(encoding="utf-8"))["seconds"])
    start = time.perf_counter()
    adapter = fit(
        clip, run.load_task(), run.lora, run.dropping, seed=run.seed, steps=run.steps, lr=run.lr, batch=run.batch, schedule=run.schedule,
        views=run.views, precision=run.precision, checkpoint=folder / "fit.part", checkpoint_every=200, progress=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    adapter.save(folder)
    write_atomically(done, json.dumps({"seconds": round(seconds, 2), "settings": run.settings()}, indent=1).encode())
    return adapter, seconds


def train_all(runs: Iterable[Run], work: Path, jobs: int = -1, clip_name: str | None = None) -> None:
    """Train what `work` does not hold yet, one process a core (`jobs` as joblib understands it), each on one thread. Safe to
    interrupt and to start again."""
    clip = load_clip(clip_name)
    missing: Sequence[Run] = [r for r in dict.fromkeys(runs) if not (r.folder(clip, work) / "run.json").exists()]
    if missing:
        parallel = Parallel(jobs, return_as="generator_unordered")
        for _ in tqdm(parallel(delayed(_train_one)(r, work, clip_name) for r in missing), total=len(missing), desc="trainings"):
            pass


def _train_one(run: Run, work: Path, clip_name: str | None) -> None:
    torch.set_num_threads(1)
    trained(run, load_clip(clip_name), work)
