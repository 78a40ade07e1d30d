"""Numbers over an axis."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from copra_lab.plots.picture import GREY, LINES, PALE, Estimate, Picture
from copra_lab.utils.statistics import Accuracy


def curve(
    x: Sequence[float],
    series: Mapping[str, Sequence[Accuracy]],
    xlabel: str,
    chance: float | None = None,
) -> Picture:
    """Accuracies over `x`, one line each of `series`, intervals as bands."""
    fig = Figure(figsize=(7.6, 3.2), layout="constrained")
    ax = fig.subplots()
    for (label, line), (mark, stroke, colour) in zip(series.items(), LINES, strict=False):
        low, high = np.array([a.interval for a in line]).T * 100
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(
            x,
            [100 * a.value for a in line],
            mark,
            ls=stroke,
            color=colour,
            ms=5,
            label=f"{label}, n = {line[0].n}",
        )
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, lw=1, ls=":", label="guessing")
    ax.set(
        xlabel=xlabel,
        ylabel="accuracy, %",
        ylim=(0, None),
        xticks=list(x) if len(x) <= 16 else None,
    )
    ax.legend(frameon=False)
    ax.grid(color=PALE, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    told = "; ".join(
        f"{label}: "
        + ", ".join(f"{100 * a.value:.0f} % at {at}" for at, a in zip(x, line, strict=True))
        for label, line in series.items()
    )
    return Picture(fig, f"Accuracy over {xlabel}. {told}.")


def bands(
    series: Mapping[str, tuple[Sequence[float], Sequence[Estimate]]],
    xlabel: str,
    chance: float | None = None,
    points: "Mapping[str, tuple[Sequence[float], Sequence[float]]] | None" = None,
    log: bool = False,
) -> Picture:
    """Accuracies with any interval, each of `series` over an x of its own: label → (x, estimates). ``points``: single
    measurements behind them, label → (x, values)."""
    fig = Figure(figsize=(7.6, 3.2), layout="constrained")
    ax = fig.subplots()
    for (label, (x, line)), (mark, dash, colour) in zip(series.items(), LINES, strict=False):
        low, high = np.array([interval for _, interval in line]).T * 100
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(x, [100 * v for v, _ in line], mark, ls=dash, color=colour, ms=5, label=label)
        if points and label in points:
            ax.plot(
                points[label][0],
                [100 * v for v in points[label][1]],
                mark,
                ms=2.5,
                mfc="none",
                mew=0.7,
                color=colour,
                alpha=0.6,
            )
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, lw=1, ls=(0, (1, 4)), label="guessing")
    every = sorted({v for x, _ in series.values() for v in x})
    ax.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, None))
    if log:
        ax.set_xscale("log")
        ax.xaxis.set_major_formatter("{x:g}")
    elif len(every) <= 16:
        ax.set_xticks(every)
    ax.legend(frameon=False)
    ax.grid(color=PALE, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    told = "; ".join(
        f"{label}: "
        + ", ".join(f"{100 * v:.0f} % at {at:.4g}" for at, (v, _) in zip(x, line, strict=True))
        for label, (x, line) in series.items()
    )
    return Picture(fig, f"Accuracy over {xlabel}. {told}.")


def lines(
    x: Sequence[float],
    panels: Mapping[str, Mapping[str, Sequence[float]]],
    xlabel: str,
    log: bool = False,
    marks: bool = True,
) -> Picture:
    """Numbers over `x`, panels side by side: what the y axis says → series → a number for each of `x`. Both axes are logarithmic
    if `log`."""
    fig = Figure(figsize=(7.6, 3.2), layout="constrained")
    told = []
    for (ylabel, series), ax in zip(
        panels.items(), fig.subplots(1, len(panels), squeeze=False)[0], strict=True
    ):
        for (label, y), (mark, line, colour) in zip(series.items(), LINES, strict=False):
            ax.plot(x, y, line, marker=mark if marks else None, color=colour, ms=5, label=label)
            known = [(at, v) for at, v in zip(x, y, strict=True) if np.isfinite(v)]
            told.append(
                f"{ylabel}, {label}: from {known[0][1]:.3g} at {known[0][0]:g} to {known[-1][1]:.3g} at {known[-1][0]:g}"
            )
        ax.set(xlabel=xlabel, ylabel=ylabel)
        if not log and min(min(y) for y in series.values()) >= 0:
            ax.set_ylim(0)
        if not log and len(x) <= 12:
            ax.set_xticks(x, [f"{v:g}" for v in x])
        if log:
            ax.set(xscale="log", yscale="log")
            ax.set_xticks(x, [f"{v:g}" for v in x])
            ax.minorticks_off()
            low, high = ax.get_ylim()
            ticks = [
                t
                for t in (m * 10.0**k for k in range(-6, 7) for m in (1, 2, 5))
                if low <= t <= high
            ]
            ax.set_yticks(ticks, [f"{t:g}" for t in ticks])
        ax.legend(frameon=False, fontsize=9)
        ax.grid(color=PALE, lw=0.6)
        ax.spines[["top", "right"]].set_visible(False)
    return Picture(fig, f"Over {xlabel}. " + "; ".join(told) + ".")
