"""Pruning after training: ``python experiments/pruning.py``.

Whole layers and kinds of matrix (``structured.csv``), and entries by magnitude
(``unstructured.csv``), for LoRA, CopRA and the baselines. Rows of all tasks say which share of the
gain over the base is lost.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence

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
    reported,
    row,
)
from tqdm.auto import tqdm

from copra_lab.adapters import NONE
from copra_lab.pruning import PRESETS, keep, sparsify
from copra_lab.utils.statistics import Accuracy, Outcomes

COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", *LOST)
SPARSITIES = (0.0, 0.5, 0.8, 0.9, 0.95)

Kept = Mapping[tuple[str, object], Mapping[str, list[np.ndarray]]]
"""(method, setting) → task → the outcomes of each seed, (n,)."""


def lost(
    kept: Kept, method: str, settings: Sequence[object], sources: Mapping[str, list[str]]
) -> list[Outcomes]:
    """What a method's adapters lose in each task, in the mean of some settings."""
    return [
        Outcomes(
            np.stack(alone),
            np.mean([kept[method, s][t] for s in settings], axis=0),
            kept[method, "none"][t][0],
            sources[t],
        )
        for t, alone in kept[method, "all"].items()
    ]


def main() -> None:
    a = arguments(__doc__, methods=METHODS).parse_args()
    runs = headline(a.tasks or reported(), a.methods or METHODS)
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in {r.task for r in runs}}
    kept: dict = defaultdict(lambda: defaultdict(list))
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
        made = [*parts.values(), *sparse.values()]
        outcomes = benches[run.task].outcomes(made).numpy()
        for setting, hits in zip((*parts, *sparse), outcomes, strict=True):
            kept[run.name, setting][run.task].append(hits)
        accuracies = [Accuracy(int(hits.sum()), len(hits)) for hits in outcomes]
        structured += [row(run, setting, x) for setting, x in zip(parts, accuracies, strict=False)]
        unstructured += [
            row(run, s, x, entries=of)
            for (of, s), x in zip(sparse, accuracies[len(parts) :], strict=True)
        ]
    sources = {t: b.sources for t, b in benches.items()}
    for method in dict.fromkeys(r.name for r in runs):
        halves = lost(kept, method, ("layers even", "layers odd"), sources)
        structured.append(lost_row(method, "every other layer removed", halves))
        unstructured += [
            lost_row(method, s, lost(kept, method, [(of, s)], sources), entries=of)
            for of, s in sparse
            if s
        ]
    finish(a, "structured.csv", COLUMNS, structured)
    finish(a, "unstructured.csv", (*COLUMNS, "entries"), unstructured)


if __name__ == "__main__":
    main()
