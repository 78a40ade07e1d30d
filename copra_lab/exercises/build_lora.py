"""The checks of lesson 2."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.exercises import NONE, Exercise, Mistakes
from copra_lab.exercises.material import adapters, largest_gap
from copra_lab.models.loading import load_clip
from copra_lab.models.sites import hf_name
from copra_lab.tasks.task import load_task

LAYER = 3


def _factors(kind: str) -> tuple[Tensor, Tensor]:
    delta = adapters()[0].deltas[hf_name("vision", LAYER, kind)]
    return delta.A, delta.B


@cache
def _tokens() -> Tensor:
    """The inputs of the layer's attention for four images, (4, t, d)."""
    clip, seen = load_clip(), []
    hook = clip.model.visual.transformer.resblocks[LAYER].ln_1.register_forward_hook(
        lambda module, inputs, output: seen.append(output)
    )
    try:
        with torch.no_grad():
            clip.model.encode_image(clip.pixels(load_task("digits").train.images[:4]))
    finally:
        hook.remove()
    return seen[0]


# --- the change of a fused weight


def _fused_delta(
    A_q: Tensor, B_q: Tensor, A_v: Tensor, B_v: Tensor, s: float, made: Mistakes = NONE
) -> Tensor:
    scale = made.pick(s, unscaled=1.0, scaled_twice=s**2)
    q, v = scale * (B_q @ A_q), scale * (B_v @ A_v)
    if "transposed" in made:
        q, v = q.T, v.T
    zero = torch.zeros_like(q)
    blocks = made.pick((q, zero, v), v_in_k=(q, v, zero), swapped=(v, zero, q), k_too=(q, q, v))
    return torch.cat(blocks, dim=made.pick(0, side_by_side=1))


def _praise_fused(attempt: Callable) -> str:
    delta = attempt(*_factors("q"), *_factors("v"), 1.0)
    changed = int((delta != 0).any(1).sum())
    return f"The right rows change: {changed} of {len(delta)}. Those of k stay as pretrained."


fused_delta = Exercise(
    parts=("the change of in_proj_weight",),
    solution=_fused_delta,
    arguments=lambda: (*_factors("q"), *_factors("v"), 0.5),
    praise=_praise_fused,
    atol=1e-6,
    mistakes={
        "unscaled": "The change has the wrong size: the scale is missing.",
        "scaled_twice": "The scale went in twice, once with each factor: apply it once.",
        "v_in_k": "The change of v is in the rows of k, and v itself does not change.",
        "swapped": "q's rows got v's change, and v's rows got q's.",
        "k_too": "k changes too: its rows should be zeros.",
        "transposed": "Each change is transposed: its outputs are where its inputs should be.",
        "side_by_side": "The three parts are side by side: stack them as rows of the weight.",
    },
)


# --- the forward pass without ΔW


def _adapted(
    x: Tensor, W: Tensor, bias: Tensor, A: Tensor, B: Tensor, s: float, made: Mistakes = NONE
) -> Tensor:
    frozen = made.pick(x @ W.T, frozen_transposed=x @ W, no_frozen=0) + made.pick(bias, no_bias=0)
    low = made.pick((x @ A.T) @ B.T, b_first=(x @ B) @ A)
    if made & {"all_scaled", "frozen_scaled"}:
        frozen = s * frozen
    return frozen + (low if made & {"unscaled", "frozen_scaled"} else s * low)


def _attention() -> tuple[Tensor, Tensor]:
    attn = load_clip().model.visual.transformer.resblocks[LAYER].attn
    d = attn.embed_dim
    return attn.in_proj_weight.detach()[:d], attn.in_proj_bias.detach()[:d]


def _praise_adapted(attempt: Callable) -> str:
    x, (W, bias), (A, B) = _tokens(), _attention(), _factors("q")
    gap = largest_gap(attempt(x, W, bias, A, B, 1.0), x @ (W + B @ A).T + bias)
    return (
        f"It differs from the merged weight by {gap}, which is rounding. For each token it "
        f"takes {A.numel() + B.numel():,} multiplications on top of W's {W.numel():,}."
    )


adapted = Exercise(
    parts=("the projected tokens",),
    solution=_adapted,
    arguments=lambda: (_tokens(), *_attention(), *_factors("q"), 0.5),
    praise=_praise_adapted,
    mistakes={
        "unscaled": "The low-rank part came in at full size: the scale was left out.",
        "all_scaled": "The scale multiplies the frozen projection too, which should not change.",
        "frozen_scaled": "The scale multiplies the frozen projection, not the low-rank part.",
        "no_bias": "The bias is missing.",
        "frozen_transposed": "The frozen part multiplies by W, but tokens in rows need its "
        "transpose. W is square, so PyTorch did not complain.",
        "no_frozen": "Only the change is there: the frozen projection of x is missing.",
        "b_first": "The tokens went through B first and then A: that is the transpose of the "
        "change. W is square, so PyTorch did not complain.",
    },
)


# --- the best rank


def _best_rank(delta: Tensor, k: int, made: Mistakes = NONE) -> tuple[Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    k = made.pick(k, too_few=k - 1, too_many=k + 1)
    take = made.pick(slice(k), smallest=slice(len(S) - k, None))
    left = made.pick(U * S, no_values=U)[:, take]
    right = made.pick(Vh, transposed=Vh.T)[take]
    sizes = S.pow(made.pick(2, not_squared=1))
    kept, total = sizes[:k].sum(), sizes.sum()
    return left @ right, made.pick(1 - kept / total, kept=kept / total, amount=total - kept)


def _merged() -> tuple[Tensor, int]:
    one, two = (a.deltas[hf_name("vision", LAYER, "v")].delta() for a in adapters()[:2])
    return (one + two) / 2, 3  # rank 8


def _praise_best(attempt: Callable) -> str:
    delta, _ = _merged()
    lost = ", ".join(f"{100 * attempt(delta, k)[1]:.0f} % at rank {k}" for k in (1, 2, 4))
    return (
        "No matrix of this rank is closer. "
        f"Of the average of two adapters, which has rank 8, you lose {lost}."
    )


best_rank = Exercise(
    parts=("the approximation", "the share lost"),
    solution=_best_rank,
    arguments=_merged,
    praise=_praise_best,
    atol=1e-5,
    mistakes={
        "smallest": "You kept the k smallest components: singular values come largest first.",
        "no_values": "The directions are right, but the singular values are missing.",
        "transposed": "V is transposed once too often: `torch.linalg.svd` returns it transposed.",
        "too_few": "The approximation has rank k − 1: you kept one component too few.",
        "too_many": "The approximation has rank k + 1: you kept one component too many.",
        "kept": "This is the share that was kept; return the share that is lost.",
        "amount": "This is the amount that was lost, not what share of the total it is.",
        "not_squared": "This is a share of the sum of the values, not of the sum of their squares.",
    },
)
