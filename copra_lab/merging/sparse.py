"""Merges that keep a part of the entries of ΔW: TIES and DARE."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, from_delta
from copra_lab.merging.common import by_site, check_mergeable, derived

__all__ = ["dare", "keep_largest", "ties"]


def ties(adapters: Sequence[Adapter], density: float = 0.2, scale: float = 1.0) -> Adapter:
    """TIES merging: trim, elect signs, and average what agrees (Yadav et al., arXiv:2306.01708).

    Of each adapter the entries of ΔW that are largest in magnitude are kept, over all its sites
    together. Each entry gets the sign of the sum over adapters, γ = sgn(Σ ΔWᵢ), and becomes
    `scale` times the mean of the entries of this sign. The result is dense.

    Args:
        adapters: the adapters, of one base.
        density: share of the entries that each adapter keeps, 0 < density ≤ 1.
        scale: λ of the paper.

    Raises:
        ValueError: for a density outside 0…1, or adapters of different bases or shapes.
    """
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
    check_mergeable(adapters, [scale] * len(adapters))
    trimmed = [keep_largest({n: d.delta() for n, d in a.deltas.items()}, density) for a in adapters]
    deltas = {}
    for name in by_site(adapters, [1.0] * len(adapters)):
        stack = torch.stack([t[name] for t in trimmed if name in t])
        agrees = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
        deltas[name] = from_delta(scale * (stack * agrees).sum(0) / agrees.sum(0).clamp_min(1))
    return derived("ties", deltas, adapters, density=density, scale=scale)


def keep_largest(tensors: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Keep the share `density` of the entries of several tensors that are largest in magnitude.

    They are ranked over all tensors together; the others become zero.
    """
    if not tensors:
        return {}
    flat = torch.cat([t.flatten() for t in tensors.values()])
    at = flat.abs().topk(round(density * flat.numel())).indices
    kept = torch.zeros_like(flat)
    kept[at] = flat[at]
    parts = kept.split([t.numel() for t in tensors.values()])
    return {n: p.view_as(t) for (n, t), p in zip(tensors.items(), parts, strict=True)}


def dare(adapter: Adapter, rate: float, generator: torch.Generator) -> Adapter:
    """DARE: drop entries of ΔW at random and rescale the others (Yu et al., arXiv:2311.03099).

    Each entry is dropped with probability p = `rate`, and the others are divided by 1 − p, so that
    ΔW stays the same on average. The result is dense; merge it by any of the other functions.

    Args:
        adapter: the adapter.
        rate: p, 0 ≤ p < 1.
        generator: source of the randomness.

    Raises:
        ValueError: for a rate outside these bounds.
    """
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, got {rate!r}")
    deltas = {}
    for name, d in adapter.deltas.items():
        delta = d.delta()
        kept = torch.rand(delta.shape, generator=generator) >= rate
        deltas[name] = from_delta(delta * kept / (1 - rate))
    return derived("dare", deltas, [adapter], rate=rate)
