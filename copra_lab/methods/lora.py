"""LoRA (Hu et al., arXiv:2106.09685): its settings, and LoRA on a model in training, every site with its A and B and a gate that
switches it on and off."""

import math
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.models.sites import Site, choose, find_sites

__all__ = ["Attached", "LoRA"]


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
            raise ValueError(
                f"rank must be a whole number of at least 1 and at most 65536, got {self.rank!r:.40}"
            )
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
                pieces += [
                    weight[at:start],
                    weight[start:stop] + self.scale * (self.B[i] @ self._a(i)),
                ]
                at = stop
        return torch.cat([*pieces, weight[at:]])

    def factors(self, rows: int) -> tuple[Tensor, Tensor] | None:
        """What `forward` adds to a weight of so many rows, as two factors (R, in) and (rows, R); None if all is off."""
        on = [i for i, on in enumerate(self.on) if on]
        if not on:
            return None
        columns = [
            F.pad(self.scale * self.B[i], (0, 0, self.rows[i][0], rows - self.rows[i][1]))
            for i in on
        ]
        return torch.cat([self._a(i) for i in on]), torch.cat(columns, dim=1)


class Attached:
    """LoRA on a model in training: parameters, a gate a site, and the adapter they make."""

    def __init__(
        self,
        model: nn.Module,
        config: LoRA,
        generator: torch.Generator,
        sites: "tuple[Site, ...] | None" = None,
    ):
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
            delta.to(
                getattr(owner, parameter).device
            )  # drawn on the processor, so that every device starts alike
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
            raise ValueError(
                f"no LoRA sits on {sorted(unknown)[0]!r}; it sits on {self.sites[0].name!r} to {self.sites[-1].name!r}"
            )
        for d in self._deltas:
            d.on = [s.name in chosen for s in d.sites]

    @property
    def active(self) -> frozenset[str]:
        """The sites that are switched on."""
        return frozenset(
            s.name for d in self._deltas for s, on in zip(d.sites, d.on, strict=True) if on
        )

    def drop_inputs(self, rate: float, generator: torch.Generator) -> None:
        """Draw which input features every delta ignores in the next step, one draw for the whole batch; 0: none."""
        for d in self._deltas:
            d.mask = (
                None
                if rate == 0
                else (
                    (torch.rand(d.sites[0].width, generator=generator) >= rate).float() / (1 - rate)
                ).to(d.A[0].device)
            )

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
            if first.tower == tower and (
                pair := d.factors(first.shape[0] * (3 if part == "qkv" else 1))
            ):
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
                if (
                    pair is None
                    or pair.A.shape != d.A[i].shape
                    or pair.B.shape != d.B[i].shape
                    or pair.scale != d.scale
                ):
                    raise ValueError(
                        f"the adapter does not match these LoRA settings at {s.name!r}"
                    )
                with torch.no_grad():
                    d.A[i].copy_(pair.A)
                    d.B[i].copy_(pair.B)

    def detach(self) -> None:
        """Take LoRA off again and leave the base weights as they were."""
        for d in self._deltas:
            site = d.sites[0]
            parametrize.remove_parametrizations(
                self.model.get_submodule(site.module), site.parameter, leave_parametrized=False
            )
