"""Adapters by the singular values of ΔW."""

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import derived
from copra_lab.utils.checks import whole_number

__all__ = ["truncate"]


def truncate(adapter: Adapter, rank: int) -> Adapter:
    """The closest adapter of at most `rank` at each site, by truncated SVD of ΔW (Eckart–Young).

    A site whose rank is no higher stays as it is.

    Raises:
        ValueError: for a rank below 1.
    """
    whole_number("rank", rank)
    deltas = {n: d if d.rank <= rank else _truncated(d, rank) for n, d in adapter.deltas.items()}
    return derived("truncate", deltas, [adapter], rank=rank)


def _truncated(d: LowRank, rank: int) -> LowRank:
    u, s, v = singular(d)
    root = s[:rank].sqrt()
    return LowRank((v[:, :rank] * root).T.float().contiguous(), (u[:, :rank] * root).float())


def singular(d: LowRank) -> tuple[Tensor, Tensor, Tensor]:
    """The thin SVD ΔW = U·diag(σ)·Vᵀ, from the factors: ΔW itself is never made.

    Returns:
        U (out, k), σ (k,), largest first, and V (in, k), float64, with k = min(r, out, in).
    """
    # With B = Q₁R₁ and Aᵀ = Q₂R₂, the SVD of B·A is that of the small matrix R₁R₂ᵀ, rotated by Q.
    q_out, r_out = torch.linalg.qr(d.scale * d.B.double())
    q_in, r_in = torch.linalg.qr(d.A.double().T)
    u, s, vh = torch.linalg.svd(r_out @ r_in.T, full_matrices=False)
    return q_out @ u, s, q_in @ vh.T
