"""Adapters as CLIP-LoRA saves them.

Source: Zanella and Ben Ayed, arXiv:2405.18541; ``save_lora`` in github.com/MaxZanella/CLIP-LoRA.

The file holds ``metadata`` and ``weights``: ``layer_0`` to ``layer_{n-1}``, each with those of
``q_proj``, ``k_proj``, ``v_proj`` and ``proj`` that were trained, each with ``w_lora_A`` (r, in)
and ``w_lora_B`` (out, r). Layers are numbered in the order in which they were adapted: first the
text tower's, then the image tower's, and only those at the ``position``. The scale is alpha / √r.
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

_KINDS = {"q_proj": "q", "k_proj": "k", "v_proj": "v", "proj": "out"}
"""CLIP-LoRA's name of a matrix → its kind."""

_OF_12: dict[str, range] = {
    "top": range(11, 12), "top1": range(11, 12), "top2": range(10, 12), "top3": range(9, 12),
    "bottom": range(4), "mid": range(4, 8), "up": range(8, 12),
    "half-up": range(6, 12), "half-bottom": range(6), "all": range(12),
}  # fmt: skip
"""Position → layers of a tower of 12: every text tower, and the image tower of ViT-B."""

_OF_24: dict[str, range] = {"half-up": range(12, 24), "half-bottom": range(12), "all": range(24)}
_OF_24_BEFORE = {**_OF_12, "all": range(21)}
"""The image tower of ViT-L/14, since and before September 2024; the number of layers tells."""

_AGAIN = "save it again with CLIP-LoRA's save_lora"


def is_clip_lora(found: object) -> bool:
    """Whether what a file holds has CLIP-LoRA's layout."""
    return (
        isinstance(found, dict) and "metadata" in found and isinstance(found.get("weights"), dict)
    )


def read(file: Path, found: Mapping[str, Any], clip: Clip | None = None) -> Adapter:
    """Read an adapter in CLIP-LoRA's layout.

    Args:
        file: Where it is from, for error messages.
        found: What the file holds.
        clip: Tells how deep the towers are; by default as in OpenAI's CLIPs.

    Raises:
        AdapterError: If the file does not fit its own description.
    """
    try:
        meta = dict(found["metadata"])
        rank, encoder, position = int(meta["r"]), str(meta["encoder"]), str(meta["position"])
        scale = float(meta["alpha"]) / math.sqrt(rank)
        params = {"out" if p == "o" else p for p in meta["params"]}
        layers = _factors(found["weights"])
    except (KeyError, TypeError, ValueError, AttributeError, ZeroDivisionError, OverflowError) as e:
        raise AdapterError(
            f"{file} has not the layout of a CLIP-LoRA file ({type(e).__name__}: {e}); {_AGAIN}"
        ) from e
    tensors = [t for layer in layers for pair in layer.values() for _, t in pair.values()]
    if not tensors or not all(isinstance(t, Tensor) for t in tensors):
        raise AdapterError(f"{file} holds no LoRA weights; {_AGAIN}")
    complete = all(set(layer) == params for layer in layers)
    ranked = all(a.shape[:1] == (rank,) for a in tensors[::2])
    if not (math.isfinite(scale) and complete and ranked):
        said = f"rank {rank}, {', '.join(sorted(params))}"
        raise AdapterError(f"{file} is not what its metadata say ({said}); {_AGAIN}")
    width = max(tensors[-1].shape, default=0)
    blocks = _blocks(file, encoder, position, len(layers), width, clip)
    factors = {
        hf_name(tower, block, kind): pair
        for (tower, block), layer in zip(blocks, layers, strict=True)
        for kind, pair in layer.items()
    }
    pairs = pair_up(file, factors)
    provenance = {"source": "CLIP-LoRA", "encoder": encoder, "position": position}
    return assemble(file, pairs, dict.fromkeys(pairs, scale), provenance)


def _factors(weights: Mapping[str, Any]) -> list[dict[str, dict[str, tuple[str, Tensor]]]]:
    """For each layer: kind → "A" and "B" → the key in the file, and the tensor."""
    layers = [weights[f"layer_{i}"] for i in range(len(weights))]
    keys = {k for layer in layers for pair in layer.values() for k in pair}
    if more := sorted(keys - {"w_lora_A", "w_lora_B"}):
        raise ValueError(f"{more[0]!r} is of another method")
    return [
        {
            _KINDS[p]: {h: (f"layer_{i} {p} w_lora_{h}", pair[f"w_lora_{h}"]) for h in "AB"}
            for p, pair in layer.items()
        }
        for i, layer in enumerate(layers)
    ]


def _blocks(
    file: Path, encoder: str, position: str, n: int, width: int, clip: Clip | None
) -> list[tuple[str, int]]:
    """Tower and block of each of the `n` layers, in their order."""
    if encoder not in ("text", "vision", "both") or position not in _OF_12:
        raise AdapterError(f"{file} adapts {encoder!r} at {position!r}, which is unknown; {_AGAIN}")
    depth = {"text": 12, "vision": 24 if width >= 1024 else 12}
    if clip:
        sites = clip.sites.values()
        depth = {t: 1 + max((s.layer for s in sites if s.tower == t), default=-1) for t in depth}
    text = [] if encoder == "vision" else _at(_OF_12, position, "text", depth)
    tables = [_OF_24, _OF_24_BEFORE] if depth["vision"] > 12 else [_OF_12]
    for table in [{}] if encoder == "text" else tables:
        blocks = text + _at(table, position, "vision", depth)
        if len(blocks) == n:
            return blocks
    raise AdapterError(
        f"{file} has {n} layers of LoRA ({encoder}, {position}), which do not fit {depth['text']} "
        f"text and {depth['vision']} image layers; load the CLIP it was made from"
    )


def _at(
    table: Mapping[str, range], position: str, tower: str, depth: Mapping[str, int]
) -> list[tuple[str, int]]:
    """Tower and block of the layers at a position, as far as the tower has them."""
    return [(tower, i) for i in table.get(position, ()) if i < depth[tower]]
