"""Two implementations take turns, so that other load on the machine slows both alike."""

import statistics
import time
from collections.abc import Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Row:
    """One line of the table.

    `ours` and `theirs` are medians in `unit`; ``ratio`` = theirs / ours is the median over turns,
    from `low` to `high`. Without another side, `theirs` and the numbers that depend on it are None.
    """

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
    """Seconds of each, divided by `per`, after one warm-up turn; ``clock`` times a turn."""
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
    """Seconds of ours, if there is no other side."""
    ours()
    return Row(
        what,
        statistics.median(seconds(ours) for _ in range(repeats)),
        None,
        "s",
        precision,
        repeats=repeats,
    )
