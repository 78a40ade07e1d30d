"""The adapter layers of any model that peft has adapted, switched on and off.

peft calls the modules that it puts around a base's own *tuner layers*: of LoRA, DoRA, LoHa, VeRA, RandLoRA, IA³ and some
thirty more methods. Each has ``enable_adapters``; one that is off shows the base. Here they are grouped by transformer
block, found from their names.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from torch import nn

from copra_lab.peft_models.config import method, off_is_not_base

__all__ = ["Switches", "block_of", "tuner_layers"]

_BLOCK = re.compile(r"(?:^|\.)\w*blocks?(?:\.\d+)+(?=\.)")
_LAYER = re.compile(r"(?:^|\.)\w*layers?(?:\.\d+)+(?=\.)")
_NUMBER = re.compile(r"\.\d+(?=\.)")
_WRAPPERS = re.compile(r"^(?:(?:_orig_mod|module|_fsdp_wrapped_module|base_model\.model)\.)+")
"""What torch.compile, data parallelism and peft put before a module's own name."""


def block_of(name: str) -> str:
    """The transformer block that a module belongs to, from its name: up to the number of the innermost ``block``
    (``swin.encoder.layers.0.blocks.1``, T5's ``encoder.block.0``), else of the outermost ``layer``
    (``bert.encoder.layer.3``, ``vision_model.encoder.layers.3``), else up to the first number (``transformer.h.3``). A module
    that is in no block is one by itself."""
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
    """The tuner layers of `model` that are switched together, in order of depth. ``unit``: "layer", by `block_of`, or "module", each
    by itself. Heads and tokens that are trained beside the adapter (``modules_to_save``) are no units: they stay on.

    Raises ValueError where there are none, for a method that cannot be taken apart, and for an adapter whose "off" is not the
    base: one that is merged into it, that began by moving a part of it (PiSSA and its like), or that trained its biases.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if unit not in ("layer", "module"):
        raise ValueError(f"unit must be 'layer' or 'module', got {unit!r}")
    configs = next(
        (c for m in model.modules() if isinstance(c := getattr(m, "peft_config", None), dict)), {}
    )
    for config in configs.values():
        if config.is_prompt_learning:
            continue  # which has no layers at all
        if (kind := method(config.to_dict())) in _REFUSED:
            raise ValueError(
                f"layers of {kind} cannot be switched one by one: {_REFUSED[kind]}; choose LoRA or another method with layers"
            )
        if why := off_is_not_base(config.to_dict()):
            raise ValueError(why)
    out: dict[str, tuple[Any, ...]] = {}
    aside = outer = (
        ""  # paths that others may be inside of: of a head, and of a tuner layer (attention around its output projection)
    )
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            aside = path
        elif isinstance(module, BaseTunerLayer) and not (aside and path.startswith(f"{aside}.")):
            outer = outer if outer and path.startswith(f"{outer}.") else path
            name = _WRAPPERS.sub("", outer)
            if module.merged:
                raise ValueError(
                    f"the adapter is merged into the base at {name!r}; call unmerge_adapter() first"
                )
            key = name if unit == "module" else block_of(name)
            out[key] = (*out.get(key, ()), module)
    if not out:
        raise ValueError(
            f"{type(model).__name__} has no adapter layers; make it with peft.get_peft_model and a method that has (prompt tuning has none)"
        )
    return out


class Switches:
    """The units of `tuner_layers`, and which of them are on. What peft changes beside that when it switches a layer, which
    parameters learn, is put back: an optimiser made at any time sees them all.

    ``names``: of the units, in order of depth.
    """

    def __init__(self, model: nn.Module, unit: str = "layer", block_of: BlockOf = block_of):
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
        learns = [(p, p.requires_grad) for p in self.model.parameters()]
        for unit, is_on in zip(self.units, on, strict=True):
            for layer in unit:
                if layer.disable_adapters == is_on:
                    layer.enable_adapters(bool(is_on))
        for p, did in learns:
            if p.requires_grad != did:
                p.requires_grad_(did)

    @contextmanager
    def kept(self) -> Iterator[None]:
        """Afterwards every unit is as it was, after an exception too."""
        before = self.on
        try:
            yield
        finally:
            self.set(before)

    def parameters(self, on: Sequence[bool]) -> list[nn.Parameter]:
        """The adapters' parameters in these units and in no other: some methods share theirs between layers."""
        inside, outside = (
            {
                p: None
                for unit, is_on in zip(self.units, on, strict=True)
                if is_on == side
                for layer in unit
                for p in _own(layer)
            }
            for side in (True, False)
        )
        return [p for p in inside if p not in outside]


def _own(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of a tuner layer, without those of the layer that it wraps."""
    return (p for name, p in layer.named_parameters() if not name.startswith("base_layer."))
