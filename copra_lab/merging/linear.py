"""Weighted sums of adapters: pure functions Adapter → Adapter.

Two things are called "averaging two LoRAs", and they differ. `weighted_sum` and `interpolate` work on the deltas ΔW =
s·B·A, exactly: the model moves on a straight line. `average_factors` and `interpolate_factors` average A and B by
themselves; the delta of the result is a product of averages, not the average of the products, and holds cross terms B₁A₂.

Sites that only some adapters have count as zero in the others.
"""

from collections.abc import Sequence

import torch

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import Weight, by_site, check, made

__all__ = [
    "SPACES",
    "average_factors",
    "interpolate",
    "interpolate_factors",
    "plane",
    "task_arithmetic",
    "weighted_sum",
]


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> Adapter:
    """The adapter whose delta at each site is Σ wᵢ·ΔWᵢ, exactly: ranks are stacked, B = [w₁s₁B₁ | w₂s₂B₂],
    A = [A₁; A₂]. An adapter of weight zero leaves no trace, and one adapter of weight one stays what it is.

    Raises ValueError for adapters of different bases or shapes, or for weights that do not match.
    """
    check(adapters, weights)
    deltas: dict[str, LowRank] = {}
    for name, members in by_site(adapters, weights).items():
        pairs = [(d, w) for d, w in members if w != 0]
        if len(pairs) == 1 and pairs[0][1] == 1.0:
            deltas[name] = pairs[0][0]
        elif pairs:
            deltas[name] = LowRank(
                torch.cat([d.A for d, _ in pairs]),
                torch.cat([w * d.scale * d.B for d, w in pairs], dim=1),
            )
    parts = [(a, w) for a, w in zip(adapters, weights, strict=True) if w != 0]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return Adapter(deltas, parts[0][0].base, parts[0][0].provenance)
    return made(
        "weighted_sum",
        deltas,
        [a for a, _ in parts] or adapters,
        weights=[w if isinstance(w, float | int) else dict(w) for _, w in parts],
    )


def interpolate(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """The point (1−λ)·ΔW_a + λ·ΔW_b on the line between two adapters, λ = `weight`; beyond 0 and 1 it extrapolates."""
    return weighted_sum([a, b], [1 - weight, weight])


def task_arithmetic(adapters: Sequence[Adapter], scale: float = 0.3) -> Adapter:
    """Σ scale·ΔWᵢ: adding what several tasks taught, or with a negative scale unlearning it (Ilharco et al.,
    arXiv:2212.04089; 0.3 is their choice for many tasks)."""
    return weighted_sum(adapters, [scale] * len(adapters))


def average_factors(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> Adapter:
    """A = Σ wᵢAᵢ and B = Σ wᵢBᵢ; by default the plain mean. Not the average of the deltas: see above. Scales that differ
    are first multiplied into B.

    Raises ValueError for adapters whose sites or ranks differ, since their factors do not line up.
    """
    weights = [1 / len(adapters)] * len(adapters) if weights is None else list(weights)
    check(adapters, weights)
    if any(set(a.deltas) != set(adapters[0].deltas) for a in adapters):
        raise ValueError(
            "factors can be averaged only of adapters with the same sites; interpolate the deltas instead"
        )
    deltas = {}
    for name, members in by_site(adapters, weights).items():
        if len({d.rank for d, _ in members}) > 1:
            raise ValueError(
                f"the factors at {name!r} have different ranks and cannot be averaged; truncate them to one rank, or interpolate the deltas"
            )
        scales = {d.scale for d, _ in members}
        scale = scales.pop() if len(scales) == 1 else 1.0
        pairs = [
            (d.A, d.B * (d.scale / scale) if d.scale != scale else d.B, w)
            for d, w in members
            if w != 0
        ] or [(torch.zeros_like(members[0][0].A), torch.zeros_like(members[0][0].B), 1.0)]
        a, b = (sum((p[i] if p[2] == 1.0 else p[2] * p[i]) for p in pairs) for i in (0, 1))
        deltas[name] = LowRank(torch.as_tensor(a), torch.as_tensor(b), scale)
    return made("average_factors", deltas, adapters, weights=weights)


def interpolate_factors(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """A = (1−λ)A_a + λA_b, B = (1−λ)B_a + λB_b: the line between two adapters in their parameters."""
    return average_factors([a, b], [1 - weight, weight])


SPACES = {"delta": interpolate, "factors": interpolate_factors}
"""What is mixed on the way from one adapter to another: ΔW, or A and B by themselves."""


def plane(a: Adapter, b: Adapter, c: Adapter, x: float, y: float) -> Adapter:
    """The point ΔW_a + x·(ΔW_b − ΔW_a) + y·(ΔW_c − ΔW_a) of the plane through three adapters."""
    return weighted_sum([a, b, c], [1 - x - y, x, y])
