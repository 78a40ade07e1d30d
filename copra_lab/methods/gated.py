"""SoRA and CoDyRA: a gate at each rank, which a proximal step closes, so that rank chooses itself.

ΔW = B·diag(g)·A. After each update the gates are soft-thresholded, g ← sign(g)·max(|g| − κ, 0): a
proximal step of κ·‖g‖₁. Ranks whose gate is zero are left out of the adapter.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import LowRank
from copra_lab.methods.parametrisation import (
    AdapterMethod,
    ParameterGroup,
    Parametrisation,
    Start,
    check_rank,
    check_share,
    kaiming,
)
from copra_lab.models.sites import Site

__all__ = ["CoDyRA", "SoRA"]


@dataclass(frozen=True)
class SoRA(AdapterMethod):
    """SoRA (arXiv:2311.11696): gates drawn from N(0, 1), a proximal step from the beginning.

    Args:
        rank: The highest rank of a matrix.
        threshold: κ of each step, as in the authors' code (the paper multiplies it by the rate).
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 8
    threshold: float = 1e-3
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)

    def __post_init__(self) -> None:
        check_rank(self.rank)
        _check_threshold(self.threshold)

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A and the gates are drawn, and B starts at zero."""
        a = kaiming(self.rank, site.width, start.generator)
        return _Gated(a, site.shape[0], torch.randn(self.rank, generator=start.generator))

    def numbers(self, out: int, width: int) -> int:
        """r·(out + in + 1)."""
        return self.rank * (out + width + 1)

    def after_step(
        self, parts: Mapping[str, Parametrisation], on: Collection[str], step: int, steps: int
    ) -> None:
        """The proximal step of the gates."""
        _close(parts, on, self.threshold)


@dataclass(frozen=True)
class CoDyRA(AdapterMethod):
    """After CoDyRA (arXiv:2412.01004): gates of one, dense at first, then a κ that rises.

    The paper adapts all matrices of both towers, and merges what is left after each task into W
    before the next; here the merge is the caller's (`merged_into`). The shape of the rise is a
    choice made here: a straight line from 0 to `threshold`.

    Args:
        rank: The highest rank of a matrix.
        threshold: κ of the last step.
        dense: The share of the steps without a proximal step.
        gate_rate: What the learning rate is multiplied by for the gates; 0 leaves them at one, and
            with a threshold of 0 the method is LoRA.
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 16
    threshold: float = 5e-3
    dense: float = 0.3
    gate_rate: float = 1.0
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)

    def __post_init__(self) -> None:
        check_rank(self.rank)
        _check_threshold(self.threshold)
        check_share("dense", self.dense)
        if not (math.isfinite(self.gate_rate) and self.gate_rate >= 0):
            raise ValueError(f"gate_rate must be 0 or more, got {self.gate_rate!r}")

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A is drawn, B starts at zero, the gates at one."""
        a = kaiming(self.rank, site.width, start.generator)
        return _Gated(a, site.shape[0], torch.ones(self.rank), self.gate_rate)

    def numbers(self, out: int, width: int) -> int:
        """r·(out + in + 1)."""
        return self.rank * (out + width + 1)

    def after_step(
        self, parts: Mapping[str, Parametrisation], on: Collection[str], step: int, steps: int
    ) -> None:
        """The proximal step of the gates, once the dense steps are over."""
        begin = self.dense * steps
        if step >= begin:
            _close(parts, on, self.threshold * (step + 1 - begin) / (steps - begin))


class _Gated(Parametrisation):
    """B·diag(g)·A of one site; weight decay leaves the gates alone."""

    def __init__(self, a: Tensor, out: int, gate: Tensor, gate_rate: float = 1.0) -> None:
        super().__init__()
        self.A = nn.Parameter(a)
        self.B = nn.Parameter(torch.zeros(out, len(a)))
        self.gate = nn.Parameter(gate)
        self.gate_rate = gate_rate

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.B * self.gate

    def groups(self) -> Sequence[ParameterGroup]:
        return [
            ParameterGroup([self.A, self.B]),
            ParameterGroup([self.gate], rate=self.gate_rate, weight_decay=0.0),
        ]

    def result(self) -> LowRank | None:
        """Without the ranks whose gate is closed."""
        a, b = self.factors()
        left = self.gate != 0
        return LowRank(a[left], b[:, left]) if left.any() else None


def soft(x: Tensor, threshold: float) -> Tensor:
    """sign(x)·max(|x| − threshold, 0)."""
    return x.sign() * (x.abs() - threshold).clamp(min=0)


@torch.no_grad()
def _close(parts: Mapping[str, Parametrisation], on: Collection[str], threshold: float) -> None:
    for name in on:
        part = parts[name]
        assert isinstance(part, _Gated)
        part.gate.copy_(soft(part.gate, threshold))


def _check_threshold(threshold: float) -> None:
    if not (math.isfinite(threshold) and threshold >= 0):
        raise ValueError(f"threshold must be 0 or more, got {threshold!r}")
