"""The last step of every way to load a CLIP: check it and freeze it."""

from collections.abc import Mapping
from typing import Any

from copra_lab.models import tokenizers
from copra_lab.models.clip import Clip, OpenClip
from copra_lab.models.sites import find_sites


def freeze(model: OpenClip, tokenizer: Any, name: str, fields: Mapping[str, Any]) -> Clip:
    """Make a frozen `Clip` of a model that has its weights.

    Args:
        model: open_clip's module.
        tokenizer: Texts → int64 (n, context).
        name: What the CLIP is called.
        fields: The preprocessing, as fields of `Clip`.

    Raises:
        ValueError: If the image tower is not a ViT for square images, or the tokenizer is of
            another model.
    """
    size = model.visual.image_size
    sides = {size} if isinstance(size, int) else set(size)
    try:
        fits = len(sides) == 1 and any(s.tower == "vision" for s in find_sites(model).values())
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the image tower of {name} is not a ViT for square images, which LoRA needs here; "
            "choose an architecture such as ViT-B-32"
        )
    tokenizers.check_tokenizer(tokenizer, model, name)
    model.requires_grad_(False).eval()
    return Clip(model, tokenizer, name, sides.pop(), **fields)
