"""Adapters as CLIP-LoRA saves them (Zanella and Ben Ayed, arXiv:2405.18541; github.com/MaxZanella/CLIP-LoRA, its ``save_lora``).

The file holds ``weights``, ``layer_0`` to ``layer_{n-1}``, each with ``q_proj``, ``k_proj``, ``v_proj`` and ``proj`` as far as they were
trained, and of each ``w_lora_A`` (r, in) and ``w_lora_B`` (out, r); and ``metadata``. The layers are numbered as they were adapted:
first the text tower's, then the image tower's, and of each tower only those at the ``position``. The scale is alpha / √r.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError, assemble, pair_up
from copra_lab.models.clip import Clip
from copra_lab.models.sites import hf_name

KINDS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "proj": "out"}
"""Its names of matrices, and ours."""

TWELVE: dict[str, range] = {
    "top": range(11, 12), "top1": range(11, 12), "top2": range(10, 12), "top3": range(9, 12), "bottom": range(4), "mid": range(4, 8),
    "up": range(8, 12), "half-up": range(6, 12), "half-bottom": range(6), "all": range(12),
}  # fmt: skip
"""By position, the layers of a tower of twelve: of every text tower there, and of the image towers of ViT-B."""

LARGE: dict[str, range] = {"half-up": range(12, 24), "half-bottom": range(12), "all": range(24)}
LARGE_BEFORE = {**TWELVE, "all": range(21)}
"""Of the image tower of ViT-L/14, since and before September 2024. They differ in their numbers of layers, so a file tells which it is."""


def is_one(found: object) -> bool:
    """Whether what a file holds has this layout."""
    return (
        isinstance(found, dict)
        and {"weights", "metadata"} <= set(found)
        and isinstance(found["weights"], dict)
    )


def read(file: Path, found: Mapping[str, Any], clip: Clip | None = None) -> Adapter:
    """The adapter; `clip` tells how deep the towers are, else they are those of OpenAI's CLIPs. Raises AdapterError for what does not fit
    its own description."""
    try:
        about = dict(found["metadata"])
        rank, encoder, position = int(about["r"]), str(about["encoder"]), str(about["position"])
        scale = float(about["alpha"]) / math.sqrt(rank)
        params = {{"o": "out"}.get(p, p) for p in about["params"]}
        layers = [found["weights"][f"layer_{i}"] for i in range(len(found["weights"]))]
        if more := sorted(
            {k for layer in layers for pair in layer.values() for k in pair}
            - {"w_lora_A", "w_lora_B"}
        ):
            raise ValueError(f"{more[0]!r} is of another method")
        halves = [
            {
                KINDS[p]: {
                    half: (f"layer_{i} {p} w_lora_{half}", pair[f"w_lora_{half}"]) for half in "AB"
                }
                for p, pair in layer.items()
            }
            for i, layer in enumerate(layers)
        ]
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as e:
        raise AdapterError(
            f"{file} has not the layout of a CLIP-LoRA file ({type(e).__name__}: {e}); save it anew with its save_lora"
        ) from e
    tensors = [t for layer in halves for pair in layer.values() for _, t in pair.values()]
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise AdapterError(f"{file} holds no LoRA weights; save it anew with CLIP-LoRA's save_lora")
    if (
        not math.isfinite(scale)
        or any(set(layer) != params for layer in halves)
        or any(a.shape[:1] != (rank,) for a in tensors[::2])
    ):
        raise AdapterError(
            f"{file} is not what its metadata say (rank {rank}, {', '.join(sorted(params))}); save it anew with CLIP-LoRA's save_lora"
        )
    width = max(tensors[-1].shape, default=0)
    where = _blocks(file, encoder, position, len(layers), width, clip)
    named = {
        hf_name(tower, block, kind): pair
        for (tower, block), layer in zip(where, halves, strict=True)
        for kind, pair in layer.items()
    }
    pairs = pair_up(file, named)
    about = {"source": "CLIP-LoRA", "encoder": encoder, "position": position}
    return assemble(file, pairs, dict.fromkeys(pairs, scale), "", about)


def _blocks(
    file: Path, encoder: str, position: str, n: int, width: int, clip: Clip | None
) -> list[tuple[str, int]]:
    """Tower and block of each of `n` layers in their order."""
    if encoder not in ("text", "vision", "both") or position not in TWELVE:
        raise AdapterError(
            f"{file} adapts {encoder!r} at {position!r}, which CLIP-LoRA does not know; save it anew with its save_lora"
        )
    depth = {"text": 12, "vision": 24 if width >= 1024 else 12}
    if clip:
        depth = {
            tower: 1 + max((s.layer for s in clip.sites.values() if s.tower == tower), default=-1)
            for tower in depth
        }
    text = (
        [("text", i) for i in TWELVE[position] if i < depth["text"]] if encoder != "vision" else []
    )
    ways = [LARGE, LARGE_BEFORE] if depth["vision"] > 12 else [TWELVE]
    for way in ways if encoder != "text" else []:
        image = [("vision", i) for i in way.get(position, ()) if i < depth["vision"]]
        if len(text) + len(image) == n:
            return text + image
    if encoder == "text" and len(text) == n:
        return text
    raise AdapterError(
        f"{file} has {n} layers of LoRA ({encoder}, {position}), which is not the number that a CLIP of {depth['text']} text and "
        f"{depth['vision']} image layers has there; load the CLIP it was made from"
    )
