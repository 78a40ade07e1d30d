"""What is drawn carries the number of its turn, and the browser shows nothing of an older turn after a newer one: several
handlers draw for one visitor, and what they give can overtake each other on the way."""

from typing import Any

import gradio as gr

from copra_lab.page.components.panels import html
from copra_lab.page.components.staleness import of
from copra_lab.page.state.session import Asked

# Memory by the element's id, which stands in the template: of the values that one has, those that are not Gradio's own are missing
# where a piece is first shown after it was drawn. What has no number comes before all others.
_NEWEST = r"""${(() => {
  const shown = globalThis.newestOf ??= new Map(), turn = text => Number(/^<!--(\d+)-->/.exec(text)?.[1] ?? -1);
  if (turn(value) >= turn(shown.get('HOLDER'))) shown.set('HOLDER', value ?? '');
  return shown.get('HOLDER');
})()}"""


def newest(value: str, elem_id: str) -> gr.HTML:
    """A piece of the page that keeps what was `stamped` last: what comes late with a smaller number is not shown."""
    return html(value, elem_id=elem_id, html_template=_NEWEST.replace("HOLDER", elem_id))


def stamped(turn: int, pieces: list[str], asked: Asked | None = None) -> list[Any]:
    """The pieces of HTML as drawn in `turn`, one of `copra_lab.page.state.session.Walk.turns`, for what was `asked`."""
    return [f"<!--{turn}-->{piece if asked is None else of(asked, piece)}" for piece in pieces]
