"""Merges that are the optimum of a weighted square: Fisher, RegMean and WUDI, in closed form.

Each minimises how far M is from all ΔWₜ, counted differently: entry by entry with squared
gradients as weights, by the outputs on inputs of each task, or by the outputs on the inputs that
ΔWₜ itself answers to. Whatever has to be measured is an argument, since a merge measures nothing.
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank, from_delta
from copra_lab.merging.common import deltas_at, derived, product
from copra_lab.merging.core_space import bases, cores
from copra_lab.merging.registry import check

__all__ = ["fisher", "regmean", "wudi"]


def fisher(
    adapters: Sequence[Adapter],
    squared_gradients: Sequence[Mapping[str, Tensor]],
    normalised: bool = True,
    floor: float = 1e-6,
) -> Adapter:
    """Fisher merging: M = Σ Fₜ∘ΔWₜ / Σ Fₜ, entry by entry (Matena and Raffel, arXiv:2111.09832).

    F is the diagonal of the Fisher information: the mean over images of the squared gradient of
    log p(y) by W, at the tuned weights, with y drawn from the model's own p. It must be that of W
    (out, in) and not of A and B, whose gradients depend on the gauge. Equal F give the mean. The
    result is dense.

    Args:
        adapters: the adapters, of one base.
        squared_gradients: for each adapter, site → F (out, in), for every site of any adapter.
        normalised: divide each adapter's F by its mean over all sites first, so that no adapter
            counts for more because its gradients are larger.
        floor: the least F, as a share of the mean of all, so that no entry is left without weight.

    Raises:
        ValueError: for F that are missing, negative, not finite or of another shape, for a floor
            out of range, or for adapters of different bases or shapes.
    """
    check("fisher", normalised=normalised, floor=floor)
    members = deltas_at(adapters)
    given = _measured("squared gradients", squared_gradients, adapters, members, square=False)
    if normalised:
        means = [_mean(f) for f in given]
        given = [
            {n: x / m if m else x for n, x in f.items()} for f, m in zip(given, means, strict=True)
        ]
    least = floor * (sum(map(_mean, given)) / len(given) or 1.0)
    deltas = {}
    for name, own in members.items():
        weights = torch.stack([f[name] for f in given]).clamp_min(least)
        total = (weights * torch.stack([d.delta().double() for d in own])).sum(0)
        deltas[name] = from_delta((total / weights.sum(0)).float())
    return derived("fisher", deltas, adapters, normalised=normalised, floor=floor)


def regmean(
    adapters: Sequence[Adapter],
    grams: Sequence[Mapping[str, Tensor]],
    keep: float = 0.9,
    ridge: float = 1e-6,
) -> Adapter:
    """RegMean: the ΔW closest to each adapter's in what it puts out (Jin et al., arXiv:2212.09849).

    With the inputs Xₜ (n, in) that a site gets from the images of task t and Gₜ = XₜᵀXₜ, the M
    that minimises Σ ‖Xₜ(M − ΔWₜ)ᵀ‖² is

        M = (Σ ΔWₜGₜ)·(Σ Gₜ)⁻¹ = Σ sₜBₜ·(AₜGₜ(Σ Gₜ)⁻¹),

    whose ranks stack: no dense ΔW is made. Equal Grams give the mean. Against noise the paper
    multiplies what is off the diagonal of each Gram by 0.9.

    Args:
        adapters: the adapters, of one base.
        grams: for each adapter, site → G (in, in), for every site of any adapter. Means over
            images, not sums, count tasks equally.
        keep: what is off the diagonal is multiplied by; 1 for least squares alone.
        ridge: added to the diagonal of each Gram, as a share of the mean over it, so that the sum
            can be inverted.

    Raises:
        ValueError: for Grams that are missing, not symmetric, not finite or of another shape, for
            parameters out of range, or for adapters of different bases or shapes.
    """
    check("regmean", keep=keep, ridge=ridge)
    members = deltas_at(adapters)
    given = _measured("Grams", grams, adapters, members, square=True)
    deltas = {}
    for name, own in members.items():
        gs = [_conditioned(g[name], keep, ridge) for g in given]
        total = torch.stack(gs).sum(0)
        a = [
            torch.linalg.solve(total, g @ d.A.double().T).T for d, g in zip(own, gs, strict=True)
        ]  # both are symmetric, so this is A·G·(ΣG)⁻¹
        b = [d.scale * d.B.double() for d in own]
        deltas[name] = product(torch.cat(b, dim=1), torch.cat(a))
    return derived("regmean", deltas, adapters, keep=keep, ridge=ridge)


def _conditioned(gram: Tensor, keep: float, ridge: float) -> Tensor:
    diagonal = gram.diagonal()
    # a site without any input has no say, but the sum must stay invertible
    size = float(diagonal.mean()) or 1.0
    return keep * gram + torch.diag((1 - keep) * diagonal + ridge * size)


def wudi(adapters: Sequence[Adapter], scale: float = 1.0) -> Adapter:
    """WUDI: least interference on the inputs each ΔW answers to (Cheng et al., arXiv:2503.08099).

    The rows of ΔWₜ stand for the inputs of task t, so no images are needed. The paper descends

        Σ ‖(M − ΔWₜ)ΔWₜᵀ‖² / ‖ΔWₜ‖²

    from M = Σ ΔWₜ with Adam, where the steps and the rate decide how far. Here M is the minimum,
    M = (Σ ΔWₜΔWₜᵀΔWₜ/‖ΔWₜ‖²)·(Σ ΔWₜᵀΔWₜ/‖ΔWₜ‖²)⁺, with nothing outside of the rows of the ΔWₜ.
    It is computed in the core space, so the ranks stay those of a sum.

    Args:
        adapters: the adapters, of one base.
        scale: what the result is multiplied by; the paper's is 1.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    check("wudi", scale=scale)
    deltas: dict[str, LowRank] = {}
    for name, own in deltas_at(adapters).items():
        u, v = bases(own)
        cs = [c / c.norm() for c in cores(own, u, v) if c.any()]
        sizes = [c.norm() for c in cores(own, u, v) if c.any()]
        m = torch.zeros(u.shape[1], v.shape[1], dtype=torch.float64)
        if cs:
            grams = [c.T @ c for c in cs]
            right = sum(n * c @ g for n, c, g in zip(sizes, cs, grams, strict=True))
            m = right @ torch.linalg.pinv(torch.stack(grams).sum(0), rtol=1e-10, hermitian=True)
        m = scale * m
        deltas[name] = product(u, m @ v.T) if len(m) <= m.shape[1] else product(u @ m, v.T)
    return derived("wudi", deltas, adapters, scale=scale)


def _mean(tensors: Mapping[str, Tensor]) -> float:
    n = sum(x.numel() for x in tensors.values())
    return sum(float(x.sum()) for x in tensors.values()) / n if n else 0.0


def _measured(
    what: str,
    given: Sequence[Mapping[str, Tensor]],
    adapters: Sequence[Adapter],
    members: Mapping[str, Sequence[LowRank]],
    square: bool,
) -> list[dict[str, Tensor]]:
    """What was measured for each adapter, at the sites of any, float64, after checks."""
    if len(given) != len(adapters):
        raise ValueError(
            f"expected {what} of each adapter, got {len(given)} for {len(adapters)} adapters"
        )
    out = []
    for i, own in enumerate(given):
        checked = {}
        for name, (first, *_) in members.items():
            shape = (first.shape[1], first.shape[1]) if square else first.shape
            where = f"{what} of adapter {i + 1} at {name!r}"
            if name not in own:
                raise ValueError(f"the {where} are missing; measure them at every site")
            x = own[name].double()
            if tuple(x.shape) != shape:
                raise ValueError(f"the {where} must be {shape}, got {tuple(x.shape)}")
            if not x.isfinite().all():
                raise ValueError(f"the {where} are not finite; measure them again in float32")
            if square and not torch.allclose(x, x.T, rtol=1e-4, atol=1e-6 * float(x.abs().max())):
                raise ValueError(f"the {where} are not symmetric; give XᵀX of the site's inputs")
            if (x.diagonal() if square else x).min() < 0:
                raise ValueError(f"the {where} are negative; give squares")
            checked[name] = (x + x.T) / 2 if square else x
        out.append(checked)
    return out
