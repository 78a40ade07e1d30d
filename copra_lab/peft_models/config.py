"""What a configuration of peft's says about taking its adapter apart: whether a layer that is off shows the base, whether its
deltas are products of low rank, and how a folder names the modules that are left.

A configuration is a mapping here, as ``adapter_config.json`` holds it or ``PeftConfig.to_dict()`` gives it. What each value means
was read in peft's source and is held against peft in ``tests/peft_models/test_peft_adapter.py``: what is not known here is refused.
"""

import re
from collections.abc import Iterable, Mapping
from typing import Any

from copra_lab.adapters.peft_folder import pattern_matches

Config = Mapping[str, Any]

_BASE_KEPT = frozenset({"", "none", "true", "false", "gaussian", "eva", "orthogonal", "mica"})
"""Values of ``init_lora_weights``, in lower case, that leave the base's weights as they are."""

_REPEATABLE = frozenset({"pissa", "olora"})
"""Those that move the base by factors of its own weights: peft finds the same ones again whenever it loads the folder."""

_SUBTRACTS = re.compile(r"pissa(_niter_\d+)?|olora|corda|lora_ga")
"""Those that take s·B₀·A₀ out of the base, B₀ and A₀ being where the adapter begins."""

_CHECKED = frozenset(
    "ADALORA ADAMSS BEFT BOFT C3A DEFT DELORA FOURIERFT FROD GLORA GRALORA HIRA HRA IA3 LILY LN_TUNING LOHA LOKR LORA MISS OFT OSF "
    "PEANUT PSOFT PVERA RANDLORA ROAD SHIRA SUPERTUNING TINYLORA TRAINABLE_TOKENS UNILORA VBLORA VERA WAVEFT".split()
)
"""Methods whose layers, switched off, were compared with the base."""

_TOGETHER = {
    "FROD": "FRoD decomposes the weights of all its layers together",
    "TINYLORA": "TinyLoRA projects each layer by its number among all of them",
    "UNILORA": "Uni-LoRA keeps the numbers of all layers in one vector",
}
"""Methods whose layers mean something else once some of them are gone."""

_LOW_RANK = frozenset(
    "peft_type task_type auto_mapping base_model_name_or_path revision peft_version inference_mode r lora_alpha lora_dropout rank_pattern "
    "alpha_pattern target_modules exclude_modules layers_to_transform layers_pattern fan_in_fan_out bias use_rslora modules_to_save "
    "init_lora_weights layer_replication trainable_token_indices alora_invocation_tokens eva_config corda_config lora_ga_config "
    "loftq_config runtime_config megatron_core qalora_group_size".split()
)
"""Fields of LoRA's configuration under which a layer is still W + s·B·A."""


def method(config: Config) -> str:
    """peft's name of the method, "LORA" for instance."""
    kind = config["peft_type"]
    return str(getattr(kind, "value", kind))


def subtracts(config: Config) -> bool:
    """Whether the base was moved by s·B₀·A₀ and nothing else, so that B·A − B₀·A₀ is the difference from the untouched base."""
    return _SUBTRACTS.fullmatch(
        str(config.get("init_lora_weights")).lower()
    ) is not None and not config.get("kasa_config")


def moved_base(config: Config) -> str | None:
    """What changed the base's weights before the training, in words; None where nothing did."""
    if method(config) != "LORA":
        return None
    begun = config.get("init_lora_weights")
    if subtracts(config):
        return f"init_lora_weights={begun!r} takes a part out of the base"
    if str(begun).lower() not in _BASE_KEPT:
        return f"init_lora_weights={begun!r} {'rounds the base' if begun == 'loftq' else 'is not known to leave the base alone'}"
    return "kasa_config takes a part out of the base" if config.get("kasa_config") else None


def repeatable(config: Config) -> bool:
    """Whether peft, loading the folder on the base, moves it exactly as before the training."""
    return moved_base(config) is None or str(config.get("init_lora_weights")).lower() in {
        *_REPEATABLE,
        *_BASE_KEPT,
    }


def trained_bias(config: Config) -> str:
    """Which of the base's own biases were trained: "all", "lora_only" and its like, or "" for none."""
    bias = config.get("bias") or "none"
    return "" if bias == "none" else str(bias)


def off_is_not_base(config: Config) -> str | None:
    """Why a layer of this adapter that is off does not show the base, one sentence with what to do; None where it does.

    Heads and tokens trained beside the adapter stay on, and layers that ``layer_replication`` repeats stay repeated: both belong to the
    model that the layers sit in.
    """
    if moved := moved_base(config):
        convert = "train with init_lora_weights=True, or convert the saved adapter with PeftAdapter.as_lora"
        remedy = convert if subtracts(config) else "train plain LoRA"
        return f"{moved}, so that a layer that is off is not the base; {remedy}"
    if bias := trained_bias(config):
        return f"bias={bias!r} trains biases of the base itself, which stay on when a layer is off; train with bias='none'"
    if method(config) not in _CHECKED:
        return f"layers of {method(config)} were never compared with the base; choose LoRA, DoRA or another method with layers of its own"
    return None


def low_rank(config: Config) -> str | None:
    """Why the layers are not W + s·B·A with A and B as the folder holds them; None where they are."""
    if method(config) != "LORA" or config.get("use_dora"):
        kind = "DoRA" if config.get("use_dora") else method(config)
        return f"{kind} has no low-rank delta alone; convert it with peft's convert_to_lora, or average its parameters"
    if more := sorted(k for k, v in config.items() if v and k not in _LOW_RANK):
        return f"LoRA with {more[0]} is more than a product B·A; average its parameters instead"
    return None


def for_keeping(config: Config) -> str | None:
    """Why a part of the folder means something else than it does in the whole; None where it means the same."""
    kind = method(config)
    if kind not in _CHECKED:
        return off_is_not_base(config)
    if not repeatable(config):
        remedy = "convert it with PeftAdapter.as_lora" if subtracts(config) else "train plain LoRA"
        return f"{moved_base(config)}, and peft cannot do that again from the folder; {remedy}"
    if kind in _TOGETHER:
        return f"{_TOGETHER[kind]}, so that some of them alone are other layers; switch them in the model with copra_lab.peft_models.layers.Switches"
    if kind == "WAVEFT" and config.get("proportional_parameters"):
        return "proportional_parameters shares WaveFT's numbers out among all layers; train with proportional_parameters=False"
    if config.get("target_parameters"):
        return "target_parameters names parameters, not modules, and they cannot be removed one by one; train with target_modules"
    return None


def targets(config: Config, modules: Iterable[str], others: Iterable[str] = ()) -> dict[str, Any]:
    """A configuration that names these modules one by one and nothing else. ``others``: adapted modules that are left out.

    peft takes a name in a list for the end of a path: "layer.0.q" is also "vision.layer.0.q". Where such a module may exist, the names
    become one regular expression, which has to match whole.
    """
    names = sorted(modules)
    narrowed = isinstance(config.get("target_modules"), str) or any(
        config.get(k) for k in ("exclude_modules", "layers_to_transform")
    )
    # Lily shares its layers' factors by the names in the list, and with one expression all would share one.
    exact = method(config) != "LILY" and (
        narrowed or any(o.endswith(f".{n}") for o in others for n in names)
    )
    out = {**config, "target_modules": "|".join(map(re.escape, names)) if exact else names}
    out |= {
        k: None
        for k in ("exclude_modules", "layers_to_transform", "layers_pattern", "target_parameters")
        if k in config
    }
    out |= {
        k: {
            pattern: v
            for pattern, v in config[k].items()
            if any(pattern_matches(pattern, n) for n in names)
        }
        for k in ("rank_pattern", "alpha_pattern")
        if config.get(k)
    }
    if feedforward := config.get("feedforward_modules"):  # of IA³: those whose input it scales
        ends = tuple(f".{f}" for f in feedforward)
        found = [
            n
            for n in names
            if (
                re.fullmatch(feedforward, n)
                if isinstance(feedforward, str)
                else f".{n}".endswith(ends)
            )
        ]
        out["feedforward_modules"] = "|".join(map(re.escape, found)) if exact and found else found
    return out
