"""From the tensors of a file to an `Adapter`: the pair A and B of each matrix, checked."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank

Pairs = dict[str, tuple[Tensor, Tensor]]
"""Module → its A (r, in) and B (out, r)."""


class AdapterError(ValueError):
    """An adapter that cannot be used; the message says why and what to do."""


def read_safetensors(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Read a safetensors file.

    Returns:
        The tensors, and the strings in the header.

    Raises:
        AdapterError: If the file is cut off or in another format.
    """
    try:
        with safe_open(file, "pt") as f:
            return {k: f.get_tensor(k) for k in f.keys()}, f.metadata() or {}  # noqa: SIM118 (not a dict)
    except (SafetensorError, OSError, ValueError) as e:
        raise AdapterError(f"{file} is not a whole safetensors file ({e}); copy it again") from e


def pair_up(file: Path, factors: Mapping[str, Mapping[str, tuple[str, Tensor]]]) -> Pairs:
    """Check A and B of each module, and convert them to float32.

    Args:
        file: Where they are from, for error messages.
        factors: Module → "A" and "B" → the key in the file, and the tensor.

    Raises:
        AdapterError: If there are none, one lacks the other, or one is not a matrix of finite
            floating-point numbers.
    """
    if not factors:
        raise AdapterError(f"{file} holds no LoRA weights; save the adapter again")
    out = {}
    for name, pair in factors.items():
        for key, t in (pair[half] for half in "AB" if half in pair):
            if not t.is_floating_point() or t.ndim != 2 or not t.numel():
                raise AdapterError(
                    f"{key} in {file} is {t.dtype} {tuple(t.shape)}, not a matrix of "
                    "floating-point numbers; save the adapter again"
                )
            if not torch.isfinite(t.float()).all():
                raise AdapterError(
                    f"{key} in {file} holds NaN or infinity; train again with a lower learning rate"
                )
        if not {"A", "B"} <= set(pair):
            raise AdapterError(f"{file} has only one of A and B for {name}; save the adapter again")
        out[name] = pair["A"][1].float(), pair["B"][1].float()
    return out


def assemble(
    file: Path,
    pairs: Pairs,
    scales: Mapping[str, float],
    provenance: Mapping[str, Any],
    base: str = "",
) -> Adapter:
    """Make an adapter of what a file holds.

    Args:
        file: Where it is from, for error messages.
        pairs: Site → A and B.
        scales: Site → scale.
        provenance: How it was made.
        base: `Clip.hash` of the CLIP it was trained on; "" if unknown.

    Raises:
        AdapterError: If a pair has no scale.
        ValueError: If A and B have different ranks.
    """
    if missing := set(pairs) - set(scales):
        raise AdapterError(f"{file} gives no scale for {min(missing)}; save the adapter again")
    return Adapter({n: LowRank(a, b, scales[n]) for n, (a, b) in pairs.items()}, base, provenance)
