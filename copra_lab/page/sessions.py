"""What Gradio holds of a visitor stays as large as the page, however long one drags.

An update, and `gr.skip()` is one, makes a component anew. Gradio keeps it in the place of the old one, but with a number of its own, by which it
is not found when its value is next asked for; so it is kept once more, under that number, until the session ends: a few components for
each position of a slider. Here what takes a component's place takes its number, too.
"""

from typing import Any

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
