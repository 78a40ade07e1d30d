"""After SLTrain (arXiv:2406.02214): low rank and a few entries at random places.

ΔW = B·A + S, where S has a value at `share` of the entries, drawn once. The paper trains W itself
so, from scratch; here it is a change of W.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from copra_lab.methods.dense import Dense
from copra_lab.methods.parametrisation import (
    AdapterMethod,
    Parametrisation,
    Start,
    check_rank,
    check_share,
    kaiming,
)
from copra_lab.models.sites import Site

__all__ = ["SLTrain"]


@dataclass(frozen=True)
class SLTrain(AdapterMethod):
    """After SLTrain: LoRA and a sparse part on a fixed random support.

    Args:
        rank: r of the low-rank part; 0 for none, which leaves the sparse part alone (as SHiRA).
        share: Of the entries of a matrix, those with a value of their own; 0 is LoRA.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these, or with nothing to train.
    """

    rank: int = 4
    share: float = 0.03
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)

    def __post_init__(self) -> None:
        if self.rank != 0:
            check_rank(self.rank)
        check_share("share", self.share)
        if self.rank == 0 and self.share == 0:
            raise ValueError("with rank 0 and share 0 there is nothing to train; give one of them")

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A and the support are drawn; B and the values start at zero."""
        a = kaiming(self.rank, site.width, start.generator) if self.rank else None
        entries = site.shape[0] * site.shape[1]
        support = torch.empty(0, dtype=torch.int64)
        if count := self._values(entries):
            support = torch.randperm(entries, generator=start.generator)[:count]
        return _LowRankAndSparse(a, support.sort().values, site.shape)

    def numbers(self, out: int, width: int) -> int:
        """r·(out + in), and a value for each entry of the support."""
        return self.rank * (out + width) + self._values(out * width)

    def _values(self, entries: int) -> int:
        return round(self.share * entries)


class _LowRankAndSparse(Dense):
    """B·A + S of one site."""

    def __init__(self, a: Tensor | None, support: Tensor, shape: tuple[int, int]) -> None:
        super().__init__()
        self.shape = shape
        self.A = None if a is None else nn.Parameter(a)
        self.B = None if a is None else nn.Parameter(torch.zeros(shape[0], len(a)))
        self.support = nn.Buffer(support)
        self.values = nn.Parameter(torch.zeros(len(support)))

    def delta(self) -> Tensor:
        sparse = self.values.new_zeros(self.shape).flatten()
        found = sparse.index_put((self.support,), self.values).view(self.shape)
        return found if self.A is None or self.B is None else self.B @ self.A + found
