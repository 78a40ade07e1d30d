"""Accuracies and differences, with their confidence intervals."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

__all__ = [
    "Accuracy",
    "Outcomes",
    "bootstrap_interval",
    "paired_bootstrap",
    "share_lost",
    "share_lost_interval",
]

Z95 = 1.959963984540054
"""The 97.5 % quantile of the normal distribution, for two-sided 95 % intervals."""


@dataclass(frozen=True)
class Accuracy:
    """An accuracy with Wilson's 95 % interval, which stays honest near 0 and 1 and for small n.

    Source: Wilson 1927, "Probable inference, the law of succession, and statistical inference".

    Attributes:
        correct: How many images were classified correctly.
        n: How many images there were.
    """

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(
                f"an accuracy needs 0 ≤ correct ≤ n and n ≥ 1, got {self.correct} of {self.n}"
            )

    @property
    def value(self) -> float:
        """Share of correct images, 0…1."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end of the 95 % interval, 0…1."""
        p, n, z2 = self.value, self.n, Z95**2
        middle = (p + z2 / (2 * n)) / (1 + z2 / n)
        half = Z95 / (1 + z2 / n) * math.sqrt(p * (1 - p) / n + z2 / (4 * n * n))
        return max(0.0, min(middle - half, p)), min(1.0, max(middle + half, p))

    def __float__(self) -> float:
        return self.value

    def __str__(self) -> str:
        low, high = self.interval
        return f"{100 * self.value:.1f} % ({100 * low:.1f} to {100 * high:.1f}, n = {self.n})"


def bootstrap_interval(
    correct: np.ndarray, sources: "np.ndarray | list[str]", seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of a mean, from a bootstrap over whole sources.

    Images of the same source drawing are not independent, so they are drawn together.

    Args:
        correct: One outcome per image, (n,): 0 or 1, or any number.
        sources: The source drawing of each image, (n,).
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Returns:
        Lower and upper end of the interval.
    """
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    hits, sizes = np.bincount(group, weights=correct), np.bincount(group)
    pick = np.random.default_rng(seed).integers(len(hits), size=(draws, len(hits)))
    means = hits[pick].sum(1) / sizes[pick].sum(1)
    low, high = np.quantile(means, [0.025, 0.975])
    return float(low), float(high)


def paired_bootstrap(
    after: np.ndarray,
    before: np.ndarray,
    sources: "np.ndarray | list[str]",
    seed: int = 0,
    draws: int = 2000,
) -> tuple[np.ndarray, np.ndarray]:
    """Mean difference of outcomes on the same images, and its two-sided p value.

    p is how often a bootstrap over whole sources gives a difference of the other sign, doubled.
    Only images whose outcome changed move the difference, so the test is sensitive: it tells a
    gain of two images from a gain of twenty.

    Args:
        after: Outcomes of m variants, (m, n).
        before: Outcomes that each variant is compared with, (n,).
        sources: The source drawing of each image, (n,).
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Returns:
        Differences (m,) and p values (m,); p is 1 where nothing differs.
    """
    difference = np.asarray(after, float) - np.asarray(before, float)  # (m, n)
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    member = np.eye(group.max() + 1)[group]  # (n, sources), one-hot
    k = member.shape[1]
    rng = np.random.default_rng(seed)
    counts = rng.multinomial(k, np.full(k, 1 / k), size=draws).astype(float)  # (draws, sources)
    means = counts @ member.T @ difference.T / (counts @ member.sum(0))[:, None]  # (draws, m)
    # A sample without a difference counts half for either sign; one more sample on each side
    # keeps p above 0.
    ties = (np.abs(means) < 1e-12).mean(0) / 2
    below, above = (means <= -1e-12).mean(0) + ties, (means >= 1e-12).mean(0) + ties
    p = 2 * (np.minimum(below, above) * draws + 1) / (draws + 1)
    return difference.mean(1), np.minimum(1.0, p)


NO_GAIN = 1e-12
"""What rounding makes of gains that cancel."""


@dataclass(frozen=True)
class Outcomes:
    """What adapters, something weaker and the base do on the images of one task, for `share_lost`.

    Attributes:
        alone: Outcomes of the adapters as trained, 0 or 1 or any number, (seeds, n) or (n,).
        weaker: Of what was made of each, pruned or merged, of the same shape.
        base: Of the base, (n,).
        sources: The source drawing of each image, (n,).
    """

    alone: np.ndarray
    weaker: np.ndarray
    base: np.ndarray
    sources: "np.ndarray | list[str]"

    def __post_init__(self) -> None:
        shapes = [np.shape(x) for x in (self.alone, self.weaker, self.base, self.sources)]
        alone, weaker, base, sources = shapes
        if alone != weaker or base != sources or base != alone[-1:] or len(alone) not in (1, 2):
            raise ValueError(
                "expected alone and weaker (seeds, n) or (n,), base and sources (n,), got "
                + ", ".join(map(str, shapes))
            )
        if not np.size(self.alone):
            raise ValueError("outcomes of no image have no mean; give at least one")


def share_lost(tasks: Sequence[Outcomes]) -> float:
    """How much of what adapters gain is lost again: Σ (alone − weaker) / Σ (alone − base).

    Both sums are over tasks, of mean outcomes over seeds and images: 0 is nothing lost, 1 all of
    it, and less than 0 where the weaker one is better. Points alone hide that one method had more
    to lose than another.

    Raises:
        ValueError: Where the adapters gain nothing in sum, so that no share of it can be lost.
    """
    if not tasks:
        raise ValueError("give the outcomes of at least one task")
    losses = sum(float(np.mean(t.alone) - np.mean(t.weaker)) for t in tasks)
    gains = sum(float(np.mean(t.alone) - np.mean(t.base)) for t in tasks)
    if not gains > NO_GAIN:
        raise ValueError(
            f"the adapters gain {100 * gains / len(tasks):.1f} points over the base, so no share "
            "of a gain can be lost; compare accuracies instead"
        )
    return losses / gains


def share_lost_interval(
    tasks: Sequence[Outcomes], seed: int = 0, draws: int = 2000
) -> tuple[float, float]:
    """95 % interval of `share_lost`, from a paired bootstrap.

    In each task whole sources are resampled, as in `bootstrap_interval`, and seeds where there are
    several: the same ones for all three outcomes. Tasks stay: it is about these, not about others.

    Args:
        tasks: The outcomes, by task.
        seed: Seed of the bootstrap.
        draws: Number of bootstrap samples.

    Returns:
        Lower and upper end of the interval.

    Raises:
        ValueError: Where the adapters gain nothing, in sum or in one of the samples: then the share
            has no bounds.
    """
    share_lost(tasks)
    rng = np.random.default_rng(seed)
    losses, gains = np.zeros(draws), np.zeros(draws)
    for t in tasks:
        loss, gain = _resampled(t, rng, draws)
        losses, gains = losses + loss, gains + gain
    if (empty := int((gains <= NO_GAIN).sum())) > 0:
        raise ValueError(
            f"the adapters gain nothing over the base in {empty} of {draws} bootstrap samples, so "
            "the share of the gain that is lost has no interval; compare accuracies instead"
        )
    low, high = np.quantile(losses / gains, [0.025, 0.975])
    return float(low), float(high)


def _resampled(t: Outcomes, rng: np.random.Generator, draws: int) -> tuple[np.ndarray, np.ndarray]:
    """Mean loss and mean gain in each bootstrap sample of one task, (draws,) each."""
    _, group = np.unique(np.asarray(t.sources), return_inverse=True)
    member = np.eye(group.max() + 1)[group]  # (n, sources), one-hot
    alone, weaker = (np.atleast_2d(np.asarray(x, float)) for x in (t.alone, t.weaker))
    s, k = len(alone), member.shape[1]
    images = rng.multinomial(k, np.full(k, 1 / k), size=draws)  # (draws, sources)
    seeds = rng.multinomial(s, np.full(s, 1 / s), size=draws) / s  # (draws, seeds)
    sizes = images @ member.sum(0)
    loss, gain = (
        np.einsum("ds,dk,sk->d", seeds, images, difference @ member, optimize=True) / sizes
        for difference in (alone - weaker, alone - np.asarray(t.base, float))
    )
    return loss, gain
