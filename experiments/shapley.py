"""What each layer contributes: ``python experiments/shapley.py``.

Exact Shapley values of the twelve layers, LoRA against CopRA, and pruning by them against pruning
by magnitude and by position. Writes ``shapley.csv``, ``sizes.csv`` and ``ranked.csv``. It uses the
adapters that ship, two seeds of each method on six tasks, so nothing is trained. The value of a
coalition is its accuracy on validation images, for all 4,096 coalitions; pruned adapters are
measured on test images.
"""

import io
from pathlib import Path

import numpy as np
from common import METHODS, arguments, bench, finish, row
from tqdm.auto import tqdm

from copra_lab.adapters import Adapter
from copra_lab.bench import Bench
from copra_lab.models import Clip, load_clip
from copra_lab.pruning import keep, keep_best, layers_of, magnitudes
from copra_lab.shapley import Exact, LayerGame, exact
from copra_lab.sweeps import Run
from copra_lab.utils.files import write_atomically
from copra_lab.zoo import shipped

COUNTS = (3, 6, 9)
COLUMNS = ("task", "method", "seed", "setting", "n")


def solved(run: Run, adapter: Adapter, val: Bench, clip: Clip, work: Path) -> Exact:
    """The game of a run's layers, loaded from `work` or computed and stored there."""
    file = run.folder(clip, work) / "game.npy"
    if file.exists():
        return Exact(np.load(file, allow_pickle=False))
    game = LayerGame(val, adapter)
    found = exact(game, game.n_players)
    raw = io.BytesIO()
    np.save(raw, found.worth, allow_pickle=False)
    write_atomically(file, raw.getvalue())
    return found


def pruned(adapter: Adapter, values: np.ndarray) -> dict[tuple[str, int], Adapter]:
    """(ranking, number of layers kept) → the adapter."""
    layers = layers_of(adapter)
    worth = dict(zip(layers, values.tolist(), strict=True))
    by = {
        "best by Shapley value": worth,
        "worst by Shapley value": {i: -v for i, v in worth.items()},
        "largest": magnitudes(adapter),
    }
    out = {(name, k): keep_best(adapter, scores, k) for name, scores in by.items() for k in COUNTS}
    return out | {
        (where, k): keep(adapter, layers[:k] if where == "lowest" else layers[-k:])
        for where in ("lowest", "highest")
        for k in COUNTS
    }


def main() -> None:
    a = arguments(__doc__, jobs=False).parse_args()
    clip = load_clip()
    found = {Run.of(s.task, s.seed, dropping=METHODS[s.method]): s.load(clip) for s in shipped()}
    runs = [r for r in found if r.task in (a.tasks or [r.task])]
    tasks = list(dict.fromkeys(r.task for r in runs))
    val, test = ({t: bench(clip, t, split) for t in tasks} for split in ("val", "test"))
    values, sizes, ranked = [], [], []
    for run in tqdm(runs, desc="games"):
        adapter, n = found[run], len(val[run.task])
        game = solved(run, adapter, val[run.task], clip, a.work)
        about = {"task": run.task, "method": run.name, "seed": run.seed, "n": n}
        values += [
            about | {"setting": i, "value": round(float(v), 5)}
            for i, v in zip(layers_of(adapter), game.values, strict=True)
        ]
        sizes += [
            about | {"setting": k, "value": round(float(v), 5)}
            for k, v in enumerate(game.curve.by_size)
        ]
        variants = pruned(adapter, game.values)
        accuracies = test[run.task].accuracies(list(variants.values()))
        ranked += [
            row(run, name, x, layers=k) for (name, k), x in zip(variants, accuracies, strict=True)
        ]
    finish(a, "shapley.csv", (*COLUMNS, "value"), values)
    finish(a, "sizes.csv", (*COLUMNS, "value"), sizes)
    finish(a, "ranked.csv", (*COLUMNS, "accuracy", "layers"), ranked)


if __name__ == "__main__":
    main()
