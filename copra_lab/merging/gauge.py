"""The gauge of an adapter, and adapters brought into one.

ΔW = s·B·A says nothing about which A and B: (B·P, P⁻¹·A) is the same ΔW for every invertible P
(r, r), the *gauge*. Two trainings end in unrelated ones, so that the average of their factors
depends on a choice that no model can see. Where it is free, it may as well be the one in which the
factors are as alike as can be. With the middle of the factors and that of ΔW,

    ½(B₁ + B₂P)·½(A₁ + P⁻¹A₂) − ½(B₁A₁ + B₂A₂) = −¼(B₁ − B₂P)(A₁ − P⁻¹A₂),

so factors that are alike have a middle close to that of ΔW, and it keeps the rank.

Here P is found in closed form. `balance` first chooses, at each site, a gauge that only ΔW
determines, B = UΣ^½ and A = Σ^½Vᵀ with the singular values Σ of ΔW. What is left free is a
rotation, and the best one is that of an orthogonal Procrustes problem (Schönemann 1966). Nothing
here makes a dense ΔW: a site costs O((out + in)·r²).

CopRA's authors call such an alignment "LoRA Align" (arXiv:2410.22911) and LoRA* in CoTo
(arXiv:2506.05713), with a P that is learned; FLoRG (arXiv:2602.17095) and GLoRA (arXiv:2605.06733)
take the gauge into account in federated averaging.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.merging.common import check_line_up, check_mergeable, derived
from copra_lab.merging.spectral import singular

__all__ = ["align", "align_all", "balance"]

NEGLIGIBLE = 1e-6
"""Singular values below this share of the largest are what float32 makes of zero."""

SWEEPS = 100
"""Times that `align_all` turns every adapter at most; about ten are usual."""


def balance(adapter: Adapter) -> Adapter:
    """The same ΔW in balanced factors: BᵀB = AAᵀ at each site, with the scale in both, s = 1.

    Of all balanced factors, which are one another's rotations, these are the closest to the
    adapter's own, so balanced ones stay as they are.

    Directions that ΔW does not have (of a stack of ranks that overlap, say, or where B is still
    zero) become zero in both factors: the rank, as the number of columns, is kept. So do those
    whose singular value is below 1e-6 of the largest, the only way in which ΔW changes by more than
    rounding.
    """
    deltas = {}
    for name, d in adapter.deltas.items():
        own = torch.cat([d.scale * d.B.double(), d.A.double().T])
        x = _balanced(d)
        deltas[name] = _low_rank(x @ _rotation(x.T @ own), d.shape[0])
    return derived("balance", deltas, [adapter])


def align(adapter: Adapter, to: Adapter) -> Adapter:
    """An adapter's ΔW in the balanced factors that are closest to those of another.

    The other's are taken as `balance` gives them. At each site P is the rotation that minimises
    ‖B₁ − B₂P‖² + ‖A₁ − PᵀA₂‖²: UVᵀ of the SVD of B₂ᵀB₁ + A₂A₁ᵀ.

    Args:
        adapter: (B₂, A₂), which is turned.
        to: (B₁, A₁), which it is held against.

    Returns:
        The adapter with unchanged ΔW and ranks, and scale 1; see `balance` for directions without
        size. Where several rotations are equally good, as for adapters that share no direction, it
        is the one that the SVD happens to give: the same for the same numbers.

    Raises:
        ValueError: for adapters of different bases, sites, shapes or ranks.
    """
    check_mergeable([adapter, to], [1.0, 1.0])
    check_line_up([adapter, to])
    deltas = {}
    for name, d in balance(to).deltas.items():
        x, fixed = _balanced(adapter.deltas[name]), torch.cat([d.B, d.A.T]).double()
        deltas[name] = _low_rank(x @ _rotation(x.T @ fixed), d.shape[0])
    return derived("align", deltas, [adapter])


def align_all(adapters: Sequence[Adapter], weights: Sequence[float] | None = None) -> list[Adapter]:
    """Several adapters in the balanced factors that are closest to their mean.

    Generalised Procrustes analysis: at each site, rotations that minimise Σ wᵢ‖XᵢPᵢ − M‖², where X
    is B over Aᵀ and M = Σ wᵢXᵢPᵢ / Σ wᵢ. Each adapter in turn is held against the others, until
    nothing changes (ten Berge 1977); this never increases the sum. For two adapters it is exact and
    no weights matter; for more it may end in a local minimum. It begins with the largest, so their
    order does not matter.

    Args:
        adapters: the adapters, of one base.
        weights: wᵢ, one for each, whose sign does not count; by default equal ones.

    Returns:
        The adapters with unchanged ΔW and ranks, and scale 1 (see `align`).

    Raises:
        ValueError: for adapters of different bases, sites, shapes or ranks.
    """
    weights = [1.0] * len(adapters) if weights is None else list(weights)
    check_mergeable(adapters, weights)
    check_line_up(adapters)
    deltas: list[dict[str, LowRank]] = [{} for _ in adapters]
    for name, d in adapters[0].deltas.items():
        xs = [_balanced(a.deltas[name]) for a in adapters]
        for i, p in enumerate(_rotations(xs, [abs(w) for w in weights])):
            deltas[i][name] = _low_rank(xs[i] @ p, d.shape[0])
    return [derived("align_all", own, [a]) for own, a in zip(deltas, adapters, strict=True)]


def _balanced(d: LowRank) -> Tensor:
    """UΣ^½ over VΣ^½, (out + in, r), float64; columns of zeros where ΔW has no direction."""
    u, s, v = singular(d)
    root = torch.where(s > NEGLIGIBLE * s[0], s, 0).sqrt()
    x = torch.cat([u * root, v * root])
    return torch.nn.functional.pad(x, (0, d.rank - x.shape[1]))


def _low_rank(x: Tensor, out: int) -> LowRank:
    return LowRank(x[out:].T.float().contiguous(), x[:out].float().contiguous())


def _rotation(c: Tensor) -> Tensor:
    """The orthogonal matrix P (r, r) that maximises tr(PᵀC): UVᵀ of C's SVD."""
    u, _, vh = torch.linalg.svd(c)
    return u @ vh


def _rotations(xs: Sequence[Tensor], weights: Sequence[float]) -> list[Tensor]:
    """Rotations P (r, r) that minimise Σ wᵢ‖XᵢPᵢ − M‖², by coordinate ascent.

    That is to maximise Σ_{i<j} wᵢwⱼ·tr(PᵢᵀXᵢᵀXⱼPⱼ), so the products XᵢᵀXⱼ are all that is needed.
    """
    r, k = xs[0].shape[1], len(xs)
    sizes = [w * float(x.norm()) for w, x in zip(weights, xs, strict=True)]
    order = sorted(range(k), key=sizes.__getitem__, reverse=True)
    scaled = torch.stack([w * x for w, x in zip(weights, xs, strict=True)])  # (k, out + in, r)
    gram = torch.einsum("ida,jdb->ijab", scaled, scaled)  # (k, k, r, r)
    gram[range(k), range(k)] = 0  # each is held against the others alone
    p = torch.zeros(k, r, r, dtype=torch.float64)  # zero: not placed yet
    p[order[0]] = torch.eye(r, dtype=torch.float64)
    before = -torch.inf
    for _ in range(SWEEPS):
        for i in order[1:] if before == -torch.inf else order:
            p[i] = _rotation((gram[i] @ p).sum(0))
        alike = float(torch.einsum("iab,ijac,jcb->", p, gram, p))
        if k < 3 or alike - before <= 1e-13 * abs(alike):
            break
        before = alike
    return list(p)
