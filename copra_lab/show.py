"""Pictures for notebooks: images beside numbers, and numbers with their intervals.

Each function returns a `Picture`, which a notebook shows when it is the last line of a cell. Colours are Okabe and Ito's,
chosen to stay apart for the colour-blind and in grey; what a colour says, a mark or a word says too.
"""

import base64
import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import torch
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle
from torch import Tensor

from copra_lab.stats import Accuracy

BLUE, VERMILION, GREEN, GREY, PALE = "#0072B2", "#D55E00", "#009E73", "#767676", "#D9DDE2"
PIXELS_PER_INCH = 100  # of a page's pixels: 10 points print as large as the text around them


@dataclass(frozen=True, eq=False)
class Picture:
    """A figure on white, for light and dark pages alike, and what it shows in words for those who do not see it."""

    figure: Figure
    alt: str

    @cached_property
    def png(self) -> bytes:
        file = io.BytesIO()  # half as many pixels again as shown: sharp on fine screens
        self.figure.savefig(file, format="png", dpi=1.5 * PIXELS_PER_INCH, facecolor="white", metadata={"Software": None})
        return file.getvalue()

    @property
    def html(self) -> str:
        alt = self.alt.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;")
        return f'<img alt="{alt}" width="{self._width}" style="max-width: 100%" src="data:image/png;base64,{base64.b64encode(self.png).decode()}">'

    @property
    def _width(self) -> int:
        return round(self.figure.get_figwidth() * PIXELS_PER_INCH)

    def _repr_mimebundle_(self, **_: Any) -> tuple[dict, dict]:
        data = {"image/png": base64.b64encode(self.png).decode(), "text/plain": self.alt}
        return data, {"image/png": {"width": self._width, "alt": self.alt}}


def answers(images: Tensor, probabilities: Tensor, names: Sequence[str], truth: "Sequence[int] | None" = None, top: int = 5) -> Picture:
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
        _image(axes[0, i], images[i])
        ax, p = axes[1, i], probabilities[i].float()
        for row, k in enumerate(p.argsort(descending=True)[:top].tolist()):
            right, wrong = truth is not None and k == truth[i], truth is not None and row == 0 and k != truth[i]
            ax.barh(row + 0.22, p[k], height=0.24, color=BLUE if right or truth is None else VERMILION if wrong else GREY)
            words = f"{'✓ ' if right else '✗ ' if wrong else ''}{names[k]}"
            size = 9 * min(1, 70 / n / len(words))  # a long name must not run into its number
            ax.text(0, row, words, va="bottom", fontsize=size, weight="bold" if right else None)
            ax.text(1, row, f"{100 * p[k]:.0f} %", va="bottom", ha="right", fontsize=9, color="#444444")
        ax.set(xlim=(0, 1), ylim=(top - 0.5, -0.5))
        ax.axis("off")
        first = int(p.argmax())
        told.append(f"{'an image' if truth is None else names[truth[i]]} is called {names[first]} with {100 * p[first]:.0f} %")
    return Picture(fig, f"{n} image{'s' * (n > 1)} and the likeliest names: " + "; ".join(told) + ".")


def matrices(images: Tensor, texts: Sequence[str], panels: Mapping[str, Tensor]) -> Picture:
    """Tables (images, texts) side by side as heat maps with their numbers, the images down the side. The largest of each
    row is bold, the diagonal framed."""
    n, k = len(images), len(texts)
    cell = min(0.42, 7.6 / (1 + len(panels) * (k + 0.5)))
    fig = Figure(figsize=(cell * (1 + len(panels) * (k + 0.5)), cell * n + 1.1), layout="constrained")
    axes = fig.subplots(1, 1 + len(panels), width_ratios=[1] + [k] * len(panels))
    axes[0].imshow(np.concatenate([_pixels(i) for i in images]), extent=(-0.5, 0.5, n - 0.5, -0.5), aspect="auto")
    axes[0].axis("off")
    for ax, (title, values) in zip(axes[1:], panels.items(), strict=True):
        v = values.float().numpy()
        low, high = min(0.0, float(v.min())), max(1.15 * float(v.max()), 1e-6)
        ax.imshow(v, cmap="Blues", vmin=low, vmax=high, aspect="auto")
        for i, j in np.ndindex(n, k):
            best, dark = v[i, j] == v[i].max(), v[i, j] > low + 0.6 * (high - low)
            number = f"{v[i, j]:.2f}".replace("0.", ".", 1).replace("-.00", ".00").replace("-", "−")
            ax.text(j, i, number, ha="center", va="center", fontsize=7.5, weight="bold" if best else None, color="white" if dark else "black")
        for i in range(min(n, k)):
            ax.add_patch(Rectangle((i - 0.47, i - 0.47), 0.94, 0.94, fill=False, ec=VERMILION, lw=1.5))
        ax.set_title(title, fontsize=10)
        ax.set_xticks(range(k), texts, rotation=40, ha="right", rotation_mode="anchor", fontsize=9)
        ax.set_yticks([])
        ax.tick_params(length=0)
        ax.spines[:].set_visible(False)
    told = [
        f"{title}: " + ", ".join(f"{t} {float(v):.2f}" for t, v in zip(texts, values.diagonal(), strict=False)) for title, values in panels.items()
    ]
    return Picture(fig, f"Heat maps of {n} images against {k} texts; on the diagonal, " + "; ".join(told) + ".")


def grid(images: Tensor, captions: Sequence[str], columns: int = 6) -> Picture:
    """Images (n, h, w, 3) with a caption of two lines under each."""
    rows = -(-len(images) // columns)
    fig = Figure(figsize=(7.6, rows * (0.4 + 7.6 / columns)), layout="constrained")
    for i, ax in enumerate(fig.subplots(rows, columns, squeeze=False).flat):
        if i < len(images):
            _image(ax, images[i])
            ax.set_xlabel(captions[i], fontsize=8, labelpad=3)
        else:
            ax.axis("off")
    return Picture(fig, f"{len(images)} images: " + "; ".join(c.replace("\n", ", ") for c in captions) + ".")


Interval = tuple[float, float]


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
            ax.plot(100 * luck, y, "|", color=GREY, ms=11, mew=2, label="guessing" if y == 0 else None)
        if differences is None:
            ax.text(101, y, f"{100 * a.value:.0f} %, n = {a.n}", va="center", fontsize=9, color="#444444")
    numbers = {a.n for a in rows.values()}
    ax.set(xlim=(0, 100), xlabel="accuracy, %" + (f" (n = {numbers.pop()})" if differences is not None and len(numbers) == 1 else ""))
    ax.set_yticks(range(len(rows)), list(rows))
    ax.set_ylim(len(rows) - 0.5, -0.5)
    if chance is not None:
        ax.legend(loc="lower left", bbox_to_anchor=(0, 1), frameon=False, fontsize=9, handletextpad=0, borderaxespad=0)
    if differences is not None:
        for y, label in enumerate(rows):
            if label in differences:
                value, (low, high) = differences[label]
                clear = not low <= 0 <= high
                axes[1].plot([100 * low, 100 * high], [y, y], color=VERMILION if clear else GREY, lw=2, solid_capstyle="butt")
                axes[1].plot(100 * value, y, "o", color=VERMILION if clear else GREY, mfc=VERMILION if clear else "white")
        axes[1].axvline(0, color="black", lw=0.8)
        axes[1].set(xlabel=f"points more than {than}")
    for ax in axes:
        ax.grid(axis="x", color=PALE, lw=0.6)
        ax.set_axisbelow(True)
        ax.spines[["top", "right", "left"]].set_visible(False)
        ax.tick_params(axis="y", length=0)
    return Picture(fig, "Accuracy with 95 % interval: " + "; ".join(f"{label}: {a}" for label, a in rows.items()) + ".")


def curve(x: Sequence[float], series: Mapping[str, Sequence[Accuracy]], xlabel: str, chance: float | None = None) -> Picture:
    """Accuracies over `x`, one line each of `series`, intervals as bands."""
    fig = Figure(figsize=(7.6, 3.2), layout="constrained")
    ax = fig.subplots()
    for (label, line), colour, mark in zip(series.items(), (BLUE, VERMILION, GREEN, GREY), "os^D", strict=False):
        low, high = np.array([a.interval for a in line]).T * 100
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(x, [100 * a.value for a in line], mark + "-", color=colour, ms=5, label=f"{label}, n = {line[0].n}")
    if chance is not None:
        ax.axhline(100 * chance, color=GREY, lw=1, ls=":", label="guessing")
    ax.set(xlabel=xlabel, ylabel="accuracy, %", ylim=(0, None), xticks=list(x) if len(x) <= 16 else None)
    ax.legend(frameon=False)
    ax.grid(color=PALE, lw=0.6)
    ax.spines[["top", "right"]].set_visible(False)
    told = "; ".join(
        f"{label}: " + ", ".join(f"{100 * a.value:.0f} % at {at}" for at, a in zip(x, line, strict=True)) for label, line in series.items()
    )
    return Picture(fig, f"Accuracy over {xlabel}. {told}.")


def masks(on: "Sequence[Sequence[bool]]", probability: Sequence[float] | None = None) -> Picture:
    """Which layers each training step had on: `on` (steps, layers), as `copra_lab.train.masks` or `Step.units` give it; a
    dark cell is on. ``probability``: the schedule's p at each step, drawn above. (After Figure 1 of arXiv:2410.22911.)"""
    m = np.array(on, dtype=bool)
    fig = Figure(figsize=(7.6, 1.1 + 0.16 * m.shape[1] + (0.9 if probability else 0)), layout="constrained")
    axes = fig.subplots(2, 1, sharex=True, height_ratios=[1, 0.22 * m.shape[1]], squeeze=False)[:, 0] if probability else [fig.subplots()]
    if probability:
        axes[0].plot(probability, color=VERMILION, label="p")
        axes[0].plot(m.mean(1), ".", ms=2, color=GREY, label="share that was on")
        axes[0].set(ylim=(-0.05, 1.05), yticks=(0, 1))
        axes[0].legend(frameon=False, fontsize=8, loc="lower right")
        axes[0].spines[["top", "right"]].set_visible(False)
    ax = axes[-1]
    ax.imshow(m.T, cmap="Blues", vmin=0, vmax=1.2, aspect="auto", interpolation="nearest", origin="lower")
    ax.set(xlabel="step", ylabel="layer", yticks=range(0, m.shape[1], 2))
    quarters = ", ".join(f"{100 * part.mean():.0f} %" for part in np.array_split(m, 4))
    return Picture(fig, f"Which of {m.shape[1]} layers were on in {len(m)} training steps: in the four quarters of the training {quarters} of them.")


def _pixels(image: Tensor) -> np.ndarray:
    return torch.as_tensor(image).numpy()


def _image(ax: Any, image: Tensor) -> None:
    ax.imshow(_pixels(image))
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set(color=PALE, linewidth=0.8)


Estimate = tuple[float, Interval]
"""A value and its interval."""


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
                ax.plot([100 * low, 100 * high], [y, y], color=VERMILION if clear else GREY, lw=2, solid_capstyle="butt")
                ax.plot(100 * value, y, "o", color=VERMILION if clear else GREY, mfc=VERMILION if clear else "white")
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
        f"{title}: " + ", ".join(f"{label} {100 * v:+.1f} ({100 * low:+.1f} to {100 * high:+.1f})" for label, (v, (low, high)) in panel.items())
        for title, panel in panels.items()
    ]
    return Picture(fig, f"{xlabel}, with 95 % intervals. " + "; ".join(told) + ".")


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
    for i, (label, (x, line)) in enumerate(series.items()):
        colour, mark, dash = (BLUE, VERMILION, GREEN, GREY)[i % 4], "os^D"[i % 4], ("-", "--", "-.", ":")[i % 4]
        low, high = np.array([interval for _, interval in line]).T * 100
        ax.fill_between(x, low, high, color=colour, alpha=0.18, lw=0)
        ax.plot(x, [100 * v for v, _ in line], mark, ls=dash, color=colour, ms=5, label=label)
        if points and label in points:
            ax.plot(points[label][0], [100 * v for v in points[label][1]], mark, ms=2.5, mfc="none", mew=0.7, color=colour, alpha=0.6)
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
        f"{label}: " + ", ".join(f"{100 * v:.0f} % at {at:.4g}" for at, (v, _) in zip(x, line, strict=True)) for label, (x, line) in series.items()
    )
    return Picture(fig, f"Accuracy over {xlabel}. {told}.")
