"""Merges that choose entries by comparing the tasks: Breadcrumbs, Consensus and EMR.

Each makes the dense ΔW (out, in) of every adapter; a site that an adapter does not have is zero.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, from_delta
from copra_lab.merging.common import deltas_at, derived
from copra_lab.merging.registry import check
from copra_lab.merging.sparse import elected

__all__ = ["breadcrumbs", "consensus", "emr", "emr_tasks"]


def breadcrumbs(
    adapters: Sequence[Adapter], density: float = 0.9, gamma: float = 0.01, scale: float = 0.3
) -> Adapter:
    """Model Breadcrumbs: neither the largest entries nor the smallest.

    Davari and Belilovsky, arXiv:2312.06795. Of each ΔW, at each site by itself, the share γ that is
    largest in magnitude is dropped, and of the others so many of the smallest that the share
    `density` is left. M = scale·Σ of what is left. With γ = 0 this is magnitude pruning
    before `task_arithmetic`. The result is dense.

    Args:
        adapters: the adapters, of one base.
        density: share of the entries kept.
        gamma: γ, share of the entries that is dropped because they are large.
        scale: what each ΔW is multiplied by.

    Raises:
        ValueError: for parameters out of range or a density above 1 − γ, or for adapters of
            different bases or shapes.
    """
    check("breadcrumbs", density=density, gamma=gamma, scale=scale)
    if density + gamma > 1:
        raise ValueError(
            f"density and gamma must be at most 1 together, got {density!r} and {gamma!r}; take a "
            "smaller gamma"
        )
    deltas = {
        name: from_delta(scale * torch.stack([_middle(x, density, gamma) for x in stack]).sum(0))
        for name, stack in _stacks(adapters).items()
    }
    settings = {"density": density, "gamma": gamma, "scale": scale}
    return derived("breadcrumbs", deltas, adapters, **settings)


def _middle(delta: Tensor, density: float, gamma: float) -> Tensor:
    n = delta.numel()
    first = round(gamma * n)
    at = delta.abs().flatten().argsort(descending=True, stable=True)[first:][: round(density * n)]
    kept = torch.zeros(n)
    kept[at] = delta.flatten()[at]
    return kept.view_as(delta)


def consensus(
    adapters: Sequence[Adapter], threshold: float = 0.4, least: int = 2, scale: float = 0.3
) -> Adapter:
    """Consensus: of the sum, what several tasks use (Wang et al., arXiv:2405.07813).

    With τ = Σ ΔWₜ, task t uses an entry where abs(ΔWₜ) ≥ λ·abs(τ − ΔWₜ), its TALL mask, and ΔWₜ is
    not zero. M = scale·τ where at least `least` of the masks are 1, and 0 elsewhere: what one task
    alone uses, or none, goes. A single adapter stays as it is. The result is dense.

    Args:
        adapters: the adapters, of one base.
        threshold: λ, larger for smaller masks. The paper chooses it for each task, from 0.2 to
            0.6; here it is one number.
        least: how many tasks must use an entry; of fewer adapters, all must.
        scale: what τ is multiplied by.

    Raises:
        ValueError: for parameters out of range, or adapters of different bases or shapes.
    """
    check("consensus", threshold=threshold, least=least, scale=scale)
    deltas = {}
    for name, stack in _stacks(adapters).items():
        total = stack.sum(0)
        uses = (stack.abs() >= threshold * (total - stack).abs()) & (stack != 0)
        kept = uses.sum(0) >= min(least, len(adapters))
        deltas[name] = from_delta(scale * total * kept)
    settings = {"threshold": threshold, "least": least, "scale": scale}
    return derived("consensus", deltas, adapters, **settings)


def emr(adapters: Sequence[Adapter], scale: float = 1.0) -> Adapter:
    """EMR's one model for all tasks: elected signs, largest sizes (Huang et al., arXiv:2405.17461).

    Each entry gets the sign of the sum over adapters, and the largest magnitude among those that
    have this sign, times `scale`. EMR itself then masks and rescales it for the task at hand:
    `emr_tasks`. The result is dense.

    Args:
        adapters: the adapters, of one base.
        scale: what the result is multiplied by; the paper's is 1.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    check("emr", scale=scale)
    deltas = {n: from_delta(scale * _unified(s)) for n, s in _stacks(adapters).items()}
    return derived("emr", deltas, adapters, scale=scale)


def emr_tasks(adapters: Sequence[Adapter]) -> list[Adapter]:
    """EMR whole: for each task, the part of `emr` that agrees with it, at its own size.

    Of the unified τ, task t has mₜ∘τ · Σ abs(ΔWₜ) / Σ abs(mₜ∘τ), with mₜ = 1 where τ·ΔWₜ > 0 and
    sums over the whole model. So it takes a mask and one number for each task, and whoever uses it
    must know the task of every image: compare it with merges that do not, and say so.

    Returns:
        One adapter for each of `adapters`, dense.

    Raises:
        ValueError: for adapters of different bases or shapes.
    """
    stacks = _stacks(adapters)
    unified = {name: _unified(stack) for name, stack in stacks.items()}
    out = []
    for i, adapter in enumerate(adapters):
        masked = {n: u * (u * stacks[n][i] > 0) for n, u in unified.items()}
        own = sum(float(s[i].abs().sum()) for s in stacks.values())
        left = sum(float(m.abs().sum()) for m in masked.values())
        deltas = {n: from_delta(m * (own / left if left else 0.0)) for n, m in masked.items()}
        about = {"task": adapter.provenance["task"]} if "task" in adapter.provenance else {}
        out.append(derived("emr_tasks", deltas, adapters, adapter=i, **about))
    return out


def _unified(stack: Tensor) -> Tensor:
    return stack.sum(0).sign() * (stack.abs() * elected(stack)).amax(0)


def _stacks(adapters: Sequence[Adapter]) -> dict[str, Tensor]:
    """For each site the ΔW of all adapters, (T, out, in)."""
    return {
        name: torch.stack([d.delta() for d in members])
        for name, members in deltas_at(adapters).items()
    }
