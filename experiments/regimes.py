"""The map of training regimes: ``python experiments/regimes.py``.

LoRA, CopRA and the baselines at several learning rates; LoRA and CopRA also with other steps,
ranks, sites and schedules. All on *validation* images of the development tasks. What a run leaves
out (``--parts``, ``--methods``) stays in the file as it was.
"""

import itertools
from collections import defaultdict
from collections.abc import Sequence

import numpy as np
from common import DEVELOPMENT, METHODS, RESULTS, adapters, arguments, bench, read, row, write
from tqdm.auto import tqdm

from copra_lab.merging import average_factors, interpolate
from copra_lab.methods import LoRA
from copra_lab.pruning import keep, sparsify
from copra_lab.sweeps import Run

PARTS = ("rates", "steps", "shapes", "cosine")
SEEDS = (100, 101)  # of no other experiment
RATES = (1e-3, 2e-3, 4e-3, 8e-3)
SHAPES = {
    "rank 2": LoRA(rank=2),
    "rank 16": LoRA(rank=16),
    "every matrix": LoRA(sites=("q", "k", "v", "out", "fc1", "fc2")),
    "value only": LoRA(sites=("v",)),
}
COLUMNS = (
    "task",
    "method",
    "seed",
    "setting",
    "n",
    "accuracy",
    "steps",
    "batch",
    "schedule",
    "lr",
    "shape",
    "seconds",
)


def runs(part: str, methods: Sequence[str]) -> dict[Run, str]:
    """Runs with the name of their shape.

    "rates": every method at rank 4 on q, k and v. "steps": LoRA and CopRA with half as many steps
    of twice the batch. "shapes": LoRA and CopRA at other ranks and sites. "cosine": LoRA and CopRA
    with the usual schedule, for half as many images and half as many again.
    """
    methods = methods if part == "rates" else [m for m in methods if m in ("lora", "copra")]
    regimes: list[tuple[str, LoRA, dict, Sequence[float]]] = {
        "rates": [("rank 4", LoRA(), {}, RATES)],
        "steps": [("rank 4", LoRA(), {"steps": 600, "batch": 16}, (2e-3, 4e-3))],
        "shapes": [(shape, lora, {}, (2e-3, 4e-3)) for shape, lora in SHAPES.items()],
        "cosine": [
            ("rank 4", LoRA(), {"steps": 300, "batch": 16, "schedule": "cosine"}, RATES),
            (
                "rank 4",
                LoRA(),
                {"steps": 900, "batch": 16, "schedule": "cosine"},
                (2e-3, 4e-3, 8e-3),
            ),
        ],
    }[part]
    return {
        Run.of(task, seed, method=lora, dropping=METHODS[method], lr=lr, **settings): shape
        for shape, lora, settings, rates in regimes
        for method, task, lr, seed in itertools.product(methods, DEVELOPMENT, rates, SEEDS)
    }


def main() -> None:
    p = arguments(__doc__, tasks=False)
    p.add_argument(
        "--methods",
        nargs="+",
        choices=METHODS,
        default=list(METHODS),
        help="which methods (default: all)",
    )
    p.add_argument(
        "--parts",
        nargs="+",
        choices=PARTS,
        default=PARTS,
        help="which parts of the map (default: all)",
    )
    a = p.parse_args()
    shapes = {run: shape for part in a.parts for run, shape in runs(part, a.methods).items()}
    clip, found, seconds = adapters(list(shapes), a.work, a.jobs)
    benches = {task: bench(clip, task, "val") for task in DEVELOPMENT}
    rows, pairs = [], defaultdict(list)
    for run, adapter in tqdm(found.items(), desc="measuring"):
        b = benches[run.task]
        more = {**_settings(run, shapes[run]), "seconds": round(seconds[run], 1)}
        for setting, variant in (
            ("alone", adapter),
            ("even", keep(adapter, "even")),
            ("odd", keep(adapter, "odd")),
            ("80 % sparse", sparsify(adapter, 0.8)),
            ("90 % sparse", sparsify(adapter, 0.9)),
        ):
            rows.append(row(run, setting, b.accuracy(variant), **more))
        pairs[run.changed(seed=0), shapes[run]].append((run, adapter, more))
    for (run, x, more), (_, y, _) in pairs.values():
        b = benches[run.task]
        rows.append(
            row(run, "middle of the deltas", b.accuracy(interpolate(x, y, 0.5)), **more)
            | {"seed": "-".join(map(str, SEEDS))}
        )
        rows.append(
            row(run, "middle of the factors", b.accuracy(average_factors([x, y])), **more)
            | {"seed": "-".join(map(str, SEEDS))}
        )
    rows = others(rows, clip.hash) + rows
    write("regimes.csv", COLUMNS, rows)
    print(summary(rows))


def others(rows: list[dict], base: str) -> list[dict]:
    """Rows of the file that belong to the whole plan but are not in `rows`."""
    if not (RESULTS / "regimes.csv").exists():
        return []
    planned = {
        _regime({"task": r.task, "method": r.name, **_settings(r, shape)})
        for part in PARTS
        for r, shape in runs(part, list(METHODS)).items()
    }
    new = {_regime(r) for r in rows}
    return [
        {c: r[c] for c in COLUMNS}
        for r in read("regimes.csv")
        if r["base"] == base and _regime(r) in planned - new
    ]


def _settings(run: Run, shape: str) -> dict:
    return {
        "steps": run.settings.steps,
        "batch": run.settings.batch,
        "schedule": run.settings.schedule,
        "lr": run.settings.lr,
        "shape": shape,
    }


def _regime(row: dict) -> tuple:
    return (
        row["task"],
        row["method"],
        int(row["steps"]),
        int(row["batch"]),
        row["schedule"],
        float(row["lr"]),
        row["shape"],
    )


def summary(rows: list[dict]) -> str:
    """One line per regime and method: means over the tasks, in percent."""
    cells = defaultdict(lambda: defaultdict(list))
    for r in rows:
        cells[
            r["shape"], r["schedule"], int(r["steps"]), int(r["batch"]), float(r["lr"]), r["method"]
        ][r["setting"]].append(float(r["accuracy"]))
    settings = list(next(iter(cells.values())))
    lines = [f"{'':44}" + " ".join(f"{s:>12.12}" for s in settings)]
    for key in sorted(cells, key=str):
        lines.append(
            f"{key!s:44}" + " ".join(f"{100 * np.mean(cells[key][s]):12.1f}" for s in settings)
        )
    return "\n".join(lines)


if __name__ == "__main__":
    main()
