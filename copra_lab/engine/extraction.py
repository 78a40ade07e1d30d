"""Reads a plain ViT or text transformer out of a model, as the functions of their weights that `copra_lab.engine.transformer` runs."""

from collections.abc import Callable, Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.engine.transformer import Block, Norm, TextTower, Tower


def plain_tower(visual: nn.Module, dtype: torch.dtype = torch.float32) -> Tower | None:
    """The blocks of open_clip's VisionTransformer, or of its SigLIP's timm trunk, as a `Tower`; None if it has parts that a plain
    ViT lacks: it is run once on a made-up image, and must give what the model gives."""
    try:
        tower = (
            _timm(visual, dtype)
            if hasattr(visual, "trunk")
            else _tower(visual.transformer.resblocks, visual.ln_post, _by(visual.proj), dtype)
        )
        height, width = visual.image_size
        with torch.inference_mode():
            x = torch.linspace(
                -1, 1, 2 * 3 * height * width, device=next(visual.parameters()).device
            ).view(2, 3, height, width)
            ours = tower.features(embed(visual, x))
            same = torch.allclose(
                ours, F.normalize(visual(x), dim=-1), atol=1e-4 if dtype == torch.float32 else 0.05
            )
        return tower if same else None
    except (AttributeError, TypeError, ValueError, RuntimeError):
        return None


def plain_text(model: nn.Module) -> TextTower | None:
    """The text tower of open_clip's CLIP as a `TextTower`; None if it has parts that a plain one lacks."""
    try:
        text = getattr(model, "text", model)
        found = TextTower(
            _tower(text.transformer.resblocks, text.ln_final, _by(text.text_projection)),
            text.token_embedding.weight.detach(),
            text.positional_embedding.detach(),
        )
        with torch.inference_mode():
            last = len(found.words) - 1  # the end of a text has the highest number
            tokens = torch.zeros(2, len(found.places), dtype=torch.int64, device=found.words.device)
            tokens[:, :4] = torch.tensor([[1, 2, last, 0], [3, 1, 2, last]])
            same = torch.allclose(
                found.features(found.words[tokens[:, :4]], torch.tensor([2, 3])),
                F.normalize(model.encode_text(tokens), dim=-1),
                atol=1e-4,
            )
        return found if same else None
    except (AttributeError, TypeError, ValueError, RuntimeError, IndexError):
        return None


def embed(visual: nn.Module, x: Tensor) -> Tensor:
    """Normalised pixels (n, 3, h, w) → tokens (n, t, d) before the first block, which no adapter on blocks changes."""
    if hasattr(visual, "trunk"):
        return visual.trunk.patch_embed(x) + visual.trunk.pos_embed
    x = visual.conv1(x).flatten(2).transpose(1, 2)
    x = (
        torch.cat([visual.class_embedding.expand(len(x), 1, -1), x], 1)
        + visual.positional_embedding
    )
    return visual.ln_pre(x)


def beside(tokens: Tensor, context: Tensor | None) -> Tensor:
    """Tokens (n, t, d) of images as they enter the first block, and after them those of a soft prompt."""
    return (
        tokens if context is None else torch.cat([tokens, context.expand(len(tokens), -1, -1)], 1)
    )


def _tower(
    found: nn.ModuleList,
    last_norm: nn.Module,
    head: Callable[[Tensor], Tensor],
    dtype: torch.dtype = torch.float32,
) -> Tower:
    blocks = _blocks(
        (
            (
                b.ln_1,
                (b.attn.in_proj_weight, b.attn.in_proj_bias),
                b.attn.out_proj,
                b.ln_2,
                b.mlp.c_fc,
                b.mlp.c_proj,
            )
            for b in found
        ),
        dtype,
    )
    return Tower(blocks, found[0].attn.num_heads, found[0].mlp.gelu, _norm(last_norm), head, dtype)


def _timm(visual: nn.Module, dtype: torch.dtype) -> Tower:
    trunk = visual.trunk
    blocks = _blocks(
        (
            (
                b.norm1,
                (b.attn.qkv.weight, b.attn.qkv.bias),
                b.attn.proj,
                b.norm2,
                b.mlp.fc1,
                b.mlp.fc2,
            )
            for b in trunk.blocks
        ),
        dtype,
    )
    first = trunk.blocks[0]
    return Tower(
        blocks,
        first.attn.num_heads,
        first.mlp.act,
        _norm(trunk.norm),
        lambda x: visual.head(trunk.forward_head(x)),
        dtype,
        whole=True,
    )


def _blocks(parts: Iterable[tuple], dtype: torch.dtype) -> tuple[Block, ...]:
    return tuple(
        Block(
            _norm(ln1),
            (qkv[0].to(dtype), qkv[1].to(dtype)),
            _pair(out, dtype),
            _norm(ln2),
            _pair(fc1, dtype),
            _pair(fc2, dtype),
        )
        for ln1, qkv, out, ln2, fc1, fc2 in parts
    )


def _pair(m: nn.Module, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    return m.weight.detach().to(dtype), m.bias.detach().to(dtype)


def _norm(m: nn.Module) -> Norm:
    return m.weight.detach(), m.bias.detach(), m.eps


def _by(projection: Tensor | nn.Linear) -> Callable[[Tensor], Tensor]:
    if isinstance(projection, nn.Linear):
        return projection
    fixed = projection.detach()
    return lambda x: x @ fixed
