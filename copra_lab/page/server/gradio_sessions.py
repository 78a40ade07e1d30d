"""Gradio keeps no more of a visitor than the page is large, and forgets who is gone.

An update, and `gr.skip()` is one, makes a component anew. Gradio keeps it in the place of the old
one, but with a number of its own, by which it is not found when its value is next asked for; so it
is kept once more, under that number, until the session ends: a few components for each position of
a slider. Here what takes a component's place takes its number, too.

An update, and `gr.skip()` is one, makes a component anew. Gradio keeps it in the place of the old
one, but with a number of its own, by which it is not found when its value is next asked for; so it
is kept once more, under that number, until the session ends: a few components for each position of
a slider. Here what takes a component's place takes its number, too.

A session ends, for Gradio, when hundreds of newer ones have come, however long ago the page was
closed. Here it can be forgotten.
"""

from typing import Any

import gradio as gr
from gradio.blocks import Block
from gradio.state_holder import SessionState

_store = SessionState.__setitem__


def _stored(session: SessionState, key: int, value: Any) -> None:
    if isinstance(value, Block) and value._id not in session.blocks_config.blocks:
        value._id = key
    _store(session, key, value)


def bound() -> None:
    """Let it be so from now on, for every page of this process."""
    SessionState.__setitem__ = _stored


def forget(page: gr.Blocks, session: str) -> None:
    """Drop all that is held of the visitor of this session."""
    held = getattr(page, "state_holder", None)
    if held is not None:  # a page that is served
        held.session_data.pop(session, None)
        held.time_last_used.pop(session, None)
