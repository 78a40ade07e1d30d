"""A CLIP behind one small face: image and text features, the sites LoRA can sit on, and a hash of its weights."""

import copy
import hashlib
import json
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from torch import Tensor, nn

from copra_lab.models import preprocessing, tokenizers
from copra_lab.models.sites import Site, find_sites

__all__ = ["Clip"]


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP or SigLIP. ``model`` is open_clip's module in evaluation mode, float32, without gradients; nothing here
    ever changes it.

    ``tokenizer``: texts → int64 (n, context). ``mean`` and ``std``: three numbers each, of pixels in 0…1.

    The rest says how a picture of another size is fitted. ``resize``: "shortest", its middle square; "squash", all of it in another
    shape; "longest", all of it with a border of grey ``fill`` (0…255). ``interpolation``: Pillow's filter (bicubic, bilinear,
    lanczos, nearest, box, hamming). ``resize_to``: the length of the shorter side, or with "squash" (height, width), before the
    middle is cut out; None: ``side``. ``crop``: whether half a pixel is rounded to an even number ("round", as open_clip does) or
    down ("floor", transformers).
    """

    model: nn.Module
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
        """Every matrix that LoRA can sit on, by name."""
        return find_sites(self.model)

    @cached_property
    def hash(self) -> str:
        """What an adapter remembers of its base: sixteen hex digits for the weights, and where features depend on more than weights,
        OpenAI's preprocessing, GELU and CLIP's vocabulary (or the bundled cut of it), a dash and eight digits for that."""
        weights = weights_hash(self.model.state_dict())
        if not (other := self._beside_weights()):
            return weights
        return f"{weights}-{hashlib.blake2b(json.dumps(other, sort_keys=True).encode(), digest_size=4).hexdigest()}"

    def _beside_weights(self) -> dict[str, Any]:
        """What changes features and is not as in OpenAI's preprocessing, open_clip's activation and CLIP's vocabulary. Half a pixel
        (`crop`) does not count: the libraries differ in it on the same settings."""
        mean, std = ([round(float(x), 6) for x in numbers] for numbers in (self.mean, self.std))
        usual = [
            [round(x, 6) for x in numbers]
            for numbers in (preprocessing.OPENAI_MEAN, preprocessing.OPENAI_STD)
        ]
        activations = sorted({_activation(m) for m in self.model.modules()} - {""})
        found = {
            "normalisation": ([mean, std], usual),
            "interpolation": (self.interpolation, "bicubic"),
            "resize": (self.resize, "shortest"),
            "resize to": (self.resize_to, None),
            "fill": (self.fill if self.resize == "longest" else 0, 0),
            "activations": (activations, ["gelu"] if activations else []),
            "vocabulary": (tokenizers.vocabulary(self.tokenizer), ""),
        }
        return {k: value for k, (value, default) in found.items() if value != default}

    @cached_property
    def logit_scale(self) -> float:
        """What cosine similarities are multiplied by before the softmax."""
        return float(self.model.logit_scale.exp())

    @property
    def layers(self) -> int:
        """Blocks of the image tower."""
        return 1 + max(s.layer for s in self.sites.values() if s.tower == "vision")

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.model.parameters()).device

    def on(self, device: torch.device) -> "Clip":
        """The same CLIP on another device, of which only its model knows; itself if it is there."""
        if self.device == device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = replace(self, model=copy.deepcopy(self.model).to(device))
        return self._elsewhere[device]

    @cached_property
    def _elsewhere(self) -> "dict[torch.device, Clip]":
        """One copy a device, however often it is asked for: what others remember of a CLIP, they remember of its copies."""
        return {}

    def fit(self, picture: Image.Image) -> Tensor:
        """A picture of any size → uint8 (side, side, 3), resized and cropped as the settings say. It is taken as RGB."""
        return torch.from_numpy(np.array(preprocessing.fit(self, picture.convert("RGB"))))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (n, h, w, 3) → what the image tower takes: float32 (n, 3, side, side). Images of `side` × `side` count as
        fitted already; those of another size are fitted one by one (`fit`)."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            raise ValueError(
                f"expected uint8 images of shape (n, height, width, 3), got {images.dtype} {tuple(images.shape)}"
            )
        if images.shape[1:3] != (self.side, self.side) and len(images):
            images = torch.stack([self.fit(Image.fromarray(i)) for i in images.cpu().numpy()])
        return self.normalise(images.to(self.device).permute(0, 3, 1, 2).float().div_(255))

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels in 0…1 (n, 3, side, side) → without the mean, in standard deviations. Raises ValueError for another size, which
        `fit` is for."""
        if len(x) and x.shape[-2:] != (self.side, self.side):
            raise ValueError(
                f"expected pixels of shape (n, 3, {self.side}, {self.side}), got {tuple(x.shape)}; fit the pictures first, with Clip.fit"
            )
        mean, std = (
            torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std)
        )
        return (x - mean).div_(std)

    @torch.inference_mode()
    def image_features(self, images: Tensor, batch: int = 100) -> Tensor:
        """Normalised features (n, d) of uint8 images (n, h, w, 3)."""
        chunks = [self.model.encode_image(self.pixels(part)) for part in images.split(batch)]
        return F.normalize(torch.cat(chunks), dim=-1)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Normalised features (n, d) of texts. One that is longer than the context is cut off, as CLIP does."""
        return F.normalize(
            self.model.encode_text(self.tokenizer(list(texts)).to(self.device)), dim=-1
        )

    def probabilities(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Zero-shot: how well each text fits each image, (images, texts), rows sum to one: a softmax over these texts also for
        SigLIP, whose bias it does not depend on."""
        return (
            self.logit_scale * self.image_features(images) @ self.text_features(texts).T
        ).softmax(-1)


def _activation(module: nn.Module) -> str:
    """Of a module that is one; "" for others."""
    name = type(module).__name__
    if name == "GELUTanh" or (name == "GELU" and getattr(module, "approximate", "none") == "tanh"):
        return "gelu_tanh"
    return {"QuickGELU": "quick_gelu", "GELU": "gelu"}.get(name, "")


def check_base(what: str, base: str, now: str) -> None:
    """Raises ValueError where `what` was trained on a CLIP with the hash `base` and shall be used on one with the hash `now`. One that
    names weights alone, as version 0.1.0 did, is taken with a warning."""
    weights = now.partition("-")[0]
    if not base or not now or base == now:
        return
    if base == weights:
        warnings.warn(
            f"this {what} names its CLIP's weights alone, as copra-lab 0.1.0 did: whether it was trained with this preprocessing, activation and "
            "vocabulary cannot be checked",
            stacklevel=3,
        )
    elif base.partition("-")[0] == weights:
        raise ValueError(
            f"this {what} was trained on these weights with another preprocessing, activation or vocabulary (base {base:.25}, not {now}); "
            "load the CLIP as it was then, or train it anew"
        )
    else:
        raise ValueError(
            f"this {what} was trained on base {base:.25}, not on {now}; load the CLIP it was made from, or train it anew"
        )


def weights_hash(weights: "dict[str, Tensor]") -> str:
    h = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        w = weights[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(w.shape)} {w.dtype}".encode())
        h.update(w.reshape(-1).view(torch.uint8).numpy() if w.numel() else b"")
    return h.hexdigest()
