"""Images, and what a model makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from copra_lab.plots.picture import (
    BLUE,
    GREY,
    LINES,
    PALE,
    VERMILION,
    WIDTH,
    Picture,
    grid_behind,
    new_figure,
)
from copra_lab.utils.statistics import Accuracy


def answers(
    images: Tensor,
    probabilities: Tensor,
    names: Sequence[str],
    truth: "Sequence[int] | None" = None,
    top: int = 5,
) -> Picture:
    """Show each image with its most likely classes below it (beside it, for a single image).

    Args:
        images: uint8 (n, height, width, 3).
        probabilities: (n, classes), 0…1.
        names: Names of the classes.
        truth: Right class of each image: it is marked ✓, and a wrong first answer ✗.
        top: How many classes to show.
    """
    top, n = min(top, len(names)), len(images)
    fig, axes = _answer_axes(n, 0.36 * top)
    told = []
    for i in range(n):
        _show(axes[0, i], images[i])
        p, right = probabilities[i].float(), None if truth is None else truth[i]
        _bars(axes[1, i], p, names, right, top, n)
        first, called = int(p.argmax()), "an image" if right is None else names[right]
        told.append(f"{called} is called {names[first]} with {100 * p[first]:.0f} %")
    plural = "s" * (n > 1)
    return Picture(fig, f"{n} image{plural} and the likeliest names: {'; '.join(told)}.")


def _answer_axes(n: int, height: float) -> tuple[Figure, Any]:
    """A figure with axes (2, n): images above, bars of this height below."""
    if n == 1:
        fig = new_figure(max(1.6, height), width=6.0)
        return fig, fig.subplots(1, 2, squeeze=False, width_ratios=[1, 2]).T
    fig = new_figure(WIDTH / n + height)
    return fig, fig.subplots(2, n, squeeze=False, height_ratios=[WIDTH / n, height])


def _bars(
    ax: Axes, p: Tensor, names: Sequence[str], right: int | None, top: int, images: int
) -> None:
    """The `top` largest of the probabilities `p` (classes,) as bars with their names."""
    for row, k in enumerate(p.argsort(descending=True)[:top].tolist()):
        correct, wrong = k == right, right is not None and row == 0 and k != right
        colour = BLUE if correct or right is None else VERMILION if wrong else GREY
        ax.barh(row + 0.22, p[k], height=0.24, color=colour)
        name = f"{'✓ ' if correct else '✗ ' if wrong else ''}{names[k]}"
        size = 9 * min(1, 70 / images / len(name))  # a long name must not run into its number
        ax.text(0, row, name, va="bottom", fontsize=size, weight="bold" if correct else None)
        percent = f"{100 * p[k]:.0f} %"
        ax.text(1, row, percent, va="bottom", ha="right", fontsize=9, color="#444444")
    ax.set(xlim=(0, 1), ylim=(top - 0.5, -0.5))
    ax.axis("off")


def matrices(images: Tensor, texts: Sequence[str], panels: Mapping[str, Tensor]) -> Picture:
    """Show tables of images × texts as heat maps side by side, with the images down the side.

    The largest number of each row is bold, and the diagonal is framed.

    Args:
        images: uint8 (n, height, width, 3), all of one size.
        texts: Labels of the columns.
        panels: Title → numbers (n, texts).
    """
    n, k = len(images), len(texts)
    columns = 1 + len(panels) * (k + 0.5)
    cell = min(0.42, WIDTH / columns)
    fig = new_figure(cell * n + 1.1, width=cell * columns)
    axes = fig.subplots(1, 1 + len(panels), width_ratios=[1] + [k] * len(panels))
    stacked = np.concatenate([_as_array(i) for i in images])
    axes[0].imshow(stacked, extent=(-0.5, 0.5, n - 0.5, -0.5), aspect="auto")
    axes[0].axis("off")
    for ax, (title, values) in zip(axes[1:], panels.items(), strict=True):
        _matrix(ax, values.float().numpy())
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(k), texts, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        ax.set_yticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    told = [
        f"{title}: "
        + ", ".join(f"{t} {float(v):.2f}" for t, v in zip(texts, values.diagonal(), strict=False))
        for title, values in panels.items()
    ]
    alt = f"Heat maps of {n} images against {k} texts; on the diagonal, {'; '.join(told)}."
    return Picture(fig, alt)


def _matrix(ax: Axes, v: np.ndarray) -> None:
    """A heat map of `v` (rows, columns) with its numbers, the diagonal framed."""
    low, high = min(0.0, float(v.min())), max(1.15 * float(v.max()), 1e-6)
    ax.imshow(v, cmap="Blues", vmin=low, vmax=high, aspect="auto")
    for i, j in np.ndindex(*v.shape):
        number = f"{v[i, j]:.2f}".replace("0.", ".", 1).replace("-.00", ".00").replace("-", "−")
        weight = "bold" if v[i, j] == v[i].max() else None
        colour = "white" if v[i, j] > low + 0.6 * (high - low) else "black"
        style: dict[str, Any] = {"fontsize": 7.5, "weight": weight, "color": colour}
        ax.text(j, i, number, ha="center", va="center", **style)
    for i in range(min(v.shape)):
        corner = (i - 0.47, i - 0.47)
        ax.add_patch(Rectangle(corner, 0.94, 0.94, fill=False, ec=VERMILION, lw=1.5))


def grid(images: Tensor, captions: Sequence[str], columns: int = 6) -> Picture:
    """Show images with captions below.

    Args:
        images: uint8 (n, height, width, 3).
        captions: One for each image, up to two lines long.
        columns: How many images stand in a row.
    """
    rows = -(-len(images) // columns)
    fig = new_figure(rows * (0.4 + WIDTH / columns))
    _captioned(fig.subplots(rows, columns, squeeze=False).flat, images, captions)
    return Picture(fig, f"{len(images)} images: {_in_words(captions)}.")


def walk(
    x: Sequence[float],
    series: Mapping[str, Sequence[Accuracy]],
    at: float,
    here: Mapping[str, Accuracy],
    xlabel: str,
    images: Tensor | None = None,
    captions: Sequence[str] = (),
) -> Picture:
    """Plot accuracies over `x`, and mark the current position with its own accuracies.

    Args:
        x: Positions on the x axis.
        series: Label → an accuracy for each position.
        at: The current position.
        here: Label → accuracy at the current position.
        xlabel: Label of the x axis.
        images: uint8 (n, height, width, 3); the first six are shown below.
        captions: One for each image.
    """
    shown = min(6, len(captions))
    fig = new_figure(5.0)
    parts: Any = fig.subfigures(2, 1, height_ratios=[3.2, 1.8])
    upper, lower = parts
    ax = upper.subplots()
    for (label, line), (marker, dash, colour) in zip(series.items(), LINES, strict=False):
        style = {"ls": dash, "color": colour, "ms": 4, "lw": 1.4, "alpha": 0.75}
        ax.plot(x, [100 * a.value for a in line], marker, **style)
        low, high = here[label].interval
        ax.plot([at, at], [100 * low, 100 * high], color=colour, lw=2)
        now = f"{label}: {here[label]}"
        ax.plot(at, 100 * here[label].value, marker, color=colour, ms=10, label=now)
    ax.axvline(at, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, 100), xticks=list(x))
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    grid_behind(ax)
    _captioned(lower.subplots(1, 6), () if images is None else images[:shown], captions)
    told = "; ".join(f"{label}: {a}" for label, a in here.items())
    below = f" Images below: {_in_words(captions[:shown])}." if shown else ""
    return Picture(fig, f"At {at:g} of {xlabel}: {told}.{below}")


def _captioned(axes: Any, images: "Tensor | Sequence[Tensor]", captions: Sequence[str]) -> None:
    """Images with captions on the first axes; the other axes stay empty."""
    for i, ax in enumerate(axes):
        if i < len(images):
            _show(ax, images[i])
            ax.set_xlabel(captions[i], fontsize=8, labelpad=3)
        else:
            ax.axis("off")


def _in_words(captions: Sequence[str]) -> str:
    return "; ".join(c.replace("\n", ", ") for c in captions)


def _as_array(image: Tensor) -> np.ndarray:
    return torch.as_tensor(image).numpy()


def _show(ax: Axes, image: Tensor) -> None:
    """An image (height, width, 3) with a pale frame."""
    ax.imshow(_as_array(image))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=PALE, linewidth=0.8)
