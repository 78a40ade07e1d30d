"""Merges by the angles between adapters: SLERP and Model Stock.

Both are weighted sums, whose weights at a site depend on the ΔW there. Angles are computed from the
factors, since ⟨ΔW₁, ΔW₂⟩ = s₁s₂·tr(B₁ᵀB₂·A₂A₁ᵀ): a dense ΔW is never made, and ranks are stacked.
"""

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import deltas_at, derived, stacked
from copra_lab.merging.registry import check

__all__ = ["model_stock", "slerp"]

PARALLEL = 1e-6
"""Sines of angles below this are those of one line."""


def slerp(adapters: Sequence[Adapter], weight: float = 0.5, whole: bool = False) -> Adapter:
    """Spherical interpolation of two ΔW: along the great circle between their directions.

    Shoemake, "Animating rotation with quaternion curves", 1985. With the angle Ω between ΔW₁ and
    ΔW₂ and û = ΔW/‖ΔW‖,

        M = n·[sin((1 − λ)Ω)·û₁ + sin(λΩ)·û₂] / sin Ω,   n = (1 − λ)‖ΔW₁‖ + λ‖ΔW₂‖.

    So M keeps the norm that `interpolate` loses between directions that differ. It is a curve in
    ΔW; other tools walk it between whole weights W + ΔW, where Ω is nearly 0 and the curve a line.
    Where the two have one direction, or one of them has no size, it is the line.

    Args:
        adapters: two adapters of one base.
        weight: λ from the first to the second.
        whole: one angle and norm for the whole model, not one for each site.

    Raises:
        ValueError: for another number of adapters or a weight outside 0…1, for adapters of
            different bases or shapes, or for opposite directions, between which there are many
            great circles.
    """
    check("slerp", weight=weight, whole=whole)
    if len(adapters) != 2:
        raise ValueError(
            f"SLERP is between two adapters, got {len(adapters)}; merge two and then the next, or "
            "take another merge"
        )
    members = deltas_at(adapters)
    grams = {name: _gram(pair) for name, pair in members.items()}
    if whole and grams:
        grams = dict.fromkeys(grams, torch.stack(list(grams.values())).sum(0))
    deltas = {}
    for name, pair in members.items():
        shares = _on_the_circle(grams[name], weight, "the model" if whole else repr(name))
        deltas[name] = _sum(pair, shares)
    return derived("slerp", deltas, adapters, weight=weight, whole=whole)


def _on_the_circle(gram: Tensor, weight: float, where: str) -> tuple[float, float]:
    """What ΔW₁ and ΔW₂ are multiplied by."""
    a, b = (math.sqrt(max(0.0, float(gram[i, i]))) for i in (0, 1))
    cos = float(gram[0, 1]) / (a * b) if a * b else 1.0
    angle = math.acos(min(1.0, max(-1.0, cos)))
    if math.sin(angle) < PARALLEL:
        if cos < 0:
            raise ValueError(
                f"the two adapters have opposite directions at {where}, between which there is no "
                "one great circle; interpolate the deltas"
            )
        return 1 - weight, weight
    norm = (1 - weight) * a + weight * b
    one, two = (norm * math.sin(w * angle) / math.sin(angle) for w in (1 - weight, weight))
    return one / a, two / b


def model_stock(adapters: Sequence[Adapter]) -> Adapter:
    """Model Stock: the mean, shortened by how little the adapters agree (Jang et al.).

    arXiv:2403.19522. At each site, with the mean c of cos(ΔWᵢ, ΔWⱼ) over pairs of k adapters,

        M = ρ·(1/k)Σ ΔWᵢ,   ρ = k·c / ((k − 1)·c + 1).

    Adapters that agree (c = 1) become their mean, and unrelated ones (c = 0) the base. The formula
    assumes ΔW of one norm that come from one task and differ by chance; a c below 0 counts as 0.

    Args:
        adapters: the adapters, of one base. A single one stays as it is.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    deltas, k = {}, len(adapters)
    for name, members in deltas_at(adapters).items():
        gram = _gram(members)
        norms = gram.diagonal().clamp_min(0).sqrt()
        unit = torch.where(norms > 0, norms, 1)
        cosines = gram / unit / unit[:, None]
        pairs = k * (k - 1)
        c = float(cosines.sum() - cosines.diagonal().sum()) / pairs if pairs else 1.0
        c = min(1.0, max(0.0, c))
        deltas[name] = _sum(members, [c / ((k - 1) * c + 1)] * k)
    return derived("model_stock", deltas, adapters)


def _gram(members: Sequence[LowRank]) -> Tensor:
    """⟨ΔWᵢ, ΔWⱼ⟩ for all pairs, (T, T), float64."""
    bs = [d.scale * d.B.double() for d in members]
    ranks = [d.A.double() for d in members]
    gram = [
        [((b.T @ c) * (a @ e.T)).sum() for c, e in zip(bs, ranks, strict=True)]
        for b, a in zip(bs, ranks, strict=True)
    ]
    return torch.tensor(gram, dtype=torch.float64)


def _sum(members: Sequence[LowRank], weights: Sequence[float]) -> LowRank:
    """Σ wᵢΔWᵢ; what has weight zero leaves no rank, unless nothing else is there."""
    terms = [(d, w) for d, w in zip(members, weights, strict=True) if w != 0]
    return stacked(terms or [(members[0], 0.0)])
