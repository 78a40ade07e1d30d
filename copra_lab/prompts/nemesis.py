"""Nemesis (Fu et al., ICLR 2024): penalties on the norms of a soft prompt's vectors.

The released code sums the norms of class-specific vectors over classes, so that the penalty grows
with their number; here they are averaged.
"""

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from copra_lab.prompts.soft_prompt import norms
from copra_lab.utils.checks import one_of, whole_number

__all__ = ["Nemesis", "omega", "pan", "pun"]

NORMS = (1, 2, math.inf)


def pun(context: Tensor, weight: float = 1.0, norm: float = 2) -> Tensor:
    """Position-uniform normalisation, PUN = A · meanᵢ ‖vᵢ‖, a differentiable scalar.

    Args:
        context: vectors vᵢ, (length, d) or (classes, length, d).
        weight: A.
        norm: p of the p-norm.
    """
    return weight * norms(context, norm).mean()


def pan(context: Tensor, positions: Tensor, alpha: Tensor, norm: float = 2) -> Tensor:
    """Position-aware normalisation, PAN = Σ αᵢ‖vᵢ‖ / #{αᵢ ≠ 0}, a differentiable scalar.

    Args:
        context: vectors vᵢ, (length, d) or (classes, length, d).
        positions: the sampled positions i, (N,).
        alpha: αᵢ of each, (N,); if all are 0, so is PAN.
        norm: p of the p-norm.
    """
    return (alpha * norms(context, norm)[positions]).sum() / alpha.count_nonzero().clamp(min=1)


def omega(epoch: float, epochs: float) -> float:
    """The weight of the penalty, ω(E) = 1 − 1 / (1 + exp(−0.2·(E − E_max/2))).

    In a long training it is near 1 at first, ½ in the middle, and near 0 at the end.
    """
    return 1 - 1 / (1 + math.exp(-0.2 * (epoch - epochs / 2)))


@dataclass(frozen=True)
class Nemesis:
    """The penalty added to the loss of a soft prompt: ω(E)·(β·PUN + (1 − β)·PAN).

    PAN tries N positions in each step: where the batch is classified better with the vector
    multiplied by τ, αᵢ = A, elsewhere 0. The paper leaves N and τ open.

    Attributes:
        beta: β; 1 is PUN alone, 0 PAN alone.
        weight: A ≥ 0, which scales both.
        norm: p of the p-norm: 1, 2 or infinity.
        tau: τ.
        samples: N.
        ramp: "sigmoid", which is `omega`, or "one", ω = 1 throughout.

    Raises:
        ValueError: for settings out of these bounds.
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
            got = f"{self.weight!r} and {self.tau!r}"
            raise ValueError(f"weight must be finite, 0 or more, and tau finite, got {got}")
        if self.norm not in NORMS:
            raise ValueError(f"norm must be 1, 2 or infinity, got {self.norm!r}")
        one_of("ramp", self.ramp, ("sigmoid", "one"))
        whole_number("samples", self.samples)

    @property
    def method(self) -> str:
        """Its name in tables: pun, pan or pun+pan."""
        return {1.0: "pun", 0.0: "pan"}.get(float(self.beta), "pun+pan")

    def tries(self, length: int, g: torch.Generator) -> Tensor:
        """The positions that PAN tries in one step, (N,); none for PUN alone.

        Args:
            length: number of vectors.
            g: source of the positions.
        """
        samples = self.samples if self.beta < 1 else 0
        return torch.randperm(length, generator=g)[:samples]

    def corrupted(self, context: Tensor, positions: Tensor) -> Tensor:
        """The vectors with one of them multiplied by τ, for each position: (N, …), no gradient.

        Args:
            context: the vectors, (length, d) or (classes, length, d).
            positions: which of them, one by one, (N,).
        """
        found = context.detach().repeat(len(positions), *[1] * context.ndim)
        found[torch.arange(len(positions)), ..., positions, :] *= self.tau
        return found

    def loss(
        self, context: Tensor, epoch: float, epochs: float, positions: Tensor, better: Tensor
    ) -> Tensor:
        """The penalty of one training step, a differentiable scalar.

        Args:
            context: the vectors, (length, d) or (classes, length, d).
            epoch: E.
            epochs: E_max.
            positions: those of `tries`, (N,).
            better: whether the batch is classified better with each of `corrupted`, (N,).
        """
        total = context.new_zeros(())
        if self.beta > 0:
            total = total + self.beta * pun(context, self.weight, self.norm)
        if self.beta < 1:
            alpha = self.weight * better.to(context.dtype)
            total = total + (1 - self.beta) * pan(context, positions, alpha, self.norm)
        return total * (omega(epoch, epochs) if self.ramp == "sigmoid" else 1.0)
