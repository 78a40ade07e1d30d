"""Numbers with their intervals."""

import math
from dataclasses import dataclass

import numpy as np

__all__ = ["Accuracy", "bootstrap_interval", "paired_bootstrap"]

Z95 = 1.959963984540054


@dataclass(frozen=True)
class Accuracy:
    """`correct` of `n` images, with Wilson's 95 % interval (Wilson 1927): honest near 0 and 1 and for small n."""

    correct: int
    n: int

    def __post_init__(self) -> None:
        if not 0 <= self.correct <= self.n or self.n < 1:
            raise ValueError(
                f"an accuracy needs 0 ≤ correct ≤ n and n ≥ 1, got {self.correct} of {self.n}"
            )

    @property
    def value(self) -> float:
        """Share correct, 0…1."""
        return self.correct / self.n

    @property
    def interval(self) -> tuple[float, float]:
        """Lower and upper end, 0…1."""
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
    """95 % interval of a mean of `correct` (n,) by resampling whole sources: several images of one drawing never
    count as independent."""
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
    """The mean difference of outcomes on the same images, (m, n) against (n,), and its two-sided p: how often, when whole sources
    are drawn again, the difference does not have that sign. 1 where nothing differs.

    Only images whose outcome changed move the difference, so a gain of two images is soon told from one of twenty.
    """
    difference = np.asarray(after, float) - np.asarray(before, float)
    _, group = np.unique(np.asarray(sources), return_inverse=True)
    of = np.eye(group.max() + 1)[group]  # (n, groups)
    pick = (
        np.random.default_rng(seed)
        .multinomial(len(of.T), np.full(len(of.T), 1 / len(of.T)), size=draws)
        .astype(float)
    )
    means = pick @ of.T @ difference.T / (pick @ of.sum(0))[:, None]
    # Half of those without a difference count for either side; one more draw on each, so that p is never 0.
    even = (np.abs(means) < 1e-12).mean(0) / 2
    below, above = (means <= -1e-12).mean(0) + even, (means >= 1e-12).mean(0) + even
    return difference.mean(1), np.minimum(
        1.0, 2 * (np.minimum(below, above) * draws + 1) / (draws + 1)
    )
