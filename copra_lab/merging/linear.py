"""Weighted sums of adapters: pure functions Adapter → Adapter.

Three things are called "averaging two LoRAs", and they differ. `weighted_sum` and `interpolate`
work on the deltas ΔW = s·B·A, exactly: the model moves on a straight line. `average_factors` and
`interpolate_factors` average A and B separately; the delta of the result is a product of averages,
not the average of the products, and contains the cross terms B₁A₂. These are mostly noise, unless
the factors are aligned first (``aligned=True``, `interpolate_aligned`).

Sites that only some adapters have count as zero in the others.
"""

from collections.abc import Sequence

import torch

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import (
    Weight,
    by_site,
    check_line_up,
    check_mergeable,
    derived,
    stacked,
)
from copra_lab.merging.gauge import align_all

__all__ = [
    "SPACES",
    "average_factors",
    "interpolate",
    "interpolate_aligned",
    "interpolate_factors",
    "plane",
    "task_arithmetic",
    "weighted_sum",
]


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[Weight] | None = None) -> Adapter:
    """The adapter whose delta at each site is Σ wᵢ·ΔWᵢ, exactly.

    Ranks are stacked: B = [w₁s₁B₁ | w₂s₂B₂], A = [A₁; A₂]. An adapter of weight zero leaves no
    trace, and a single adapter of weight one stays as it is.

    Args:
        adapters: the adapters, of one base.
        weights: wᵢ, one for each: a number, or one for each layer; by default the plain mean.

    Raises:
        ValueError: for adapters of different bases or shapes, or for weights that do not match.
    """
    weights = [1 / max(1, len(adapters))] * len(adapters) if weights is None else weights
    check_mergeable(adapters, weights)
    deltas: dict[str, LowRank] = {}
    for name, members in by_site(adapters, weights).items():
        pairs = [(d, w) for d, w in members if w != 0]
        if len(pairs) == 1 and pairs[0][1] == 1.0:
            deltas[name] = pairs[0][0]
        elif pairs:
            deltas[name] = stacked(pairs)
    terms = [(a, w) for a, w in zip(adapters, weights, strict=True) if w != 0]
    if len(terms) == 1 and terms[0][1] == 1.0:
        return Adapter(deltas, terms[0][0].base, terms[0][0].provenance)
    used = [w if isinstance(w, float | int) else dict(w) for _, w in terms]
    return derived("weighted_sum", deltas, [a for a, _ in terms] or adapters, weights=used)


def interpolate(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """The point (1−λ)·ΔW_a + λ·ΔW_b on the line through two adapters.

    λ is `weight`: 0 gives `a`, 1 gives `b`, and values beyond extrapolate.
    """
    return weighted_sum([a, b], [1 - weight, weight])


def task_arithmetic(adapters: Sequence[Adapter], scale: float = 0.3) -> Adapter:
    """Task arithmetic, Σ scale·ΔWᵢ (Ilharco et al., arXiv:2212.04089).

    Adds what several tasks taught; a negative scale unlearns it. 0.3 is the paper's choice for many
    tasks.
    """
    return weighted_sum(adapters, [scale] * len(adapters))


def average_factors(
    adapters: Sequence[Adapter], weights: Sequence[float] | None = None, aligned: bool = False
) -> Adapter:
    """Average the factors, A = Σ wᵢAᵢ and B = Σ wᵢBᵢ: not the average of the deltas.

    Scales that differ are first multiplied into B. Without alignment, the result depends on the
    gauge that each adapter happened to end in (see `copra_lab.merging.gauge`).

    Args:
        adapters: the adapters, of one base.
        weights: wᵢ, one for each; by default the plain mean.
        aligned: bring the adapters into one gauge first, by `align_all`, which makes the result a
            function of their deltas alone. An adapter of weight zero takes no part, and a single
            one of weight one stays as it is.

    Raises:
        ValueError: for adapters whose sites or ranks differ, since their factors do not line up.
    """
    weights = [1 / max(1, len(adapters))] * len(adapters) if weights is None else list(weights)
    check_mergeable(adapters, weights)
    check_line_up(adapters)
    parts, shares = adapters, weights
    used = [(a, w) for a, w in zip(adapters, weights, strict=True) if w != 0]
    if aligned and used:
        parts, shares = [a for a, _ in used], [w for _, w in used]
        parts = align_all(parts, shares) if len(parts) > 1 else parts
    deltas = {}
    for name, members in by_site(parts, shares).items():
        scales = {d.scale for d, _ in members}
        scale = scales.pop() if len(scales) == 1 else 1.0
        pairs = [
            (d.A, d.B * (d.scale / scale) if d.scale != scale else d.B, w)
            for d, w in members
            if w != 0
        ] or [(torch.zeros_like(members[0][0].A), torch.zeros_like(members[0][0].B), 1.0)]
        a, b = (sum((p[i] if p[2] == 1.0 else p[2] * p[i]) for p in pairs) for i in (0, 1))
        deltas[name] = LowRank(torch.as_tensor(a), torch.as_tensor(b), scale)
    how = {"aligned": True} if aligned else {}
    return derived("average_factors", deltas, adapters, weights=weights, **how)


def interpolate_factors(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """The point A = (1−λ)·A_a + λ·A_b, B = (1−λ)·B_a + λ·B_b of the line through the factors."""
    return average_factors([a, b], [1 - weight, weight])


def interpolate_aligned(a: Adapter, b: Adapter, weight: float) -> Adapter:
    """The point at λ of the line through the factors, with `b` in the gauge closest to that of `a`.

    λ is `weight`: 0 gives `a` and 1 gives `b`, with the factors that they have. Between them and
    beyond, it is one straight line through the balanced factors (see `align_all`), whose ends have
    the same deltas.
    """
    return average_factors([a, b], [1 - weight, weight], aligned=True)


SPACES = {"delta": interpolate, "factors": interpolate_factors, "aligned": interpolate_aligned}
"""Ways from one adapter to another: in ΔW, in A and B separately, or in these after alignment."""


def plane(a: Adapter, b: Adapter, c: Adapter, x: float, y: float) -> Adapter:
    """The point ΔW_a + x·(ΔW_b − ΔW_a) + y·(ΔW_c − ΔW_a) of the plane through three adapters."""
    return weighted_sum([a, b, c], [1 - x - y, x, y])
