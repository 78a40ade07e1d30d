"""Any merge in fewer coordinates: in the directions that the adapters have (core space, KnOTS).

T adapters of rank r change a site within at most R = Σr input and R output directions. With
orthonormal bases U (out, p) and V (in, q) of them, p, q ≤ R, every ΔWₜ is U·Cₜ·Vᵀ with a small core
Cₜ (p, q), exactly. `in_core` merges the cores: whatever the merge, the result has rank R at most
and is saved as a LoRA. A dense ΔW (out, in) is never made.

For merges that do not depend on the basis (sums, SVDs, angles) this changes nothing but the cost.
Those that look at single entries (TIES, DARE, Breadcrumbs, …) see other entries: how much of each
direction, not of each weight.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import deltas_at, derived
from copra_lab.merging.registry import check
from copra_lab.merging.sparse import dare, ties
from copra_lab.merging.spectral import singular

__all__ = ["core_dare_ties", "core_ties", "in_core", "in_knots", "knots_dare_ties", "knots_ties"]

NEGLIGIBLE = 1e-5
"""Singular values below this share of the largest are those of directions that are not there."""

Merging = Callable[..., Adapter]
"""Adapters, and whatever the merge takes besides, to one."""


def in_core(merge: Merging) -> Merging:
    """A merge, in the core space of its adapters (Panariello et al., arXiv:2509.17786).

    At each site U is an orthonormal basis of the columns of [B₁ … B_T], V of the rows of the Aₜ,
    both by SVD; the merge gets Cₜ = UᵀΔWₜV and gives C, and the result is U·C·Vᵀ.

    The paper takes B and A as they are, which makes the bases, and with them TIES, depend on the
    gauge (see `copra_lab.merging.gauge`). Here the factors are first balanced, B = UΣ^½ and
    A = Σ^½Vᵀ by the singular values of each ΔW, so that only the deltas count.

    Args:
        merge: a function of adapters, and of anything else, that does not draw on the factors
            (not `average_factors`) or on data of the site's own coordinates (not `fisher`).

    Returns:
        The same function, in the core space: its results have at most the sum of the adapters'
        ranks. It raises ValueError for adapters of different bases or shapes, and as the merge.
    """
    return _elsewhere("in_core", merge, _core)


def in_knots(merge: Merging) -> Merging:
    """A merge, in the output directions of the adapters: KnOTS (Stoica et al., arXiv:2410.19735).

    With the SVD [ΔW₁ … ΔW_T] = U·S·[V₁ᵀ … V_Tᵀ] (out, T·in) at each site, the merge gets S·Vₜᵀ,
    that is UᵀΔWₜ (k, in), and its result is multiplied by U. A sum is the plain sum. The SVD is
    computed from the factors, and no dense matrix is made.

    Args:
        merge: as for `in_core`.

    Returns:
        The same function, in these coordinates, as for `in_core`.
    """
    return _elsewhere("in_knots", merge, _knots)


def bases(deltas: Sequence[LowRank]) -> tuple[Tensor, Tensor]:
    """Orthonormal bases of what several ΔW (out, in) put out and take in.

    Returns:
        U (out, p) and V (in, q), float64, with p and q at least 1.
    """
    halves = [(u * s.sqrt(), v * s.sqrt()) for u, s, v in map(singular, deltas)]
    u, v = (_basis(torch.cat([h[i] for h in halves], dim=1)) for i in (0, 1))
    return u, v


def cores(deltas: Sequence[LowRank], u: Tensor, v: Tensor) -> list[Tensor]:
    """UᵀΔWₜV of each, (p, q), float64."""
    return [d.scale * (u.T @ d.B.double()) @ (d.A.double() @ v) for d in deltas]


def _basis(x: Tensor) -> Tensor:
    u, s, _ = torch.linalg.svd(x, full_matrices=False)
    return u[:, : max(1, int((s > NEGLIGIBLE * s[0]).sum()))]


def _core(deltas: Sequence[LowRank]) -> tuple[Tensor, Tensor | None]:
    return bases(deltas)


def _knots(deltas: Sequence[LowRank]) -> tuple[Tensor, Tensor | None]:
    u, v = bases(deltas)
    return u @ _basis(torch.cat(cores(deltas, u, v), dim=1)), None


def _elsewhere(
    name: str, merge: Merging, frame: Callable[[Sequence[LowRank]], tuple[Tensor, Tensor | None]]
) -> Merging:
    """A merge in other coordinates: U and V by site, or U alone with the inputs as they are."""

    def merged(adapters: Sequence[Adapter], *args: Any, **settings: Any) -> Adapter:
        frames = {site: frame(members) for site, members in deltas_at(adapters).items()}
        inside = [_into(a, frames) for a in adapters]
        found = merge(inside, *args, **settings)
        deltas = {site: _back(d, *frames[site]) for site, d in found.deltas.items()}
        inner = dict(found.provenance)
        inner |= {"merge": inner.pop("made by", "none")} | settings
        inner.pop("of", None)
        return derived(name, deltas, adapters, **inner)

    return merged


def _into(adapter: Adapter, frames: Mapping[str, tuple[Tensor, Tensor | None]]) -> Adapter:
    deltas = {}
    for site, d in adapter.deltas.items():
        u, v = frames[site]
        a = d.A if v is None else (d.A.double() @ v).float()
        deltas[site] = replace(d, A=a, B=(u.T @ d.B.double()).float())
    return Adapter(deltas, adapter.base, adapter.provenance)


def _back(d: LowRank, u: Tensor, v: Tensor | None) -> LowRank:
    """U·ΔW·Vᵀ at rank p or q at most."""
    if d.rank > min(d.shape):
        wide = d.shape[1] > d.shape[0]
        eye = torch.eye(min(d.shape), dtype=d.A.dtype)
        d = LowRank(d.delta(), eye) if wide else LowRank(eye, d.delta())
    a = d.A if v is None else (d.A.double() @ v.T).float().contiguous()
    return replace(d, A=a, B=(u @ d.B.double()).float().contiguous())


def knots_ties(adapters: Sequence[Adapter], density: float = 0.2, scale: float = 1.0) -> Adapter:
    """`ties` by `in_knots`."""
    return in_knots(ties)(adapters, density=density, scale=scale)


def knots_dare_ties(
    adapters: Sequence[Adapter],
    rate: float = 0.8,
    density: float = 0.2,
    scale: float = 1.0,
    seed: int = 0,
) -> Adapter:
    """`dare` and then `ties`, by `in_knots`; the draws depend on the order of the adapters."""
    return in_knots(_dare_ties)(adapters, rate=rate, density=density, scale=scale, seed=seed)


def core_ties(adapters: Sequence[Adapter], density: float = 0.2, scale: float = 1.0) -> Adapter:
    """`ties` by `in_core`."""
    return in_core(ties)(adapters, density=density, scale=scale)


def core_dare_ties(
    adapters: Sequence[Adapter],
    rate: float = 0.8,
    density: float = 0.2,
    scale: float = 1.0,
    seed: int = 0,
) -> Adapter:
    """`dare` and then `ties`, by `in_core`; the draws depend on the order of the adapters."""
    return in_core(_dare_ties)(adapters, rate=rate, density=density, scale=scale, seed=seed)


def _dare_ties(
    adapters: Sequence[Adapter], rate: float, density: float, scale: float, seed: int
) -> Adapter:
    check("knots-dare-ties", rate=rate, density=density, scale=scale, seed=seed)
    g = torch.Generator().manual_seed(seed)
    return ties([dare(a, rate, g) for a in adapters], density, scale)
