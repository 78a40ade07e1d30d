"""Pieces of error messages."""

import difflib
from collections.abc import Iterable


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question with the closest known word, or ""; `cutoff` is how alike it must be, 0…1."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff)
    return f"did you mean {close[0]!r}? " if close else ""
