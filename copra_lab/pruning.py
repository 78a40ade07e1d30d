"""Pruning an adapter after training: pure functions Adapter → Adapter. What is pruned shows the base."""

import math
from collections.abc import Iterable, Mapping

import torch

from copra_lab.adapters.adapter import Adapter, LowRank, from_delta
from copra_lab.merging.common import made
from copra_lab.merging.sparse import keep_largest
from copra_lab.models.sites import KINDS, site_of

__all__ = [
    "PRESETS",
    "keep",
    "keep_best",
    "layers_of",
    "magnitudes",
    "preset",
    "sparsify",
    "sparsity",
]

PRESETS = ("even", "odd", "low", "middle", "high")
"""Layers to keep: every other one, counted from 0 (the papers' "every-other" does not say which), or a third of them."""


def layers_of(adapter: Adapter, tower: str = "vision") -> tuple[int, ...]:
    """The layers of a tower where the adapter has a site, in order."""
    return tuple(sorted({layer for t, layer, _ in map(site_of, adapter.deltas) if t == tower}))


def preset(name: str, layers: int) -> tuple[int, ...]:
    """The layers that a preset keeps of so many. Raises ValueError for a name that is not one of `PRESETS`."""
    third = -(-layers // 3)
    kept = {
        "even": range(0, layers, 2), "odd": range(1, layers, 2), "low": range(third),
        "middle": range(third, layers - third), "high": range(layers - third, layers),
    }  # fmt: skip
    if name not in kept:
        raise ValueError(
            f"unknown preset {name!r}; choose from {', '.join(PRESETS)}, or give the numbers of the layers"
        )
    return tuple(kept[name])


def keep(
    adapter: Adapter,
    layers: "str | Iterable[int] | None" = None,
    kinds: "str | Iterable[str] | None" = None,
    tower: str = "vision",
) -> Adapter:
    """The adapter with only these layers and kinds of site of one tower (None: all of them); the other tower's sites stay.

    ``layers``: numbers, or a preset, which counts the layers up to the adapter's last. ``kinds``: of q, k, v, out, fc1,
    fc2. Raises ValueError for a layer or kind that the adapter does not have.
    """
    have = layers_of(adapter, tower)
    if not have:
        raise ValueError(f"the adapter has no site in the {tower} tower")
    chosen = (
        preset(layers, max(have) + 1)
        if isinstance(layers, str)
        else have
        if layers is None
        else tuple(layers)
    )
    if not isinstance(layers, str) and (unknown := set(chosen) - set(have)):
        raise ValueError(
            f"the adapter has no layer {sorted(unknown)[0]} in the {tower} tower; it has {', '.join(map(str, have))}"
        )
    kinds = KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    own = {site_of(n)[2] for n in adapter.deltas if site_of(n)[0] == tower}
    if kinds != KINDS and (missing := [k for k in kinds if k not in own]):
        raise ValueError(
            f"the adapter has no site of kind {missing[0]!r} in the {tower} tower; it has {', '.join(k for k in KINDS if k in own)}"
        )
    kept = {
        n
        for n in adapter.deltas
        if (at := site_of(n))[0] != tower or (at[1] in chosen and at[2] in kinds)
    }
    if kept == set(adapter.deltas):
        return adapter
    deltas = {n: d for n, d in adapter.deltas.items() if n in kept}
    return made(
        "keep", deltas, [adapter], tower=tower, layers=sorted(map(int, chosen)), kinds=list(kinds)
    )


def keep_best(
    adapter: Adapter, worth: Mapping[int, float], count: int, tower: str = "vision"
) -> Adapter:
    """The adapter with only the `count` layers of one tower that are worth most; of equals the lower. ``worth``: what each layer
    is worth, its Shapley value (``dict(zip(layers_of(adapter), exact(game, n).values))``, see `copra_lab.shapley.games`) or its
    size (`magnitudes`). Negate it to keep the worst. Raises ValueError for a count that the adapter does not have, and where
    a layer's worth is missing or not a finite number."""
    have = layers_of(adapter, tower)
    if not 0 <= count <= len(have):
        raise ValueError(
            f"count must be 0 to {len(have)}, the layers of the adapter in the {tower} tower, got {count!r}"
        )
    if set(worth) != set(have) or not all(math.isfinite(v) for v in worth.values()):
        raise ValueError(
            f"worth must give a finite number for each of the layers {', '.join(map(str, have))}, got {dict(worth)}"
        )
    return keep(
        adapter, sorted(have, key=lambda layer: (-worth[layer], layer))[:count], tower=tower
    )


def magnitudes(adapter: Adapter, tower: str = "vision") -> dict[int, float]:
    """How large each layer's ΔW are together: the root of the sum of their squared entries."""
    squares = dict.fromkeys(layers_of(adapter, tower), 0.0)
    for name, d in adapter.deltas.items():
        t, layer, _ = site_of(name)
        if t == tower:
            squares[layer] += float(d.delta().square().sum())
    return {layer: math.sqrt(s) for layer, s in squares.items()}


def sparsify(
    adapter: Adapter, sparsity: float, of: str = "factors", within: str = "adapter"
) -> Adapter:
    """The share `sparsity` of the entries that are smallest in magnitude set to zero.

    ``of``: "factors", the entries of A and of B, which is what is stored and shrinks; or "delta", those of ΔW = s·B·A
    (the result is dense). The papers do not say which they prune. ``within``: the entries are ranked over the whole
    "adapter", or in each "layer" or each "site" by itself; A and B are ranked apart, since their sizes have nothing to do with each
    other.

    Raises ValueError for a sparsity outside 0…1 or another word.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a share from 0 to 1, got {sparsity!r}")
    if of not in ("factors", "delta") or within not in ("adapter", "layer", "site"):
        raise ValueError(
            f"expected of='factors' or 'delta' and within='adapter', 'layer' or 'site', got {of!r} and {within!r}"
        )
    if sparsity == 0:
        return adapter
    groups: dict[object, list[str]] = {}
    for name in adapter.deltas:
        groups.setdefault(
            0 if within == "adapter" else site_of(name)[:2] if within == "layer" else name, []
        ).append(name)
    kept: dict[str, LowRank] = {}
    for names in groups.values():
        own = {n: adapter.deltas[n] for n in names}
        if of == "delta":
            kept |= {
                n: from_delta(x)
                for n, x in keep_largest(
                    {n: d.delta() for n, d in own.items()}, 1 - sparsity
                ).items()
            }
        else:
            a, b = (
                keep_largest({n: getattr(d, half) for n, d in own.items()}, 1 - sparsity)
                for half in "AB"
            )
            kept |= {n: LowRank(a[n], b[n], d.scale) for n, d in own.items()}
    return made(
        "sparsify",
        {n: kept[n] for n in adapter.deltas},
        [adapter],
        sparsity=sparsity,
        entries=of,
        within=within,
    )


def sparsity(adapter: Adapter) -> float:
    """The share of zeros among the entries of A and B; 0 for an adapter without sites."""
    tensors = [t for d in adapter.deltas.values() for t in (d.A, d.B)]
    return sum(int((t == 0).sum()) for t in tensors) / max(1, sum(torch.numel(t) for t in tensors))
