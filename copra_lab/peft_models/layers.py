"""The adapter layers of any model that peft has adapted, switched on and off.

peft calls the modules that it puts around those of the base *tuner layers*: for LoRA, DoRA, LoHa,
VeRA, RandLoRA, IA³ and some thirty more methods. Each has ``enable_adapters``; one that is off
shows the base. Here they are grouped by transformer block, which is found from their names.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from copra_lab.peft_models.config import method, off_is_not_base
from copra_lab.utils.checks import one_of

__all__ = ["Switches", "block_of", "tuner_layers"]

_BLOCK = re.compile(r"(?:^|\.)\w*blocks?(?:\.\d+)+(?=\.)")
_LAYER = re.compile(r"(?:^|\.)\w*layers?(?:\.\d+)+(?=\.)")
_NUMBER = re.compile(r"\.\d+(?=\.)")
_WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module|_fsdp_wrapped_module|base_model\.model)\.)+")
"""What torch.compile, data parallelism and peft put before a module's own name."""


def block_of(name: str) -> str:
    """The transformer block that a module belongs to, found from its name.

    The name is cut after the number of the innermost ``block`` (``swin.encoder.layers.0.blocks.1``,
    T5's ``encoder.block.0``), else of the outermost ``layer`` (``bert.encoder.layer.3``,
    ``vision_model.encoder.layers.3``), else after the first number (``transformer.h.3``). A module
    outside of all blocks is a block by itself.
    """
    if inner := list(_BLOCK.finditer(name)):
        return name[: inner[-1].end()]
    m = _LAYER.search(name) or _NUMBER.search(name)
    return name[: m.end()] if m else name


BlockOf = Callable[[str], str]
"""Name of a module → name of the block it is switched with."""

_REFUSED = {
    "ADALORA": "its ranks are allotted by the gradients of all layers in every step",
    "XLORA": "it calls its LoRA layers without asking whether they are on",
}


def tuner_layers(
    model: nn.Module, unit: str = "layer", block_of: BlockOf = block_of
) -> dict[str, tuple[Any, ...]]:
    """Group the tuner layers of a model into the units that are switched together.

    Heads and tokens that are trained beside the adapter (``modules_to_save``) are not units: they
    stay on.

    Args:
        model: The model that peft adapted.
        unit: "layer" to group by `block_of`, or "module" for each by itself.
        block_of: How modules are grouped, from their names.

    Returns:
        Name of a unit → its tuner layers, from the first layer to the last.

    Raises:
        ValueError: If there are none, the method cannot be taken apart, or a layer that is off
            would not show the base: the adapter is merged into it, moved it at the start (PiSSA
            and similar methods), or trained its biases.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    one_of("unit", unit, ("layer", "module"))
    _check_methods(model)
    out: dict[str, tuple[Any, ...]] = {}
    # Paths that others may lie in: of a head, and of a tuner layer (attention around its output).
    head = outer = ""
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            head = path
        elif isinstance(module, BaseTunerLayer) and not (head and path.startswith(f"{head}.")):
            outer = outer if outer and path.startswith(f"{outer}.") else path
            name = _WRAPPERS.sub("", outer)
            if module.merged:
                raise ValueError(f"the adapter at {name!r} is merged; call unmerge_adapter() first")
            key = name if unit == "module" else block_of(name)
            out[key] = (*out.get(key, ()), module)
    if not out:
        raise ValueError(
            f"{type(model).__name__} has no adapter layers (prompt tuning has none); make them "
            "with peft.get_peft_model"
        )
    return out


def _check_methods(model: nn.Module) -> None:
    """Raise ValueError if an adapter's layers cannot be switched one by one."""
    found = (getattr(m, "peft_config", None) for m in model.modules())
    for config in next((c for c in found if isinstance(c, dict)), {}).values():
        if config.is_prompt_learning:  # without layers
            continue
        if (kind := method(config.to_dict())) in _REFUSED:
            raise ValueError(f"{kind} cannot be switched off: {_REFUSED[kind]}; choose LoRA")
        if reason := off_is_not_base(config.to_dict()):
            raise ValueError(reason)


class Switches:
    """The units of `tuner_layers`, and which of them are on.

    When peft switches a layer, it also changes which parameters are trainable. That is undone, so
    that an optimiser made at any time sees them all.

    Args:
        model: The model that peft adapted.
        unit: "layer" or "module".
        block_of: How modules are grouped, from their names.

    Attributes:
        names: Names of the units, from the first layer to the last.
        units: The tuner layers of each.
    """

    def __init__(self, model: nn.Module, unit: str = "layer", block_of: BlockOf = block_of) -> None:
        units = tuner_layers(model, unit, block_of)
        self.model, self.names, self.units = model, tuple(units), tuple(units.values())

    def __len__(self) -> int:
        return len(self.names)

    @property
    def on(self) -> tuple[bool, ...]:
        """Whether each unit is on, in the order of `names`."""
        return tuple(not any(layer.disable_adapters for layer in unit) for unit in self.units)

    def set(self, on: Sequence[bool]) -> None:
        """Switch each unit on or off."""
        trainable = [(p, p.requires_grad) for p in self.model.parameters()]
        for unit, is_on in zip(self.units, on, strict=True):
            for layer in unit:
                if layer.disable_adapters == is_on:
                    layer.enable_adapters(bool(is_on))
        for p, was in trainable:
            p.requires_grad_(was)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Afterwards every unit is as it was, even after an exception."""
        before = self.on
        try:
            yield
        finally:
            self.set(before)

    def layers(self, on: Sequence[bool]) -> list[Any]:
        """The tuner layers of these units."""
        return [x for unit, is_on in zip(self.units, on, strict=True) if is_on for x in unit]

    def parameters(self, on: Sequence[bool]) -> list[nn.Parameter]:
        """The adapter's parameters in these units and no other; some methods share theirs."""
        inside, outside = (
            dict.fromkeys(p for layer in self.layers(units) for p in _parameters(layer))
            for units in (on, [not x for x in on])
        )
        return [p for p in inside if p not in outside]


def _parameters(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of a tuner layer, without those of the layer that it wraps."""
    return (p for name, p in layer.named_parameters() if not name.startswith("base_layer."))
