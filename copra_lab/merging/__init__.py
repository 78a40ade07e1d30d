"""Merging adapters: pure functions Adapter → Adapter.

Two things are called "averaging two LoRAs", and they differ: see `copra_lab.merging.linear`.
"""

from copra_lab.merging.barriers import barrier, highest_barrier
from copra_lab.merging.common import Weight
from copra_lab.merging.linear import (
    SPACES,
    average_factors,
    interpolate,
    interpolate_factors,
    plane,
    task_arithmetic,
    weighted_sum,
)
from copra_lab.merging.sparse import dare, keep_largest, ties
from copra_lab.merging.spectral import truncate

__all__ = [
    "SPACES",
    "Weight",
    "average_factors",
    "barrier",
    "dare",
    "highest_barrier",
    "interpolate",
    "interpolate_factors",
    "keep_largest",
    "plane",
    "task_arithmetic",
    "ties",
    "truncate",
    "weighted_sum",
]
