"""What a configuration of peft's allows to be done with its adapter.

Whether a layer that is off shows the base, whether its deltas are products of low rank, and how a
folder names the modules that are left.

A configuration is a mapping, as in ``adapter_config.json`` or from ``PeftConfig.to_dict()``. What
each value means was read in peft's source and is compared with peft in
``tests/peft_models/test_peft_adapter.py``. What is not known here is refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from copra_lab.adapters.peft_config import pattern_matches

Config = Mapping[str, Any]

_BASE_KEPT = frozenset({"", "none", "true", "false", "gaussian", "eva", "orthogonal", "mica"})
"""Values of ``init_lora_weights``, in lower case, that leave the base's weights as they are."""

_REPEATABLE = frozenset({"pissa", "olora"})
"""Values that move the base by factors of its own weights, which peft finds again when loading."""

_SUBTRACTED = re.compile(r"pissa(_niter_\d+)?|olora|corda|lora_ga")
"""Values that subtract s·B₀·A₀ from the base, where B₀ and A₀ are the adapter's initial factors."""

_CHECKED = frozenset(
    "ADALORA ADAMSS BEFT BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LILY "
    "LN_TUNING LOHA LOKR LORA MISS OFT OSF PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING "
    "TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT".split()
)
"""Methods whose layers, switched off, were compared with the base."""

_TOGETHER = {
    "FROD": "FRoD decomposes the weights of all its layers together",
    "TINYLORA": "TinyLoRA projects each layer by its number among all of them",
    "UNILORA": "Uni-LoRA keeps the numbers of all layers in one vector",
}
"""Methods whose layers mean something else once some of them are removed."""

_LOW_RANK = frozenset(
    "peft_type task_type auto_mapping base_model_name_or_path revision peft_version inference_mode "
    "r lora_alpha lora_dropout rank_pattern alpha_pattern target_modules exclude_modules "
    "layers_to_transform layers_pattern fan_in_fan_out bias use_rslora modules_to_save "
    "init_lora_weights layer_replication trainable_token_indices alora_invocation_tokens "
    "eva_config corda_config lora_ga_config loftq_config runtime_config megatron_core "
    "qalora_group_size".split()
)
"""Fields of LoRA's configuration under which a layer is still W + s·B·A."""


def method(config: Config) -> str:
    """What peft calls the method, for instance "LORA"."""
    kind = config["peft_type"]
    return str(getattr(kind, "value", kind))


def _init(config: Config) -> str:
    """How LoRA was initialised, in lower case."""
    return str(config.get("init_lora_weights")).lower()


def subtracts_product(config: Config) -> bool:
    """Whether the base was moved by −s·B₀·A₀ and nothing else.

    B·A − B₀·A₀ is then the difference from the original base.
    """
    return bool(_SUBTRACTED.fullmatch(_init(config))) and not config.get("kasa_config")


def moved_base(config: Config) -> str | None:
    """What changed the base's weights before training, in words; None if nothing did."""
    if method(config) != "LORA":
        return None
    init = f"init_lora_weights={config.get('init_lora_weights')!r}"
    if subtracts_product(config):
        return f"{init} takes a part out of the base"
    if config.get("init_lora_weights") == "loftq":
        return f"{init} rounds the base"
    if _init(config) not in _BASE_KEPT:
        return f"{init} is not known to leave the base alone"
    return "kasa_config takes a part out of the base" if config.get("kasa_config") else None


def repeatable(config: Config) -> bool:
    """Whether peft, loading the folder on the base, moves it exactly as before the training."""
    return moved_base(config) is None or _init(config) in _REPEATABLE | _BASE_KEPT


def trained_bias(config: Config) -> str:
    """Which of the base's biases were trained: "all", "lora_only" and so on, or "" for none."""
    bias = config.get("bias") or "none"
    return "" if bias == "none" else str(bias)


def off_is_not_base(config: Config) -> str | None:
    """Why a layer that is off does not show the base, and what to do; None if it does.

    Heads and tokens trained beside the adapter stay on, and layers that ``layer_replication``
    repeats stay repeated: both belong to the model around the layers.
    """
    if moved := moved_base(config):
        return f"{moved}, so a layer that is off is not the base; {remedy(config)}"
    if bias := trained_bias(config):
        return f"bias={bias!r} trains biases of the base, which stay on; train with bias='none'"
    if method(config) not in _CHECKED:
        return f"layers of {method(config)} were never compared with the base; choose LoRA or DoRA"
    return None


def remedy(config: Config) -> str:
    """What to do about an adapter that moved its base."""
    convert = subtracts_product(config)
    return "convert it with PeftAdapter.as_lora" if convert else "train plain LoRA"


def not_low_rank(config: Config) -> str | None:
    """Why the layers are not W + s·B·A with A and B as in the folder; None if they are."""
    if method(config) != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else method(config)
        return f"{kind} has no low-rank delta; use convert_to_lora, or average its parameters"
    if more := sorted(k for k, v in config.items() if v and k not in _LOW_RANK):
        return f"LoRA with {more[0]} is more than a product B·A; average its parameters instead"
    return None


def not_separable(config: Config) -> str | None:
    """Why some of the layers mean something else without the others; None if they do not."""
    kind = method(config)
    if kind not in _CHECKED:
        return off_is_not_base(config)
    if not repeatable(config):
        moved = moved_base(config)
        return f"{moved}, and peft cannot do that again from the folder; {remedy(config)}"
    if kind in _TOGETHER:
        alone = f"{_TOGETHER[kind]}, so some of them alone are other layers"
        return f"{alone}; switch them with copra_lab.peft_models.layers.Switches"
    if kind == "WAVEFT" and config.get("proportional_parameters"):
        return "WaveFT shares its numbers out among layers; set proportional_parameters=False"
    if config.get("target_parameters"):
        return "target_parameters cannot be removed one by one; train with target_modules"
    return None


def targets(config: Config, modules: Iterable[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """A configuration that names these modules one by one and nothing else.

    peft takes a name in a list for the end of a path: "layer.0.q" is also "vision.layer.0.q". If
    such a module may exist, the names become one regular expression, which must match the whole
    path.

    Args:
        config: The configuration of a larger adapter.
        modules: Names of the modules to adapt.
        others: Names of the adapted modules that are left out.
    """
    names = sorted(modules)
    narrowed = isinstance(config.get("target_modules"), str) or any(
        config.get(k) for k in ("exclude_modules", "layers_to_transform")
    )
    # Lily shares its layers' factors by the names in the list; one expression would share them all.
    exact = method(config) != "LILY" and (
        narrowed or any(o.endswith(f".{n}") for o in others for n in names)
    )
    out = {**config, "target_modules": _expression(names) if exact else names}
    for k in ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters"):
        if k in config:
            out[k] = None
    for k in ("rank_pattern", "alpha_pattern"):
        if config.get(k):
            patterns = config[k].items()
            out[k] = {p: v for p, v in patterns if any(pattern_matches(p, n) for n in names)}
    if feedforward := config.get("feedforward_modules"):  # IA³ scales the input of these
        if isinstance(feedforward, str):
            found = [n for n in names if re.fullmatch(feedforward, n)]
        else:
            ends = tuple(f".{f}" for f in feedforward)
            found = [n for n in names if f".{n}".endswith(ends)]
        out["feedforward_modules"] = _expression(found) if exact and found else found
    return out


def _expression(names: Iterable[str]) -> str:
    """A regular expression for exactly these names."""
    return "|".join(map(re.escape, names))
