"""Fine-tune the bundled CLIP on every task with three seeds, write the table, and keep the adapters
that the app opens with: ``python recipes/adapters.py``. An interrupted run goes on where it
stopped.
"""

import argparse
import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path
from probes import features, linear_probe
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter, save_adapter
from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.prompts import SoftPrompt
from copra_lab.sweeps import Run, run_all, trained
from copra_lab.tasks import load_task, task_names
from copra_lab.training import PLAIN, CopRA, Dropping
from copra_lab.utils.devices import cores
from copra_lab.utils.files import csv_bytes, write_atomically
from copra_lab.utils.statistics import Accuracy
from copra_lab.zoo import FOLDER

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "experiments" / "results" / "tasks.csv"
SEEDS = (0, 1, 2)
SHIPPED = (
    "things-blur",
    "faces-noise",
    "people-occluded",
    "things-mosaic",
    "symbols-waves",
    "digits",
)
"""Tasks whose adapters, LoRA and CopRA of the first two seeds, come with the package."""

PENDING = (
    "where",
    "size",
    "turn",
    "same-or-different",
    "odd-one-out",
    "largest",
    "beside",
    "clock",
)
"""Tasks that the table does not have yet: they are measured with the next bundled CLIP."""

COLUMNS = (
    "base",
    "task",
    "classes",
    "train",
    "n",
    "zero_shot",
    "zero_shot_low",
    "zero_shot_high",
    "probe",
    "lora_mean",
    "lora_sd",
    "lora_each",
    "seconds",
)


def runs(task: str, dropping: Dropping = PLAIN) -> list[Run]:
    return [Run.of(task, seed, dropping=dropping) for seed in SEEDS]


def kept() -> list[Run]:
    """The runs whose adapters ship."""
    return [r for task in SHIPPED for d in (PLAIN, CopRA()) for r in runs(task, d)[:2]]


def measure(clip: Clip, name: str, work: Path) -> dict:
    task = load_task(name)
    bench = Bench(clip, task, precision="float32")
    zero: Accuracy = bench.accuracy()
    done = [trained(run, clip, work) for run in runs(name)]
    each = [bench.accuracy(a).value for a, _ in done]
    return {
        "base": clip.hash, "task": name, "classes": len(task.classes), "train": len(task.train), "n": zero.n,
        "zero_shot": round(zero.value, 4), "zero_shot_low": round(zero.interval[0], 4), "zero_shot_high": round(zero.interval[1], 4),
        "probe": round(linear_probe(task, lambda s: features(clip, s)).value, 4),
        "lora_mean": round(float(np.mean(each)), 4), "lora_sd": round(float(np.std(each, ddof=1)), 4),
        "lora_each": " ".join(f"{v:.4f}" for v in each), "seconds": round(float(np.median([s for _, s in done])), 1),
    }  # fmt: skip


def folder_name(run: Run) -> str:
    """Of what ships, beside others of its task."""
    return f"{run.name}-seed-{run.seed}"


def ship(folder: Path, made: Mapping[Run, Adapter | SoftPrompt]) -> None:
    """Save each as ``folder/task/method-seed-0``, and then remove what is there from an earlier
    time and is no longer made.
    """
    places = {folder / run.task / folder_name(run): model for run, model in made.items()}
    for place, model in places.items():
        save_adapter(model, place) if isinstance(model, Adapter) else model.save(place)
    due = {*places, *(place.parent for place in places)}
    for old in [*folder.glob("*/*"), *folder.glob("*")]:
        if old.is_dir() and old not in due:
            shutil.rmtree(old)


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, default=user_cache_path("copra-lab") / "adapters")
    p.add_argument("--tasks", nargs="*", default=list(task_names()))
    p.add_argument("--jobs", type=int, default=cores(), help="one core each")
    a = p.parse_args()
    clip = load_clip()
    todo = [run for name in a.tasks for run in runs(name)] + kept()
    run_all(todo, a.work, jobs=a.jobs, measure=False, retry_failed=True)
    rows = [measure(clip, name, a.work) for name in tqdm(a.tasks, desc="tasks")]
    table = csv_bytes(COLUMNS, rows)
    if set(a.tasks) == set(task_names()):
        write_atomically(TABLE, table)
    else:
        print(table.decode(), end="")
    ship(FOLDER, {run: trained(run, clip, a.work)[0] for run in kept()})


if __name__ == "__main__":
    main()
