"""The checks of lesson 5, on coalitions of the layers of a shipped adapter."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import cache
from itertools import combinations

import numpy as np
import torch
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.exercises import Exercise
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
    """The same game with three neighbouring layers as one player."""
    whole, players = _layers(), {}
    for i in range(4):
        layers = [f".{name.split()[1]}." for name in whole.names[3 * i : 3 * i + 3]]
        players[f"quarter {i}"] = [n for x in layers for n in whole.adapter.deltas if x in n]
    return Exact(LayerGame(whole.bench, whole.adapter, players)(all_coalitions(4)))


# --- Shapley's value from its definition


def _value_of(players: Iterable[int]) -> float:
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
    """Shapley values (n,); `weight` is that of a coalition, `only` a single size of coalition."""
    out = []
    for i in range(n):
        others, total = [j for j in range(n) if j != i], 0.0
        for size in range(n) if only is None else [range(n)[only]]:
            orders = math.factorial(size) * math.factorial(n - size - 1)
            shapley = orders / math.factorial(n)
            w = {"shapley": shapley, "orders": orders, "equal": 0.5 ** (n - 1), "one": 1.0}[weight]
            for s in combinations(others, size):
                total += (v({*s, i}) - (v(s) if base else 0.0)) * w
        out.append(-total if flip else total)
    return torch.tensor(out, dtype=torch.float64)


def _praise_shapley(attempt: Callable) -> str:
    values = attempt(_value_of, 4)
    points = ", ".join(f"{100 * v:.1f}" for v in values.tolist())
    return (
        f"The four quarters of LoRA's adapter have values of {points} points of accuracy on 40 "
        f"digits, {100 * float(values.sum()):.1f} together."
    )


shapley = Exercise(
    parts=("the values",),
    solution=_shapley,
    arguments=lambda: (_value_of, 4),
    praise=_praise_shapley,
    mistakes={
        "Every coalition has the same weight, so medium sizes, of which there are more, count "
        "more. The values do not sum to v(N) − v(∅).": {"weight": "equal"},
        "These are sums of gains, not means: the weights are missing.": {"weight": "one"},
        "These are totals over all orders: they are too large by the number of orders.": {
            "weight": "orders"
        },
        "This is what each player adds to all the others: the smaller coalitions were left out.": {
            "weight": "one",
            "only": -1,
        },
        "This is what each player adds alone: the larger coalitions were left out.": {
            "weight": "one",
            "only": 0,
        },
        "These average the values of coalitions with the player: the value without the player was "
        "not subtracted.": {"base": False},
        "The sign is wrong: it is *with* the player minus *without*.": {"flip": True},
    },
)


# --- what each player adds when joining in one order


def _values_of(coalitions: Tensor) -> Tensor:
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
    values = v(before)
    if empty == "nothing":
        values[0] = 0
    gains = values.diff() if differ else values[1:]
    if alone:
        gains = v(torch.eye(n, dtype=torch.bool))[order] - values[0]
    if place == "joined":
        return gains
    if place == "inverse":
        return gains[list(order)]
    out = torch.empty_like(gains)
    out[list(order)] = gains
    return out


def _praise_marginals(attempt: Callable) -> str:
    g = torch.Generator().manual_seed(0)
    orders = [torch.randperm(12, generator=g).tolist() for _ in range(8)]
    mean = torch.stack([attempt(_values_of, order) for order in orders]).mean(0)
    top = ", ".join(map(str, mean.argsort(descending=True)[:3].tolist()))
    return (
        f"Averaged over eight random orders, layers {top} add most. Eight orders are few, as you "
        "will see below."
    )


marginals = Exercise(
    parts=("what each player adds",),
    solution=_marginals,
    arguments=lambda: (_values_of, list(_ORDER)),
    praise=_praise_marginals,
    mistakes={
        "The numbers are right but in the wrong places: the first entry belongs to player 0, not "
        "to the player who came first.": {"place": "joined"},
        "The numbers were permuted the wrong way round: `gains[order]` reads where you should "
        "write.": {"place": "inverse"},
        "The first to join was credited with the whole value it reaches: the empty coalition has a "
        "value too, here what the base model gets right.": {"empty": "nothing"},
        "These are values of coalitions: each player was credited with all that those before it "
        "had reached.": {"differ": False},
        "Each player was added to the empty coalition: add it to those who came before it.": {
            "alone": True
        },
    },
)


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
        times = [math.comb(m, k) if choose else 1 for k in range(m + 1)]
        terms = [times[k] * c[k] * q**k * (1 - q) ** (m - k) for k in range(m + 1)]
        return torch.stack(terms).sum(0)

    areas = {
        "mean": by_size.mean(),
        "trapezoid": torch.trapezoid(by_size) / n,
        "sum": by_size.sum(),
    }
    return bernstein(by_size), (n if steep == "n" else 1) * bernstein(by_size.diff()), areas[area]


def _by_size() -> Tensor:
    return torch.from_numpy(_quarters().curve.by_size)


def _points() -> Tensor:
    return torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)


def _praise_multilinear(attempt: Callable) -> str:
    p, by_size = torch.linspace(0, 1, 1001, dtype=torch.float64), _by_size()
    g, slope, area = attempt(by_size, p)
    return (
        f"On a fine grid of p your curve has a mean of {g.mean():.4f} and an area of {area:.4f}; "
        f"your slope integrates to {torch.trapezoid(slope, p):.4f}, and v(N) − v(∅) is "
        f"{by_size[-1] - by_size[0]:.4f}."
    )


multilinear = Exercise(
    parts=("the curve", "its slope", "its area"),
    solution=_multilinear,
    arguments=lambda: (_by_size(), _points()),
    praise=_praise_multilinear,
    mistakes={
        "Each size was counted as a single coalition: there are several of most sizes.": {
            "choose": False
        },
        "The curve runs backwards: at p = 1 all players should be on.": {"flip": True},
        "The slope is too small by a factor: it adds up what *every* player adds, not one.": {
            "steep": "1"
        },
        "The area is that of straight lines through the means by size: the curve passes through "
        "them only at the ends.": {"area": "trapezoid"},
        "The area came out larger than any value of the curve: over an interval of length 1 it "
        "must lie between its values.": {"area": "sum"},
    },
)
