"""Pruning after training: ``python experiments/pruning.py``.

Whole layers and kinds of matrix (``structured.csv``), and entries by magnitude
(``unstructured.csv``), for LoRA, CopRA and the baselines.
"""

from common import METHODS, adapters, arguments, bench, finish, headline, reported, row
from tqdm.auto import tqdm

from copra_lab.adapters import NONE
from copra_lab.pruning import PRESETS, keep, sparsify

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy")
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)


def main() -> None:
    a = arguments(__doc__, methods=METHODS).parse_args()
    runs = headline(a.tasks or reported(), a.methods or METHODS)
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in {r.task for r in runs}}
    structured, unstructured = [], []
    for run, adapter in tqdm(found.items(), desc="pruning"):
        parts = (
            {"all": adapter, "none": NONE}
            | {f"layers {p}": keep(adapter, p) for p in PRESETS}
            | {f"only {k}": keep(adapter, kinds=k) for k in "qkv"}
        )
        sparse = {
            (of, s): sparsify(adapter, s, of) for of in ("factors", "delta") for s in SPARSITIES
        }
        accuracies = benches[run.task].accuracies([*parts.values(), *sparse.values()])
        structured += [row(run, setting, x) for setting, x in zip(parts, accuracies, strict=False)]
        unstructured += [
            row(run, s, x, entries=of)
            for (of, s), x in zip(sparse, accuracies[len(parts) :], strict=True)
        ]
    finish(a, "structured.csv", COLUMNS, structured)
    finish(a, "unstructured.csv", (*COLUMNS, "entries"), unstructured)


if __name__ == "__main__":
    main()
