"""The Try view's pieces of HTML: pure functions of a picture and of what models make of it."""

from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

from copra_lab.page.components import images
from copra_lab.page.components.numbers import percent

TOP = 3
"""Names shown of each model's answer."""


def seen(pixels: Tensor | None) -> str:
    """The picture as small as the CLIP sees it."""
    if pixels is None:
        return '<figure class="seen"><figcaption>&nbsp;</figcaption></figure>'
    address = images.address(Image.fromarray(pixels.numpy()))
    words = f"What the CLIP sees: {len(pixels)} × {len(pixels)} pixels"
    return (
        f'<figure class="seen"><img src="{address}" width="224" height="224" alt="{words}">'
        f"<figcaption>{words}</figcaption></figure>"
    )


MARKS = {"right": "✓ ", "wrong": "✗ ", "": ""}


def _verdict(name: int, rank: int, truth: int | None) -> str:
    """Of a name among a model's likeliest: only the first can be wrong."""
    if name == truth:
        return "right"
    return "wrong" if truth is not None and rank == 0 else ""


def answers(
    models: Sequence[tuple[str, Tensor | str, Sequence[str]]], truth: int | None = None
) -> str:
    """The likeliest names of each model, side by side."""
    if not models:
        return (
            '<div class="asked waiting">Loading the model. The very first start also draws '
            "all images, which takes about a minute.</div>"
        )
    head = "Your picture"
    if truth is not None:
        head = f"It shows: <b>{escape(models[0][2][truth])}</b>"
    rows = "".join(
        f"<tr><th scope=row>{escape(label)}</th>{_answer(found, names, truth)}</tr>"
        for label, found, names in models
    )
    return f'<div class="asked"><p>{head}</p><table>{rows}</table></div>'


def _answer(found: Tensor | str, names: Sequence[str], truth: int | None) -> str:
    """The likeliest names of one model, or why it has none."""
    if isinstance(found, str):
        return f'<td class="broken">{escape(found)}</td>'
    bars = []
    for rank, name in enumerate(found.argsort(descending=True)[:TOP].tolist()):
        kind, p = _verdict(name, rank, truth), float(found[name])
        bars.append(
            f'<li class="{kind}" style="--p:{100 * p:.1f}%"><span>{MARKS[kind]}'
            f"{escape(names[name])}</span><i>{percent(p)}</i></li>"
        )
    return f"<td><ol>{''.join(bars)}</ol></td>"
