"""CopRA in transformers' Trainer, on any model that peft has adapted.

``Trainer(model=get_peft_model(base, config), …, callbacks=[CopRACallback()]).train()``
"""

from typing import Any

from transformers import PreTrainedModel, TrainerCallback

from copra_lab.peft_models.layers import BlockOf, block_of
from copra_lab.peft_models.progressive import Progressive
from copra_lab.training.dropping import CopRA, Dropping

__all__ = ["CopRACallback"]


class CopRACallback(TrainerCallback):
    """Progressive random layer dropping (see `copra_lab.peft_models.progressive.Progressive`) in transformers' Trainer.

    Layers are off between the start and the end of a step of the optimiser only, whatever number of batches it accumulates: evaluation,
    checkpoints and whatever follows see all of them. The draw depends on the seed and the number of the step, so that a
    training resumed from a checkpoint draws what an unbroken one would, and all processes draw the same.

    ``dropping``: `CopRA` or `StochasticDepth`, see `Progressive`. ``seed``: the Trainer's own by default. ``block_of``: how modules are
    grouped, from their names.

    Raises ValueError at the start of a training for a model or settings that it cannot drive, in one sentence that names the fix.
    """

    def __init__(
        self,
        dropping: Dropping = CopRA(min_active=1),  # noqa: B008 (frozen)
        seed: int | None = None,
        block_of: BlockOf = block_of,
    ):
        self.dropping, self.seed, self.block_of = dropping, seed, block_of
        self.drops: Progressive | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        _check(args, model)
        if self.drops:
            self.drops.all_on()  # an earlier training may have been interrupted in the middle of a step
        seed = args.seed if self.seed is None else self.seed
        self.drops = Progressive(model, state.max_steps, self.dropping, seed, self.block_of)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.drops
        self.drops.draw(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.drops
        self.drops.clear_gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        assert self.drops
        self.drops.all_on()


def _check(args: Any, model: Any) -> None:
    if args.deepspeed or args.fsdp:
        raise ValueError(
            "under DeepSpeed and FSDP a layer that is off has zeros for a gradient, and the optimiser moves it; train with plain data parallelism"
        )
    if args.world_size == 1:
        return
    functions = [
        m._gradient_checkpointing_func
        for m in model.modules()
        if getattr(m, "gradient_checkpointing", False)
    ]
    if any(getattr(f, "keywords", {}).get("use_reentrant", True) for f in functions):
        raise ValueError(
            "reentrant checkpointing hides from data-parallel training which layers are off; "
            'set gradient_checkpointing_kwargs={"use_reentrant": False}'
        )
    # transformers looks for unused parameters unless a model of its own is checkpointed.
    if args.ddp_find_unused_parameters is False or (
        args.ddp_find_unused_parameters is None and functions and isinstance(model, PreTrainedModel)
    ):
        raise ValueError(
            "layers that are off have no gradient; in data-parallel training set ddp_find_unused_parameters=True"
        )
