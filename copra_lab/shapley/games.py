"""The layer game: an adapter's layers (or single matrices, or any groups of them) as players, and a bench that says what each
coalition of them is worth; or, for any adapter of peft's, whatever its owner measures. Both are `copra_lab.shapley.values` games, and ones that
shapiq accepts as they are."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
import torch

from copra_lab.adapters.adapter import Adapter
from copra_lab.bench.bench import MEASURES, Bench
from copra_lab.models.sites import site_of
from copra_lab.peft_models.layers import BlockOf, Switches, block_of
from copra_lab.pruning import layers_of
from copra_lab.training.dropping import group

__all__ = ["LayerGame", "SwitchGame", "players_of"]


def players_of(adapter: Adapter, tower: str = "vision") -> dict[str, tuple[str, ...]]:
    """The layers of one tower as players of a `LayerGame`: the number of each layer → the names of the adapter's sites there, in order of
    depth. Empty for an adapter without any."""
    return {
        str(n): tuple(s for s in adapter.deltas if site_of(s)[:2] == (tower, n))
        for n in layers_of(adapter, tower)
    }


class _Game(ABC):
    """Remembers what was asked once. ``names`` tells the players in order."""

    BATCH = 1024
    """Coalitions measured in one go; memory grows with it and the images, not with how many are asked."""

    names: tuple[str, ...]

    def __init__(self) -> None:
        self._known: dict[bytes, float] = {}

    @abstractmethod
    def _worth(self, coalitions: np.ndarray) -> list[float]: ...

    @property
    def n_players(self) -> int:
        return len(self.names)

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        """Coalitions (m, n), or one (n,), → values (m,)."""
        x = np.atleast_2d(np.asarray(coalitions, dtype=bool))
        if x.shape[1] != self.n_players:
            raise ValueError(f"expected coalitions of {self.n_players} players, got {x.shape[1]}")
        keys = [row.tobytes() for row in x]
        missing = sorted(
            {k for k in keys if k not in self._known}
        )  # sorted: neighbours agree on the first players
        for start in range(0, len(missing), self.BATCH):
            batch = missing[start : start + self.BATCH]
            asked = np.array([np.frombuffer(k, dtype=bool) for k in batch])
            self._known.update(zip(batch, self._worth(asked), strict=True))
        return np.array([self._known[k] for k in keys])


class LayerGame(_Game):
    """v(coalition) = the mean of `value` over the bench's images, with the deltas of the coalition's players switched on and
    those of the others off.

    ``players``: "layer" (all matrices of one layer of one tower), "module" (each matrix by itself), or a mapping of names
    to the sites they hold. ``names`` tells the players in order. What was asked once is remembered.

    Raises ValueError for a site that the adapter does not have, or that two players hold.
    """

    def __init__(
        self,
        bench: Bench,
        adapter: Adapter,
        players: "str | Mapping[str, Iterable[str]]" = "layer",
        value: str = "accuracy",
    ):
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
            raise ValueError(
                "every player needs sites of its own, and there must be one player at least"
            )
        self.bench, self.adapter, self.value = bench, adapter, value
        self.names, self._held = tuple(held), tuple(held.values())
        self._always = [n for n in adapter.deltas if n not in set(flat)]
        super().__init__()

    def adapter_of(self, coalition: np.ndarray) -> Adapter:
        """The adapter with the players of one coalition (n,) on; sites that no player holds stay on."""
        on = [n for p, is_on in zip(self._held, coalition, strict=True) if is_on for n in p]
        return self.adapter.keep([*self._always, *on])

    def outcomes(self, coalitions: np.ndarray) -> np.ndarray:
        """The value of each coalition (m, n) for each image, (m, images)."""
        return (
            self.bench.outcomes([self.adapter_of(c) for c in coalitions], self.value)
            .double()
            .numpy()
        )

    def _worth(self, coalitions: np.ndarray) -> list[float]:
        return self.outcomes(coalitions).mean(1).tolist()


class SwitchGame(_Game):
    """v(coalition) = `metric`(model) with the coalition's adapter layers switched on and the others off, for any model that peft has adapted.

    ``metric``: takes the model, in evaluation mode and without gradients, and returns a number: an accuracy on fixed data, say. It is asked once
    a coalition. ``unit``, ``block_of``: see `copra_lab.peft_models.layers.tuner_layers`, which also says what is refused. Afterwards the model is as it
    was, after an exception too.
    """

    BATCH = 1
    """A metric may take minutes: what it has said so far outlives an interruption."""

    def __init__(
        self,
        model: Any,
        metric: Callable[[Any], float],
        unit: str = "layer",
        block_of: BlockOf = block_of,
    ):
        super().__init__()
        self.model, self.metric = model, metric
        self.switches = Switches(model, unit, block_of)
        self.names = self.switches.names

    def _worth(self, coalitions: np.ndarray) -> list[float]:
        modes = [(m, m.training) for m in self.model.modules()]
        with self.switches.kept(), torch.no_grad():
            try:
                self.model.eval()
                out = []
                for coalition in coalitions.tolist():
                    self.switches.set(coalition)
                    out.append(float(self.metric(self.model)))
                return out
            finally:
                for module, mode in modes:
                    module.training = mode
