"""Adapters in one file: this project's own, and those of tools that do not write peft's folders.

- CLIP-LoRA's ``.pt`` (`copra_lab.adapters.clip_lora`), and
- the LoRA on a CLIP's text tower that kohya's scripts and diffusers write for Stable Diffusion (`copra_lab.adapters.diffusion_lora`).

A ``.pt`` is read as weights alone (``torch.load(weights_only=True)``): nothing in it is run.
"""

import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters import clip_lora, diffusion_lora
from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError, read_safetensors
from copra_lab.adapters.peft_folder import CONFIG, PEFT_ROOT, WEIGHTS, own_adapter
from copra_lab.models.clip import Clip


def read_file(file: Path, clip: Clip | None = None) -> Adapter:
    """The adapter in a file; `clip` tells how deep its towers are, and which of several text towers is meant.

    Raises AdapterError, one sentence that names the fix, for a format that is not read.
    """
    metadata: dict[str, str] = {}
    if zipfile.is_zipfile(file) or file.suffix in (".pt", ".pth", ".bin"):
        found = _unpacked(file)
        if clip_lora.is_one(found):
            return clip_lora.read(file, found, clip)
        if isinstance(found, dict) and any(str(k).startswith(PEFT_ROOT) for k in found):
            raise AdapterError(
                f"{file} is a peft adapter in a pickle; save it anew with safe_serialization=True, and give the folder"
            )
    else:
        found, metadata = read_safetensors(file)
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items()
    ):
        raise AdapterError(
            f"{file} holds {type(found).__name__} of another layout than CLIP-LoRA's; give a file of CLIP-LoRA's, or peft's folder"
        )
    if header := metadata.get("copra_lab"):
        return own_adapter(file, found, header)
    if any(k.startswith(PEFT_ROOT) for k in found):
        raise AdapterError(
            f"{file} is the weights of a peft adapter, whose scale stands in another file: put it as {WEIGHTS} into a folder with its {CONFIG}, "
            "and give the folder"
        )
    return diffusion_lora.read(file, found, metadata, clip)


def _unpacked(file: Path) -> Any:
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # of a damaged or foreign file torch raises a dozen kinds
        reason = str(e).strip().splitlines()[0] if str(e).strip() else type(e).__name__
        raise AdapterError(
            f"{file} is not a whole file of weights alone ({reason:.200}); copy it anew, or save the tensors and nothing else"
        ) from e
