"""What the Low-Norm Effect is measured with: vectors of a soft prompt made shorter, or replaced by noise (Fu et al., ICLR 2024)."""

import math
from collections.abc import Iterable, Sequence

import torch

from copra_lab.prompts.soft_prompt import SoftPrompt

__all__ = ["replace", "rescale"]


def rescale(
    prompt: SoftPrompt, positions: "int | Iterable[int]", tau: "float | Sequence[float]"
) -> SoftPrompt:
    """RESCALE: the vectors at these positions, counted from 0, times τ, or each times its own; in a class-specific prompt those
    of every class.

    Raises ValueError for a position that the prompt does not have, a τ that is not finite, or not one for each position.
    """
    chosen = _positions(prompt, positions)
    taus = [float(tau)] * len(chosen) if isinstance(tau, int | float) else [float(t) for t in tau]
    if len(taus) != len(chosen) or not all(map(math.isfinite, taus)):
        raise ValueError(
            f"tau must be a finite number, or one for each of {len(chosen)} positions, got {tau!r}"
        )
    context = prompt.context.clone()
    context[..., chosen, :] *= torch.tensor(taus)[:, None]
    return prompt.with_context(
        context,
        **{
            "made by": "rescale",
            "positions": chosen,
            "tau": tau if isinstance(tau, int | float) else taus,
        },
    )


def replace(
    prompt: SoftPrompt, positions: "int | Iterable[int]", sigma: float, seed: int = 0
) -> SoftPrompt:
    """REPLACE: the vectors at these positions drawn anew, every number from a normal distribution of standard deviation σ; with
    σ = 0 they vanish, as with `rescale` by 0.

    Raises ValueError for a position that the prompt does not have, or a σ that is not finite or negative.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be a finite number, 0 or more, got {sigma!r}")
    chosen = sorted(_positions(prompt, positions))
    context = prompt.context.clone()
    context[..., chosen, :] = sigma * torch.randn(
        context[..., chosen, :].shape, generator=torch.Generator().manual_seed(seed)
    )
    return prompt.with_context(
        context, **{"made by": "replace", "positions": chosen, "sigma": sigma, "seed": seed}
    )


def _positions(prompt: SoftPrompt, positions: "int | Iterable[int]") -> list[int]:
    chosen = [positions] if isinstance(positions, int) else list(positions)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"each position can be named once, got {chosen}")
    if wrong := [i for i in chosen if not 0 <= i < prompt.length]:
        raise ValueError(
            f"position must be 0 to {prompt.length - 1}, the vectors of this prompt, got {wrong[0]}"
        )
    return chosen
