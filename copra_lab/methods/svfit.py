"""SVFit (arXiv:2409.05926): the largest singular values of W are trained, its directions stay.

With W = U·diag(σ)·Vᵀ the change is ΔW = U_r·diag(δ)·V_rᵀ, and δ (r) starts at zero. All runs on one
base share U and V, so that averaging their ΔW is averaging their δ.
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

__all__ = ["SVFit"]


@dataclass(frozen=True)
class SVFit(AdapterMethod):
    """SVFit: r numbers a matrix, what is added to its largest singular values.

    Args:
        rank: r, how many singular values are trained; None for all that a matrix has.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a rank that is none.
    """

    rank: int | None = None
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-2}

    def __post_init__(self) -> None:
        if self.rank is not None:
            check_rank(self.rank)

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """The singular vectors of W, frozen, and δ = 0."""
        rank = min(site.shape) if self.rank is None else self.rank
        room(rank, site)
        u, _, v = torch.linalg.svd(start.weight, full_matrices=False)
        return _Shifts(v[:rank], u[:, :rank])

    def numbers(self, out: int, width: int) -> int:
        """As many as singular values."""
        return self.rank or min(out, width)


class _Shifts(Parametrisation):
    """U·diag(δ)·Vᵀ of one site."""

    def __init__(self, v: Tensor, u: Tensor) -> None:
        super().__init__()
        self.V = nn.Buffer(v)
        self.U = nn.Buffer(u)
        self.shift = nn.Parameter(torch.zeros(len(v)))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.V, self.U * self.shift
