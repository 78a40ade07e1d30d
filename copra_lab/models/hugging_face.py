"""The same weights under Hugging Face's names: to a CLIPModel or SiglipModel, so that transformers and peft can take over, and
from a folder of one. It is a renaming and nothing else, so both ways are exact.
"""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.models import preprocessing, tokenizers
from copra_lab.models.checkpoints import first_misfit, read_weights
from copra_lab.models.clip import Clip
from copra_lab.models.freezing import freeze
from copra_lab.models.hub_download import HF_INDEX, HF_WEIGHTS, OPEN_CLIP_CONFIG
from copra_lab.models.hugging_face_names import rename
from copra_lab.models.hugging_face_names import rows as rows_of
from copra_lab.models.preprocessing import PREPROCESSOR, PROCESSOR
from copra_lab.utils.extras import needs
from copra_lab.utils.files import written_aside

__all__ = ["save_hugging_face", "to_hugging_face"]


_ACTS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}
_SIGLIP_TRUNK = "vit_base_patch16_siglip_224"
_COME_FIRST = (HF_INDEX, PROCESSOR, "added_tokens.json", "special_tokens_map.json")
"""Files that `save_hugging_face` does not write, and that are read before those that it writes."""


def to_hugging_face(clip: Clip):
    """A ``transformers.CLIPModel`` with the weights of `clip` (a plain ViT and a plain text tower), or of a SigLIP
    a ``SiglipModel``, with equal logits for the same pixels and tokens.

    It is the model alone: to write it into a folder, with the tokenizer and the preprocessing without which its numbers are others, use
    `save_hugging_face`. Raises ValueError for an architecture that neither has."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    no_twin = f"{clip.name} is not a plain CLIP (a ViT with a class token and a text transformer) or SigLIP; it has no Hugging Face twin"
    m, siglip = clip.model, hasattr(clip.model, "text")
    try:
        vision, text = _vision_config(clip), _text_config(m.text if siglip else m)
        if siglip:
            model = SiglipModel(
                SiglipConfig(
                    vision_config=vision,
                    text_config={**text, "projection_size": m.text.text_projection.out_features},
                )
            )
        else:
            size = m.text_projection.shape[1]
            eos = (
                m.text_eos_id if m.text_pool_type == "eos" else text["vocab_size"] - 1
            )  # else the highest number
            text |= {
                "projection_dim": size,
                "eos_token_id": eos,
                "bos_token_id": getattr(clip.tokenizer, "sot_token_id", eos - 1),
                "pad_token_id": eos,
            }
            model = CLIPModel(
                CLIPConfig(
                    vision_config={**vision, "projection_dim": size},
                    text_config=text,
                    projection_dim=size,
                )
            )
    except (
        AttributeError,
        KeyError,
        TypeError,
        ValueError,
        IndexError,
        RuntimeError,
        ZeroDivisionError,
    ) as e:
        raise ValueError(no_twin) from e
    model = model.eval().requires_grad_(False)
    rows = rows_of(siglip, vision["num_hidden_layers"], text["num_hidden_layers"])
    try:
        renamed = rename(rows, m.state_dict(), model.state_dict())
    except KeyError as e:
        raise ValueError(f"{no_twin} (it differs at {e.args[0]!r})") from e
    model.load_state_dict(
        renamed, strict=False
    )  # position_ids are no weights, and not in every version
    if other := _differs(clip, model, text["vocab_size"]):
        raise ValueError(f"{no_twin} (the same weights give other {other} there)")
    return model


@torch.inference_mode()
def _differs(clip: Clip, model: Any, tokens: int) -> str:
    """What the two compute of one picture and one text, held against each other: names alone do not tell how a text is read, or patches
    are pooled. "" where they agree."""
    m, g = clip.model, torch.Generator().manual_seed(0)
    text = getattr(m, "text", m)
    length = len(text.positional_embedding)
    x, ids = (
        torch.randn(1, 3, clip.side, clip.side, generator=g),
        torch.randint(0, max(1, tokens - 2), (1, length), generator=g),
    )
    ids[0, length // 2] = (
        text.text_eos_id if getattr(text, "text_pool_type", "") == "eos" else tokens - 1
    )  # where CLIP reads
    theirs = model(pixel_values=x, input_ids=ids)
    for what, own, other in (
        ("image features", m.encode_image(x.to(clip.device)), theirs.image_embeds),
        ("text features", m.encode_text(ids.to(clip.device)), theirs.text_embeds),
    ):
        if not torch.allclose(torch.nn.functional.normalize(own.cpu(), dim=-1), other, atol=1e-3):
            return what
    return ""


def save_hugging_face(clip: Clip, folder: "str | Path") -> None:
    """Write `clip` into a folder that transformers (``CLIPModel`` or ``SiglipModel``, ``AutoProcessor``) and `load_clip` read to the same
    features: weights, tokenizer and preprocessing.

    Raises ValueError for an architecture, a tokenizer or a preprocessing that transformers does not have, and for a folder that holds a
    CLIP in open_clip's layout; OSError where it cannot be written."""
    folder = Path(folder)
    if (folder / OPEN_CLIP_CONFIG).exists():
        raise ValueError(f"{folder} holds a CLIP in open_clip's layout; choose another folder")
    siglip = hasattr(clip.model, "text")
    says = json.dumps(preprocessing.to_transformers(clip, siglip), indent=2)
    model = to_hugging_face(clip)
    with written_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizers.save(clip.tokenizer, aside, clip.name)
        (aside / PREPROCESSOR).write_text(says + "\n", encoding="utf-8")
        written = {f.name for f in aside.iterdir()}
    for (
        name
    ) in _COME_FIRST:  # of another CLIP that was there: they would be read in place of the new ones
        if name not in written:
            (folder / name).unlink(missing_ok=True)


def _vision_config(clip: Clip) -> dict[str, Any]:
    visual = clip.model.visual
    if hasattr(visual, "trunk"):
        trunk, block = visual.trunk, visual.trunk.blocks[0]
        conv, depth, norm, act, fc1 = (
            trunk.patch_embed.proj,
            len(trunk.blocks),
            trunk.norm,
            block.mlp.act,
            block.mlp.fc1,
        )
    else:
        block = visual.transformer.resblocks[0]
        conv, depth, norm, act, fc1 = (
            visual.conv1,
            len(visual.transformer.resblocks),
            visual.ln_post,
            block.mlp.gelu,
            block.mlp.c_fc,
        )
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
    """A CLIP or SigLIP from a folder as transformers writes its model and its processor. See `copra_lab.models.loading.load_clip` for what is
    raised."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig, SiglipConfig

    file = folder / "config.json"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind = found.get("model_type")
        if kind not in ("clip", "siglip"):
            raise ValueError(
                f"it describes {kind!r}; a whole CLIP or SigLIP is read (model_type clip or siglip), both towers together"
            )
        config = (CLIPConfig if kind == "clip" else SiglipConfig).from_dict(found)
        model = _clip(config) if kind == "clip" else _siglip(config)
    except (
        OSError,
        ValueError,
        TypeError,
        KeyError,
        AttributeError,
        RuntimeError,
        AssertionError,
        ZeroDivisionError,
        StrictDataclassError,
    ) as e:
        raise ValueError(
            f"{file} is no configuration that can be read ({str(e).strip().splitlines()[0]}); copy it anew, or choose another"
        ) from e
    weights, where = _weights(folder)
    _check_names(weights, config, where)
    rows = rows_of(
        kind == "siglip",
        config.vision_config.num_hidden_layers,
        config.text_config.num_hidden_layers,
    )
    # Assigned, not copied, since SigLIP's modules are still without memory.
    renamed = {
        k: v.float().clone()
        for k, v in rename(rows, weights, model.state_dict(), back=True).items()
    }
    model.load_state_dict(renamed, assign=True)
    context = config.text_config.max_position_embeddings
    tokenizer = tokenizers.of_transformers(folder, name, context, found.get("_name_or_path"))
    return freeze(
        model,
        tokenizer,
        name,
        preprocessing.of_transformers(folder, kind == "siglip", config.vision_config.image_size),
    )


def _check_names(weights: Mapping[str, Tensor], config: Any, file: Path) -> None:
    """Raises ValueError, with the first name that differs, for weights that are not those of the configuration."""
    from transformers import CLIPModel, SiglipModel

    with torch.device("meta"):
        expected = (CLIPModel if config.model_type == "clip" else SiglipModel)(config).state_dict()
    if misfit := first_misfit(
        *(
            {k: v for k, v in each.items() if not k.endswith("position_ids")}
            for each in (weights, expected)
        )
    ):
        raise ValueError(
            f"{file} does not fit the configuration beside it: {misfit}; copy both from the same repository"
        )


def _clip(config: Any) -> nn.Module:
    """open_clip's module for a CLIPConfig, with random weights."""
    with needs("clip"):
        from open_clip import CLIP

    v, t = config.vision_config, config.text_config
    acts = {_ACTS[v.hidden_act], _ACTS[t.hidden_act]}
    if len(acts) > 1:
        raise ValueError(
            f"its towers have different activations, {v.hidden_act} and {t.hidden_act}"
        )
    highest = t.eos_token_id in (
        2,
        t.vocab_size - 1,
    )  # 2 is what configurations said before that was mended in transformers
    vision = {
        "image_size": v.image_size,
        "patch_size": v.patch_size,
        "head_width": v.hidden_size // v.num_attention_heads,
        **_blocks(v),
    }
    text = {
        "context_length": t.max_position_embeddings,
        "vocab_size": t.vocab_size,
        "heads": t.num_attention_heads,
        **_blocks(t),
    }
    if not highest:
        text |= {"pool_type": "eos", "eos_id": t.eos_token_id}
    return CLIP(config.projection_dim, vision, text, quick_gelu="quick_gelu" in acts)


def _siglip(config: Any) -> nn.Module:
    """open_clip's module for a SiglipConfig, without memory for its weights. timm has SigLIP's trunk in a few sizes by name; this
    one gets the sizes of the configuration."""
    with needs("clip"):
        from open_clip import CustomTextCLIP
        from timm import create_model

    v, t = config.vision_config, config.text_config
    if not getattr(v, "vision_use_head", True) or "quick_gelu" in (v.hidden_act, t.hidden_act):
        raise ValueError("it is a SigLIP without its pooling head, or with QuickGELU")
    text = {
        "context_length": t.max_position_embeddings, "vocab_size": t.vocab_size, "heads": t.num_attention_heads, **_blocks(t),
        "no_causal_mask": True, "proj_bias": True, "pool_type": "last",
    }  # fmt: skip
    vision = {
        "timm_model_name": _SIGLIP_TRUNK,
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": v.image_size,
    }
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
    return {
        "width": c.hidden_size,
        "layers": c.num_hidden_layers,
        "mlp_ratio": _ratio(c),
        "norm_kwargs": {"eps": c.layer_norm_eps},
        **more,
    }


def _approximate(c: Any) -> dict[str, str]:
    return {"approximate": "tanh"} if _ACTS[c.hidden_act] == "gelu_pytorch_tanh" else {}


def _ratio(c: Any) -> float:
    return (
        c.intermediate_size + 0.5
    ) / c.hidden_size  # what multiplies a width and is cut to a whole number


def _weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The weights in a folder, and the file that they are in, or the last of them."""
    files = [folder / f for f in HF_WEIGHTS]
    if (index := folder / HF_INDEX).is_file():
        try:
            files = [
                folder / f
                for f in sorted(
                    set(json.loads(index.read_text(encoding="utf-8"))["weight_map"].values())
                )
            ]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"{index} is damaged; copy it anew") from e
    else:
        files = [f for f in files if f.is_file()][:1]
    if not files or not all(f.is_file() for f in files):
        raise FileNotFoundError(
            f"{next((f for f in files if not f.is_file()), folder / HF_WEIGHTS[0])} is missing; copy it into the folder"
        )
    return {k: v for f in files for k, v in read_weights(f).items()}, files[-1]
