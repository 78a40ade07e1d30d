"""Numbers in cells, and layers over steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from copra_lab.plots.picture import GREY, VERMILION, Picture
from copra_lab.utils.statistics import Accuracy


def masks(on: "Sequence[Sequence[bool]]", probability: Sequence[float] | None = None) -> Picture:
    """Which layers each training step had on: `on` (steps, layers), as `copra_lab.training.dropping.masks` or `Step.units` give it; a
    dark cell is on. ``probability``: the schedule's p at each step, drawn above. (After Figure 1 of arXiv:2410.22911.)"""
    m = np.array(on, dtype=bool)
    fig = Figure(
        figsize=(7.6, 1.1 + 0.16 * m.shape[1] + (0.9 if probability else 0)), layout="constrained"
    )
    axes = (
        fig.subplots(2, 1, sharex=True, height_ratios=[1, 0.22 * m.shape[1]], squeeze=False)[:, 0]
        if probability
        else [fig.subplots()]
    )
    if probability:
        axes[0].plot(probability, color=VERMILION, label="p")
        axes[0].plot(m.mean(1), ".", ms=2, color=GREY, label="share that was on")
        axes[0].set(ylim=(-0.05, 1.05), yticks=(0, 1))
        axes[0].legend(frameon=False, fontsize=8, loc="lower right")
        axes[0].spines[["top", "right"]].set_visible(False)
    ax = axes[-1]
    ax.imshow(
        m.T, cmap="Blues", vmin=0, vmax=1.2, aspect="auto", interpolation="nearest", origin="lower"
    )
    ax.set(xlabel="step", ylabel="layer", yticks=range(0, m.shape[1], 2))
    quarters = ", ".join(f"{100 * part.mean():.0f} %" for part in np.array_split(m, 4))
    return Picture(
        fig,
        f"Which of {m.shape[1]} layers were on in {len(m)} training steps: in the four quarters of the training {quarters} of them.",
    )


def landscape(
    x: Sequence[float],
    y: Sequence[float],
    values: Sequence[Sequence[Accuracy]],
    points: Mapping[str, tuple[float, float]],
) -> Picture:
    """Accuracies over a plane: a row of `values` for each of `y`, a column for each of `x`; numbers in the cells, darker is higher.
    `points` name → (x, y) are framed and named."""
    v = 100 * np.array([[a.value for a in row] for row in values])
    fig = Figure(figsize=(7.6, 1.2 + 0.5 * len(y)), layout="constrained")
    ax = fig.subplots()
    low, high = float(v.min()), float(v.max()) + 1e-6
    ax.imshow(
        v, cmap="Blues", vmin=low, vmax=high + 0.15 * (high - low), origin="lower", aspect="auto"
    )
    for i, j in np.ndindex(*v.shape):
        dark = v[i, j] > low + 0.65 * (high - low)
        ax.text(
            j,
            i,
            f"{v[i, j]:.0f}",
            ha="center",
            va="center",
            fontsize=9,
            color="white" if dark else "black",
        )
    for name, (px, py) in points.items():
        i, j = list(y).index(py), list(x).index(px)
        ax.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, ec=VERMILION, lw=2))
        ax.text(
            j,
            i - 0.42,
            name,
            ha="center",
            va="bottom",
            fontsize=7.5,
            color="white" if v[i, j] > low + 0.65 * (high - low) else "black",
        )
    ax.set_xticks(range(len(x)), [f"{t:g}".replace("-", "−") for t in x])
    ax.set_yticks(range(len(y)), [f"{t:g}".replace("-", "−") for t in y])
    ax.set(xlabel="x", ylabel="y")
    ax.spines[:].set_visible(False)
    ax.tick_params(length=0)
    n = values[0][0].n
    told = "; ".join(
        f"{name} {v[list(y).index(py), list(x).index(px)]:.0f} %"
        for name, (px, py) in points.items()
    )
    return Picture(
        fig,
        f"Accuracy in %, n = {n}, over a plane: {told}; from {low:.0f} to {high:.0f} % on it all.",
    )


def changes(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    sure: "Sequence[Sequence[bool]] | None" = None,
) -> Picture:
    """A table of differences in accuracy, −1…1, as points with a sign, falls and rises in two colours; a frame and bold print where
    `sure`."""
    v = 100 * np.array(values, dtype=float)
    top = max(1e-6, np.abs(v).max())
    fig = Figure(
        figsize=(min(7.6, 2.2 + 0.75 * v.shape[1]), 0.8 + 0.34 * len(v)), layout="constrained"
    )
    ax = fig.subplots()
    ax.imshow(v, cmap="PuOr", vmin=-1.6 * top, vmax=1.6 * top, aspect="auto")
    for i, j in np.ndindex(*v.shape):
        framed = sure is not None and sure[i][j]
        ax.text(
            j,
            i,
            _signed(v[i, j]),
            ha="center",
            va="center",
            fontsize=9,
            weight="bold" if framed else None,
        )
        if framed:
            ax.add_patch(Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, ec="black", lw=1.5))
    ax.set_xticks(range(v.shape[1]), columns, fontsize=9)
    ax.set_yticks(range(len(v)), rows, fontsize=9)
    ax.xaxis.tick_top()
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    told = "; ".join(
        f"{row}: " + ", ".join(f"{_signed(x)} ({c})" for x, c in zip(line, columns, strict=True))
        for row, line in zip(rows, v, strict=True)
    )
    return Picture(fig, f"Differences in points: {told}.".replace("\n", " "))


def _signed(points: Any) -> str:
    """+1.2, −0.4 or 0."""
    return "0" if abs(points) < 0.05 else f"{points:+.1f}".replace("-", "−")


def table(
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    what: str,
    digits: int = 0,
    bold: bool = True,
) -> Picture:
    """Numbers as a heat map: label of a row → a number for each of `columns`; the largest of each column is bold. ``what``: what
    the numbers are, for a title."""
    v = np.array(list(rows.values()), float)
    fig = Figure(figsize=(7.6, 1.15 + 0.36 * len(rows)), layout="constrained")
    ax = fig.subplots()
    low, high = min(0.0, float(v.min())), max(float(v.max()), 1e-9)
    ax.imshow(v, cmap="Blues", vmin=low, vmax=low + 1.15 * (high - low), aspect="auto")
    for i, j in np.ndindex(*v.shape):
        best, dark = bold and v[i, j] >= v[:, j].max() - 1e-9, v[i, j] > low + 0.6 * (high - low)
        number = f"{round(float(v[i, j]), digits) + 0.0:.{digits}f}".replace("-", "−")
        ax.text(
            j,
            i,
            number,
            ha="center",
            va="center",
            fontsize=9,
            weight="bold" if best else None,
            color="white" if dark else "black",
        )
    ax.set_xticks(range(len(columns)), columns, fontsize=9)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9)
    ax.set_title(what, fontsize=10, loc="left")
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    told = "; ".join(
        f"{r}: "
        + ", ".join(f"{c} {x:.{digits}f}" for c, x in zip(columns, row, strict=True)).replace(
            "\n", " "
        )
        for r, row in zip(rows, v.tolist(), strict=True)
    )
    return Picture(fig, f"{what}. {told}.")
