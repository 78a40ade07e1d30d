"""Merging adapters: pure functions Adapter → Adapter.

Three things are called "averaging two LoRAs", and they differ: see `copra_lab.merging.linear`.
"""

from copra_lab.merging.barriers import barrier, highest_barrier
from copra_lab.merging.common import Weight
from copra_lab.merging.gauge import align, align_all, balance
from copra_lab.merging.linear import (
    SPACES,
    average_factors,
    interpolate,
    interpolate_aligned,
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
    "align",
    "align_all",
    "average_factors",
    "balance",
    "barrier",
    "dare",
    "highest_barrier",
    "interpolate",
    "interpolate_aligned",
    "interpolate_factors",
    "keep_largest",
    "plane",
    "task_arithmetic",
    "ties",
    "truncate",
    "weighted_sum",
]
