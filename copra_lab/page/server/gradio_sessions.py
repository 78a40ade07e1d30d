"""Gradio keeps no more of a visitor than the page is large, and forgets who is gone.

An update, and `gr.skip()` is one, makes a component anew. Gradio keeps it in the place of the old
one, but with a number of its own, by which it is not found when its value is next asked for; so it
is kept once more, under that number, until the session ends: a few components for each position of
a slider. Here what takes a component's place takes its number, too.

A session ends, for Gradio, when hundreds of newer ones have come, however long ago the page was
closed. Here it can be forgotten.

This replaces `SessionState.__setitem__`, which is private to Gradio; pyproject.toml bounds the
version to those in which it exists. A test fails once Gradio keeps no copies by itself: then delete
`bound`, `_stored` and the call in `copra_lab.page.app.launch`, and keep `forget`.
"""

import inspect
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
    """Keep no copies from now on, for every page of this process.

    Raises:
        RuntimeError: if this version of Gradio stores its components in another way.
    """
    if list(inspect.signature(_store).parameters) != ["self", "key", "value"]:
        raise RuntimeError(
            f"the page does not know how Gradio {gr.__version__} keeps a visitor's components; "
            'install another one: pip install "gradio>=6.24,<6.32"'
        )
    SessionState.__setitem__ = _stored


def forget(page: gr.Blocks, session: str) -> None:
    """Drop all that is held of the visitor of this session."""
    held = getattr(page, "state_holder", None)
    if held is not None:  # a page that is served
        held.session_data.pop(session, None)
        held.time_last_used.pop(session, None)
