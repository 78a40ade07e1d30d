"""The Try view's pieces of HTML: pure functions of a picture and of what models make of it."""

import base64
import io
from collections.abc import Sequence
from html import escape

from PIL import Image
from torch import Tensor

from copra_lab.page.components.numbers import percent

TOP = 3
"""Names shown of each model's answer."""


def seen(pixels: Tensor | None) -> str:
    """The picture as small as the CLIP sees it."""
    if pixels is None:
        return '<figure class="seen"><figcaption>&nbsp;</figcaption></figure>'
    file = io.BytesIO()
    Image.fromarray(pixels.numpy()).save(file, "PNG")
    address = base64.b64encode(file.getvalue()).decode()
    side = len(pixels)
    words = f"What the CLIP sees: {side} × {side} pixels"
    return (
        f'<figure class="seen"><img src="data:image/png;base64,{address}" width="224" '
        f'height="224" alt="{words}"><figcaption>{words}</figcaption></figure>'
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
            '<div class="asked waiting">Waking the model. A very first start also draws all '
            "images: about a minute.</div>"
        )
    head = (
        f"It shows: <b>{escape(models[0][2][truth])}</b>" if truth is not None else "Your picture"
    )
    rows = []
    for label, p, names in models:
        if isinstance(p, str):
            rows.append(
                f'<tr><th scope=row>{escape(label)}</th><td class="broken">{escape(p)}</td></tr>'
            )
            continue
        top = p.argsort(descending=True)[:TOP].tolist()
        bars = "".join(
            "<li "
            f'class="{_verdict(i, k, truth)}" style="--p:{100 * float(p[i]):.1f}%"><span>'
            f"{MARKS[_verdict(i, k, truth)]}{escape(names[i])}</span>"
            f"<i>{percent(float(p[i]))}</i></li>"
            for k, i in enumerate(top)
        )
        rows.append(f"<tr><th scope=row>{escape(label)}</th><td><ol>{bars}</ol></td></tr>")
    return f'<div class="asked"><p>{head}</p><table>{"".join(rows)}</table></div>'
