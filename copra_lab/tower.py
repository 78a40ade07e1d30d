"""A plain ViT as a function of its weights: the same numbers as the module, several times faster for small images.

Nothing is mutated, so any number of threads may ask for different adapters at once.
"""

import os
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cache

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.lora import LowRank
from copra_lab.sites import Site

CHUNK = 50
"""Images a pass: small enough that a block's activations stay in a core's cache."""


@dataclass(frozen=True, eq=False)
class Block:
    """The weights of one pre-norm transformer block: matrices of the tower's dtype, norms of float32."""

    ln1: tuple[Tensor, Tensor]
    qkv: tuple[Tensor, Tensor]
    out: tuple[Tensor, Tensor]
    ln2: tuple[Tensor, Tensor]
    fc1: tuple[Tensor, Tensor]
    fc2: tuple[Tensor, Tensor]


@dataclass(frozen=True, eq=False)
class Tower:
    """The blocks of an image tower and what follows them. ``heads`` per block; ``act`` the MLP's activation.

    ``dtype`` is that of the matrix products. What runs between the blocks stays float32, which costs next to nothing
    and halves the error of bfloat16.
    """

    blocks: tuple[Block, ...]
    heads: int
    act: nn.Module
    ln_post: tuple[Tensor, Tensor]
    proj: Tensor
    dtype: torch.dtype

    def with_deltas(self, base: "Tower", deltas: Mapping[Site, LowRank]) -> "Tower":
        """This tower with deltas added. `base` is the same tower in float32: merging rounds once, at the end."""
        blocks = list(self.blocks)
        by_layer: dict[int, list[tuple[Site, LowRank]]] = {}
        for site, d in deltas.items():
            by_layer.setdefault(site.layer, []).append((site, d))
        for layer, members in by_layer.items():
            changed: dict[str, Tensor] = {}
            for site, d in members:
                part = "qkv" if site.kind in "qkv" else site.kind
                if part not in changed:
                    changed[part] = getattr(base.blocks[layer], part)[0].clone()
                changed[part][site.start : site.stop] += d.delta()
            now = blocks[layer].__dict__
            blocks[layer] = Block(**(now | {part: (w.to(self.dtype), now[part][1]) for part, w in changed.items()}))
        return Tower(tuple(blocks), self.heads, self.act, self.ln_post, self.proj, self.dtype)

    def features(self, tokens: Tensor) -> Tensor:
        """Tokens (n, t, d), embedded and normalised for the first block → normalised features (n, e); both float32."""
        for block in self.blocks[:-1]:
            tokens = _block(tokens, tokens, block, self.heads, self.act)
        # Only the class token is read at the end, so the last block computes only that one.
        last = _block(tokens, tokens[:, :1], self.blocks[-1], self.heads, self.act)[:, 0]
        last = F.layer_norm(last, last.shape[-1:], *self.ln_post) @ self.proj
        return F.normalize(last, dim=-1)


def _block(x: Tensor, at: Tensor, w: Block, heads: int, act: nn.Module) -> Tensor:
    """One block for the query tokens `at` (n, u, d), attending to all of `x` (n, t, d)."""
    n, t, d = x.shape
    weight, bias = w.qkv
    y = F.layer_norm(x, (d,), *w.ln1).to(weight.dtype)
    if at is x:
        q, k, v = F.linear(y, weight, bias).view(n, t, 3, heads, d // heads).permute(2, 0, 3, 1, 4)
    else:
        u = at.shape[1]
        q = F.linear(y[:, :u], weight[:d], bias[:d]).view(n, u, heads, d // heads).transpose(1, 2)
        k, v = F.linear(y, weight[d:], bias[d:]).view(n, t, 2, heads, d // heads).permute(2, 0, 3, 1, 4)
    a = F.scaled_dot_product_attention(q, k, v).transpose(1, 2).reshape(at.shape)
    at = at + F.linear(a, *w.out)
    y = F.layer_norm(at, (d,), *w.ln2).to(weight.dtype)
    return at + F.linear(act(F.linear(y, *w.fc1)), *w.fc2)


def plain_tower(visual: nn.Module, dtype: torch.dtype = torch.float32) -> Tower | None:
    """The blocks of open_clip's VisionTransformer as a `Tower`; None if it has parts that a plain ViT lacks."""
    try:
        found = visual.transformer.resblocks
        blocks = tuple(
            Block(
                _pair(b.ln_1), (b.attn.in_proj_weight.to(dtype), b.attn.in_proj_bias.to(dtype)), _pair(b.attn.out_proj, dtype),
                _pair(b.ln_2), _pair(b.mlp.c_fc, dtype), _pair(b.mlp.c_proj, dtype),
            )
            for b in found
        )  # fmt: skip
        tower = Tower(blocks, found[0].attn.num_heads, found[0].mlp.gelu, _pair(visual.ln_post), visual.proj.detach(), dtype)
        with torch.inference_mode():
            x = torch.linspace(-1, 1, 2 * 3 * visual.image_size[0] * visual.image_size[1]).view(2, 3, *visual.image_size)
            ours = tower.features(embed(visual, x))
            same = torch.allclose(ours, F.normalize(visual(x), dim=-1), atol=1e-4 if dtype == torch.float32 else 0.05)
        return tower if same else None
    except (AttributeError, TypeError, RuntimeError):
        return None


def _pair(m: nn.Module, dtype: torch.dtype = torch.float32) -> tuple[Tensor, Tensor]:
    return m.weight.detach().to(dtype), m.bias.detach().to(dtype)


def embed(visual: nn.Module, x: Tensor) -> Tensor:
    """Normalised pixels (n, 3, h, w) → tokens (n, t, d) before the first block, which no adapter on blocks changes."""
    x = visual.conv1(x).flatten(2).transpose(1, 2)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1) + visual.positional_embedding
    return visual.ln_pre(x)


@cache
def workers() -> ThreadPoolExecutor:
    """One worker a core, each single-threaded: at these sizes two passes side by side beat one pass on two threads."""
    count = max(1, min(8, len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1))
    return ThreadPoolExecutor(count, "copra-lab", initializer=torch.set_num_threads, initargs=(1,))
