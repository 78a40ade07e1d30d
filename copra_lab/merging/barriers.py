"""The barrier: how far a path between two models falls below the straight line between its ends."""

from collections.abc import Sequence

__all__ = ["barrier", "highest_barrier"]


def barrier(weights: Sequence[float], values: Sequence[float]) -> float:
    """The barrier of a path: max over λ of (1−λ)·v(0) + λ·v(1) − v(λ).

    As in Entezari et al., arXiv:2110.06296, who measure losses. Frankle et al., arXiv:1912.05671,
    compare the path with the mean of its ends instead of the line between them.

    Args:
        weights: λ of each point; 0 and 1 must be among them, and points beyond do not count.
        values: v(λ) of each point, more is better: accuracies as shares, say.

    Returns:
        The barrier in the unit of the values; never negative, since the ends give 0.

    Raises:
        ValueError: if a weight of 0 or 1 is missing.
    """
    return highest_barrier(weights, values)[0]


def highest_barrier(weights: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """The `barrier` of a path, and the λ where it is; of equals the first."""
    at = dict(zip(weights, values, strict=True))
    if 0.0 not in at or 1.0 not in at:
        raise ValueError("a barrier needs the values at λ = 0 and λ = 1")
    depths = {w: (1 - w) * at[0.0] + w * at[1.0] - v for w, v in at.items() if 0 <= w <= 1}
    where = max(depths, key=depths.__getitem__)
    return depths[where], where
