"""Lesson 9's checks."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from copra_lab.exercises import Exercise, Mistake
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
    """The penalty, a scalar; each switch is a way to err."""
    found = torch.linalg.vector_norm(context, ord=2 if norm == "2" else p, dim=over)
    found = found.square() if norm == "squared" else found
    total = {
        "mean": found.mean(),
        "sum": found.sum(),
        "classes": found.sum() / context.shape[-2],
        "max": found.max(),
    }[of]
    return weight * total if weighted else total


def _vectors() -> tuple[Tensor, float, float]:
    """Shipped vectors as three classes' own, of lengths that differ, and L1."""
    context = shipped_prompts("digits")[0].load(load_clip()).context[:4]
    return torch.stack([context, 0.5 * context.roll(1, 0), 2 * context.roll(2, 0)]), 0.5, 1.0


def _praise_pun(attempt: Callable) -> str:
    context = _vectors()[0]
    found = [float(attempt(context, 1.0, p)) for p in (1.0, 2.0, math.inf)]
    return "With A = 1 these vectors pay {:.2f} by L1, {:.2f} by L2 and {:.2f} by L∞.".format(
        *found
    )


pun_loss = Exercise(
    parts=("the penalty",),
    solution=_pun_loss,
    arguments=_vectors,
    praise=_praise_pun,
    mistakes={
        "sum of everything": Mistake({"of": "sum"}, "The norms were summed, over positions and classes: it should be their mean."),
        "sum over classes": Mistake({"of": "classes"}, "The norms were summed over classes: more classes would be punished more. Take their mean."),
        "no weight": Mistake({"weighted": False}, "The weight A is missing."),
        "squared": Mistake({"norm": "squared"}, "These are squared norms: that is weight decay's way, whose pull fades with length."),
        "always L2": Mistake({"norm": "2"}, "You took the L2 norm whatever `p` says."),
        "over positions": Mistake({"over": -2}, "The norms ran over positions: a vector's numbers stand in the last dimension."),
        "largest": Mistake({"of": "max"}, "That is the largest of the norms: all of them pay."),
    },
)  # fmt: skip

# --- ω


def _ramp(epochs: Tensor, total: float, *, way: str = "right") -> Tensor:
    """ω of each epoch, (n,); each way but the first is a way to err."""
    x = 0.2 * (epochs - total / 2)
    return {
        "right": 1 - 1 / (1 + torch.exp(-x)), "rising": 1 / (1 + torch.exp(-x)), "end": 1 - 1 / (1 + torch.exp(-0.2 * (epochs - total))),
        "share": 1 - 1 / (1 + torch.exp(-0.2 * (epochs / total - 0.5))), "steep": 1 - 1 / (1 + torch.exp(-(epochs - total / 2))),
    }[way]  # fmt: skip


def _epochs() -> tuple[Tensor, float]:
    return torch.arange(0.0, 51, 5), 50.0


def _praise_ramp(attempt: Callable) -> str:
    found = attempt(*_epochs())
    far = max(
        abs(float(v) - omega(float(e), 50.0)) for v, e in zip(found, _epochs()[0], strict=True)
    )
    return f"From {float(found[0]):.3f} to {float(found[-1]):.3f} in fifty epochs; the library's differs by {far:.0e} at most."


ramp = Exercise(
    parts=("ω",),
    solution=_ramp,
    arguments=_epochs,
    praise=_praise_ramp,
    mistakes={
        "rising": Mistake({"way": "rising"}, "Yours rises from 0 to 1: the penalty should be strong at first. One minus is missing, or a sign."),
        "around the end": Mistake({"way": "end"}, "Yours falls around the last epoch: it should be ½ in the middle."),
        "a share": Mistake({"way": "share"}, "Yours hardly moves: the slope is per epoch, not per share of the training."),
        "slope 1": Mistake({"way": "steep"}, "Yours falls too steeply: the slope 0.2 is missing."),
    },
)  # fmt: skip

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
    """α (N,) and the loss (); each switch is a way to err."""
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
    return (
        torch.tensor([1.2, 0.4, 2.5, 0.8, 1.7]),
        torch.tensor(20),
        torch.tensor([22, 20, 21, 17, 25]),
        2.0,
    )


def _praise_pan(attempt: Callable) -> str:
    norms, now, _, weight = _batch()
    alpha, loss = attempt(norms, now, torch.full((5,), 3), weight)
    return f"Three of five pay in the worked batch; where shortening helps nobody, {int(alpha.count_nonzero())} pay and the loss is {float(loss):.0f}."


pan_loss = Exercise(
    parts=("α", "the loss"),
    solution=_pan_loss,
    arguments=_batch,
    praise=_praise_pan,
    mistakes={
        "ties": Mistake({"ties": True}, "An equal number of right images was taken for an improvement."),
        "the wrong way": Mistake({"sign": -1}, "Those pay whose shortening *harms*: it should be those whose shortening helps."),
        "by all": Mistake({"over": "all"}, "You divided by how many were sampled: divide by how many pay."),
        "not divided": Mistake({"over": "none"}, "The sum is not divided by how many pay."),
        "by α": Mistake({"over": "alpha"}, "You divided by the sum of α, so the weight A cancels: divide by how many pay."),
        "no weight": Mistake({"weighted": False}, "α is 1 where it should be A."),
    },
)  # fmt: skip
