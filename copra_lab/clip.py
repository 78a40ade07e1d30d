"""A CLIP behind one small face: image and text features, the sites LoRA can sit on, and a hash of its weights."""

import copy
import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from copra_lab.sites import Site, find_sites

__all__ = ["Clip", "load_clip"]

BUNDLED = "emoji-clip"


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP or SigLIP. ``model`` is open_clip's module in evaluation mode, float32, without gradients; nothing here
    ever changes it.

    ``tokenizer``: texts → int64 (n, context). ``mean`` and ``std``: three numbers each, of pixels in 0…1. ``interpolation``
    (bicubic or bilinear) and ``resize`` say how an image of another size is fitted: "shortest", its middle square; "squash", all
    of it in another shape; "longest", all of it on black.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    interpolation: str = "bicubic"
    resize: str = "shortest"

    def __repr__(self) -> str:
        return f"Clip({self.name}, {self.layers} layers, {self.side} pixels)"

    @cached_property
    def sites(self) -> dict[str, Site]:
        """Every matrix that LoRA can sit on, by name."""
        return find_sites(self.model)

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that name these weights; an adapter remembers the hash of its base."""
        return weights_hash(self.model.state_dict())

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

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (n, h, w, 3) → what the image tower takes: float32 (n, 3, side, side), resized if need be."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"expected uint8 images of shape (n, height, width, 3), got {images.dtype} {tuple(images.shape)}")
        return self.normalise(images.to(self.device).permute(0, 3, 1, 2).float().div_(255))

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels in 0…1 (n, 3, h, w) → fitted to `side` and normalised."""
        if x.shape[-2:] != (self.side, self.side):
            x = self._fit(x)
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean).div_(std)

    def _fit(self, x: Tensor) -> Tensor:
        side, (h, w) = self.side, x.shape[-2:]
        if self.resize == "squash":
            size = (side, side)
        elif self.resize == "longest":
            size = (max(1, round(side * h / max(h, w))), max(1, round(side * w / max(h, w))))
        else:
            size = (side * h // min(h, w), side * w // min(h, w))
        x = F.interpolate(x, size=size, mode=self.interpolation, antialias=True).clamp(0, 1)
        before = [round((side - n) / 2) for n in size]  # negative where there is too much: padding by it crops
        return F.pad(x, (before[1], side - size[1] - before[1], before[0], side - size[0] - before[0]))

    @torch.inference_mode()
    def image_features(self, images: Tensor, batch: int = 100) -> Tensor:
        """Normalised features (n, d) of uint8 images (n, h, w, 3)."""
        chunks = [self.model.encode_image(self.pixels(part)) for part in images.split(batch)]
        return F.normalize(torch.cat(chunks), dim=-1)

    @torch.inference_mode()
    def text_features(self, texts: Sequence[str]) -> Tensor:
        """Normalised features (n, d) of texts. One that is longer than the context is cut off, as CLIP does."""
        return F.normalize(self.model.encode_text(self.tokenizer(list(texts)).to(self.device)), dim=-1)

    def probabilities(self, images: Tensor, texts: Sequence[str]) -> Tensor:
        """Zero-shot: how well each text fits each image, (images, texts), rows sum to one: a softmax over these texts also for
        SigLIP, whose bias it does not depend on."""
        return (self.logit_scale * self.image_features(images) @ self.text_features(texts).T).softmax(-1)


def weights_hash(weights: "dict[str, Tensor]") -> str:
    h = hashlib.blake2b(digest_size=8)
    for name in sorted(weights):
        w = weights[name].detach().cpu().contiguous()
        h.update(f"{name} {tuple(w.shape)} {w.dtype}".encode())
        h.update(w.reshape(-1).view(torch.uint8).numpy() if w.numel() else b"")
    return h.hexdigest()


_loaded: dict[str, Clip] = {}


def load_clip(name: "str | Path | None" = None) -> Clip:
    """A CLIP or SigLIP with a ViT as image tower:

    =====================================  ======================================================================
    nothing, or ``emoji-clip``             the bundled one
    ``ViT-B-32:laion2b_s34b_b79k``         open_clip's architecture and pretrained tag
    ``ViT-B-32:epoch_32.safetensors``      open_clip's architecture, and a checkpoint (``.safetensors``, ``.pt``, ``.bin``)
    ``openai:ViT-B-32.safetensors``        a state dict of OpenAI's code, its architecture read off the shapes
    a folder                               in open_clip's layout (``open_clip_config.json``), or a Hugging Face CLIP or
                                           SigLIP (``config.json``)
    ``hf-hub:owner/name``, ``owner/name``  a repository on the Hugging Face hub that holds such a folder
    =====================================  ======================================================================

    Preprocessing is the model's own. Files that are no safetensors are read as tensors alone (``torch.load(…, weights_only=True)``):
    nothing is unpickled or run. A name is loaded once; asking again gives the same object.

    Raises FileNotFoundError or ValueError for a missing or damaged file, a wrong name, or an architecture without a ViT, and
    ConnectionError where the hub would be needed and cannot be reached; each says in one sentence what to do.
    """
    from copra_lab.loading import read

    if name in (None, BUNDLED):
        name, called = str(files("copra_lab") / "assets" / "clip"), BUNDLED
    else:
        name, called = str(name), None
    key = str(Path(name).resolve()) if Path(name).exists() else name
    if key not in _loaded:
        _loaded[key] = read(name, called)
    return _loaded[key]
