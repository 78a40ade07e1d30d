"""Several tasks in one adapter: ``python experiments/multitask.py`` writes ``multitask.csv``.

Every merge method, for LoRA and CopRA. A method's scale is chosen on the tasks' validation images,
and its accuracy is measured on their test images.
"""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from common import adapters, arguments, bench, finish, headline, row
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter
from copra_lab.merging import average_factors, dare, task_arithmetic, ties, truncate

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


def _dare(adapters: Sequence[Adapter], scale: float) -> Adapter:
    g = torch.Generator().manual_seed(0)
    return task_arithmetic([dare(a, 0.8, g) for a in adapters], scale)


MERGES: dict[str, Callable[[Sequence[Adapter], float], Adapter]] = {
    "task arithmetic": task_arithmetic,
    "TIES": lambda xs, scale: ties(xs, 0.2, scale * len(xs)),
    "DARE": _dare,
    "task arithmetic at rank 4": lambda xs, scale: truncate(task_arithmetic(xs, scale), 4),
    "factors": lambda xs, scale: average_factors(xs, [scale**0.5] * len(xs)),
    "aligned factors": lambda xs, scale: average_factors(xs, [scale**0.5] * len(xs), aligned=True),
}
"""(adapters, scale) → one adapter. The scale is that of the sum of all tasks' deltas."""


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
            for name, merge in tqdm(MERGES.items(), desc=f"{method} {seed}", leave=False):
                merged = {s: merge([found[r] for r in own], s) for s in SCALES}
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
