"""Linear mode connectivity: ``python experiments/lines.py`` writes ``results/lines.csv``.

Accuracy along the line between two seeds, in ΔW, in the factors and in aligned factors, for LoRA,
CopRA and the baselines (of these only the ends and the middle). Controls stand beside the middles,
since averaging factors mostly makes ΔW smaller: half of one adapter, half of the middle of ΔW, and
that middle times a number chosen on validation images. Rows of all tasks say which share of the
gain over the base is lost, against the mean of the two ends.
"""

from collections import defaultdict

import numpy as np
from common import (
    LOST,
    METHODS,
    adapters,
    arguments,
    bench,
    finish,
    headline,
    lost_row,
    pairs,
    reported,
    row,
)
from tqdm.auto import tqdm

from copra_lab.adapters import NONE, Adapter
from copra_lab.bench import Bench
from copra_lab.merging import SPACES, interpolate, weighted_sum
from copra_lab.utils.statistics import Accuracy, Outcomes

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "space", "scale", *LOST)
WEIGHTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)
SCALES = (1.0, 0.25, 0.5, 0.75, 1.25, 1.5, 2.0)
"""What the middle of ΔW is multiplied by; of equally good ones the first is taken."""

Point = tuple[str, object]
"""(space, setting) of a row."""


def scaled(adapter: Adapter, scale: float) -> Adapter:
    """The same direction in ΔW, more or less of it."""
    return weighted_sum([adapter], [scale])


def best_scale(adapter: Adapter, validation: Bench) -> float:
    """The one of `SCALES` that is most accurate on validation images."""
    found = validation.accuracies([scaled(adapter, s) for s in SCALES])
    return max(zip(SCALES, found, strict=True), key=lambda x: x[1].correct)[0]


def points(
    one: Adapter, two: Adapter, weights: tuple[float, ...], scale: float
) -> dict[Point, Adapter]:
    """The lines between two adapters, and the controls of their middles."""
    middle = interpolate(one, two, 0.5)
    return {(s, w): line(one, two, w) for s, line in SPACES.items() for w in weights} | {
        ("control", "half of one"): scaled(one, 0.5),
        ("control", "half of the middle"): scaled(middle, 0.5),
        ("control", "tuned middle"): scaled(middle, scale),
    }


def main() -> None:
    a = arguments(__doc__, methods=METHODS).parse_args()
    runs = headline(a.tasks or reported(), a.methods or METHODS)
    clip, found, _ = adapters(runs, a.work, a.jobs)
    tasks = list(dict.fromkeys(r.task for r in runs))
    benches = {(t, split): bench(clip, t, split) for t in tasks for split in ("val", "test")}
    base = {t: benches[t, "test"].outcomes([NONE])[0].numpy() for t in tasks}
    kept: dict[tuple[str, Point], dict[str, list[np.ndarray]]] = defaultdict(
        lambda: defaultdict(list)
    )
    rows = []
    for one, two in tqdm(pairs(runs), desc="lines"):
        weights = WEIGHTS if one.method in ("lora", "copra") else (0.0, 0.5, 1.0)
        x, y = found[one], found[two]
        scale = best_scale(interpolate(x, y, 0.5), benches[one.task, "val"])
        made = points(x, y, weights, scale)
        # All at once: what the lines share, their ends, is computed once.
        outcomes = benches[one.task, "test"].outcomes(list(made.values())).numpy()
        for (space, setting), hits in zip(made, outcomes, strict=True):
            kept[one.name, (space, setting)][one.task].append(hits)
            accuracy = Accuracy(int(hits.sum()), len(hits))
            more = {"scale": scale} if setting == "tuned middle" else {}
            rows.append(
                row(one, setting, accuracy, space=space, **more)
                | {"seed": f"{one.seed}-{two.seed}"}
            )
    for (method, (space, setting)), by_task in kept.items():
        if setting == 0.5 or space == "control":
            weaker = [
                Outcomes(
                    (np.stack(kept[method, ("delta", 0.0)][t]) + kept[method, ("delta", 1.0)][t])
                    / 2,
                    np.stack(hits),
                    base[t],
                    benches[t, "test"].sources,
                )
                for t, hits in by_task.items()
            ]
            rows.append(lost_row(method, setting, weaker, space=space))
    finish(a, "lines.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
