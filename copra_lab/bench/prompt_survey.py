"""The Low-Norm Effect: accuracy when single vectors of a soft prompt are corrupted.

Fu et al., ICLR 2024, found that making a vector shorter sometimes raises accuracy.
"""

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
    """One corruption of one vector, and what it does.

    Attributes:
        kind: "rescale" or "replace".
        position: of the vector, from 0.
        factor: τ of "rescale", σ of "replace".
        norm: the vector's L2 norm afterwards, divided by that before.
        delta: accuracy after minus before, −1…1.
        p: two-sided bootstrap p-value of the difference: how often it has not that sign when whole
            sources of images are drawn again.
    """

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
    """Corrupt every vector in every way, and measure each on all of the bench's images.

    Accuracy moves by an image or two whatever is done, so each difference comes with its paired
    bootstrap: the same images are drawn for both. p is not corrected for multiple comparisons: of
    100 corruptions that do nothing, 5 have p < 0.05.

    Args:
        bench: the images.
        prompt: the soft prompt.
        taus: factors τ by which a vector is rescaled.
        sigmas: standard deviations σ of the noise that replaces a vector.
        seed: of the noise, and of the bootstrap.
        draws: of the bootstrap.
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
    """How often the Low-Norm Effect occurred.

    Attributes:
        of: corruptions that make a vector shorter.
        rose: those of them that raised accuracy.
        surely: those of them with p < 0.05.
        positions: positions where some τ < 1 raised accuracy while 1/τ, or the nearest τ above 1
            that was tried, lowered it.
    """

    of: int
    rose: int
    surely: int
    positions: int


def occurrences(found: Sequence[Corruption]) -> Occurrences:
    """Count the Low-Norm Effect as the paper does, and more strictly.

    The paper counts every position and setting that makes a vector shorter and raises accuracy.
    """
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
