"""The checks of lesson 9."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.models.loading import load_clip
from copra_lab.prompts.nemesis import omega
from copra_lab.zoo import shipped_prompts

# --- PUN


def _pun_loss(context: Tensor, weight: float, p: float, made: Mistakes = NONE) -> Tensor:
    """The penalty, a scalar."""
    found = torch.linalg.vector_norm(
        context, ord=made.pick(p, always_2=2), dim=made.pick(-1, over_positions=-2)
    )
    found = made.pick(found, squared=found.square())
    total = made.pick(
        found.mean(),
        sum=found.sum(),
        classes=found.sum() / context.shape[-2],
        largest=found.max(),
    )
    return made.pick(weight, unweighted=1) * total


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
        "sum": "The norms were summed over positions and classes: take their mean.",
        "classes": "The norms were summed over classes, so more classes would be penalised more: "
        "take their mean.",
        "unweighted": "The weight A is missing.",
        "squared": "These are squared norms, as in weight decay: their pull fades as vectors get "
        "shorter.",
        "always_2": "You took the L2 norm whatever `p` says.",
        "over_positions": "The norms ran over positions: a vector's numbers are in the last "
        "dimension.",
        "largest": "This is the largest norm: all of them should be penalised.",
    },
)

# --- ω


def _ramp(epochs: Tensor, total: float, made: Mistakes = NONE) -> Tensor:
    """ω of each epoch, (n,)."""
    x = made.pick(
        0.2 * (epochs - total / 2),
        at_end=0.2 * (epochs - total),
        of_share=0.2 * (epochs / total - 0.5),
        steep=epochs - total / 2,
    )
    rising = 1 / (1 + torch.exp(-x))
    return made.pick(1 - rising, rising=rising)


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
        "rising": 'Yours rises from 0 to 1, but should be strong at first: "one minus" is missing, '
        "or a sign.",
        "at_end": "Yours falls around the last epoch: it should be ½ in the middle of training.",
        "of_share": "Yours hardly changes: the slope is per epoch, not per share of the training.",
        "steep": "Yours falls too steeply: the slope 0.2 is missing.",
    },
)

# --- PAN


def _pan_loss(
    norms: Tensor, now: Tensor, shortened: Tensor, weight: float, made: Mistakes = NONE
) -> tuple[Tensor, Tensor]:
    """α (N,) and the loss ()."""
    better = made.pick(shortened > now, ties=shortened >= now, harms=shortened < now)
    alpha = made.pick(weight, unweighted=1.0) * better.float()
    by = made.pick(
        alpha.count_nonzero().clamp(min=1),
        by_sampled=len(alpha),
        sum=1,
        by_alpha=alpha.sum().clamp(min=1e-9),
    )
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
        "ties": "An equal number of correct images was taken for an improvement.",
        "harms": "You penalise vectors whose shortening *harms*: it should help.",
        "by_sampled": "You divided by how many were sampled: divide by how many are penalised.",
        "sum": "The sum is not divided by how many are penalised.",
        "by_alpha": "You divided by the sum of α, so the weight A cancels: divide by how many are "
        "penalised.",
        "unweighted": "α is 1 where it should be A.",
    },
)
