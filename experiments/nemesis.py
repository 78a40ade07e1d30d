"""CoOp against Nemesis, and the Low-Norm Effect, on the bundled CLIP: ``python experiments/nemesis.py``. Parts (``--parts``):

tune       six settings of each method on the validation images of the development tasks  → nemesis_tuning.csv
few-shot   1, 2, 4, 8 and 16 shots, test images                                           → nemesis.csv
new        trained on the first half of the classes, tested on either half                → nemesis_new.csv
epochs     accuracy and mean norm while training                                          → nemesis_epochs.csv
survey     every vector of CoOp's prompts corrupted in turn                               → lownorm.csv
visual     the same penalties on tokens of the image tower                                → nemesis_visual.csv
"""

from collections.abc import Iterator
from dataclasses import replace

import numpy as np
from common import DEVELOPMENT, arguments, bench, reported, write
from joblib import Parallel, delayed
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.clip import Clip, load_clip
from copra_lab.nemesis import Nemesis, survey
from copra_lab.prompts import VPT, SoftPrompt
from copra_lab.stats import Accuracy
from copra_lab.sweep import PromptRun, train_all, trained
from copra_lab.tasks import load_task
from copra_lab.train import Step, fit

PARTS = ("tune", "few-shot", "new", "epochs", "survey", "visual")
SHOTS = (1, 2, 4, 8, 16)
SEEDS = 3
METHODS = ("coop", "pun", "pan", "pun+pan")

GRID: dict[str, list[dict]] = {
    "coop": [{"lr": lr, "steps": steps} for lr in (5e-4, 2e-3, 1e-2) for steps in (200, 600)],
    "pun": [{"lr": lr, "penalty": Nemesis(1.0, w)} for lr in (2e-3, 1e-2) for w in (0.1, 1.0, 10.0)],
    "pan": [{"lr": lr, "penalty": Nemesis(0.0, w, samples=n)} for lr in (2e-3, 1e-2) for w, n in ((1.0, 1), (10.0, 1), (1.0, 8))],
    "pun+pan": [{"lr": lr, "penalty": Nemesis(0.5, w)} for lr in (2e-3, 1e-2) for w in (0.1, 1.0, 10.0)],
}
"""As many settings for each. What is not said is `PromptRun`'s."""

CHOSEN: dict[str, dict] = {
    "coop": {},
    "pun": {"penalty": Nemesis(1.0, 1.0)},
    "pan": {"penalty": Nemesis(0.0, 1.0)},
    "pun+pan": {"penalty": Nemesis(0.5, 1.0)},
}
"""By method. Not chosen yet: CoOp's own rate and A = 1, until the best of `GRID` on validation images is known (``--parts tune``)."""

TAUS, SIGMAS = (0.001, 0.1, 0.5, 2.0), (0.0, 0.01)

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy")


def row(run: PromptRun, prompt: SoftPrompt, accuracy: Accuracy, **more: object) -> dict:
    own = {"task": run.task, "method": run.method, "seed": run.seed, "setting": run.shots, "n": accuracy.n, "accuracy": round(accuracy.value, 4)}
    return own | {"norm": round(float(prompt.norms().mean()), 3)} | more


def settings(run: PromptRun) -> dict:
    p = run.penalty
    return {
        "lr": run.lr, "steps": run.steps, "beta": p.beta if p else "", "weight": p.weight if p else "", "tau": p.tau if p else "",
        "samples": p.samples if p else "",
    }  # fmt: skip


def tune() -> list[PromptRun]:
    return [
        PromptRun(task, seed, shots=shots, **grid)
        for m in METHODS for grid in GRID[m] for task in DEVELOPMENT for shots in (4, 16) for seed in (100, 101)
    ]  # fmt: skip


def few_shot(tasks: list[str]) -> list[PromptRun]:
    """A task that has fewer drawings of a class than shots gives what it has."""
    return [PromptRun(task, seed, shots=shots, **CHOSEN[m]) for m in METHODS for task in tasks for shots in SHOTS for seed in range(SEEDS)]


def new(tasks: list[str]) -> list[PromptRun]:
    return [replace(r, part="base") for r in few_shot(tasks) if r.shots == 16]


def visual(tasks: list[str]) -> list[PromptRun]:
    penalties = [CHOSEN[m].get("penalty") for m in METHODS]
    return [PromptRun(t, s, VPT(), p, lr=2e-2, batch=16, views=0) for t in tasks for p in penalties for s in range(SEEDS)]


def both_halves(run: PromptRun, prompt: SoftPrompt, benches: dict[str, tuple[Bench, Bench]]) -> list[dict]:
    base, other = (b.accuracy(prompt=prompt) for b in benches[run.task])
    middle = 2 * base.value * other.value / max(1e-9, base.value + other.value)
    named = {"base": base, "new": other}
    rows = [row(run, prompt, a, setting=what) for what, a in named.items()]
    return [*rows, rows[0] | {"setting": "harmonic", "n": base.n + other.n, "accuracy": round(middle, 4)}]


def followed(run: PromptRun) -> list[dict]:
    """Accuracy on test images and mean norm after every twentieth of a training, which sees neither."""
    task, rows = run.load_task(), []

    def look(step: Step) -> None:
        if step.validation is not None:
            about = {"task": run.task, "method": run.method, "seed": run.seed, "setting": step.step, "n": len(task.test)}
            rows.append(about | {"accuracy": round(step.validation, 4), "norm": round(float(np.mean(step.norms)), 4)})

    fit(
        load_clip(), replace(task, val=task.test), run.prompt, penalty=run.penalty, seed=run.seed, steps=run.steps, lr=run.lr, batch=run.batch,
        views=run.views, validate_every=run.steps // 20, progress=False, on_step=look,
    )  # fmt: skip
    return rows


def corrupted(run: PromptRun, prompt: SoftPrompt, benches: dict[str, Bench]) -> Iterator[dict]:
    for split, b in benches.items():
        for c in survey(b, prompt, TAUS, SIGMAS, seed=run.seed):
            yield {
                "task": run.task, "shots": run.shots, "seed": run.seed, "kind": c.kind, "position": c.position, "factor": c.factor, "split": split,
                "norm": f"{c.norm:.4g}", "delta": f"{c.delta:.4g}", "p": f"{c.p:.3g}",
            }  # fmt: skip


def found(runs: list[PromptRun], clip: Clip, a) -> list[tuple[PromptRun, SoftPrompt]]:
    train_all(runs, a.work, a.jobs)
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
        rows = [row(r, x, val[r.task].accuracy(prompt=x), **settings(r)) for r, x in found(tune(), clip, a)]
        out["nemesis_tuning.csv"] = (*more, "lr", "steps", "beta", "weight", "tau", "samples"), rows
    if "few-shot" in a.parts:
        test = {t: bench(clip, t, "test") for t in tasks}
        rows = [
            {"task": t, "method": "zero-shot", "seed": "", "setting": 0, "n": z.n, "accuracy": round(z.value, 4)}
            for t in tasks
            for z in [test[t].accuracy()]
        ]
        out["nemesis.csv"] = more, rows + [row(r, x, test[r.task].accuracy(prompt=x)) for r, x in found(few_shot(tasks), clip, a)]
    if "new" in a.parts:
        halves = {t: tuple(Bench(clip, half) for half in load_task(t).base_and_new()) for t in tasks}
        out["nemesis_new.csv"] = more, [line for r, x in tqdm(found(new(tasks), clip, a)) for line in both_halves(r, x, halves)]
    if "epochs" in a.parts:
        runs = [r for r in few_shot(tasks) if r.shots == 16]
        parallel = Parallel(a.jobs, return_as="generator")
        out["nemesis_epochs.csv"] = more, [line for lines in tqdm(parallel(delayed(followed)(r) for r in runs), total=len(runs)) for line in lines]
    if "survey" in a.parts:
        runs = [r for r in few_shot(tasks) if r.method == "coop"]
        both = {t: {s: bench(clip, t, s) for s in ("val", "test")} for t in tasks}
        rows = [line for r, x in tqdm(found(runs, clip, a), desc="surveys") for line in corrupted(r, x, both[r.task])]
        out["lownorm.csv"] = ("task", "shots", "seed", "kind", "position", "factor", "split", "norm", "delta", "p"), rows
    if "visual" in a.parts:
        some = [t for t in tasks if t in ("people-occluded", "faces-noise", "things-sketch", "count")]
        test = {t: bench(clip, t, "test") for t in some}
        out["nemesis_visual.csv"] = more, [row(r, x, test[r.task].accuracy(prompt=x)) for r, x in found(visual(some), clip, a)]
    for name, (columns, rows) in out.items():
        if not a.tasks:
            write(name, columns, rows)
        print(name, len(rows))


if __name__ == "__main__":
    main()
