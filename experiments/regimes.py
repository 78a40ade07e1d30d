"""From timid to wild: how LoRA and CopRA behave over steps, rates, ranks and sites, on the *validation* images of the
development tasks. The settings of every other experiment were chosen here: ``python experiments/regimes.py``."""

import itertools
from collections import defaultdict

import numpy as np
from common import DEVELOPMENT, METHODS, adapters, arguments, bench, row, write
from tqdm.auto import tqdm

from copra_lab.lora import LoRA
from copra_lab.merge import average_factors, interpolate
from copra_lab.prune import keep, sparsify
from copra_lab.sweep import Run

SEEDS = (100, 101)  # of no other experiment
REGIMES = ((200, 5e-4), (200, 1e-3), (200, 2e-3), (200, 8e-3), (800, 5e-4), (800, 2e-3), (800, 8e-3))
"""(steps, learning rate)"""
SHAPES = {
    "rank 2": LoRA(rank=2),
    "rank 16": LoRA(rank=16),
    "every matrix": LoRA(sites=("q", "k", "v", "out", "fc1", "fc2")),
    "value only": LoRA(sites=("v",)),
}
COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "steps", "lr", "shape", "seconds")


def runs() -> dict[Run, str]:
    """Every run, with the name of its shape: all regimes at rank 4 on q, k, v, and other shapes in one of them."""
    grid = itertools.product(DEVELOPMENT, ("lora", "copra"), SEEDS)
    out = {}
    for task, method, seed in grid:
        for steps, lr in REGIMES:
            out[Run(task, seed, LoRA(), METHODS[method], steps, lr, precision="bfloat16")] = "rank 4"
        for name, shape in SHAPES.items():
            out[Run(task, seed, shape, METHODS[method], 200, 2e-3, precision="bfloat16")] = name
    return out


def main() -> None:
    a = arguments(__doc__).parse_args()
    shapes = runs()
    clip, found, seconds = adapters(list(shapes), a.work, a.jobs)
    benches = {task: bench(clip, task, "val") for task in DEVELOPMENT}
    rows, pairs = [], defaultdict(list)
    for run, adapter in tqdm(found.items(), desc="measuring"):
        b = benches[run.task]
        more = {"steps": run.steps, "lr": run.lr, "shape": shapes[run], "seconds": round(seconds[run], 1)}
        for setting, variant in (
            ("alone", adapter), ("even", keep(adapter, "even")), ("odd", keep(adapter, "odd")), ("80 % sparse", sparsify(adapter, 0.8)),
            ("90 % sparse", sparsify(adapter, 0.9)),
        ):  # fmt: skip
            rows.append(row(run, setting, b.accuracy(variant), **more))
        pairs[run.task, run.method, run.steps, run.lr, shapes[run]].append((run, adapter, more))
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
        cells[r["shape"], r["steps"], r["lr"], r["method"]][r["setting"]].append(float(r["accuracy"]))
    settings = list(next(iter(cells.values())))
    lines = [f"{'':44}" + " ".join(f"{s:>12.12}" for s in settings)]
    for key in sorted(cells, key=str):
        lines.append(f"{key!s:44}" + " ".join(f"{100 * np.mean(cells[key][s]):12.1f}" for s in settings))
    return "\n".join(lines)


if __name__ == "__main__":
    main()
