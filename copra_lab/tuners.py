"""The adapter layers of any model that peft has adapted, switched on and off; and CopRA for loops that are not ours.

peft calls the modules that it puts around a base's own *tuner layers*: of LoRA, DoRA, LoHa, VeRA, RandLoRA, IA³ and some
thirty more methods. Each has ``enable_adapters``; one that is off shows the base. Here they are grouped by transformer
block, found from their names. For transformers' Trainer see `copra_lab.callback`.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from copra_lab.copra import CopRA, Draw, Dropping, drawn
from copra_lab.peft_config import method, off_is_not_base

__all__ = ["Progressive", "Switches", "block_of", "tuner_layers"]

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


def tuner_layers(model: nn.Module, unit: str = "layer", block_of: BlockOf = block_of) -> dict[str, tuple[Any, ...]]:
    """The tuner layers of `model` that are switched together, in order of depth. ``unit``: "layer", by `block_of`, or "module", each
    by itself. Heads and tokens that are trained beside the adapter (``modules_to_save``) are no units: they stay on.

    Raises ValueError where there are none, for a method that cannot be taken apart, and for an adapter whose "off" is not the
    base: one that is merged into it, that began by moving a part of it (PiSSA and its like), or that trained its biases.
    """
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    if unit not in ("layer", "module"):
        raise ValueError(f"unit must be 'layer' or 'module', got {unit!r}")
    configs = next((c for m in model.modules() if isinstance(c := getattr(m, "peft_config", None), dict)), {})
    for config in configs.values():
        if config.is_prompt_learning:
            continue  # which has no layers at all
        if (kind := method(config.to_dict())) in _REFUSED:
            raise ValueError(f"layers of {kind} cannot be switched one by one: {_REFUSED[kind]}; choose LoRA or another method with layers")
        if why := off_is_not_base(config.to_dict()):
            raise ValueError(why)
    out: dict[str, tuple[Any, ...]] = {}
    aside = outer = ""  # paths that others may be inside of: of a head, and of a tuner layer (attention around its output projection)
    for path, module in model.named_modules():
        if isinstance(module, AuxiliaryTrainingWrapper):
            aside = path
        elif isinstance(module, BaseTunerLayer) and not (aside and path.startswith(f"{aside}.")):
            outer = outer if outer and path.startswith(f"{outer}.") else path
            name = _WRAPPERS.sub("", outer)
            if module.merged:
                raise ValueError(f"the adapter is merged into the base at {name!r}; call unmerge_adapter() first")
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
            {p: None for unit, is_on in zip(self.units, on, strict=True) if is_on == side for layer in unit for p in _own(layer)}
            for side in (True, False)
        )
        return [p for p in inside if p not in outside]


def _own(layer: nn.Module) -> Iterator[nn.Parameter]:
    """Parameters of a tuner layer, without those of the layer that it wraps."""
    return (p for name, p in layer.named_parameters() if not name.startswith("base_layer."))


class Progressive:
    """Progressive random layer dropping (CopRA) on a model that peft has adapted, for any training loop::

        drops = Progressive(model, steps=1000)
        for step, batch in enumerate(batches):
            with drops.step(step):
                model(**batch).loss.backward()
                optimiser.step()
            optimiser.zero_grad()

    A step is one of the optimiser, of however many backward passes. The draw depends on `seed` and the number of the step
    alone, so that all processes of a data-parallel training agree, and a resumed one goes on as if it had not been
    interrupted. Data-parallel training needs ``find_unused_parameters=True``, since what is off has no gradient, and a
    compiled model is compiled anew for every set of layers. With activation checkpointing, which computes layers anew in the backward pass,
    that pass must run inside the step; data-parallel training needs ``use_reentrant=False`` for it besides.

    ``dropping``: `CopRA` or `StochasticDepth`. CopRA's own p = 0 at the start would leave a loss without any gradient, so one unit is on at
    least, as in the authors' code; with a head to train beside, ``CopRA()`` does as well.
    ``block_of``: how modules are grouped, from their names.

    A unit that is off shows the base, and its parameters have no gradient at all (None, not zeros), so that AdamW neither decays nor moves
    them. A forward pass in evaluation mode without gradients switches everything on, whenever it comes.

    Raises ValueError as `tuner_layers` does, and for a `dropping` with a rate of dropout, which peft's own configuration sets.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        dropping: Dropping = CopRA(min_active=1),  # noqa: B008 (frozen)
        seed: int = 0,
        block_of: BlockOf = block_of,
    ):
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.switches = Switches(model, dropping.unit, block_of)
        self.steps, self.dropping, self.seed = steps, dropping, seed
        adapters = set(self.switches.parameters([True] * len(self.switches)))
        self._more_learns = any(p.requires_grad and p not in adapters for p in model.parameters())
        self._drawn: tuple[bool, ...] = ()
        self._off: list[nn.Parameter] = []
        self._hooks: list[Any] = []
        self._checkpointed: set[Any] = set()
        """Layers that are off and were called without gradients in training: the first of two passes, as reentrant checkpointing makes."""
        self.all_on()

    @property
    def on(self) -> dict[str, bool]:
        """Which units are on now."""
        return dict(zip(self.switches.names, self.switches.on, strict=True))

    def draw(self, step: int) -> Draw:
        """Switch on what step number `step`, counted from 0, uses; asked again, the same. Raises ValueError where nothing at all would
        have a gradient."""
        what = drawn(self.dropping, len(self.switches), self.seed, step, self.steps)
        if what.dropout:
            raise ValueError(f"{type(self.dropping).__name__} drops inputs, not layers; set lora_dropout in peft's configuration instead")
        if not any(what.on) and not self._more_learns:
            raise ValueError(f"no layer is on in step {step}, and nothing else learns; use CopRA(min_active=1)")
        self._release()
        self.switches.set(what.on)
        self._drawn = what.on
        self._off = self.switches.parameters([not x for x in what.on])
        off = [layer for unit, is_on in zip(self.switches.units, what.on, strict=True) if not is_on for layer in unit]
        self._hooks = [layer.register_forward_pre_hook(self._before) for layer in off]
        self.clear_gradients()
        return what

    def clear_gradients(self) -> None:
        """Whatever gave a gradient to what is off (zeros that were left, a penalty on weights) takes it back. To be called before the
        optimiser's step, where something might."""
        for p in self._off:
            p.grad = None

    def all_on(self) -> None:
        """Every unit on, as in evaluation and after training."""
        self._release()
        self.switches.set([True] * len(self.switches))

    @contextmanager
    def step(self, step: int) -> Iterator[Draw]:
        """`draw`; afterwards every unit is on, after an exception too. Raises ValueError in a backward pass that comes after the step and
        computes its checkpointed layers anew."""
        try:
            yield self.draw(step)
        finally:
            late = self._checkpointed
            self.all_on()
            self._hooks = [layer.register_forward_pre_hook(self._too_late) for layer in late]

    def _release(self) -> None:
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._off, self._checkpointed = [], [], set()

    def _before(self, layer: Any, _inputs: object) -> None:
        """Before a layer that is off is called."""
        if layer.training or torch.is_grad_enabled():
            if not torch.is_grad_enabled():
                self._checkpointed.add(layer)
            if not layer.disable_adapters:  # peft's disable_adapter() switches everything on as it ends
                self.switches.set([x and y for x, y in zip(self.switches.on, self._drawn, strict=True)])
        elif self.switches.on == self._drawn:  # else inside disable_adapter(), or all on
            self.all_on()

    def _too_late(self, layer: Any, _inputs: object) -> None:
        """Before a layer is called that was off in a step which is over."""
        if torch._C._current_graph_task_id() != -1:  # a backward pass is running, which computes the layer anew
            raise ValueError("checkpointed layers are computed anew after their step, with all of them on; call backward() inside the step")
        if layer.training:  # a training without steps goes on
            self._release()
