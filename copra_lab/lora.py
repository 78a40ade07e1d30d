"""Low-rank adaptation: its settings, and the `Adapter`, an immutable value.

LoRA (Hu et al., arXiv:2106.09685) adds to a weight matrix W (out, in) a product of low rank, W' = W + s·B·A, with
A (r, in) random, B (out, r) zero at the start, so that training starts exactly at the base.
"""

import copy
import hashlib
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn

from copra_lab.clip import Clip, check_base
from copra_lab.sites import Site, find_sites, no_sites, parse

__all__ = ["NONE", "Adapter", "LoRA", "LowRank", "merged_into"]


@dataclass(frozen=True)
class LoRA:
    """How to adapt: the settings that CLIP-LoRA (arXiv:2405.18541) uses, but for a rank that suits a small CLIP.

    ``rank`` r ≥ 1; ``alpha`` and ``scaling`` give the scale s: alpha / r (``"alpha/r"``, the LoRA paper) or alpha / √r
    (``"alpha/sqrt(r)"``, CLIP-LoRA). ``alpha=None`` means s = 1. ``sites`` from q, k, v, out, fc1, fc2; ``towers`` from
    vision, text. ``train_a=False`` leaves A as it was drawn (FFA-LoRA, Sun et al., arXiv:2403.12313): the deltas of
    clients that share A then average exactly in the factors.
    """

    rank: int = 4
    alpha: float | None = None
    scaling: str = "alpha/r"
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    train_a: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or not 1 <= self.rank <= 2**16:
            raise ValueError(f"rank must be a whole number of at least 1 and at most 65536, got {self.rank!r:.40}")
        if self.scaling not in ("alpha/r", "alpha/sqrt(r)"):
            raise ValueError(f"scaling must be 'alpha/r' or 'alpha/sqrt(r)', got {self.scaling!r}")
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")

    @property
    def scale(self) -> float:
        """s, by which B·A is multiplied."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (self.rank if self.scaling == "alpha/r" else math.sqrt(self.rank))


@dataclass(frozen=True, eq=False)
class LowRank:
    """One delta s·B·A of a weight matrix (out, in): ``A`` (r, in), ``B`` (out, r), ``scale`` s."""

    A: Tensor
    B: Tensor
    scale: float = 1.0

    def __post_init__(self) -> None:
        if self.A.ndim != 2 or self.B.ndim != 2 or self.A.shape[0] != self.B.shape[1] or self.A.shape[0] < 1:
            raise ValueError(f"A (r, in) and B (out, r) must share a rank of at least 1, got {tuple(self.A.shape)} and {tuple(self.B.shape)}")

    def __repr__(self) -> str:
        return f"LowRank({self.shape[0]}×{self.shape[1]}, rank {self.rank}, scale {self.scale:g})"

    @property
    def rank(self) -> int:
        """r, of A and B; that of the delta is as high at most."""
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
    """What fine-tuning learnt: a `LowRank` for each site, never changed after it is made.

    ``base`` is the `Clip.hash` of the weights it was trained on ("" if unknown); ``provenance`` says how it came to
    be, in words and numbers that JSON can hold. Two adapters are equal when their numbers and their base are.
    """

    deltas: Mapping[str, LowRank]
    base: str = ""
    provenance: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        object.__setattr__(self, "deltas", MappingProxyType(dict(self.deltas)))
        object.__setattr__(self, "provenance", MappingProxyType(dict(self.provenance)))

    @cached_property
    def hash(self) -> str:
        """Sixteen hex digits that name the numbers in this adapter."""
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
        return f"Adapter({', '.join([*words, f'{len(self)} sites', f'rank {self.rank}', f'{self.parameters:,} numbers'])})"

    @property
    def rank(self) -> int:
        """The highest rank of any site; 0 for an adapter without sites."""
        return max((d.rank for d in self.deltas.values()), default=0)

    @property
    def parameters(self) -> int:
        """How many numbers A and B hold."""
        return sum(d.A.numel() + d.B.numel() for d in self.deltas.values())

    def keep(self, sites: Iterable[str]) -> "Adapter":
        """The adapter with these sites only. Raises ValueError for a site it does not have."""
        sites = set(sites)
        if missing := sites - set(self.deltas):
            raise ValueError(f"the adapter has no site {sorted(missing)[0]!r}")
        return Adapter({n: d for n, d in self.deltas.items() if n in sites}, self.base, self.provenance)

    def save(self, folder) -> None:
        """Write a PEFT folder that peft itself loads on a Hugging Face CLIP; see `copra_lab.storage`."""
        from copra_lab.storage import save_adapter

        save_adapter(self, folder)

    def push_to_hub(self, repo: str, *, private: bool = False, token: str | None = None) -> str:
        """Publish it with a model card on the Hugging Face hub as ``owner/name``; the address. See `copra_lab.hub`."""
        from copra_lab.hub import push_to_hub

        return push_to_hub(self, repo, private=private, token=token)

    @staticmethod
    def load(folder, clip=None) -> "Adapter":
        """Read a PEFT folder, ``hf-hub:owner/name``, or a file of another tool; with `clip`, hold it against that model. See `copra_lab.storage`."""
        from copra_lab.storage import load_adapter

        return load_adapter(folder, clip)


NONE = Adapter({})
"""No adapter: the base."""


def check_fits(adapter: Adapter, sites: Mapping[str, Site], base: str = "") -> None:
    """Raises ValueError if `adapter` was made for another base or has a site that is unknown or of another shape."""
    check_base("adapter", adapter.base, base)
    for name, d in adapter.deltas.items():
        if name not in sites:
            raise ValueError(_missing(name, adapter, sites))
        if d.shape != sites[name].shape:
            raise ValueError(f"site {name!r} is {sites[name].shape} in this CLIP and {d.shape} in the adapter; it was made for another architecture")


def _missing(name: str, adapter: Adapter, sites: Mapping[str, Site]) -> str:
    """Why a CLIP has no site of this name."""
    found = parse(name)
    if found is None:
        return no_sites([n for n in adapter.deltas if parse(n) is None], adapter.deltas)
    depth = 1 + max((s.layer for s in sites.values() if s.tower == found[0]), default=-1)
    if found[1] < depth or not depth:
        return f"this CLIP has no site {name!r}; the adapter was made for another architecture"
    words = {"vision": "image", "text": "text"}[found[0] or "vision"]
    return (
        f"the adapter reaches layer {found[1]} of the {words} tower, whose layers are 0 to {depth - 1} in this CLIP; load the CLIP it was made from"
    )


def deltas_in(adapter: Adapter, sites: Mapping[str, Site], tower: str) -> dict[Site, LowRank]:
    """What `adapter` adds to one tower, by site."""
    return {sites[n]: d for n, d in adapter.deltas.items() if sites[n].tower == tower}


def merged_weights(model: nn.Module, adapter: Adapter) -> dict[str, Tensor]:
    """The weights that `adapter` changes, by parameter name, with its deltas added; `model` is only read."""
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
    """A CLIP of its own, with the deltas of `adapter` added to its weights. Raises ValueError for one of another base or shape."""
    check_fits(adapter, clip.sites, clip.hash)
    model = copy.deepcopy(clip.model)
    with torch.no_grad():
        for name, weight in merged_weights(clip.model, adapter).items():
            model.get_parameter(name).copy_(weight)
    return replace(clip, model=model)
