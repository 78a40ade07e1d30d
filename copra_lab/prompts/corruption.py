"""Corrupting a soft prompt: vectors rescaled, or replaced by noise (Fu et al., ICLR 2024)."""

import math
from collections.abc import Iterable, Sequence

import torch

from copra_lab.prompts.soft_prompt import SoftPrompt

__all__ = ["replace", "rescale"]


def rescale(
    prompt: SoftPrompt, positions: "int | Iterable[int]", tau: "float | Sequence[float]"
) -> SoftPrompt:
    """RESCALE: multiply the vectors at some positions by τ.

    Args:
        prompt: the soft prompt; of a class-specific one the vectors of every class.
        positions: one or several, counted from 0.
        tau: τ, or one for each position.

    Raises:
        ValueError: for a position that the prompt does not have, a τ that is not finite, or not one
            for each position.
    """
    chosen = _positions(prompt, positions)
    taus = [float(tau)] * len(chosen) if isinstance(tau, int | float) else [float(t) for t in tau]
    if len(taus) != len(chosen) or not all(map(math.isfinite, taus)):
        raise ValueError(
            f"tau must be a finite number, or one for each of {len(chosen)} positions, got {tau!r}"
        )
    context = prompt.context.clone()
    context[..., chosen, :] *= torch.tensor(taus)[:, None]
    told = tau if isinstance(tau, int | float) else taus
    about = {"made by": "rescale", "positions": chosen, "tau": told}
    return prompt.with_context(context, **about)


def replace(
    prompt: SoftPrompt, positions: "int | Iterable[int]", sigma: float, seed: int = 0
) -> SoftPrompt:
    """REPLACE: draw the vectors at some positions anew from Normal(0, σ²).

    With σ = 0 they vanish, as with `rescale` by 0.

    Args:
        prompt: the soft prompt; of a class-specific one the vectors of every class.
        positions: one or several, counted from 0.
        sigma: σ, a standard deviation.
        seed: of the noise.

    Raises:
        ValueError: for a position that the prompt does not have, or a σ that is negative or not
            finite.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be a finite number, 0 or more, got {sigma!r}")
    chosen = sorted(_positions(prompt, positions))
    context = prompt.context.clone()
    noise = torch.Generator().manual_seed(seed)
    context[..., chosen, :] = sigma * torch.randn(context[..., chosen, :].shape, generator=noise)
    about = {"made by": "replace", "positions": chosen, "sigma": sigma, "seed": seed}
    return prompt.with_context(context, **about)


def _positions(prompt: SoftPrompt, positions: "int | Iterable[int]") -> list[int]:
    """The positions as a list, checked."""
    chosen = [positions] if isinstance(positions, int) else list(positions)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"each position can be named once, got {chosen}")
    if wrong := [i for i in chosen if not 0 <= i < prompt.length]:
        raise ValueError(
            f"position must be 0 to {prompt.length - 1}, the vectors of this prompt, got {wrong[0]}"
        )
    return chosen
