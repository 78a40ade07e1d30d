"""The names of a CLIP's weights in open_clip and in transformers, and how to rename them."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

Row = tuple[tuple[str, ...], tuple[str, ...], bool]
"""open_clip's names, Hugging Face's names, and whether to transpose.

The weights of the first, concatenated, are those of the second, concatenated.
"""

_BOTH = {
    "token_embedding.weight": "text_model.embeddings.token_embedding.weight",
    "positional_embedding": "text_model.embeddings.position_embedding.weight",
}
"""Weights of the text tower."""

_CLIP = {
    "visual.class_embedding": "vision_model.embeddings.class_embedding",
    "visual.conv1.weight": "vision_model.embeddings.patch_embedding.weight",
    "visual.positional_embedding": "vision_model.embeddings.position_embedding.weight",
}
_CLIP_TRANSPOSED = {
    "visual.proj": "visual_projection.weight",
    "text_projection": "text_projection.weight",
}
_CLIP_MODULES = {
    "visual.ln_pre": "vision_model.pre_layrnorm",
    "visual.ln_post": "vision_model.post_layernorm",
}

_POOL, _HEAD = "visual.trunk.attn_pool", "vision_model.head"
_SIGLIP = {
    "logit_bias": "logit_bias",
    "visual.trunk.pos_embed": "vision_model.embeddings.position_embedding.weight",
    f"{_POOL}.latent": f"{_HEAD}.probe",
}
_SIGLIP_MODULES = {
    "visual.trunk.patch_embed.proj": "vision_model.embeddings.patch_embedding",
    "visual.trunk.norm": "vision_model.post_layernorm",
    f"{_POOL}.proj": f"{_HEAD}.attention.out_proj",
    f"{_POOL}.norm": f"{_HEAD}.layernorm",
    f"{_POOL}.mlp.fc1": f"{_HEAD}.mlp.fc1",
    f"{_POOL}.mlp.fc2": f"{_HEAD}.mlp.fc2",
    "text.text_projection": "text_model.head",
}

_BLOCK = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
"""Modules of a block beside q, k and v, in transformers; then the same in open_clip and timm."""
_OPEN_CLIP_BLOCK = ("attn.out_proj", "ln_1", "ln_2", "mlp.c_fc", "mlp.c_proj")
_TIMM_BLOCK = ("attn.proj", "norm1", "norm2", "mlp.fc1", "mlp.fc2")


def weight_names(siglip: bool, config: Any) -> Iterator[Row]:
    """All weights of a CLIP or SigLIP.

    Args:
        siglip: Whether it is a SigLIP (open_clip's with timm's image tower).
        config: transformers' configuration of it.
    """
    prefix = "text." if siglip else ""
    vision, text = config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers
    yield ("logit_scale",), ("logit_scale",), False
    yield from _weights({f"{prefix}{ours}": theirs for ours, theirs in _BOTH.items()})
    if siglip:
        yield from _weights(_SIGLIP)
        yield from _modules(_SIGLIP_MODULES)
        for w in ("weight", "bias"):
            fused = (f"{_HEAD}.attention.in_proj_{w}",)
            yield (f"{_POOL}.q.{w}", f"{_POOL}.kv.{w}"), fused, False
        yield from _blocks("visual.trunk.blocks", "attn.qkv.", _TIMM_BLOCK, "vision", vision)
    else:
        yield from _weights(_CLIP_TRANSPOSED, transpose=True)
        yield from _weights(_CLIP)
        yield from _modules(_CLIP_MODULES)
        blocks = "visual.transformer.resblocks"
        yield from _blocks(blocks, "attn.in_proj_", _OPEN_CLIP_BLOCK, "vision", vision)
    blocks = f"{prefix}transformer.resblocks"
    yield from _blocks(blocks, "attn.in_proj_", _OPEN_CLIP_BLOCK, "text", text)
    yield from _modules({f"{prefix}ln_final": "text_model.final_layer_norm"})


def _weights(names: Mapping[str, str], transpose: bool = False) -> Iterator[Row]:
    """Weights by their whole names, ours → theirs."""
    for ours, theirs in names.items():
        yield (ours,), (theirs,), transpose


def _modules(names: Mapping[str, str]) -> Iterator[Row]:
    """Modules with a weight and a bias, ours → theirs."""
    for ours, theirs in names.items():
        yield from _weights({f"{ours}.{w}": f"{theirs}.{w}" for w in ("weight", "bias")})


def _blocks(
    blocks: str, fused: str, parts: Iterable[str], tower: str, layers: int
) -> Iterator[Row]:
    """Transformer blocks, whose q, k and v are one matrix in open_clip."""
    for i in range(layers):
        ours, theirs = f"{blocks}.{i}", f"{tower}_model.encoder.layers.{i}"
        for w in ("weight", "bias"):
            qkv = tuple(f"{theirs}.self_attn.{x}_proj.{w}" for x in "qkv")
            yield (f"{ours}.{fused}{w}",), qkv, False
        pairs = zip(parts, _BLOCK, strict=True)
        yield from _modules({f"{ours}.{a}": f"{theirs}.{b}" for a, b in pairs})


def rename(
    rows: Iterable[Row],
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    back: bool = False,
) -> dict[str, Tensor]:
    """Give weights the names and shapes of another layout.

    Args:
        rows: Which weights belong together.
        source: The weights.
        target: The state dict with the wanted names and shapes.
        back: Rename from Hugging Face to open_clip, not the other way.

    Raises:
        KeyError: With the name of a weight that is missing, left over, or of another size.
    """
    out: dict[str, Tensor] = {}
    left = {k for k in source if not k.endswith("position_ids")}
    for ours, theirs, transpose in rows:
        src, dst = (theirs, ours) if back else (ours, theirs)
        # Concatenated, flat, and split again: (width, width) three times ↔ (3 · width, width).
        flat = torch.cat([(source[k].T if transpose else source[k]).reshape(-1) for k in src])
        sizes = [target[k].numel() for k in dst]
        if len(flat) != sum(sizes):
            raise KeyError(src[0])
        for k, piece in zip(dst, flat.split(sizes), strict=True):
            out[k] = piece.reshape(target[k].shape)
        left -= set(src)
    missing = {k for k in target if k not in out and not k.endswith("position_ids")}
    if wrong := sorted(left) or sorted(missing):
        raise KeyError(wrong[0])
    return out
