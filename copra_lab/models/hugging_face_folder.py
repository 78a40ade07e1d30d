"""A CLIP or SigLIP from a folder that transformers wrote, run by open_clip's modules."""

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.models import image_processors, tokenizers
from copra_lab.models.checkpoints import MALFORMED, first_misfit, read_weights
from copra_lab.models.clip import Clip
from copra_lab.models.freezing import freeze
from copra_lab.models.hub_download import HF_INDEX, HF_WEIGHTS
from copra_lab.models.hugging_face_names import rename, weight_names
from copra_lab.utils.checks import reason
from copra_lab.utils.extras import needs

_ACTIVATIONS = {
    "quick_gelu": "quick_gelu",
    "gelu": "gelu",
    "gelu_pytorch_tanh": "gelu_pytorch_tanh",
    "gelu_new": "gelu_pytorch_tanh",
}
_SIGLIP_TRUNK = "vit_base_patch16_siglip_224"


def read_hugging_face(folder: Path, name: str) -> Clip:
    """Load a CLIP or SigLIP from a folder with its configuration, weights, tokenizer and processor.

    Args:
        folder: As transformers writes it.
        name: What the CLIP is called.

    Raises:
        FileNotFoundError: If a file is missing.
        ValueError: If a file is damaged or not supported.
    """
    config, base, model = _read_config(folder / "config.json")
    siglip = config.model_type == "siglip"
    weights, file = _read_weights(folder)
    _check_names(weights, config, file)
    renamed = rename(weight_names(siglip, config), weights, model.state_dict(), back=True)
    # Assigned, not copied: SigLIP's modules have no memory yet.
    model.load_state_dict({k: v.float().clone() for k, v in renamed.items()}, assign=True)
    context, side = config.text_config.max_position_embeddings, config.vision_config.image_size
    tokenizer = tokenizers.of_transformers(folder, name, context, base)
    return freeze(model, tokenizer, name, image_processors.of_transformers(folder, siglip, side))


def _read_config(file: Path) -> tuple[Any, str | None, Any]:
    """The configuration, the repository it names, and open_clip's module for it."""
    from huggingface_hub.errors import StrictDataclassError
    from transformers import CLIPConfig, SiglipConfig

    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        kind = found.get("model_type")
        if kind not in ("clip", "siglip"):
            raise ValueError(f"it describes {kind!r}, not a CLIP or SigLIP, both towers together")
        config = (CLIPConfig if kind == "clip" else SiglipConfig).from_dict(found)
        model = _clip(config) if kind == "clip" else _siglip(config)
    except (*MALFORMED, OSError, StrictDataclassError) as e:
        raise ValueError(
            f"{file} cannot be read ({reason(e)}); copy it again, or choose another model"
        ) from e
    return config, found.get("_name_or_path"), model


def _check_names(weights: Mapping[str, Tensor], config: Any, file: Path) -> None:
    """Raise ValueError, with the first name that differs, if the weights do not fit."""
    from transformers import CLIPModel, SiglipModel

    with torch.device("meta"):
        expected = (CLIPModel if config.model_type == "clip" else SiglipModel)(config).state_dict()
    found, wanted = (
        {k: v for k, v in each.items() if not k.endswith("position_ids")}
        for each in (weights, expected)
    )
    if misfit := first_misfit(found, wanted):
        raise ValueError(
            f"{file} does not fit its config.json: {misfit}; copy both from the same repository"
        )


def _clip(config: Any) -> Any:
    """open_clip's module for a CLIPConfig, with random weights."""
    with needs("clip"):
        from open_clip import CLIP

    v, t = config.vision_config, config.text_config
    activation, of_text = _ACTIVATIONS[v.hidden_act], _ACTIVATIONS[t.hidden_act]
    if activation != of_text:
        raise ValueError(f"its towers have different activations, {activation} and {of_text}")
    vision = {
        "image_size": v.image_size,
        "patch_size": v.patch_size,
        "head_width": v.hidden_size // v.num_attention_heads,
        **_blocks(v),
    }
    text = _text(t)
    # Old configurations say 2, whatever the token is (since corrected in transformers).
    if t.eos_token_id not in (2, t.vocab_size - 1):
        text |= {"pool_type": "eos", "eos_id": t.eos_token_id}
    return CLIP(config.projection_dim, vision, text, quick_gelu=activation == "quick_gelu")


def _siglip(config: Any) -> Any:
    """open_clip's module for a SiglipConfig, whose weights have no memory yet.

    timm has SigLIP's trunk by name only in a few sizes; this one gets the configuration's sizes.
    """
    with needs("clip"):
        from open_clip import CustomTextCLIP
        from timm import create_model

    v, t = config.vision_config, config.text_config
    if not getattr(v, "vision_use_head", True) or "quick_gelu" in (v.hidden_act, t.hidden_act):
        raise ValueError("it is a SigLIP without its pooling head, or with QuickGELU")
    text = _text(t) | {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}
    vision = {
        "timm_model_name": _SIGLIP_TRUNK,
        "timm_pool": "map",
        "timm_proj": "none",
        "image_size": v.image_size,
    }
    with torch.device("meta"):
        model = CustomTextCLIP(t.projection_size, vision, text, init_logit_bias=-10)
        model.visual.trunk = create_model(
            _SIGLIP_TRUNK,
            num_classes=0,
            img_size=v.image_size,
            patch_size=v.patch_size,
            embed_dim=v.hidden_size,
            depth=v.num_hidden_layers,
            num_heads=v.num_attention_heads,
            mlp_ratio=_mlp_ratio(v),
            norm_layer=partial(nn.LayerNorm, eps=v.layer_norm_eps),
            act_layer=partial(nn.GELU, **_gelu_arguments(v)),
        )
    return model


def _text(t: Any) -> dict[str, Any]:
    """open_clip's settings of a text tower."""
    return {
        "context_length": t.max_position_embeddings,
        "vocab_size": t.vocab_size,
        "heads": t.num_attention_heads,
        **_blocks(t),
    }


def _blocks(config: Any) -> dict[str, Any]:
    """open_clip's settings of a tower's blocks."""
    return {
        "width": config.hidden_size,
        "layers": config.num_hidden_layers,
        "mlp_ratio": _mlp_ratio(config),
        "norm_kwargs": {"eps": config.layer_norm_eps},
        "act_kwargs": _gelu_arguments(config),
    }


def _gelu_arguments(config: Any) -> dict[str, str]:
    """Arguments of ``nn.GELU``."""
    tanh = _ACTIVATIONS[config.hidden_act] == "gelu_pytorch_tanh"
    return {"approximate": "tanh"} if tanh else {}


def _mlp_ratio(config: Any) -> float:
    """A factor that gives the MLP's size again when the product is truncated to an integer."""
    return (config.intermediate_size + 0.5) / config.hidden_size


def _read_weights(folder: Path) -> tuple[dict[str, Tensor], Path]:
    """The weights in a folder, and the (last) file that they are in."""
    index = folder / HF_INDEX
    if index.is_file():
        try:
            shards = json.loads(index.read_text(encoding="utf-8"))["weight_map"].values()
            files = [folder / f for f in sorted(set(shards))]
        except (ValueError, KeyError, TypeError, AttributeError) as e:
            raise ValueError(f"{index} is damaged; copy it again") from e
    else:
        files = [folder / f for f in HF_WEIGHTS if (folder / f).is_file()][:1]
    files = files or [folder / HF_WEIGHTS[0]]
    if missing := next((f for f in files if not f.is_file()), None):
        raise FileNotFoundError(f"{missing} is missing; copy it into the folder")
    return {k: v for f in files for k, v in read_weights(f).items()}, files[-1]
