"""What the experiments share: methods, tasks, chosen settings, and result files.

Settings were chosen on the validation images of `DEVELOPMENT` (``regimes.py``) and frozen before
any test image was scored. The other tasks are reported on test images, with seeds that were not
used for the choice.
"""

import argparse
import csv
import sys
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path

import numpy as np
from platformdirs import user_cache_path

from copra_lab.adapters import Adapter
from copra_lab.bench import Bench
from copra_lab.methods.registry import METHODS as REGISTRY
from copra_lab.methods.registry import names
from copra_lab.models import Clip, load_clip
from copra_lab.sweeps import Run, run_all, trained
from copra_lab.tasks import load_task, task_names
from copra_lab.utils.devices import cores
from copra_lab.utils.files import csv_bytes, write_atomically
from copra_lab.utils.statistics import Accuracy, Outcomes, share_lost, share_lost_interval

RESULTS = Path(__file__).parent / "results"

DEVELOPMENT = ("things-mosaic", "known-groups", "digits")
"""Tasks whose validation images settings were chosen on, from near to far; no table has them."""

STRUCTURED_DEVELOPMENT = ("where", "odd-one-out")
"""Structured tasks for the same purpose, named before anything was trained on them."""

NOT_REPORTED = (*DEVELOPMENT, *STRUCTURED_DEVELOPMENT, "same-drawings")
"""Also one task where nothing can improve: the base model gets all of it right."""

SEEDS = {"lora": 5, "copra": 5}
"""Seeds of a method; other methods have three."""

METHODS = {name: REGISTRY[name].parts().dropping for name in names("adapter")}
"""What each method drops while LoRA is trained."""

WRITTEN = {
    "regimes.py": ("regimes.csv",),
    "lines.py": ("lines.csv",),
    "pruning.py": ("structured.csv", "unstructured.csv"),
    "rates.py": ("rates.csv", "rates_tsne.csv"),
    "multitask.py": ("multitask.csv",),
    "generalisation.py": ("generalisation.csv",),
    "minilm.py": ("minilm.csv",),
    "trainer.py": ("trainer.csv",),
    "shapley.py": ("shapley.csv", "sizes.csv", "ranked.csv"),
    "nemesis.py": (
        "nemesis.csv", "nemesis_noise.csv", "nemesis_new.csv", "nemesis_epochs.csv", "lownorm.csv",
        "nemesis_visual.csv", "nemesis_tuning.csv",
    ),
    "federated/run.py": ("federated.csv",),
}  # fmt: skip
"""Script → the files that it writes under ``results/``.

The only other file there is `tasks.csv`, which ``recipes/adapters.py`` writes.
"""


def headline(
    tasks: Sequence[str], methods: Iterable[str] = METHODS, seeds: int | None = None
) -> list[Run]:
    """The runs that most experiments share."""
    return [
        Run.of(t, s, dropping=METHODS[m])
        for m in methods
        for t in tasks
        for s in range(seeds or SEEDS.get(m, 3))
    ]


def reported() -> list[str]:
    """The tasks in the tables."""
    return [t for t in task_names() if t not in NOT_REPORTED]


def pairs(runs: Iterable[Run]) -> list[tuple[Run, Run]]:
    """Pairs of seeds of the same training: 0 and 1, 1 and 2, …, the last and 0.

    Each seed is in two pairs.
    """
    groups: dict[Run, list[Run]] = {}
    for r in runs:
        groups.setdefault(r.changed(seed=0), []).append(r)
    return [(a, b) for g in groups.values() for a, b in zip(g, [*g[1:], g[0]], strict=True)]


def arguments(
    about: str, tasks: bool = True, methods: Collection[str] = (), jobs: bool = True
) -> argparse.ArgumentParser:
    """The options that several experiments share; `methods` are the ones to choose from."""
    p = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--work",
        type=Path,
        default=user_cache_path("copra-lab") / "experiments",
        help="folder of stored trainings",
    )
    if tasks:
        p.add_argument("--tasks", nargs="+", help="only these (prints, and writes nothing)")
    if methods:
        p.add_argument(
            "--methods", nargs="+", choices=methods, help="only these (prints, and writes nothing)"
        )
    if jobs:
        p.add_argument(
            "--jobs", type=int, default=cores(), help="trainings in parallel, one core each"
        )
    return p


def adapters(
    runs: Sequence[Run], work: Path, jobs: int
) -> tuple[Clip, dict[Run, Adapter], dict[Run, float]]:
    """The CLIP, the adapter of every run, trained or from `work`, and the seconds each took."""
    train(runs, work, jobs)
    clip = load_clip()
    found = {r: trained(r, clip, work) for r in runs}
    return clip, {r: a for r, (a, _) in found.items()}, {r: s for r, (_, s) in found.items()}


def train(runs: Iterable[Run], work: Path, jobs: int) -> None:
    """Train what `work` does not hold yet, one process a core; no test image is looked at."""
    run_all(runs, work, jobs=jobs, measure=False, retry_failed=True)


def write(name: str, columns: Sequence[str], rows: Iterable[dict], base: str | None = None) -> None:
    """Write a result file under ``results/``, atomically.

    Its last column names the weights that were measured, by default the bundled CLIP's.
    """
    write_atomically(RESULTS / name, tidy(columns, rows, base))


def tidy(columns: Sequence[str], rows: Iterable[dict], base: str | None) -> bytes:
    base = base or load_clip().hash
    return csv_bytes((*columns, "base"), ({**row, "base": base} for row in rows))


NARROWING = ("tasks", "methods", "seeds", "quick")
"""Options that restrict an experiment."""


def finish(
    a: argparse.Namespace,
    name: str,
    columns: Sequence[str],
    rows: Iterable[dict],
    base: str | None = None,
) -> None:
    """`write`, or print if an option restricted the experiment: ``results/`` has only full ones."""
    if any(getattr(a, option, None) for option in NARROWING):
        print(name, file=sys.stderr)
        print(tidy(columns, rows, base).decode(), end="")
    else:
        write(name, columns, rows, base)


def read(name: str) -> list[dict[str, str]]:
    with open(RESULTS / name, encoding="utf-8") as f:
        return list(csv.DictReader(f))


def row(run: Run, setting: object, accuracy: Accuracy, **more: object) -> dict:
    return {
        "task": run.task,
        "method": run.name,
        "seed": run.seed,
        "setting": setting,
        "n": accuracy.n,
        "accuracy": round(accuracy.value, 4),
        **more,
    }


ALL_TASKS = "all tasks"
"""The task of a row of all tasks together, which `cells.gather` leaves out."""

LOST = ("lost", "low", "high")
"""Columns of such rows: the share of the gain over the base that is lost, and its interval."""


def lost_row(method: str, setting: object, tasks: Sequence[Outcomes], **more: object) -> dict:
    """What all tasks lose together (see `share_lost`), with its interval over drawings and seeds.

    Where nothing is gained, these are left empty, and the reason is printed.
    """
    shares: tuple = ("", "", "")
    try:
        shares = tuple(round(x, 4) for x in (share_lost(tasks), *share_lost_interval(tasks)))
    except ValueError as e:
        print(f"{method}, {setting}: {e}", file=sys.stderr)
    return {
        "task": ALL_TASKS,
        "method": method,
        "seed": "all",
        "setting": setting,
        "n": sum(len(t.base) for t in tasks),
        "accuracy": round(float(np.mean([t.weaker.mean() for t in tasks])), 4),
        **dict(zip(LOST, shares, strict=True)),
        **more,
    }


def bench(clip: Clip, task: str, split: str) -> Bench:
    return Bench(clip, load_task(task), split)
