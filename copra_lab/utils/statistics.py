"""Accuracies and differences, with their confidence intervals."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Accuracy", "bootstrap_interval", "paired_bootstrap"]

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
