"""LoRA (Hu et al., arXiv:2106.09685): a product of low rank is added to each weight matrix."""

import math
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import LowRank
from copra_lab.methods.parametrisation import (
    AdapterMethod,
    Parametrisation,
    Start,
    check_rank,
    kaiming,
)
from copra_lab.models.sites import Site
from copra_lab.utils.checks import one_of

__all__ = ["LoRA"]


@dataclass(frozen=True)
class LoRA(AdapterMethod):
    """How to adapt: W becomes W + s·B·A.

    The defaults are those of CLIP-LoRA (arXiv:2405.18541), but for a rank that suits a small CLIP.

    Args:
        rank: r, the number of rows of A and of columns of B; from 1 to 65,536.
        alpha: Sets the scale s together with `scaling`; None means s = 1.
        scaling: ``"alpha/r"`` (the LoRA paper) or ``"alpha/sqrt(r)"`` (CLIP-LoRA).
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.
        train_a: False leaves A as it was drawn (FFA-LoRA, Sun et al., arXiv:2403.12313). The
            deltas of clients that share A then average exactly in the factors.

    Raises:
        ValueError: For a setting outside these.
    """

    rank: int = 4
    alpha: float | None = None
    scaling: str = "alpha/r"
    sites: tuple[str, ...] = ("q", "k", "v")
    towers: tuple[str, ...] = ("vision",)
    train_a: bool = True

    def __post_init__(self) -> None:
        check_rank(self.rank)
        one_of("scaling", self.scaling, ("alpha/r", "alpha/sqrt(r)"))
        if self.alpha is not None and not (math.isfinite(self.alpha) and self.alpha > 0):
            raise ValueError(f"alpha must be positive, got {self.alpha!r}")

    @property
    def scale(self) -> float:
        """The factor s of B·A."""
        if self.alpha is None:
            return 1.0
        return self.alpha / (self.rank if self.scaling == "alpha/r" else math.sqrt(self.rank))

    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """A is drawn, and B starts at zero; a variant of LoRA overrides this."""
        a = kaiming(self.rank, site.width, start.generator)
        return _Product(a, site.shape[0], self)

    def numbers(self, out: int, width: int) -> int:
        """r·out, and r·in where A is trained."""
        return self.rank * (out + width if self.train_a else out)


class _Product(Parametrisation):
    """s·B·A of one site."""

    def __init__(self, a: Tensor, out: int, config: LoRA) -> None:
        super().__init__()
        self.scale = config.scale
        self.A = nn.Parameter(a, requires_grad=config.train_a)
        self.B = nn.Parameter(torch.zeros(out, config.rank))

    def factors(self) -> tuple[Tensor, Tensor]:
        return self.A, self.scale * self.B

    def delta(self) -> Tensor:
        return self.scale * (self.B @ self.A)

    def result(self) -> LowRank:
        return LowRank(self.A, self.B, self.scale)

    def load(self, pair: LowRank, site: str) -> None:
        if (pair.A.shape, pair.B.shape, pair.scale) != (self.A.shape, self.B.shape, self.scale):
            raise ValueError(f"the adapter does not match these LoRA settings at {site!r}")
        with torch.no_grad():
            self.A.copy_(pair.A)
            self.B.copy_(pair.B)
