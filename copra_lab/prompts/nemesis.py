"""Nemesis (Fu et al., ICLR 2024), which makes large norms of a soft prompt's vectors cost something in training.

The released code sums the norms of class-specific vectors over classes, so that the penalty grows with their number; here
they are averaged.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from copra_lab.prompts.soft_prompt import norms

__all__ = ["Nemesis", "omega", "pan", "pun"]

NORMS = (1, 2, math.inf)


def pun(context: Tensor, weight: float = 1.0, norm: float = 2) -> Tensor:
    """Position-uniform normalisation: A · mean_i ‖v_i‖, differentiable, a scalar."""
    return weight * norms(context, norm).mean()


def pan(context: Tensor, positions: Tensor, alpha: Tensor, norm: float = 2) -> Tensor:
    """Position-aware normalisation: Σ αᵢ‖vᵢ‖ over the sampled `positions` (N,) by how many αᵢ, ``alpha`` (N,), are not 0; 0 if all are."""
    return (alpha * norms(context, norm)[positions]).sum() / alpha.count_nonzero().clamp(min=1)


def omega(epoch: float, epochs: float) -> float:
    """ω(E) = 1 − 1 / (1 + exp(−0.2·(E − E_max/2))): near 1 at first, ½ in the middle, near 0 at the end of a long training."""
    return 1 - 1 / (1 + math.exp(-0.2 * (epoch - epochs / 2)))


@dataclass(frozen=True)
class Nemesis:
    """What is added to the loss of a soft prompt: ω(E)·(β·PUN + (1 − β)·PAN).

    ``beta`` β: 1 is PUN alone, 0 PAN alone. ``weight`` A ≥ 0 scales either, ``norm`` is 1, 2 or infinity. PAN tries ``samples`` N
    positions a step, each vector times ``tau`` τ (the paper leaves N and τ open), and makes those cost where the batch is then
    classified better. ``ramp``: "sigmoid", which is `omega`, or "one", ω = 1 throughout.

    Raises ValueError for settings that make no sense.
    """

    beta: float = 1.0
    weight: float = 1.0
    norm: float = 2
    tau: float = 0.5
    samples: int = 1
    ramp: str = "sigmoid"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must be from 0 (PAN) to 1 (PUN), got {self.beta!r}")
        if not 0 <= self.weight < math.inf or not math.isfinite(self.tau):
            raise ValueError(
                f"weight must be finite, 0 or more, and tau finite, got {self.weight!r} and {self.tau!r}"
            )
        if self.norm not in NORMS or self.ramp not in ("sigmoid", "one"):
            raise ValueError(
                f"norm must be 1, 2 or infinity and ramp 'sigmoid' or 'one', got {self.norm!r} and {self.ramp!r}"
            )
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {self.samples!r}")

    @property
    def method(self) -> str:
        """What tables call it: pun, pan or pun+pan."""
        return {1.0: "pun", 0.0: "pan"}.get(float(self.beta), "pun+pan")

    def loss(
        self,
        context: Tensor,
        epoch: float,
        epochs: float,
        now: int,
        hits: Callable[[Tensor], Tensor],
        g: torch.Generator,
    ) -> Tensor:
        """The penalty of (length, d) or (classes, length, d) at `epoch` of `epochs`. ``now``: how many images of the batch are classified
        rightly; ``hits``: contexts (m, …) → how many with each, (m,)."""
        total = context.new_zeros(())
        if self.beta > 0:
            total = total + self.beta * pun(context, self.weight, self.norm)
        if self.beta < 1:
            positions = torch.randperm(context.shape[-2], generator=g)[: self.samples]
            total = total + (1 - self.beta) * pan(
                context,
                positions,
                self.weight * self.better(context, positions, now, hits),
                self.norm,
            )
        return total * (omega(epoch, epochs) if self.ramp == "sigmoid" else 1.0)

    def better(
        self, context: Tensor, positions: Tensor, now: int, hits: Callable[[Tensor], Tensor]
    ) -> Tensor:
        """Whether the batch is classified better with the vector at each of `positions` (N,) times τ: 1 or 0, (N,)."""
        corrupted = context.detach().repeat(len(positions), *[1] * context.ndim)
        corrupted[torch.arange(len(positions)), ..., positions, :] *= self.tau
        return (hits(corrupted) > now).float()
