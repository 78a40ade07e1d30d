"""Adapters on disk, in a folder as peft writes it.

The folder holds ``adapter_config.json`` and ``adapter_model.safetensors``. Sites have the names of
Hugging Face's CLIPModel, so ``peft.PeftModel.from_pretrained`` loads the folder on such a model.
What peft has no field for (the base's hash, provenance) is in the header of the weights file, which
is complete in itself and written last: if writing is cut off, the folder still holds the earlier
adapter. Nothing is unpickled.

Folders that peft wrote are read too: of one tower of a CLIP or of a larger model around it, of
open_clip's modules, and with a rank and alpha of its own for any matrix.
"""

import json
import math
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save as to_bytes
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import (
    AdapterError,
    Pairs,
    assemble,
    pair_up,
    read_safetensors,
)
from copra_lab.adapters.peft_config import config_of, peft_scale, read_config
from copra_lab.models.sites import hf_name, not_sites, parse
from copra_lab.utils.files import write_atomically

__all__ = ["save_adapter"]

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"
PEFT_ROOT = "base_model.model."
"""What peft puts before a module's own name."""
_LAYOUT = f"an adapter folder holds {WEIGHTS} and {CONFIG}"


def save_adapter(adapter: Adapter, folder: "str | Path") -> None:
    """Save an adapter as a folder that peft and `load_adapter` read.

    Args:
        adapter: The adapter.
        folder: Where to save it; created if necessary.

    Raises:
        AdapterError: If the adapter has no sites.
        OSError: If the folder cannot be written.
    """
    if not adapter.deltas:
        raise AdapterError("an adapter without sites has nothing to save; use the base")
    folder, weights = Path(folder), weights_file(adapter)
    config = json.dumps(config_of(adapter), indent=2, sort_keys=True)
    write_atomically(folder / CONFIG, config.encode())
    write_atomically(folder / WEIGHTS, weights)


def weights_file(adapter: Adapter) -> bytes:
    """The contents of the weights file that `save_adapter` writes; equal adapters, equal bytes."""
    tensors = {}
    for name, d in adapter.deltas.items():
        for half, t in (("A", d.A), ("B", d.B)):
            # Copied, because safetensors refuses a matrix that two sites share.
            whole = t.detach().float().clone(memory_format=torch.contiguous_format)
            tensors[f"{PEFT_ROOT}{name}.lora_{half}.weight"] = whole
    header = {
        "base": adapter.base,
        "scales": {n: d.scale for n, d in adapter.deltas.items()},
        "provenance": dict(adapter.provenance),
    }
    # A single key, since safetensors does not keep the order of several.
    return to_bytes(tensors, {"copra_lab": json.dumps(header, sort_keys=True)})


def read_folder(folder: Path, of_clip: bool) -> Adapter:
    """Read an adapter from a folder.

    Args:
        folder: Written by `save_adapter` or peft.
        of_clip: Whether every module must be a site of a CLIP.

    Raises:
        AdapterError: If it cannot be used.
    """
    file = folder / WEIGHTS
    tensors, header = read_adapter_file(folder)
    if header is not None:
        return from_own_file(file, tensors, header)
    config = read_config(folder / CONFIG)
    pairs, scales = _as_sites(_pair_up(file, tensors), config, file, of_clip)
    base = config.get("base_model_name_or_path")
    return assemble(file, pairs, scales, {"source": "peft"} | ({"clip": base} if base else {}))


def from_own_file(file: Path, tensors: Mapping[str, Tensor], header: str) -> Adapter:
    """The adapter in a weights file that `save_adapter` wrote.

    Args:
        file: Where it is from, for error messages.
        tensors: What the file holds.
        header: The JSON that `save_adapter` put into its header.

    Raises:
        AdapterError: If it is damaged.
    """
    pairs = _pair_up(file, tensors)
    try:
        h = json.loads(header)
        scales = {str(n): float(s) for n, s in h["scales"].items()}
        base, provenance = str(h["base"]), dict(h["provenance"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as e:
        raise AdapterError(f"the header of {file} is damaged ({e}); save the adapter again") from e
    if bad := next((n for n, s in scales.items() if not math.isfinite(s)), None):
        raise AdapterError(f"the scale of {bad} in {file} is not finite; save the adapter again")
    return assemble(file, pairs, scales, provenance, base)


def read_adapter_file(folder: Path) -> tuple[dict[str, Tensor], str | None]:
    """Read the weights file of an adapter's folder.

    Returns:
        The tensors, and the header that `save_adapter` writes, if it has one.

    Raises:
        AdapterError: If the file is missing, cut off or a pickle.
    """
    file = folder / WEIGHTS
    if folder.is_file():
        raise AdapterError(f"{folder} is a file; {_LAYOUT}")
    if not folder.is_dir():
        raise AdapterError(f"no adapter at {folder}: there is no such folder; check the path")
    if not file.is_file():
        if (folder / "adapter_model.bin").exists():
            raise AdapterError(
                f"{folder} holds a pickle (adapter_model.bin), which is never loaded; save it "
                "again with safe_serialization=True"
            )
        suffixes = (".safetensors", ".pt", ".pth")
        others = sorted(f.name for f in folder.iterdir() if f.suffix in suffixes)
        hint = f"; if the adapter is {others[0]}, give the path of that file" if others else ""
        raise AdapterError(f"{file} is missing; {_LAYOUT}{hint}")
    tensors, metadata = read_safetensors(file)
    return tensors, metadata.get("copra_lab")


def _pair_up(file: Path, tensors: Mapping[str, Tensor]) -> Pairs:
    """A and B of each module, by peft's names. Raises AdapterError for any other tensor."""
    factors: dict[str, dict[str, tuple[str, Tensor]]] = {}
    linear = True
    for key, t in tensors.items():
        path = key.removeprefix(PEFT_ROOT).removesuffix(".weight").removesuffix(".default")
        name, _, half = path.rpartition(".lora_")
        if half not in ("A", "B", "embedding_A", "embedding_B") or not name:
            dora = "it is DoRA, which is more than a low-rank delta; train plain LoRA"
            hint = dora if "magnitude" in key else "only plain LoRA can be read"
            raise AdapterError(f"{file} holds {key!r}; {hint}")
        # A convolution's A has four axes.
        linear = linear and not half.startswith("embedding") and t.ndim <= 2
        factors.setdefault(name, {})[half] = key, t
    if not linear:
        raise AdapterError(f"{file}: {not_sites([n for n in factors if not _parse(n)], factors)}")
    return pair_up(file, factors)


def _as_sites(
    pairs: Pairs, config: Mapping[str, Any], file: Path, of_clip: bool
) -> tuple[Pairs, dict[str, float]]:
    """The pairs that peft wrote, by names of sites, and their scales as peft computes them.

    A module that is not a CLIP's keeps its name.
    """
    if of_clip:
        # ΔW = 0 is no loss. nn.MultiheadAttention's output projection has it: its forward pass
        # never calls the adapter.
        pairs = {p: (a, b) for p, (a, b) in pairs.items() if _parse(p) or (a.any() and b.any())}
        if outside := [p for p in pairs if not _parse(p)]:
            raise AdapterError(f"{file}: {not_sites(outside, pairs)}")
    if any(path.endswith(".base_layer.out_proj") and b.any() for path, (_, b) in pairs.items()):
        warnings.warn(
            f"{file}: peft (measured: 0.21.2) adds the ΔW of the output projection of "
            "nn.MultiheadAttention twice; here it counts once, as the file says, so results differ",
            stacklevel=4,
        )
    trained = str((config.get("auto_mapping") or {}).get("base_model_class", ""))
    vision = "Vision" in trained or "ImageClassification" in trained
    default = "text" if "Text" in trained else "vision" if vision else None
    out, scales = {}, {}
    for path, (a, b) in pairs.items():
        tower = (_parse(path) or (None,))[0] or default
        if of_clip and tower is None:
            raise AdapterError(
                f"{file} does not say whether {path} is of the image or the text tower; train it "
                "on the whole model"
            )
        for name, rows in _split(path, tower, b).items():
            if name in out:
                raise AdapterError(
                    f"{file} has LoRA twice on {name}; merge the two with peft first"
                )
            out[name] = a, rows.contiguous()
            scales[name] = peft_scale(config, path, len(a))
    return out, scales


def _split(path: str, tower: str | None, b: Tensor) -> dict[str, Tensor]:
    """Site → its rows of B (out, r): all, or a third for fused q, k and v, which share A."""
    found = _parse(path)
    if found and tower and found[2] != "qkv":
        return {hf_name(tower, found[1], found[2]): b}
    if found and tower and len(b) % 3 == 0:
        thirds = zip("qkv", b.chunk(3), strict=True)
        return {hf_name(tower, found[1], kind): rows for kind, rows in thirds}
    return {path.replace(".base_layer", ""): b}


def _parse(path: str) -> tuple[str | None, int, str] | None:
    """`parse`, for a module by peft's name."""
    return parse(path.replace(".base_layer", ""))
