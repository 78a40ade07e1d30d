"""Shapley values: what each layer of an adapter contributes."""

from copra_lab.shapley.games import LayerGame, SwitchGame, players_of
from copra_lab.shapley.values import (
    SAMPLERS,
    Curve,
    Estimate,
    Exact,
    Game,
    all_coalitions,
    estimate,
    exact,
    owen,
    permutations,
    solve,
    stratified,
)

__all__ = [
    "SAMPLERS",
    "Curve",
    "Estimate",
    "Exact",
    "Game",
    "LayerGame",
    "SwitchGame",
    "all_coalitions",
    "estimate",
    "exact",
    "owen",
    "permutations",
    "players_of",
    "solve",
    "stratified",
]
