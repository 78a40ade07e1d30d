"""The factors of several LoRA runs on one image tower, stacked so that they train together.

Shapes: L layers, k runs, R columns: the ranks of a run's matrices in one part of a block, side by
side, padded to those of the widest run.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor

from copra_lab.adapters.adapter import Adapter, LowRank
from copra_lab.engine.blocks import Down, Factors
from copra_lab.methods.input_dropout import InputDropout
from copra_lab.models.sites import Site

__all__ = ["StackedLoRA"]


@dataclass(eq=False)
class _Part:
    """One part of every block, such as the fused ``qkv``.

    Attributes:
        A: (L, k, R, in).
        B: (L, k, out, R); block-diagonal where the part holds several matrices.
        unit: for each column the unit that switches it, (L, k, R); 0 for padding.
        scale: s of each column, (k, R).
        block: which entries of B belong to a matrix, (k, out, R).
        trains: whether a run trains A, (k,).
    """

    A: Tensor
    B: Tensor
    unit: Tensor
    scale: Tensor
    block: Tensor
    trains: Tensor


@dataclass(frozen=True)
class _Where:
    """Where the stack holds a site of a run: part, layer, columns and rows."""

    part: str
    layer: int
    columns: slice
    rows: slice


Dropped = tuple[InputDropout, Collection[str]]
"""A run's dropout in one step, and the names of its sites that are on."""


class StackedLoRA:
    """A and B of k runs, as two tensors for each part of a block.

    Args:
        starts: The adapter that each run begins with, on sites of the image tower alone.
        units: For each run, its units: names of the sites that are switched together.
        sites: The sites of the model, by name.
        train_a: For each run whether A is trained, too.
        device: Where to train.
        dtype: Of A and B.

    Attributes:
        parts: by name; see `_Part`.
        first: for each run the number of its first unit among the units of all runs.
    """

    def __init__(
        self,
        starts: Sequence[Adapter],
        units: Sequence[Sequence[Sequence[str]]],
        sites: Mapping[str, Site],
        train_a: Sequence[bool],
        device: torch.device,
        dtype: torch.dtype = torch.float32,
    ) -> None:
        self.starts, self.sites = starts, sites
        self.where: list[dict[str, _Where]] = [self._places(a) for a in starts]
        layers = 1 + max(w.layer for places in self.where for w in places.values())
        self.layers, k = layers, len(starts)
        numbers, self.first = _numbered(units)
        self.parts: dict[str, _Part] = {}
        for part in dict.fromkeys(w.part for places in self.where for w in places.values()):
            inside = [
                (j, name, w)
                for j, places in enumerate(self.where)
                for name, w in places.items()
                if w.part == part
            ]
            width = sites[inside[0][1]].width
            rows = sites[inside[0][1]].shape[0] * (3 if part == "qkv" else 1)
            columns = max(w.columns.stop for _, _, w in inside)
            p = _Part(
                torch.zeros(layers, k, columns, width, dtype=dtype),
                torch.zeros(layers, k, rows, columns, dtype=dtype),
                torch.zeros(layers, k, columns, dtype=torch.int64),
                torch.zeros(k, columns),
                torch.zeros(k, rows, columns, dtype=torch.bool),
                torch.tensor(list(train_a)),
            )
            for j, name, w in inside:
                pair = starts[j].deltas[name]
                p.A[w.layer, j, w.columns] = pair.A
                p.B[w.layer, j, w.rows, w.columns] = pair.B
                p.unit[w.layer, j, w.columns] = numbers[j][name]
                p.scale[j, w.columns] = pair.scale
                p.block[j, w.rows, w.columns] = True
            for name in ("A", "B", "unit", "scale", "block", "trains"):
                setattr(p, name, getattr(p, name).to(device))
            p.A.requires_grad_()
            p.B.requires_grad_()
            self.parts[part] = p

    def _places(self, adapter: Adapter) -> dict[str, _Where]:
        """Where each site of a run stands; columns in the order of the sites' rows."""
        out: dict[str, _Where] = {}
        ends: dict[tuple[str, int], int] = {}
        for name in sorted(adapter.deltas, key=lambda n: self.sites[n].start):
            s = self.sites[name]
            begin = ends.get((s.part, s.layer), 0)
            end = ends[s.part, s.layer] = begin + adapter.deltas[name].rank
            out[name] = _Where(s.part, s.layer, slice(begin, end), slice(s.start, s.stop))
        return out

    def parameters(self) -> list[Tensor]:
        """A and B of each part."""
        return [x for p in self.parts.values() for x in (p.A, p.B)]

    def counts(self) -> list[tuple[int, ...]]:
        """For each of the parameters, the shape in which its steps are counted."""
        return [s for p in self.parts.values() for s in _shapes(p.unit)]

    def masks(self, on: Mapping[str, Tensor]) -> list[tuple[Tensor, Tensor]]:
        """For each of the parameters what is on, as `MaskedAdamW.step` takes it."""
        out = []
        for name, p in self.parts.items():
            down, up = (on[name].view(s) for s in _shapes(p.unit))
            learns = down & p.trains[:, None, None]
            out += [(learns, learns), (up, up & p.block)]
        return out

    def on(self, units: Tensor) -> dict[str, Tensor]:
        """Which columns are on, (L, k, R) each.

        Args:
            units: boolean, (1 + all units); the first stands for padding and is off.
        """
        return {name: units[p.unit] for name, p in self.parts.items()}

    def factors(
        self,
        on: Mapping[str, Tensor],
        runs: Sequence[int],
        drops: Sequence[Dropped | None] = (),
        images: int = 0,
    ) -> list[Factors]:
        """What each layer adds, with gradients.

        Args:
            on: as `on` gives it.
            runs: k numbers of runs, in the order of their images.
            drops: the dropout of each and the sites that are on; None for a run without.
            images: of one run, n; needed for dropout.

        Returns:
            For each layer: part → A (k, R, in), and B (k, out, R) times the scale and zero where
            off. With dropout a function is in the place of A: x (mn, t, in) → dropout(x)·Aᵀ of
            the first m runs, (m, nt, R).
        """
        out: list[dict[str, tuple[Down, Tensor]]] = [{} for _ in range(self.layers)]
        for name, p in self.parts.items():
            a, b = p.A, p.B * (p.scale * on[name])[:, :, None]
            if list(runs) != list(range(len(self.starts))):
                a, b = a[:, list(runs)], b[:, list(runs)]
            for layer, (down, up) in enumerate(zip(a.unbind(0), b.unbind(0), strict=True)):
                dropped = partial(self._dropped, layer, name, down, runs, drops, images)
                out[layer][name] = dropped if any(drops) else down, up
        return list(out)

    def _dropped(
        self,
        layer: int,
        part: str,
        a: Tensor,
        runs: Sequence[int],
        drops: Sequence[Dropped | None],
        images: int,
        x: Tensor,
    ) -> Tensor:
        """dropout(x)·Aᵀ of the first runs, each with masks of its own: (mn, t, in) → (m, nt, R)."""
        downs = []
        for i, own in enumerate(x.split(images)):
            if (dropped := drops[i]) is None:
                downs.append((own @ a[i].mT.to(x.dtype)).flatten(0, 1))
                continue
            down = x.new_zeros((*own.shape[:2], a.shape[1]))
            drop, on = dropped
            for name, w in self.where[runs[i]].items():
                # what is off draws no mask, as when the run is alone
                if (w.layer, w.part) == (layer, part) and name in on:
                    kept = drop(own, self.sites[name])
                    down[..., w.columns] = kept @ a[i, w.columns].mT.to(x.dtype)
            downs.append(down.flatten(0, 1))
        return torch.stack(downs)

    def load(self, run: int, adapter: Adapter) -> None:
        """Let a run continue from `adapter`.

        Raises:
            ValueError: Unless it has the same sites, ranks and scales.
        """
        for name, pair in self.starts[run].deltas.items():
            other = adapter.deltas.get(name)
            if other is None or (other.rank, other.scale) != (pair.rank, pair.scale):
                raise ValueError(f"the adapter does not match these LoRA settings at {name!r}")
        with torch.no_grad():
            for name, w in self.where[run].items():
                p, pair = self.parts[w.part], adapter.deltas[name]
                p.A[w.layer, run, w.columns] = pair.A.to(p.A)
                p.B[w.layer, run, w.rows, w.columns] = pair.B.to(p.B)

    def adapter(self, run: int, base: str, provenance: Mapping[str, Any]) -> Adapter:
        """The adapter of one run as it is now, a copy on the processor."""
        pairs = {}
        for name, pair in self.starts[run].deltas.items():
            w = self.where[run][name]
            p = self.parts[w.part]
            a = p.A[w.layer, run, w.columns].detach().to("cpu", copy=True)
            b = p.B[w.layer, run, w.rows, w.columns].detach().to("cpu", copy=True)
            pairs[name] = LowRank(a.contiguous(), b.contiguous(), pair.scale)
        return Adapter(pairs, base, provenance)


def _shapes(unit: Tensor) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """Shapes of a mask of columns (L, k, R) beside A and beside B."""
    layers, k, columns = unit.shape
    return (layers, k, columns, 1), (layers, k, 1, columns)


def _numbered(
    units: Sequence[Sequence[Sequence[str]]],
) -> tuple[list[dict[str, int]], list[int]]:
    """Number the units of all runs from 1: site → number for each run, and each run's first."""
    numbers: list[dict[str, int]] = []
    first, at = [], 1
    for of_run in units:
        first.append(at)
        numbers.append({site: at + i for i, sites in enumerate(of_run) for site in sites})
        at += len(of_run)
    return numbers, first
