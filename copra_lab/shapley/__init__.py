"""Shapley values: what each layer of an adapter contributes."""

from copra_lab.shapley.coalitions import Game, all_coalitions
from copra_lab.shapley.games import LayerGame, SwitchGame, players_of
from copra_lab.shapley.incremental import Progress, sharpen
from copra_lab.shapley.sampling import SAMPLERS, Estimate, owen, permutations, stratified
from copra_lab.shapley.values import Curve, Exact, estimate, exact, solve

__all__ = [
    "SAMPLERS",
    "Curve",
    "Estimate",
    "Exact",
    "Game",
    "LayerGame",
    "Progress",
    "SwitchGame",
    "all_coalitions",
    "estimate",
    "exact",
    "owen",
    "permutations",
    "players_of",
    "sharpen",
    "solve",
    "stratified",
]
