"""Merging adapters: pure functions Adapter → Adapter.

Two things are called "averaging two LoRAs", and they differ. `weighted_sum` and `interpolate` work on the deltas ΔW =
s·B·A, exactly: the model moves on a straight line. `average_factors` and `interpolate_factors` average A and B by
themselves; the delta of the result is a product of averages, not the average of the products, and holds cross terms B₁A₂.

Sites that only some adapters have count as zero in the others.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from copra_lab.lora import Adapter, LowRank
from copra_lab.sites import site_of

__all__ = [
    "Weight", "average_factors", "barrier", "dare", "highest_barrier", "interpolate", "interpolate_factors", "plane", "task_arithmetic", "ties", "truncate",
    "weighted_sum",
]  # fmt: skip

Weight = float | Mapping[int, float]
"""A number, or one a layer: layer → number, the same for both towers, 0 for a layer that is not named."""


def weighted_sum(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> Adapter:
    """The adapter whose delta at each site is Σ wᵢ·ΔWᵢ, exactly: ranks are stacked, B = [w₁s₁B₁ | w₂s₂B₂],
    A = [A₁; A₂]. An adapter of weight zero leaves no trace, and one adapter of weight one stays what it is.

    Raises ValueError for adapters of different bases or shapes, or for weights that do not match.
    """
    _check(adapters, weights)
    deltas: dict[str, LowRank] = {}
    for name, members in _by_site(adapters, weights).items():
        pairs = [(d, w) for d, w in members if w != 0]
        if len(pairs) == 1 and pairs[0][1] == 1.0:
            deltas[name] = pairs[0][0]
        elif pairs:
            deltas[name] = LowRank(torch.cat([d.A for d, _ in pairs]), torch.cat([w * d.scale * d.B for d, w in pairs], dim=1))
    parts = [(a, w) for a, w in zip(adapters, weights, strict=True) if w != 0]
    if len(parts) == 1 and parts[0][1] == 1.0:
        return Adapter(deltas, parts[0][0].base, parts[0][0].provenance)
    return made("weighted_sum", deltas, [a for a, _ in parts] or adapters, weights=[w if isinstance(w, float | int) else dict(w) for _, w in parts])


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
    _check(adapters, weights)
    if any(set(a.deltas) != set(adapters[0].deltas) for a in adapters):
        raise ValueError("factors can be averaged only of adapters with the same sites; interpolate the deltas instead")
    deltas = {}
    for name, members in _by_site(adapters, weights).items():
        if len({d.rank for d, _ in members}) > 1:
            raise ValueError(
                f"the factors at {name!r} have different ranks and cannot be averaged; truncate them to one rank, or interpolate the deltas"
            )
        scales = {d.scale for d, _ in members}
        scale = scales.pop() if len(scales) == 1 else 1.0
        pairs = [(d.A, d.B * (d.scale / scale) if d.scale != scale else d.B, w) for d, w in members if w != 0] or [
            (torch.zeros_like(members[0][0].A), torch.zeros_like(members[0][0].B), 1.0)
        ]
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


def ties(adapters: Sequence[Adapter], density: float = 0.2, scale: float = 1.0) -> Adapter:
    """TIES (Yadav et al., arXiv:2306.01708): of each adapter the share `density` of the entries of ΔW that are largest in
    magnitude, over all its sites; for each entry the sign that weighs more in their sum; the mean over those entries that
    have this sign, times `scale`. The result is dense. Raises ValueError for a density outside 0…1."""
    if not 0 < density <= 1:
        raise ValueError(f"density must be above 0 and at most 1, got {density!r}")
    _check(adapters, [scale] * len(adapters))
    trimmed = [keep_largest({n: d.delta() for n, d in a.deltas.items()}, density) for a in adapters]
    deltas = {}
    for name in _by_site(adapters, [1.0] * len(adapters)):
        stack = torch.stack([t[name] for t in trimmed if name in t])
        agrees = (stack.sign() == stack.sum(0).sign()) & (stack != 0)
        deltas[name] = from_delta(scale * (stack * agrees).sum(0) / agrees.sum(0).clamp_min(1))
    return made("ties", deltas, adapters, density=density, scale=scale)


def keep_largest(tensors: Mapping[str, Tensor], density: float) -> dict[str, Tensor]:
    """Of all entries of several tensors together, the share `density` of largest magnitude; the others zero."""
    if not tensors:
        return {}
    flat = torch.cat([t.flatten() for t in tensors.values()])
    at = flat.abs().topk(round(density * flat.numel())).indices
    kept = torch.zeros_like(flat)
    kept[at] = flat[at]
    parts = kept.split([t.numel() for t in tensors.values()])
    return {n: p.view_as(t) for (n, t), p in zip(tensors.items(), parts, strict=True)}


def dare(adapter: Adapter, rate: float, generator: torch.Generator) -> Adapter:
    """DARE (Yu et al., arXiv:2311.03099): each entry of ΔW dropped with probability `rate`, the others divided by
    1 − rate, so that the delta stays the same on average. The result is dense; merge it by any of the other functions.
    Raises ValueError for a rate outside 0 ≤ rate < 1."""
    if not 0 <= rate < 1:
        raise ValueError(f"rate must be at least 0 and below 1, got {rate!r}")
    deltas = {}
    for name, d in adapter.deltas.items():
        delta = d.delta()
        deltas[name] = from_delta(delta * (torch.rand(delta.shape, generator=generator) >= rate) / (1 - rate))
    return made("dare", deltas, [adapter], rate=rate)


def truncate(adapter: Adapter, rank: int) -> Adapter:
    """The closest adapter of at most `rank` at each site: the first singular vectors of ΔW (Eckart–Young). A site whose
    rank is no higher stays as it is. Raises ValueError for a rank below 1."""
    if not isinstance(rank, int) or rank < 1:
        raise ValueError(f"rank must be a whole number of at least 1, got {rank!r}")
    return made("truncate", {n: d if d.rank <= rank else _truncated(d, rank) for n, d in adapter.deltas.items()}, [adapter], rank=rank)


def _truncated(d: LowRank, rank: int) -> LowRank:
    # The singular values of B·A are those of the small product of their triangular factors.
    q_out, r_out = torch.linalg.qr(d.scale * d.B.double())
    q_in, r_in = torch.linalg.qr(d.A.double().T)
    u, s, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    root = s[:rank].sqrt()
    return LowRank((root[:, None] * (vh[:rank] @ q_in.T)).float(), (q_out @ u[:, :rank] * root).float())


def from_delta(delta: Tensor) -> LowRank:
    """A dense delta (out, in) as a pair of factors, exactly: one of them is the identity."""
    out, width = delta.shape
    return LowRank(torch.eye(width), delta) if width <= out else LowRank(delta, torch.eye(out))


def barrier(weights: Sequence[float], values: Sequence[float]) -> float:
    """How far a path falls below the straight line between its ends: max over λ of (1−λ)·v(0) + λ·v(1) − v(λ).

    `weights` must contain 0 and 1; points outside 0…1 do not count. Never negative, since the ends give 0.
    Entezari et al., arXiv:2110.06296 (of losses there). Frankle et al., arXiv:1912.05671, hold the path against the mean of its ends.
    """
    return highest_barrier(weights, values)[0]


def highest_barrier(weights: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """`barrier`, and the λ where it is; of equals the first given."""
    at = dict(zip(weights, values, strict=True))
    if 0.0 not in at or 1.0 not in at:
        raise ValueError("a barrier needs the values at λ = 0 and λ = 1")
    depths = {w: (1 - w) * at[0.0] + w * at[1.0] - v for w, v in at.items() if 0 <= w <= 1}
    where = max(depths, key=depths.__getitem__)
    return depths[where], where


def _check(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> None:
    if len(adapters) != len(weights) or not adapters:
        raise ValueError(f"expected one weight for each adapter, got {len(adapters)} adapters and {len(weights)} weights")
    numbers = [x for w in weights for x in (w.values() if isinstance(w, Mapping) else (w,))]
    if not all(torch.isfinite(torch.tensor(float(x))) for x in numbers):
        raise ValueError(f"weights must be finite numbers, got {list(weights)}")
    bases = {a.base for a in adapters if a.base}
    if len(bases) > 1:
        raise ValueError(f"adapters of different bases ({', '.join(sorted(bases))}) cannot be merged; train them on the same CLIP")


def _by_site(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> dict[str, list[tuple[LowRank, float]]]:
    """For each site of any adapter, the deltas there and their weights. Raises ValueError where shapes differ."""
    out: dict[str, list[tuple[LowRank, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, d in adapter.deltas.items():
            w = weight.get(site_of(name)[1], 0.0) if isinstance(weight, Mapping) else weight
            members = out.setdefault(name, [])
            if members and members[0][0].shape != d.shape:
                raise ValueError(f"site {name!r} has different shapes in these adapters; they belong to different architectures")
            members.append((d, float(w)))
    return out


_AGREED = ("clip", "task", "classes", "shots", "task seed", "task options")
"""What an adapter made of others still says, where they agree: the model that it is for, and the images that they have seen."""


def made(how: str, deltas: Mapping[str, LowRank], of: Iterable[Adapter], **more: Any) -> Adapter:
    """The adapter with these deltas, and how it came to be."""
    of = list(of)
    base = next((a.base for a in of if a.base), "")
    agreed = {k: of[0].provenance[k] for k in _AGREED if all(k in a.provenance and a.provenance[k] == of[0].provenance[k] for a in of)}
    return Adapter(deltas, base, {**agreed, "made by": how, "of": [a.hash for a in of], **more})
