"""Linear mode connectivity: accuracy along the line between two seeds, in the deltas and in the factors, for LoRA, CopRA
and the baselines: ``python experiments/lines.py`` writes ``results/lines.csv``."""

from common import adapters, arguments, bench, headline, pairs, reported, row, write
from tqdm.auto import tqdm

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "space")
WEIGHTS = (0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1.0)


def main() -> None:
    a = arguments(__doc__).parse_args()
    runs = headline(a.tasks or reported())
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in {r.task for r in runs}}
    rows = []
    for one, two in tqdm(pairs(runs), desc="lines"):
        for space in ("delta", "factors"):
            path = benches[one.task].path(found[one], found[two], WEIGHTS, space)
            rows += [row(one, w, x, space=space) | {"seed": f"{one.seed}-{two.seed}"} for w, x in zip(path.weights, path.accuracies, strict=True)]
    if not a.tasks:
        write("lines.csv", COLUMNS, rows)


if __name__ == "__main__":
    main()
