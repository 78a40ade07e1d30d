"""Norms of soft prompts: what becomes of accuracy when a vector is corrupted (the Low-Norm Effect), and Nemesis, which makes large
norms cost something in training (Fu et al., ICLR 2024).

The released code sums the norms of class-specific vectors over classes, so that the penalty grows with their number; here
they are averaged.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from copra_lab.prompts import SoftPrompt, norms
from copra_lab.stats import paired_bootstrap

if TYPE_CHECKING:
    from copra_lab.bench import Bench

__all__ = ["Corruption", "Nemesis", "Occurrences", "occurrences", "omega", "pan", "pun", "replace", "rescale", "survey"]

NORMS = (1, 2, math.inf)


# --- corruption ------------------------------------------------------------------------------------------------------


def rescale(prompt: SoftPrompt, positions: "int | Iterable[int]", tau: "float | Sequence[float]") -> SoftPrompt:
    """RESCALE: the vectors at these positions, counted from 0, times τ, or each times its own; in a class-specific prompt those
    of every class.

    Raises ValueError for a position that the prompt does not have, a τ that is not finite, or not one for each position.
    """
    chosen = _positions(prompt, positions)
    taus = [float(tau)] * len(chosen) if isinstance(tau, int | float) else [float(t) for t in tau]
    if len(taus) != len(chosen) or not all(map(math.isfinite, taus)):
        raise ValueError(f"tau must be a finite number, or one for each of {len(chosen)} positions, got {tau!r}")
    context = prompt.context.clone()
    context[..., chosen, :] *= torch.tensor(taus)[:, None]
    return prompt.with_context(context, **{"made by": "rescale", "positions": chosen, "tau": tau if isinstance(tau, int | float) else taus})


def replace(prompt: SoftPrompt, positions: "int | Iterable[int]", sigma: float, seed: int = 0) -> SoftPrompt:
    """REPLACE: the vectors at these positions drawn anew, every number from a normal distribution of standard deviation σ; with
    σ = 0 they vanish, as with `rescale` by 0.

    Raises ValueError for a position that the prompt does not have, or a σ that is not finite or negative.
    """
    if not 0 <= sigma < math.inf:
        raise ValueError(f"sigma must be a finite number, 0 or more, got {sigma!r}")
    chosen = sorted(_positions(prompt, positions))
    context = prompt.context.clone()
    context[..., chosen, :] = sigma * torch.randn(context[..., chosen, :].shape, generator=torch.Generator().manual_seed(seed))
    return prompt.with_context(context, **{"made by": "replace", "positions": chosen, "sigma": sigma, "seed": seed})


def _positions(prompt: SoftPrompt, positions: "int | Iterable[int]") -> list[int]:
    chosen = [positions] if isinstance(positions, int) else list(positions)
    if len(set(chosen)) < len(chosen):
        raise ValueError(f"each position can be named once, got {chosen}")
    if wrong := [i for i in chosen if not 0 <= i < prompt.length]:
        raise ValueError(f"position must be 0 to {prompt.length - 1}, the vectors of this prompt, got {wrong[0]}")
    return chosen


# --- the survey ------------------------------------------------------------------------------------------------------

TAUS = (0.001, 0.01, 0.1, 0.3, 0.5, 0.9, 1.1, 1.5, 2.0)
SIGMAS = (0.0, 0.001, 0.01, 0.1)


@dataclass(frozen=True)
class Corruption:
    """One corruption of one vector: ``kind`` "rescale" by τ or "replace" with σ, which is ``factor``; ``norm``, the vector's L2 norm
    afterwards over that before; ``delta``, accuracy after minus before (−1…1); ``p``, how often, when images are drawn again
    with their sources, the difference has not that sign (both tails, 0…1)."""

    kind: str
    position: int
    factor: float
    norm: float
    delta: float
    p: float

    @property
    def lowers(self) -> bool:
        """Whether it makes the vector shorter."""
        return self.norm < 1


def survey(
    bench: "Bench", prompt: SoftPrompt, taus: Sequence[float] = TAUS, sigmas: Sequence[float] = SIGMAS, *, seed: int = 0, draws: int = 2000
) -> list[Corruption]:
    """Every position × every corruption, each measured on all of the bench's images: the Low-Norm Effect is where a vector made shorter
    raises accuracy.

    Accuracy moves by an image or two whatever is done, so each difference comes with its paired bootstrap: the same images are
    drawn for both. p is not corrected for many corruptions at once: of 100 that do nothing 5 have p < 0.05.
    """
    plan = [("rescale", i, t, rescale(prompt, i, t)) for i in range(prompt.length) for t in taus]
    plan += [("replace", i, s, replace(prompt, i, s, seed)) for i in range(prompt.length) for s in sigmas]
    hits = bench.hits([prompt, *(p for *_, p in plan)]).numpy()
    deltas, ps = paired_bootstrap(hits[1:], hits[0], bench.sources, seed, draws)
    before = prompt.norms()
    return [
        Corruption(kind, i, factor, float(corrupted.norms()[i] / before[i]), float(delta), float(p))
        for (kind, i, factor, corrupted), delta, p in zip(plan, deltas, ps, strict=True)
    ]


@dataclass(frozen=True)
class Occurrences:
    """Of corruptions that make one vector shorter: how many ``rose`` of ``of``, how many of those beyond chance (p < 0.05,
    ``surely``), and in how many ``positions`` some τ < 1 raised accuracy while its mirror image 1/τ, or the nearest above 1 that was tried,
    lowered it."""

    of: int
    rose: int
    surely: int
    positions: int


def occurrences(found: Sequence[Corruption]) -> Occurrences:
    """The Low-Norm Effect counted, as the paper counts it (every position and setting that raises accuracy) and more strictly."""
    shorter = [c for c in found if c.lowers]
    rose = [c for c in shorter if c.delta > 0]
    both = set()
    for c in rose:
        longer = [o for o in found if o.kind == "rescale" and o.position == c.position and o.factor > 1]
        if c.kind == "rescale" and c.factor > 0 and longer:
            mirror = min(longer, key=lambda o: abs(math.log(o.factor * c.factor)))
            if mirror.delta < 0:
                both.add(c.position)
    return Occurrences(len(shorter), len(rose), sum(c.p < 0.05 for c in rose), len(both))


# --- the penalty -----------------------------------------------------------------------------------------------------


def pun(context: Tensor, weight: float = 1.0, norm: float = 2) -> Tensor:
    """Position-uniform normalisation: A · mean_i ‖v_i‖, differentiable, a scalar."""
    return weight * norms(context, norm).mean()


def pan(context: Tensor, positions: Tensor, alpha: Tensor, norm: float = 2) -> Tensor:
    """Position-aware normalisation: Σ αᵢ‖vᵢ‖ over the sampled `positions` (N,) by how many αᵢ, ``alpha`` (N,), are not 0; 0 if all are."""
    return (alpha * norms(context, norm)[positions]).sum() / alpha.count_nonzero().clamp(min=1)


def omega(epoch: float, epochs: float) -> float:
    """ω(E) = 1 − 1 / (1 + exp(−0.2·(E − E_max/2))): near 1 at first, ½ in the middle, near 0 at the end of a long training."""
    return 1 - 1 / (1 + math.exp(-0.2 * (epoch - epochs / 2)))


@dataclass(frozen=True)
class Nemesis:
    """What is added to the loss of a soft prompt: ω(E)·(β·PUN + (1 − β)·PAN).

    ``beta`` β: 1 is PUN alone, 0 PAN alone. ``weight`` A ≥ 0 scales either, ``norm`` is 1, 2 or infinity. PAN tries ``samples`` N
    positions a step, each vector times ``tau`` τ (the paper leaves N and τ open), and makes those cost where the batch is then
    classified better. ``ramp``: "sigmoid", which is `omega`, or "one", ω = 1 throughout.

    Raises ValueError for settings that make no sense.
    """

    beta: float = 1.0
    weight: float = 1.0
    norm: float = 2
    tau: float = 0.5
    samples: int = 1
    ramp: str = "sigmoid"

    def __post_init__(self) -> None:
        if not 0 <= self.beta <= 1:
            raise ValueError(f"beta must be from 0 (PAN) to 1 (PUN), got {self.beta!r}")
        if not 0 <= self.weight < math.inf or not math.isfinite(self.tau):
            raise ValueError(f"weight must be finite, 0 or more, and tau finite, got {self.weight!r} and {self.tau!r}")
        if self.norm not in NORMS or self.ramp not in ("sigmoid", "one"):
            raise ValueError(f"norm must be 1, 2 or infinity and ramp 'sigmoid' or 'one', got {self.norm!r} and {self.ramp!r}")
        if not isinstance(self.samples, int) or self.samples < 1:
            raise ValueError(f"samples must be a whole number of at least 1, got {self.samples!r}")

    @property
    def method(self) -> str:
        """What tables call it: pun, pan or pun+pan."""
        return {1.0: "pun", 0.0: "pan"}.get(float(self.beta), "pun+pan")

    def loss(self, context: Tensor, epoch: float, epochs: float, now: int, hits: Callable[[Tensor], Tensor], g: torch.Generator) -> Tensor:
        """The penalty of (length, d) or (classes, length, d) at `epoch` of `epochs`. ``now``: how many images of the batch are classified
        rightly; ``hits``: contexts (m, …) → how many with each, (m,)."""
        total = context.new_zeros(())
        if self.beta > 0:
            total = total + self.beta * pun(context, self.weight, self.norm)
        if self.beta < 1:
            positions = torch.randperm(context.shape[-2], generator=g)[: self.samples]
            total = total + (1 - self.beta) * pan(context, positions, self.weight * self.better(context, positions, now, hits), self.norm)
        return total * (omega(epoch, epochs) if self.ramp == "sigmoid" else 1.0)

    def better(self, context: Tensor, positions: Tensor, now: int, hits: Callable[[Tensor], Tensor]) -> Tensor:
        """Whether the batch is classified better with the vector at each of `positions` (N,) times τ: 1 or 0, (N,)."""
        corrupted = context.detach().repeat(len(positions), *[1] * context.ndim)
        corrupted[torch.arange(len(positions)), ..., positions, :] *= self.tau
        return (hits(corrupted) > now).float()
