"""The `Clip`: image and text features, the sites for LoRA, and a hash of the weights."""

import copy
import hashlib
import json
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from copra_lab.models import preprocessing, tokenizers
from copra_lab.models.earlier import name_of_earlier
from copra_lab.models.sites import Site, find_sites

__all__ = ["Clip"]


class OpenClip(nn.Module):
    """What is used of open_clip's modules, for type checkers; none is an instance of it.

    What follows `encode_text` is of CLIP itself: other models have it in `text`, or not at all.
    """

    visual: Any
    logit_scale: Tensor
    encode_image: Callable[[Tensor], Tensor]
    encode_text: Callable[[Tensor], Tensor]

    token_embedding: nn.Embedding
    positional_embedding: Tensor
    attn_mask: Tensor
    transformer: nn.Module
    ln_final: nn.LayerNorm
    text_projection: Tensor


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP or SigLIP with its tokenizer and preprocessing. Nothing changes it.

    Attributes:
        model: open_clip's module in evaluation mode, float32, without gradients.
        tokenizer: Texts → int64 (n, context).
        name: What it is called.
        side: Height and width of the images that the image tower takes, in pixels.
        mean: Mean of each colour, for pixels in 0…1.
        std: Standard deviation of each colour, for pixels in 0…1.
        interpolation: Pillow's filter: bicubic, bilinear, lanczos, nearest, box or hamming.
        resize: How an image of another shape becomes a square: "shortest" crops the middle,
            "squash" distorts it, "longest" adds a grey border.
        resize_to: Length of the shorter side before cropping, or with "squash" (height, width);
            None for `side`.
        fill: Grey level of the border, 0…255.
        crop: How half a pixel is rounded when cropping: "round" to an even number, as open_clip
            does, or "floor", as transformers does.
    """

    model: OpenClip
    tokenizer: Any
    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"
    resize_to: int | tuple[int, int] | None = None
    fill: int = 0
    crop: str = "round"

    def __repr__(self) -> str:
        return f"Clip({self.name}, {self.layers} layers, {self.side} pixels)"

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Every matrix that LoRA can adapt, by name."""
        return find_sites(self.model)

    @cached_property
    def hash(self) -> str:
        """Identifies what an adapter was trained on.

        Sixteen hex digits for the weights. If the preprocessing, the activation or the vocabulary
        is not the usual one, a dash and eight digits for those follow.
        """
        weights = weights_hash(self.model.state_dict())
        if not (unusual := self._unusual()):
            return weights
        text = json.dumps(unusual, sort_keys=True)
        return f"{weights}-{hashlib.blake2b(text.encode(), digest_size=4).hexdigest()}"

    def _unusual(self) -> dict[str, Any]:
        """Settings that change features and differ from OpenAI's preprocessing, GELU or vocabulary.

        `crop` does not count: libraries differ in it for the same settings.
        """

        def rounded(*colours: Sequence[float]) -> list[list[float]]:
            return [[round(float(x), 6) for x in numbers] for numbers in colours]

        usual_pixels = rounded(preprocessing.OPENAI_MEAN, preprocessing.OPENAI_STD)
        activations = sorted({activation(m) for m in self.model.modules()} - {""})
        settings = {
            "normalisation": (rounded(self.mean, self.std), usual_pixels),
            "interpolation": (self.interpolation, "bicubic"),
            "resize": (self.resize, "shortest"),
            "resize to": (self.resize_to, None),
            "fill": (self.fill if self.resize == "longest" else 0, 0),
            "activations": (activations, ["gelu"] if activations else []),
            "vocabulary": (tokenizers.vocabulary(self.tokenizer), ""),
        }
        return {k: value for k, (value, usual) in settings.items() if value != usual}

    @cached_property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before the softmax."""
        return float(self.model.logit_scale.exp())

    @property
    def layers(self) -> int:
        """How many blocks the image tower has."""
        return 1 + max(s.layer for s in self.sites.values() if s.tower == "vision")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def on(self, device: torch.device) -> "Clip":
        """The same CLIP on another device, or itself if it is already there."""
        if self.device == device:
            return self
        if device not in self._copies:
            self._copies[device] = replace(self, model=copy.deepcopy(self.model).to(device))
        return self._copies[device]

    @cached_property
    def _copies(self) -> "dict[torch.device, Clip]":
        """One copy per device, so that what others cache for a CLIP is also found for its copy."""
        return {}

    def fit(self, picture: Image.Image) -> Tensor:
        """Resize and crop a picture of any size to uint8 (side, side, 3), in RGB."""
        return torch.from_numpy(np.array(preprocessing.fit(self, picture.convert("RGB"))))

    def pixels(self, images: Tensor) -> Tensor:
        """Turn images into what the image tower takes.

        Args:
            images: uint8 (n, height, width, 3). Images that are not (side, side) are fitted.

        Returns:
            Normalised pixels, float32 (n, 3, side, side).

        Raises:
            ValueError: If the images have another type or shape.
        """
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            got = f"{images.dtype} {tuple(images.shape)}"
            raise ValueError(f"expected uint8 images of shape (n, height, width, 3), got {got}")
        if images.shape[1:3] != (self.side, self.side) and len(images):
            images = torch.stack([self.fit(Image.fromarray(i)) for i in images.cpu().numpy()])
        # (n, side, side, 3) → (n, 3, side, side)
        return self.normalise(images.to(self.device).permute(0, 3, 1, 2).float().div_(255))

    def normalise(self, x: Tensor) -> Tensor:
        """Subtract the mean and divide by the standard deviation.

        Args:
            x: Pixels in 0…1, (n, 3, side, side).

        Raises:
            ValueError: If the pixels have another size.
        """
        if len(x) and x.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"expected pixels of shape (n, 3, {self.side}, {self.side}), got "
                f"{tuple(x.shape)}; fit the pictures first, with Clip.fit"
            )
        mean, std = torch.tensor([self.mean, self.std], device=x.device).view(2, 1, 3, 1, 1)
        return (x - mean).div_(std)

    @torch.inference_mode()
    def image_features(self, images: Tensor, batch: int = 100) -> Tensor:
        """Features of images, normalised to length 1.

        Args:
            images: uint8 (n, height, width, 3).
            batch: How many images are computed at once.

        Returns:
            (n, d).
        """
        chunks = [self.model.encode_image(self.pixels(part)) for part in images.split(batch)]
        return F.normalize(torch.cat(chunks), dim=-1)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Features (n, d) of texts, normalised to length 1; CLIP cuts off long texts."""
        tokens = self.tokenizer(list(texts)).to(self.device)  # (n, context)
        return F.normalize(self.model.encode_text(tokens), dim=-1)

    def probabilities(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """How well each text fits each image, zero-shot: a softmax over the texts.

        It is a softmax for SigLIP too, where the bias cancels.

        Args:
            images: uint8 (n, height, width, 3).
            texts: One text for each class.

        Returns:
            (n, texts); each row sums to 1.
        """
        similarity = self.logit_scale * self.image_features(images) @ self.text_features(texts).T
        return similarity.softmax(-1)


def activation(module: nn.Module) -> str:
    """Name of an activation; "" for any other module."""
    name = type(module).__name__
    if name == "GELUTanh" or (name == "GELU" and getattr(module, "approximate", "none") == "tanh"):
        return "gelu_tanh"
    return {"QuickGELU": "quick_gelu", "GELU": "gelu"}.get(name, "")


def check_base(what: str, base: str, now: str) -> None:
    """Check that something trained on one CLIP is used on the same CLIP.

    Args:
        what: What was trained ("adapter", "soft prompt"), for error messages.
        base: `Clip.hash` of the CLIP it was trained on; "" if unknown. Version 0.1.0 recorded the
            weights alone: that is accepted with a warning.
        now: `Clip.hash` of the CLIP it is used on; "" if unknown.

    Raises:
        ValueError: If the two are not the same.
    """
    weights = now.partition("-")[0]
    if not base or not now or base == now:
        return
    if base == weights:
        warnings.warn(
            f"this {what} names its CLIP's weights alone, as copra-lab 0.1.0 did: nobody knows "
            "whether its preprocessing, activation and vocabulary were the same",
            stacklevel=3,
        )
        return
    same = base.partition("-")[0] == weights
    how = ", the same weights with another preprocessing, activation or vocabulary" if same else ""
    earlier = name_of_earlier(base)
    load = f"load_clip({earlier!r}) (--clip {earlier})" if earlier else "load that CLIP"
    raise ValueError(
        f"this {what} was trained on base {base:.25}, not on {now}{how}; {load}, or train again"
    )


def weights_hash(weights: Mapping[str, Tensor]) -> str:
    """Sixteen hex digits that identify weights: their names, shapes, types and values."""
    h = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        w = weights[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(w.shape)} {w.dtype}".encode())
        h.update(w.reshape(-1).view(torch.uint8).numpy().data if w.numel() else b"")
    return h.hexdigest()
