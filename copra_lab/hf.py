"""The same weights under Hugging Face's names: to a CLIPModel or SiglipModel, so that transformers and peft can take over, and
from a folder of one. It is a renaming and nothing else, so both ways are exact.
"""

import json
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.clip import Clip
from copra_lab.fetching import HF_INDEX, HF_WEIGHTS
from copra_lab.loading import finish, hugging_face_tokenizer, read_weights

__all__ = ["to_hugging_face"]


Row = tuple[tuple[str, ...], tuple[str, ...], bool]
"""open_clip's names, Hugging Face's names, whether to transpose: the rows of the former are together the rows of the latter."""

_ACTS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_pytorch_tanh": "gelu_pytorch_tanh", "gelu_new": "gelu_pytorch_tanh"}
_SIGLIP_TRUNK = "vit_base_patch16_siglip_224"


def _rows(siglip: bool, vision: int, text: int) -> Iterator[Row]:
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
        pairs |= {f"{trunk}.patch_embed.proj": f"vision_model.{e}.patch_embedding", f"{trunk}.norm": "vision_model.post_layernorm"}
        pairs |= {f"{trunk}.attn_pool.proj": f"{head}.attention.out_proj", f"{trunk}.attn_pool.norm": f"{head}.layernorm"}
        pairs |= {f"{trunk}.attn_pool.mlp.{fc}": f"{head}.mlp.{fc}" for fc in ("fc1", "fc2")} | {"text.text_projection": "text_model.head"}
        for w in ("weight", "bias"):
            yield (f"{trunk}.attn_pool.q.{w}", f"{trunk}.attn_pool.kv.{w}"), (f"{head}.attention.in_proj_{w}",), False
    else:
        yield ("visual.proj",), ("visual_projection.weight",), True
        yield ("text_projection",), ("text_projection.weight",), True
        yield ("visual.class_embedding",), (f"vision_model.{e}.class_embedding",), False
        yield ("visual.conv1.weight",), (f"vision_model.{e}.patch_embedding.weight",), False
        yield ("visual.positional_embedding",), (f"vision_model.{e}.position_embedding.weight",), False
        pairs |= {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm"}
    in_open_clip = ("attn.in_proj_", "attn.out_proj.", "ln_1.", "ln_2.", "mlp.c_fc.", "mlp.c_proj.")
    in_timm = ("attn.qkv.", "attn.proj.", "norm1.", "norm2.", "mlp.fc1.", "mlp.fc2.")
    image = ("visual.trunk.blocks", in_timm) if siglip else ("visual.transformer.resblocks", in_open_clip)
    for (blocks, parts), tower, depth in ((image, "vision", vision), ((f"{t}transformer.resblocks", in_open_clip), "text", text)):
        for i in range(depth):
            a, b = f"{blocks}.{i}", f"{tower}_model.encoder.layers.{i}"
            for w in ("weight", "bias"):
                yield (f"{a}.{parts[0]}{w}",), tuple(f"{b}.self_attn.{x}_proj.{w}" for x in "qkv"), False
            theirs = ("self_attn.out_proj", "layer_norm1", "layer_norm2", "mlp.fc1", "mlp.fc2")
            pairs |= {f"{a}.{x[:-1]}": f"{b}.{y}" for x, y in zip(parts[1:], theirs, strict=True)}
    for ours, hf in pairs.items():
        for w in ("weight", "bias"):
            yield (f"{ours}.{w}",), (f"{hf}.{w}",), False


def _rename(rows: Iterator[Row], source: Mapping[str, Tensor], target: Mapping[str, Tensor], back: bool = False) -> dict[str, Tensor]:
    """The weights `source` under the names and in the shapes of `target`; ``back``: from Hugging Face's. Raises KeyError for a weight
    that is missing or left over on either side, and RuntimeError where sizes differ."""
    out: dict[str, Tensor] = {}
    left = {k for k in source if not k.endswith("position_ids")}
    for ours, theirs, turned in rows:
        src, dst = (theirs, ours) if back else (ours, theirs)
        parts = [source[k].T if turned else source[k] for k in src]
        flat = torch.cat([p.reshape(-1) for p in parts])
        for k, piece in zip(dst, flat.split([target[k].numel() for k in dst]), strict=True):
            out[k] = piece.reshape(target[k].shape)
        left -= set(src)
    if more := sorted(left) or sorted(k for k in set(target) - set(out) if not k.endswith("position_ids")):
        raise KeyError(more[0])
    return out


def to_hugging_face(clip: Clip):
    """A ``transformers.CLIPModel`` with the weights of `clip` (a plain ViT and a plain text tower), or of a SigLIP
    a ``SiglipModel``, with equal logits for the same pixels and tokens. Raises ValueError for an architecture that neither has."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    no_twin = f"{clip.name} is not a plain CLIP (a ViT with a class token and a text transformer) or SigLIP; it has no Hugging Face twin"
    m, siglip = clip.model, hasattr(clip.model, "text")
    try:
        vision, text = _vision_config(clip), _text_config(m.text if siglip else m)
        if siglip:
            model = SiglipModel(SiglipConfig(vision_config=vision, text_config={**text, "projection_size": m.text.text_projection.out_features}))
        else:
            size = m.text_projection.shape[1]
            eos = m.text_eos_id if m.text_pool_type == "eos" else text["vocab_size"] - 1  # else the highest number
            text |= {"projection_dim": size, "eos_token_id": eos, "bos_token_id": getattr(clip.tokenizer, "sot_token_id", eos - 1), "pad_token_id": 0}
            model = CLIPModel(CLIPConfig(vision_config={**vision, "projection_dim": size}, text_config=text, projection_dim=size))
    except (AttributeError, KeyError, TypeError) as e:
        raise ValueError(no_twin) from e
    model = model.eval().requires_grad_(False)
    rows = _rows(siglip, vision["num_hidden_layers"], text["num_hidden_layers"])
    try:
        renamed = _rename(rows, m.state_dict(), model.state_dict())
    except (KeyError, RuntimeError) as e:
        raise ValueError(f"{no_twin} (it differs at {e})") from e
    model.load_state_dict(renamed, strict=False)  # position_ids are no weights, and not in every version
    return model


def _vision_config(clip: Clip) -> dict[str, Any]:
    visual = clip.model.visual
    if hasattr(visual, "trunk"):
        trunk, block = visual.trunk, visual.trunk.blocks[0]
        conv, depth, norm, act, fc1 = trunk.patch_embed.proj, len(trunk.blocks), trunk.norm, block.mlp.act, block.mlp.fc1
    else:
        block = visual.transformer.resblocks[0]
        conv, depth, norm, act, fc1 = visual.conv1, len(visual.transformer.resblocks), visual.ln_post, block.mlp.gelu, block.mlp.c_fc
    return {
        "hidden_size": conv.out_channels, "patch_size": conv.kernel_size[0], "image_size": clip.side, "num_hidden_layers": depth,
        "num_attention_heads": block.attn.num_heads, "intermediate_size": fc1.out_features, "hidden_act": _act(act), "layer_norm_eps": norm.eps,
    }  # fmt: skip


def _text_config(text: nn.Module) -> dict[str, Any]:
    block, (tokens, width) = text.transformer.resblocks[0], text.token_embedding.weight.shape
    return {
        "hidden_size": width, "vocab_size": tokens, "max_position_embeddings": len(text.positional_embedding),
        "num_hidden_layers": len(text.transformer.resblocks), "num_attention_heads": block.attn.num_heads,
        "intermediate_size": block.mlp.c_fc.out_features, "hidden_act": _act(block.mlp.gelu), "layer_norm_eps": text.ln_final.eps,
    }  # fmt: skip


def _act(module: nn.Module) -> str:
    name = type(module).__name__
    if name == "GELUTanh" or getattr(module, "approximate", "none") == "tanh":
        return "gelu_pytorch_tanh"
    return {"QuickGELU": "quick_gelu", "GELU": "gelu"}[name]


def read_hugging_face(folder: Path, name: str) -> Clip:
    """A CLIP or SigLIP from a folder as ``save_pretrained`` writes it; a vocabulary of 49,408 is taken for CLIP's own. See
    `copra_lab.clip.load_clip` for what is raised."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig, SiglipConfig

    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind = found.get("model_type")
        if kind not in ("clip", "siglip"):
            raise ValueError(f"it describes {kind!r}; a whole CLIP or SigLIP is read (model_type clip or siglip), both towers together")
        config = (CLIPConfig if kind == "clip" else SiglipConfig).from_dict(found)
        model = _clip(config) if kind == "clip" else _siglip(config)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, AssertionError, ZeroDivisionError, StrictDataclassError) as e:
        raise ValueError(f"{file} is no configuration that can be read ({str(e).strip().splitlines()[0]}); copy it anew, or choose another") from e
    weights, where = _weights(folder)
    rows = _rows(kind == "siglip", config.vision_config.num_hidden_layers, config.text_config.num_hidden_layers)
    try:
        # Assigned, not copied, since SigLIP's modules are still without memory.
        renamed = {k: v.float().clone() for k, v in _rename(rows, weights, model.state_dict(), back=True).items()}
        model.load_state_dict(renamed, assign=True)
    except (KeyError, RuntimeError) as e:
        raise ValueError(f"{where} is damaged or belongs to another configuration; copy it anew") from e
    context, text = config.text_config.max_position_embeddings, config.text_config
    if kind == "siglip":
        tokenizer = hugging_face_tokenizer(str(folder), name, context, clean="canonicalize")
    elif text.vocab_size == 49408:
        from open_clip.tokenizer import SimpleTokenizer

        tokenizer = SimpleTokenizer(context_length=context)
    else:
        tokenizer = hugging_face_tokenizer(str(folder), name, context)
    return finish(model, tokenizer, name, _preprocessing(folder, kind))


def _clip(config: Any) -> nn.Module:
    """open_clip's module for a CLIPConfig, with random weights."""
    from open_clip import CLIP

    v, t = config.vision_config, config.text_config
    acts = {_ACTS[v.hidden_act], _ACTS[t.hidden_act]}
    if len(acts) > 1:
        raise ValueError(f"its towers have different activations, {v.hidden_act} and {t.hidden_act}")
    highest = t.eos_token_id in (2, t.vocab_size - 1)  # 2 is what configurations said before that was mended in transformers
    vision = {"image_size": v.image_size, "patch_size": v.patch_size, "head_width": v.hidden_size // v.num_attention_heads, **_blocks(v)}
    text = {"context_length": t.max_position_embeddings, "vocab_size": t.vocab_size, "heads": t.num_attention_heads, **_blocks(t)}
    if not highest:
        text |= {"pool_type": "eos", "eos_id": t.eos_token_id}
    return CLIP(config.projection_dim, vision, text, quick_gelu="quick_gelu" in acts)


def _siglip(config: Any) -> nn.Module:
    """open_clip's module for a SiglipConfig, without memory for its weights. timm has SigLIP's trunk in a few sizes by name; this
    one gets the sizes of the configuration."""
    from open_clip import CustomTextCLIP
    from timm import create_model

    v, t = config.vision_config, config.text_config
    if not getattr(v, "vision_use_head", True) or "quick_gelu" in (v.hidden_act, t.hidden_act):
        raise ValueError("it is a SigLIP without its pooling head, or with QuickGELU")
    text = {
        "context_length": t.max_position_embeddings, "vocab_size": t.vocab_size, "heads": t.num_attention_heads, **_blocks(t),
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    }  # fmt: skip
    vision = {"timm_model_name": _SIGLIP_TRUNK, "timm_pool": "map", "timm_proj": "none", "image_size": v.image_size}
    with torch.device("meta"):
        model = CustomTextCLIP(t.projection_size, vision, text, init_logit_bias=-10)
        model.visual.trunk = create_model(
            _SIGLIP_TRUNK, num_classes=0, img_size=v.image_size, patch_size=v.patch_size, embed_dim=v.hidden_size, depth=v.num_hidden_layers,
            num_heads=v.num_attention_heads, mlp_ratio=_ratio(v), norm_layer=partial(nn.LayerNorm, eps=v.layer_norm_eps),
            act_layer=partial(nn.GELU, **_approximate(v)),
        )  # fmt: skip
    return model


def _blocks(c: Any) -> dict[str, Any]:
    more = {"act_kwargs": about} if (about := _approximate(c)) else {}
    return {"width": c.hidden_size, "layers": c.num_hidden_layers, "mlp_ratio": _ratio(c), "norm_kwargs": {"eps": c.layer_norm_eps}, **more}


def _approximate(c: Any) -> dict[str, str]:
    return {"approximate": "tanh"} if _ACTS[c.hidden_act] == "gelu_pytorch_tanh" else {}


def _ratio(c: Any) -> float:
    return (c.intermediate_size + 0.5) / c.hidden_size  # what multiplies a width and is cut to a whole number


def _weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The weights in a folder, and the file that they are in, or the last of them."""
    files = [folder / f for f in HF_WEIGHTS]
    if (index := folder / HF_INDEX).is_file():
        try:
            files = [folder / f for f in sorted(set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()))]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"{index} is damaged; copy it anew") from e
    else:
        files = [f for f in files if f.is_file()][:1]
    if not files or not all(f.is_file() for f in files):
        raise FileNotFoundError(f"{next((f for f in files if not f.is_file()), folder / HF_WEIGHTS[0])} is missing; copy it into the folder")
    return {k: v for f in files for k, v in read_weights(f).items()}, files[-1]


def _preprocessing(folder: Path, kind: str) -> dict[str, Any]:
    """What an image processor's settings say, in open_clip's words."""
    usual: dict[str, Any] = {} if kind == "clip" else {"mean": (0.5,) * 3, "std": (0.5,) * 3, "resize_mode": "squash"}
    file = folder / "preprocessor_config.json"
    if not file.is_file():
        return usual
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        size = found.get("size")
        squash = isinstance(size, dict) and "height" in size and not found.get("do_center_crop")
        return {
            "mean": found.get("image_mean") or usual.get("mean"),
            "std": found.get("image_std") or usual.get("std"),
            "interpolation": "bilinear" if found.get("resample") == 2 else "bicubic",
            "resize_mode": "squash" if squash else "shortest",
        }
    except (ValueError, AttributeError, RecursionError) as e:
        raise ValueError(f"{file} is damaged; copy it anew") from e
