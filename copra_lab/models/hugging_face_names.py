"""The names of a CLIP's weights in open_clip and in transformers, and the way from the ones to the others."""

from collections.abc import Iterator, Mapping

import torch
from torch import Tensor

Row = tuple[tuple[str, ...], tuple[str, ...], bool]
"""open_clip's names, Hugging Face's names, whether to transpose: the rows of the former are together the rows of the latter."""


def rows(siglip: bool, vision: int, text: int) -> Iterator[Row]:
    """For so many layers."""
    t, e = ("text." if siglip else ""), "embeddings"
    yield ("logit_scale",), ("logit_scale",), False
    yield (f"{t}token_embedding.weight",), (f"text_model.{e}.token_embedding.weight",), False
    yield (f"{t}positional_embedding",), (f"text_model.{e}.position_embedding.weight",), False
    pairs = {f"{t}ln_final": "text_model.final_layer_norm"}
    if siglip:
        trunk, head = "visual.trunk", "vision_model.head"
        yield ("logit_bias",), ("logit_bias",), False
        yield (f"{trunk}.pos_embed",), (f"vision_model.{e}.position_embedding.weight",), False
        yield (f"{trunk}.attn_pool.latent",), (f"{head}.probe",), False
        pairs |= {
            f"{trunk}.patch_embed.proj": f"vision_model.{e}.patch_embedding",
            f"{trunk}.norm": "vision_model.post_layernorm",
        }
        pairs |= {
            f"{trunk}.attn_pool.proj": f"{head}.attention.out_proj",
            f"{trunk}.attn_pool.norm": f"{head}.layernorm",
        }
        pairs |= {f"{trunk}.attn_pool.mlp.{fc}": f"{head}.mlp.{fc}" for fc in ("fc1", "fc2")} | {
            "text.text_projection": "text_model.head"
        }
        for w in ("weight", "bias"):
            yield (
                (f"{trunk}.attn_pool.q.{w}", f"{trunk}.attn_pool.kv.{w}"),
                (f"{head}.attention.in_proj_{w}",),
                False,
            )
    else:
        yield ("visual.proj",), ("visual_projection.weight",), True
        yield ("text_projection",), ("text_projection.weight",), True
        yield ("visual.class_embedding",), (f"vision_model.{e}.class_embedding",), False
        yield ("visual.conv1.weight",), (f"vision_model.{e}.patch_embedding.weight",), False
        yield (
            ("visual.positional_embedding",),
            (f"vision_model.{e}.position_embedding.weight",),
            False,
        )
        pairs |= {
            "visual.ln_pre": "vision_model.pre_layrnorm",
            "visual.ln_post": "vision_model.post_layernorm",
        }
    in_open_clip = ("attn.in_proj_", "attn.out_proj.", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
    in_timm = ("attn.qkv.", "attn.proj.", "norm1.", "norm2.", "mlp.fc1.", "mlp.fc2.")
    image = (
        ("visual.trunk.blocks", in_timm)
        if siglip
        else ("visual.transformer.resblocks", in_open_clip)
    )
    for (blocks, parts), tower, depth in (
        (image, "vision", vision),
        ((f"{t}transformer.resblocks", in_open_clip), "text", text),
    ):
        for i in range(depth):
            a, b = f"{blocks}.{i}", f"{tower}_model.encoder.layers.{i}"
            for w in ("weight", "bias"):
                yield (
                    (f"{a}.{parts[0]}{w}",),
                    tuple(f"{b}.self_attn.{x}_proj.{w}" for x in "qkv"),
                    False,
                )
            theirs = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
            pairs |= {f"{a}.{x[:-1]}": f"{b}.{y}" for x, y in zip(parts[1:], theirs, strict=True)}
    for ours, hf in pairs.items():
        for w in ("weight", "bias"):
            yield (f"{ours}.{w}",), (f"{hf}.{w}",), False


def rename(
    rows: Iterator[Row],
    source: Mapping[str, Tensor],
    target: Mapping[str, Tensor],
    back: bool = False,
) -> dict[str, Tensor]:
    """The weights `source` under the names and in the shapes of `target`; ``back``: from Hugging Face's. Raises KeyError, with its name,
    for a weight that is missing, left over on either side, or of another size."""
    out: dict[str, Tensor] = {}
    left = {k for k in source if not k.endswith("position_ids")}
    for ours, theirs, turned in rows:
        src, dst = (theirs, ours) if back else (ours, theirs)
        parts = [source[k].T if turned else source[k] for k in src]
        flat = torch.cat([p.reshape(-1) for p in parts])
        if len(flat) != sum(target[k].numel() for k in dst):
            raise KeyError(src[0])
        for k, piece in zip(dst, flat.split([target[k].numel() for k in dst]), strict=True):
            out[k] = piece.reshape(target[k].shape)
        left -= set(src)
    if more := sorted(left) or sorted(
        k for k in set(target) - set(out) if not k.endswith("position_ids")
    ):
        raise KeyError(more[0])
    return out
