"""Lesson 5's checks, on coalitions of the layers of a shipped adapter."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.loading import load_clip
from copra_lab.shapley.games import LayerGame
from copra_lab.shapley.values import Exact, all_coalitions
from copra_lab.tasks.task import load_task
from copra_lab.zoo import shipped


@cache
def _layers() -> LayerGame:
    """The twelve layers of LoRA's adapter for digits, on 40 test images."""
    clip = load_clip()
    task = load_task("digits", clip)
    few = replace(task, test=task.test.pick(range(0, 800, 20)))
    return LayerGame(Bench(clip, few), shipped("digits")[0].load(clip))


@cache
def _quarters() -> Exact:
    """The same, with three neighbouring layers a player."""
    whole = _layers()
    sites = [
        [
            n
            for name in whole.names[i : i + 3]
            for n in whole.adapter.deltas
            if f".{name.split()[1]}." in n
        ]
        for i in range(0, 12, 3)
    ]
    game = LayerGame(whole.bench, whole.adapter, {f"quarter {i}": s for i, s in enumerate(sites)})
    return Exact(game(all_coalitions(4)))


# --- Shapley's value from its definition


def _worth_of(players: Iterable[int]) -> float:
    return float(_quarters().worth[sum(8 >> p for p in set(players))])


def _shapley(
    v: Callable[[Iterable[int]], float],
    n: int,
    *,
    weight: str = "shapley",
    only: int | None = None,
    base: bool = True,
    flip: bool = False,
) -> Tensor:
    """`weight`: what a coalition counts; `only`: a single size of coalition, from the end if negative."""
    out = []
    for i in range(n):
        others, total = [j for j in range(n) if j != i], 0.0
        for size in range(n) if only is None else [range(n)[only]]:
            arrangements = math.factorial(size) * math.factorial(n - size - 1)
            for s in combinations(others, size):
                gain = v({*s, i}) - (v(s) if base else 0.0)
                total += (
                    gain
                    * {
                        "shapley": arrangements / math.factorial(n),
                        "orders": arrangements,
                        "alike": 0.5 ** (n - 1),
                        "one": 1.0,
                    }[weight]
                )
        out.append(-total if flip else total)
    return torch.tensor(out, dtype=torch.float64)


def _shapley_praise(attempt: Callable) -> str:
    values = attempt(_worth_of, 4)
    return (
        f"The four quarters of LoRA's adapter are worth {', '.join(f'{100 * v:.1f}' for v in values.tolist())} points of accuracy on 40 digits, "
        f"{100 * float(values.sum()):.1f} together."
    )


shapley = Exercise(
    parts=("the values",),
    solution=_shapley,
    arguments=lambda: (_worth_of, 4),
    praise=_shapley_praise,
    mistakes={
        "all coalitions alike": Mistake({"weight": "alike"}, "Every coalition was counted alike, so middling sizes, of which there are more, weigh more. The values do not sum to v(N) − v(∅)."),
        "not weighted": Mistake({"weight": "one"}, "These are sums of gains, not means: the weights are missing."),
        "not divided": Mistake({"weight": "orders"}, "These are totals over all orders: they are as many times too large as there are orders."),
        "leave one out": Mistake({"weight": "one", "only": -1}, "This is what each player adds to all the others: the smaller coalitions were left out."),
        "first in": Mistake({"weight": "one", "only": 0}, "This is what each player is worth alone: the larger coalitions were left out."),
        "no difference": Mistake({"base": False}, "These are averages of what coalitions with the player are worth: what they are worth without was not taken off."),
        "sign": Mistake({"flip": True}, "The sign is wrong: it is *with* the player minus *without*."),
    },
)  # fmt: skip


# --- what each player adds on joining in one order


def _ask(coalitions: Tensor) -> Tensor:
    return torch.from_numpy(_layers()(np.asarray(coalitions)))


_ORDER = [3, 8, 0, 11, 5, 1, 9, 2, 10, 4, 7, 6]


def _marginals(
    v: Callable[[Tensor], Tensor],
    order: Sequence[int],
    *,
    place: str = "player",
    empty: str = "asked",
    differ: bool = True,
    alone: bool = False,
) -> Tensor:
    n = len(order)
    before = torch.zeros(n + 1, n, dtype=torch.bool)
    for k, player in enumerate(order):
        before[k + 1 :, player] = True
    worth = v(before)
    if empty == "nothing":
        worth[0] = 0
    gains = worth.diff() if differ else worth[1:]
    if alone:
        gains = v(torch.eye(n, dtype=torch.bool))[order] - worth[0]
    if place == "joined":
        return gains
    if place == "inverse":
        return gains[list(order)]
    out = torch.empty_like(gains)
    out[list(order)] = gains
    return out


def _marginals_praise(attempt: Callable) -> str:
    g = torch.Generator().manual_seed(0)
    mean = torch.stack(
        [attempt(_ask, torch.randperm(12, generator=g).tolist()) for _ in range(8)]
    ).mean(0)
    top = mean.argsort(descending=True)[:3].tolist()
    return f"Averaged over eight random orders, layers {', '.join(map(str, top))} add most. Eight are few: see how few below."


marginals = Exercise(
    parts=("what each player adds",),
    solution=_marginals,
    arguments=lambda: (_ask, list(_ORDER)),
    praise=_marginals_praise,
    mistakes={
        "in the order of joining": Mistake({"place": "joined"}, "Right numbers, wrong places: the first entry belongs to player 0, not to the player who came first."),
        "the inverse order": Mistake({"place": "inverse"}, "The numbers were permuted the wrong way round: `gains[order]` reads where you should write."),
        "nobody is worth nothing": Mistake({"empty": "nothing"}, "The first to join was given all of what it reaches: an empty coalition is worth something too, here what the base gets right."),
        "no difference": Mistake({"differ": False}, "These are values of coalitions: each player was credited with all that those before it had reached."),
        "each alone": Mistake({"alone": True}, "Each player was added to nobody: it should be added to those who came before it."),
    },
)  # fmt: skip


# --- the curve g(p)


def _multilinear(
    by_size: Tensor,
    p: Tensor,
    *,
    choose: bool = True,
    flip: bool = False,
    steep: str = "n",
    area: str = "mean",
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(by_size) - 1
    q = 1 - p if flip else p

    def bernstein(c: Tensor) -> Tensor:
        m = len(c) - 1
        return torch.stack(
            [
                (math.comb(m, k) if choose else 1) * c[k] * q**k * (1 - q) ** (m - k)
                for k in range(m + 1)
            ]
        ).sum(0)

    areas = {
        "mean": by_size.mean(),
        "trapezoid": torch.trapezoid(by_size) / n,
        "sum": by_size.sum(),
    }
    return bernstein(by_size), (n if steep == "n" else 1) * bernstein(by_size.diff()), areas[area]


def _by_size() -> Tensor:
    return torch.from_numpy(_quarters().curve.by_size)


def _multilinear_praise(attempt: Callable) -> str:
    p = torch.linspace(0, 1, 1001, dtype=torch.float64)
    g, slope, area = attempt(_by_size(), p)
    return (
        f"On a fine grid of p your curve has a mean of {g.mean():.4f} and an area of {area:.4f}; your slope integrates to "
        f"{torch.trapezoid(slope, p):.4f}, and v(N) − v(∅) is {_by_size()[-1] - _by_size()[0]:.4f}."
    )


multilinear = Exercise(
    parts=("the curve", "its slope", "its area"),
    solution=_multilinear,
    arguments=lambda: (_by_size(), torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)),
    praise=_multilinear_praise,
    mistakes={
        "one coalition a size": Mistake({"choose": False}, "Each size was counted as a single coalition: there are several of most sizes."),
        "p the wrong way round": Mistake({"flip": True}, "The curve runs backwards: at p = 1 everybody should be on."),
        "slope too flat": Mistake({"steep": "1"}, "The slope is too small by a factor: it adds up what *every* player contributes, not one."),
        "area by trapezoids": Mistake({"area": "trapezoid"}, "The area is that of straight lines through the means by size: the curve does not pass through them, except at the ends."),
        "area not a mean": Mistake({"area": "sum"}, "The area came out larger than any value of the curve: over an interval of length 1 it must lie between them."),
    },
)  # fmt: skip
