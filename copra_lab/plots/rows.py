"""Numbers in rows: accuracies, values and differences, with their intervals."""

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.figure import Figure

from copra_lab.plots.picture import (
    BLUE,
    GREEN,
    GREY,
    LINES,
    PALE,
    VERMILION,
    Estimate,
    Interval,
    Picture,
)
from copra_lab.utils.statistics import Accuracy


def accuracies(
    rows: Mapping[str, Accuracy],
    chance: "Mapping[str, float] | float | None" = None,
    differences: "Mapping[str, tuple[float, Interval]] | None" = None,
    than: str = "",
) -> Picture:
    """One row an accuracy with its interval; ``chance`` as a tick; beside them, paired `differences` ``(value, (low,
    high))`` to the row named `than`, filled where the interval leaves out zero."""
    fig = Figure(figsize=(7.6, 0.75 + 0.31 * len(rows)), layout="constrained")
    axes = fig.subplots(1, 2 if differences is not None else 1, sharey=True, squeeze=False)[0]
    ax = axes[0]
    for y, (label, a) in enumerate(rows.items()):
        low, high = a.interval
        ax.plot([100 * low, 100 * high], [y, y], color=BLUE, lw=2, solid_capstyle="butt")
        ax.plot(100 * a.value, y, "o", color=BLUE)
        luck = chance.get(label) if isinstance(chance, Mapping) else chance
        if luck is not None:
            ax.plot(
                100 * luck, y, "|", color=GREY, ms=11, mew=2, label="guessing" if y == 0 else None
            )
        if differences is None:
            ax.text(
                101,
                y,
                f"{100 * a.value:.0f} %, n = {a.n}",
                va="center",
                fontsize=9,
                color="#444444",
            )
    numbers = {a.n for a in rows.values()}
    ax.set(
        xlim=(0, 100),
        xlabel="accuracy, %"
        + (f" (n = {numbers.pop()})" if differences is not None and len(numbers) == 1 else ""),
    )
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    if chance is not None:
        ax.legend(
            loc="lower left",
            bbox_to_anchor=(0, 1),
            frameon=False,
            fontsize=9,
            handletextpad=0,
            borderaxespad=0,
        )
    if differences is not None:
        for y, label in enumerate(rows):
            if label in differences:
                value, (low, high) = differences[label]
                clear = not low <= 0 <= high
                axes[1].plot(
                    [100 * low, 100 * high],
                    [y, y],
                    color=VERMILION if clear else GREY,
                    lw=2,
                    solid_capstyle="butt",
                )
                axes[1].plot(
                    100 * value,
                    y,
                    "o",
                    color=VERMILION if clear else GREY,
                    mfc=VERMILION if clear else "white",
                )
        axes[1].axvline(0, color="black", lw=0.8)
        axes[1].set(xlabel=f"points more than {than}")
    for ax in axes:
        ax.grid(axis="x", color=PALE, lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return Picture(
        fig,
        "Accuracy with 95 % interval: "
        + "; ".join(f"{label}: {a}" for label, a in rows.items())
        + ".",
    )


def differences(panels: Mapping[str, Mapping[str, Estimate]], xlabel: str) -> Picture:
    """Paired differences of accuracies with their intervals, one panel each of `panels` over the same rows and the same
    scale; filled where the interval leaves out zero."""
    rows = list(dict.fromkeys(label for panel in panels.values() for label in panel))
    fig = Figure(figsize=(7.6, 1.0 + 0.31 * len(rows)), layout="constrained")
    axes = fig.subplots(1, len(panels), sharex=True, sharey=True, squeeze=False)[0]
    for ax, (title, panel) in zip(axes, panels.items(), strict=True):
        for y, label in enumerate(rows):
            if label in panel:
                value, (low, high) = panel[label]
                clear = not low <= 0 <= high
                ax.plot(
                    [100 * low, 100 * high],
                    [y, y],
                    color=VERMILION if clear else GREY,
                    lw=2,
                    solid_capstyle="butt",
                )
                ax.plot(
                    100 * value,
                    y,
                    "o",
                    color=VERMILION if clear else GREY,
                    mfc=VERMILION if clear else "white",
                )
        ax.axvline(0, color="black", lw=0.8)
        ax.set_title(title, fontsize=10)
        ax.grid(axis="x", color=PALE, lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
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
    return Picture(fig, f"{xlabel}, with 95 % intervals. " + "; ".join(told) + ".")


def dots(rows: Mapping[str, Mapping[str, float]], xlabel: str = "accuracy, %") -> Picture:
    """Shares 0…1, several a row: `rows` label → name → share. Each name has its own mark; a line joins what stands in a row."""
    names = list(dict.fromkeys(name for row in rows.values() for name in row))
    look = {
        n: (m, c, f)
        for n, m, c, f in zip(
            names, "|os^D", ("black", BLUE, VERMILION, GREEN, GREY), (1, 1, 0, 0, 0), strict=False
        )
    }
    fig = Figure(figsize=(7.6, 0.9 + 0.29 * len(rows)), layout="constrained")
    ax = fig.subplots()
    for y, row in enumerate(rows.values()):
        ax.plot(
            [100 * min(row.values()), 100 * max(row.values())], [y, y], color=PALE, lw=2, zorder=1
        )
        for name, value in row.items():
            mark, colour, full = look[name]
            big = 13 if mark == "|" else 7
            ax.plot(
                100 * value,
                y,
                mark,
                color=colour,
                mfc=colour if full else "white",
                ms=big,
                mew=1.8,
                label=name if y == 0 else None,
            )
    ax.set(xlim=(0, 100), xlabel=xlabel, ylim=(len(rows) - 0.5, -0.5))
    ax.set_yticks(range(len(rows)), list(rows))
    fig.legend(
        loc="outside upper center",
        frameon=False,
        fontsize=9,
        ncols=4,
        handletextpad=0.1,
        columnspacing=1.2,
    )
    ax.grid(axis="x", color=PALE, lw=0.6)
    ax.set_axisbelow(True)
    ax.spines[["top", "right", "left"]].set_visible(False)
    ax.tick_params(axis="y", length=0)
    told = "; ".join(
        f"{label}: " + ", ".join(f"{name} {100 * v:.0f} %" for name, v in row.items())
        for label, row in rows.items()
    )
    return Picture(fig, f"{xlabel}. {told}.")


def estimates(
    names: Sequence[str],
    panels: Mapping[str, "Mapping[str, tuple[Sequence[float], Sequence[Interval] | None]]"],
    xlabel: str = "",
    title: str = "",
    ylim: "Interval | None" = None,
) -> Picture:
    """Values with intervals (or None), a place on the x axis for each of `names`. ``panels``: what the y axis says → series →
    (values, intervals); one panel below the other."""
    fig = Figure(
        figsize=(7.6, (2.9 if len(panels) == 1 else 2.3 * len(panels)) + 0.3 * bool(title)),
        layout="constrained",
    )
    told = []
    for (ylabel, series), ax in zip(
        panels.items(), fig.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0], strict=True
    ):
        for k, ((label, (values, intervals)), (mark, _, colour)) in enumerate(
            zip(series.items(), LINES, strict=False)
        ):
            x = np.arange(len(names)) + 0.24 * (k - (len(series) - 1) / 2)
            if intervals is not None:
                ax.vlines(x, *np.array(intervals).T, color=colour, lw=1.6)
            ax.plot(
                x,
                values,
                mark,
                color=colour,
                ms=5.5,
                mfc=colour if k % 2 == 0 else "white",
                mew=1.4,
                label=label,
            )
            spans = (
                [f" ({low:.1f} to {high:.1f})" for low, high in intervals]
                if intervals is not None
                else [""] * len(names)
            )
            words = [f"{n} {v:.1f}{span}" for n, v, span in zip(names, values, spans, strict=True)]
            told.append(
                f"{ylabel}, {label}: ".replace("\n", " ") + ", ".join(words).replace("\n", " ")
            )
        ax.axhline(0, color="black", lw=0.8)
        ax.set(ylabel=ylabel, xticks=range(len(names)), xlim=(-0.6, len(names) - 0.4), ylim=ylim)
        ax.set_xticklabels(names)
        if len(series) > 1 or len(panels) == 1:
            ax.legend(
                frameon=False,
                ncols=len(series),
                fontsize=9,
                loc="lower left",
                bbox_to_anchor=(0, 1),
                borderaxespad=0.1,
            )
        ax.grid(axis="y", color=PALE, lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right"]].set_visible(False)
    ax.set_xlabel(xlabel)
    if title:
        fig.suptitle(title, fontsize=10, x=0.99, ha="right")
    return Picture(fig, (f"{title}. " if title else "") + "; ".join(told) + ".")
