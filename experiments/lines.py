"""Linear mode connectivity: ``python experiments/lines.py`` writes ``results/lines.csv``.

Accuracy along the line between two seeds, in ΔW and in the factors, for LoRA, CopRA and the
baselines (of these only the ends and the middle).
"""

from common import METHODS, adapters, arguments, bench, finish, headline, pairs, reported, row
from tqdm.auto import tqdm

from copra_lab.merging import SPACES

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "space")
WEIGHTS = (0.0, 0.2, 0.4, 0.5, 0.6, 0.8, 1.0)


def main() -> None:
    a = arguments(__doc__, methods=METHODS).parse_args()
    runs = headline(a.tasks or reported(), a.methods or METHODS)
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in {r.task for r in runs}}
    rows = []
    for one, two in tqdm(pairs(runs), desc="lines"):
        weights = WEIGHTS if one.method in ("lora", "copra") else (0.0, 0.5, 1.0)
        points = [(space, w) for space in SPACES for w in weights]
        # All at once: what both lines share, their ends, is computed once.
        accuracies = benches[one.task].accuracies(
            [SPACES[space](found[one], found[two], w) for space, w in points]
        )
        rows += [
            row(one, w, x, space=space) | {"seed": f"{one.seed}-{two.seed}"}
            for (space, w), x in zip(points, accuracies, strict=True)
        ]
    finish(a, "lines.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
