"""The error of sampled Shapley values: ``python benchmarks/sampling.py``.

Against the number of coalitions and against time, for our samplers, shapiq's and captum's on the
same game. Writes ``sampling.csv`` and ``sampling.png``. Needs captum (``pip install captum``).

The game is that of an adapter's twelve layers on 128 images. It is solved exactly first; samplers
then look values up in its table, so that only the coalitions they ask for count. Time is what a
coalition costs: one by one in full forward passes for the others, in batches that share computation
for ours, and for all of them, exactly, on the tree.
"""

import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import torch
from matplotlib.figure import Figure
from others import FullForward
from race import seconds
from run import Setting
from tqdm.auto import tqdm

from copra_lab.shapley import SAMPLERS, LayerGame, estimate, exact
from copra_lab.utils.files import csv_bytes, write_atomically

HERE = Path(__file__).parent
IMAGES, SEEDS = 128, 30
BUDGETS = (64, 128, 256, 512, 1024, 2048, 4096)

Game = Callable[[np.ndarray], np.ndarray]


class Table:
    """A solved game that counts the coalitions it is asked for."""

    def __init__(self, worth: np.ndarray):
        self.worth, self.n, self.asked = worth, int(worth.size).bit_length() - 1, 0

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        x = np.atleast_2d(np.asarray(coalitions, bool))
        self.asked += len(x)
        return self.worth[x @ (1 << np.arange(self.n)[::-1])]


def shapiqs(name: str) -> Callable[[Table, int, int], np.ndarray]:
    def run(game: Table, budget: int, seed: int) -> np.ndarray:
        import shapiq

        found = getattr(shapiq, name)(n=game.n, random_state=seed).approximate(budget, game)
        return np.array([found[(i,)] for i in range(game.n)])

    return run


def captums(game: Table, budget: int, seed: int) -> np.ndarray:
    from captum.attr import ShapleyValueSampling

    torch.manual_seed(seed)
    method = ShapleyValueSampling(lambda x: torch.from_numpy(game(x.numpy() > 0.5)))
    return method.attribute(
        torch.ones(1, game.n), baselines=0.0, n_samples=max(1, budget // game.n)
    )[0].numpy()


def ours(name: str) -> Callable[[Table, int, int], np.ndarray]:
    return lambda game, budget, seed: estimate(game, game.n, name, budget=budget, seed=seed).values


WAYS: dict[str, Callable[[Table, int, int], np.ndarray]] = {
    **{f"ours, {name}": ours(name) for name in SAMPLERS},
    **{
        f"shapiq, {name}": shapiqs(name)
        for name in ("PermutationSamplingSV", "OwenSamplingSV", "SVARM", "KernelSHAP")
    },
    "captum, ShapleyValueSampling": captums,
}


def main() -> None:
    s = Setting(quick=False, repeats=1)
    bench = s.bench(IMAGES)
    start = time.perf_counter()
    solved = exact(LayerGame(bench, s.a), 12)
    whole = time.perf_counter() - start
    asked = np.random.default_rng(0).random((256, 12)) < 0.5
    game, other = LayerGame(bench, s.a), FullForward(bench, s.a)
    each = {
        "ours": seconds(lambda: game.outcomes(asked)) / len(asked),
        "theirs": seconds(lambda: other(asked[:64])) / 64,
    }
    truth, rows = solved.values, []
    for way in tqdm(WAYS, desc="samplers"):
        for budget in BUDGETS:
            tables, errors = [Table(solved.worth) for _ in range(SEEDS)], []
            for seed, table in enumerate(tables):
                errors.append(
                    float(np.sqrt(np.mean((WAYS[way](table, budget, seed) - truth) ** 2)))
                )
            used = np.mean([t.asked for t in tables])
            cost = each["ours" if way.startswith("ours") else "theirs"]
            rows.append(
                {
                    "way": way,
                    "budget": budget,
                    "evaluations": round(used, 1),
                    "seconds": round(used * cost, 3),
                    "error": round(np.mean(errors), 6),
                    "seeds": SEEDS,
                    "images": IMAGES,
                }
            )
    last = rows[0] | {
        "way": "ours, exact",
        "budget": 4096,
        "evaluations": 4096,
        "seconds": round(whole, 3),
        "error": 0.0,
        "seeds": 1,
    }
    write_atomically(HERE / "sampling.csv", csv_bytes(tuple(last), [*rows, last]))
    figure(rows, whole).savefig(
        HERE / "sampling.png", dpi=110, facecolor="white", metadata={"Software": None}
    )


def figure(rows: list[dict], whole: float) -> Figure:
    fig = Figure(figsize=(11, 4.6), layout="constrained")
    for ax, what in zip(fig.subplots(1, 2, sharey=True), ("evaluations", "seconds"), strict=True):
        for i, way in enumerate(WAYS):
            own = [r for r in rows if r["way"] == way]
            mark, style = (
                ("o", "-")
                if way.startswith("ours")
                else ("s", "--")
                if way.startswith("shapiq")
                else ("^", ":")
            )
            ax.plot(
                [r[what] for r in own],
                [100 * r["error"] for r in own],
                mark + style,
                ms=4,
                color=f"C{i}",
                label=way,
            )
        ax.axvline(
            4096 if what == "evaluations" else whole, color="black", lw=1, label="ours, exact"
        )
        ax.set(
            xscale="log",
            yscale="log",
            xlabel="coalitions asked" if what == "evaluations" else "seconds that they cost",
        )
        ax.grid(alpha=0.25, which="both")
    fig.axes[0].set_ylabel(
        "error of a layer's value, points of accuracy\n(root of the mean square, mean over seeds)"
    )
    fig.legend(
        *fig.axes[0].get_legend_handles_labels(),
        loc="outside right center",
        frameon=False,
        fontsize=9,
    )
    return fig


if __name__ == "__main__":
    main()
