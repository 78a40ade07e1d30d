"""One transformer block as a function of its weights.

Shapes: n images or texts, t tokens, d the width, R a rank.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

Down = Tensor | Callable[[Tensor], Tensor]
Factors = Mapping[str, tuple[Down, Tensor]]
"""Part of a block (``qkv``, ``out``, ``fc1``, ``fc2``) → A (R, in) and B (out, R) of ΔW = B·A.

A function x (…, in) → (…, R), such as dropout(x)·Aᵀ, can take the place of A."""

NO_FACTORS: Mapping[int, Factors] = {}

Norm = tuple[Tensor, Tensor, float]
"""Weight, bias and ε of a layer norm, as `F.layer_norm` takes them."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one pre-norm transformer block.

    Matrices (out, in) with their biases (out,) in the tower's dtype, norms in float32. ``qkv``
    stacks the projections of queries, keys and values, (3d, d).
    """

    ln1: Norm
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln2: Norm
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


def linear(
    x: Tensor,
    w: tuple[Tensor, Tensor],
    factors: tuple[Tensor | Callable[[Tensor], Tensor], Tensor] | None,
    rows: slice = slice(None),
) -> Tensor:
    """x·Wᵀ + b for some rows of W, plus x·Aᵀ·Bᵀ where there are factors: (…, in) → (…, out)."""
    y = F.linear(x, w[0][rows], w[1][rows])
    if factors is None:
        return y
    a, b = factors  # (R, in), (out, R)
    if b.ndim == 3:  # of k runs, each for its own n of the kn images: (k, R, in), (k, out, R)
        k = len(b)
        down = a(x) if callable(a) else x.reshape(k, -1, x.shape[-1]) @ a.mT.to(x.dtype)
        up = b[:, rows].mT.to(x.dtype)
        return torch.baddbmm(y.view(k, -1, y.shape[-1]), down, up).view(y.shape)
    down = x @ a.T.to(x.dtype) if isinstance(a, Tensor) else a(x)  # (…, R)
    return y + down @ b[rows].T.to(x.dtype)


def attention(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None) -> Tensor:
    """Attention, softmax(q·kᵀ/√d + mask)·v (Vaswani et al., arXiv:1706.03762, equation 1).

    Args:
        q: queries (…, heads, u, d), d the width of a head.
        k: keys (…, heads, t, d).
        v: values (…, heads, t, d).
        mask: (u, t), added to the scores.

    Returns:
        (…, heads, u, d).
    """
    # The fused kernel's backward pass is slower at these sizes, many times so in bfloat16.
    if torch.is_grad_enabled():
        scores = (q @ k.transpose(-1, -2)) * q.shape[-1] ** -0.5  # (…, heads, u, t)
        return (scores if mask is None else scores + mask).softmax(-1) @ v
    return F.scaled_dot_product_attention(q, k, v, mask)


def causal_mask(u: int, t: int, device: torch.device) -> Tensor:
    """The causal mask of the last u of t tokens, (u, t): −∞ hides the tokens that follow."""
    return torch.full((u, t), -torch.inf, device=device).triu(t - u + 1)


def queries(x: Tensor, w: Block, heads: int, add: Factors) -> tuple[Tensor, Tensor, Tensor]:
    """Tokens (…, t, d) → their queries, keys and values, each (…, heads, t, d / heads)."""
    y = F.layer_norm(x, x.shape[-1:], *w.ln1).to(w.qkv[0].dtype)
    qkv = linear(y, w.qkv, add.get("qkv")).unflatten(-1, (3, heads, -1))  # (…, t, 3, heads, d/h)
    q, k, v = qkv.movedim(-3, 0).transpose(-2, -3)  # each (…, heads, t, d / heads)
    return q, k, v


def after_attention(x: Tensor, attended: Tensor, w: Block, act: nn.Module, add: Factors) -> Tensor:
    """The rest of a block after attention.

    Args:
        x: tokens as they enter the block, (…, t, d).
        attended: what the heads return, (…, heads, t, d / heads).
        w: the block's weights.
        act: the activation of the MLP.
        add: deltas that are not merged.

    Returns:
        Tokens as they leave the block, (…, t, d).
    """
    joined = attended.transpose(-2, -3).flatten(-2)  # (…, t, d)
    x = x + linear(joined, w.out, add.get("out"))
    y = F.layer_norm(x, x.shape[-1:], *w.ln2).to(w.fc1[0].dtype)
    y = act(linear(y, w.fc1, add.get("fc1")))  # (…, t, hidden)
    return x + linear(y, w.fc2, add.get("fc2"))


def run_block(
    x: Tensor,
    at: Tensor,
    w: Block,
    heads: int,
    act: nn.Module,
    add: Factors,
    mask: Tensor | None = None,
) -> Tensor:
    """One pre-norm transformer block, for some of its tokens.

    Args:
        x: all tokens as they enter the block, (n, t, d).
        at: those to compute, the first u of `x`, (n, u, d); `x` itself for all.
        w: the block's weights.
        heads: number of heads.
        act: the activation of the MLP.
        add: deltas that are not merged.
        mask: (u, t), added to the attention scores.

    Returns:
        The tokens `at` as they leave the block, (n, u, d).
    """
    if at is x:
        q, k, v = queries(x, w, heads, add)
    else:
        d, u = x.shape[-1], at.shape[1]
        y = F.layer_norm(x, (d,), *w.ln1).to(w.qkv[0].dtype)
        q = linear(y[:, :u], w.qkv, add.get("qkv"), slice(0, d))  # (n, u, d)
        q = q.unflatten(-1, (heads, -1)).transpose(1, 2)  # (n, heads, u, d / heads)
        kv = linear(y, w.qkv, add.get("qkv"), slice(d, 3 * d))  # (n, t, 2d)
        k, v = kv.unflatten(-1, (2, heads, -1)).permute(2, 0, 3, 1, 4)  # (n, heads, t, d / heads)
    return after_attention(at, attention(q, k, v, mask), w, act, add)
