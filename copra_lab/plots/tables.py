"""Numbers in the cells of a table, and layers over training steps."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.patches import Rectangle

from copra_lab.plots.picture import GREY, VERMILION, WIDTH, Picture, new_figure
from copra_lab.utils.statistics import Accuracy


def masks(on: "Sequence[Sequence[bool]]", probability: Sequence[float] | None = None) -> Picture:
    """Show which layers were on in each training step, after Figure 1 of arXiv:2410.22911.

    Args:
        on: (steps, layers), from `copra_lab.training.dropping.masks` or `Step.units`; dark is on.
        probability: The schedule's probability in each step, 0…1, drawn above.
    """
    m = np.array(on, dtype=bool)
    steps, layers = m.shape
    fig = new_figure(1.1 + 0.16 * layers + (0.9 if probability else 0))
    if probability:
        upper, ax = fig.subplots(2, 1, sharex=True, height_ratios=[1, 0.22 * layers])
        upper.plot(probability, color=VERMILION, label="p")
        upper.plot(m.mean(1), ".", ms=2, color=GREY, label="share that was on")
        upper.set(ylim=(-0.05, 1.05), yticks=(0, 1))
        upper.legend(frameon=False, fontsize=8, loc="lower right")
        upper.spines[["top", "right"]].set_visible(False)
    else:
        ax = fig.subplots()
    look = {"cmap": "Blues", "vmin": 0, "vmax": 1.2, "interpolation": "nearest"}
    ax.imshow(m.T, aspect="auto", origin="lower", **look)
    ax.set(xlabel="step", ylabel="layer", yticks=range(0, layers, 2))
    quarters = ", ".join(f"{100 * part.mean():.0f} %" for part in np.array_split(m, 4))
    alt = f"Which of {layers} layers were on in {steps} training steps: in the four quarters of "
    return Picture(fig, f"{alt}the training {quarters} of them.")


def landscape(
    x: Sequence[float],
    y: Sequence[float],
    values: Sequence[Sequence[Accuracy]],
    points: Mapping[str, tuple[float, float]],
) -> Picture:
    """Show accuracies over a plane as a heat map with numbers; darker is higher.

    Args:
        x: Positions of the columns.
        y: Positions of the rows.
        values: Accuracies, (rows, columns).
        points: Name → (x, y) of cells to frame and name.
    """
    v = 100 * np.array([[a.value for a in row] for row in values])  # (rows, columns)
    fig = new_figure(1.2 + 0.5 * len(y))
    ax = fig.subplots()
    low, high = float(v.min()), float(v.max()) + 1e-6
    vmax = high + 0.15 * (high - low)
    ax.imshow(v, cmap="Blues", vmin=low, vmax=vmax, origin="lower", aspect="auto")
    colours = np.where(v > low + 0.65 * (high - low), "white", "black")
    for i, j in np.ndindex(*v.shape):
        _number(ax, i, j, f"{v[i, j]:.0f}", color=colours[i, j])
    cells = {name: (list(y).index(py), list(x).index(px)) for name, (px, py) in points.items()}
    for name, (i, j) in cells.items():
        ax.add_patch(Rectangle((j - 0.48, i - 0.48), 0.96, 0.96, fill=False, ec=VERMILION, lw=2))
        style = {"fontsize": 7.5, "color": colours[i, j]}
        ax.text(j, i - 0.42, name, ha="center", va="bottom", **style)
    ax.set_xticks(range(len(x)), [f"{t:g}".replace("-", "−") for t in x])
    ax.set_yticks(range(len(y)), [f"{t:g}".replace("-", "−") for t in y])
    ax.set(xlabel="x", ylabel="y")
    _no_frame(ax)
    told = "; ".join(f"{name} {v[cell]:.0f} %" for name, cell in cells.items())
    alt = f"Accuracy in %, n = {values[0][0].n}, over a plane: {told}; "
    return Picture(fig, f"{alt}from {low:.0f} to {high:.0f} % on it all.")


def changes(
    values: Sequence[Sequence[float]],
    rows: Sequence[str],
    columns: Sequence[str],
    sure: "Sequence[Sequence[bool]] | None" = None,
) -> Picture:
    """Show a table of differences in accuracy, in points; falls and rises have two colours.

    Args:
        values: Differences −1…1, (rows, columns).
        rows: Labels of the rows.
        columns: Labels of the columns.
        sure: Which cells to print in bold and frame, (rows, columns).
    """
    v = 100 * np.array(values, dtype=float)
    largest = max(1e-6, np.abs(v).max())
    fig = new_figure(0.8 + 0.34 * len(v), width=min(WIDTH, 2.2 + 0.75 * v.shape[1]))
    ax = fig.subplots()
    ax.imshow(v, cmap="PuOr", vmin=-1.6 * largest, vmax=1.6 * largest, aspect="auto")
    for i, j in np.ndindex(*v.shape):
        framed = sure is not None and sure[i][j]
        _number(ax, i, j, _signed(v[i, j]), bold=framed)
        if framed:
            ax.add_patch(Rectangle((j - 0.47, i - 0.45), 0.94, 0.9, fill=False, ec="black", lw=1.5))
    ax.set_xticks(range(v.shape[1]), columns, fontsize=9)
    ax.set_yticks(range(len(v)), rows, fontsize=9)
    ax.xaxis.tick_top()
    _no_frame(ax)
    told = "; ".join(
        f"{row}: " + ", ".join(f"{_signed(x)} ({c})" for x, c in zip(line, columns, strict=True))
        for row, line in zip(rows, v, strict=True)
    )
    return Picture(fig, f"Differences in points: {told}.".replace("\n", " "))


def table(
    rows: Mapping[str, Sequence[float]],
    columns: Sequence[str],
    what: str,
    digits: int = 0,
    bold: bool = True,
) -> Picture:
    """Show numbers as a heat map.

    Args:
        rows: Label → a number for each column.
        columns: Labels of the columns.
        what: What the numbers are; the title.
        digits: Decimal places.
        bold: Whether the largest number of each column is bold.
    """
    v = np.array(list(rows.values()), float)
    fig = new_figure(1.15 + 0.36 * len(rows))
    ax = fig.subplots()
    low, high = min(0.0, float(v.min())), max(float(v.max()), 1e-9)
    ax.imshow(v, cmap="Blues", vmin=low, vmax=low + 1.15 * (high - low), aspect="auto")
    for i, j in np.ndindex(*v.shape):
        best = bold and v[i, j] >= v[:, j].max() - 1e-9
        number = f"{round(float(v[i, j]), digits) + 0.0:.{digits}f}".replace("-", "−")
        colour = "white" if v[i, j] > low + 0.6 * (high - low) else "black"
        _number(ax, i, j, number, bold=best, color=colour)
    ax.set_xticks(range(len(columns)), columns, fontsize=9)
    ax.set_yticks(range(len(rows)), list(rows), fontsize=9)
    ax.set_title(what, fontsize=10, loc="left")
    _no_frame(ax)
    flat = [c.replace("\n", " ") for c in columns]
    told = [
        f"{label}: " + ", ".join(f"{c} {x:.{digits}f}" for c, x in zip(flat, row, strict=True))
        for label, row in zip(rows, v.tolist(), strict=True)
    ]
    return Picture(fig, f"{what}. {'; '.join(told)}.")


def _number(ax: Axes, i: int, j: int, text: str, bold: bool = False, **style: Any) -> None:
    """`text` in the middle of the cell in row `i` and column `j`."""
    weight = "bold" if bold else None
    ax.text(j, i, text, ha="center", va="center", fontsize=9, weight=weight, **style)


def _no_frame(ax: Axes) -> None:
    """No frame and no tick marks."""
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)


def _signed(points: Any) -> str:
    """+1.2, −0.4 or 0."""
    return "0" if abs(points) < 0.05 else f"{points:+.1f}".replace("-", "−")
