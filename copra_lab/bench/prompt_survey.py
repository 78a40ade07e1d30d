"""The Low-Norm Effect measured: what becomes of accuracy when each vector of a soft prompt is corrupted (Fu et al., ICLR 2024)."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from copra_lab.bench.bench import Bench
from copra_lab.prompts.corruption import replace, rescale
from copra_lab.prompts.soft_prompt import SoftPrompt
from copra_lab.utils.statistics import paired_bootstrap

__all__ = ["Corruption", "Occurrences", "occurrences", "survey"]

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
    bench: Bench,
    prompt: SoftPrompt,
    taus: Sequence[float] = TAUS,
    sigmas: Sequence[float] = SIGMAS,
    *,
    seed: int = 0,
    draws: int = 2000,
) -> list[Corruption]:
    """Every position × every corruption, each measured on all of the bench's images: the Low-Norm Effect is where a vector made shorter
    raises accuracy.

    Accuracy moves by an image or two whatever is done, so each difference comes with its paired bootstrap: the same images are
    drawn for both. p is not corrected for many corruptions at once: of 100 that do nothing 5 have p < 0.05.
    """
    plan = [("rescale", i, t, rescale(prompt, i, t)) for i in range(prompt.length) for t in taus]
    plan += [
        ("replace", i, s, replace(prompt, i, s, seed)) for i in range(prompt.length) for s in sigmas
    ]
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
        longer = [
            o for o in found if o.kind == "rescale" and o.position == c.position and o.factor > 1
        ]
        if c.kind == "rescale" and c.factor > 0 and longer:
            mirror = min(longer, key=lambda o: abs(math.log(o.factor * c.factor)))
            if mirror.delta < 0:
                both.add(c.position)
    return Occurrences(len(shorter), len(rose), sum(c.p < 0.05 for c in rose), len(both))
