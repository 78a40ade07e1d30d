"""Two ways of doing the same thing take turns, so that whatever else the machine does slows both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table. `ours` and `theirs` are medians in `unit`; ``ratio`` = theirs / ours, the median of those of
    each turn, from `low` to `high`. Where there is no other side, `theirs` and what follows from it is None."""

    what: str
    ours: float
    theirs: float | None
    unit: str
    precision: str
    ratio: float | None = None
    low: float | None = None
    high: float | None = None
    repeats: int = 1


def seconds(f: Callable[[], object]) -> float:
    start = time.perf_counter()
    f()
    return time.perf_counter() - start


def race(
    what: str,
    ours: Callable[[], object],
    theirs: Callable[[], object],
    repeats: int,
    precision: str = "float32",
    per: float = 1.0,
    clock: Callable[[Callable], float] = seconds,
) -> Row:
    """Seconds of each, divided by `per`; one turn before the first that counts. ``clock``: how a turn is timed."""
    ours(), theirs()
    turns = []
    for i in range(repeats):
        first, second = (ours, theirs) if i % 2 == 0 else (theirs, ours)
        a, b = clock(first), clock(second)
        turns.append((a, b) if i % 2 == 0 else (b, a))
    ratios = sorted(b / a for a, b in turns)
    a, b = (statistics.median(t) / per for t in zip(*turns, strict=True))
    return Row(
        what, a, b, "s", precision, statistics.median(ratios), ratios[0], ratios[-1], repeats
    )


def alone(what: str, ours: Callable[[], object], repeats: int, precision: str = "float32") -> Row:
    """Seconds of ours, where there is no other side."""
    ours()
    return Row(
        what,
        statistics.median(seconds(ours) for _ in range(repeats)),
        None,
        "s",
        precision,
        repeats=repeats,
    )
