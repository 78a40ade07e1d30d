"""What every merge shares: checks, deltas by site, and the provenance of the result."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.models.sites import site_of

Weight = float | Mapping[int, float]
"""A number, or one for each layer: layer → number, for both towers; 0 for a layer left out."""


def check_mergeable(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> None:
    """Raise ValueError unless there is one finite weight for each adapter, all of one base."""
    if len(adapters) != len(weights) or not adapters:
        counts = f"{len(adapters)} adapters and {len(weights)} weights"
        raise ValueError(f"expected one weight for each adapter, got {counts}")
    numbers = [x for w in weights for x in (w.values() if isinstance(w, Mapping) else (w,))]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"weights must be finite numbers, got {list(weights)}")
    bases = {a.base for a in adapters if a.base}
    if len(bases) > 1:
        raise ValueError(
            f"adapters of different bases ({', '.join(sorted(bases))}) cannot be merged; "
            "train them on the same CLIP"
        )


def by_site(
    adapters: Sequence[Adapter], weights: Sequence[Weight]
) -> dict[str, list[tuple[LowRank, float]]]:
    """For each site of any adapter, the deltas there and their weights.

    Raises:
        ValueError: where the deltas of a site have different shapes.
    """
    out: dict[str, list[tuple[LowRank, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, d in adapter.deltas.items():
            w = weight.get(site_of(name)[1], 0.0) if isinstance(weight, Mapping) else weight
            members = out.setdefault(name, [])
            if members and members[0][0].shape != d.shape:
                raise ValueError(
                    f"site {name!r} has different shapes in these adapters; "
                    "they belong to different architectures"
                )
            members.append((d, float(w)))
    return out


def deltas_at(adapters: Sequence[Adapter]) -> dict[str, list[LowRank]]:
    """For each site of any adapter, the delta of every adapter; zero where it has none.

    Raises:
        ValueError: for no adapters, ones of different bases or shapes, or numbers that are not
            finite.
    """
    if not adapters:
        raise ValueError("there is nothing to merge; give at least one adapter")
    check_mergeable(adapters, [1.0] * len(adapters))
    check_finite(adapters)
    return {
        name: [a.deltas.get(name) or nothing(*members[0][0].shape) for a in adapters]
        for name, members in by_site(adapters, [1.0] * len(adapters)).items()
    }


def check_finite(adapters: Sequence[Adapter]) -> None:
    """Raise ValueError for an adapter with a NaN or an infinity in it."""
    for i, a in enumerate(adapters):
        for name, d in a.deltas.items():
            if not (d.A.isfinite().all() and d.B.isfinite().all() and math.isfinite(d.scale)):
                raise ValueError(
                    f"adapter {i + 1} has numbers at {name!r} that are not finite; leave it out, "
                    "or train it again"
                )


def nothing(out: int, width: int) -> LowRank:
    """The delta zero, (out, width), of rank 1."""
    return LowRank(torch.zeros(1, width), torch.zeros(out, 1))


def stacked(terms: Sequence[tuple[LowRank, float]]) -> LowRank:
    """Σ wᵢΔWᵢ of a site, exactly: the ranks are stacked, B = [w₁s₁B₁ | w₂s₂B₂], A = [A₁; A₂]."""
    b = torch.cat([w * d.scale * d.B for d, w in terms], dim=1)
    return LowRank(torch.cat([d.A for d, _ in terms]), b)


def product(left: Tensor, right: Tensor) -> LowRank:
    """The delta left (out, k) · right (k, width), in float32."""
    return LowRank(right.float().contiguous(), left.float().contiguous())


def check_line_up(adapters: Sequence[Adapter]) -> None:
    """Raise ValueError unless all have the same sites with the same shapes and ranks.

    Only then do their factors pair up one with one.
    """
    if any(set(a.deltas) != set(adapters[0].deltas) for a in adapters):
        raise ValueError(
            "adapters of different sites have no average of factors; interpolate the deltas"
        )
    for name, members in by_site(adapters, [1.0] * len(adapters)).items():
        if len({d.rank for d, _ in members}) > 1:
            raise ValueError(f"different ranks at {name!r}; truncate, or interpolate the deltas")


_INHERITED = ("clip", "task", "classes", "shots", "task seed", "task options")
"""The provenance that a merge inherits where its adapters agree: the model, and the images seen."""


def derived(
    function: str, deltas: Mapping[str, LowRank], parents: Iterable[Adapter], **settings: Any
) -> Adapter:
    """An adapter made of others, with its provenance.

    Args:
        function: name of the function that made it.
        deltas: what it holds.
        parents: the adapters that it was made of.
        **settings: what else the function was told.
    """
    parents = list(parents)
    first = parents[0].provenance
    base = next((a.base for a in parents if a.base), "")
    inherited = {
        k: first[k]
        for k in _INHERITED
        if all(k in a.provenance and a.provenance[k] == first[k] for a in parents)
    }
    about = {**inherited, "made by": function, "of": [a.hash for a in parents], **settings}
    return Adapter(deltas, base, about)
