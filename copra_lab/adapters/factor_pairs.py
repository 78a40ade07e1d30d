"""From the tensors of a file to the deltas of an `Adapter`: A and B of each matrix, found together and checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from copra_lab.adapters.adapter import Adapter, LowRank


class AdapterError(ValueError):
    """An adapter folder or file that cannot be used; the message says why and what to do."""


def read_safetensors(file: Path) -> tuple[dict[str, torch.Tensor], dict[str, str]]:
    """The tensors in a file, and the words in its header. Raises AdapterError for one that is cut off or of another format."""
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as e:
        raise AdapterError(f"{file} is not a whole safetensors file ({e}); copy it anew") from e


def pair_up(
    file: Path, halves: Mapping[str, Mapping[str, tuple[str, torch.Tensor]]]
) -> dict[str, tuple[torch.Tensor, torch.Tensor]]:
    """A and B of each module, float32. ``halves``: module → "A" and "B" → the key in the file and the tensor. Raises AdapterError for
    none, for one without the other, and for what is no matrix of finite floating-point numbers."""
    if not halves:
        raise AdapterError(f"{file} holds no LoRA weights; save the adapter anew")
    out = {}
    for name, pair in halves.items():
        for key, t in (pair[half] for half in "AB" if half in pair):
            if not t.is_floating_point() or t.ndim != 2 or not t.numel():
                raise AdapterError(
                    f"{key} in {file} is {t.dtype} {tuple(t.shape)}, no matrix of floating point; save the adapter anew"
                )
            if not torch.isfinite(t.float()).all():
                raise AdapterError(
                    f"{key} in {file} holds NaN or infinity; the training diverged, so lower its learning rate and train again"
                )
        if not {"A", "B"} <= set(pair):
            raise AdapterError(f"{file} has only one of A and B for {name}; save the adapter anew")
        out[name] = pair["A"][1].float(), pair["B"][1].float()
    return out


def assemble(
    file: Path,
    pairs: Mapping[str, tuple[torch.Tensor, torch.Tensor]],
    scales: Mapping[str, float],
    base: str,
    provenance: Mapping[str, Any],
) -> Adapter:
    """Raises AdapterError for a pair without a scale, and ValueError for A and B of different ranks."""
    if missing := set(pairs) - set(scales):
        raise AdapterError(f"{file} gives no scale for {sorted(missing)[0]}; save the adapter anew")
    return Adapter({n: LowRank(a, b, scales[n]) for n, (a, b) in pairs.items()}, base, provenance)
