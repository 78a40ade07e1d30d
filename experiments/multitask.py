"""Several tasks in one adapter: ``python experiments/multitask.py`` writes ``multitask.csv``.

Every merge method, for LoRA and CopRA. A method's scale is chosen on the tasks' validation images,
and its accuracy is measured on their test images.
"""

from collections.abc import Callable, Sequence
from functools import partial

import numpy as np
from common import adapters, arguments, bench, finish, headline, row
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter
from copra_lab.merging import MERGES, merge, task_arithmetic, truncate, weighted_sum

TASKS = (
    "things-shadows",
    "things-sketch",
    "travel-solarised",
    "faces-noise",
    "people-occluded",
    "symbols-waves",
)
SCALES = (0.1, 0.2, 0.3, 0.5, 0.7, 1.0)
COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "scale")


def scaled(name: str, xs: Sequence[Adapter], scale: float) -> Adapter:
    """A merge of the table at a scale: that of the sum of all tasks' deltas, whether the merge is
    of the size of a sum or of a mean.
    """
    line = MERGES[name]
    if "weights" in line.parameters:
        return merge(name, xs, weights=[scale**0.5] * len(xs))
    if line.copies == "itself":
        scale *= len(xs)
    if "scale" in line.parameters:
        return merge(name, xs, scale=scale)
    return weighted_sum([merge(name, xs)], [scale])


WAYS: dict[str, Callable[[Sequence[Adapter], float], Adapter]] = {
    line.label: partial(scaled, name)
    for name, line in MERGES.items()
    if name != "sum" and not line.needs and not line.pair  # the sum is task arithmetic
} | {"task arithmetic at rank 4": lambda xs, scale: truncate(task_arithmetic(xs, scale), 4)}
"""(adapters, scale) → one adapter: all merges of the table that need no data."""


def main() -> None:
    a = arguments(__doc__, methods=("lora", "copra")).parse_args()
    tasks = a.tasks or TASKS
    methods = a.methods or ("lora", "copra")
    runs = headline(tasks, methods, seeds=3)
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {(t, s): bench(clip, t, s) for t in tasks for s in ("val", "test")}
    rows = []
    for method in methods:
        for seed in range(3):
            own = [r for r in runs if r.name == method and r.seed == seed]
            rows += [
                row(r, "each its own", benches[r.task, "test"].accuracy(found[r])) for r in own
            ]
            rows += [row(r, "none", benches[r.task, "test"].accuracy()) for r in own]
            for name, way in tqdm(WAYS.items(), desc=f"{method} {seed}", leave=False):
                merged = {s: way([found[r] for r in own], s) for s in SCALES}
                best = max(
                    SCALES,
                    key=lambda s: np.mean(
                        [benches[t, "val"].accuracy(merged[s]).value for t in tasks]
                    ),
                )
                rows += [
                    row(r, name, benches[r.task, "test"].accuracy(merged[best]), scale=best)
                    for r in own
                ]
    finish(a, "multitask.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
