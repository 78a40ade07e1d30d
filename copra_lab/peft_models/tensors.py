"""The tensors of a folder that peft saved: which module owns them, the products of low rank that they hold, and whole values."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.adapters.factor_pairs import AdapterError
from copra_lab.adapters.peft_folder import PEFT_ROOT, peft_scale
from copra_lab.peft_models.config import Config, low_rank, method, targets, trained_bias

Tensors = Mapping[str, Tensor]

_PLAIN: dict[str, Any] = {
    "use_rslora": False,
    "init_lora_weights": True,
    "eva_config": None,
    "corda_config": None,
    "lora_ga_config": None,
    "loftq_config": {},
}
"""Of a configuration whose scale and beginning no longer matter."""


def prefix(kind: str) -> str:
    """How the names of a method's tensors begin, after that of the module: peft's table; "" for a method without layers."""
    from peft.mapping import PEFT_TYPE_TO_PREFIX_MAPPING

    return next((p for t, p in PEFT_TYPE_TO_PREFIX_MAPPING.items() if t.value == kind and p), "")


def module_keys(config: Config, tensors: Tensors) -> dict[str, tuple[str, ...]]:
    """Name of an adapted module → the keys of its tensors."""
    begins = prefix(config["peft_type"])
    out: dict[str, tuple[str, ...]] = {}
    for key in tensors:
        name, found, _ = key.removeprefix(PEFT_ROOT).partition(f".{begins}")
        if found and key.startswith(
            PEFT_ROOT
        ):  # what a method's layers share (VB-LoRA's bank, say) is the tuner's own
            out[name] = (*out.get(name, ()), key)
    return out


def beside(config: Config, tensors: Tensors) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Tensors of no adapted module: heads and tokens, and the base's own biases that were trained."""
    own = {k for keys in module_keys(config, tensors).values() for k in keys}
    wrapped = [f".{h}." for h in config.get("modules_to_save") or ()]
    rest = {k: t for k, t in tensors.items() if k not in own}
    biases = {
        k
        for k in rest
        if trained_bias(config) and k.endswith(".bias") and not any(h in f".{k}" for h in wrapped)
    }
    return {k: t for k, t in rest.items() if k not in biases}, {
        k: t for k, t in rest.items() if k in biases
    }


def module_of(key: str) -> str:
    """The module that a bias belongs to."""
    return key.removeprefix(PEFT_ROOT).removesuffix(".bias").removesuffix(".base_layer")


def products(config: Config, tensors: Tensors) -> Adapter:
    """s·B·A of every module, whatever base it is added to. Raises AdapterError for what is no plain LoRA."""
    if why := low_rank(config):
        raise AdapterError(why)
    out = {}
    for name, keys in module_keys(config, tensors).items():
        pair = [f"{PEFT_ROOT}{name}.lora_{half}.weight" for half in "AB"]
        if set(keys) != set(pair) or tensors[pair[0]].ndim != 2:
            raise AdapterError(
                f"the LoRA at {name!r} is not that of a linear layer without a bias of its own; average its parameters instead"
            )
        a, b = (tensors[k].float() for k in pair)
        out[name] = LowRank(a, b, peft_scale(config, name, a.shape[0]))
    return Adapter(out, provenance={"source": "peft"})


def from_products(
    config: Config, have: Iterable[str], deltas: Adapter
) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """Configuration and tensors of plain LoRA with these deltas, made of a configuration of the modules `have`. Raises AdapterError without
    deltas."""
    if not deltas.deltas:
        raise AdapterError("an adapter without deltas has nothing to save; use the base")
    tensors: dict[str, Tensor] = {}
    for name, d in deltas.deltas.items():
        # peft's scale is alpha / r; ours goes into B, so that the same configuration holds for every module.
        tensors |= {
            f"{PEFT_ROOT}{name}.lora_A.weight": d.A,
            f"{PEFT_ROOT}{name}.lora_B.weight": d.B * d.scale,
        }
    ranks = {n: d.rank for n, d in deltas.deltas.items()}
    rank = max(ranks.values())
    plain = {"r": rank, "lora_alpha": rank} | {k: v for k, v in _PLAIN.items() if k in config}
    patterns = {f"^{re.escape(n)}": r for n, r in sorted(ranks.items()) if r != rank}
    config = {**config, **plain, "rank_pattern": patterns, "alpha_pattern": patterns}
    return targets(config, ranks, set(have) - set(ranks)), tensors


def whole_values(
    tensors: Sequence[Mapping[str, Tensor]], weights: Sequence[float], what: str
) -> dict[str, Tensor]:
    """Σ wᵢ of whole values, which has a meaning for weights that sum to 1 only: two halves of a head are a head, two heads are not."""
    first = tensors[0]
    if any(
        {k: x.shape for k, x in t.items()} != {k: x.shape for k, x in first.items()}
        for t in tensors
    ):
        raise ValueError(
            "the adapters have tensors of different names or shapes; average adapters that were trained alike"
        )
    if first and not math.isclose(math.fsum(weights), 1, abs_tol=1e-6):
        remedy = {"heads": ", or choose heads='first'", "parameters": ", or space='delta'"}.get(
            what, ""
        )
        raise ValueError(
            f"{what} hold whole values, not differences, so their weights must sum to 1, got {weights}; change them{remedy}"
        )
    out = {}
    for k, x in first.items():
        if x.is_floating_point():
            out[k] = (
                torch.stack([w * t[k] for t, w in zip(tensors, weights, strict=True)])
                .sum(0)
                .to(x.dtype)
            )
        elif all(torch.equal(t[k], x) for t in tensors):
            out[k] = x
        else:
            raise ValueError(
                f"{k} holds whole numbers that differ between the adapters, which have no average; train them with the same seed"
            )
    return out


def kinds(config: Config, tensors: Tensors, modules: Iterable[str]) -> set[object]:
    """Kinds of modules: names without their numbers, and the shapes of what the adapter has there."""
    keys = module_keys(config, tensors)
    return {
        (re.sub(r"\d+", "", m), tuple(tuple(tensors[k].shape) for k in sorted(keys[m])))
        for m in modules
    }


def check_scales(config: Config, tensors: Tensors, model: nn.Module, name: str) -> None:
    """peft writes patterns of alpha in another order than the model may have read them in, and nothing of ``scale_layer``."""
    modules = dict(model.named_modules())
    for path, keys in module_keys(config, tensors).items() if method(config) == "LORA" else ():
        layer: Any = modules.get(f"{PEFT_ROOT}{path}")
        if (
            layer
            and f"{PEFT_ROOT}{path}.lora_A.weight" in keys
            and name in (scales := getattr(layer, "scaling", {}))
        ):
            said = peft_scale(config, path, layer.r[name])
            if not math.isclose(said, scales[name], rel_tol=1e-6):
                raise AdapterError(
                    f"peft scales {path!r} by {scales[name]:g} in this model, but writes a folder that says {said:g}; "
                    "give alpha_pattern one entry for each module, and undo scale_layer"
                )


def form(adapter: Adapter) -> dict[str, tuple[int, tuple[int, int], float]]:
    return {n: (d.rank, d.shape, d.scale) for n, d in adapter.deltas.items()}


def natural(name: str) -> list[Any]:
    """Sorts layer 10 after layer 9."""
    return [(0, int(x), "") if x.isdigit() else (1, 0, x) for x in re.split(r"(\d+)", name)]
