"""Pruning an adapter after training: pure functions Adapter → Adapter.

Where an entry or layer is pruned, the model computes what its base computes.
"""

import math
from collections.abc import Iterable, Mapping

from copra_lab.adapters.adapter import Adapter, LowRank, from_delta
from copra_lab.merging.common import derived
from copra_lab.merging.sparse import keep_largest
from copra_lab.models.sites import KINDS, site_of
from copra_lab.utils.checks import one_of

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
"""Layers to keep: every other one (counted from 0; the papers do not say), or a third of them."""


def layers_of(adapter: Adapter, tower: str = "vision") -> tuple[int, ...]:
    """The layers of a tower where the adapter has a site, in order."""
    return tuple(sorted({layer for t, layer, _ in map(site_of, adapter.deltas) if t == tower}))


def preset(name: str, layers: int) -> tuple[int, ...]:
    """The layers that a preset keeps of a tower with so many `layers`.

    Raises:
        ValueError: for a name that is not one of `PRESETS`.
    """
    third = -(-layers // 3)  # rounded up
    kept = {
        "even": range(0, layers, 2),
        "odd": range(1, layers, 2),
        "low": range(third),
        "middle": range(third, layers - third),
        "high": range(layers - third, layers),
    }
    if name not in kept:
        raise ValueError(
            f"unknown preset {name!r}; choose from {', '.join(PRESETS)}, "
            "or give the numbers of the layers"
        )
    return tuple(kept[name])


def keep(
    adapter: Adapter,
    layers: "str | Iterable[int] | None" = None,
    kinds: "str | Iterable[str] | None" = None,
    tower: str = "vision",
) -> Adapter:
    """The adapter with only some layers and kinds of site of one tower; the other tower stays.

    Args:
        adapter: the adapter.
        layers: numbers of the layers to keep, or a preset, which counts up to the adapter's last
            layer; None keeps all.
        kinds: kinds of site to keep, of q, k, v, out, fc1 and fc2; None keeps all.
        tower: the tower that is pruned, "vision" or "text".

    Raises:
        ValueError: for a layer or kind that the adapter does not have.
    """
    have = layers_of(adapter, tower)
    if not have:
        raise ValueError(f"the adapter has no site in the {tower} tower")
    chosen = _chosen_layers(layers, have, tower)
    kinds = _chosen_kinds(adapter, kinds, tower)
    deltas = {
        n: d
        for n, d in adapter.deltas.items()
        if (at := site_of(n))[0] != tower or (at[1] in chosen and at[2] in kinds)
    }
    if len(deltas) == len(adapter.deltas):
        return adapter
    about = {"tower": tower, "layers": sorted(map(int, chosen)), "kinds": list(kinds)}
    return derived("keep", deltas, [adapter], **about)


def _chosen_layers(
    layers: "str | Iterable[int] | None", have: tuple[int, ...], tower: str
) -> tuple[int, ...]:
    """The layers that `keep` keeps, of those that the adapter has."""
    if layers is None:
        return have
    if isinstance(layers, str):
        return preset(layers, max(have) + 1)
    chosen = tuple(layers)
    if unknown := set(chosen) - set(have):
        raise ValueError(
            f"the adapter has no layer {sorted(unknown)[0]} in the {tower} tower; "
            f"it has {', '.join(map(str, have))}"
        )
    return chosen


def _chosen_kinds(
    adapter: Adapter, kinds: "str | Iterable[str] | None", tower: str
) -> tuple[str, ...]:
    """The kinds of site that `keep` keeps."""
    kinds = KINDS if kinds is None else (kinds,) if isinstance(kinds, str) else tuple(kinds)
    have = {site_of(n)[2] for n in adapter.deltas if site_of(n)[0] == tower}
    if kinds != KINDS and (missing := [k for k in kinds if k not in have]):
        raise ValueError(
            f"the adapter has no site of kind {missing[0]!r} in the {tower} tower; "
            f"it has {', '.join(k for k in KINDS if k in have)}"
        )
    return kinds


def keep_best(
    adapter: Adapter, scores: Mapping[int, float], count: int, tower: str = "vision"
) -> Adapter:
    """The adapter with only the `count` layers of one tower that score highest.

    Args:
        adapter: the adapter.
        scores: a number for each layer: its Shapley value, for one
            (``dict(zip(layers_of(adapter), exact(game, n).values))``, see
            `copra_lab.shapley.games`), or its size (`magnitudes`). Negate it to keep the lowest.
        count: how many layers to keep; of equals the lower layer stays.
        tower: "vision" or "text".

    Raises:
        ValueError: for more layers than the adapter has, and where a score is missing or not
            finite.
    """
    have = layers_of(adapter, tower)
    if not 0 <= count <= len(have):
        raise ValueError(f"count must be 0 to {len(have)}, the adapter's layers, got {count!r}")
    if set(scores) != set(have) or not all(math.isfinite(v) for v in scores.values()):
        got = dict(scores)
        raise ValueError(f"scores must be finite, one for each of the layers {have}, got {got}")
    ranked = sorted(have, key=lambda layer: (-scores[layer], layer))
    return keep(adapter, ranked[:count], tower=tower)


def magnitudes(adapter: Adapter, tower: str = "vision") -> dict[int, float]:
    """The size of each layer of a tower: the Frobenius norm of all its ΔW together."""
    squares = dict.fromkeys(layers_of(adapter, tower), 0.0)
    for name, d in adapter.deltas.items():
        t, layer, _ = site_of(name)
        if t == tower:
            squares[layer] += float(d.delta().square().sum())
    return {layer: math.sqrt(s) for layer, s in squares.items()}


def sparsify(
    adapter: Adapter, sparsity: float, of: str = "factors", within: str = "adapter"
) -> Adapter:
    """Magnitude pruning: set the entries that are smallest in magnitude to zero.

    Args:
        adapter: the adapter.
        sparsity: share of the entries to prune, 0…1.
        of: "factors", the entries of A and of B, which is what a file stores; or "delta", those of
            ΔW = s·B·A, which makes the result dense. The papers do not say which they prune.
        within: rank the entries over the whole "adapter", or in each "layer" or "site" separately.
            A and B are always ranked separately, since their sizes are unrelated.

    Raises:
        ValueError: for a sparsity outside 0…1, or another word for `of` or `within`.
    """
    if not 0 <= sparsity <= 1:
        raise ValueError(f"sparsity must be a share from 0 to 1, got {sparsity!r}")
    one_of("of", of, ("factors", "delta"))
    one_of("within", within, ("adapter", "layer", "site"))
    if sparsity == 0:
        return adapter
    groups: dict[object, dict[str, LowRank]] = {}
    for name, d in adapter.deltas.items():
        group = site_of(name)[:2] if within == "layer" else name if within == "site" else None
        groups.setdefault(group, {})[name] = d
    kept: dict[str, LowRank] = {}
    for members in groups.values():
        if of == "delta":
            largest = keep_largest({n: d.delta() for n, d in members.items()}, 1 - sparsity)
            kept |= {n: from_delta(x) for n, x in largest.items()}
        else:
            a = keep_largest({n: d.A for n, d in members.items()}, 1 - sparsity)
            b = keep_largest({n: d.B for n, d in members.items()}, 1 - sparsity)
            kept |= {n: LowRank(a[n], b[n], d.scale) for n, d in members.items()}
    deltas = {n: kept[n] for n in adapter.deltas}
    about = {"sparsity": sparsity, "entries": of, "within": within}
    return derived("sparsify", deltas, [adapter], **about)


def sparsity(adapter: Adapter) -> float:
    """The share of zeros among the entries of A and B; 0 for an adapter without sites."""
    tensors = [t for d in adapter.deltas.values() for t in (d.A, d.B)]
    return sum(int((t == 0).sum()) for t in tensors) / max(1, sum(t.numel() for t in tensors))
