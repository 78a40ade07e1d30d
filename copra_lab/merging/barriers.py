"""The barrier: how far a path between two models falls below the straight line between its ends."""

from collections.abc import Sequence

__all__ = ["barrier", "highest_barrier"]


def barrier(weights: Sequence[float], values: Sequence[float]) -> float:
    """How far a path falls below the straight line between its ends: max over λ of (1−λ)·v(0) + λ·v(1) − v(λ).

    `weights` must contain 0 and 1; points outside 0…1 do not count. Never negative, since the ends give 0.
    Entezari et al., arXiv:2110.06296 (of losses there). Frankle et al., arXiv:1912.05671, hold the path against the mean of its ends.
    """
    return highest_barrier(weights, values)[0]


def highest_barrier(weights: Sequence[float], values: Sequence[float]) -> tuple[float, float]:
    """`barrier`, and the λ where it is; of equals the first given."""
    at = dict(zip(weights, values, strict=True))
    if 0.0 not in at or 1.0 not in at:
        raise ValueError("a barrier needs the values at λ = 0 and λ = 1")
    depths = {w: (1 - w) * at[0.0] + w * at[1.0] - v for w, v in at.items() if 0 <= w <= 1}
    where = max(depths, key=depths.__getitem__)
    return depths[where], where
