"""CopRA for your own training loop, on any model that peft has adapted.

For transformers' Trainer see `copra_lab.peft_models.trainer_callback`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from copra_lab.peft_models.layers import BlockOf, Switches, block_of
from copra_lab.training.dropping import CopRA, Draw, Dropping, drawn

__all__ = ["Progressive"]


class Progressive:
    """Progressive random layer dropping (CopRA) on a model that peft has adapted.

    It fits into any training loop::

        drops = Progressive(model, steps=1000)
        for step, batch in enumerate(batches):
            with drops.step(step):
                model(**batch).loss.backward()
                optimiser.step()
            optimiser.zero_grad()

    A step is one of the optimiser, with any number of backward passes. The draw depends only on the
    seed and the number of the step, so all processes of a data-parallel training agree, and a
    resumed training continues as if it had not been interrupted.

    A unit that is off shows the base, and its parameters have no gradient at all (None, not zeros),
    so AdamW neither decays nor moves them. A forward pass in evaluation mode without gradients
    switches everything on, whenever it comes.

    Data-parallel training needs ``find_unused_parameters=True``, because what is off has no
    gradient. A compiled model is recompiled for every set of layers. Activation checkpointing
    computes layers again in the backward pass, so that pass must be inside the step; data-parallel
    training also needs ``use_reentrant=False`` for it.

    Source: CopRA, arXiv:2410.22911.

    Args:
        model: The model that peft adapted.
        steps: How many steps the training has.
        dropping: `CopRA` or `StochasticDepth`. CopRA starts at p = 0, where the loss would have no
            gradient, so by default at least one unit is on, as in the authors' code. If a head is
            trained too, ``CopRA()`` also works.
        seed: Seed of the draws.
        block_of: How modules are grouped, from their names.

    Raises:
        ValueError: As `tuner_layers`, and if there are no steps.
    """

    def __init__(
        self,
        model: nn.Module,
        steps: int,
        dropping: Dropping = CopRA(min_active=1),  # noqa: B008 (frozen)
        seed: int = 0,
        block_of: BlockOf = block_of,
    ) -> None:
        if steps < 1:
            raise ValueError(f"steps must be at least 1, got {steps}")
        self.switches = Switches(model, dropping.unit, block_of)
        self.steps, self.dropping, self.seed = steps, dropping, seed
        adapters = set(self.switches.parameters([True] * len(self.switches)))
        self._others_learn = any(p.requires_grad and p not in adapters for p in model.parameters())
        self._drawn: tuple[bool, ...] = ()
        self._off: list[nn.Parameter] = []
        self._hooks: list[Any] = []
        self._checkpointed: set[Any] = set()
        """Layers that are off and were called in training without gradients: the first of the two
        passes that reentrant checkpointing makes."""
        self.all_on()

    @property
    def on(self) -> dict[str, bool]:
        """Name of each unit → whether it is on now."""
        return dict(zip(self.switches.names, self.switches.on, strict=True))

    def draw(self, step: int) -> Draw:
        """Switch on the units that a step uses; the same step always draws the same.

        Args:
            step: Number of the step, from 0.

        Raises:
            ValueError: If nothing at all would have a gradient, or `dropping` drops inputs.
        """
        what = drawn(self.dropping, len(self.switches), self.seed, step, self.steps)
        if what.dropout:
            kind = type(self.dropping).__name__
            raise ValueError(f"{kind} drops inputs, not layers; set lora_dropout in peft instead")
        if not any(what.on) and not self._others_learn:
            raise ValueError(f"nothing is on in step {step}; use CopRA(min_active=1)")
        self._release()
        self.switches.set(what.on)
        self._drawn = what.on
        off = [not x for x in what.on]
        self._off = self.switches.parameters(off)
        self._hooks = [
            layer.register_forward_pre_hook(self._before) for layer in self.switches.layers(off)
        ]
        self.clear_gradients()
        return what

    def clear_gradients(self) -> None:
        """Remove gradients from everything that is off.

        Call it before the optimiser's step if something may have put one there: zeros that were
        left, or a penalty on weights.
        """
        for p in self._off:
            p.grad = None

    def all_on(self) -> None:
        """Switch every unit on, as in evaluation and after training."""
        self._release()
        self.switches.set([True] * len(self.switches))

    @contextmanager
    def step(self, step: int) -> Iterator[Draw]:
        """`draw`; afterwards every unit is on, even after an exception.

        Raises:
            ValueError: As `draw`; and in a backward pass after the step, if it computes
                checkpointed layers again.
        """
        try:
            yield self.draw(step)
        finally:
            late = self._checkpointed
            self.all_on()
            self._hooks = [layer.register_forward_pre_hook(self._too_late) for layer in late]

    def _release(self) -> None:
        """Remove the hooks."""
        for hook in self._hooks:
            hook.remove()
        self._hooks, self._off, self._checkpointed = [], [], set()

    def _before(self, layer: Any, _inputs: object) -> None:
        """Runs before the forward pass of a layer that is off."""
        if layer.training or torch.is_grad_enabled():
            if not torch.is_grad_enabled():
                self._checkpointed.add(layer)
            if not layer.disable_adapters:  # peft's disable_adapter() switches all on as it ends
                pairs = zip(self.switches.on, self._drawn, strict=True)
                self.switches.set([x and y for x, y in pairs])
        elif self.switches.on == self._drawn:  # otherwise inside disable_adapter(), or all are on
            self.all_on()

    def _too_late(self, layer: Any, _inputs: object) -> None:
        """Runs before a layer that was off in a step that is over."""
        # A backward pass is running, which computes the layer again.
        if torch._C._current_graph_task_id() != -1:
            raise ValueError("checkpointed layers run again; call backward() inside the step")
        if layer.training:  # the training continues without steps
            self._release()
