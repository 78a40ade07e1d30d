"""Merging adapters: pure functions Adapter → Adapter, all in one table, `MERGES`.

Three things are called "averaging two LoRAs", and they differ: see `copra_lab.merging.linear`.
Names are imported when first asked for, so that `copra_lab.merging.registry` needs no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from copra_lab.merging.barriers import barrier, highest_barrier
    from copra_lab.merging.common import Weight
    from copra_lab.merging.core_space import (
        core_dare_ties,
        core_ties,
        in_core,
        in_knots,
        knots_dare_ties,
        knots_ties,
    )
    from copra_lab.merging.directions import model_stock, slerp
    from copra_lab.merging.gauge import align, align_all, balance
    from copra_lab.merging.isotropic import cart, iso_c, iso_cts, tsv_m
    from copra_lab.merging.least_squares import fisher, regmean, wudi
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
    from copra_lab.merging.masks import breadcrumbs, consensus, emr, emr_tasks
    from copra_lab.merging.registry import MERGES, Merge, Parameter, merge, merge_names
    from copra_lab.merging.sparse import dare, dare_sum, della, keep_largest, magprune, ties
    from copra_lab.merging.spectral import truncate
    from copra_lab.merging.units import lego

__all__ = [
    "MERGES",
    "SPACES",
    "Merge",
    "Parameter",
    "Weight",
    "align",
    "align_all",
    "average_factors",
    "balance",
    "barrier",
    "breadcrumbs",
    "cart",
    "consensus",
    "core_dare_ties",
    "core_ties",
    "dare",
    "dare_sum",
    "della",
    "emr",
    "emr_tasks",
    "fisher",
    "highest_barrier",
    "in_core",
    "in_knots",
    "interpolate",
    "interpolate_aligned",
    "interpolate_factors",
    "iso_c",
    "iso_cts",
    "keep_largest",
    "knots_dare_ties",
    "knots_ties",
    "lego",
    "magprune",
    "merge",
    "merge_names",
    "model_stock",
    "plane",
    "regmean",
    "slerp",
    "task_arithmetic",
    "ties",
    "truncate",
    "tsv_m",
    "weighted_sum",
    "wudi",
]

_HOMES = {
    "barriers": "barrier highest_barrier",
    "common": "Weight",
    "core_space": "core_dare_ties core_ties in_core in_knots knots_dare_ties knots_ties",
    "directions": "model_stock slerp",
    "gauge": "align align_all balance",
    "isotropic": "cart iso_c iso_cts tsv_m",
    "least_squares": "fisher regmean wudi",
    "linear": "SPACES average_factors interpolate interpolate_aligned interpolate_factors plane "
    "task_arithmetic weighted_sum",
    "masks": "breadcrumbs consensus emr emr_tasks",
    "registry": "MERGES Merge Parameter merge merge_names",
    "sparse": "dare dare_sum della keep_largest magprune ties",
    "spectral": "truncate",
    "units": "lego",
}
_HOME = {name: module for module, names in _HOMES.items() for name in names.split()}


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOME[name]}"), name)
