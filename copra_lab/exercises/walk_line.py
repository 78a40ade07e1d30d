"""Lesson 3's checks."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.exercises import Exercise, Mistake
from copra_lab.models.loading import load_clip
from copra_lab.models.sites import hf_name
from copra_lab.zoo import shipped


@cache
def _factors() -> tuple[Tensor, ...]:
    """A₁, B₁, A₂, B₂ of one site of the two LoRA adapters for digits."""
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
    if how == "B below":
        return torch.cat(a), torch.cat(b)
    return torch.cat(a), torch.cat(b if order == "12" else b[::-1], dim=1)


def _praise_line(attempt: Callable) -> str:
    A1, B1, A2, B2 = _factors()
    A, B = attempt(A1, B1, A2, B2, 0.5)
    off = (B @ A - (B1 @ A1 + B2 @ A2) / 2).abs().max()
    return f"An exact point of the line, of rank {len(A)}: halfway it differs from the mean of the two changes by {off:.0e}."


on_line = Exercise(
    parts=("A", "B"),
    solution=_on_line,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_line,
    atol=1e-6,
    mistakes={
        "swapped": Mistake({"swapped": True}, "The weights are the wrong way round: this walks from the second adapter to the first."),
        "no weights": Mistake({"weights": "none"}, "This is the sum of the two changes: the weights are missing."),
        "weights in A": Mistake({"weights": "A"}, "A carries weights, and was to stay unweighted. (If B carries them as well, the product has their squares.)"),
        "order": Mistake({"order": "21"}, "The B's stand in the other order than the A's: each reads what the other's A wrote."),
        "mean of factors": Mistake({"how": "mean"}, "This averages the factors and stays at rank r: nothing is stacked, and the product has cross terms."),
        "B below": Mistake({"how": "B below"}, "The B's stand one below the other: the result would be for twice as many outputs."),
    },
)  # fmt: skip


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
        "turned": lam * start + (1 - lam) * end,
        "mean": ((start + end) / 2).expand_as(lam),
        "best": torch.maximum(start, end).expand_as(lam),
        "start": start.expand_as(lam),
    }[chord]
    gap = sign * (line - values)
    if at == "middle":
        return gap[lam == 0.5][0]
    inside = torch.ones_like(lam, dtype=torch.bool) if beyond else (lam >= 0) & (lam <= 1)
    return {"all": gap[inside].max(), "mean": gap[inside].mean()}[
        "mean" if at == "average" else "all"
    ]


def _path() -> tuple[Tensor, Tensor]:
    """A worked example: unordered, with places beyond the ends, deepest elsewhere than in the middle."""
    return torch.tensor([0.5, 0.0, -0.5, 0.25, 1.5, 1.0, 0.75]), torch.tensor(
        [0.62, 0.77, 0.30, 0.58, 0.41, 0.83, 0.81]
    )


def _praise_barrier(attempt: Callable) -> str:
    flat = attempt(torch.tensor([0.0, 0.5, 1.0]), torch.tensor([0.7, 0.9, 0.8]))
    return f"That path has a barrier of {100 * attempt(*_path()):.1f} points. One that rises between its ends has {100 * flat:.1f}, as it should."


barrier_of = Exercise(
    parts=("the barrier",),
    solution=_barrier_of,
    arguments=_path,
    praise=_praise_barrier,
    atol=1e-5,
    mistakes={
        "beyond": Mistake({"beyond": True}, "Places beyond the two ends were counted: a barrier is what lies between them."),
        "turned": Mistake({"chord": "turned"}, "The straight line runs from the wrong end: at λ = 0 it should have the value of λ = 0."),
        "mean": Mistake({"chord": "mean"}, "Each place is compared with the mean of the two ends, not with the straight line at that place."),
        "best end": Mistake({"chord": "best"}, "Each place is compared with the better end, not with the straight line at that place."),
        "start": Mistake({"chord": "start"}, "Each place is compared with the start, not with the straight line at that place."),
        "middle": Mistake({"at": "middle"}, "This is the gap in the middle; the path is deeper elsewhere."),
        "average": Mistake({"at": "average"}, "This is the average gap; a barrier is the largest."),
        "sign": Mistake({"sign": -1}, "The sign is turned: this is how far the path rises above the straight line."),
    },
)  # fmt: skip


# --- what a point on the line in A and B is made of


def _parts_of(
    A1: Tensor, B1: Tensor, A2: Tensor, B2: Tensor, lam: float, *,
    own: str = "squared", cross: str = "both", weight: str = "product", swapped: bool = False, flip: bool = False,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    w1, w2 = (lam, 1 - lam) if swapped else (1 - lam, lam)
    o1, o2 = (w1, w2) if own == "plain" else (w1**2, w2**2)
    one, two = B1 @ A2, B2 @ A1
    mixed = {"both": one + two, "first": one, "second": two, "difference": one - two}[cross]
    scale = {"product": w1 * w2, "double": 2 * w1 * w2, "none": 1.0}[weight]
    parts = o1 * (B1 @ A1) + o2 * (B2 @ A2), scale * mixed
    return parts[::-1] if flip else parts


def _praise_parts(attempt: Callable) -> str:
    own, cross = attempt(*_factors(), 0.5)
    return f"At this site the middle has own parts of size {own.norm():.2f} and cross terms of size {cross.norm():.2f}; in ΔW its middle would have {2 * own.norm():.2f}."


parts_of = Exercise(
    parts=("own", "cross"),
    solution=_parts_of,
    arguments=lambda: (*_factors(), 0.3),
    praise=_praise_parts,
    atol=1e-6,
    mistakes={
        "not squared": Mistake({"own": "plain"}, "These are the weights of the line in ΔW: here B and A each bring one."),
        "swapped": Mistake({"swapped": True}, "The weights are the wrong way round: at λ = 0 only the first adapter should be left."),
        "only B₁A₂": Mistake({"cross": "first"}, "One cross term is missing: the second adapter's B reads the first one's A as well."),
        "only B₂A₁": Mistake({"cross": "second"}, "One cross term is missing: the first adapter's B reads the second one's A as well."),
        "difference": Mistake({"cross": "difference"}, "The two cross terms are subtracted: both come with a plus."),
        "cross twice": Mistake({"weight": "double"}, "The cross terms are twice too large: there are two of them already, each with one weight from B and one from A."),
        "cross without weights": Mistake({"weight": "none"}, "The cross terms came in at full size: they carry a weight from B and one from A, too."),
        "own and cross exchanged": Mistake({"flip": True}, "The two parts are returned in the other order."),
    },
)  # fmt: skip
