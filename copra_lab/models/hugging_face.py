"""The same CLIP in transformers: as a CLIPModel or SiglipModel, and as a folder of one.

It is only a renaming of weights, so it is exact. `copra_lab.models.hugging_face_folder` goes the
other way.
"""

import json
from pathlib import Path
from typing import Any

import torch
from torch.nn.functional import normalize

from copra_lab.models import image_processors, tokenizers
from copra_lab.models.checkpoints import MALFORMED
from copra_lab.models.clip import Clip, activation
from copra_lab.models.hub_download import HF_INDEX, OPEN_CLIP_CONFIG
from copra_lab.models.hugging_face_names import rename, weight_names
from copra_lab.models.image_processors import PREPROCESSOR, PROCESSOR
from copra_lab.utils.files import written_aside

__all__ = ["save_hugging_face", "to_hugging_face"]

_ACTIVATIONS = {"quick_gelu": "quick_gelu", "gelu": "gelu", "gelu_tanh": "gelu_pytorch_tanh"}
"""Our name of an activation → transformers' name."""
_READ_FIRST = (HF_INDEX, PROCESSOR, "added_tokens.json", "special_tokens_map.json")
"""Files that `save_hugging_face` does not write, and that are read before those that it writes."""


def to_hugging_face(clip: Clip) -> Any:
    """The same model in transformers, with equal logits for the same pixels and tokens.

    It is the model alone. To save it with its tokenizer and preprocessing, without which it would
    compute something else, use `save_hugging_face`.

    Args:
        clip: A CLIP with a plain ViT and a plain text tower, or a SigLIP.

    Returns:
        A ``transformers.CLIPModel`` or ``SiglipModel``.

    Raises:
        ValueError: If transformers has no such architecture.
    """
    no_twin = (
        f"{clip.name} is not a plain CLIP (a ViT with a class token and a text transformer) or "
        "SigLIP; it has no Hugging Face twin"
    )
    siglip = hasattr(clip.model, "text")
    try:
        model = _same_architecture(clip, siglip).eval().requires_grad_(False)
    except MALFORMED as e:
        raise ValueError(no_twin) from e
    try:
        weights = rename(
            weight_names(siglip, model.config), clip.model.state_dict(), model.state_dict()
        )
    except KeyError as e:
        raise ValueError(f"{no_twin} (it differs at {e.args[0]!r})") from e
    # position_ids are not weights, and not in every version.
    model.load_state_dict(weights, strict=False)
    if other := _difference(clip, model):
        raise ValueError(f"{no_twin} (the same weights give other {other} there)")
    return model


def _same_architecture(clip: Clip, siglip: bool) -> Any:
    """The model in transformers with random weights."""
    from transformers import CLIPConfig, CLIPModel, SiglipConfig, SiglipModel

    m: Any = clip.model
    vision, text = _vision_config(clip), _text_config(m.text if siglip else m)
    if siglip:
        text["projection_size"] = m.text.text_projection.out_features
        return SiglipModel(SiglipConfig(text_config=text, vision_config=vision))
    size = m.text_projection.shape[1]
    # Without a token of its own, CLIP reads at the highest token.
    eos = m.text_eos_id if m.text_pool_type == "eos" else text["vocab_size"] - 1
    text |= {
        "projection_dim": size,
        "eos_token_id": eos,
        "bos_token_id": getattr(clip.tokenizer, "sot_token_id", eos - 1),
        "pad_token_id": eos,
    }
    vision["projection_dim"] = size
    return CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=size))


@torch.inference_mode()
def _difference(clip: Clip, model: Any) -> str:
    """Which features of one image and one text differ; "" if none.

    Names alone do not tell at which token a text is read, or how patches are pooled.
    """
    m: Any = clip.model
    g, text = torch.Generator().manual_seed(0), getattr(m, "text", m)
    length, vocabulary = len(text.positional_embedding), model.config.text_config.vocab_size
    x = torch.randn(1, 3, clip.side, clip.side, generator=g)
    ids = torch.randint(0, max(1, vocabulary - 2), (1, length), generator=g)
    eos = text.text_eos_id if getattr(text, "text_pool_type", "") == "eos" else vocabulary - 1
    ids[0, length // 2] = eos  # where CLIP reads
    theirs = model(pixel_values=x, input_ids=ids)
    for what, our_features, their_features in (
        ("image features", m.encode_image(x.to(clip.device)), theirs.image_embeds),
        ("text features", m.encode_text(ids.to(clip.device)), theirs.text_embeds),
    ):
        if not torch.allclose(normalize(our_features.cpu(), dim=-1), their_features, atol=1e-3):
            return what
    return ""


def save_hugging_face(clip: Clip, folder: "str | Path") -> None:
    """Save a CLIP for transformers: weights, tokenizer and preprocessing.

    transformers (``CLIPModel`` or ``SiglipModel``, and ``AutoProcessor``) and `load_clip` read the
    folder, and compute the same features.

    Args:
        clip: The CLIP or SigLIP.
        folder: Where to save it; created if necessary.

    Raises:
        ValueError: If transformers has no such architecture, tokenizer or preprocessing, or the
            folder holds a CLIP in open_clip's layout.
        OSError: If the folder cannot be written.
    """
    folder = Path(folder)
    if (folder / OPEN_CLIP_CONFIG).exists():
        raise ValueError(f"{folder} holds a CLIP in open_clip's layout; choose another folder")
    processor = image_processors.to_transformers(clip, siglip=hasattr(clip.model, "text"))
    model = to_hugging_face(clip)
    with written_aside(folder) as aside:
        model.save_pretrained(aside)
        tokenizers.save(clip.tokenizer, aside, clip.name)
        (aside / PREPROCESSOR).write_text(json.dumps(processor, indent=2) + "\n", encoding="utf-8")
        written = {f.name for f in aside.iterdir()}
    # Left by another CLIP, these would be read instead of the new files.
    for name in set(_READ_FIRST) - written:
        (folder / name).unlink(missing_ok=True)


def _vision_config(clip: Clip) -> dict[str, Any]:
    """The configuration in transformers of the image tower."""
    visual: Any = clip.model.visual
    if hasattr(visual, "trunk"):
        trunk = visual.trunk
        blocks, patches, norm = trunk.blocks, trunk.patch_embed.proj, trunk.norm
    else:
        blocks, patches, norm = visual.transformer.resblocks, visual.conv1, visual.ln_post
    sizes = {"patch_size": patches.kernel_size[0], "image_size": clip.side}
    return sizes | _blocks_config(blocks, norm)


def _text_config(text: Any) -> dict[str, Any]:
    """The configuration in transformers of the text tower."""
    sizes = {
        "vocab_size": len(text.token_embedding.weight),
        "max_position_embeddings": len(text.positional_embedding),
    }
    return sizes | _blocks_config(text.transformer.resblocks, text.ln_final)


def _blocks_config(blocks: Any, norm: Any) -> dict[str, Any]:
    """What both configurations say of a tower's blocks; raises KeyError if there is no GELU."""
    mlp = blocks[0].mlp
    fc1, gelu = (mlp.fc1, mlp.act) if hasattr(mlp, "fc1") else (mlp.c_fc, mlp.gelu)
    return {
        "hidden_size": fc1.in_features,
        "num_hidden_layers": len(blocks),
        "num_attention_heads": blocks[0].attn.num_heads,
        "intermediate_size": fc1.out_features,
        "hidden_act": _ACTIVATIONS[activation(gelu)],
        "layer_norm_eps": norm.eps,
    }
