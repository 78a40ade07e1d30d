"""CopRA for training loops of your own, on any model that peft has adapted. For transformers' Trainer see
`copra_lab.peft_models.trainer_callback`."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from copra_lab.peft_models.layers import BlockOf, Switches, block_of
from copra_lab.training.dropping import CopRA, Draw, Dropping, drawn

__all__ = ["Progressive"]


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
            raise ValueError(
                f"{type(self.dropping).__name__} drops inputs, not layers; set lora_dropout in peft's configuration instead"
            )
        if not any(what.on) and not self._more_learns:
            raise ValueError(
                f"no layer is on in step {step}, and nothing else learns; use CopRA(min_active=1)"
            )
        self._release()
        self.switches.set(what.on)
        self._drawn = what.on
        self._off = self.switches.parameters([not x for x in what.on])
        off = [
            layer
            for unit, is_on in zip(self.switches.units, what.on, strict=True)
            if not is_on
            for layer in unit
        ]
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
            if (
                not layer.disable_adapters
            ):  # peft's disable_adapter() switches everything on as it ends
                self.switches.set(
                    [x and y for x, y in zip(self.switches.on, self._drawn, strict=True)]
                )
        elif self.switches.on == self._drawn:  # else inside disable_adapter(), or all on
            self.all_on()

    def _too_late(self, layer: Any, _inputs: object) -> None:
        """Before a layer is called that was off in a step which is over."""
        if (
            torch._C._current_graph_task_id() != -1
        ):  # a backward pass is running, which computes the layer anew
            raise ValueError(
                "checkpointed layers are computed anew after their step, with all of them on; call backward() inside the step"
            )
        if layer.training:  # a training without steps goes on
            self._release()
