"""Games and their coalitions: what every way of computing Shapley values shares."""

from collections.abc import Callable, MutableMapping

import numpy as np

__all__ = ["CachedGame", "Game", "all_coalitions", "ask"]

Game = Callable[[np.ndarray], np.ndarray]
"""Maps coalitions, bool (m, n), to the worth v(S) of each, float (m,).

Where a function says so, many games on the same players at once: float (m, games).
"""


def all_coalitions(n: int) -> np.ndarray:
    """All 2ⁿ coalitions of `n` players, as a bool array (2ⁿ, n).

    Row r holds the binary digits of r, player 0 the most significant, so that neighbouring rows
    agree on the first players.
    """
    return (np.arange(2**n)[:, None] >> np.arange(n - 1, -1, -1)) & 1 == 1


def ask(game: Game, coalitions: np.ndarray, vector: bool = False) -> np.ndarray:
    """The worth of each coalition (m, n), checked: float (m,).

    Args:
        game: what is asked.
        coalitions: bool (m, n).
        vector: whether `game` gives a row of values for each coalition, (m, games).

    Raises:
        ValueError: for an answer of the wrong shape, or one that is not finite.
    """
    worth = np.asarray(game(coalitions), float)
    if (worth.shape[:1] if vector else worth.shape) != (len(coalitions),):
        expected = f"expected shape ({len(coalitions)},), got {worth.shape}"
        raise ValueError(f"a game must give one value a coalition: {expected}")
    if not np.isfinite(worth).all():
        raise ValueError("the game gave a value that is not a finite number")
    return worth


class CachedGame:
    """A game that measures each coalition once.

    Args:
        game: the game, of single values or of vectors.
        n: number of players.
        cache: what was measured so far, by the bytes of the coalition's row. It belongs to the
            caller: another `CachedGame` with the same cache goes on where this one was stopped.
        batch: coalitions measured in one call of `game`.
    """

    def __init__(
        self,
        game: Game,
        n: int,
        cache: "MutableMapping[bytes, np.ndarray] | None" = None,
        batch: int = 1024,
    ) -> None:
        self.game, self.n, self.batch = game, n, batch
        self.cache = {} if cache is None else cache

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        """Coalitions (m, n), or one (n,), → their worth, (m,) or (m, games).

        Raises:
            ValueError: for coalitions of another number of players, or a game that gives another
                number of values than it was asked for.
        """
        x = np.atleast_2d(np.asarray(coalitions, dtype=bool))
        if x.shape[1] != self.n:
            raise ValueError(f"expected coalitions of {self.n} players, got {x.shape[1]}")
        keys = [row.tobytes() for row in x]
        # Sorted, so that neighbours agree on the first players and a layer game shares their work.
        missing = sorted({k for k in keys if k not in self.cache})
        for start in range(0, len(missing), self.batch):
            part = missing[start : start + self.batch]
            worth = self.game(np.array([np.frombuffer(k, dtype=bool) for k in part]))
            if len(worth) != len(part):
                expected = f"expected {len(part)}, got {len(worth)}"
                raise ValueError(f"a game must give one value a coalition: {expected}")
            self.cache.update(zip(part, worth, strict=True))
        return np.array([self.cache[k] for k in keys])
