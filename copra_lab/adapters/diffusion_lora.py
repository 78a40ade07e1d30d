"""LoRA on a CLIP's text tower, in the files that kohya's scripts and diffusers write for Stable Diffusion.

Two ways of naming one thing, ``text_model.encoder.layers.0.self_attn.q_proj`` of the text encoder:

- kohya: ``lora_te_text_model_encoder_layers_0_self_attn_q_proj.lora_down.weight``, ``.lora_up.weight`` and ``.alpha``; ``lora_te1`` and
  ``lora_te2`` where there are two text encoders (SDXL: CLIP-L and OpenCLIP's bigG);
- diffusers: ``text_encoder.text_model.encoder.layers.0.self_attn.q_proj.lora_A.weight``, in older versions
  ``.lora_linear_layer.down.weight`` or ``.to_q_lora.down.weight``; ``text_encoder_2`` for the second.

The scale is alpha / r, or 1 where there is no alpha; newer diffusers write peft's configuration into the header. What is of another model
(the U-Net, a T5, the other text encoder) is passed over, with a warning that says how much.
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
from copra_lab.adapters.peft_folder import more_than_lora, peft_scale
from copra_lab.models.clip import Clip
from copra_lab.models.sites import hf_name

_KEY = re.compile(
    r"(?:(lora_te\d?)_|(text_encoder(?:_\d)?)\.)(.+?)\.((?:lora|alpha|dora|hada|lokr|diff|scalar).*)"
)
"""Text encoder, module, and what of it."""

_BLOCK = re.compile(
    r"(?:text_model[._])?encoder[._]layers[._](\d+)[._](?:self_attn[._](q|k|v|out)_proj|mlp[._](fc[12]))"
)
_OLD = re.compile(r"\.to_(q|k|v|out)_lora\.")
_OTHER = re.compile(r"(lora_unet|lora_transformer)_|(unet|transformer|diffusion_model)\.")
_WHAT = {
    **{
        f"{w}.weight": "A"
        for w in ("lora_down", "lora_A", "lora_A.default", "lora.down", "lora_linear_layer.down")
    },
    **{
        f"{w}.weight": "B"
        for w in ("lora_up", "lora_B", "lora_B.default", "lora.up", "lora_linear_layer.up")
    },
    "alpha": "alpha",
}
METADATA = "lora_adapter_metadata"
"""The key of diffusers' header."""

Matrix = dict[str, tuple[str, Tensor]]
"""Of one matrix: "A", "B" and "alpha" → the key in the file and the tensor."""


def read(
    file: Path, tensors: Mapping[str, Tensor], metadata: Mapping[str, str], clip: Clip | None = None
) -> Adapter:
    """The adapter of the text tower; of several, that which fits `clip`. Raises AdapterError for a file without one, for more than plain
    LoRA on its blocks, and where more than one could be meant."""
    encoders, others = _sorted(file, tensors)
    if not encoders:
        kinds = ", ".join(sorted({_whose(k) for k in tensors})) or "nothing"
        raise AdapterError(
            f"{file} has no LoRA on a CLIP's text tower (it has {len(tensors)} tensors, of {kinds:.200}); give a file that has"
        )
    name = _chosen(file, encoders, clip)
    matrices = encoders.pop(name)
    passed = [
        *others,
        *(key for m in encoders.values() for matrix in m.values() for key, _ in matrix.values()),
    ]
    config = _config(file, metadata, name)
    pairs = pair_up(file, matrices)
    scales = {site: _scale(file, matrix, config, site) for site, matrix in matrices.items()}
    about: dict[str, Any] = {
        "source": "kohya" if name.startswith("lora") else "diffusers",
        "encoder": name,
    }
    if passed:
        whose = ", ".join(sorted({_whose(k) for k in passed}))
        warnings.warn(
            f"{file}: of {len(tensors)} tensors {len(passed)} are of other models ({whose}) and are passed over",
            stacklevel=4,
        )
        about["passed over"] = len(passed)
    return assemble(file, pairs, scales, "", about)


def _sorted(
    file: Path, tensors: Mapping[str, Tensor]
) -> tuple[dict[str, dict[str, Matrix]], list[str]]:
    """Text encoder → site → what there is of it, of encoders that are CLIP's; and the keys of other models."""
    encoders: dict[str, dict[str, Matrix]] = {}
    odd: dict[str, list[str]] = {}
    others = []
    for key, t in tensors.items():
        found = _KEY.fullmatch(_OLD.sub(r".\1_proj.lora.", key))
        if not found:
            if not _OTHER.match(key):
                raise AdapterError(
                    f"{file} holds {key!r}, which no format of adapters that is read has; give peft's folder, or a file of LoRA"
                )
            others.append(key)
            continue
        encoder, module, what = (
            found[1] or found[2],
            _BLOCK.fullmatch(found[3]),
            _WHAT.get(found[4]),
        )
        if not module or not what:
            odd.setdefault(encoder, []).append(key)
            continue
        matrix = encoders.setdefault(encoder, {}).setdefault(
            hf_name("text", int(module[1]), module[2] or module[3]), {}
        )
        if what in matrix:
            raise AdapterError(
                f"{file} holds both {matrix[what][0]!r} and {key!r} for one matrix; keep one of them"
            )
        matrix[what] = key, t
    for encoder in encoders:
        if encoder in odd:
            raise AdapterError(
                f"{file} holds {odd[encoder][0]!r}; only plain LoRA on q, k, v, out, fc1 and fc2 of the text tower's blocks is read, and without "
                "the rest it would be another adapter: train it anew without that"
            )
    return encoders, others + [k for keys in odd.values() for k in keys]


def _whose(key: str) -> str:
    """The model that a key is about, by how it begins."""
    found = _OTHER.match(key) or _KEY.fullmatch(key)
    return next(g for g in found.groups() if g) if found else key.partition(".")[0]


def _chosen(file: Path, encoders: Mapping[str, Mapping[str, Matrix]], clip: Clip | None) -> str:
    if len(encoders) == 1:
        return next(iter(encoders))
    fitting = [e for e, matrices in encoders.items() if clip and _fits(matrices, clip)]
    if len(fitting) == 1:
        return fitting[0]
    found = ", ".join(f"{e} of width {_width(m)}" for e, m in encoders.items())
    which = (
        ("each fits" if fitting else "none fits") + " this CLIP"
        if clip
        else "which is meant shows when it is loaded with its CLIP"
    )
    raise AdapterError(
        f"{file} has LoRA on several text towers ({found}); {which}: load it with the CLIP of one, or keep the tensors of one"
    )


def _fits(matrices: Mapping[str, Matrix], clip: Clip) -> bool:
    """Whether the CLIP has all these sites in these shapes."""
    return all(
        site in clip.sites
        and "A" in m
        and "B" in m
        and (*m["B"][1].shape[:1], *m["A"][1].shape[1:]) == clip.sites[site].shape
        for site, m in matrices.items()
    )


def _width(matrices: Mapping[str, Matrix]) -> int:
    return max(
        (
            m["A"][1].shape[-1]
            for site, m in matrices.items()
            if "A" in m and m["A"][1].ndim and not site.endswith("fc2")
        ),
        default=0,
    )


def _config(file: Path, metadata: Mapping[str, str], encoder: str) -> dict[str, Any]:
    """peft's configuration of this encoder's adapter, if the header has one. Raises AdapterError for more than plain LoRA."""
    if METADATA not in metadata:
        return {}
    try:
        whole = json.loads(metadata[METADATA])
        config = {
            k.removeprefix(f"{encoder}."): v
            for k, v in whole.items()
            if k.startswith(f"{encoder}.")
        }
        if config and (reason := more_than_lora({"peft_type": "LORA", **config})):
            raise AdapterError(f"{file} describes {reason}; only plain LoRA is read")
        return config
    except (ValueError, TypeError, AttributeError, RecursionError) as e:
        if isinstance(e, AdapterError):
            raise
        raise AdapterError(f"the header of {file} is damaged ({e}); copy it anew") from e


def _scale(file: Path, matrix: Matrix, config: Mapping[str, Any], site: str) -> float:
    rank = matrix["A"][1].shape[0]
    try:
        if "alpha" in matrix:
            key, alpha = matrix["alpha"]
            if alpha.numel() != 1 or not alpha.item():
                raise ValueError(
                    f"{key} is {tuple(alpha.shape) if alpha.numel() != 1 else 0}, and one number that is not 0 is expected"
                )
            scale = float(alpha) / rank
        else:
            scale = peft_scale(config, site, rank) if config else 1.0
        if not math.isfinite(scale):
            raise ValueError(f"the scale at {site} is {scale}")
    except (ValueError, KeyError, TypeError, ZeroDivisionError, re.error) as e:
        raise AdapterError(
            f"{file} gives no scale that can be used ({e}); save the adapter anew"
        ) from e
    return scale
