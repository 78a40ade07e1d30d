"""The Prompt view's pieces of HTML: pure functions of a lab and a history."""

from collections.abc import Sequence
from contextlib import suppress
from functools import cache, lru_cache
from html import escape
from statistics import fmean

from copra_lab.bench.bench import Bench
from copra_lab.models.clip import Clip
from copra_lab.page.components import images, panels
from copra_lab.page.components.axes import Axes
from copra_lab.page.components.panels import same_subject, standing
from copra_lab.page.state.lab import Lab
from copra_lab.page.state.schemas.prompt import MOST_PERCENT, PromptState, corrupted
from copra_lab.page.state.session import History, Point
from copra_lab.prompts.soft_prompt import PromptError, word_norm

AGAINST = "against the prompt as learned"
HEIGHT = 150
"""Pixels of the drawing of norms."""


@lru_cache(1024)
def norms(lab: Lab, state: PromptState) -> tuple[float, ...]:
    """The L2 norm of each vector in `state`."""
    prompt = state.model(lab).prompt
    return tuple(prompt.norms().tolist()) if prompt else ()


@cache
def word(clip: Clip) -> float:
    """The mean norm of the embedding of a word."""
    return word_norm(clip)


def bent(state: PromptState) -> list[tuple[int, int]]:
    """(number from 1, percent) of each vector that is not as it was learned."""
    return [(i, p) for i, p in enumerate(state.percents or (), 1) if p != 100]


def in_words(state: PromptState) -> str:
    """Which vectors are at what percent, and which are noise.

    ``1–3, 7 at 50 %; 4 noise of σ = 0.01``.
    """
    by: dict[int, list[int]] = {}
    for i, p in bent(state):
        by.setdefault(p, []).append(i)
    said = [f"{panels.spans(own)} at {p}\u202f%" for p, own in sorted(by.items())]
    if state.replaced:
        said.append(f"{panels.spans([i + 1 for i in state.replaced])} noise of σ = {state.sigma:g}")
    return "; ".join(said) or "as learned"


def number(history: History) -> str:
    """The accuracy with these vectors, and the facts to hold it against."""
    here = standing(history, PromptState)
    recipe, data, learned = "&nbsp;", {}, None
    if here:
        n, m = len(bent(here)), len(here.replaced)
        noise = f" <span>{m} replaced</span>" if m else ""
        recipe = f"<b>{n or 'no'} vector{'s' * (n != 1)} changed</b>{noise}"
        learned = history.points.get(here.learned)
        data = {
            "percents": " ".join(map(str, here.percents or ())),
            "replaced": " ".join(str(i + 1) for i in here.replaced),
            "sigma": f"{here.sigma:g}",
        }
    difference = _difference(learned, history.here)
    title = "Images gained minus images lost, of all"
    measuring = "Measuring the plain words and the prompt as learned."
    return panels.number(history, recipe, data, measuring) + panels.facts(
        panels.measured("plain words", history.base, "base"),
        panels.measured("as learned", learned, "a"),
        panels.fact("difference", difference, "left wide", title),
    )


def _difference(learned: Point | None, here: Point | None) -> str:
    """Images right here less images right as learned, once both are known on all images."""
    if learned is None or here is None or here.accuracy.n < learned.accuracy.n:
        return "…"
    gained = here.accuracy.correct - learned.accuracy.correct
    return f"{gained:+d} images <span>of {here.accuracy.n}</span>".replace("-", "−")


def chart(lab: Lab, history: History) -> str:
    """The norm of each vector now, and as it was learned.

    And those of the task's other prompts, with the same done to them.
    """
    here = standing(history, PromptState)
    if here is None:
        return f'<div class="chart norms">{Axes(HEIGHT).svg("Norms")}</div>'
    others = []
    for label, key in lab.prompt_menu(here.task):
        with suppress(PromptError, OSError):  # said below, beside the others
            if key != here.key:
                others.append((label, norms(lab, alike(lab, here, key))))
    drawing = norms_svg(norms(lab, here), norms(lab, here.learned), word(lab.clip), others)
    return f'<div class="chart norms">{drawing}</div>'


def alike(lab: Lab, state: PromptState, key: str) -> PromptState:
    """Another prompt of the task with the same done to its vectors, as far as it has them.

    Raises PromptError for one that is broken.
    """
    length, shares = lab.prompt(state.task, key).length, state.percents
    if shares is not None:
        shares = (*shares[:length], *[100] * (length - len(shares)))
    noise = [i for i in state.replaced if i < length]
    return PromptState(state.task, key, **corrupted(shares, noise, state.sigma, length))


def norms_svg(
    now: tuple[float, ...],
    learned: tuple[float, ...],
    word: float,
    others: Sequence[tuple[str, tuple[float, ...]]] = (),
) -> str:
    """Bars of norms as an inline SVG that fills its parent's width.

    Filled as they are, outlined as they were learned; a dash for each of the `others`, (label,
    norms); a dashed line at the mean norm of a word's embedding. The axis is fixed by what was
    learned, so that bars do not jump when one is dragged; noise that is longer ends at its top.
    """
    top = 1.02 * max(MOST_PERCENT / 100 * max(learned), word)
    axes = Axes(HEIGHT, (0, len(now)), (0, top))
    out = [part for v in (0, top / 2, top) for part in axes.tick(v, f"{v:.1f}")]
    for i, (a, b) in enumerate(zip(now, learned, strict=True)):
        out += [
            f"<g><title>vector {i + 1}: norm {a:.2f}, learned {b:.2f}</title>",
            axes.bar("was", i + 0.2, 0.6, b),
            axes.bar("is", i + 0.2, 0.6, min(a, top)),
            *(_dash(axes, label, i, own[i]) for label, own in others if i < len(own)),
            axes.below(i + 0.5, f"{i + 1}", dy=16),
            "</g>",
        ]
    shown = " · pink: other prompts" if others else " of each vector"
    legend = f"norm{shown} · dashed: a word, {word:.2f}"
    out += [axes.level("base", word), axes.legend(legend, dy=-14)]
    said = "; ".join([_listed(now), *(f"of {label}: {_listed(own)}" for label, own in others)])
    return axes.svg("Norm of each vector", out, f"Norms now: {said}.")


def _listed(norms: tuple[float, ...]) -> str:
    return ", ".join(f"{norm:.2f}" for norm in norms)


def _dash(axes: Axes, label: str, i: int, norm: float) -> str:
    width = f"{80 / axes.across[1]:.2f}%"
    return (
        f'<rect class="other" x="{axes.x(i + 0.1)}" width="{width}" '
        f'y="{axes.y(min(norm, axes.up[1]))}" height="3" transform="translate(0 -1.5)">'
        f"<title>{escape(label)}: norm {norm:.2f}</title></rect>"
    )


def changed(history: History, bench: Bench | None) -> str:
    """The images whose prediction differs from that of the prompt as learned."""
    here = standing(history, PromptState)
    hint = "Move a slider, and the images that are lost or gained appear here."
    return images.changed(history, bench, here and here.learned, AGAINST, hint)


def table(lab: Lab, history: History) -> str:
    """Every setting of this prompt that was measured, after the plain words."""
    heads, here = ("vectors", "mean norm"), standing(history, PromptState)
    if here is None:
        return panels.table(heads, [])
    rows = [
        ((in_words(state), f"{fmean(norms(lab, state)):.3f}"), point.accuracy)
        for state, point in same_subject(history, here).items()
    ]
    return panels.table(heads, rows, panels.accuracy(history.base), "plain words")
