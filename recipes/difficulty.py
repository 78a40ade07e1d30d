"""How hard each task is at each candidate strength: ``python recipes/difficulty.py``.

Only training and validation images are used: zero-shot, a linear probe on raw pixels, and quick
plain LoRA of two seeds, all scored on every validation image. No test image is scored, and no other
method is trained, so that strengths favour none. Strengths in use are in
``copra_lab/tasks/difficulty.py``.

The rule, written before any of it was run. *r* is the share of the way from chance to all right:

- A **near** task takes the strength at which zero-shot is nearest to the middle between chance and
  what it is on the same drawings unspoilt: there is something to lose, and something to regain.
- A **structured** task takes the hardest strength at which the probe has *r* < 0.5 and LoRA has
  *r* ≥ 0.4 on average of its seeds: pixels alone do not answer it, and it can be learned. If no
  strength does, it takes that with the largest difference of the two, and the output says so.

Candidates stand in the order of difficulty. What a strength looks like to a person matters too: a
candidate that is not legible at 64 pixels does not stand here. Settings of methods are chosen on
the development tasks of ``experiments/common.py``, not here.
"""

import argparse
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np
from probes import linear_probe, raw_pixels
from tqdm.auto import tqdm

from copra_lab.bench import Bench
from copra_lab.methods import LoRA
from copra_lab.models import Clip, load_clip
from copra_lab.tasks import TASKS, Task, load_task
from copra_lab.tasks.emoji.recipe import Recipe
from copra_lab.training import Job, fit_many

PROBE, LEARNED = 0.5, 0.4
"""The two thresholds of the rule for structured tasks."""

SEEDS = (100, 101)
"""Of training; no experiment uses them."""

QUICK = {"steps": 300, "batch": 16, "lr": 4e-3, "schedule": "cosine"}
"""LoRA in half the time of the defaults, and about as good."""

Strength = Mapping[str, Any]

CANDIDATES: dict[str, tuple[Strength, ...]] = {
    "things-blur": tuple({"sigma": s} for s in (0.014, 0.02, 0.028, 0.04)),
    "things-mosaic": tuple({"cells": c} for c in ((14, 16), (12, 14), (10, 12), (8, 10))),
    "things-shadows": tuple({"shadow": s} for s in (0.5, 0.3, 0.15)),
    "things-sketch": tuple({"tint": t} for t in (0.5, 0.3, 0.15)),
    "travel-solarised": tuple({"above": a} for a in (0.7, 0.6, 0.5, 0.4)),
    "faces-noise": tuple({"sigma": s} for s in ((0.05, 0.15), (0.1, 0.25), (0.15, 0.35))),
    "people-occluded": tuple({"share": s} for s in (0.1, 0.16, 0.24)),
    "symbols-waves": tuple({"reach": r} for r in ((0.1, 0.16), (0.14, 0.22), (0.18, 0.28))),
    "same-drawings-occluded": tuple({"share": s} for s in (0.1, 0.15, 0.22)),
    "where": tuple({"sizes": s} for s in ((0.22, 0.26), (0.18, 0.26), (0.14, 0.2))),
    "size": tuple({"ratio": r} for r in (1.7, 1.55, 1.4, 1.25)),
    "turn": tuple({"tilt": t} for t in (2.0, 8.0, 20.0)),
    "same-or-different": tuple({"sizes": s} for s in ((0.36, 0.42), (0.3, 0.42), (0.24, 0.36))),
    "odd-one-out": tuple({"sizes": s} for s in ((0.42, 0.46), (0.36, 0.42), (0.28, 0.4))),
    "largest": tuple({"ratio": r} for r in (1.7, 1.45, 1.3, 1.2)),
    "beside": tuple({"sizes": s} for s in ((0.34, 0.42), (0.26, 0.36), (0.2, 0.28))),
    "clock": tuple({"hands": h} for h in (0.5, 0.6, 0.75, 0.9)),
}
"""Strengths of each task, from easy to hard, as its drawing or its nuisance takes them."""


@dataclass(frozen=True)
class Measured:
    """Accuracies on validation images, and chance."""

    strength: Strength
    chance: float
    zero_shot: float
    probe: float
    lora: float

    def share(self, accuracy: float) -> float:
        """How far `accuracy` is from chance (0) to all right (1)."""
        return (accuracy - self.chance) / (1 - self.chance)


def changed(recipe: Recipe, strength: Strength) -> Recipe:
    """The recipe at another strength."""
    if "shadow" in strength:
        return replace(recipe, shadow=strength["shadow"])
    field = "scene" if recipe.scene else "nuisance"
    now = getattr(recipe, field)
    assert isinstance(now, partial), "a task with candidates has a strength"
    return replace(recipe, **{field: partial(now, **strength)})


def unspoilt(recipe: Recipe) -> Recipe:
    """The recipe of the same drawings as they are."""
    return replace(recipe, shadow=None, nuisance=None)


def variant(recipe: Recipe, kept: str) -> Task:
    """The task of a recipe, with all validation images and none to test on.

    The recipe is put into the table of tasks under the name `kept`, from which tasks are drawn.
    """
    TASKS[kept] = recipe
    few, every = load_task(kept), load_task(kept, shots=10**6)
    return replace(few, val=every.val, test=every.val)


def candidates(clip: Clip, name: str) -> Iterator[Measured]:
    for i, strength in enumerate(CANDIDATES[name]):
        task = variant(changed(TASKS[name], strength), f"{name}, strength {i}")
        bench = Bench(clip, task, "val", precision="float32")
        jobs = [Job.of(task, LoRA(), seed=seed, **QUICK) for seed in SEEDS]
        learned = fit_many(clip, jobs, progress=False)
        yield Measured(
            strength,
            1 / len(task.classes),
            bench.accuracy().value,
            linear_probe(task, raw_pixels).value,
            float(np.mean([bench.accuracy(adapter).value for adapter in learned])),
        )


def chosen(found: list[Measured], clean: float | None) -> tuple[Measured, str]:
    """The strength that the rule takes, and a word on it.

    Args:
        found: From easy to hard.
        clean: Zero-shot accuracy on the unspoilt drawings; None for a structured task.
    """
    if clean is not None:
        middle = (found[0].chance + clean) / 2
        return min(found, key=lambda m: abs(m.zero_shot - middle)), f"middle {middle:.3f}"
    fit = [m for m in found if m.share(m.probe) < PROBE and m.share(m.lora) >= LEARNED]
    if fit:
        return fit[-1], "hardest that can be learned"
    return max(found, key=lambda m: m.lora - m.probe), "NONE DOES: the largest difference"


def main() -> None:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--tasks", nargs="+", choices=CANDIDATES, default=list(CANDIDATES))
    a = p.parse_args()
    clip = load_clip()
    for name in a.tasks:
        recipe, clean = TASKS[name], None
        if not recipe.scene:
            task = variant(unspoilt(recipe), f"{name}, unspoilt")
            clean = Bench(clip, task, "val", precision="float32").accuracy().value
        found = list(tqdm(candidates(clip, name), desc=name, leave=False))
        best, why = chosen(found, clean)
        print(f"\n{name}, chance {found[0].chance:.3f}" + (f", clean {clean:.3f}" if clean else ""))
        for m in found:
            mark = f"  <- {why}" if m is best else ""
            told = " ".join(f"{k}={v}" for k, v in m.strength.items())
            numbers = f"zero-shot {m.zero_shot:.3f}  probe {m.probe:.3f}  LoRA {m.lora:.3f}"
            print(f"  {told:24} {numbers}{mark}", flush=True)


if __name__ == "__main__":
    main()
