"""Accuracies, values and differences in rows, with their intervals."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from copra_lab.plots.picture import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    PALE,
    VERMILION,
    WIDTH,
    Estimate,
    Interval,
    Picture,
    grid_behind,
    new_figure,
)
from copra_lab.utils.statistics import Accuracy

_LEGEND: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "frameon": False}


def accuracies(
    rows: Mapping[str, Accuracy],
    chance: "Mapping[str, float] | float | None" = None,
    differences: "Mapping[str, Estimate] | None" = None,
    than: str = "",
) -> Picture:
    """Plot one accuracy per row, with its interval.

    Args:
        rows: Label → accuracy.
        chance: Accuracy of guessing, 0…1, drawn as a tick; or label → that.
        differences: Label → paired difference to the row `than`, with its interval; drawn in a
            second panel, filled if the interval excludes zero.
        than: Label of the row that differences are relative to.
    """
    paired, fig = differences is not None, new_figure(0.75 + 0.31 * len(rows))
    axes = fig.subplots(1, 2 if paired else 1, sharey=True, squeeze=False)[0]
    ax = axes[0]
    for y, (label, a) in enumerate(rows.items()):
        _point(ax, y, (a.value, a.interval), BLUE)
        luck = chance.get(label) if isinstance(chance, Mapping) else chance
        if luck is not None:
            name = "guessing" if y == 0 else None
            ax.plot(100 * luck, y, "|", color=GREY, ms=11, mew=2, label=name)
        if not paired:
            number = f"{100 * a.value:.0f} %, n = {a.n}"
            ax.text(101, y, number, va="center", fontsize=9, color="#444444")
    numbers = {a.n for a in rows.values()}
    n = f" (n = {numbers.pop()})" if paired and len(numbers) == 1 else ""
    ax.set(xlim=(0, 100), xlabel=f"accuracy, %{n}")
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    if chance is not None:
        ax.legend(**_LEGEND, fontsize=9, handletextpad=0, borderaxespad=0)
    if differences is not None:
        _differences(axes[1], rows, differences)
        axes[1].set(xlabel=f"points more than {than}")
    for ax in axes:
        _row_axes(ax)
    told = "; ".join(f"{label}: {a}" for label, a in rows.items())
    return Picture(fig, f"Accuracy with 95 % interval: {told}.")


def differences(panels: Mapping[str, Mapping[str, Estimate]], xlabel: str) -> Picture:
    """Plot paired differences of accuracies, filled if the interval excludes zero.

    Args:
        panels: Title → label → difference −1…1 with its interval. All panels share rows and scale.
        xlabel: Label below all panels.
    """
    rows = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    fig = new_figure(1.0 + 0.31 * len(rows))
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        _differences(ax, rows, panel)
        ax.set_title(title, fontsize=10)
        _row_axes(ax)
    axes[0].set_yticks(range(len(rows)), rows)
    axes[0].set_ylim(len(rows) - 0.5, -0.5)
    fig.supxlabel(xlabel, fontsize=10)
    told = [
        f"{title}: "
        + ", ".join(
            f"{label} {100 * v:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})"
            for label, (v, (low, high)) in panel.items()
        )
        for title, panel in panels.items()
    ]
    return Picture(fig, f"{xlabel}, with 95 % intervals. {'; '.join(told)}.")


def _differences(ax: Axes, rows: "Sequence[str] | Mapping", panel: Mapping[str, Estimate]) -> None:
    """A point per row that `panel` knows, and a line at zero."""
    for y, label in enumerate(rows):
        if label in panel:
            low, high = panel[label][1]
            clear = not low <= 0 <= high
            _point(ax, y, panel[label], VERMILION if clear else GREY, clear)
    ax.axvline(0, color="black", lw=0.8)


def _point(ax: Axes, y: int, estimate: Estimate, colour: str, filled: bool = True) -> None:
    """A value with its interval, in per cent."""
    value, (low, high) = estimate
    ax.plot([100 * low, 100 * high], [y, y], color=colour, lw=2, solid_capstyle="butt")
    ax.plot(100 * value, y, "o", color=colour, mfc=colour if filled else "white")


def _row_axes(ax: Axes) -> None:
    """Vertical grid lines, and no frame but at the bottom."""
    grid_behind(ax, axis="x")
    ax.set_axisbelow(True)
    ax.spines[["left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)


def dots(rows: Mapping[str, Mapping[str, float]], xlabel: str = "accuracy, %") -> Picture:
    """Plot several shares per row, joined by a line; each name has its own marker.

    Args:
        rows: Label → name → share, 0…1.
        xlabel: Label of the x axis.
    """
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    colours, filled = ("black", BLUE, VERMILION, GREEN, GREY), (1, 1, 0, 0, 0)
    looks = dict(zip(names, zip("|os^D", colours, filled, strict=True), strict=False))
    fig = new_figure(0.9 + 0.29 * len(rows))
    ax = fig.subplots()
    for y, row in enumerate(rows.values()):
        ends = [100 * min(row.values()), 100 * max(row.values())]
        ax.plot(ends, [y, y], color=PALE, lw=2, zorder=1)
        for name, value in row.items():
            marker, colour, full = looks[name]
            style: dict[str, Any] = {"ms": 13 if marker == "|" else 7, "mew": 1.8}
            label, inside = name if y == 0 else None, colour if full else "white"
            ax.plot(100 * value, y, marker, color=colour, mfc=inside, label=label, **style)
    ax.set(xlim=(0, 100), xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), list(rows))
    spacing = {"ncols": 4, "handletextpad": 0.1, "columnspacing": 1.2}
    fig.legend(loc="outside upper center", frameon=False, fontsize=9, **spacing)
    _row_axes(ax)
    told = [
        f"{label}: " + ", ".join(f"{name} {100 * v:.0f} %" for name, v in row.items())
        for label, row in rows.items()
    ]
    return Picture(fig, f"{xlabel}. {'; '.join(told)}.")


_Values = tuple[Sequence[float], Sequence[Interval] | None]
"""Values, and their intervals if there are any."""


def estimates(
    names: Sequence[str],
    panels: Mapping[str, Mapping[str, _Values]],
    xlabel: str = "",
    title: str = "",
    ylim: "Interval | None" = None,
) -> Picture:
    """Plot values with intervals, one place on the x axis per name, in panels below each other.

    Args:
        names: Labels along the x axis.
        panels: Label of the y axis → series → (values, their intervals or None).
        xlabel: Label of the x axis.
        title: Title of the figure.
        ylim: Lower and upper end of the y axes.
    """
    height = 2.9 if len(panels) == 1 else 2.3 * len(panels)
    fig, told = new_figure(height + 0.3 * bool(title), width=WIDTH), []
    axes = fig.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for (ylabel, series), ax in zip(panels.items(), axes, strict=True):
        for k, ((label, (values, intervals)), (marker, _, colour)) in enumerate(
            zip(series.items(), LINES, strict=False)
        ):
            x = np.arange(len(names)) + 0.24 * (k - (len(series) - 1) / 2)
            if intervals is not None:
                ax.vlines(x, *np.array(intervals).T, color=colour, lw=1.6)
            style = {"mfc": colour if k % 2 == 0 else "white", "ms": 5.5, "mew": 1.4}
            ax.plot(x, values, marker, color=colour, label=label, **style)
            told.append(f"{ylabel}, {label}: {_in_words(names, values, intervals)}")
        ax.axhline(0, color="black", lw=0.8)
        ax.set(ylabel=ylabel, xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4), ylim=ylim)
        ax.set_xticklabels(names)
        if len(series) > 1 or len(panels) == 1:
            ax.legend(**_LEGEND, ncols=len(series), fontsize=9, borderaxespad=0.1)
        grid_behind(ax, axis="y")
        ax.set_axisbelow(True)
    ax.set_xlabel(xlabel)
    if title:
        fig.suptitle(title, fontsize=10, x=0.99, ha="right")
    alt = (f"{title}. " if title else "") + "; ".join(t.replace("\n", " ") for t in told)
    return Picture(fig, f"{alt}.")


def _in_words(
    names: Sequence[str], values: Sequence[float], intervals: Sequence[Interval] | None
) -> str:
    """E.g. ``a 1.0 (0.5 to 1.5), b 2.0 (1.0 to 3.0)``."""
    spans = [f" ({low:.1f} to {high:.1f})" for low, high in intervals or ()] or [""] * len(names)
    return ", ".join(f"{n} {v:.1f}{s}" for n, v, s in zip(names, values, spans, strict=True))
