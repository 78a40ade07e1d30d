"""LoLDU (arXiv:2410.13618): pivots of W's triangular decomposition are trained.

W = P·L·D·U with a permutation P, unit triangular L and U, and a diagonal D. The first r pivots z
and one scale σ are trained: ΔW = P·L_r·(σ·diag(z) − diag(D_r))·U_r.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from copra_lab.methods.parametrisation import (
    AdapterMethod,
    Parametrisation,
    Start,
    check_rank,
    room,
)
from copra_lab.models.sites import Site

__all__ = ["LoLDU"]

SMALLEST = 1e-4
"""Pivots below this share of the largest are not divided by: U's row would be huge."""


@dataclass(frozen=True)
class LoLDU(AdapterMethod):
    """LoLDU: r + 1 numbers a matrix, its first pivots and a scale of them.

    The authors' code starts with σ = α/r, which is not the base unless α = r; here σ = 1, so that
    ΔW starts at zero. What is trained is z − D and σ − 1, so that weight decay pulls to the base.

    Args:
        rank: r, how many pivots are trained; None for all that a matrix has.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a rank that is none.
    """

    rank: int | None = None
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_rank(self.rank)

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """The triangular factors of W, frozen."""
        rank = min(site.shape) if self.rank is None else self.rank
        room(rank, site)
        lower, pivots, upper = decomposed(start.weight)
        return _Pivots(lower[:, :rank], pivots[:rank], upper[:rank])

    def numbers(self, out: int, width: int) -> int:
        """As many as pivots, and the scale."""
        return 1 + (self.rank or min(out, width))


def decomposed(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """P·L (out, k), D (k) and U (k, in) with W = P·L·diag(D)·U, k the smaller side of W.

    Where a pivot is tiny beside the largest, its row of U is taken to be zero but for a 1.
    """
    p, lower, upper = torch.linalg.lu(w)
    pivots = upper.diagonal().clone()
    tiny = pivots.abs() < SMALLEST * pivots.abs().max()
    upper = upper / torch.where(tiny, 1, pivots)[:, None]
    return p @ lower, pivots, torch.where(tiny[:, None], torch.eye(*upper.shape), upper)


class _Pivots(Parametrisation):
    """P·L·(σ·diag(z) − diag(D))·U of one site."""

    def __init__(self, lower: Tensor, pivots: Tensor, upper: Tensor) -> None:
        super().__init__()
        self.lower = nn.Buffer(lower)
        self.pivots = nn.Buffer(pivots)
        self.upper = nn.Buffer(upper)
        self.shift = nn.Parameter(torch.zeros(len(pivots)))
        self.stretch = nn.Parameter(torch.zeros(1))

    def factors(self) -> tuple[Tensor, Tensor]:
        changed = self.shift + self.stretch * (self.pivots + self.shift)
        return self.upper, self.lower * changed
