"""What all ways of changing the weights have in common while they are trained.

A method is two things: its settings, an `AdapterMethod`, and what they put on one weight matrix, a
`Parametrisation`: parameters that make the two factors of ΔW = B·A. Training, dropping, checkpoints
and the `Adapter` at the end ask no more of a method, so that a new one is a file beside this one
and a line in `copra_lab.methods.registry`.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, nn

from copra_lab.adapters.adapter import LowRank
from copra_lab.models.sites import Site

__all__ = ["AdapterMethod", "ParameterGroup", "Parametrisation", "Start"]


@dataclass(frozen=True, eq=False)
class Start:
    """What a parametrisation may begin with.

    Attributes:
        weight: The frozen W of the site, (out, in).
        generator: Draws what is random, on the processor.
        gradient: ∂L/∂W, summed over the batches that `AdapterMethod.gradient_batches` asks for,
            (out, in); None where it asks for none.
    """

    weight: Tensor
    generator: torch.Generator
    gradient: Tensor | None = None


@dataclass(frozen=True, eq=False)
class ParameterGroup:
    """Parameters with a rate or a decay of their own.

    Attributes:
        parameters: The parameters.
        rate: What the training's learning rate is multiplied by.
        weight_decay: AdamW's; None for that of the training.
    """

    parameters: Sequence[nn.Parameter]
    rate: float = 1.0
    weight_decay: float | None = None


class Parametrisation(nn.Module, ABC):
    """What is trained at one site: a module whose parameters make ΔW.

    What is frozen or counted is a buffer, so that checkpoints have it. `training` (torch's own
    flag) is False while the result is measured or taken.
    """

    @abstractmethod
    def factors(self) -> tuple[Tensor, Tensor]:
        """A (r, in) and B (out, r) of ΔW = B·A as it is now, with gradients."""

    def delta(self) -> Tensor:
        """ΔW (out, in) as it is now, with gradients."""
        a, b = self.factors()
        return b @ a

    def groups(self) -> Sequence[ParameterGroup]:
        """The parameters, all of them, in groups; by default one."""
        return [ParameterGroup(list(self.parameters()))]

    def watched(self) -> Tensor | None:
        """What else `AdapterMethod.after_step` needs the gradient of.

        Where several processes share a batch, they share this gradient, too.
        """
        return None

    def result(self) -> LowRank | None:
        """What the adapter gets at this site; None for ΔW = 0."""
        a, b = self.factors()
        return LowRank(a, b)

    def load(self, pair: LowRank, site: str) -> None:
        """Continue from what an adapter has at this site, of this name.

        Raises:
            ValueError: If ΔW does not say what the parameters are, or has other shapes.
        """
        raise ValueError(
            f"{type(self).__name__} cannot begin with an adapter, which holds A and B and not what "
            "it trains; leave out start_from, or train LoRA"
        )


class AdapterMethod(ABC):
    """The settings of a method that learns an adapter; a frozen dataclass.

    Attributes:
        sites: Which matrices of a block, from q, k, v, out, fc1, fc2.
        towers: Which towers, from vision, text.
        defaults: What a training takes where nothing is said, if it is not what LoRA takes: fields
            of `TrainingSettings`.
    """

    sites: tuple[str, ...]
    towers: tuple[str, ...]
    defaults: ClassVar[Mapping[str, Any]] = {}

    @property
    def starts_at_base(self) -> bool:
        """Whether ΔW is exactly zero before the first step."""
        return True

    @property
    def gradient_batches(self) -> int:
        """Over how many batches a start needs the gradients of the weights summed."""
        return 0

    @abstractmethod
    def parametrise(self, site: Site, start: Start) -> Parametrisation:
        """What is trained at a site.

        Raises:
            ValueError: For a setting that the site has no room for.
        """

    @abstractmethod
    def numbers(self, out: int, width: int) -> int:
        """How many numbers are trained at a site (out, width)."""

    def before_step(  # noqa: B027 (nothing by default)
        self,
        parts: Mapping[str, Parametrisation],
        step: int,
        steps: int,
        generator: torch.Generator,
    ) -> None:
        """What is drawn or decided before each step.

        Args:
            parts: What is trained, by the name of its site.
            step: Number of the step, from 0.
            steps: How many there are.
            generator: Draws what is random; it depends on the seed and the step alone.
        """

    def after_step(  # noqa: B027 (nothing by default)
        self, parts: Mapping[str, Parametrisation], on: Collection[str], step: int, steps: int
    ) -> None:
        """What happens to the parameters after each update, such as a proximal step.

        Args:
            parts: What is trained, by the name of its site.
            on: Names of the sites that took part. The others must stay as they are.
            step: Number of the step, from 0.
            steps: How many there are.
        """


def check_rank(rank: object, most: int = 2**16, name: str = "rank") -> None:
    """Refuse what is no rank.

    Raises:
        ValueError: Unless it is a whole number from 1 to `most`.
    """
    if not isinstance(rank, int) or not 1 <= rank <= most:
        bounds = f"at least 1 and at most {most}"
        raise ValueError(f"{name} must be a whole number of {bounds}, got {rank!r:.40}")


def check_share(name: str, value: float, least: float = 0.0, most: float = 1.0) -> None:
    """Refuse a number outside least … most.

    Raises:
        ValueError: If it is, or is none.
    """
    if not least <= value <= most:
        raise ValueError(f"{name} must be at least {least:g} and at most {most:g}, got {value!r}")


def room(rank: int, site: Site) -> None:
    """Refuse a rank that a site's matrix does not have.

    Raises:
        ValueError: If it is larger than the smaller side of the matrix.
    """
    if rank > min(site.shape):
        out, width = site.shape
        raise ValueError(
            f"rank {rank} is more than the {min(out, width)} directions of {site.name} "
            f"({out}×{width}); choose a lower rank"
        )


def kaiming(rank: int, width: int, generator: torch.Generator) -> Tensor:
    """A (rank, width) as LoRA draws it: Kaiming-uniform with a = √5, bounds ±1/√width."""
    return (torch.rand(rank, width, generator=generator) * 2 - 1) * (1 / math.sqrt(width))
