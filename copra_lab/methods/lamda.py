"""After LaMDA (arXiv:2406.12832): a core is trained while the output factor freezes by and by.

ΔW = B·S·A with A = V_rᵀ and B = U_r from W = U·diag(σ)·Vᵀ. A is frozen, the core S (r, r) starts at
zero, and the columns of B are frozen one after the other, those of the smallest singular values
first.
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
    check_share,
    room,
)
from copra_lab.models.sites import Site

__all__ = ["LaMDA"]


@dataclass(frozen=True)
class LaMDA(AdapterMethod):
    """After LaMDA: r² numbers a matrix, and r·out more that freeze over the first steps.

    The paper's abstract leaves constants open: that freezing is linear, from the last column to the
    first, over 30 % of the steps is a choice made here. Ranks are the same everywhere (its variant
    LaMDA++ chooses them by site).

    Args:
        rank: r, how many directions the factors have.
        freezing: Over which share of the steps B freezes; 0 freezes it at once.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 16
    freezing: float = 0.3
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def __post_init__(self) -> None:
        check_rank(self.rank)
        check_share("freezing", self.freezing)

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """Factors from W, and a core of zero."""
        room(self.rank, site)
        u, _, v = torch.linalg.svd(start.weight, full_matrices=False)
        return _Freezing(v[: self.rank], u[:, : self.rank])

    def numbers(self, out: int, width: int) -> int:
        """r² + r·out, at the start."""
        return self.rank**2 + self.rank * out

    def before_step(
        self,
        parts: Mapping[str, Parametrisation],
        step: int,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        """Freeze the columns that are due."""
        share = min(1.0, step / (self.freezing * steps)) if self.freezing else 1.0
        for part in parts.values():
            assert isinstance(part, _Freezing)
            part.learning = self.rank - int(self.rank * share)


class _Freezing(Parametrisation):
    """B·S·A of one site; the first `learning` columns of B are trained."""

    def __init__(self, a: Tensor, b: Tensor) -> None:
        super().__init__()
        self.A = nn.Buffer(a)
        # a parameter each: what has no gradient is left alone by AdamW, decay and moments included
        self.columns = nn.ParameterList([nn.Parameter(c.clone()) for c in b.unbind(1)])
        self.core = nn.Parameter(torch.zeros(len(a), len(a)))
        self.learning = len(a)

    def factors(self) -> tuple[Tensor, Tensor]:
        n = self.learning
        columns = [c if i < n else c.detach() for i, c in enumerate(self.columns)]
        return self.A, torch.stack(columns, 1) @ self.core
