"""Fine-tune the bundled CLIP on every task with three seeds, write the table, and keep the adapters that the app opens
with: ``python recipes/adapters.py``. An interrupted run goes on where it stopped."""

import argparse
import csv
import io
import json
import os
import shutil
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from platformdirs import user_cache_path
from probes import features, linear_probe
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.clip import Clip, load_clip
from copra_lab.lora import Adapter, LoRA
from copra_lab.shipped import FOLDER
from copra_lab.stats import Accuracy
from copra_lab.storage import write_atomically
from copra_lab.tasks import load_task, task_names
from copra_lab.train import fit

ROOT = Path(__file__).parents[1]
TABLE = ROOT / "experiments" / "results" / "tasks.csv"
SEEDS = (0, 1, 2)
SHIPPED = ("things-blur", "novel-kinds", "objects-sketch", "travel-negative", "food-mosaic", "digits")
"""Tasks whose adapters of the first two seeds come with the package."""

SETTINGS = {"lora": LoRA(), "steps": 150, "lr": 1e-3}
COLUMNS = ("base", "task", "classes", "train", "n", "zero_shot", "zero_shot_low", "zero_shot_high", "probe", "lora_mean", "lora_sd", "lora_each", "seconds")


def trained(clip: Clip, name: str, seed: int, work: Path) -> tuple[Adapter, float]:
    """The adapter of one task and seed, from `work` if it was made with these settings, and the seconds it took."""
    settings = json.dumps({"base": clip.hash, **{k: str(v) for k, v in SETTINGS.items()}}, sort_keys=True)
    folder = work / f"{name}-seed-{seed}"
    about = folder / "run.json"
    if about.exists() and (run := json.loads(about.read_text()))["settings"] == settings:
        return Adapter.load(folder, clip), run["seconds"]
    start = time.perf_counter()
    adapter = fit(clip, load_task(name, seed=seed), seed=seed, checkpoint=work / f"{name}-seed-{seed}.part", progress=False, **SETTINGS)
    seconds = time.perf_counter() - start
    adapter.save(folder)
    write_atomically(about, json.dumps({"settings": settings, "seconds": seconds}).encode())
    return adapter, seconds


def train_one(name: str, seed: int, work: Path) -> None:
    trained(load_clip(), name, seed, work)


def measure(clip: Clip, name: str, work: Path) -> dict:
    task = load_task(name)
    bench = Bench(clip, task, precision="float32")
    zero: Accuracy = bench.accuracy()
    runs = [trained(clip, name, seed, work) for seed in SEEDS]
    each = [bench.accuracy(a).value for a, _ in runs]
    return {
        "base": clip.hash, "task": name, "classes": len(task.classes), "train": len(task.train), "n": zero.n,
        "zero_shot": round(zero.value, 4), "zero_shot_low": round(zero.interval[0], 4), "zero_shot_high": round(zero.interval[1], 4),
        "probe": round(linear_probe(task, lambda s: features(clip, s)).value, 4),
        "lora_mean": round(float(np.mean(each)), 4), "lora_sd": round(float(np.std(each, ddof=1)), 4),
        "lora_each": " ".join(f"{v:.4f}" for v in each), "seconds": round(float(np.median([s for _, s in runs])), 1),
    }  # fmt: skip


def main() -> None:
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--work", type=Path, default=user_cache_path("copra-lab") / "adapters")
    p.add_argument("--tasks", nargs="*", default=list(task_names()))
    p.add_argument("--jobs", type=int, default=len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1, help="one core each")
    a = p.parse_args()
    clip = load_clip()
    with ProcessPoolExecutor(a.jobs, get_context("spawn"), torch.set_num_threads, (1,)) as pool:
        futures = [pool.submit(train_one, name, seed, a.work) for name in a.tasks for seed in SEEDS]
        for done in tqdm(as_completed(futures), total=len(futures), desc="adapters"):
            done.result()
    rows = [measure(clip, name, a.work) for name in tqdm(a.tasks, desc="tasks")]
    if set(a.tasks) == set(task_names()):
        text = io.StringIO()
        writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)
        write_atomically(TABLE, text.getvalue().encode())
    shutil.rmtree(FOLDER, ignore_errors=True)
    for name in SHIPPED:
        for seed in SEEDS[:2]:
            trained(clip, name, seed, a.work)[0].save(FOLDER / name / f"lora-seed-{seed}")


if __name__ == "__main__":
    main()
