"""Read a plain ViT or text transformer out of a model, to run without it."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.engine.blocks import Block, Norm
from copra_lab.engine.text_tower import TextTower
from copra_lab.engine.transformer import Tower
from copra_lab.models.clip import OpenClip


def plain_tower(visual: Any, dtype: torch.dtype = torch.float32) -> Tower | None:
    """The image tower of a model as a `Tower`, or None if it is not a plain ViT.

    Whether it is one is tested: on a made-up image it must compute the same as the model.

    Args:
        visual: open_clip's VisionTransformer, or the timm trunk of its SigLIP.
        dtype: of the matrix products in the blocks.
    """
    try:
        if hasattr(visual, "trunk"):
            tower = _timm(visual, dtype)
        else:
            blocks, head = visual.transformer.resblocks, _projection(visual.proj)
            tower = _tower(blocks, visual.ln_post, head, dtype)
        height, width = visual.image_size
        with torch.inference_mode():
            x = next(visual.parameters()).new_empty(2 * 3 * height * width)
            x = torch.linspace(-1, 1, len(x), out=x).view(2, 3, height, width)
            ours, theirs = tower.features(embed(visual, x)), F.normalize(visual(x), dim=-1)
            tolerance = 1e-4 if dtype == torch.float32 else 0.05
            same = torch.allclose(ours, theirs, atol=tolerance)
        return tower if same else None
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def plain_text(model: OpenClip) -> TextTower | None:
    """The text tower of open_clip's CLIP as a `TextTower`, or None if it is not a plain one.

    Whether it is one is tested: on made-up texts it must compute the same as the model.
    """
    try:
        text: Any = getattr(model, "text", model)
        tokens = text.token_embedding.weight.detach()
        head = _projection(text.text_projection)
        found = TextTower(
            _tower(text.transformer.resblocks, text.ln_final, head, tokens.dtype),
            tokens,
            text.positional_embedding.detach(),
        )
        with torch.inference_mode():
            last = len(found.tokens) - 1  # the end-of-text token has the highest id
            tokens = torch.zeros(2, len(found.positions), dtype=torch.int64)
            tokens[:, :4] = torch.tensor([[1, 2, last, 0], [3, 1, 2, last]])
            tokens = tokens.to(found.tokens.device)
            ours = found.features(found.tokens[tokens[:, :4]], torch.tensor([2, 3]))
            theirs = F.normalize(model.encode_text(tokens), dim=-1)
            same = torch.allclose(ours, theirs, atol=1e-4)
        return found if same else None
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return None


def embed(visual: Any, x: Tensor) -> Tensor:
    """Normalised pixels (n, 3, h, w) → tokens (n, t, d) as they enter the first block.

    No adapter on the blocks changes them.
    """
    if hasattr(visual, "trunk"):
        return visual.trunk.patch_embed(x) + visual.trunk.pos_embed
    x = visual.conv1(x).flatten(2).transpose(1, 2)  # (n, patches, d)
    x = torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)  # (n, 1 + patches, d)
    return visual.ln_pre(x + visual.positional_embedding)


def append_context(tokens: Tensor, context: Tensor | None) -> Tensor:
    """Tokens (n, t, d) followed by the vectors of a soft prompt (m, d): (n, t + m, d)."""
    if context is None:
        return tokens
    return torch.cat([tokens, context.expand(len(tokens), -1, -1)], 1)


def _tower(
    modules: nn.ModuleList,
    last_norm: nn.LayerNorm,
    head: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
) -> Tower:
    """A `Tower` of open_clip's residual attention blocks."""

    def parts(b: Any) -> tuple:
        a, mlp = b.attn, b.mlp
        return b.ln_1, a.in_proj_weight, a.in_proj_bias, a.out_proj, b.ln_2, mlp.c_fc, mlp.c_proj

    blocks = _blocks(map(parts, modules), dtype)
    first: Any = modules[0]
    return Tower(blocks, first.attn.num_heads, first.mlp.gelu, _norm(last_norm), head, dtype)


def _timm(visual: Any, dtype: torch.dtype) -> Tower:
    """A `Tower` of timm's blocks, which SigLIP's image tower has."""
    trunk = visual.trunk

    def parts(b: Any) -> tuple:
        a, mlp = b.attn, b.mlp
        return b.norm1, a.qkv.weight, a.qkv.bias, a.proj, b.norm2, mlp.fc1, mlp.fc2

    blocks = _blocks(map(parts, trunk.blocks), dtype)
    first, norm = trunk.blocks[0], _norm(trunk.norm)

    def head(x: Tensor) -> Tensor:
        return visual.head(trunk.forward_head(x))

    return Tower(blocks, first.attn.num_heads, first.mlp.act, norm, head, dtype, whole=True)


def _blocks(parts: Iterable[tuple], dtype: torch.dtype) -> tuple[Block, ...]:
    """Blocks of (norm, qkv's weight and bias, out, norm, fc1, fc2), matrices in `dtype`."""
    return tuple(
        Block(
            _norm(ln1),
            (weight.to(dtype), bias.to(dtype)),
            _weights(out, dtype),
            _norm(ln2),
            *(_weights(fc, dtype) for fc in mlp),
        )
        for ln1, weight, bias, out, ln2, *mlp in parts
    )


def _weights(m: nn.Linear, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return m.weight.detach().to(dtype), m.bias.detach().to(dtype)


def _norm(m: nn.LayerNorm) -> Norm:
    return m.weight.detach(), m.bias.detach(), m.eps


def _projection(projection: Tensor | nn.Linear) -> Callable[[Tensor], Tensor]:
    """What multiplies features by the projection, which open_clip keeps as a matrix or a layer."""
    if isinstance(projection, nn.Linear):
        return projection
    fixed = projection.detach()
    return lambda x: x @ fixed
