"""Games whose players are the layers of an adapter.

`LayerGame` measures an adapter of a CLIP on a bench; `SwitchGame` any model that peft has adapted,
by a metric of your own. `copra_lab.shapley.values` solves them, and so does shapiq.
"""

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
from copra_lab.shapley.coalitions import CachedGame
from copra_lab.training.dropping import group
from copra_lab.utils.checks import one_of

__all__ = ["LayerGame", "SwitchGame", "players_of"]


def players_of(adapter: Adapter, tower: str = "vision") -> dict[str, tuple[str, ...]]:
    """The layers of one tower as players of a `LayerGame`.

    Returns:
        The number of each layer → the names of the adapter's sites there, in order of depth; empty
        for an adapter without any.
    """
    return {
        str(n): tuple(s for s in adapter.deltas if site_of(s)[:2] == (tower, n))
        for n in layers_of(adapter, tower)
    }


class _Game(ABC):
    """A game that measures each coalition once. ``names`` lists the players in order."""

    BATCH = 1024
    """Coalitions measured in one go; memory grows with it and with the number of images."""

    names: tuple[str, ...]

    def __init__(self, names: tuple[str, ...]) -> None:
        self.names = names
        self._cached = CachedGame(self._measure, len(names), batch=self.BATCH)

    @abstractmethod
    def _measure(self, coalitions: np.ndarray) -> np.ndarray:
        """Coalitions (m, n) → their worth (m,)."""

    @property
    def n_players(self) -> int:
        """Number of players; shapiq reads it too."""
        return len(self.names)

    def __call__(self, coalitions: np.ndarray) -> np.ndarray:
        """Coalitions (m, n), or one (n,) → their worth (m,).

        Raises:
            ValueError: for coalitions of another number of players.
        """
        return self._cached(coalitions)


class LayerGame(_Game):
    """v(S) = the mean of a measure over the bench's images, with only the players in S switched on.

    The deltas of a player that is off are left out; sites that belong to no player stay on.

    Args:
        bench: the CLIP and the images.
        adapter: the adapter whose sites are shared out.
        players: "layer" (all matrices of one layer of one tower), "module" (each matrix by itself),
            or a mapping of names to the sites they hold.
        value: the measure: "accuracy", "loss" or "margin" (see `Bench.outcomes`).

    Raises:
        ValueError: for an unknown measure or unit, and for a site that the adapter does not have or
            that two players hold.
    """

    def __init__(
        self,
        bench: Bench,
        adapter: Adapter,
        players: "str | Mapping[str, Iterable[str]]" = "layer",
        value: str = "accuracy",
    ) -> None:
        one_of("value", value, MEASURES)
        sites = bench.clip.sites
        if isinstance(players, str):
            held = group([s for n, s in sites.items() if n in adapter.deltas], players)
        else:
            held = {name: tuple(p) for name, p in players.items()}
        flat = [n for p in held.values() for n in p]
        if unknown := [n for n in flat if n not in adapter.deltas]:
            raise ValueError(f"the adapter has no site {unknown[0]!r}")
        if len(set(flat)) < len(flat) or not held:
            raise ValueError("there must be a player, and each needs sites of its own")
        self.bench, self.adapter, self.value = bench, adapter, value
        self._sites = tuple(held.values())
        self._always_on = [n for n in adapter.deltas if n not in set(flat)]
        super().__init__(tuple(held))

    def adapter_of(self, coalition: np.ndarray) -> Adapter:
        """The adapter with the players of one coalition (n,) on."""
        on = [n for p, is_on in zip(self._sites, coalition, strict=True) if is_on for n in p]
        return self.adapter.keep([*self._always_on, *on])

    def outcomes(self, coalitions: np.ndarray) -> np.ndarray:
        """The measure for each coalition (m, n) and image: float (m, images), in bench order."""
        adapters = [self.adapter_of(c) for c in coalitions]
        return self.bench.outcomes(adapters, self.value).double().numpy()

    def _measure(self, coalitions: np.ndarray) -> np.ndarray:
        return self.outcomes(coalitions).mean(1)


class SwitchGame(_Game):
    """v(S) = a metric of the model with only the adapter layers in S switched on.

    For any model that peft has adapted. Afterwards the model is as it was, after an exception too.

    Args:
        model: the adapted model.
        metric: takes the model, in evaluation mode and without gradients, and returns a number: its
            accuracy on fixed data, say. It is called once for each coalition.
        unit: what is switched together, "layer" or "module" (see
            `copra_lab.peft_models.layers.tuner_layers`, which also says what is refused).
        block_of: tells the layer that a module belongs to from its name.
    """

    BATCH = 1
    """A metric may take minutes: what it has said so far outlives an interruption."""

    def __init__(
        self,
        model: Any,
        metric: Callable[[Any], float],
        unit: str = "layer",
        block_of: BlockOf = block_of,
    ) -> None:
        self.model, self.metric = model, metric
        self.switches = Switches(model, unit, block_of)
        super().__init__(self.switches.names)

    def _measure(self, coalitions: np.ndarray) -> np.ndarray:
        modes = [(m, m.training) for m in self.model.modules()]
        with self.switches.kept(), torch.no_grad():
            try:
                self.model.eval()
                out = []
                for coalition in coalitions.tolist():
                    self.switches.set(coalition)
                    out.append(float(self.metric(self.model)))
                return np.array(out)
            finally:
                for module, mode in modes:
                    module.training = mode
