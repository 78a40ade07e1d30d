"""Images as HTML: by themselves, and in galleries of what a change did to their predictions."""

import base64
import io
from collections.abc import Sequence
from functools import lru_cache
from html import escape
from typing import Any, TypeVar

from PIL import Image
from torch import Tensor

from copra_lab.bench.bench import Bench
from copra_lab.page.state.schemas.measured import Measured
from copra_lab.page.state.session import Change, History, changes

TILES = 10
"""Images that a gallery shows; how many more there are is said."""

MARKS = {"right": "✓", "wrong": "✗", "still": "○"}

CHANGED = {"right": "now right", "wrong": "now wrong", "still": "wrong either way"}

Item = TypeVar("Item")


def address(image: Image.Image, kind: str = "PNG", **options: Any) -> str:
    """An image as a data address."""
    file = io.BytesIO()
    image.save(file, kind, **options)
    return f"data:image/{kind.lower()};base64,{base64.b64encode(file.getvalue()).decode()}"


def small(pixels: Tensor) -> str:
    """An image of a bench, uint8 (h, w, 3), as a short data address."""
    return address(Image.fromarray(pixels.numpy()), "WEBP", quality=85)


@lru_cache(4096)
def thumbnail(bench: Bench, image: int) -> str:
    """Image number `image` of the bench's order as a data address."""
    return small(bench.split.images[bench.order[image]])


def section(title: str, head: str, body: str) -> str:
    """A section of images with its heads."""
    return f'<section class="changed"><h2>{title} <span>{head}</span></h2>{body}</section>'


def empty(title: str, head: str, words: str) -> str:
    """A section without images."""
    return section(title, head, f'<p class="empty">{words}</p>')


def gallery(
    title: str,
    head: str,
    tally: Sequence[tuple[str, int, str]],
    tiles: Sequence[str],
    more: int = 0,
) -> str:
    """A section of `tiles`, with so many `more` that are not shown.

    ``tally``: (one of `MARKS`, how many, in what way).
    """
    counts = "".join(
        f'<span class="{kind}">{MARKS[kind]} {n} {words}</span>' for kind, n, words in tally
    )
    rest = f'<p class="more">and {more} more</p>' if more else ""
    body = f'<p class="tally">{counts}</p><ul class="tiles">{"".join(tiles)}</ul>{rest}'
    return section(title, head, body)


def tile(
    bench: Bench, image: int, kind: str, title: str, before: str, words: str, after: str
) -> str:
    """An image with its class, and how it fared ``before`` and ``after``, as HTML.

    ``kind``: one of `MARKS`, which is said in `words`; the `title` is shown when it is pointed at.
    """
    truth = escape(bench.task.classes[int(bench.labels[image])])
    return (
        f'<li class="{kind}" title="{truth}: {title}"><img src="{thumbnail(bench, image)}" '
        f'alt="{truth}" width="56" height="56"><div><b>{truth}</b>{before}'
        f'<em><i aria-label="{words}">{MARKS[kind]}</i> {after}</em></div></li>'
    )


def few_of_each(groups: Sequence[Sequence[Item]]) -> list[Sequence[Item]]:
    """The first of each group, `TILES` in all: many in one group do not hide three of a later."""
    room, shown = TILES, []
    for i, group in enumerate(groups):
        reserved = sum(min(3, len(later)) for later in groups[i + 1 :])
        shown.append(group[: max(room - reserved, 0)])
        room -= len(shown[-1])
    return shown


def changed(
    history: History,
    bench: Bench | None,
    since: Measured | None,
    head: str,
    hint: str,
    idle: str = "",
) -> str:
    """The images whose prediction here is another than at `since`, the gained before the lost.

    `head`: between which places; `hint`: what to do as long as there is nothing to compare, under
    the head `idle`, if that is another one.
    """
    before, after = history.points.get(since) if since else None, history.here
    if before is None or after is None or bench is None or since == history.state:
        return empty("Changed", idle or head, hint)
    groups: dict[str, list[Change]] = {kind: [] for kind in CHANGED}
    for change in changes(before, after):
        groups[_verdict(change, int(bench.labels[change.image]))].append(change)
    found = sum(map(len, groups.values()))
    if not found:
        n = min(before.accuracy.n, after.accuracy.n)
        among = f" among the first {n}" if n < len(bench) else ""
        return empty("Changed", head, f"No prediction changed{among}.")
    tally = [(kind, len(group), CHANGED[kind]) for kind, group in groups.items()]
    tiles = [
        _changed(bench, kind, change)
        for kind, shown in zip(groups, few_of_each(list(groups.values())), strict=True)
        for change in shown
    ]
    return gallery("Changed", head, tally, tiles, found - len(tiles))


def _verdict(change: Change, label: int) -> str:
    return "right" if change.after == label else "wrong" if change.before == label else "still"


def _changed(bench: Bench, kind: str, change: Change) -> str:
    before, after = (escape(bench.task.classes[i]) for i in (change.before, change.after))
    title = f"{before} → {after}, {CHANGED[kind]}"
    return tile(bench, change.image, kind, title, f"<s>{before}</s>", CHANGED[kind], after)
