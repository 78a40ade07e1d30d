"""Shared parts of the report: accuracies by method and column, their means, and tables of both."""

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from common import ALL_TASKS
from matplotlib.figure import Figure

from copra_lab.methods.registry import METHODS

NAMES = {name: m.label for name, m in METHODS.items()}
"""Method → its name in tables, in their order."""

Cells = dict[tuple[str, str], dict[str, list[float]]]
"""(method, column) → task → one accuracy (0…1) per seed or pair of seeds."""

Save = Callable[[str, Figure], str]
"""(name, figure) → the Markdown that shows it."""


def gather(
    rows: Iterable[dict[str, str]],
    column: Callable[[dict[str, str]], str | None] = lambda r: r["setting"],
) -> Cells:
    """The accuracies of `rows`.

    Rows of all tasks together are left out, and those for which `column` is None.
    """
    out: Cells = defaultdict(lambda: defaultdict(list))
    for r in rows:
        if r["task"] != ALL_TASKS and (c := column(r)) is not None:
            out[r["method"], c][r["task"]].append(float(r["accuracy"]))
    return out


def mean(cell: dict[str, list[float]]) -> float:
    """The mean over tasks of the mean over seeds."""
    return float(np.mean([np.mean(v) for v in cell.values()]))


def interval(values: Sequence[float], draws: int = 10000) -> tuple[float, float]:
    """95 % interval of a mean over tasks, by resampling tasks."""
    x = np.array(values)
    means = x[np.random.default_rng(0).integers(len(x), size=(draws, len(x)))].mean(1)
    return float(np.quantile(means, 0.025)), float(np.quantile(means, 0.975))


def difference(cells: Cells, column: str, one: str, other: str) -> str:
    """The difference of two methods in points, with its interval over tasks."""
    a, b = cells[one, column], cells[other, column]
    gaps = [100 * (np.mean(a[t]) - np.mean(b[t])) for t in a if t in b]
    low, high = interval(gaps)
    return f"{np.mean(gaps):+.1f} ({low:+.1f} to {high:+.1f})".replace("-", "−")


def table(
    cells: Cells,
    columns: Sequence[str],
    heads: Sequence[str] | None = None,
    differences: Iterable[tuple[str, str]] = (("copra", "lora"),),
) -> str:
    """Means over tasks, one row per method, and the `differences` of pairs of methods."""
    methods = [m for m in NAMES if (m, columns[0]) in cells]
    lines = [
        "| " + " | ".join(("mean over tasks, %", *(heads or columns))) + " |",
        "|---" * (len(columns) + 1) + "|",
    ]
    lines += [
        "| " + " | ".join((NAMES[m], *(f"{100 * mean(cells[m, c]):.1f}" for c in columns))) + " |"
        for m in methods
    ]
    for one, other in differences:
        if {one, other} <= set(methods):
            gaps = " | ".join(difference(cells, c, one, other) for c in columns)
            lines.append(f"| {NAMES[one]} − {NAMES[other]} (95 % over tasks) | {gaps} |")
    return "\n".join(lines)


def against(other: str) -> list[tuple[str, str]]:
    """All pairs of a method and `other`, for `table`."""
    return [(m, other) for m in NAMES if m != other]
