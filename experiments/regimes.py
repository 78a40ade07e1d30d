"""From timid to wild: how LoRA, CopRA and the baselines behave over learning rates, and LoRA and CopRA over steps, ranks,
sites and schedules of the rate too, on the *validation* images of the development tasks:
``python experiments/regimes.py``."""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from common import DEVELOPMENT, METHODS, adapters, arguments, bench, row, write
from tqdm.auto import tqdm

from copra_lab.lora import LoRA
from copra_lab.merge import average_factors, interpolate
from copra_lab.prune import keep, sparsify
from copra_lab.sweep import SHORT, Run

PARTS = ("rates", "steps", "shapes", "cooldown")
SEEDS = (100, 101)  # of no other experiment
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
LONG_RATES = (2e-3, 4e-3, 8e-3)
LONG = {"steps": 3 * SHORT["steps"], "batch": SHORT["batch"]}
EVERY = LoRA(sites=("q", "k", "v", "out", "fc1", "fc2"))
SHAPES = {
    "rank 2": LoRA(rank=2),
    "rank 16": LoRA(rank=16),
    "every matrix": EVERY,
    "value only": LoRA(sites=("v",)),
}
COOLDOWN_TASKS = ("things-mosaic", "digits")  # on known-groups nothing breaks
COOLDOWN = [
    *itertools.product(("lora",), (1e-3, 2e-3, 4e-3), (LoRA(),), ({"steps": 600, "batch": 8, "schedule": "cooldown"},)),
    *itertools.product(("copra",), (2e-3, 4e-3, 8e-3), (LoRA(),), ({"steps": 600, "batch": 8, "schedule": "cooldown"},)),
    *itertools.product(("lora",), (2e-3, 4e-3), (LoRA(),), ({"steps": 600, "batch": 16, "schedule": "cooldown"},)),
    *itertools.product(("copra",), (4e-3, 8e-3), (LoRA(),), ({"steps": 600, "batch": 16, "schedule": "cooldown"},)),
    *itertools.product(("lora",), (1e-3, 2e-3), (EVERY,), (SHORT | {"schedule": "cooldown"},)),
    *itertools.product(("copra",), (2e-3, 4e-3), (EVERY,), (SHORT | {"schedule": "cooldown"},)),
    *itertools.product(("lora",), (1e-3, 2e-3, 4e-3), (EVERY,), (SHORT | {"schedule": "cosine"},)),
    *itertools.product(("copra",), (4e-3,), (EVERY,), (SHORT | {"schedule": "cosine"},)),
]
"""(method, rate, LoRA, settings): a first look, two tasks and not the same rates for both methods."""

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "steps", "batch", "schedule", "lr", "shape", "seconds")


def runs(part: str, methods: Sequence[str]) -> dict[Run, str]:
    """Runs with the name of their shape. "rates": every method at rank 4 on q, k, v. "steps": LoRA and CopRA for longer.
    "shapes": LoRA and CopRA of other ranks and sites. "cooldown": a rate that stays high while layers are off, and LoRA on
    every matrix."""
    if part == "cooldown":
        return {
            Run(task, seed, lora, METHODS[m], lr=lr, **settings): "rank 4" if lora == LoRA() else "every matrix"
            for (m, lr, lora, settings), task, seed in itertools.product(COOLDOWN, COOLDOWN_TASKS, SEEDS)
            if m in methods
        }
    methods = methods if part == "rates" else [m for m in methods if m in ("lora", "copra")]
    out = {}
    for method, task, seed in itertools.product(methods, DEVELOPMENT, SEEDS):
        if part == "shapes":
            out |= {Run(task, seed, lora, METHODS[method], lr=4e-3, **SHORT): shape for shape, lora in SHAPES.items()}
        else:
            settings, rates = (SHORT, RATES) if part == "rates" else (LONG, LONG_RATES)
            out |= {Run(task, seed, LoRA(), METHODS[method], lr=lr, **settings): "rank 4" for lr in rates}
    return out


def main() -> None:
    p = arguments(__doc__)
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which parts of the map (default: all)")
    a = p.parse_args()
    shapes = {run: shape for part in a.parts for run, shape in runs(part, a.methods).items()}
    clip, found, seconds = adapters(list(shapes), a.work, a.jobs)
    benches = {task: bench(clip, task, "val") for task in DEVELOPMENT}
    rows, pairs = [], defaultdict(list)
    for run, adapter in tqdm(found.items(), desc="measuring"):
        b = benches[run.task]
        more = {"steps": run.steps, "batch": run.batch, "schedule": run.schedule, "lr": run.lr, "shape": shapes[run], "seconds": round(seconds[run], 1)}  # fmt: skip
        for setting, variant in (
            ("alone", adapter), ("even", keep(adapter, "even")), ("odd", keep(adapter, "odd")), ("80 % sparse", sparsify(adapter, 0.8)),
            ("90 % sparse", sparsify(adapter, 0.9)),
        ):  # fmt: skip
            rows.append(row(run, setting, b.accuracy(variant), **more))
        pairs[run.task, run.method, run.steps, run.batch, run.schedule, run.lr, shapes[run]].append((run, adapter, more))
    for (task, *_), ((run, x, more), (_, y, _)) in pairs.items():
        b = benches[task]
        rows.append(row(run, "middle of the deltas", b.accuracy(interpolate(x, y, 0.5)), **more) | {"seed": "-".join(map(str, SEEDS))})
        rows.append(row(run, "middle of the factors", b.accuracy(average_factors([x, y])), **more) | {"seed": "-".join(map(str, SEEDS))})
    write("regimes.csv", COLUMNS, rows)
    print(summary(rows))


def summary(rows: list[dict]) -> str:
    """A line a regime and method: means over the tasks, in percent."""
    cells = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[r["shape"], r["schedule"], r["steps"], r["batch"], r["lr"], r["method"]][r["setting"]].append(float(r["accuracy"]))
    settings = list(next(iter(cells.values())))
    lines = [f"{'':44}" + " ".join(f"{s:>12.12}" for s in settings)]
    for key in sorted(cells, key=str):
        lines.append(f"{key!s:44}" + " ".join(f"{100 * np.mean(cells[key][s]):12.1f}" for s in settings))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
