"""LoRA-XS and LoRA-SB: only a core between two frozen factors is trained, ΔW = B·R·A.

LoRA-XS (arXiv:2405.17604) takes the factors from W = U·diag(σ)·Vᵀ: B = U_r·diag(σ_r), A = V_rᵀ.
LoRA-SB (arXiv:2411.19557) takes them from the step that full fine-tuning would make first.
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
    room,
)
from copra_lab.models.sites import Site
from copra_lab.utils.checks import whole_number

__all__ = ["LoRASB", "LoRAXS"]


@dataclass(frozen=True)
class LoRAXS(AdapterMethod):
    """LoRA-XS: r² numbers a matrix, between its largest singular directions.

    R is drawn from N(0, `spread`²), so that training starts beside the base; with a spread of 0 it
    starts at the base, and R still has a gradient.

    Args:
        rank: r, how many directions the frozen factors have.
        spread: The deviation of R at the start; the paper's by default.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 16
    spread: float = 1e-5
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-2}

    def __post_init__(self) -> None:
        check_rank(self.rank)
        if not (math.isfinite(self.spread) and self.spread >= 0):
            raise ValueError(f"spread must be 0 or more, got {self.spread!r}")

    @property
    def starts_at_base(self) -> bool:
        """Only where R starts at zero."""
        return self.spread == 0

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """The factors from W, and R beside zero."""
        room(self.rank, site)
        u, s, v = (x[..., : self.rank] for x in _svd(start.weight))
        core = self.spread * torch.randn(self.rank, self.rank, generator=start.generator)
        return _Core(v.T.contiguous(), u * s, core)

    def numbers(self, out: int, width: int) -> int:
        """r²."""
        return self.rank**2


@dataclass(frozen=True)
class LoRASB(AdapterMethod):
    """LoRA-SB: r² numbers a matrix, between the directions of its first full step.

    That step is −η·sign(∂L/∂W), what Adam would do first, with the gradient summed over some
    batches; B = U_r, A = V_rᵀ and R = diag(σ_r) of its singular value decomposition. Training
    starts there and not at the base: W + ΔW is the best copy of rank r of one full step. As B and A
    are orthonormal, the gradient of R needs no correction.

    Args:
        rank: r, how many directions the frozen factors have.
        first_step: η, the rate of the full step.
        batches: How many batches the gradient is summed over.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 16
    first_step: float = 1e-3
    batches: int = 8
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 1e-2}

    def __post_init__(self) -> None:
        check_rank(self.rank)
        whole_number("batches", self.batches)
        if not (math.isfinite(self.first_step) and self.first_step > 0):
            raise ValueError(f"first_step must be positive, got {self.first_step!r}")

    @property
    def starts_at_base(self) -> bool:
        """It starts where one full step of low rank leads."""
        return False

    @property
    def gradient_batches(self) -> int:
        """How many batches the gradient is summed over."""
        return self.batches

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """Factors and core from the first full step.

        Raises:
            ValueError: Without a gradient.
        """
        room(self.rank, site)
        if start.gradient is None:
            raise ValueError("LoRA-SB begins with gradients; train it with fit")
        u, s, v = (x[..., : self.rank] for x in _svd(-self.first_step * start.gradient.sign()))
        return _Core(v.T.contiguous(), u.contiguous(), torch.diag(s))

    def numbers(self, out: int, width: int) -> int:
        """r²."""
        return self.rank**2


class _Core(Parametrisation):
    """B·R·A of one site; A and B are frozen."""

    def __init__(self, a: Tensor, b: Tensor, core: Tensor) -> None:
        super().__init__()
        self.A = nn.Buffer(a)
        self.B = nn.Buffer(b)
        self.core = nn.Parameter(core)

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.B @ self.core


def _svd(w: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """U (out, k), σ (k) and V (in, k), the largest first."""
    u, s, vt = torch.linalg.svd(w, full_matrices=False)
    return u, s, vt.T
