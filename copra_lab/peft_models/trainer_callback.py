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
    """Progressive random layer dropping (`Progressive`) in transformers' Trainer.

    Layers are off only between the start and the end of a step of the optimiser, however many
    batches it accumulates: evaluation and checkpoints see all of them. The draw depends on the seed
    and the number of the step, so a training resumed from a checkpoint draws what an unbroken one
    would, and all processes draw the same.

    At the start of a training, raises ValueError for a model or settings that do not work with it.

    Args:
        dropping: `CopRA` or `StochasticDepth`, see `Progressive`.
        seed: Seed of the draws; by default the Trainer's.
        block_of: How modules are grouped, from their names.
    """

    def __init__(
        self,
        dropping: Dropping = CopRA(min_active=1),  # noqa: B008 (frozen)
        seed: int | None = None,
        block_of: BlockOf = block_of,
    ) -> None:
        self.dropping, self.seed, self.block_of = dropping, seed, block_of
        self.drops: Progressive | None = None

    def on_train_begin(
        self, args: Any, state: Any, control: Any, model: Any = None, **kwargs: Any
    ) -> None:
        """Check the settings, and find the layers."""
        _check(args, model)
        if self.drops:
            self.drops.all_on()  # an earlier training may have stopped in the middle of a step
        seed = args.seed if self.seed is None else self.seed
        self.drops = Progressive(model, state.max_steps, self.dropping, seed, self.block_of)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Draw the layers of this step."""
        assert self.drops
        self.drops.draw(state.global_step)

    def on_pre_optimizer_step(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Make sure that layers that are off do not move."""
        assert self.drops
        self.drops.clear_gradients()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        """Switch all layers on again."""
        assert self.drops
        self.drops.all_on()


def _check(args: Any, model: Any) -> None:
    """Raise ValueError for settings of the Trainer under which layers cannot be off."""
    if args.deepspeed or args.fsdp:
        raise ValueError(
            "DeepSpeed and FSDP move layers that are off; train with plain data parallelism"
        )
    if args.world_size == 1:
        return
    modules = (m for m in model.modules() if getattr(m, "gradient_checkpointing", False))
    functions = [m._gradient_checkpointing_func for m in modules]
    if any(getattr(f, "keywords", {}).get("use_reentrant", True) for f in functions):
        raise ValueError(
            "reentrant checkpointing hides which layers are off; "
            'set gradient_checkpointing_kwargs={"use_reentrant": False}'
        )
    # By default, transformers does not look for unused parameters if a model of its own is
    # checkpointed.
    find_unused = args.ddp_find_unused_parameters
    if find_unused is None:
        find_unused = not (functions and isinstance(model, PreTrainedModel))
    if not find_unused:
        raise ValueError(
            "layers that are off have no gradient; set ddp_find_unused_parameters=True"
        )
