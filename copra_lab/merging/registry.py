"""The one table of merges: how each is called, where it is from, and which identities it keeps.

A new merge is a function and a line in `MERGES`; the command line, the experiments, the page of
documentation and the tests of identities find it there. Functions are named, not imported, so that
the command line can list merges without torch.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from importlib import import_module
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Literal

from copra_lab.utils.checks import one_of, spelling_hint

if TYPE_CHECKING:
    from copra_lab.adapters.adapter import Adapter

__all__ = ["MERGES", "Merge", "Parameter", "merge", "merge_names"]


@dataclass(frozen=True)
class Parameter:
    """A parameter of a merge.

    Args:
        default: What it is where nothing is said.
        about: What it means, in a few words.
        low: The least it may be.
        high: The most it may be.
        outside: Of low and high those that it may not be itself.
        kind: float, int or bool; None for a parameter that is no single number, and is checked by
            the function alone.
    """

    default: Any
    about: str
    low: float = -math.inf
    high: float = math.inf
    outside: tuple[float, ...] = ()
    kind: type | None = float

    @property
    def range(self) -> str:
        """The range in words: "above 0 and at most 1"."""
        words = []
        if self.low > -math.inf:
            words.append(f"{'above' if self.low in self.outside else 'at least'} {self.low:g}")
        if self.high < math.inf:
            words.append(f"{'below' if self.high in self.outside else 'at most'} {self.high:g}")
        return " and ".join(words)

    def check(self, name: str, value: Any) -> None:
        """Raise ValueError for a value that is no such number, or out of range."""
        if self.kind is None or (value is None and self.default is None):
            return
        if self.kind is bool:
            if not isinstance(value, bool):
                raise ValueError(f"{name} must be true or false, got {value!r:.80}")
            return
        number = isinstance(value, int if self.kind is int else int | float)
        if not number or isinstance(value, bool) or not math.isfinite(value):
            which = "a whole number" if self.kind is int else "a finite number"
            range_ = f", {self.range}" if self.range else ""
            raise ValueError(f"{name} must be {which}{range_}, got {value!r:.80}")
        if not self.low <= value <= self.high or value in self.outside:
            raise ValueError(f"{name} must be {self.range}, got {value!r}")


@dataclass(frozen=True)
class Merge:
    """One line of the table.

    Args:
        label: What menus and reports show.
        paper: Its arXiv id; "" for a sum.
        about: What it does, in one sentence.
        function: ``module:function``, the module one of `copra_lab.merging`.
        parameters: By name.
        fixed: What the function is told besides.
        alone: The parameters with which one adapter stays as it is; None if there are none, by
            design.
        copies: What T copies of an adapter become: what one becomes ("itself"), T times that
            ("sum"), or something else.
        zeros: What one more adapter without size does: nothing ("neutral"), to T adapters the
            factor T/(T + 1) ("shrinks"), as in a mean, or something else.
        order_free: The order of the adapters does not matter.
        gauge_free: Which A and B make up ΔW does not matter.
        homogeneous: c times every ΔW gives c times the result.
        dense: The result's rank may be above the sum of the adapters'.
        pair: It takes two adapters, and no other number.
        needs: What it is given for each adapter besides; nothing if empty.
    """

    label: str
    paper: str
    about: str
    function: str
    parameters: Mapping[str, Parameter] = field(default_factory=dict)
    fixed: Mapping[str, Any] = field(default_factory=dict)
    alone: Mapping[str, Any] | None = field(default_factory=dict)
    copies: Literal["itself", "sum", "other"] = "itself"
    zeros: Literal["neutral", "shrinks", "other"] = "neutral"
    order_free: bool = True
    gauge_free: bool = True
    homogeneous: bool = True
    dense: bool = False
    pair: bool = False
    needs: Literal["", "grams", "squared_gradients"] = ""

    def load(self) -> "Callable[..., Adapter]":
        """The function: adapters, then what it needs, then parameters by name."""
        module, _, name = self.function.partition(":")
        function = getattr(import_module(f"copra_lab.merging.{module}"), name)
        return partial(function, **self.fixed) if self.fixed else function


def merge(name: str, adapters: "Sequence[Adapter]", *data: Any, **parameters: Any) -> "Adapter":
    """Merge adapters in one of the ways of `MERGES`.

    Args:
        name: The merge.
        adapters: The adapters, of one base.
        *data: What the merge needs besides: for "fisher" and "regmean" one mapping an adapter.
        **parameters: Its parameters; what is not said has its default.

    Raises:
        ValueError: For a merge or a parameter that there is not, for one out of range, and for
            adapters that cannot be merged.
    """
    one_of("the merge", name, MERGES)
    known = MERGES[name].parameters
    if unknown := [p for p in parameters if p not in known]:
        has = f"it has {', '.join(known)}" if known else "it has no parameters"
        hint = spelling_hint(unknown[0], known)
        raise ValueError(f"the merge {name} has no parameter {unknown[0]!r}: {has}{hint}")
    if bool(data) != bool(MERGES[name].needs):
        needs = MERGES[name].needs.replace("_", " ") or "nothing but adapters and parameters"
        raise ValueError(f"the merge {name} needs {needs}")
    for p, value in parameters.items():
        known[p].check(p, value)
    return MERGES[name].load()(adapters, *data, **parameters)


def merge_names(data: bool = True) -> tuple[str, ...]:
    """The names of all merges, or of those that need nothing but adapters."""
    return tuple(n for n, m in MERGES.items() if data or not m.needs)


def check(name: str, **values: Any) -> None:
    """Raise ValueError for a parameter of a merge that is out of its range."""
    for parameter, value in values.items():
        MERGES[name].parameters[parameter].check(parameter, value)


def _scale(default: float = 1.0) -> Parameter:
    return Parameter(default, "what the result is multiplied by")


_WEIGHTS = {"weights": Parameter(None, "one for each adapter; equal ones, together 1", kind=None)}
_DENSITY = Parameter(0.2, "share of the entries kept", 0, 1, (0,))
_RATE = Parameter(0.8, "share of the entries dropped", 0, 1, (1,))
_SEED = Parameter(0, "seed of the draws", 0, kind=int)
_TIES = {"density": _DENSITY, "scale": _scale()}
_DARE_TIES = {"rate": _RATE, **_TIES, "seed": _SEED}
_LINEAR, _SPARSE, _MASKS, _CORE, _SQUARES = (
    f"{m}:" for m in ("linear", "sparse", "masks", "core_space", "least_squares")
)
_ISO = "isotropic:"

MERGES: Mapping[str, Merge] = MappingProxyType(
    {
        "sum": Merge(
            "weighted sum", "", "The weighted sum of ΔW, by default the mean.",
            _LINEAR + "weighted_sum", _WEIGHTS, zeros="shrinks",
        ),
        "task-arithmetic": Merge(
            "task arithmetic", "2212.04089", "Every ΔW times a scale, added.",
            _LINEAR + "task_arithmetic", {"scale": _scale(0.3)}, alone={"scale": 1.0},
            copies="sum",
        ),
        "ties": Merge(
            "TIES", "2306.01708",
            "Of each ΔW the largest entries; for each entry the sign that weighs more; the mean of "
            "those that have it.",
            _SPARSE + "ties", _TIES, alone={"density": 1.0}, dense=True,
        ),
        "dare": Merge(
            "DARE", "2311.03099", "Entries dropped at random and the others rescaled; then task "
            "arithmetic.",
            _SPARSE + "dare_sum", {"rate": _RATE, "scale": _scale(0.3), "seed": _SEED},
            alone={"rate": 0.0, "scale": 1.0}, copies="sum", order_free=False, dense=True,
        ),
        "factors": Merge(
            "factors", "1602.05629", "The mean of A and of B, which is not that of ΔW.",
            _LINEAR + "average_factors", _WEIGHTS, {"aligned": False}, zeros="other",
            gauge_free=False,
        ),
        "aligned": Merge(
            "aligned factors", "2410.22911", "That mean after alignment, which is closer to it.",
            _LINEAR + "average_factors", _WEIGHTS, {"aligned": True}, zeros="other",
        ),
        "slerp": Merge(
            "SLERP", "", "The great circle between two directions of ΔW, at the norm between "
            "theirs (Shoemake 1985).",
            "directions:slerp",
            {
                "weight": Parameter(0.5, "where between the two", 0, 1),
                "whole": Parameter(False, "one angle for the whole model, not one a site",
                                   kind=bool),
            },
            zeros="shrinks", pair=True,
        ),
        "model-stock": Merge(
            "Model Stock", "2403.19522", "The mean of ΔW, shortened by how little they agree.",
            "directions:model_stock", zeros="other",
        ),
        "lego": Merge(
            "LoRA-LEGO", "2409.16167", "The ranks of all adapters, clustered; each cluster becomes "
            "one rank.",
            "units:lego", {"clusters": Parameter(None, "ranks of the result; by default the "
                                                 "highest of the adapters", 1, kind=int)},
        ),
        "breadcrumbs": Merge(
            "Breadcrumbs", "2312.06795", "Of each ΔW neither the largest entries nor the smallest; "
            "added.",
            _MASKS + "breadcrumbs",
            {
                "density": Parameter(0.9, "share of the entries kept", 0, 1, (0,)),
                "gamma": Parameter(0.01, "share of the entries that is too large", 0, 1, (1,)),
                "scale": _scale(0.3),
            },
            alone={"density": 1.0, "gamma": 0.0, "scale": 1.0}, copies="sum", dense=True,
        ),
        "della": Merge(
            "DELLA", "2406.11617", "As DARE, but small entries are dropped more often; then signs "
            "as in TIES.",
            _SPARSE + "della",
            {
                "density": Parameter(0.7, "share of the entries kept", 0, 1, (0,)),
                "epsilon": Parameter(0.1, "how much more often a row's largest entry is kept than "
                                     "its median, and its smallest less often", 0, 0.5),
                "scale": _scale(), "seed": _SEED,
            },
            alone={"density": 1.0, "epsilon": 0.0}, order_free=False, dense=True,
        ),
        "consensus": Merge(
            "Consensus", "2405.07813", "Of the sum the entries that matter to several tasks.",
            _MASKS + "consensus",
            {
                "threshold": Parameter(0.4, "λ: a task counts an entry as its own if it is at "
                                       "least λ times the others' sum", 0),
                "least": Parameter(2, "how many tasks an entry must matter to", 1, kind=int),
                "scale": _scale(0.3),
            },
            alone={"scale": 1.0}, copies="sum", dense=True,
        ),
        "emr": Merge(
            "EMR", "2405.17461", "For each entry the sign that weighs more, and the largest size "
            "that has it.",
            _MASKS + "emr", {"scale": _scale()}, dense=True,
        ),
        "knots-ties": Merge(
            "KnOTS, TIES", "2410.19735", "TIES of what is left of each ΔW in the sum's own "
            "directions: KnOTS.",
            _CORE + "knots_ties", _TIES, alone={"density": 1.0},
        ),
        "knots-dare-ties": Merge(
            "KnOTS, DARE and TIES", "2410.19735", "The same with DARE before TIES.",
            _CORE + "knots_dare_ties", _DARE_TIES, alone={"rate": 0.0, "density": 1.0},
            order_free=False,
        ),
        "core-ties": Merge(
            "core space, TIES", "2509.17786", "TIES in the directions that the adapters have: the "
            "core space.",
            _CORE + "core_ties", _TIES, alone={"density": 1.0},
        ),
        "core-dare-ties": Merge(
            "core space, DARE and TIES", "2509.17786", "The same with DARE before TIES.",
            _CORE + "core_dare_ties", _DARE_TIES, alone={"rate": 0.0, "density": 1.0},
            order_free=False,
        ),
        "tsv-m": Merge(
            "TSV-M", "2412.00081", "The singular vectors of all tasks, made orthogonal.",
            _ISO + "tsv_m", {"scale": _scale()},
        ),
        "iso-c": Merge(
            "Iso-C", "2502.04959", "The sum, with all its singular values made equal.",
            _ISO + "iso_c", {"scale": _scale()}, alone=None, copies="sum",
        ),
        "iso-cts": Merge(
            "Iso-CTS", "2502.04959", "The same, where some directions are each task's own.",
            _ISO + "iso_cts",
            {
                "fraction": Parameter(0.8, "share of the directions that are common", 0, 1, (0,)),
                "scale": _scale(),
            },
            alone=None, copies="other", zeros="other",
        ),
        "cart": Merge(
            "CART", "2412.12153", "The mean, and of how each ΔW differs from it the first singular "
            "directions, added.",
            _ISO + "cart",
            {
                "share": Parameter(0.08, "directions kept of each, as a share of full rank", 0, 1),
                "strength": Parameter(1.0, "what the differences are multiplied by"),
            },
            zeros="other",
        ),
        "wudi": Merge(
            "WUDI", "2503.08099", "The ΔW whose difference to each has the least to do with its "
            "inputs, in closed form.",
            _SQUARES + "wudi", {"scale": _scale()},
        ),
        "fisher": Merge(
            "Fisher", "2111.09832", "The mean of each entry, weighted by squared gradients.",
            _SQUARES + "fisher",
            {
                "normalised": Parameter(True, "every adapter's squared gradients have mean 1",
                                        kind=bool),
                "floor": Parameter(1e-6, "the least weight, as a share of the mean", 0, 1, (0,)),
            },
            zeros="other", dense=True, needs="squared_gradients",
        ),
        "regmean": Merge(
            "RegMean", "2212.09849", "The ΔW whose outputs are closest to each adapter's, on its "
            "own inputs.",
            _SQUARES + "regmean",
            {
                "keep": Parameter(0.9, "what the Grams' entries off the diagonal are multiplied "
                                  "by", 0, 1),
                "ridge": Parameter(1e-6, "added to the diagonal, as a share of its mean", 0, 1,
                                   (0,)),
            },
            zeros="other", needs="grams",
        ),
    }
)  # fmt: skip
"""By the name that the command line uses."""
