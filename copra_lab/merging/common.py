"""What every merge shares: checks, deltas by site, and the provenance of the result."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import torch

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.models.sites import site_of

Weight = float | Mapping[int, float]
"""A number, or one a layer: layer → number, the same for both towers, 0 for a layer that is not named."""


def check(adapters: Sequence[Adapter], weights: Sequence[Weight]) -> None:
    if len(adapters) != len(weights) or not adapters:
        raise ValueError(
            f"expected one weight for each adapter, got {len(adapters)} adapters and {len(weights)} weights"
        )
    numbers = [x for w in weights for x in (w.values() if isinstance(w, Mapping) else (w,))]
    if not all(torch.isfinite(torch.tensor(float(x))) for x in numbers):
        raise ValueError(f"weights must be finite numbers, got {list(weights)}")
    bases = {a.base for a in adapters if a.base}
    if len(bases) > 1:
        raise ValueError(
            f"adapters of different bases ({', '.join(sorted(bases))}) cannot be merged; train them on the same CLIP"
        )


def by_site(
    adapters: Sequence[Adapter], weights: Sequence[Weight]
) -> dict[str, list[tuple[LowRank, float]]]:
    """For each site of any adapter, the deltas there and their weights. Raises ValueError where shapes differ."""
    out: dict[str, list[tuple[LowRank, float]]] = {}
    for adapter, weight in zip(adapters, weights, strict=True):
        for name, d in adapter.deltas.items():
            w = weight.get(site_of(name)[1], 0.0) if isinstance(weight, Mapping) else weight
            members = out.setdefault(name, [])
            if members and members[0][0].shape != d.shape:
                raise ValueError(
                    f"site {name!r} has different shapes in these adapters; they belong to different architectures"
                )
            members.append((d, float(w)))
    return out


_AGREED = ("clip", "task", "classes", "shots", "task seed", "task options")
"""What an adapter made of others still says, where they agree: the model that it is for, and the images that they have seen."""


def made(how: str, deltas: Mapping[str, LowRank], of: Iterable[Adapter], **more: Any) -> Adapter:
    """The adapter with these deltas, and how it came to be."""
    of = list(of)
    base = next((a.base for a in of if a.base), "")
    agreed = {
        k: of[0].provenance[k]
        for k in _AGREED
        if all(k in a.provenance and a.provenance[k] == of[0].provenance[k] for a in of)
    }
    return Adapter(deltas, base, {**agreed, "made by": how, "of": [a.hash for a in of], **more})
