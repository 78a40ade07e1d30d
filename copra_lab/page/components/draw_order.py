"""Every drawing carries a number, that of the version of the history that it shows.

Several handlers draw for one visitor, and their answers can overtake each other on the way: the
browser shows nothing with a smaller number after a larger one.
"""

import gradio as gr

from copra_lab.page.components.panels import html
from copra_lab.page.components.scripts import script
from copra_lab.page.components.staleness import of
from copra_lab.page.state.session import Asked

_NEWEST = f"${{({script('newest')})('HOLDER', value)}}"


def newest(value: str, elem_id: str) -> gr.HTML:
    """A piece of the page that keeps what was `stamped` last.

    What comes late with a smaller number is not shown.
    """
    return html(value, elem_id=elem_id, html_template=_NEWEST.replace("HOLDER", elem_id))


def stamped(version: int, piece: str, asked: Asked | None = None) -> str:
    """A piece of HTML as drawn for a `version` of the history, and for what was `asked`.

    A piece that shows no history takes the time of the request instead, in nanoseconds.
    """
    return f"<!--{version}-->{piece if asked is None else of(asked, piece)}"
