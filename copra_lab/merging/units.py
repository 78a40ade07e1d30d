"""LoRA-LEGO: the ranks of all adapters as units that are clustered."""

from collections.abc import Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import deltas_at, derived, product
from copra_lab.merging.core_space import NEGLIGIBLE
from copra_lab.merging.registry import check
from copra_lab.merging.spectral import singular

__all__ = ["lego"]

ORTHOGONAL = 1e-4
"""Cosines nearer to 0 than this have no sign: units of one adapter are orthogonal."""

ROUNDS = 100
"""Rounds of k-means at most; a handful is usual."""


def lego(adapters: Sequence[Adapter], clusters: int | None = None) -> Adapter:
    """LoRA-LEGO: cluster the ranks of all adapters, and make each cluster one rank.

    After Zhao et al., arXiv:2409.16167. A unit is a column of B with its row of A. At each site the
    units of all adapters are clustered by k-means, and a cluster becomes one rank: the mean of its
    units, at the mean of their norms. With as many clusters as units the result is Σ ΔWₜ, exactly.

    The paper takes the units as training left them, so that its result depends on the gauge (see
    `copra_lab.merging.gauge`). Here they are the singular directions of ΔW, with √σ in both halves,
    and (b, a) and (−b, −a), the same unit, are at distance 0: a unit is averaged with the sign that
    is closer to the others, and one that is orthogonal to them, where neither is, with its largest
    number positive. What is left is the choice among directions of equal singular values. k-means
    begins with the largest unit and goes on with the one that is farthest from those chosen, so
    nothing is drawn.

    Args:
        adapters: the adapters, of one base.
        clusters: ranks of the result at each site; where there are fewer units, it has as many. By
            default the highest rank that an adapter has there.

    Raises:
        ValueError: for fewer clusters than 1, or adapters of different bases or shapes.
    """
    check("lego", clusters=clusters)
    deltas = {}
    for name, members in deltas_at(adapters).items():
        x = torch.cat([_units(d) for d in members], dim=1)
        k = clusters or max(d.rank for d in members)
        x = x if x.shape[1] <= k else _means(x, _clustered(x, k))
        out, width = members[0].shape
        x = x if x.shape[1] else torch.zeros(out + width, 1)  # no adapter has any size here
        deltas[name] = product(x[:out], x[out:].T)
    return derived("lego", deltas, adapters, clusters=clusters)


def _units(d: LowRank) -> Tensor:
    """UΣ^½ over VΣ^½ of the directions that ΔW has, (out + in, r), float64."""
    u, s, v = singular(d)
    has = (s > NEGLIGIBLE * s[0]) & (s > 0)
    x = torch.cat([u[:, has], v[:, has]]) * s[has].sqrt()
    largest = x.gather(0, x.abs().argmax(0, keepdim=True)) if x.shape[1] else x
    return x * largest.sign()


def _clustered(x: Tensor, k: int) -> Tensor:
    """For each unit ±x the number of its cluster, (n,): k-means over lines through zero."""
    chosen = [int(x.norm(dim=0).argmax())]
    while len(chosen) < k:
        chosen.append(int(_distances(x, x[:, chosen]).amin(1).argmax()))
    centres, before = x[:, chosen], torch.empty(0)
    for _ in range(ROUNDS):
        nearest = _distances(x, centres).argmin(1)
        if torch.equal(nearest, before):
            break
        before = nearest
        for i in nearest.unique().tolist():
            members = x[:, nearest == i]
            centres[:, i] = (members * _signs(members, centres[:, i])).mean(1)
    return before


def _means(x: Tensor, cluster: Tensor) -> Tensor:
    """The mean of each cluster at the mean norm of its units, (out + in, clusters)."""
    out = []
    for i in cluster.unique().tolist():
        members = x[:, cluster == i]
        mean = (members * _signs(members, members[:, members.norm(dim=0).argmax()])).mean(1)
        norm = mean.norm()
        out.append(mean * (members.norm(dim=0).mean() / norm) if norm > 0 else mean)
    return torch.stack(out, dim=1)


def _signs(x: Tensor, to: Tensor) -> Tensor:
    cosines = x.T @ to / (x.norm(dim=0) * to.norm()).clamp_min(1e-300)
    return torch.where(cosines < -ORTHOGONAL, -1.0, 1.0).double()


def _distances(x: Tensor, centres: Tensor) -> Tensor:
    """‖x ∓ c‖², whichever is less, (n, k)."""
    squares = x.square().sum(0)[:, None] + centres.square().sum(0)
    return (squares - 2 * (x.T @ centres).abs()).clamp_min(0)
