"""The influence of the learning rate: ``python experiments/rates.py``.

Accuracy alone, in the middle of two seeds and pruned, at low to high rates, for LoRA and CopRA
(``rates.csv``), and a map of the adapters by t-SNE (``rates_tsne.csv``).
"""

import numpy as np
import torch
from common import METHODS, adapters, arguments, bench, finish, pairs, row
from sklearn.manifold import TSNE
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter
from copra_lab.merging import average_factors, interpolate
from copra_lab.pruning import keep, sparsify
from copra_lab.sweeps import Run

TASKS = ("things-sketch", "same-drawings-occluded", "digits")
RATES, SEEDS = (1e-3, 2e-3, 4e-3, 8e-3), 3
COLUMNS = ("task", "method", "seed", "setting", "n", "accuracy", "lr")


def vector(adapter: Adapter) -> np.ndarray:
    """All numbers of A and B in one vector."""
    return torch.cat([t.flatten() for d in adapter.deltas.values() for t in (d.A, d.B)]).numpy()


def main() -> None:
    a = arguments(__doc__).parse_args()
    tasks = a.tasks or TASKS
    runs = [
        Run.of(t, s, dropping=METHODS[m], lr=lr)
        for t in tasks
        for lr in RATES
        for m in ("lora", "copra")
        for s in range(SEEDS)
    ]
    clip, found, _ = adapters(runs, a.work, a.jobs)
    benches = {t: bench(clip, t, "test") for t in tasks}
    rows = []
    for r, x in tqdm(found.items(), desc="alone and pruned"):
        variants = {
            "alone": x,
            "layers even": keep(x, "even"),
            "layers odd": keep(x, "odd"),
            "80 % sparse": sparsify(x, 0.8),
        }
        rows += [
            row(r, name, a, lr=r.settings.lr)
            for name, a in zip(
                variants, benches[r.task].accuracies(list(variants.values())), strict=True
            )
        ]
    for one, two in tqdm(pairs(runs), desc="merged"):
        x, y = found[one], found[two]
        for setting, merged in (
            ("middle of the deltas", interpolate(x, y, 0.5)),
            ("middle of the factors", average_factors([x, y])),
        ):
            rows.append(
                row(one, setting, benches[one.task].accuracy(merged), lr=one.settings.lr)
                | {"seed": f"{one.seed}-{two.seed}"}
            )
    points = []
    for t in tasks:
        own = [r for r in runs if r.task == t]
        vectors = np.stack([vector(found[r]) for r in own])
        vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
        xy = TSNE(perplexity=5, metric="cosine", init="random", random_state=0).fit_transform(
            vectors
        )
        points += [
            {
                "task": t,
                "method": r.name,
                "seed": r.seed,
                "lr": r.settings.lr,
                "x": round(float(u), 3),
                "y": round(float(v), 3),
            }
            for r, (u, v) in zip(own, xy, strict=True)
        ]
    finish(a, "rates.csv", COLUMNS, rows)
    finish(a, "rates_tsne.csv", ("task", "method", "seed", "lr", "x", "y"), points)


if __name__ == "__main__":
    main()
