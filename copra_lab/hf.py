"""The same weights as a Hugging Face CLIPModel, so that transformers and peft can take over."""

import copy
from dataclasses import replace

import torch
from torch import Tensor

from copra_lab.clip import Clip
from copra_lab.lora import Adapter, check_fits, merged_weights


def merged_into(clip: Clip, adapter: Adapter) -> Clip:
    """A CLIP of its own, with the deltas of `adapter` added to its weights. Raises ValueError for one of another base or shape."""
    check_fits(adapter, clip.sites, clip.hash)
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        for name, weight in merged_weights(clip.model, adapter).items():
            model.get_parameter(name).copy_(weight)
    return replace(clip, model=model)


def to_hugging_face(clip: Clip):
    """A ``transformers.CLIPModel`` with the weights of `clip` (a plain ViT and a plain text tower): equal logits for
    the same pixels and tokens. Raises ValueError for an architecture that CLIPModel does not have."""
    from transformers import CLIPConfig, CLIPModel

    m = clip.model
    ours = {k: v.clone() for k, v in m.state_dict().items()}
    visual = getattr(m, "visual", None)
    blocks = getattr(getattr(visual, "transformer", None), "resblocks", None)
    if blocks is None or "token_embedding.weight" not in ours or "visual.class_embedding" not in ours:
        raise ValueError(f"{clip.name} is not a plain CLIP (a ViT with a class token and a text transformer); it has no Hugging Face twin")
    act = type(blocks[0].mlp.gelu).__name__
    act = {"QuickGELU": "quick_gelu", "GELU": "gelu"}[act]
    vision_width, text_width = ours["visual.class_embedding"].shape[0], ours["token_embedding.weight"].shape[1]
    patch = ours["visual.conv1.weight"].shape[-1]
    text_blocks = m.transformer.resblocks
    tokens, end = ours["token_embedding.weight"].shape[0], clip.tokenizer.eot_token_id
    common = {"hidden_act": act, "projection_dim": ours["text_projection"].shape[1]}
    config = CLIPConfig(
        vision_config={
            **common,
            "hidden_size": vision_width,
            "intermediate_size": blocks[0].mlp.c_fc.out_features,
            "num_hidden_layers": len(blocks),
            "num_attention_heads": blocks[0].attn.num_heads,
            "image_size": clip.side,
            "patch_size": patch,
        },
        text_config={
            **common,
            "hidden_size": text_width,
            "intermediate_size": text_blocks[0].mlp.c_fc.out_features,
            "num_hidden_layers": len(text_blocks),
            "num_attention_heads": text_blocks[0].attn.num_heads,
            "vocab_size": tokens,
            "max_position_embeddings": ours["positional_embedding"].shape[0],
            "bos_token_id": clip.tokenizer.sot_token_id,
            "eos_token_id": end,
            "pad_token_id": 0,
        },
        projection_dim=common["projection_dim"],
    )
    model = CLIPModel(config).eval().requires_grad_(False)
    theirs: dict[str, Tensor] = {
        "logit_scale": ours["logit_scale"],
        "visual_projection.weight": ours["visual.proj"].T,
        "text_projection.weight": ours["text_projection"].T,
        "vision_model.embeddings.class_embedding": ours["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": ours["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": ours["visual.positional_embedding"],
        "text_model.embeddings.token_embedding.weight": ours["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": ours["positional_embedding"],
    }
    norms = {"visual.ln_pre": "vision_model.pre_layrnorm", "visual.ln_post": "vision_model.post_layernorm", "ln_final": "text_model.final_layer_norm"}
    for a, b in norms.items():
        theirs |= {f"{b}.{w}": ours[f"{a}.{w}"] for w in ("weight", "bias")}
    for ours_prefix, tower, depth in (("visual.", "vision", len(blocks)), ("", "text", len(text_blocks))):
        for i in range(depth):
            a, b = f"{ours_prefix}transformer.resblocks.{i}", f"{tower}_model.encoder.layers.{i}"
            for w in ("weight", "bias"):
                q, k, v = ours[f"{a}.attn.in_proj_{w}"].chunk(3)
                theirs |= {f"{b}.self_attn.q_proj.{w}": q, f"{b}.self_attn.k_proj.{w}": k, f"{b}.self_attn.v_proj.{w}": v}
                theirs |= {f"{b}.self_attn.out_proj.{w}": ours[f"{a}.attn.out_proj.{w}"]}
                theirs |= {f"{b}.mlp.fc1.{w}": ours[f"{a}.mlp.c_fc.{w}"], f"{b}.mlp.fc2.{w}": ours[f"{a}.mlp.c_proj.{w}"]}
                theirs |= {f"{b}.layer_norm1.{w}": ours[f"{a}.ln_1.{w}"], f"{b}.layer_norm2.{w}": ours[f"{a}.ln_2.{w}"]}
    with torch.no_grad():
        missing, unexpected = model.load_state_dict(theirs, strict=False)
    if unexpected or [k for k in missing if not k.endswith("position_ids")]:
        raise ValueError(f"this version of transformers names CLIP's weights differently ({(missing + unexpected)[0]}); install another")
    return model
