"""Lesson 2's checks."""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.exercises import Exercise, Mistake
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
    """What enters the attention of the layer, of four images (4, t, d)."""
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
    A_q: Tensor, B_q: Tensor, A_v: Tensor, B_v: Tensor, s: float, *,
    power: int = 1, order: str = "q0v", turned: bool = False, dim: int = 0,
) -> Tensor:  # fmt: skip
    parts = {n: s**power * (b @ a) for n, a, b in (("q", A_q, B_q), ("v", A_v, B_v))}
    if turned:
        parts = {n: p.T for n, p in parts.items()}
    parts["0"] = torch.zeros_like(parts["q"])
    return torch.cat([parts[n] for n in order], dim=dim)


def _praise_fused(attempt: Callable) -> str:
    delta = attempt(*_factors("q"), *_factors("v"), 1.0)
    kept = int((delta != 0).any(1).sum())
    return f"That reaches the right rows: {kept} of {len(delta)} move, and those of k stay as pretraining left them."


fused_delta = Exercise(
    parts=("the change of in_proj_weight",),
    solution=_fused_delta,
    arguments=lambda: (*_factors("q"), *_factors("v"), 0.5),
    praise=_praise_fused,
    atol=1e-6,
    mistakes={
        "no scale": Mistake({"power": 0}, "The change has the right place and direction, but not its size: the scale was left out."),
        "scale twice": Mistake({"power": 2}, "The scale went in twice, once with each factor: it belongs to the product."),
        "v on k": Mistake({"order": "qv0"}, "The change of v stands where k has its rows, and v itself does not move."),
        "v first": Mistake({"order": "v0q"}, "q's rows got v's change, and v's rows got q's."),
        "k moves too": Mistake({"order": "qqv"}, "k moves: its rows should hold zeros, and hold a change."),
        "transposed": Mistake({"turned": True}, "Each change is transposed: it has its outputs where its inputs belong."),
        "side by side": Mistake({"dim": 1}, "The three parts stand side by side: they should stand one below the other, as the rows of the weight do."),
    },
)  # fmt: skip


# --- the forward pass without ΔW


def _adapted(
    x: Tensor, W: Tensor, bias: Tensor, A: Tensor, B: Tensor, s: float, *,
    scale: str = "low", frozen: str = "right", with_bias: bool = True, flip: bool = False,
) -> Tensor:  # fmt: skip
    out = {"right": x @ W.T, "turned": x @ W, "none": 0}[frozen] + (bias if with_bias else 0)
    low = (x @ B) @ A if flip else (x @ A.T) @ B.T
    return {
        "low": out + s * low,
        "none": out + low,
        "all": s * (out + low),
        "frozen": s * out + low,
    }[scale]


def _attention() -> tuple[Tensor, Tensor]:
    attn = load_clip().model.visual.transformer.resblocks[LAYER].attn
    d = attn.embed_dim
    return attn.in_proj_weight.detach()[:d], attn.in_proj_bias.detach()[:d]


def _praise_adapted(attempt: Callable) -> str:
    x, (W, bias), (A, B) = _tokens(), _attention(), _factors("q")
    off = (attempt(x, W, bias, A, B, 1.0) - (x @ (W + B @ A).T + bias)).abs().max()
    return f"It differs from the merged weight by {off:.0e}: rounding. A token costs {A.numel() + B.numel():,} multiplications more than the {W.numel():,} of W."


adapted = Exercise(
    parts=("the projected tokens",),
    solution=_adapted,
    arguments=lambda: (_tokens(), *_attention(), *_factors("q"), 0.5),
    praise=_praise_adapted,
    mistakes={
        "no scale": Mistake({"scale": "none"}, "The low-rank part came in at full size: the scale was left out."),
        "scale on all": Mistake({"scale": "all"}, "The scale multiplies the frozen projection too, which should stay what it was."),
        "scale on the frozen part": Mistake({"scale": "frozen"}, "The scale multiplies the frozen projection, and the low-rank part goes without."),
        "no bias": Mistake({"with_bias": False}, "The bias is missing."),
        "W not transposed": Mistake({"frozen": "turned"}, "The frozen part multiplies by W where tokens in rows need its transpose. As W is square, nothing complained."),
        "no frozen part": Mistake({"frozen": "none"}, "Only the change is there: the frozen projection of x is missing."),
        "B before A": Mistake({"flip": True}, "The tokens went through B first and A after it: that is the transpose of the change. As W is square, nothing complained."),
    },
)  # fmt: skip


# --- the best rank


def _best_rank(
    delta: Tensor,
    k: int,
    *,
    end: str = "first",
    values: bool = True,
    turned: bool = False,
    one_more: int = 0,
    share: str = "lost",
    power: int = 2,
) -> tuple[Tensor, Tensor]:
    U, S, Vh = torch.linalg.svd(delta, full_matrices=False)
    k = k + one_more
    take = slice(0, k) if end == "first" else slice(len(S) - k, None)
    left = U[:, take] * S[take] if values else U[:, take]
    right = (Vh.T if turned else Vh)[take]
    kept, every = S[:k].pow(power).sum(), S.pow(power).sum()
    return left @ right, {"lost": 1 - kept / every, "kept": kept / every, "amount": every - kept}[
        share
    ]


def _merged() -> tuple[Tensor, int]:
    name = hf_name("vision", LAYER, "v")
    one, two = (a.deltas[name].delta() for a in _adapters())
    return (one + two) / 2, 3  # rank 8


def _praise_best(attempt: Callable) -> str:
    delta, _ = _merged()
    told = ", ".join(f"{100 * attempt(delta, k)[1]:.0f} % at rank {k}" for k in (1, 2, 4))
    return f"No matrix of this rank is closer. Of the average of two adapters (rank 8) you lose {told}."


best_rank = Exercise(
    parts=("the approximation", "the share lost"),
    solution=_best_rank,
    arguments=_merged,
    praise=_praise_best,
    atol=1e-5,
    mistakes={
        "smallest": Mistake({"end": "last"}, "These are the k smallest pieces: singular values come largest first."),
        "no singular values": Mistake({"values": False}, "The directions are right, their sizes are not: the singular values are missing."),
        "V turned": Mistake({"turned": True}, "V is transposed once too often: `torch.linalg.svd` returns it transposed already."),
        "one too few": Mistake({"one_more": -1}, "The approximation has rank k − 1: one piece too few was kept."),
        "one too many": Mistake({"one_more": 1}, "The approximation has rank k + 1: one piece too many was kept."),
        "kept": Mistake({"share": "kept"}, "This is the share that was kept; what is asked is the share that is lost."),
        "not a share": Mistake({"share": "amount"}, "This is how much was lost, not what share of the whole it is."),
        "not squared": Mistake({"power": 1}, "This is the share of the sum of singular values; the squared norm is the sum of their squares."),
    },
)  # fmt: skip
