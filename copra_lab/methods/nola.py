"""NOLA (arXiv:2310.02556): A and B are combinations of frozen random matrices.

ΔW = B·A with A = A₀ + Σ aᵢ·Aᵢ and B = Σ bᵢ·Bᵢ. Only the coefficients a and b (k each) are trained:
2k numbers a matrix, whatever its size and the rank are. They start at zero, and A₀ is drawn like
LoRA's, so that b has a gradient.
"""

import math
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
    kaiming,
)
from copra_lab.models.sites import Site
from copra_lab.utils.checks import whole_number
from copra_lab.utils.rng import generator

__all__ = ["NOLA"]


@dataclass(frozen=True)
class NOLA(AdapterMethod):
    """NOLA: 2k numbers a matrix, the coefficients of frozen random factors.

    Runs with one `basis_seed` share the random matrices whatever their own seeds are, so that
    averaging coefficients is averaging factors. Elements of Aᵢ and Bᵢ are N(0, 1/k).

    Args:
        rank: r, the number of rows of A and of columns of B.
        bases: k, how many random matrices are combined for each factor.
        basis_seed: Draws them.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 4
    bases: int = 128
    basis_seed: int = 0
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 4e-3}

    def __post_init__(self) -> None:
        check_rank(self.rank)
        whole_number("bases", self.bases)
        whole_number("basis_seed", self.basis_seed, 0)

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """The random matrices, from their own seed, and coefficients of zero."""
        g, k, (out, width) = generator(self.basis_seed, 0, site.name), self.bases, site.shape
        first = kaiming(self.rank, width, g)
        of_a = torch.randn(k, self.rank, width, generator=g) / math.sqrt(k)
        of_b = torch.randn(k, out, self.rank, generator=g) / math.sqrt(k)
        return _Combined(first, of_a, of_b)

    def numbers(self, out: int, width: int) -> int:
        """2k."""
        return 2 * self.bases


class _Combined(Parametrisation):
    """Combinations of random factors, of one site."""

    def __init__(self, first: Tensor, of_a: Tensor, of_b: Tensor) -> None:
        super().__init__()
        self.first = nn.Buffer(first)
        self.of_a = nn.Buffer(of_a)
        self.of_b = nn.Buffer(of_b)
        self.a = nn.Parameter(torch.zeros(len(of_a)))
        self.b = nn.Parameter(torch.zeros(len(of_b)))

    def factors(self) -> tuple[Tensor, Tensor]:
        a = self.first + torch.tensordot(self.a, self.of_a, 1)
        return a, torch.tensordot(self.b, self.of_b, 1)
