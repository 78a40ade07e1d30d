"""Low-rank adaptation: the `Adapter`, an immutable value, and attaching one to a model to train it.

LoRA (Hu et al., arXiv:2106.09685) adds to a weight matrix W (out, in) a product of low rank, W' = W + s·B·A, with
A (r, in) random, B (out, r) zero at the start, so that training starts exactly at the base.
"""

import hashlib
import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from copra_lab.sites import Site, choose, find_sites

__all__ = ["NONE", "Adapter", "Attached", "LoRA", "LowRank"]


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
        """Read a PEFT folder, or ``hf-hub:owner/name``; with `clip`, hold it against that model. See `copra_lab.storage`."""
        from copra_lab.storage import load_adapter

        return load_adapter(folder, clip)


NONE = Adapter({})
"""No adapter: the base."""


def check_fits(adapter: Adapter, sites: Mapping[str, Site], base: str = "") -> None:
    """Raises ValueError if `adapter` was made for another base or has a site that is unknown or of another shape."""
    if base and adapter.base and adapter.base != base:
        raise ValueError(f"this adapter was trained on base {adapter.base:.16}, not on {base}; load the CLIP it was made from, or train it anew")
    for name, d in adapter.deltas.items():
        if name not in sites:
            raise ValueError(f"this CLIP has no site {name!r}; the adapter was made for another architecture")
        if d.shape != sites[name].shape:
            raise ValueError(f"site {name!r} is {sites[name].shape} in this CLIP and {d.shape} in the adapter; it was made for another architecture")


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


# --- training ------------------------------------------------------------------------------------------------------


class _Delta(nn.Module):
    """Adds deltas to rows of one weight. With its gates off it returns the weight itself: the base to the bit, and no
    gradient for A and B."""

    def __init__(self, sites: list[Site], config: LoRA, g: torch.Generator):
        super().__init__()
        self.sites, self.rows = sites, [(s.start, s.stop) for s in sites]
        self.scale, self.on = config.scale, [True] * len(sites)
        bound = 1 / math.sqrt(sites[0].width)  # Kaiming-uniform with a = √5
        drawn = [(torch.rand(config.rank, s.width, generator=g) * 2 - 1) * bound for s in sites]
        self.A = nn.ParameterList([nn.Parameter(a, requires_grad=config.train_a) for a in drawn])
        self.B = nn.ParameterList([torch.zeros(s.shape[0], config.rank) for s in sites])
        self.mask: Tensor | None = None

    def _a(self, i: int) -> Tensor:
        return self.A[i] if self.mask is None else self.A[i] * self.mask

    def forward(self, weight: Tensor) -> Tensor:
        if not any(self.on):
            return weight
        pieces, at = [], 0
        for i, on in enumerate(self.on):
            if on:
                start, stop = self.rows[i]
                pieces += [weight[at:start], weight[start:stop] + self.scale * (self.B[i] @ self._a(i))]
                at = stop
        return torch.cat([*pieces, weight[at:]])

    def factors(self, rows: int) -> tuple[Tensor, Tensor] | None:
        """What `forward` adds to a weight of so many rows, as two factors (R, in) and (rows, R); None if all is off."""
        on = [i for i, on in enumerate(self.on) if on]
        if not on:
            return None
        columns = [F.pad(self.scale * self.B[i], (0, 0, self.rows[i][0], rows - self.rows[i][1])) for i in on]
        return torch.cat([self._a(i) for i in on]), torch.cat(columns, dim=1)


class Attached:
    """LoRA on a model in training: parameters, a gate a site, and the adapter they make."""

    def __init__(self, model: nn.Module, config: LoRA, generator: torch.Generator, sites: "tuple[Site, ...] | None" = None):
        """On the sites that `config` names, or on the given ones of a model that is no CLIP."""
        self.model, self.config = model, config
        self.sites = sites or choose(find_sites(model), config.sites, config.towers)
        groups: dict[tuple[str, str], list[Site]] = {}
        for s in self.sites:
            groups.setdefault((s.module, s.parameter), []).append(s)
        model.requires_grad_(False)
        self._deltas: list[_Delta] = []
        for (module, parameter), members in groups.items():
            members.sort(key=lambda s: s.start)
            delta = _Delta(members, config, generator)
            owner = model.get_submodule(module)
            delta.to(getattr(owner, parameter).device)  # drawn on the processor, so that every device starts alike
            parametrize.register_parametrization(owner, parameter, delta, unsafe=True)
            self._deltas.append(delta)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every site, in a fixed order."""
        return [p for d in self._deltas for p in d.parameters()]

    def activate(self, sites: Iterable[str] | None = None) -> None:
        """Switch on exactly these sites (None: all); the others show the base. Raises ValueError for one without LoRA."""
        names = {s.name for s in self.sites}
        chosen = names if sites is None else set(sites)
        if unknown := chosen - names:
            raise ValueError(f"no LoRA sits on {sorted(unknown)[0]!r}; it sits on {self.sites[0].name!r} to {self.sites[-1].name!r}")
        for d in self._deltas:
            d.on = [s.name in chosen for s in d.sites]

    @property
    def active(self) -> frozenset[str]:
        """The sites that are switched on."""
        return frozenset(s.name for d in self._deltas for s, on in zip(d.sites, d.on, strict=True) if on)

    def drop_inputs(self, rate: float, generator: torch.Generator) -> None:
        """Draw which input features every delta ignores in the next step, one draw for the whole batch; 0: none."""
        for d in self._deltas:
            d.mask = None if rate == 0 else ((torch.rand(d.sites[0].width, generator=generator) >= rate).float() / (1 - rate)).to(d.A[0].device)

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every site on and nothing dropped, as in evaluation; afterwards all is as it was."""
        before = [(d.on, d.mask) for d in self._deltas]
        for d in self._deltas:
            d.on, d.mask = [True] * len(d.sites), None
        try:
            yield
        finally:
            for d, (on, mask) in zip(self._deltas, before, strict=True):
                d.on, d.mask = on, mask

    def factors(self, tower: str = "vision") -> dict[int, dict[str, tuple[Tensor, Tensor]]]:
        """By layer and part (``qkv`` for a fused weight, else the kind of site): the factors (R, in) and (out, R) of
        what the active sites add, with gradients."""
        out: dict[int, dict[str, tuple[Tensor, Tensor]]] = {}
        for d in self._deltas:
            first, part = d.sites[0], d.sites[0].part
            if first.tower == tower and (pair := d.factors(first.shape[0] * (3 if part == "qkv" else 1))):
                out.setdefault(first.layer, {})[part] = pair
        return out

    def adapter(self, base: str = "", provenance: Mapping[str, Any] | None = None) -> Adapter:
        """The deltas as they are now, copied to the processor's memory."""
        pairs = {}
        for d in self._deltas:
            for i, s in enumerate(d.sites):
                a, b = (x[i].detach().to("cpu", copy=True) for x in (d.A, d.B))
                pairs[s.name] = LowRank(a, b, d.scale)
        return Adapter({s.name: pairs[s.name] for s in self.sites}, base, provenance or {})

    def load(self, adapter: Adapter) -> None:
        """Take the numbers of `adapter`, which must have the same sites, rank and scale."""
        for d in self._deltas:
            for i, s in enumerate(d.sites):
                pair = adapter.deltas.get(s.name)
                if pair is None or pair.A.shape != d.A[i].shape or pair.B.shape != d.B[i].shape or pair.scale != d.scale:
                    raise ValueError(f"the adapter does not match these LoRA settings at {s.name!r}")
                with torch.no_grad():
                    d.A[i].copy_(pair.A)
                    d.B[i].copy_(pair.B)

    def detach(self) -> None:
        """Take LoRA off again and leave the base weights as they were."""
        for module in list(self.model.modules()):
            if parametrize.is_parametrized(module):
                for name in list(module.parametrizations):
                    parametrize.remove_parametrizations(module, name, leave_parametrized=False)
