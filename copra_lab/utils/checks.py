"""Refusals that many functions share, in the same words everywhere."""

import difflib
from collections.abc import Collection, Iterable
from typing import Any

__all__ = ["one_of", "spelling_hint", "whole_number"]


def one_of(name: str, value: object, choices: Collection[Any]) -> None:
    """Raise ValueError unless `value` is among the choices."""
    if value not in choices:
        raise ValueError(f"{name} must be one of {', '.join(choices)}, got {value!r:.80}")


def whole_number(name: str, value: object, least: int = 1) -> None:
    """Raise ValueError unless `value` is an integer of at least `least`."""
    if not isinstance(value, int) or value < least:
        raise ValueError(f"{name} must be a whole number of at least {least}, got {value!r:.80}")


def spelling_hint(word: str, known: Iterable[str]) -> str:
    """``; did you mean 'steps'?`` for a word close to a known one, else empty."""
    close = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {close[0]!r}?" if close else ""
