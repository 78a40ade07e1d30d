"""Merging adapters: pure functions Adapter → Adapter, exact in the deltas."""

from collections.abc import Mapping, Sequence

import torch

from copra_lab.lora import Adapter, LowRank


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[float]) -> Adapter:
    """The adapter whose delta at each site is Σ wᵢ·ΔWᵢ, exactly: ranks are stacked, B = [w₁s₁B₁ | w₂s₂B₂],
    A = [A₁; A₂]. An adapter of weight zero leaves no trace, and one adapter of weight one stays what it is.

    Sites that only some adapters have count as zero in the others. Raises ValueError for adapters of different bases
    or shapes, or for weights that do not match.
    """
    if len(adapters) != len(weights) or not adapters:
        raise ValueError(f"expected one weight for each adapter, got {len(adapters)} adapters and {len(weights)} weights")
    if not all(torch.isfinite(torch.tensor(float(w))) for w in weights):
        raise ValueError(f"weights must be finite numbers, got {list(weights)}")
    bases = {a.base for a in adapters if a.base}
    if len(bases) > 1:
        raise ValueError(f"adapters of different bases ({', '.join(sorted(bases))}) cannot be merged; train them on the same CLIP")
    parts = [(a, float(w)) for a, w in zip(adapters, weights, strict=True) if w != 0]
    sites = dict.fromkeys(n for a, _ in parts for n in a.deltas)
    deltas = {}
    for name in sites:
        pairs = [(a.deltas[name], w) for a, w in parts if name in a.deltas]
        if len({d.shape for d, _ in pairs}) > 1:
            raise ValueError(f"site {name!r} has different shapes in these adapters; they belong to different architectures")
        if len(pairs) == 1 and pairs[0][1] == 1.0:
            deltas[name] = pairs[0][0]
        else:
            deltas[name] = LowRank(torch.cat([d.A for d, _ in pairs]), torch.cat([w * d.scale * d.B for d, w in pairs], dim=1))
    provenance: Mapping = parts[0][0].provenance if len(parts) == 1 and parts[0][1] == 1.0 else {
        "made by": "weighted_sum", "of": [a.hash for a, _ in parts], "weights": [w for _, w in parts]
    }  # fmt: skip
    return Adapter(deltas, next(iter(bases), ""), provenance)


def interpolate(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """The point (1−λ)·ΔW_a + λ·ΔW_b on the line between two adapters, λ = `weight`; beyond 0 and 1 it extrapolates."""
    return weighted_sum([a, b], [1 - weight, weight])


def barrier(weights: Sequence[float], values: Sequence[float]) -> float:
    """How far a path falls below the straight line between its ends: max over λ of (1−λ)·v(0) + λ·v(1) − v(λ).

    `weights` must contain 0 and 1; points outside 0…1 do not count. Never negative, since the ends give 0.
    Frankle et al., arXiv:1912.05671.
    """
    at = dict(zip(weights, values, strict=True))
    if 0.0 not in at or 1.0 not in at:
        raise ValueError("a barrier needs the values at λ = 0 and λ = 1")
    return max((1 - w) * at[0.0] + w * at[1.0] - v for w, v in at.items() if 0 <= w <= 1)
