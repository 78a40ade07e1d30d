"""LoRA on a CLIP's text tower, in files that kohya's scripts and diffusers write.

Both write them for Stable Diffusion, and name a matrix of the text encoder, for instance
``text_model.encoder.layers.0.self_attn.q_proj``, in their own way:

- kohya: ``lora_te_text_model_encoder_layers_0_self_attn_q_proj`` with ``.lora_down.weight``,
  ``.lora_up.weight`` and ``.alpha``; ``lora_te1`` and ``lora_te2`` if there are two text encoders
  (SDXL: CLIP-L and OpenCLIP's bigG);
- diffusers: ``text_encoder.text_model.encoder.layers.0.self_attn.q_proj`` with ``.lora_A.weight``,
  in older versions ``.lora_linear_layer.down.weight`` or ``.to_q_lora.down.weight``;
  ``text_encoder_2`` for the second.

The scale is alpha / r, or 1 without alpha; newer versions of diffusers write peft's configuration
into the header. Tensors of another model (the U-Net, a T5, the other text encoder) are skipped,
with a warning that says how many.
"""

import json
import math
import re
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.adapters.factor_pairs import AdapterError, assemble, pair_up
from copra_lab.adapters.peft_config import not_plain_lora, peft_scale
from copra_lab.models.clip import Clip
from copra_lab.models.sites import hf_name

_KEY = re.compile(
    r"(?:(lora_te\d?)_|(text_encoder(?:_\d)?)\.)(.+?)\."
    r"((?:lora|alpha|dora|hada|lokr|diff|scalar).*)"
)
"""Groups: the text encoder (kohya's or diffusers' name), the module, and what it is of it."""

_BLOCK = re.compile(
    r"(?:text_model[._])?encoder[._]layers[._](\d+)[._]"
    r"(?:self_attn[._](q|k|v|out)_proj|mlp[._](fc[12]))"
)
_OLD = re.compile(r"\.to_(q|k|v|out)_lora\.")
_OTHER = re.compile(r"(lora_unet|lora_transformer)_|(unet|transformer|diffusion_model)\.")
_DOWN = ("lora_down", "lora_A", "lora_A.default", "lora.down", "lora_linear_layer.down")
_UP = ("lora_up", "lora_B", "lora_B.default", "lora.up", "lora_linear_layer.up")
_ROLES = {f"{name}.weight": half for names, half in ((_DOWN, "A"), (_UP, "B")) for name in names}
_ROLES["alpha"] = "alpha"
METADATA = "lora_adapter_metadata"
"""The key of diffusers' header."""

Matrix = dict[str, tuple[str, Tensor]]
"""For one matrix: "A", "B" and "alpha" → the key in the file, and the tensor."""


def read(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], clip: Clip | None = None
) -> Adapter:
    """Read the adapter of the text tower.

    Args:
        file: Where it is from, for error messages.
        tensors: What the file holds.
        metadata: The strings in its header.
        clip: Tells which text tower is meant if there are several.

    Raises:
        AdapterError: If there is no text tower, or more than one could be meant, or the adapter is
            more than plain LoRA on blocks.
    """
    encoders, skipped = _by_encoder(file, tensors)
    if not encoders:
        kinds = ", ".join(sorted({_model_of(k) for k in tensors})) or "nothing"
        raise AdapterError(
            f"{file} has no LoRA on a CLIP's text tower ({len(tensors)} tensors of {kinds:.200}); "
            "give a file that has"
        )
    name = _choose(file, encoders, clip)
    matrices = encoders.pop(name)
    others = (matrix for other in encoders.values() for matrix in other.values())
    skipped += [key for matrix in others for key, _ in matrix.values()]
    config = _config(file, metadata, name)
    pairs = pair_up(file, matrices)
    scales = {site: _scale(file, matrix, config, site) for site, matrix in matrices.items()}
    source = "kohya" if name.startswith("lora") else "diffusers"
    provenance: dict[str, Any] = {"source": source, "encoder": name}
    if skipped:
        models = ", ".join(sorted({_model_of(k) for k in skipped}))
        warnings.warn(
            f"{file}: of {len(tensors)} tensors {len(skipped)} are of other models ({models}) and "
            "are passed over",
            stacklevel=4,
        )
        provenance["passed over"] = len(skipped)
    return assemble(file, pairs, scales, provenance)


def _by_encoder(
    file: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Matrix]], list[str]]:
    """Text encoder of a CLIP → site → its tensors; and the keys of other models."""
    encoders: dict[str, dict[str, Matrix]] = {}
    unknown: dict[str, list[str]] = {}
    others = []
    for key, t in tensors.items():
        found = _KEY.fullmatch(_OLD.sub(r".\1_proj.lora.", key))
        if not found and not _OTHER.match(key):
            raise AdapterError(f"{file} holds {key!r}, which no supported format has; give another")
        if not found:
            others.append(key)
            continue
        encoder, block, role = found[1] or found[2], _BLOCK.fullmatch(found[3]), found[4]
        if not block or role not in _ROLES:
            unknown.setdefault(encoder, []).append(key)
            continue
        site, role = hf_name("text", int(block[1]), block[2] or block[3]), _ROLES[role]
        matrix = encoders.setdefault(encoder, {}).setdefault(site, {})
        if role in matrix:
            both = f"{matrix[role][0]!r} and {key!r}"
            raise AdapterError(f"{file} holds both {both} for one matrix; keep one of them")
        matrix[role] = key, t
    if more := next((unknown[encoder][0] for encoder in encoders if encoder in unknown), None):
        raise AdapterError(
            f"{file} holds {more!r}; only plain LoRA on q, k, v, out, fc1 and fc2 of the text "
            "tower's blocks can be read: train again without it"
        )
    return encoders, others + [k for keys in unknown.values() for k in keys]


def _model_of(key: str) -> str:
    """The model that a key is about, from how it begins."""
    found = _OTHER.match(key) or _KEY.fullmatch(key)
    return next(g for g in found.groups() if g) if found else key.partition(".")[0]


def _choose(file: Path, encoders: Mapping[str, Mapping[str, Matrix]], clip: Clip | None) -> str:
    """The text encoder that is meant."""
    if len(encoders) == 1:
        return next(iter(encoders))
    fitting = [e for e, matrices in encoders.items() if clip and _fits(matrices, clip)]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{e} of width {_width(m)}" for e, m in encoders.items())
    which = f"{'each' if fitting else 'none'} fits this CLIP: " if clip else ""
    raise AdapterError(
        f"{file} has LoRA on several text towers ({found}); {which}load it with the CLIP of one, "
        "or keep the tensors of one"
    )


def _fits(matrices: Mapping[str, Matrix], clip: Clip) -> bool:
    """Whether the CLIP has all these sites in these shapes."""
    return all(
        site in clip.sites
        and {"A", "B"} <= set(m)
        and (*m["B"][1].shape[:1], *m["A"][1].shape[1:]) == clip.sites[site].shape
        for site, m in matrices.items()
    )


def _width(matrices: Mapping[str, Matrix]) -> int:
    """Width of the tower: the columns of any A except fc2's."""
    inputs = (m["A"][1] for s, m in matrices.items() if "A" in m and not s.endswith("fc2"))
    return max((a.shape[-1] for a in inputs if a.ndim), default=0)


def _config(file: Path, metadata: Mapping[str, str], encoder: str) -> dict[str, Any]:
    """The configuration of this encoder's adapter in peft, if the header has one."""
    if METADATA not in metadata:
        return {}
    try:
        found = json.loads(metadata[METADATA]).items()
        start = f"{encoder}."
        config = {k.removeprefix(start): v for k, v in found if k.startswith(start)}
        reason = not_plain_lora({"peft_type": "LORA", **config}) if config else None
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        raise AdapterError(f"the header of {file} is damaged ({e}); copy it again") from e
    if reason:
        raise AdapterError(f"{file} describes {reason}; only plain LoRA can be read")
    return config


def _scale(file: Path, matrix: Matrix, config: Mapping[str, Any], site: str) -> float:
    """The scale: alpha / r, or what peft's configuration says, or 1."""
    rank = matrix["A"][1].shape[0]
    try:
        if "alpha" in matrix:
            key, alpha = matrix["alpha"]
            if alpha.numel() != 1 or not alpha.item():
                raise ValueError(f"{key} is {alpha.tolist()!r:.40}, not one number other than 0")
            scale = float(alpha) / rank
        else:
            scale = peft_scale(config, site, rank) if config else 1.0
        if not math.isfinite(scale):
            raise ValueError(f"the scale at {site} is {scale}")
    except (ValueError, KeyError, TypeError, ZeroDivisionError, re.error) as e:
        raise AdapterError(f"{file} gives no scale to use ({e}); save the adapter again") from e
    return scale
