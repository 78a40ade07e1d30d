"""A CLIP behind one small face: image and text features, the sites LoRA can sit on, and a hash of its weights."""

import copy
import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from importlib.resources import files
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from copra_lab.sites import Site, find_sites

BUNDLED = "emoji-clip"


@dataclass(frozen=True, eq=False)
class Clip:
    """A frozen CLIP. ``model`` is open_clip's module in evaluation mode, float32, without gradients; nothing here
    ever changes it.

    ``tokenizer``: texts → int64 (n, context). ``mean`` and ``std``: three numbers each, of pixels in 0…1.
    """

    model: nn.Module
    tokenizer: Any
    name: str
    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @cached_property
    def sites(self) -> dict[str, Site]:
        return find_sites(self.model)

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that name these weights; an adapter remembers the hash of its base."""
        return weights_hash(self.model.state_dict())

    @cached_property
    def logit_scale(self) -> float:
        return float(self.model.logit_scale.exp())

    @property
    def layers(self) -> int:
        """Blocks of the image tower."""
        return 1 + max(s.layer for s in self.sites.values() if s.tower == "vision")

    @property
    def device(self) -> torch.device:
        return next(self.model.parameters()).device

    def on(self, device: torch.device) -> "Clip":
        """The same CLIP on another device, of which only its model knows; itself if it is there."""
        return self if self.device == device else replace(self, model=copy.deepcopy(self.model).to(device))

    def pixels(self, images: Tensor) -> Tensor:
        """uint8 images (n, h, w, 3) → what the image tower takes: float32 (n, 3, side, side), resized if need be."""
        if images.ndim != 4 or images.shape[-1] != 3 or images.dtype != torch.uint8:
            raise ValueError(f"expected uint8 images of shape (n, height, width, 3), got {images.dtype} {tuple(images.shape)}")
        return self.normalise(images.to(self.device).permute(0, 3, 1, 2).float().div_(255))

    def normalise(self, x: Tensor) -> Tensor:
        """Pixels in 0…1 (n, 3, h, w) → resized to `side` and normalised."""
        if x.shape[-2:] != (self.side, self.side):
            x = F.interpolate(x, size=(self.side, self.side), mode="bicubic", antialias=True).clamp(0, 1)
        mean, std = (torch.tensor(v, device=x.device).view(1, 3, 1, 1) for v in (self.mean, self.std))
        return (x - mean).div_(std)

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
        """Zero-shot: how well each text fits each image, (images, texts), rows sum to one."""
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
    """The bundled CLIP, or one from a folder in open_clip's layout (``open_clip_config.json``,
    ``open_clip_model.safetensors`` and, for a vocabulary of its own, ``merges.txt.gz``).

    A name is loaded once; asking again gives the same object.

    Raises FileNotFoundError or ValueError, in one sentence, for a missing or damaged folder.
    """
    folder = Path(str(files("copra_lab") / "assets" / "clip")) if name in (None, BUNDLED) else Path(str(name))
    key = str(folder.resolve())
    if key not in _loaded:
        _loaded[key] = _load_folder(folder, BUNDLED if name in (None, BUNDLED) else folder.name)
    return _loaded[key]


def _load_folder(folder: Path, name: str) -> Clip:
    from open_clip.model import CLIP
    from open_clip.tokenizer import SimpleTokenizer

    config_file, weights_file, merges = folder / "open_clip_config.json", folder / "open_clip_model.safetensors", folder / "merges.txt.gz"
    for file in (config_file, weights_file):
        if not file.is_file():
            raise FileNotFoundError(f"{file} is missing; a CLIP folder holds open_clip_config.json and open_clip_model.safetensors")
    try:
        config = json.loads(config_file.read_text(encoding="utf-8"))
        model_cfg, preprocess = config["model_cfg"], config["preprocess_cfg"]
        weights = load_file(weights_file)
        model = CLIP(**model_cfg)
        model.load_state_dict({k: v.float() for k, v in weights.items()})
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as e:
        raise ValueError(f"{config_file} is not an open_clip configuration ({e}); copy it anew") from e
    except (SafetensorError, RuntimeError) as e:
        raise ValueError(f"{weights_file} is damaged or belongs to another configuration; copy it anew") from e
    model.requires_grad_(False).eval()
    context = model_cfg["text_cfg"]["context_length"]
    tokenizer = SimpleTokenizer(bpe_path=str(merges), context_length=context) if merges.is_file() else SimpleTokenizer(context_length=context)
    side = model_cfg["vision_cfg"]["image_size"]
    mean, std = (tuple(preprocess[k]) for k in ("mean", "std"))
    return Clip(model, tokenizer, name, side, mean, std)
