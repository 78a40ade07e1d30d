"""The layer game: an adapter's layers (or single matrices, or any groups of them) as players, and a bench that says what each
coalition of them is worth. It is a `copra_lab.shapley` game, and one that shapiq accepts as it is."""

from collections.abc import Iterable, Mapping

import numpy as np

from copra_lab.bench import MEASURES, Bench
from copra_lab.copra import group
from copra_lab.lora import Adapter


class LayerGame:
    """v(coalition) = the mean of `value` over the bench's images, with the deltas of the coalition's players switched on and
    those of the others off.

    ``players``: "layer" (all matrices of one layer of one tower), "module" (each matrix by itself), or a mapping of names
    to the sites they hold. ``names`` tells the players in order. What was asked once is remembered.

    Raises ValueError for a site that the adapter does not have, or that two players hold.
    """

    BATCH = 1024
    """Coalitions measured in one go; memory grows with it and the images, not with how many are asked."""

    def __init__(self, bench: Bench, adapter: Adapter, players: "str | Mapping[str, Iterable[str]]" = "layer", value: str = "accuracy"):
        if value not in MEASURES:
            raise ValueError(f"value must be one of {', '.join(MEASURES)}, got {value!r}")
        sites = bench.clip.sites
        if isinstance(players, str):
            held = group([s for n, s in sites.items() if n in adapter.deltas], players)
        else:
            held = {name: tuple(p) for name, p in players.items()}
        flat = [n for p in held.values() for n in p]
        if unknown := [n for n in flat if n not in adapter.deltas]:
            raise ValueError(f"the adapter has no site {unknown[0]!r}")
        if len(set(flat)) < len(flat) or not held:
            raise ValueError("every player needs sites of its own, and there must be one player at least")
        self.bench, self.adapter, self.value = bench, adapter, value
        self.names, self._held = tuple(held), tuple(held.values())
        self._always = [n for n in adapter.deltas if n not in set(flat)]
        self._known: dict[bytes, float] = {}

    @property
    def n_players(self) -> int:
        return len(self.names)

    def adapter_of(self, coalition: np.ndarray) -> Adapter:
        """The adapter with the players of one coalition (n,) on; sites that no player holds stay on."""
        on = [n for p, is_on in zip(self._held, coalition, strict=True) if is_on for n in p]
        return self.adapter.keep([*self._always, *on])

    def outcomes(self, coalitions: np.ndarray) -> np.ndarray:
        """The value of each coalition (m, n) for each image, (m, images)."""
        return self.bench.outcomes([self.adapter_of(c) for c in coalitions], self.value).double().numpy()

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        """Coalitions (m, n), or one (n,), → values (m,)."""
        x = np.atleast_2d(np.asarray(coalitions, dtype=bool))
        if x.shape[1] != self.n_players:
            raise ValueError(f"expected coalitions of {self.n_players} players, got {x.shape[1]}")
        keys = [row.tobytes() for row in x]
        missing = sorted({k for k in keys if k not in self._known})  # sorted: neighbours agree on the first players
        for start in range(0, len(missing), self.BATCH):
            batch = missing[start : start + self.BATCH]
            asked = np.array([np.frombuffer(k, dtype=bool) for k in batch])
            self._known.update(zip(batch, self.outcomes(asked).mean(1).tolist(), strict=True))
        return np.array([self._known[k] for k in keys])
