"""Images, and what a model makes of them."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from copra_lab.plots.picture import BLUE, GREY, LINES, PALE, VERMILION, Picture, draw_image, pixels
from copra_lab.utils.statistics import Accuracy


def answers(
    images: Tensor,
    probabilities: Tensor,
    names: Sequence[str],
    truth: "Sequence[int] | None" = None,
    top: int = 5,
) -> Picture:
    """Each image over its `top` likeliest names (a single image beside them). `images` uint8 (n, h, w, 3),
    `probabilities` (n, names); `truth` marks the right name ✓ and a wrong first answer ✗."""
    top, n = min(top, len(names)), len(images)
    height = 0.36 * top
    if n == 1:
        fig = Figure(figsize=(6.0, max(1.6, height)), layout="constrained")
        axes = fig.subplots(1, 2, squeeze=False, width_ratios=[1, 2]).T
    else:
        fig = Figure(figsize=(7.6, 7.6 / n + height), layout="constrained")
        axes = fig.subplots(2, n, squeeze=False, height_ratios=[7.6 / n, height])
    told = []
    for i in range(n):
        draw_image(axes[0, i], images[i])
        ax, p = axes[1, i], probabilities[i].float()
        for row, k in enumerate(p.argsort(descending=True)[:top].tolist()):
            right, wrong = (
                truth is not None and k == truth[i],
                truth is not None and row == 0 and k != truth[i],
            )
            ax.barh(
                row + 0.22,
                p[k],
                height=0.24,
                color=BLUE if right or truth is None else VERMILION if wrong else GREY,
            )
            words = f"{'✓ ' if right else '✗ ' if wrong else ''}{names[k]}"
            size = 9 * min(1, 70 / n / len(words))  # a long name must not run into its number
            ax.text(0, row, words, va="bottom", fontsize=size, weight="bold" if right else None)
            ax.text(
                1, row, f"{100 * p[k]:.0f} %", va="bottom", ha="right", fontsize=9, color="#444444"
            )
        ax.set(xlim=(0, 1), ylim=(top - 0.5, -0.5))
        ax.axis("off")
        first = int(p.argmax())
        told.append(
            f"{'an image' if truth is None else names[truth[i]]} is called {names[first]} with {100 * p[first]:.0f} %"
        )
    return Picture(
        fig, f"{n} image{'s' * (n > 1)} and the likeliest names: " + "; ".join(told) + "."
    )


def matrices(images: Tensor, texts: Sequence[str], panels: Mapping[str, Tensor]) -> Picture:
    """Tables (images, texts) side by side as heat maps with their numbers, the images down the side. The largest of each
    row is bold, the diagonal framed."""
    n, k = len(images), len(texts)
    cell = min(0.42, 7.6 / (1 + len(panels) * (k + 0.5)))
    fig = Figure(
        figsize=(cell * (1 + len(panels) * (k + 0.5)), cell * n + 1.1), layout="constrained"
    )
    axes = fig.subplots(1, 1 + len(panels), width_ratios=[1] + [k] * len(panels))
    axes[0].imshow(
        np.concatenate([pixels(i) for i in images]),
        extent=(-0.5, 0.5, n - 0.5, -0.5),
        aspect="auto",
    )
    axes[0].axis("off")
    for ax, (title, values) in zip(axes[1:], panels.items(), strict=True):
        v = values.float().numpy()
        low, high = min(0.0, float(v.min())), max(1.15 * float(v.max()), 1e-6)
        ax.imshow(v, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for i, j in np.ndindex(n, k):
            best, dark = v[i, j] == v[i].max(), v[i, j] > low + 0.6 * (high - low)
            number = f"{v[i, j]:.2f}".replace("0.", ".", 1).replace("-.00", ".00").replace("-", "−")
            ax.text(
                j,
                i,
                number,
                ha="center",
                va="center",
                fontsize=7.5,
                weight="bold" if best else None,
                color="white" if dark else "black",
            )
        for i in range(min(n, k)):
            ax.add_patch(
                Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, ec=VERMILION, lw=1.5)
            )
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
    return Picture(
        fig, f"Heat maps of {n} images against {k} texts; on the diagonal, " + "; ".join(told) + "."
    )


def grid(images: Tensor, captions: Sequence[str], columns: int = 6) -> Picture:
    """Images (n, h, w, 3) with a caption of two lines under each."""
    rows = -(-len(images) // columns)
    fig = Figure(figsize=(7.6, rows * (0.4 + 7.6 / columns)), layout="constrained")
    for i, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        if i < len(images):
            draw_image(ax, images[i])
            ax.set_xlabel(captions[i], fontsize=8, labelpad=3)
        else:
            ax.axis("off")
    return Picture(
        fig, f"{len(images)} images: " + "; ".join(c.replace("\n", ", ") for c in captions) + "."
    )


def walk(
    x: Sequence[float],
    series: Mapping[str, Sequence[Accuracy]],
    at: float,
    here: Mapping[str, Accuracy],
    xlabel: str,
    images: Tensor | None = None,
    captions: Sequence[str] = (),
) -> Picture:
    """Accuracies over `x` as in `curve`, and where one stands now: `here` at the place `at`. Up to six `images` (n, h, w, 3)
    with their `captions` below."""
    shown = min(6, len(captions))
    fig = Figure(figsize=(7.6, 5.0), layout="constrained")
    parts: Any = fig.subfigures(2, 1, height_ratios=[3.2, 1.8])
    upper, lower = parts
    ax = upper.subplots()
    for (label, line), (mark, stroke, colour) in zip(series.items(), LINES, strict=False):
        ax.plot(
            x,
            [100 * a.value for a in line],
            mark,
            ls=stroke,
            color=colour,
            ms=4,
            lw=1.4,
            alpha=0.75,
        )
        low, high = here[label].interval
        ax.plot([at, at], [100 * low, 100 * high], color=colour, lw=2)
        ax.plot(
            at, 100 * here[label].value, mark, color=colour, ms=10, label=f"{label}: {here[label]}"
        )
    ax.axvline(at, color=GREY, lw=0.8, ls=":")
    ax.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, 100), xticks=list(x))
    ax.legend(frameon=False, fontsize=9, loc="lower center", bbox_to_anchor=(0.5, 1), ncols=2)
    ax.grid(color=PALE, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    axes = lower.subplots(1, 6)
    for i, small in enumerate(axes):
        if images is not None and i < shown:
            draw_image(small, images[i])
            small.set_xlabel(captions[i], fontsize=8, labelpad=3)
        else:
            small.axis("off")
    told = "; ".join(f"{label}: {a}" for label, a in here.items())
    seen = "; ".join(c.replace("\n", ", ") for c in captions[:shown])
    return Picture(
        fig, f"At {at:g} of {xlabel}: {told}." + (f" Images below: {seen}." if shown else "")
    )
