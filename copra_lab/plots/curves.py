"""Curves: accuracies and other numbers over an axis."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes

from copra_lab.plots.picture import GREY, LINES, Estimate, Picture, grid_behind, new_figure
from copra_lab.utils.statistics import Accuracy


def curve(
    x: Sequence[float],
    series: Mapping[str, Sequence[Accuracy]],
    xlabel: str,
    chance: float | None = None,
) -> Picture:
    """Plot accuracies over `x`, with their intervals as bands.

    Args:
        x: Positions on the x axis.
        series: Label → an accuracy for each position.
        xlabel: Label of the x axis.
        chance: Accuracy of guessing, 0…1, drawn as a dotted line.
    """
    fig = new_figure(3.2)
    ax = fig.subplots()
    for (label, line), look in zip(series.items(), LINES, strict=False):
        _band(ax, x, [(a.value, a.interval) for a in line], look, f"{label}, n = {line[0].n}")
    _accuracy_axes(ax, xlabel, chance, ":")
    if len(x) <= 16:
        ax.set_xticks(list(x))
    told = [
        f"{label}: "
        + ", ".join(f"{100 * a.value:.0f} % at {at}" for at, a in zip(x, line, strict=True))
        for label, line in series.items()
    ]
    return Picture(fig, f"Accuracy over {xlabel}. {'; '.join(told)}.")


def bands(
    series: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]],
    xlabel: str,
    chance: float | None = None,
    points: "Mapping[str, tuple[Sequence[float], Sequence[float]]] | None" = None,
    log: bool = False,
) -> Picture:
    """Plot accuracies with any kind of interval, where each series has its own x positions.

    Args:
        series: Label → (x positions, estimates 0…1).
        xlabel: Label of the x axis.
        chance: Accuracy of guessing, 0…1, drawn as a dotted line.
        points: Label → (x positions, values 0…1) of single measurements, drawn small.
        log: Whether the x axis is logarithmic.
    """
    fig = new_figure(3.2)
    ax = fig.subplots()
    for (label, (x, line)), look in zip(series.items(), LINES, strict=False):
        _band(ax, x, line, look, label)
        if points and label in points:
            marker, _, colour = look
            at, values = points[label]
            small: dict[str, Any] = {"ms": 2.5, "mfc": "none", "mew": 0.7, "alpha": 0.6}
            ax.plot(at, [100 * v for v in values], marker, color=colour, **small)
    _accuracy_axes(ax, xlabel, chance, (0, (1, 4)))
    ticks = sorted({v for x, _ in series.values() for v in x})
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    elif len(ticks) <= 16:
        ax.set_xticks(ticks)
    told = [
        f"{label}: "
        + ", ".join(f"{100 * v:.0f} % at {at:.4g}" for at, (v, _) in zip(x, line, strict=True))
        for label, (x, line) in series.items()
    ]
    return Picture(fig, f"Accuracy over {xlabel}. {'; '.join(told)}.")


def _band(
    ax: Axes,
    x: Sequence[float],
    line: Sequence[Estimate],
    look: tuple[str, str, str],
    label: str,
) -> None:
    """A line of estimates 0…1 with their intervals as a band, in per cent."""
    marker, dash, colour = look
    low, high = np.array([interval for _, interval in line]).T * 100
    ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
    ax.plot(x, [100 * v for v, _ in line], marker, ls=dash, color=colour, ms=5, label=label)


def _accuracy_axes(ax: Axes, xlabel: str, chance: float | None, dots: Any) -> None:
    """Labels, legend and grid of accuracies over `xlabel`, and a line at that of guessing."""
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, lw=1, ls=dots, label="guessing")
    ax.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, None))
    ax.legend(frameon=False)
    grid_behind(ax)


def lines(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    log: bool = False,
    marks: bool = True,
) -> Picture:
    """Plot numbers over `x`, in panels side by side.

    Args:
        x: Positions on the x axis.
        panels: Label of the y axis → series → a number for each position.
        xlabel: Label of the x axis.
        log: Whether both axes are logarithmic.
        marks: Whether each number has a marker.
    """
    fig, told = new_figure(3.2), []
    axes = fig.subplots(1, len(panels), squeeze=False)[0]
    for (ylabel, series), ax in zip(panels.items(), axes, strict=True):
        for (label, y), (marker, dash, colour) in zip(series.items(), LINES, strict=False):
            shown = marker if marks else None
            ax.plot(x, y, dash, marker=shown, color=colour, ms=5, label=label)
            known = [(v, at) for at, v in zip(x, y, strict=True) if np.isfinite(v)]
            first, last = (f"{v:.3g} at {at:g}" for v, at in (known[0], known[-1]))
            told.append(f"{ylabel}, {label}: from {first} to {last}")
        ax.set(xlabel=xlabel, ylabel=ylabel)
        if log:
            _log_ticks(ax, x)
        else:
            if min(min(y) for y in series.values()) >= 0:
                ax.set_ylim(0)
            if len(x) <= 12:
                ax.set_xticks(x, [f"{v:g}" for v in x])
        ax.legend(frameon=False, fontsize=9)
        grid_behind(ax)
    return Picture(fig, f"Over {xlabel}. {'; '.join(told)}.")


def _log_ticks(ax: Axes, x: Sequence[float]) -> None:
    """Logarithmic axes with ticks at `x`, and at 1, 2 and 5 times powers of ten."""
    ax.set(xscale="log", yscale="log")
    ax.set_xticks(x, [f"{v:g}" for v in x])
    ax.minorticks_off()
    low, high = ax.get_ylim()
    candidates = (m * 10.0**k for k in range(-6, 7) for m in (1, 2, 5))
    ticks = [t for t in candidates if low <= t <= high]
    ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
