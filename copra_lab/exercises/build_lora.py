"""The checks of lesson 2."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.exercises import Exercise
from copra_lab.models.loading import load_clip
from copra_lab.models.sites import hf_name
from copra_lab.tasks.task import load_task
from copra_lab.zoo import shipped

LAYER = 3


@cache
def _adapters() -> tuple[Adapter, Adapter]:
    clip = load_clip()
    one, two = (s.load(clip) for s in shipped("digits") if s.label.startswith("LoRA"))
    return one, two


def _factors(kind: str) -> tuple[Tensor, Tensor]:
    delta = _adapters()[0].deltas[hf_name("vision", LAYER, kind)]
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
    A_q: Tensor,
    B_q: Tensor,
    A_v: Tensor,
    B_v: Tensor,
    s: float,
    *,
    power: int = 1,
    order: str = "q0v",
    transposed: bool = False,
    dim: int = 0,
) -> Tensor:
    blocks = {n: s**power * (b @ a) for n, a, b in (("q", A_q, B_q), ("v", A_v, B_v))}
    if transposed:
        blocks = {n: p.T for n, p in blocks.items()}
    blocks["0"] = torch.zeros_like(blocks["q"])
    return torch.cat([blocks[n] for n in order], dim=dim)


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
        "The change has the right place and direction but the wrong size: the scale is missing.": {
            "power": 0
        },
        "The scale went in twice, once with each factor: apply it once, to the product.": {
            "power": 2
        },
        "The change of v is in the rows of k, and v itself does not change.": {"order": "qv0"},
        "q's rows got v's change, and v's rows got q's.": {"order": "v0q"},
        "k changes too: its rows should be zeros.": {"order": "qqv"},
        "Each change is transposed: its outputs are where its inputs should be.": {
            "transposed": True
        },
        "The three parts are side by side: stack them vertically, as the rows of the weight are.": {
            "dim": 1
        },
    },
)


# --- the forward pass without ΔW


def _adapted(
    x: Tensor,
    W: Tensor,
    bias: Tensor,
    A: Tensor,
    B: Tensor,
    s: float,
    *,
    scale: str = "low",
    frozen: str = "right",
    with_bias: bool = True,
    flip: bool = False,
) -> Tensor:
    wx = {"right": x @ W.T, "transposed": x @ W, "none": 0}[frozen] + (bias if with_bias else 0)
    low = (x @ B) @ A if flip else (x @ A.T) @ B.T
    return {"low": wx + s * low, "none": wx + low, "all": s * (wx + low), "frozen": s * wx + low}[
        scale
    ]


def _attention() -> tuple[Tensor, Tensor]:
    attn = load_clip().model.visual.transformer.resblocks[LAYER].attn
    d = attn.embed_dim
    return attn.in_proj_weight.detach()[:d], attn.in_proj_bias.detach()[:d]


def _praise_adapted(attempt: Callable) -> str:
    x, (W, bias), (A, B) = _tokens(), _attention(), _factors("q")
    off = (attempt(x, W, bias, A, B, 1.0) - (x @ (W + B @ A).T + bias)).abs().max()
    return (
        f"It differs from the merged weight by {off:.0e}, which is rounding. For each token it "
        f"takes {A.numel() + B.numel():,} multiplications on top of W's {W.numel():,}."
    )


adapted = Exercise(
    parts=("the projected tokens",),
    solution=_adapted,
    arguments=lambda: (_tokens(), *_attention(), *_factors("q"), 0.5),
    praise=_praise_adapted,
    mistakes={
        "The low-rank part came in at full size: the scale was left out.": {"scale": "none"},
        "The scale multiplies the frozen projection too, which should not change.": {
            "scale": "all"
        },
        "The scale multiplies the frozen projection instead of the low-rank part.": {
            "scale": "frozen"
        },
        "The bias is missing.": {"with_bias": False},
        "The frozen part multiplies by W, but tokens in rows need its transpose. W is square, so "
        "PyTorch did not complain.": {"frozen": "transposed"},
        "Only the change is there: the frozen projection of x is missing.": {"frozen": "none"},
        "The tokens went through B first and then A: that is the transpose of the change. W is "
        "square, so PyTorch did not complain.": {"flip": True},
    },
)


# --- the best rank


def _best_rank(
    delta: Tensor,
    k: int,
    *,
    end: str = "first",
    values: bool = True,
    transposed: bool = False,
    one_more: int = 0,
    share: str = "lost",
    power: int = 2,
) -> tuple[Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    k = k + one_more
    take = slice(0, k) if end == "first" else slice(len(S) - k, None)
    left = U[:, take] * S[take] if values else U[:, take]
    right = (Vh.T if transposed else Vh)[take]
    kept, total = S[:k].pow(power).sum(), S.pow(power).sum()
    shares = {"lost": 1 - kept / total, "kept": kept / total, "amount": total - kept}
    return left @ right, shares[share]


def _merged() -> tuple[Tensor, int]:
    name = hf_name("vision", LAYER, "v")
    one, two = (a.deltas[name].delta() for a in _adapters())
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
        "You kept the k smallest components: singular values come largest first.": {"end": "last"},
        "The directions are right but their sizes are not: the singular values are missing.": {
            "values": False
        },
        "V is transposed once too often: `torch.linalg.svd` already returns it transposed.": {
            "transposed": True
        },
        "The approximation has rank k − 1: you kept one component too few.": {"one_more": -1},
        "The approximation has rank k + 1: you kept one component too many.": {"one_more": 1},
        "This is the share that was kept; return the share that is lost.": {"share": "kept"},
        "This is the amount that was lost, not what share of the total it is.": {"share": "amount"},
        "This is the share of the sum of singular values; the squared norm is the sum of their "
        "squares.": {"power": 1},
    },
)
