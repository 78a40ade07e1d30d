"""The layer game on the bench: a tree of coalitions says what plain evaluation says, whatever is
asked together.
"""

import copy
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters import NONE
from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.engine.prefix_tree import PrefixTree
from copra_lab.merging import interpolate, task_arithmetic
from copra_lab.shapley import LayerGame, all_coalitions, exact, players_of

BENCH = Bench(tiny_clip(), tiny_task(), precision="float32")


def adapter(**more):
    return random_adapter(tiny_clip(), **{"size": 0.3, "towers": ("vision",)} | more)


def plain_logits(adapter):
    """By the model's own code, weights merged: nothing of `tower` and `bench`."""
    clip, task = tiny_clip(), tiny_task()
    model = copy.deepcopy(clip.model)
    model.load_state_dict(model.state_dict() | merged_weights(clip.model, adapter))
    with torch.no_grad():
        image, text = (
            model.encode_image(clip.pixels(task.test.images)),
            model.encode_text(clip.tokenizer(task.prompts)),
        )
        return (clip.logit_scale * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T)[
            BENCH.order
        ]


@pytest.mark.slow
@pytest.mark.parametrize("towers", [("vision",), ("text",), ("vision", "text")])
@pytest.mark.parametrize("players", ["layer", "module"])
def test_the_tree_says_what_plain_evaluation_says(towers, players):
    game = LayerGame(BENCH, adapter(towers=towers, kinds="qv"), players)
    rng = np.random.default_rng(0)
    asked = rng.random((12, game.n_players)) < 0.5
    for value, tolerance in (("accuracy", 0), ("loss", 1e-5), ("margin", 1e-6)):
        game.value = value
        for row, got in zip(asked, game.outcomes(asked), strict=True):
            logits = plain_logits(game.adapter_of(row))
            top = logits.topk(2).values
            clear = (top[:, 0] - top[:, 1] > 1e-4).numpy()
            if value == "accuracy":
                expected = (logits.argmax(-1) == BENCH.labels).float()
            elif value == "loss":
                expected = logits.log_softmax(-1)[range(len(BENCH)), BENCH.labels]
            else:
                others = [
                    [x for j, x in enumerate(r) if j != y]
                    for r, y in zip(logits.tolist(), BENCH.labels.tolist(), strict=True)
                ]
                expected = (
                    logits[range(len(BENCH)), BENCH.labels] - torch.tensor(others).amax(1)
                ) / tiny_clip().logit_scale
            np.testing.assert_allclose(
                got[clear], expected.double().numpy()[clear], atol=tolerance or 1e-9
            )
            assert clear.mean() > 0.9


def test_all_coalitions_share_what_they_agree_on():
    game = LayerGame(BENCH, adapter())
    adapters = [game.adapter_of(c) for c in all_coalitions(3)]
    tree = BENCH._prefix_tree(adapters)
    assert tree.passes == 2 + 4 + 8
    assert (
        BENCH._prefix_tree([interpolate(adapters[7], NONE, w) for w in (0.2, 0.3)]).passes == 6
    )  # a path shares nothing
    assert BENCH._prefix_tree([NONE, NONE, adapters[1]]).passes == 4
    assert isinstance(tree, PrefixTree)


@pytest.mark.slow
def test_twelve_layers_cost_8190_passes():
    clip = tiny_clip(layers=12)
    bench = Bench(clip, tiny_task(), precision="float32")
    game = LayerGame(bench, random_adapter(clip, towers=("vision",), kinds="q", rank=1))
    assert bench._prefix_tree([game.adapter_of(c) for c in all_coalitions(12)]).passes == 8190


def test_answers_do_not_depend_on_what_else_is_asked():
    game = LayerGame(BENCH, adapter())
    asked = all_coalitions(3)
    together = game.outcomes(asked)
    shuffled = np.random.default_rng(0).permutation(8)
    assert (game.outcomes(asked[shuffled]) == together[shuffled]).all()
    assert all((game.outcomes(asked[[i]]) == together[[i]]).all() for i in range(8))
    worth = game(asked)
    again = LayerGame(BENCH, adapter())
    assert [again(c)[0] for c in asked[::-1]] == worth[::-1].tolist()
    assert again(asked[[3, 3, 0]]).tolist() == worth[[3, 3, 0]].tolist()
    assert worth.tolist() == pytest.approx(
        [a.value for a in BENCH.accuracies([game.adapter_of(c) for c in asked])]
    )


def test_callers_at_once_get_what_callers_in_turn_get():
    game = LayerGame(BENCH, adapter())
    expected = [game.outcomes(all_coalitions(3)[i : i + 2]) for i in range(6)]
    with ThreadPoolExecutor(6) as pool:
        for got, want in zip(
            pool.map(lambda i: game.outcomes(all_coalitions(3)[i : i + 2]), range(6)),
            expected,
            strict=True,
        ):
            assert (got == want).all()


def test_values_of_layers_share_out_the_gain():
    for value in ("accuracy", "loss", "margin"):
        game = LayerGame(BENCH, adapter(towers=("vision", "text")), value=value)
        assert game.names == ("vision 0", "vision 1", "vision 2", "text 0", "text 1")
        solved = exact(game, game.n_players)
        assert solved.values.sum() == pytest.approx(solved.worth[-1] - solved.worth[0], abs=1e-9)
        assert solved.worth[0] == pytest.approx(
            BENCH.outcomes([NONE], value).double().mean().item()
        )
        assert solved.worth[-1] == pytest.approx(
            BENCH.outcomes([game.adapter], value).double().mean().item()
        )


def test_layers_of_one_tower_as_players():
    a = adapter(towers=("vision", "text"), kinds="qv")
    held = {tower: players_of(a, tower) for tower in ("vision", "text")}
    assert [list(h) for h in held.values()] == [["0", "1", "2"], ["0", "1"]]
    assert players_of(a) == held["vision"]
    assert sorted(n for h in held.values() for sites in h.values() for n in sites) == sorted(
        a.deltas
    )
    both, alone = LayerGame(BENCH, a), LayerGame(BENCH, a, held["vision"])
    for c in all_coalitions(3):  # what the other tower has stays on
        assert alone(c) == both(np.array([*c, True, True]))
    assert players_of(adapter(), "text") == {}


def test_any_grouping_and_a_layer_that_does_nothing():
    a = adapter(kinds="qkv")
    names = list(a.deltas)
    game = LayerGame(
        BENCH, a, {"low": names[:3], "rest": names[3:6]}
    )  # the last layer always stays on
    assert game(np.array([False, False]))[0] == BENCH.accuracy(a.keep(names[6:])).value
    still = task_arithmetic([a.keep(names[:3])], 1e-12)
    nothing = LayerGame(BENCH, type(a)({**a.deltas, **still.deltas}, a.base), value="margin")
    assert abs(exact(nothing, 3).values[0]) < 1e-6


def test_games_name_what_is_wrong():
    a = adapter()
    with pytest.raises(ValueError, match="value must be one of"):
        LayerGame(BENCH, a, value="f1")
    with pytest.raises(ValueError, match="no site 'x'"):
        LayerGame(BENCH, a, {"one": ["x"]})
    with pytest.raises(ValueError, match="sites of its own"):
        LayerGame(BENCH, a, {"one": list(a.deltas)[:2], "two": list(a.deltas)[1:3]})
    with pytest.raises(ValueError, match="layer, module"):
        LayerGame(BENCH, a, "head")
    with pytest.raises(ValueError, match="of 3 players, got 2"):
        LayerGame(BENCH, a)([[True, False]])
