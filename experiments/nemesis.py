"""CoOp against Nemesis, and the Low-Norm Effect: ``python experiments/nemesis.py``.

On the bundled CLIP, in parts (``--parts``):

- tune: ten settings of each method on validation images of the development tasks, and
  initialisations of the vectors → nemesis_tuning.csv
- few-shot: 1, 2, 4, 8 and 16 shots, test images → nemesis.csv
- noise: sixteen shots with sixteen vectors initialised as noise, as in the paper
  → nemesis_noise.csv
- new: trained on the first half of the classes, tested on both halves → nemesis_new.csv
- epochs: accuracy and mean norm during training → nemesis_epochs.csv
- survey: every vector of CoOp's prompts corrupted in turn → lownorm.csv
- visual: the same penalties on tokens of the image tower → nemesis_visual.csv

From one drawing style to the other is a task, ``style-shift``, and is in every table.
"""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
from common import DEVELOPMENT, arguments, bench, finish, reported, train
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from copra_lab.bench import Bench, survey
from copra_lab.models import Clip, load_clip
from copra_lab.prompts import VPT, CoOp, Nemesis, SoftPrompt
from copra_lab.sweeps import Run, trained
from copra_lab.tasks import load_task
from copra_lab.training import Step, fit
from copra_lab.utils.statistics import Accuracy

PARTS = ("tune", "few-shot", "noise", "new", "epochs", "survey", "visual")
SHOTS = (1, 2, 4, 8, 16)
SEEDS = 3
METHODS = ("coop", "pun", "pan", "pun+pan")

WORDS = CoOp(words="a drawing of a")
NOISE = CoOp()
"""Sixteen vectors initialised as noise, as in the papers of CoOp and Nemesis.

CoOp's best rate is different for them.
"""

BEGINNINGS = {"words": WORDS, "noise, 4": CoOp(4), "noise, 16": NOISE}

WEIGHTS = (0.05, 0.3, 2.0)
GRID: dict[str, list[dict]] = {
    "coop": [{"lr": lr, "steps": steps} for lr in (2e-3, 1e-2, 5e-2) for steps in (100, 200)],
    "pun": [{"lr": lr, "penalty": Nemesis(1.0, w)} for lr in (1e-2, 5e-2) for w in WEIGHTS],
    "pan": [{"lr": lr, "penalty": Nemesis(0.0, w)} for lr in (1e-2, 5e-2) for w in WEIGHTS],
    "pun+pan": [{"lr": lr, "penalty": Nemesis(0.5, w)} for lr in (1e-2, 5e-2) for w in WEIGHTS],
}
"""The same number of settings for each method; the rest is `Run.of`'s default."""

FINER: dict[str, list[dict]] = {
    "coop": [{"lr": lr} for lr in (2e-2, 3e-2, 7e-2, 1e-1)],
    "pun": [{"lr": lr, "penalty": Nemesis(1.0, w)} for lr in (1e-2, 2e-2) for w in (0.1, 1.0)],
    "pan": [
        {"lr": 1e-2, "penalty": Nemesis(0.0, 2.0, tau=t, samples=n)}
        for t, n in ((0.1, 1), (0.9, 1), (0.5, 4), (0.1, 4))
    ],
    "pun+pan": [
        {"lr": 1e-2, "penalty": Nemesis(b, 2.0, tau=t, samples=n)}
        for b, t, n in ((0.25, 0.5, 1), (0.75, 0.5, 1), (0.5, 0.1, 1), (0.5, 0.5, 4))
    ],
}
"""The same number again around the best of `GRID`: first rates and A, then τ, N and β."""

CHOSEN: dict[str, dict] = {
    "coop": {"lr": 5e-2},
    "pun": {"lr": 1e-2, "penalty": Nemesis(1.0, 1.0)},
    "pan": {"lr": 1e-2, "penalty": Nemesis(0.0, 2.0, tau=0.1, samples=4)},
    "pun+pan": {"lr": 1e-2, "penalty": Nemesis(0.25, 2.0)},
}
"""The best of `GRID` and `FINER` on the development tasks (``--parts tune``), by method."""

VISUAL = ("people-occluded", "faces-noise", "things-sketch", "count")
"""Tasks for tokens of the image tower, where every step runs the whole tower."""

TAUS, SIGMAS = (0.001, 0.1, 0.5, 2.0), (0.0, 0.01)

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy")


def row(run: Run, prompt: SoftPrompt, accuracy: Accuracy, **more: object) -> dict:
    own = {
        "task": run.task,
        "method": run.name,
        "seed": run.seed,
        "setting": run.options.shots,
        "n": accuracy.n,
        "accuracy": round(accuracy.value, 4),
    }
    return own | {"norm": round(float(prompt.norms().mean()), 3)} | more


def settings(run: Run) -> dict:
    p = run.penalty
    return {
        "lr": run.settings.lr,
        "steps": run.settings.steps,
        "beta": p.beta if p else "",
        "weight": p.weight if p else "",
        "tau": p.tau if p else "",
        "samples": p.samples if p else "",
        "begins": next(name for name, b in BEGINNINGS.items() if b == run.method),
    }


def tune() -> list[Run]:
    return [
        Run.of(task, seed, method=prompt, shots=shots, **grid)
        for task in DEVELOPMENT
        for shots in (4, 16)
        for seed in (100, 101)
        for prompt, grids in [
            *((WORDS, GRID[m] + FINER[m]) for m in METHODS),
            *((b, GRID["coop"]) for b in BEGINNINGS.values() if b != WORDS),
        ]
        for grid in grids
    ]


def chosen(task: str, name: str, seed: int, **more: Any) -> Run:
    return Run.of(task, seed, **{"method": WORDS, **CHOSEN[name], **more})


def runs(tasks: list[str], methods: Sequence[str] = METHODS, **more: Any) -> list[Run]:
    return [
        chosen(t, m, s, **more) for t in tasks for s in range(SEEDS) for m in methods
    ]  # what has the same images, in a row


def noise(tasks: list[str]) -> list[Run]:
    return [r.changed(lr=1e-2) for r in runs(tasks, method=NOISE)]


def few_shot(tasks: list[str]) -> list[Run]:
    """A task with fewer drawings of a class than shots uses what it has."""
    return [r for shots in SHOTS for r in runs(tasks, shots=shots)]


def both_halves(
    run: Run, prompt: SoftPrompt, benches: dict[str, tuple[Bench, Bench]]
) -> list[dict]:
    base, other = (b.accuracy(prompt=prompt) for b in benches[run.task])
    middle = 2 * base.value * other.value / max(1e-9, base.value + other.value)
    named = {"base": base, "new": other}
    rows = [row(run, prompt, a, setting=what) for what, a in named.items()]
    return [
        *rows,
        rows[0] | {"setting": "harmonic", "n": base.n + other.n, "accuracy": round(middle, 4)},
    ]


def followed(run: Run) -> list[dict]:
    """Accuracy on test images and mean norm after every twentieth of a training.

    The training sees neither.
    """
    task, rows = run.load_task(), []

    def look(step: Step) -> None:
        if step.validation is not None:
            about = {
                "task": run.task,
                "method": run.name,
                "seed": run.seed,
                "setting": step.step,
                "n": len(task.test),
            }
            rows.append(
                about
                | {
                    "accuracy": round(step.validation, 4),
                    "norm": round(float(np.mean(step.norms)), 4),
                }
            )

    fit(
        load_clip(),
        replace(task, val=task.test),
        run.method,
        penalty=run.penalty,
        settings=run.settings,
        validate_every=run.settings.steps // 20,
        progress=False,
        on_step=look,
    )
    return rows


def corrupted(run: Run, prompt: SoftPrompt, benches: dict[str, Bench]) -> Iterator[dict]:
    begins = "words" if run.method == WORDS else "noise"
    for split, b in benches.items():
        for c in survey(b, prompt, TAUS, SIGMAS, seed=run.seed):
            yield {
                "task": run.task,
                "shots": run.options.shots,
                "seed": run.seed,
                "kind": c.kind,
                "position": c.position,
                "factor": c.factor,
                "split": split,
                "begins": begins,
                "norm": f"{c.norm:.4g}",
                "delta": f"{c.delta:.4g}",
                "p": f"{c.p:.3g}",
            }


def found(runs: list[Run], clip: Clip, a) -> list[tuple[Run, SoftPrompt]]:
    train(runs, a.work, a.jobs)
    return [(r, trained(r, clip, a.work)[0]) for r in runs]


def main() -> None:
    p = arguments(__doc__ or "")
    p.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS, help="which (default: all)")
    a = p.parse_args()
    clip, tasks = load_clip(), a.tasks or reported()
    out: dict[str, tuple[tuple[str, ...], list[dict]]] = {}
    more = (*COLUMNS, "norm")
    if "tune" in a.parts:
        val = {t: bench(clip, t, "val") for t in DEVELOPMENT}
        rows = [
            row(r, x, val[r.task].accuracy(prompt=x), **settings(r))
            for r, x in found(tune(), clip, a)
        ]
        out["nemesis_tuning.csv"] = (
            (*more, "lr", "steps", "beta", "weight", "tau", "samples", "begins"),
            rows,
        )
    test = {t: bench(clip, t, "test") for t in tasks}

    def measured(runs: list[Run]) -> list[dict]:
        return [row(r, x, test[r.task].accuracy(prompt=x)) for r, x in found(runs, clip, a)]

    if "few-shot" in a.parts:
        words = [(t, test[t].accuracy()) for t in tasks]
        rows = [
            {
                "task": t,
                "method": "zero-shot",
                "seed": "",
                "setting": 0,
                "n": z.n,
                "accuracy": round(z.value, 4),
            }
            for t, z in words
        ]
        out["nemesis.csv"] = more, rows + measured(few_shot(tasks))
    if "noise" in a.parts:
        out["nemesis_noise.csv"] = more, measured(noise(tasks))
    if "new" in a.parts:
        halves = {
            t: tuple(Bench(clip, half) for half in load_task(t).base_and_new()) for t in tasks
        }
        out["nemesis_new.csv"] = (
            more,
            [
                line
                for r, x in tqdm(found(runs(tasks, part="base"), clip, a))
                for line in both_halves(r, x, halves)
            ],
        )
    if "epochs" in a.parts:
        parallel = Parallel(a.jobs, return_as="generator")
        todo = runs(tasks)
        out["nemesis_epochs.csv"] = (
            more,
            [
                line
                for lines in tqdm(parallel(delayed(followed)(r) for r in todo), total=len(todo))
                for line in lines
            ],
        )
    if "survey" in a.parts:
        both = {t: {"val": bench(clip, t, "val"), "test": test[t]} for t in tasks}
        todo = [r for r in few_shot(tasks) if r.method == "coop"] + [
            r for r in noise(tasks) if r.method == "coop"
        ]
        rows = [
            line
            for r, x in tqdm(found(todo, clip, a), desc="surveys")
            for line in corrupted(r, x, both[r.task])
        ]
        out["lownorm.csv"] = (
            (
                "task",
                "shots",
                "seed",
                "kind",
                "position",
                "factor",
                "split",
                "begins",
                "norm",
                "delta",
                "p",
            ),
            rows,
        )
    if "visual" in a.parts:
        todo = runs(
            [t for t in tasks if t in VISUAL], method=VPT(), lr=2e-2, steps=200, batch=16, views=0
        )
        out["nemesis_visual.csv"] = more, measured(todo)
    for name, (columns, rows) in out.items():
        finish(a, name, columns, rows)


if __name__ == "__main__":
    main()
