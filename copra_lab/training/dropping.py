"""CopRA, which trains LoRA with progressive random layer dropping, and its baselines.

CopRA (Zhuang et al., arXiv:2410.22911; CoTo, arXiv:2506.05713, is its successor) switches the LoRA
layers on at random in each training step, each with a probability p that rises from 0 to 1 over
the first three quarters of the training. A layer that is off shows the base, without rescaling,
and learns nothing in that step. Afterwards, and always in evaluation, all layers are on.

This is related to Shapley values: with R a random set that holds each layer with probability p,
and v the value of a set of layers, g(p) = E[v(R)] is the multilinear extension on the diagonal,
and layer i's Shapley value is ∫₀¹ E[v(R ∪ i) − v(R ∖ i)] dp (Owen 1972). A training whose p runs
from 0 to 1 trains g itself, at every p.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

import torch

from copra_lab.models.sites import Site
from copra_lab.utils.checks import one_of, whole_number
from copra_lab.utils.rng import generator

__all__ = [
    "PLAIN",
    "CopRA",
    "Draw",
    "Dropout",
    "Dropping",
    "ProgressiveDropout",
    "StochasticDepth",
    "drawn",
    "group",
    "masks",
    "ramp",
]


@dataclass(frozen=True)
class Draw:
    """What one training step uses.

    Args:
        on: For each unit whether it is on.
        dropout: The probability that an element of a branch's input is zeroed.
    """

    on: tuple[bool, ...]
    dropout: float = 0.0


class Dropping(Protocol):
    """A way of training with parts switched off."""

    method: ClassVar[str]
    """Its name, as in `copra_lab.methods.registry`."""

    @property
    def unit(self) -> str:
        """What is switched together.

        "layer" means q, k, v … of one layer of one tower, "module" each matrix by itself.
        """
        ...

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """What is on in step number `step`, counted from 0, of `steps`.

        No other randomness than the generator's may be used.
        """
        ...


def group(sites: Sequence[Site], unit: str = "layer") -> dict[str, tuple[str, ...]]:
    """The units that are switched together, in order of depth.

    Args:
        sites: The sites to group.
        unit: "layer" or "module".

    Returns:
        The name of a unit (``vision 3`` or the site's own) → names of its sites.

    Raises:
        ValueError: For another `unit`.
    """
    one_of("unit", unit, ("layer", "module"))
    out: dict[str, tuple[str, ...]] = {}
    for s in sites:
        name = s.name if unit == "module" else f"{s.tower} {s.layer}"
        out[name] = (*out.get(name, ()), s.name)
    return out


def ramp(step: int, steps: int, share: float, shape: str = "linear") -> float:
    """The rise from 0 to 1 over the first `share` of `steps`.

    Linear: x = min(1, step / (share·steps)). Exponential: (e³ˣ − 1) / (e³ − 1). (The papers name
    an exponential shape without its constant; 3 is chosen here.)
    """
    x = 1.0 if share == 0 else min(1.0, step / (share * steps))
    return x if shape == "linear" else math.expm1(3 * x) / math.expm1(3)


def _within(name: str, value: float, below_one: bool = False) -> None:
    if not 0 <= value <= 1 or (below_one and value == 1):
        most = "below" if below_one else "at most"
        raise ValueError(f"{name} must be at least 0 and {most} 1, got {value!r}")


def _binomial(n: int, p: float, least: int) -> torch.Tensor:
    """Weights of the binomial law at `least` to n successes, divided by pˡᵉᵃˢᵗ.

    The division gives them a limit at p = 0. For large n they are also divided by their largest.
    """
    if n <= 1000:
        return torch.tensor(
            [math.comb(n, k) * p ** (k - least) * (1 - p) ** (n - k) for k in range(least, n + 1)]
        )
    # the coefficients are beyond what a float can hold
    k = torch.arange(least, n + 1, dtype=torch.float64)
    logs = torch.xlogy(k - least, torch.tensor(p)) + torch.xlogy(n - k, torch.tensor(1 - p))
    logs = logs - torch.lgamma(k + 1) - torch.lgamma(n - k + 1)
    return (logs - logs.max()).exp()


@dataclass(frozen=True)
class CopRA:
    """Progressive random layer dropping: p(t) = start + (1 − start)·`ramp`(t).

    The authors' code has start = 0.1 and min_active = 1. With the paper's ``start=0,
    min_active=0`` a step may have nothing on: `fit` counts it and learns nothing. Other choices
    change the measure over sets of layers, and with it the link to Shapley values.

    Args:
        start: p at the first step.
        ramp: The share of the training over which p rises.
        shape: "linear" or "exponential".
        min_active: Draw again until so many units are on.
        unit: "layer" or "module".

    Raises:
        ValueError: For a setting outside these.
    """

    start: float = 0.0
    ramp: float = 0.75
    shape: str = "linear"
    min_active: int = 0
    unit: str = "layer"
    method: ClassVar[str] = "copra"

    def __post_init__(self) -> None:
        _within("start", self.start)
        _within("ramp", self.ramp)
        one_of("shape", self.shape, ("linear", "exponential"))
        whole_number("min_active", self.min_active, 0)
        group((), self.unit)

    def probability(self, step: int, steps: int) -> float:
        """P at step `step`, counted from 0, of `steps`."""
        return self.start + (1 - self.start) * ramp(step, steps, self.ramp, self.shape)

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """How many units are on, then which.

        The number follows the binomial law conditioned on at least `min_active`, which is the same
        as drawing again until enough are on, and has a limit at p = 0.

        Raises:
            ValueError: If there are fewer units than `min_active`.
        """
        p, least = self.probability(step, steps), self.min_active
        if least > units:
            raise ValueError(f"min_active={least} asks for more than the {units} units there are")
        count = least + int(torch.multinomial(_binomial(units, p, least), 1, generator=generator))
        chosen = set(torch.randperm(units, generator=generator)[:count].tolist())
        return Draw(tuple(i in chosen for i in range(units)))


@dataclass(frozen=True)
class Dropout:
    """LoRA's own dropout: y = x·Wᵀ + s·dropout(x)·Aᵀ·Bᵀ, with every layer always on.

    Args:
        rate: The probability that an element of the branch's input is zeroed, 0 ≤ rate < 1.
    """

    rate: float = 0.25
    unit: ClassVar[str] = "layer"
    method: ClassVar[str] = "dropout"

    def __post_init__(self) -> None:
        _within("rate", self.rate, below_one=True)

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """Everything on, at the fixed rate."""
        return Draw((True,) * units, self.rate)


@dataclass(frozen=True)
class ProgressiveDropout:
    """`Dropout` whose rate falls from `rate` to 0 along CopRA's ramp.

    Args:
        rate: The rate at the first step, 0 ≤ rate < 1.
        ramp: The share of the training over which it falls.
    """

    rate: float = 0.25
    ramp: float = 0.75
    unit: ClassVar[str] = "layer"
    method: ClassVar[str] = "progressive-dropout"

    def __post_init__(self) -> None:
        _within("rate", self.rate, below_one=True)
        _within("ramp", self.ramp)

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """Everything on, at the rate of this step."""
        return Draw((True,) * units, self.rate * (1 - ramp(step, steps, self.ramp)))


@dataclass(frozen=True)
class StochasticDepth:
    """Stochastic depth of the adapter: unit i of n is off with probability `deepest`·i/n.

    Huang et al. (arXiv:1603.09382) drop whole blocks; here the base's blocks always stay.

    Args:
        deepest: How often the deepest unit is off, 0…1.
        unit: "layer" or "module".
    """

    deepest: float = 0.5
    unit: str = "layer"
    method: ClassVar[str] = "stochastic-depth"

    def __post_init__(self) -> None:
        _within("deepest", self.deepest)
        group((), self.unit)

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """Each unit by itself, the same in every step; all may be off."""
        u = torch.rand(units, generator=generator).tolist()
        return Draw(tuple(u[i] >= self.deepest * (i + 1) / units for i in range(units)))


@dataclass(frozen=True)
class _Nothing:
    """Drops nothing."""

    unit: ClassVar[str] = "layer"
    method: ClassVar[str] = "lora"

    def draw(self, units: int, step: int, steps: int, generator: torch.Generator) -> Draw:
        """Everything on."""
        return Draw((True,) * units)


PLAIN: Dropping = _Nothing()
"""Plain LoRA: everything always on."""


def drawn(dropping: Dropping, units: int, seed: int, step: int, steps: int) -> Draw:
    """What `fit` switches on in one step; it depends on the arguments alone."""
    return dropping.draw(units, step, steps, generator(seed, step, "layers"))


def masks(dropping: Dropping, units: int, steps: int, seed: int = 0) -> list[tuple[bool, ...]]:
    """Which of so many units `fit` has on in each step, without training.

    Returns:
        (steps, units).
    """
    return [drawn(dropping, units, seed, step, steps).on for step in range(steps)]
