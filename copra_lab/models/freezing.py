"""The last step of every way to load a CLIP: weights in place, checked and frozen."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from copra_lab.models import tokenizers
from copra_lab.models.clip import Clip
from copra_lab.models.sites import find_sites


def freeze(model: nn.Module, tokenizer: Any, name: str, fields: Mapping[str, Any]) -> Clip:
    """The frozen CLIP of a model with its weights. ``fields``: of `Clip`, what `copra_lab.models.preprocessing` reads. Raises ValueError for
    an image tower that is no ViT on squares, and for a tokenizer that is another model's."""
    size = model.visual.image_size
    sides = {size} if isinstance(size, int) else set(size)
    try:
        fits = len(sides) == 1 and any(s.tower == "vision" for s in find_sites(model).values())
    except ValueError:
        fits = False
    if not fits:
        raise ValueError(
            f"the image tower of {name} is no ViT for square images, which LoRA here needs; choose an architecture such as ViT-B-32"
        )
    tokenizers.check_tokenizer(tokenizer, model, name)
    return Clip(model.requires_grad_(False).eval(), tokenizer, name, sides.pop(), **fields)
