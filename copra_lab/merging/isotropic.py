"""Merges of singular values and vectors: TSV-M, Iso-C, Iso-CTS and CART.

All are done in the core space (see `copra_lab.merging.core_space`), which for them is exact: an SVD
turns with its basis. So they cost SVDs of R × R, and the result is a LoRA of at most R = Σr ranks.

They were made for full fine-tuning, where ΔW has full rank. A sum of LoRAs has rank R at most, and
numerical SVDs fill the other dimensions with arbitrary vectors, which a merge that makes all
singular values equal would blow up. Here the directions that the sum has are all there is.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter
from copra_lab.merging.common import deltas_at, derived, product
from copra_lab.merging.core_space import NEGLIGIBLE, bases, cores
from copra_lab.merging.registry import check

__all__ = ["cart", "iso_c", "iso_cts", "tsv_m"]


def tsv_m(adapters: Sequence[Adapter], scale: float = 1.0) -> Adapter:
    """TSV-M: the singular vectors of all tasks, made orthogonal.

    Gargiulo et al., arXiv:2412.00081. With ΔWₜ = UₜSₜVₜᵀ, U = [U₁ … U_T], S and V alike,
    M = scale·U⊥·S·V⊥ᵀ, where U⊥ is the closest matrix with orthonormal columns: PQᵀ of the SVD
    U = PΣQᵀ.

    The paper keeps ⌊d/T⌋ singular vectors of each task, d being the smaller side of the matrix; so
    does this where the ranks together exceed d, and otherwise it keeps them all. Where columns of
    U are linearly dependent, as for copies of one adapter, there is no such matrix, and PQᵀ without
    the directions that are not there takes its place; adapters that are nearly copies are merged
    quite differently, since their small difference then counts as a direction.

    Args:
        adapters: the adapters, of one base.
        scale: α of the paper.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    check("tsv-m", scale=scale)

    def merge(parts: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        found = [_svd(c) for c in parts]
        if sum(len(s) for _, s, _ in found) > min(shape):
            k = min(shape) // len(parts)
            found = [(u[:, :k], s[:k], v[:, :k]) for u, s, v in found]
        u, s, v = (torch.cat([f[i] for f in found], dim=-1) for i in range(3))
        return scale * _orthogonal(u) * s @ _orthogonal(v).T

    return _by_cores("tsv_m", adapters, merge, scale=scale)


def iso_c(adapters: Sequence[Adapter], scale: float = 1.0) -> Adapter:
    """Iso-C: the sum with all its singular values equal (Marczak et al., arXiv:2502.04959).

    Σ ΔWₜ = U·S·Vᵀ becomes M = scale·s̄·U·Vᵀ, with the mean s̄ of the singular values. Only those of
    directions that the sum has count. A single adapter does not stay as it is, by design: its
    spectrum is made flat, too.

    Args:
        adapters: the adapters, of one base.
        scale: α of the paper.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    check("iso-c", scale=scale)

    def merge(parts: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        u, s, v = _svd(torch.stack(list(parts)).sum(0))
        return scale * _mean(s) * u @ v.T

    return _by_cores("iso_c", adapters, merge, scale=scale)


def iso_cts(adapters: Sequence[Adapter], fraction: float = 0.8, scale: float = 1.0) -> Adapter:
    """Iso-CTS: common directions and each task's own, all equally long (arXiv:2502.04959).

    Of Σ ΔWₜ, of rank R, the first k = ⌊fraction·R⌋ singular directions, at least one, are common:
    U_c, S_c, V_c. Of what ΔWₜ has outside of them, ΔWₜ − U_cU_cᵀΔWₜ, the first ⌊(R − k)/T⌋ are the
    task's own. Together they are made orthogonal as in `tsv_m`, and all singular values become
    their mean.

    R is the full rank in the paper. A single adapter does not stay as it is, and what copies become
    depends on how many directions are left for each; both are by design.

    Args:
        adapters: the adapters, of one base.
        fraction: share of the directions that are common; with 1 this is `iso_c`.
        scale: α of the paper.

    Raises:
        ValueError: for a fraction outside 0…1, or adapters of different bases or shapes.
    """
    check("iso-cts", fraction=fraction, scale=scale)

    def merge(parts: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        u, s, v = _svd(torch.stack(list(parts)).sum(0))
        k = max(1, math.floor(fraction * len(s) + 1e-9))
        own, found = max(0, len(s) - k) // len(parts), [(u[:, :k], s[:k], v[:, :k])]
        for c in parts if own else ():
            rest = _svd(c - u[:, :k] @ (u[:, :k].T @ c), float(torch.linalg.matrix_norm(c, 2)))
            found.append((rest[0][:, :own], rest[1][:own], rest[2][:, :own]))
        u, s, v = (torch.cat([f[i] for f in found], dim=-1) for i in range(3))
        return scale * _mean(s) * _orthogonal(u) @ _orthogonal(v).T

    return _by_cores("iso_cts", adapters, merge, fraction=fraction, scale=scale)


def cart(adapters: Sequence[Adapter], share: float = 0.08, strength: float = 1.0) -> Adapter:
    """CART: the mean, and the main directions in which each task differs from it.

    Choi et al., arXiv:2412.12153. M = μ + strength·Σ truncₖ(ΔWₜ − μ), with the mean μ and the best
    approximation of rank k, by SVD. With full rank and strength 1 that is Σ ΔWₜ − (T − 1)·μ = μ:
    what truncation leaves out is what makes the difference.

    Args:
        adapters: the adapters, of one base.
        share: k as a share of the smaller side of the matrix, rounded up. The paper finds 8 % best.
        strength: what the differences are multiplied by.

    Raises:
        ValueError: for a share outside 0…1, or adapters of different bases or shapes.
    """
    check("cart", share=share, strength=strength)

    def merge(parts: Sequence[Tensor], shape: tuple[int, int]) -> Tensor:
        mean = torch.stack(list(parts)).mean(0)
        k, total = math.ceil(share * min(shape) - 1e-9), mean.clone()
        for c in parts:
            u, s, v = _svd(c - mean, float(torch.linalg.matrix_norm(c, 2)))
            total += strength * u[:, :k] * s[:k] @ v[:, :k].T
        return total

    return _by_cores("cart", adapters, merge, share=share, strength=strength)


def _by_cores(
    function: str,
    adapters: Sequence[Adapter],
    merge: Callable[[Sequence[Tensor], tuple[int, int]], Tensor],
    **settings: Any,
) -> Adapter:
    """The adapter U·C·Vᵀ, with C (p, q) made at each site of all cores and the matrix's shape."""
    deltas = {}
    for name, members in deltas_at(adapters).items():
        u, v = bases(members)
        c = merge(cores(members, u, v), members[0].shape)
        wide = u.shape[1] <= v.shape[1]
        deltas[name] = product(u, c @ v.T) if wide else product(u @ c, v.T)
    return derived(function, deltas, adapters, **settings)


def _svd(c: Tensor, size: float = 0.0) -> tuple[Tensor, Tensor, Tensor]:
    """U (p, k), S (k,) and V (q, k) of the directions that c (p, q) has.

    Those are the ones above rounding, which is that of a matrix of norm `size` if it is larger.
    """
    u, s, vh = torch.linalg.svd(c, full_matrices=False)
    k = int((s > NEGLIGIBLE * max(float(s[0]), size)).sum())
    return u[:, :k], s[:k], vh[:k].T


def _orthogonal(x: Tensor) -> Tensor:
    """PQᵀ of x = PΣQᵀ without the directions that x does not have."""
    if not x.shape[1]:
        return x
    p, _, q = _svd(x)
    return p @ q.T


def _mean(s: Tensor) -> float:
    return float(s.mean()) if len(s) else 0.0
