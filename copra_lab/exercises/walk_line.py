"""The checks of lesson 3."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.exercises import Exercise
from copra_lab.models.loading import load_clip
from copra_lab.models.sites import hf_name
from copra_lab.zoo import shipped


@cache
def _factors() -> tuple[Tensor, ...]:
    """A₁, B₁, A₂, B₂ of the two LoRA adapters for digits at one site."""
    clip, site = load_clip(), hf_name("vision", 3, "v")
    pairs = [s.load(clip).deltas[site] for s in shipped("digits") if s.label.startswith("LoRA")]
    return tuple(t for d in pairs for t in (d.A, d.B))


# --- a point on the line in ΔW


def _on_line(
    A1: Tensor,
    B1: Tensor,
    A2: Tensor,
    B2: Tensor,
    lam: float,
    *,
    weights: str = "B",
    swapped: bool = False,
    order: str = "12",
    how: str = "stack",
) -> tuple[Tensor, Tensor]:
    w1, w2 = (lam, 1 - lam) if swapped else (1 - lam, lam)
    if how == "mean":
        return w1 * A1 + w2 * A2, w1 * B1 + w2 * B2
    a = [w1 * A1, w2 * A2] if weights == "A" else [A1, A2]
    b = [w1 * B1, w2 * B2] if weights == "B" else [B1, B2]
    if how == "vertical":
        return torch.cat(a), torch.cat(b)
    return torch.cat(a), torch.cat(b if order == "12" else b[::-1], dim=1)


def _praise_line(attempt: Callable) -> str:
    A1, B1, A2, B2 = _factors()
    A, B = attempt(A1, B1, A2, B2, 0.5)
    off = (B @ A - (B1 @ A1 + B2 @ A2) / 2).abs().max()
    return (
        f"This is an exact point of the line, of rank {len(A)}: halfway it differs from the mean "
        f"of the two changes by {off:.0e}."
    )


on_line = Exercise(
    parts=("A", "B"),
    solution=_on_line,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_line,
    atol=1e-6,
    mistakes={
        "The weights are the wrong way round: this goes from the second adapter to the first.": {
            "swapped": True
        },
        "This is the sum of the two changes: the weights are missing.": {"weights": "none"},
        "A carries weights, but it should stay unweighted. (If B carries them as well, the product "
        "has their squares.)": {"weights": "A"},
        "The B's are in a different order from the A's: each reads what the other's A wrote.": {
            "order": "21"
        },
        "This averages the factors and stays at rank r: nothing is stacked, and the product has "
        "cross terms.": {"how": "mean"},
        "The B's are stacked vertically: the result would have twice as many outputs.": {
            "how": "vertical"
        },
    },
)


# --- the barrier


def _barrier_of(
    lam: Tensor,
    values: Tensor,
    *,
    chord: str = "line",
    beyond: bool = False,
    at: str = "all",
    sign: int = 1,
) -> Tensor:
    start, end = values[lam == 0], values[lam == 1]
    line = {
        "line": (1 - lam) * start + lam * end,
        "reversed": lam * start + (1 - lam) * end,
        "mean": ((start + end) / 2).expand_as(lam),
        "best": torch.maximum(start, end).expand_as(lam),
        "start": start.expand_as(lam),
    }[chord]
    gap = sign * (line - values)
    if at == "middle":
        return gap[lam == 0.5][0]
    inside = gap if beyond else gap[(lam >= 0) & (lam <= 1)]
    return inside.mean() if at == "average" else inside.max()


def _path() -> tuple[Tensor, Tensor]:
    """A worked example: unordered, with points beyond the ends, not deepest in the middle."""
    lam = torch.tensor([0.5, 0.0, -0.5, 0.25, 1.5, 1.0, 0.75])
    return lam, torch.tensor([0.62, 0.77, 0.30, 0.58, 0.41, 0.83, 0.81])


def _praise_barrier(attempt: Callable) -> str:
    flat = attempt(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.7, 0.9, 0.8]))
    return (
        f"That path has a barrier of {100 * attempt(*_path()):.1f} points. A path that rises "
        f"between its ends has {100 * flat:.1f}, as it should."
    )


barrier_of = Exercise(
    parts=("the barrier",),
    solution=_barrier_of,
    arguments=_path,
    praise=_praise_barrier,
    atol=1e-5,
    mistakes={
        "Points beyond the two ends were counted: a barrier lies between them.": {"beyond": True},
        "The straight line starts at the wrong end: at λ = 0 it should equal the value at λ = 0.": {
            "chord": "reversed"
        },
        "Each point is compared with the mean of the two ends, not with the straight line there.": {
            "chord": "mean"
        },
        "Each point is compared with the better end, not with the straight line there.": {
            "chord": "best"
        },
        "Each point is compared with the start, not with the straight line there.": {
            "chord": "start"
        },
        "This is the gap in the middle; the path is deeper elsewhere.": {"at": "middle"},
        "This is the average gap; a barrier is the largest.": {"at": "average"},
        "The sign is wrong: this is how far the path rises above the straight line.": {"sign": -1},
    },
)


# --- what a point on the line in A and B is made of


def _parts_of(
    A1: Tensor,
    B1: Tensor,
    A2: Tensor,
    B2: Tensor,
    lam: float,
    *,
    own: str = "squared",
    cross: str = "both",
    weight: str = "product",
    swapped: bool = False,
    flip: bool = False,
) -> tuple[Tensor, Tensor]:
    w1, w2 = (lam, 1 - lam) if swapped else (1 - lam, lam)
    o1, o2 = (w1, w2) if own == "plain" else (w1**2, w2**2)
    one, two = B1 @ A2, B2 @ A1
    mixed = {"both": one + two, "first": one, "second": two, "difference": one - two}[cross]
    scale = {"product": w1 * w2, "double": 2 * w1 * w2, "none": 1.0}[weight]
    parts = o1 * (B1 @ A1) + o2 * (B2 @ A2), scale * mixed
    return parts[::-1] if flip else parts


def _praise_parts(attempt: Callable) -> str:
    own, cross = attempt(*_factors(), 0.5)
    return (
        f"At this site the midpoint has own parts of norm {own.norm():.2f} and cross terms of norm "
        f"{cross.norm():.2f}; on the line in ΔW the midpoint would have norm {2 * own.norm():.2f}."
    )


parts_of = Exercise(
    parts=("own", "cross"),
    solution=_parts_of,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_parts,
    atol=1e-6,
    mistakes={
        "These are the weights of the line in ΔW: here B and A each contribute one weight.": {
            "own": "plain"
        },
        "The weights are the wrong way round: at λ = 0 only the first adapter should be left.": {
            "swapped": True
        },
        "One cross term is missing: the second adapter's B reads the first one's A as well.": {
            "cross": "first"
        },
        "One cross term is missing: the first adapter's B reads the second one's A as well.": {
            "cross": "second"
        },
        "The two cross terms are subtracted: add them.": {"cross": "difference"},
        "The cross terms are twice too large: there are two of them already, each with one weight "
        "from B and one from A.": {"weight": "double"},
        "The cross terms came in at full size: they too carry a weight from B and one from A.": {
            "weight": "none"
        },
        "The two parts are returned in the other order.": {"flip": True},
    },
)
