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
from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, seeded
from copra_lab.models.loading import load_clip
from copra_lab.shapley.games import LayerGame
from copra_lab.shapley.values import Exact, all_coalitions
from copra_lab.tasks.task import load_task


@cache
def _layers() -> LayerGame:
    """The twelve layers of LoRA's adapter for digits, on 40 test images."""
    clip = load_clip()
    task = load_task("digits", clip)
    few = replace(task, test=task.test.pick(range(0, 800, 20)))
    return LayerGame(Bench(clip, few), adapters()[0])


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


def _shapley(v: Callable[[Iterable[int]], float], n: int, made: Mistakes = NONE) -> Tensor:
    """Shapley values (n,)."""
    out = []
    for i in range(n):
        others, total = [j for j in range(n) if j != i], 0.0
        for size in made.pick(range(n), added_last=[n - 1], alone=[0]):
            orders = math.factorial(size) * math.factorial(n - size - 1)
            weight = made.pick(
                orders / math.factorial(n),
                equal=0.5 ** (n - 1),
                orders=orders,
                **dict.fromkeys(("unweighted", "added_last", "alone"), 1.0),
            )
            for s in combinations(others, size):
                total += (v({*s, i}) - (0.0 if "not_subtracted" in made else v(s))) * weight
        out.append(-total if "sign" in made else total)
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
        "equal": "Every coalition has the same weight, so medium sizes, of which there are more, "
        "count more. The values do not sum to v(N) − v(∅).",
        "unweighted": "These are sums of gains, not means: the weights are missing.",
        "orders": "These are totals over all orders: too large by the number of orders.",
        "added_last": "This is what each player adds to all the others: the smaller coalitions "
        "were left out.",
        "alone": "This is what each player adds alone: the larger coalitions were left out.",
        "not_subtracted": "These average the values of coalitions with the player: the value "
        "without the player was not subtracted.",
        "sign": "The sign is wrong: it is *with* the player minus *without*.",
    },
)


# --- what each player adds when joining in one order


def _values_of(coalitions: Tensor) -> Tensor:
    return torch.from_numpy(_layers()(np.asarray(coalitions)))


_ORDER = [3, 8, 0, 11, 5, 1, 9, 2, 10, 4, 7, 6]


def _marginals(
    v: Callable[[Tensor], Tensor], order: Sequence[int], made: Mistakes = NONE
) -> Tensor:
    n = len(order)
    before = torch.zeros(n + 1, n, dtype=torch.bool)
    for k, player in enumerate(order):
        before[k + 1 :, player] = True
    values = v(before)
    if "empty_is_0" in made:
        values[0] = 0
    gains = values[1:] if "values" in made else values.diff()
    if "alone" in made:
        gains = v(torch.eye(n, dtype=torch.bool))[order] - values[0]
    return made.pick(gains[np.argsort(order)], as_joined=gains, inverse=gains[list(order)])


def _praise_marginals(attempt: Callable) -> str:
    g = seeded(0)
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
        "as_joined": "The numbers are right but in the wrong places: the first entry belongs to "
        "player 0, not to the player who came first.",
        "inverse": "The numbers were permuted the wrong way round: `gains[order]` reads where you "
        "should write.",
        "empty_is_0": "The first to join was credited with the whole value it reaches: the empty "
        "coalition has a value too, here what the base model gets right.",
        "values": "Each player was credited with all that those before it had reached: subtract "
        "that.",
        "alone": "Each player was added to the empty coalition: add it to those before it.",
    },
)


# --- the curve g(p)


def _multilinear(
    by_size: Tensor, p: Tensor, made: Mistakes = NONE
) -> tuple[Tensor, Tensor, Tensor]:
    n = len(by_size) - 1
    q = made.pick(p, backwards=1 - p)

    def bernstein(c: Tensor) -> Tensor:
        m = len(c) - 1
        times = [1 if "one_each" in made else math.comb(m, k) for k in range(m + 1)]
        terms = [times[k] * c[k] * q**k * (1 - q) ** (m - k) for k in range(m + 1)]
        return torch.stack(terms).sum(0)

    slope = made.pick(n, one_player=1) * bernstein(by_size.diff())
    area = made.pick(by_size.mean(), straight=torch.trapezoid(by_size) / n, sum=by_size.sum())
    return bernstein(by_size), slope, area


def _curve() -> tuple[Tensor, Tensor]:
    points = torch.tensor([0.0, 0.1, 0.3, 0.5, 0.8, 1.0], dtype=torch.float64)
    return torch.from_numpy(_quarters().curve.by_size), points


def _praise_multilinear(attempt: Callable) -> str:
    by_size, p = _curve()[0], torch.linspace(0, 1, 1001, dtype=torch.float64)
    g, slope, area = attempt(by_size, p)
    return (
        f"On a fine grid of p your curve has a mean of {g.mean():.4f} and an area of {area:.4f}; "
        f"your slope integrates to {torch.trapezoid(slope, p):.4f}, and v(N) − v(∅) is "
        f"{by_size[-1] - by_size[0]:.4f}."
    )


multilinear = Exercise(
    parts=("the curve", "its slope", "its area"),
    solution=_multilinear,
    arguments=_curve,
    praise=_praise_multilinear,
    mistakes={
        "one_each": "Each size was counted as a single coalition: there are several of most.",
        "backwards": "The curve runs backwards: at p = 1 all players should be on.",
        "one_player": "The slope is too small by a factor: it adds up what *every* player adds.",
        "straight": "The area is that of straight lines through the means by size: the curve "
        "passes through them only at the ends.",
        "sum": "The area is larger than any value of the curve: over an interval of length 1 it "
        "must lie between its values.",
    },
)
