"""A dense change of each matrix: full fine-tuning, as a ΔW beside the base."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from copra_lab.methods.parametrisation import AdapterMethod, Parametrisation, Start
from copra_lab.models.sites import Site

__all__ = ["Dense", "Full"]


@dataclass(frozen=True)
class Full(AdapterMethod):
    """Full fine-tuning: every element of ΔW is trained, from zero.

    Weight decay pulls to the base and not to zero. The adapter at the end has the identity as one
    of its factors.

    Args:
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.
    """

    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    defaults: ClassVar[Mapping[str, Any]] = {"lr": 2e-4}

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """ΔW = 0."""
        return _Full(site.shape)

    def numbers(self, out: int, width: int) -> int:
        """All."""
        return out * width


class Dense(Parametrisation):
    """A parametrisation that makes ΔW itself."""

    def factors(self) -> tuple[Tensor, Tensor]:
        """ΔW and an identity."""
        delta = self.delta()
        out, width = delta.shape
        eye = torch.eye(min(out, width), device=delta.device)
        return (eye, delta) if width <= out else (delta, eye)


class _Full(Dense):
    """ΔW of one site."""

    def __init__(self, shape: tuple[int, int]) -> None:
        super().__init__()
        self.change = nn.Parameter(torch.zeros(shape))

    def delta(self) -> Tensor:
        return self.change
