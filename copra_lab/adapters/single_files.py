"""Adapters in a single file: this project's own, and those of tools other than peft.

- CLIP-LoRA's ``.pt`` (`copra_lab.adapters.clip_lora`), and
- the LoRA on a CLIP's text tower that kohya's scripts and diffusers write for Stable Diffusion
  (`copra_lab.adapters.diffusion_lora`).

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
from copra_lab.adapters.peft_folder import CONFIG, PEFT_ROOT, WEIGHTS, from_own_file
from copra_lab.models.clip import Clip
from copra_lab.utils.checks import reason


def read_file(file: Path, clip: Clip | None = None) -> Adapter:
    """Read an adapter from a file.

    Args:
        file: In any of the formats above.
        clip: Tells how deep the towers are, and which of several text towers is meant.

    Raises:
        AdapterError: If the format is not supported.
    """
    metadata: dict[str, str] = {}
    if zipfile.is_zipfile(file) or file.suffix in (".pt", ".pth", ".bin"):
        found = _load(file)
        if clip_lora.is_clip_lora(found):
            return clip_lora.read(file, found, clip)
        if isinstance(found, dict) and any(str(k).startswith(PEFT_ROOT) for k in found):
            raise AdapterError(
                f"{file} is a peft adapter in a pickle; save it again with safe_serialization=True"
            )
    else:
        found, metadata = read_safetensors(file)
    if not isinstance(found, dict) or not all(
        isinstance(k, str) and isinstance(t, Tensor) for k, t in found.items()
    ):
        raise AdapterError(
            f"{file} is not laid out as CLIP-LoRA's; give such a file, or peft's folder"
        )
    if header := metadata.get("copra_lab"):
        return from_own_file(file, found, header)
    if any(k.startswith(PEFT_ROOT) for k in found):
        raise AdapterError(
            f"{file} has the weights of a peft adapter, whose scale is in another file: put it as "
            f"{WEIGHTS} into a folder with its {CONFIG}, and give the folder"
        )
    return diffusion_lora.read(file, found, metadata, clip)


def _load(file: Path) -> Any:
    """What a ``.pt`` holds, read as weights alone."""
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except Exception as e:  # torch raises a dozen kinds for damaged or foreign files
        raise AdapterError(
            f"{file} is not a whole file of weights alone ({reason(e):.200}); copy it again, or "
            "save only the tensors"
        ) from e
