"""A method on a model in training: each site with its parametrisation and a gate.

The gate switches a site on and off; one that is off shows the base, to the bit.
"""

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.utils import parametrize

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.methods.parametrisation import (
    AdapterMethod,
    ParameterGroup,
    Parametrisation,
    Start,
)
from copra_lab.models.sites import Site, choose, find_sites

__all__ = ["Attached"]


class _Delta(nn.Module):
    """The deltas of one weight, as a parametrization of it.

    With every gate off it returns the weight itself: the base to the bit, and no gradient.
    """

    def __init__(self, owner: nn.Module, sites: list[Site], parts: list[Parametrisation]) -> None:
        super().__init__()
        self.sites, self.rows = sites, [(s.start, s.stop) for s in sites]
        self.on = [True] * len(sites)
        self.parts, self.registered = parts, nn.ModuleList(parts)
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
            pieces += [weight[at:start], weight[start:stop] + self.parts[i].delta()]
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
        """dropout(x)·Aᵀ·Bᵀ of the active sites, each with separate masks: (…, rows)."""
        assert self.dropout
        added = x.new_zeros(*x.shape[:-1], rows)
        for i in self.active:
            start, stop = self.rows[i]
            added = added + F.pad(self.dropped(x, i), (start, rows - stop))
        return added

    def dropped(self, x: Tensor, i: int) -> Tensor:
        """dropout(x)·Aᵀ·Bᵀ of one site, (…, out)."""
        assert self.dropout
        a, b = self.parts[i].factors()
        down = self.dropout(x, self.sites[i]) @ a.T.to(x.dtype)
        return down @ b.T.to(x.dtype)

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
                    y = y + self.dropped(x, i)
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
    """A method on a model in training: parameters, a gate for each site, the adapter they make.

    Attributes:
        sites: Where.
        parts: What is trained at each, by the site's name.
    """

    def __init__(
        self,
        model: nn.Module,
        config: AdapterMethod,
        generator: torch.Generator,
        sites: tuple[Site, ...] | None = None,
        gradients: Mapping[str, Tensor] | None = None,
    ) -> None:
        """Attach a method and freeze everything else.

        Args:
            model: The model to adapt; its own weights stay as they are.
            config: The settings.
            generator: Draws the start.
            sites: Where, for a model that is not a CLIP; by default what `config` names.
            gradients: Of the sites' weights, by name, for a method that asks for them.

        Raises:
            ValueError: For a setting that a site has no room for.
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
            weight = getattr(owner, parameter)
            parts = []
            for s in members:
                # made on the processor, so that every device starts alike
                own = weight.detach()[s.start : s.stop].float()
                own = own if own.is_meta else own.cpu()  # a meta tensor has no numbers to bring
                start = Start(own, generator, (gradients or {}).get(s.name))
                parts.append(config.parametrise(s, start))
            delta = _Delta(_seer(model, module), members, parts).to(weight.device)
            parametrize.register_parametrization(owner, parameter, delta, unsafe=True)
            delta.train()  # whatever the model is: it is a frozen one, and set to evaluate
            self._deltas.append(delta)
        found = {s.name: p for d in self._deltas for s, p in zip(d.sites, d.parts, strict=True)}
        self.parts: dict[str, Parametrisation] = {s.name: found[s.name] for s in self.sites}

    def parameters(self) -> list[nn.Parameter]:
        """What is trained, site by site, in a fixed order."""
        return [p for d in self._deltas for p in d.parameters()]

    def buffers(self) -> list[Tensor]:
        """What is frozen or counted, in a fixed order."""
        return [b for d in self._deltas for b in d.buffers()]

    def groups(self) -> list[ParameterGroup]:
        """The parameters of all sites, together where rate and decay are the same."""
        alike: dict[tuple[float, float | None], list[nn.Parameter]] = {}
        for d in self._deltas:
            for part in d.parts:
                for g in part.groups():
                    alike.setdefault((g.rate, g.weight_decay), []).extend(g.parameters)
        return [ParameterGroup(own, *rates) for rates, own in alike.items()]

    def activate(self, sites: Iterable[str] | None = None) -> None:
        """Switch on exactly these sites; the others show the base.

        Args:
            sites: Names of sites; None means all.

        Raises:
            ValueError: For the name of a site that is not adapted.
        """
        names = {s.name for s in self.sites}
        chosen = names if sites is None else set(sites)
        if unknown := chosen - names:
            first, last = self.sites[0].name, self.sites[-1].name
            raise ValueError(
                f"no {type(self.config).__name__} sits on {min(unknown)!r}; "
                f"it sits on {first!r} to {last!r}"
            )
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
        before = [(d.on, d.dropout, d.training) for d in self._deltas]
        for d in self._deltas:
            d.on, d.dropout = [True] * len(d.sites), None
            d.eval()
        try:
            yield
        finally:
            for d, (on, dropout, training) in zip(self._deltas, before, strict=True):
                d.on, d.dropout = on, dropout
                d.train(training)

    @torch.no_grad()
    def adapter(self, base: str = "", provenance: Mapping[str, Any] | None = None) -> Adapter:
        """The deltas as they are now, copied to the processor's memory."""
        with self.whole():
            found = {name: part.result() for name, part in self.parts.items()}
        pairs = {name: _copied(pair) for name, pair in found.items() if pair}
        return Adapter(pairs, base, provenance or {})

    def load(self, adapter: Adapter) -> None:
        """Continue from `adapter`.

        Raises:
            ValueError: Unless it has the same sites, rank and scale, and the method can.
        """
        for name, part in self.parts.items():
            if (pair := adapter.deltas.get(name)) is None:
                raise ValueError(f"the adapter does not match these settings: it lacks {name!r}")
            part.load(pair, name)

    def detach(self) -> None:
        """Remove the method and leave the base weights as they were."""
        for d in self._deltas:
            for handle in d.handles:
                handle.remove()
            site = d.sites[0]
            parametrize.remove_parametrizations(
                self.model.get_submodule(site.module), site.parameter, leave_parametrized=False
            )


def _copied(pair: LowRank) -> LowRank:
    a, b = (x.detach().to("cpu", copy=True).contiguous() for x in (pair.A, pair.B))
    return LowRank(a, b, pair.scale)
