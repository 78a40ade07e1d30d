"""Refusals that many functions share, and pieces of their messages."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

__all__ = ["did_you_mean", "one_of", "reason", "spelling_hint", "whole_number"]


def one_of(name: str, value: object, choices: Collection[Any]) -> None:
    """Raise ValueError unless `value` is among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r:.80}")


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r:.80}")


def reason(error: BaseException) -> str:
    """The first line of what an exception says, or its type where it says nothing."""
    return (str(error).strip() or type(error).__name__).splitlines()[0]


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.6) -> str:
    """A question with the closest known word, or ""; `cutoff` is how alike it must be, 0…1."""
    close = difflib.get_close_matches(word, list(known), 1, cutoff)
    return f"did you mean {close[0]!r}? " if close else ""


def spelling_hint(word: str, known: Iterable[str]) -> str:
    """The same question as the end of a sentence: ``; did you mean 'steps'?``, or ""."""
    question = did_you_mean(word, known).strip()
    return f"; {question}" if question else ""
