"""The `Adapter`, an immutable value: a low-rank change for each adapted weight matrix.

LoRA (Hu et al., arXiv:2106.09685) adds a product of low rank to a weight matrix W (out, in):
W' = W + s·B·A, with A (r, in) random and B (out, r) zero at the start, so that training starts
exactly at the base.
"""

import copy
import hashlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.models.clip import Clip, check_base
from copra_lab.models.sites import Site, find_sites, not_sites, parse

__all__ = ["NONE", "Adapter", "LowRank", "from_delta", "merged_into"]


@dataclass(frozen=True, eq=False)
class LowRank:
    """The change s·B·A of a weight matrix (out, in).

    Attributes:
        A: (r, in).
        B: (out, r).
        scale: s.
    """

    A: Tensor
    B: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        a, b = tuple(self.A.shape), tuple(self.B.shape)
        if len(a) != 2 or len(b) != 2 or a[0] != b[1] or a[0] < 1:
            raise ValueError(f"A (r, in) and B (out, r) must share a rank ≥ 1, got {a} and {b}")

    def __repr__(self) -> str:
        return f"LowRank({self.shape[0]}×{self.shape[1]}, rank {self.rank}, scale {self.scale:g})"

    @property
    def rank(self) -> int:
        """r, an upper bound on the rank of the delta."""
        return self.A.shape[0]

    @property
    def shape(self) -> tuple[int, int]:
        """(out, in) of the delta."""
        return self.B.shape[0], self.A.shape[1]

    def delta(self) -> Tensor:
        """s·B·A, (out, in)."""
        return self.scale * (self.B @ self.A)


@dataclass(frozen=True, eq=False)
class Adapter:
    """What fine-tuning learnt: a `LowRank` for each site. It never changes.

    Two adapters are equal if their numbers and their base are.

    Attributes:
        deltas: Name of a site → its delta.
        base: `Clip.hash` of the CLIP it was trained on; "" if unknown.
        provenance: How it was made, in words and numbers that JSON can hold.
    """

    deltas: Mapping[str, LowRank]
    base: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", MappingProxyType(dict(self.deltas)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that identify the numbers and the base."""
        h = hashlib.blake2b(self.base.encode(), digest_size=8)
        for name in sorted(self.deltas):
            d = self.deltas[name]
            h.update(f"{name} {d.rank} {d.shape} {d.scale!r}".encode())
            for t in (d.A, d.B):
                h.update(t.detach().float().contiguous().numpy().tobytes())
        return h.hexdigest()

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Adapter) and self.hash == other.hash

    def __hash__(self) -> int:
        return int(self.hash, 16)

    def __len__(self) -> int:
        return len(self.deltas)

    def __repr__(self) -> str:
        words = [str(self.provenance[k]) for k in ("method", "task") if k in self.provenance]
        size = [f"{len(self)} sites", f"rank {self.rank}", f"{self.parameters:,} numbers"]
        return f"Adapter({', '.join([*words, *size])})"

    @property
    def rank(self) -> int:
        """The highest rank of any site; 0 for an adapter without sites."""
        return max((d.rank for d in self.deltas.values()), default=0)

    @property
    def parameters(self) -> int:
        """How many numbers A and B hold, over all sites."""
        return sum(d.A.numel() + d.B.numel() for d in self.deltas.values())

    def keep(self, sites: Iterable[str]) -> "Adapter":
        """The adapter with only these sites.

        Raises:
            ValueError: If it does not have one of them.
        """
        sites = set(sites)
        if missing := sites - set(self.deltas):
            raise ValueError(f"the adapter has no site {sorted(missing)[0]!r}")
        kept = {n: d for n, d in self.deltas.items() if n in sites}
        return Adapter(kept, self.base, self.provenance)


def from_delta(delta: Tensor) -> LowRank:
    """Turn a dense delta (out, in) into a pair of factors, exactly: one of them is the identity."""
    out, width = delta.shape
    return LowRank(torch.eye(width), delta) if width <= out else LowRank(delta, torch.eye(out))


NONE = Adapter({})
"""No adapter: the base."""


def check_fits(adapter: Adapter, sites: Mapping[str, Site], base: str = "") -> None:
    """Check that an adapter can be used on a CLIP.

    Args:
        adapter: The adapter.
        sites: The CLIP's sites, by name.
        base: `Clip.hash` of the CLIP; "" to accept any base.

    Raises:
        ValueError: If it was made for another base, or has a site that is unknown or of another
            shape.
    """
    check_base("adapter", adapter.base, base)
    for name, d in adapter.deltas.items():
        if name not in sites:
            raise ValueError(_why_missing(name, adapter, sites))
        if d.shape != sites[name].shape:
            raise ValueError(
                f"site {name!r} is {sites[name].shape} in this CLIP and {d.shape} in the adapter; "
                "load the CLIP it was made from"
            )


def _why_missing(name: str, adapter: Adapter, sites: Mapping[str, Site]) -> str:
    """Why a CLIP has no site of this name."""
    found = parse(name)
    if found is None:
        return not_sites([n for n in adapter.deltas if parse(n) is None], adapter.deltas)
    tower, layer, _ = found
    depth = 1 + max((s.layer for s in sites.values() if s.tower == tower), default=-1)
    reason = f"this CLIP has no site {name!r}"
    if 0 < depth <= layer:
        shown = "text" if tower == "text" else "image"
        layers = f"whose layers are 0 to {depth - 1} in this CLIP"
        reason = f"the adapter reaches layer {layer} of the {shown} tower, {layers}"
    return f"{reason}; load the CLIP it was made from"


def deltas_in(adapter: Adapter, sites: Mapping[str, Site], tower: str) -> dict[Site, LowRank]:
    """What an adapter adds to one tower, by site."""
    return {sites[n]: d for n, d in adapter.deltas.items() if sites[n].tower == tower}


def merged_weights(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """The weights that an adapter changes, with its deltas added; the model stays as it is.

    Args:
        model: The base.
        adapter: Its deltas are added.

    Returns:
        Name of a parameter → its new value.

    Raises:
        ValueError: If the adapter does not fit.
    """
    sites, params = find_sites(model), dict(model.named_parameters())
    check_fits(adapter, sites)
    out: dict[str, Tensor] = {}
    for name, d in adapter.deltas.items():
        site = sites[name]
        key = f"{site.module}.{site.parameter}"
        if key not in out:
            out[key] = params[key].detach().clone()
        out[key][site.start : site.stop] += d.delta().to(out[key].dtype)
    return out


def merged_into(clip: Clip, adapter: Adapter) -> Clip:
    """A new CLIP with an adapter's deltas added to its weights.

    Raises:
        ValueError: If the adapter has another base or does not fit.
    """
    check_fits(adapter, clip.sites, clip.hash)
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        for name, weight in merged_weights(clip.model, adapter).items():
            model.get_parameter(name).copy_(weight)
    return replace(clip, model=model)
