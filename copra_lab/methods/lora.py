"""LoRA (Hu et al., arXiv:2106.09685): its settings, and the layers that are trained.

`LoRA` says how to adapt; `Attached` puts it on a model, each site with its A, its B and a gate
that switches it on and off.
"""

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
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.models.sites import Site, choose, find_sites
from copra_lab.utils.checks import one_of

__all__ = ["Attached", "LoRA"]

MOST_RANK = 2**16


@dataclass(frozen=True)
class LoRA:
    """How to adapt: W becomes W + s·B·A.

    The defaults are those of CLIP-LoRA (arXiv:2405.18541), but for a rank that suits a small CLIP.

    Args:
        rank: r, the number of rows of A and of columns of B; from 1 to 65,536.
        alpha: Sets the scale s together with `scaling`; None means s = 1.
        scaling: ``"alpha/r"`` (the LoRA paper) or ``"alpha/sqrt(r)"`` (CLIP-LoRA).
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.
        train_a: False leaves A as it was drawn (FFA-LoRA, Sun et al., arXiv:2403.12313). The
            deltas of clients that share A then average exactly in the factors.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 4
    alpha: float | None = None
    scaling: str = "alpha/r"
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    train_a: bool = True

    def __post_init__(self) -> None:
        if not isinstance(self.rank, int) or not 1 <= self.rank <= MOST_RANK:
            most = f"at least 1 and at most {MOST_RANK}"
            raise ValueError(f"rank must be a whole number of {most}, got {self.rank!r:.40}")
        one_of("scaling", self.scaling, ("alpha/r", "alpha/sqrt(r)"))
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")

    @property
    def scale(self) -> float:
        """The factor s of B·A."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (self.rank if self.scaling == "alpha/r" else math.sqrt(self.rank))

    def attach(self, model: nn.Module, generator: torch.Generator) -> "Attached":
        """Put this LoRA on `model` for training; the generator draws A, and B starts at zero.

        A variant of LoRA overrides this with a subclass of `Attached`.
        """
        return Attached(model, self, generator)


class _Delta(nn.Module):
    """The deltas of one weight, as a parametrization of it.

    With every gate off it returns the weight itself: the base to the bit, and no gradient for A
    and B.
    """

    def __init__(
        self, owner: nn.Module, sites: list[Site], config: LoRA, g: torch.Generator
    ) -> None:
        super().__init__()
        self.sites, self.rows = sites, [(s.start, s.stop) for s in sites]
        self.scale, self.on = config.scale, [True] * len(sites)
        bound = 1 / math.sqrt(sites[0].width)  # Kaiming-uniform with a = √5
        drawn = [(torch.rand(config.rank, s.width, generator=g) * 2 - 1) * bound for s in sites]
        self.A = nn.ParameterList([nn.Parameter(a, requires_grad=config.train_a) for a in drawn])
        self.B = nn.ParameterList([torch.zeros(s.shape[0], config.rank) for s in sites])
        self.dropout: InputDropout | None = None
        self.owner: nn.Module
        object.__setattr__(self, "owner", owner)  # not as a submodule: it would hold itself
        self.handles: list[Any] = []

    @property
    def active(self) -> list[int]:
        """The indices of the sites that are switched on."""
        return [i for i, on in enumerate(self.on) if on]

    def forward(self, weight: Tensor) -> Tensor:
        """The weight with its deltas; with dropout, what the hooks of `see_inputs` need."""
        if not any(self.on):
            return weight
        if self.dropout:
            return self._without_deltas(weight)
        pieces, at = [], 0
        for i in self.active:
            start, stop = self.rows[i]
            delta = self.scale * (self.B[i] @ self.A[i])
            pieces += [weight[at:start], weight[start:stop] + delta]
            at = stop
        return torch.cat([*pieces, weight[at:]])

    def _without_deltas(self, weight: Tensor) -> Tensor:
        """What a forward pass multiplies by where hooks add the branch."""
        if isinstance(self.owner, nn.MultiheadAttention):  # the hooks multiply by the weight
            eye = torch.eye(weight.shape[1], dtype=weight.dtype, device=weight.device)
            return eye.repeat(len(weight) // len(eye), 1)
        if isinstance(self.owner, nn.Linear):
            return weight
        raise ValueError(
            f"dropout needs the inputs of {self.sites[0].module}, which "
            f"{type(self.owner).__name__} does not show; train without dropout"
        )

    def branch(self, x: Tensor, rows: int) -> Tensor:
        """s·dropout(x)·Aᵀ·Bᵀ of the active sites, each with separate masks: (…, rows)."""
        assert self.dropout
        added = x.new_zeros(*x.shape[:-1], rows)
        for i in self.active:
            down = self.dropout(x, self.sites[i]) @ self.A[i].T.to(x.dtype)
            start, stop = self.rows[i]
            up = down @ (self.scale * self.B[i]).T.to(x.dtype)
            added = added + F.pad(up, (start, rows - stop))
        return added

    def see_inputs(self) -> None:
        """Hook into the module that holds the weight, which alone never sees an input to drop."""
        owner = self.owner
        if self.handles:
            return
        if isinstance(owner, nn.Linear):
            self.handles = [owner.register_forward_hook(self._add_branch)]
        elif isinstance(owner, nn.MultiheadAttention) and self.sites[0].kind == "out":
            self.handles = [owner.register_forward_hook(self._project_last)]
        elif isinstance(owner, nn.MultiheadAttention):
            hook = owner.register_forward_pre_hook(self._project_first, with_kwargs=True)
            self.handles = [hook]

    def _add_branch(self, owner: Any, inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        if not self.dropout or not self.active:
            return None
        return output + self.branch(inputs[0], output.shape[-1])

    def _project_first(self, owner: Any, inputs: tuple, named: dict) -> tuple[tuple, dict] | None:
        """Replace queries, keys and values by their projections, branch included.

        torch's attention then multiplies them by the identity that `forward` returns, adds its
        bias, and does the rest itself.
        """
        if not self.dropout or not self.active:
            return None
        call = dict(zip(_ATTENTION_ARGUMENTS, inputs, strict=False)) | named
        weights = owner.parametrizations.in_proj_weight.original.chunk(3)
        for name, weight, kind in zip(_ATTENTION_ARGUMENTS, weights, "qkv", strict=False):
            x = call[name] if owner.batch_first else call[name].transpose(0, 1)
            y = F.linear(x, weight)
            for i in self.active:
                if self.sites[i].kind == kind:
                    down = self.dropout(x, self.sites[i]) @ self.A[i].T.to(x.dtype)
                    y = y + down @ (self.scale * self.B[i]).T.to(x.dtype)
            call[name] = y if owner.batch_first else y.transpose(0, 1)
        return (), call

    def _project_last(self, owner: Any, inputs: tuple, output: tuple) -> tuple | None:
        """Multiply by the weight of the output projection, branch included.

        The output is what the heads found times the identity that `forward` returns, plus a bias.
        """
        if not self.dropout or not self.active:
            return None
        weight, bias = owner.out_proj.parametrizations.weight.original, owner.out_proj.bias
        found = output[0] if bias is None else output[0] - bias
        x = found if owner.batch_first else found.transpose(0, 1)
        y = F.linear(x, weight, bias) + self.branch(x, len(weight))
        return (y if owner.batch_first else y.transpose(0, 1), *output[1:])


_ATTENTION_ARGUMENTS = (
    "query", "key", "value", "key_padding_mask", "need_weights", "attn_mask",
    "average_attn_weights", "is_causal",
)  # fmt: skip
"""Those of `nn.MultiheadAttention.forward`, in order."""


def _seer(model: nn.Module, module: str) -> nn.Module:
    """The module whose call shows the inputs of `module`'s weight."""
    parent = model.get_submodule(module.rpartition(".")[0])
    # which reads the weight of its output projection, and never calls it
    return parent if isinstance(parent, nn.MultiheadAttention) else model.get_submodule(module)


class Attached:
    """LoRA on a model in training: parameters, a gate for each site, and the adapter they make."""

    def __init__(
        self,
        model: nn.Module,
        config: LoRA,
        generator: torch.Generator,
        sites: tuple[Site, ...] | None = None,
    ) -> None:
        """Attach LoRA and freeze everything else.

        Args:
            model: The model to adapt; its own weights stay as they are.
            config: The settings.
            generator: Draws A.
            sites: Where, for a model that is not a CLIP; by default what `config` names.
        """
        self.model, self.config = model, config
        self.sites = sites or choose(find_sites(model), config.sites, config.towers)
        groups: dict[tuple[str, str], list[Site]] = {}
        for s in self.sites:
            groups.setdefault((s.module, s.parameter), []).append(s)
        model.requires_grad_(False)
        self._deltas: list[_Delta] = []
        for (module, parameter), members in groups.items():
            members.sort(key=lambda s: s.start)
            owner = model.get_submodule(module)
            delta = _Delta(_seer(model, module), members, config, generator)
            # drawn on the processor, so that every device starts alike
            delta.to(getattr(owner, parameter).device)
            parametrize.register_parametrization(owner, parameter, delta, unsafe=True)
            self._deltas.append(delta)

    def parameters(self) -> list[nn.Parameter]:
        """A and B of every site, in a fixed order."""
        return [p for d in self._deltas for p in d.parameters()]

    def activate(self, sites: Iterable[str] | None = None) -> None:
        """Switch on exactly these sites; the others show the base.

        Args:
            sites: Names of sites; None means all.

        Raises:
            ValueError: For the name of a site without LoRA.
        """
        names = {s.name for s in self.sites}
        chosen = names if sites is None else set(sites)
        if unknown := chosen - names:
            first, last = self.sites[0].name, self.sites[-1].name
            raise ValueError(f"no LoRA sits on {min(unknown)!r}; it sits on {first!r} to {last!r}")
        for d in self._deltas:
            d.on = [s.name in chosen for s in d.sites]

    @property
    def active(self) -> frozenset[str]:
        """The names of the sites that are switched on."""
        return frozenset(
            s.name for d in self._deltas for s, on in zip(d.sites, d.on, strict=True) if on
        )

    @property
    def dropout(self) -> InputDropout | None:
        """The dropout that is set; None without."""
        return self._deltas[0].dropout

    def drop_inputs(self, dropout: InputDropout | None) -> None:
        """Set the dropout on the inputs of all branches; None or a rate of 0 takes it away."""
        dropout = dropout if dropout and dropout.rate else None
        for d in self._deltas:
            d.dropout = dropout
            if dropout:
                d.see_inputs()

    @contextmanager
    def whole(self) -> Iterator[None]:
        """Every site on and nothing dropped, as in evaluation; afterwards all is as it was."""
        before = [(d.on, d.dropout) for d in self._deltas]
        for d in self._deltas:
            d.on, d.dropout = [True] * len(d.sites), None
        try:
            yield
        finally:
            for d, (on, dropout) in zip(self._deltas, before, strict=True):
                d.on, d.dropout = on, dropout

    def adapter(self, base: str = "", provenance: Mapping[str, Any] | None = None) -> Adapter:
        """The deltas as they are now, copied to the processor's memory."""
        pairs = {}
        for d in self._deltas:
            for i, s in enumerate(d.sites):
                a, b = (x[i].detach().to("cpu", copy=True) for x in (d.A, d.B))
                pairs[s.name] = LowRank(a, b, d.scale)
        return Adapter({s.name: pairs[s.name] for s in self.sites}, base, provenance or {})

    def load(self, adapter: Adapter) -> None:
        """Continue from `adapter`.

        Raises:
            ValueError: Unless it has the same sites, rank and scale.
        """
        for d in self._deltas:
            for i, s in enumerate(d.sites):
                pair = adapter.deltas.get(s.name)
                own = (d.A[i].shape, d.B[i].shape, d.scale)
                if pair is None or (pair.A.shape, pair.B.shape, pair.scale) != own:
                    raise ValueError(
                        f"the adapter does not match these LoRA settings at {s.name!r}"
                    )
                with torch.no_grad():
                    d.A[i].copy_(pair.A)
                    d.B[i].copy_(pair.B)

    def detach(self) -> None:
        """Remove LoRA and leave the base weights as they were."""
        for d in self._deltas:
            for handle in d.handles:
                handle.remove()
            site = d.sites[0]
            parametrize.remove_parametrizations(
                self.model.get_submodule(site.module), site.parameter, leave_parametrized=False
            )
