"""The checks of lesson 9."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from copra_lab.exercises import Exercise
from copra_lab.models.loading import load_clip
from copra_lab.prompts.nemesis import omega
from copra_lab.zoo import shipped_prompts

# --- PUN


def _pun_loss(
    context: Tensor,
    weight: float,
    p: float,
    *,
    of: str = "mean",
    weighted: bool = True,
    norm: str = "p",
    over: int = -1,
) -> Tensor:
    """The penalty, a scalar; each switch is a mistake."""
    found = torch.linalg.vector_norm(context, ord=2 if norm == "2" else p, dim=over)
    found = found.square() if norm == "squared" else found
    per_class = found.sum() / context.shape[-2]
    total = {"mean": found.mean(), "sum": found.sum(), "classes": per_class, "max": found.max()}[of]
    return weight * total if weighted else total


def _vectors() -> tuple[Tensor, float, float]:
    """Shipped vectors as those of three classes, with different lengths; A = 0.5 and p = 1."""
    context = shipped_prompts("digits")[0].load(load_clip()).context[:4]
    return torch.stack([context, 0.5 * context.roll(1, 0), 2 * context.roll(2, 0)]), 0.5, 1.0


def _praise_pun(attempt: Callable) -> str:
    context = _vectors()[0]
    one, two, largest = (float(attempt(context, 1.0, p)) for p in (1.0, 2.0, math.inf))
    return (
        f"With A = 1 the penalty of these vectors is {one:.2f} for L1, {two:.2f} for L2 and "
        f"{largest:.2f} for L∞."
    )


pun_loss = Exercise(
    parts=("the penalty",),
    solution=_pun_loss,
    arguments=_vectors,
    praise=_praise_pun,
    mistakes={
        "The norms were summed over positions and classes: take their mean.": {"of": "sum"},
        "The norms were summed over classes, so more classes would be penalised more: take their "
        "mean.": {"of": "classes"},
        "The weight A is missing.": {"weighted": False},
        "These are squared norms, as in weight decay, whose pull fades as vectors get shorter.": {
            "norm": "squared"
        },
        "You took the L2 norm whatever `p` says.": {"norm": "2"},
        "The norms ran over positions: a vector's numbers are in the last dimension.": {"over": -2},
        "This is the largest norm: all of them should be penalised.": {"of": "max"},
    },
)

# --- ω


def _ramp(epochs: Tensor, total: float, *, way: str = "right") -> Tensor:
    """ω of each epoch, (n,); each way but the first is a mistake."""
    x = {
        "end": 0.2 * (epochs - total),
        "share": 0.2 * (epochs / total - 0.5),
        "steep": epochs - total / 2,
    }.get(way, 0.2 * (epochs - total / 2))
    rising = 1 / (1 + torch.exp(-x))
    return rising if way == "rising" else 1 - rising


def _epochs() -> tuple[Tensor, float]:
    return torch.arange(0.0, 51, 5), 50.0


def _praise_ramp(attempt: Callable) -> str:
    epochs, total = _epochs()
    found = [float(v) for v in attempt(epochs, total)]
    off = max(abs(v - omega(float(e), total)) for v, e in zip(found, epochs, strict=True))
    return (
        f"It goes from {found[0]:.3f} to {found[-1]:.3f} in fifty epochs and differs from the "
        f"library's by at most {off:.0e}."
    )


ramp = Exercise(
    parts=("ω",),
    solution=_ramp,
    arguments=_epochs,
    praise=_praise_ramp,
    mistakes={
        'Yours rises from 0 to 1, but the penalty should be strong at first: "one minus" is '
        "missing, or a sign.": {"way": "rising"},
        "Yours falls around the last epoch: it should be ½ in the middle of the training.": {
            "way": "end"
        },
        "Yours hardly changes: the slope is per epoch, not per share of the training.": {
            "way": "share"
        },
        "Yours falls too steeply: the slope 0.2 is missing.": {"way": "steep"},
    },
)

# --- PAN


def _pan_loss(
    norms: Tensor,
    now: Tensor,
    shortened: Tensor,
    weight: float,
    *,
    ties: bool = False,
    sign: int = 1,
    over: str = "paying",
    weighted: bool = True,
) -> tuple[Tensor, Tensor]:
    """α (N,) and the loss (); each switch is a mistake."""
    better = shortened >= now if ties else sign * shortened > sign * now
    alpha = (weight if weighted else 1.0) * better.float()
    by = {
        "paying": alpha.count_nonzero().clamp(min=1),
        "all": len(alpha),
        "none": 1,
        "alpha": alpha.sum().clamp(min=1e-9),
    }[over]
    return alpha, (alpha * norms).sum() / by


def _batch() -> tuple[Tensor, Tensor, Tensor, float]:
    norms, shortened = torch.tensor([1.2, 0.4, 2.5, 0.8, 1.7]), torch.tensor([22, 20, 21, 17, 25])
    return norms, torch.tensor(20), shortened, 2.0


def _praise_pan(attempt: Callable) -> str:
    norms, now, _, weight = _batch()
    alpha, loss = attempt(norms, now, torch.full((5,), 3), weight)
    return (
        "In the worked batch three of five vectors are penalised. Where shortening helps none, "
        f"{int(alpha.count_nonzero())} are penalised and the loss is {float(loss):.0f}."
    )


pan_loss = Exercise(
    parts=("α", "the loss"),
    solution=_pan_loss,
    arguments=_batch,
    praise=_praise_pan,
    mistakes={
        "An equal number of correct images was taken for an improvement.": {"ties": True},
        "You penalise vectors whose shortening *harms*: penalise those whose shortening helps.": {
            "sign": -1
        },
        "You divided by how many were sampled: divide by how many are penalised.": {"over": "all"},
        "The sum is not divided by how many are penalised.": {"over": "none"},
        "You divided by the sum of α, so the weight A cancels: divide by how many are penalised.": {
            "over": "alpha"
        },
        "α is 1 where it should be A.": {"weighted": False},
    },
)
