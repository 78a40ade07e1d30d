"""Merges that keep a part of the entries of ΔW: TIES, DARE and DELLA."""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, from_delta
from copra_lab.merging.common import by_site, check_finite, check_mergeable, deltas_at, derived
from copra_lab.merging.registry import check

__all__ = ["dare", "dare_sum", "della", "keep_largest", "magprune", "ties"]


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
    check_finite(adapters)
    trimmed = [keep_largest({n: d.delta() for n, d in a.deltas.items()}, density) for a in adapters]
    deltas = {}
    for name in by_site(adapters, [1.0] * len(adapters)):
        stack = torch.stack([t[name] for t in trimmed if name in t])
        deltas[name] = from_delta(scale * _mean_of_elected(stack))
    return derived("ties", deltas, adapters, density=density, scale=scale)


def elected(stack: Tensor) -> Tensor:
    """Which entries of several ΔW (T, out, in) are not zero and have the sign of their sum."""
    return (stack.sign() == stack.sum(0).sign()) & (stack != 0)


def _mean_of_elected(stack: Tensor) -> Tensor:
    agrees = elected(stack)
    return (stack * agrees).sum(0) / agrees.sum(0).clamp_min(1)


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


def dare_sum(
    adapters: Sequence[Adapter], rate: float = 0.8, scale: float = 0.3, seed: int = 0
) -> Adapter:
    """Task arithmetic of adapters to each of which `dare` was done, one after the other.

    The draws depend on the order of the adapters, so the result does, too. It is dense.

    Args:
        adapters: the adapters, of one base.
        rate: share of the entries that is dropped.
        scale: what each ΔW is multiplied by.
        seed: of the draws.

    Raises:
        ValueError: for a rate below 0 or not below 1, or adapters of different bases or shapes.
    """
    check("dare", rate=rate, scale=scale, seed=seed)
    deltas_at(adapters)
    g = torch.Generator().manual_seed(seed)
    dared = deltas_at([dare(a, rate, g) for a in adapters])
    deltas = {
        name: from_delta(scale * torch.stack([d.delta() for d in members]).sum(0))
        for name, members in dared.items()
    }
    return derived("dare_sum", deltas, adapters, rate=rate, scale=scale, seed=seed)


def magprune(
    adapter: Adapter, density: float, epsilon: float, generator: torch.Generator
) -> Adapter:
    """DELLA's dropping: an entry is the likelier to stay the larger it is (arXiv:2406.11617).

    In each row of ΔW, n entries are ranked by magnitude, k = 0 for the smallest. One stays with
    probability p = density − ε + 2ε·k/(n − 1) and is divided by p, so that ΔW stays the same on
    average. With ε = 0 this is `dare` at rate 1 − density, with the same draws. The result is
    dense.

    Args:
        adapter: the adapter.
        density: share of the entries that stay.
        epsilon: ε, by how much p differs from it at most.
        generator: source of the randomness.

    Raises:
        ValueError: where p would not be above 0 and at most 1.
    """
    check("della", density=density, epsilon=epsilon)
    if density - epsilon <= 0 or density + epsilon > 1:
        raise ValueError(
            f"density ± epsilon must be above 0 and at most 1, got {density!r} ± {epsilon!r}; "
            "take a smaller epsilon"
        )
    deltas = {}
    for name, d in adapter.deltas.items():
        delta = d.delta()
        place = delta.abs().argsort(dim=1, stable=True).argsort(dim=1)
        p = density + epsilon * (2 * place / max(1, delta.shape[1] - 1) - 1)
        kept = torch.rand(delta.shape, generator=generator) >= 1 - p
        deltas[name] = from_delta(delta * kept / p)
    return derived("magprune", deltas, [adapter], density=density, epsilon=epsilon)


def della(
    adapters: Sequence[Adapter],
    density: float = 0.7,
    epsilon: float = 0.1,
    scale: float = 1.0,
    seed: int = 0,
) -> Adapter:
    """DELLA: drop small entries more often, elect signs, and average what agrees.

    Deep et al., arXiv:2406.11617. Each adapter goes through `magprune`; then each entry gets the
    sign of the sum over adapters and becomes `scale` times the mean of the entries of this sign, as
    in `ties`. The draws depend on the order of the adapters, so the result does, too. It is dense.

    Args:
        adapters: the adapters, of one base.
        density: share of the entries that each adapter keeps, on average.
        epsilon: by how much an entry's probability to stay differs from it at most.
        scale: λ of the paper.
        seed: of the draws.

    Raises:
        ValueError: for parameters out of range, or adapters of different bases or shapes.
    """
    check("della", scale=scale, seed=seed)
    deltas_at(adapters)
    g = torch.Generator().manual_seed(seed)
    pruned = [magprune(a, density, epsilon, g) for a in adapters]
    deltas = {
        name: from_delta(scale * _mean_of_elected(torch.stack([d.delta() for d in members])))
        for name, members in deltas_at(pruned).items()
    }
    settings = {"density": density, "epsilon": epsilon, "scale": scale, "seed": seed}
    return derived("della", deltas, adapters, **settings)
