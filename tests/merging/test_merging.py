"""Every merge at its identity points with random non-zero adapters, and against worked examples."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters import Adapter, LowRank, from_delta
from copra_lab.bench import Bench
from copra_lab.merging import (
    average_factors,
    barrier,
    dare,
    highest_barrier,
    interpolate,
    interpolate_factors,
    plane,
    task_arithmetic,
    ties,
    truncate,
    weighted_sum,
)
from copra_lab.models import hf_name, site_of
from copra_lab.pruning import (
    PRESETS,
    keep,
    keep_best,
    layers_of,
    magnitudes,
    preset,
    sparsify,
    sparsity,
)

SITE = hf_name("vision", 0, "q")


def one(matrix) -> Adapter:
    return Adapter({SITE: from_delta(torch.tensor(matrix, dtype=torch.float32))})


def close(a: Adapter, b: Adapter, atol=1e-5) -> None:
    zero = torch.zeros(())
    for n in {*a.deltas, *b.deltas}:
        x, y = (c.deltas[n].delta() if n in c.deltas else zero for c in (a, b))
        torch.testing.assert_close(*torch.broadcast_tensors(x, y), atol=atol, rtol=1e-5)


def test_interpolation_has_exact_ends_and_the_right_middle():
    clip = tiny_clip()
    a, b = random_adapter(clip, rank=2, seed=1), random_adapter(clip, rank=5, seed=2, scale=0.3)
    assert interpolate(a, b, 0) == a
    assert interpolate(a, b, 1) == b
    for weight in (-0.5, 0.3, 1.5):
        mid = interpolate(a, b, weight)
        for name in a.deltas:
            expected = (1 - weight) * a.deltas[name].delta() + weight * b.deltas[name].delta()
            torch.testing.assert_close(mid.deltas[name].delta(), expected, atol=1e-6, rtol=1e-5)
    close(weighted_sum([weighted_sum([a, b], [1, 1]), b], [1, -1]), a)  # merge, then unmerge


def test_weights_by_layer():
    a, b = (
        random_adapter(tiny_clip(), seed=1, towers=("vision",)),
        random_adapter(tiny_clip(), seed=2, towers=("vision",)),
    )
    by_layer = weighted_sum([a, b], [{0: 1.0, 2: 0.5}, {1: 1.0, 2: 0.5}])
    for name, d in by_layer.deltas.items():
        parts = {0: (1, 0), 1: (0, 1), 2: (0.5, 0.5)}[site_of(name)[1]]
        expected = parts[0] * a.deltas[name].delta() + parts[1] * b.deltas[name].delta()
        torch.testing.assert_close(d.delta(), expected, atol=1e-6, rtol=1e-5)
    close(
        weighted_sum([a, b], [dict.fromkeys(range(3), 0.3), dict.fromkeys(range(3), 0.7)]),
        interpolate(a, b, 0.7),
    )


def test_averaging_factors_is_not_averaging_deltas_by_the_amount_worked_out_by_hand():
    # ΔW₁ = [2], ΔW₂ = [12]: their mean is 7, but the means of A (1, 3) and of B (2, 4) give 2·3 =
    # 6; in general mean(BA) − mean(B)·mean(A) = (B₁ − B₂)(A₁ − A₂) / 4.
    a, b = (
        Adapter({SITE: LowRank(torch.tensor([[x]]), torch.tensor([[y]]))})
        for x, y in ((1.0, 2.0), (3.0, 4.0))
    )
    assert interpolate(a, b, 0.5).deltas[SITE].delta().item() == 7
    assert average_factors([a, b]).deltas[SITE].delta().item() == 6
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    delta, factors = interpolate(a, b, 0.5), average_factors([a, b])
    for name, x in a.deltas.items():
        y = b.deltas[name]
        gap = x.scale * (x.B - y.B) @ (x.A - y.A) / 4
        torch.testing.assert_close(
            delta.deltas[name].delta() - factors.deltas[name].delta(), gap, atol=1e-6, rtol=1e-5
        )


def test_the_line_in_the_factors_has_exact_ends_too():
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    assert interpolate_factors(a, b, 0) == a
    assert interpolate_factors(a, b, 1) == b
    other = random_adapter(tiny_clip(), seed=2, scale=0.1)
    close(interpolate_factors(a, other, 1), other)
    # Factors of unequal scales carry them in B, so that the common scale is 1.
    assert {d.scale for d in average_factors([a, other]).deltas.values()} == {1.0}
    close(average_factors([a, a, a]), a)
    assert average_factors([a]) == a
    with pytest.raises(ValueError, match="different ranks"):
        average_factors([a, random_adapter(tiny_clip(), rank=2)])
    with pytest.raises(ValueError, match="different sites"):
        average_factors([a, random_adapter(tiny_clip(), kinds="q")])


def test_factors_of_weight_zero_are_zero():
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    assert not any(d.A.any() or d.B.any() for d in average_factors([a], [0]).deltas.values())
    nothing = average_factors([a, b], [0, 0])
    assert set(nothing.deltas) == set(a.deltas)
    for name, d in nothing.deltas.items():
        assert d.rank == a.deltas[name].rank
        assert not d.A.any()
        assert not d.B.any()


def test_factors_beyond_the_ends():
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    beyond = average_factors([a, b], [2, -1])
    assert interpolate_factors(a, b, -1) == beyond
    for name, d in beyond.deltas.items():
        torch.testing.assert_close(d.A, 2 * a.deltas[name].A - b.deltas[name].A)
        torch.testing.assert_close(d.B, 2 * a.deltas[name].B - b.deltas[name].B)


def test_an_end_of_a_line_keeps_its_provenance():
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    assert interpolate(a, b, 0).provenance == a.provenance
    assert weighted_sum([a], [1]).provenance == a.provenance
    for changed in (weighted_sum([a], [2]), weighted_sum([a], [0])):
        assert changed.provenance["made by"] == "weighted_sum"
        assert changed.provenance["of"] == [a.hash]


def test_task_arithmetic_adds_and_unlearns():
    a, b = random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2)
    close(task_arithmetic([a], 1.0), a)
    assert task_arithmetic([a, b]) == task_arithmetic([a, b], 0.3)  # the paper's
    close(weighted_sum([task_arithmetic([a, b], 1.0), task_arithmetic([a], -1.0)], [1, 1]), b)


def test_a_plane_goes_through_its_three_adapters():
    a, b, c = (random_adapter(tiny_clip(), seed=i) for i in range(3))
    assert plane(a, b, c, 0, 0) == a
    assert plane(a, b, c, 1, 0) == b
    assert plane(a, b, c, 0, 1) == c
    close(plane(a, b, c, 0.5, 0), interpolate(a, b, 0.5))


def test_ties_on_a_worked_example():
    # Density ½ of four entries keeps the two largest: [4, 0, -3, 0] and [-1, 0, -2, 0] of the
    # second by |·|.
    a, b = one([[4.0, 0.5], [-3.0, 0.1]]), one([[-1.0, 0.2], [-2.0, 0.3]])
    # Entry 0: 4 − 1 > 0, so + is elected and only 4 counts; entry 2: both negative, their mean is
    # −2.5.
    torch.testing.assert_close(
        ties([a, b], 0.5).deltas[SITE].delta(), torch.tensor([[4.0, 0.0], [-2.5, 0.0]])
    )
    torch.testing.assert_close(
        ties([a, b], 0.5, scale=2).deltas[SITE].delta(), torch.tensor([[8.0, 0.0], [-5.0, 0.0]])
    )


def test_ties_at_its_identity_points():
    a = random_adapter(tiny_clip(), seed=1)
    close(ties([a], 1.0), a)
    close(ties([a, a], 1.0), a)
    for bad in (0.0, 1.5, float("nan")):
        with pytest.raises(ValueError, match="density"):
            ties([a], bad)


def test_ties_trims_over_all_sites_together():
    big, small = hf_name("vision", 0, "q"), hf_name("vision", 1, "q")
    a = Adapter(
        {big: from_delta(torch.full((2, 2), 5.0)), small: from_delta(torch.full((2, 2), 1.0))}
    )
    assert ties([a], 0.5).deltas[small].delta().abs().sum() == 0
    assert ties([a], 0.5).deltas[big].delta().eq(5).all()


def test_ties_counts_every_entry_that_has_the_elected_sign():
    merged = ties([one([[-1.0, 1.0]]), one([[-3.0, 3.0]])], 1.0)
    assert merged.deltas[SITE].delta().tolist() == [[-2.0, 2.0]]


def test_dare_drops_and_rescales():
    a = one([[1.0, -2.0], [3.0, 4.0]])
    close(dare(a, 0.0, torch.Generator()), a)
    g = torch.Generator().manual_seed(0)
    runs = torch.stack([dare(a, 0.75, g).deltas[SITE].delta() for _ in range(4000)])
    assert set((runs[:, 1, 1]).unique().tolist()) == {0.0, 16.0}
    kept = (runs != 0).float().mean(0)
    assert torch.allclose(kept, torch.tensor(0.25), atol=4.5 * (0.25 * 0.75 / 4000) ** 0.5)
    torch.testing.assert_close(runs.mean(0), a.deltas[SITE].delta(), atol=0.5, rtol=0)
    assert dare(a, 0.5, torch.Generator().manual_seed(1)) == dare(
        a, 0.5, torch.Generator().manual_seed(1)
    )
    for rate in (-0.5, 1.0):
        with pytest.raises(ValueError, match="below 1"):
            dare(a, rate, g)


@pytest.mark.parametrize("rank", [1, 2, 5])
def test_truncation_is_the_best_of_its_rank(rank):
    a = interpolate(random_adapter(tiny_clip(), seed=1), random_adapter(tiny_clip(), seed=2), 0.4)
    cut = truncate(a, rank)
    assert cut.rank == rank
    for name, d in a.deltas.items():
        u, s, vh = torch.linalg.svd(d.delta().double(), full_matrices=False)
        best = (u[:, :rank] * s[:rank]) @ vh[:rank]
        torch.testing.assert_close(cut.deltas[name].delta().double(), best, atol=1e-5, rtol=0)
    close(truncate(a, 6), a)
    assert truncate(a, 6).deltas[SITE] is a.deltas[SITE]
    with pytest.raises(ValueError, match="rank must be"):
        truncate(a, 0)


@given(st.integers(1, 4), st.integers(1, 5), st.floats(-2, 2), st.floats(-2, 2))
def test_adapters_of_any_ranks_and_sites_add_up(rank_a, rank_b, u, v):
    a = random_adapter(tiny_clip(), rank=rank_a, seed=1, kinds="qv")
    b = random_adapter(tiny_clip(), rank=rank_b, seed=2, kinds=("v", "fc1"), scale=0.2)
    mixed = weighted_sum([a, b], [u, v])
    for name in {*a.deltas, *b.deltas}:
        expected = sum(w * x.deltas[name].delta() for w, x in ((u, a), (v, b)) if name in x.deltas)
        got = mixed.deltas[name].delta() if name in mixed.deltas else torch.zeros_like(expected)
        torch.testing.assert_close(got, expected, atol=1e-5, rtol=1e-4)


def test_what_adapters_agree_on_is_said_of_what_is_made_of_them():
    clip = tiny_clip()
    silent, *said = (random_adapter(clip, seed=seed) for seed in range(3))
    a, b = (
        replace(x, provenance={"task": "digits", "shots": n, "method": "lora"})
        for x, n in zip(said, (4, 16), strict=True)
    )
    assert interpolate(a, b, 0.5).provenance == {
        "task": "digits",
        "made by": "weighted_sum",
        "of": [a.hash, b.hash],
        "weights": [0.5, 0.5],
    }
    assert sparsify(a, 0.5).provenance["shots"] == 4
    assert "task" not in interpolate(a, silent, 0.5).provenance


def test_merging_refuses_what_does_not_belong_together():
    a, other = random_adapter(tiny_clip()), random_adapter(tiny_clip(1))
    for merge in (lambda x: weighted_sum(x, [0.5, 0.5]), ties, average_factors):
        with pytest.raises(ValueError, match="different bases"):
            merge([a, other])
    with pytest.raises(ValueError, match="one weight for each"):
        weighted_sum([a], [0.5, 0.5])
    for bad in (float("nan"), {0: float("inf")}):
        with pytest.raises(ValueError, match="finite"):
            weighted_sum([a], [bad])
    with pytest.raises(ValueError, match="different shapes"):
        weighted_sum([one([[1.0]]), one([[1.0, 2.0], [3.0, 4.0]])], [1, 1])


def test_barrier_is_the_largest_fall_below_the_chord():
    assert barrier([0, 0.5, 1], [0.8, 0.5, 0.6]) == pytest.approx(0.2)
    assert barrier([0, 0.5, 1, 1.5], [0.8, 0.9, 0.6, 0.0]) == 0
    assert highest_barrier([0, 0.25, 0.5, 1], [0.8, 0.6, 0.6, 0.8]) == (pytest.approx(0.2), 0.25)
    assert highest_barrier([1, 0.5, 0], [0.6, 0.9, 0.8]) == (0, 1)  # of equals the first
    assert barrier([-0.5, 0, 1], [0.0, 0.8, 0.6]) == 0  # beyond the ends there is no chord
    for weights in ([0, 0.5], [0.5, 1]):
        with pytest.raises(ValueError, match="λ = 0 and λ = 1"):
            barrier(weights, [1, 1])


# --- pruning -------------------------------------------------------------------------------------------------------


def test_presets_keep_what_they_say():
    assert [preset(p, 12) for p in PRESETS] == [
        (0, 2, 4, 6, 8, 10),
        (1, 3, 5, 7, 9, 11),
        (0, 1, 2, 3),
        (4, 5, 6, 7),
        (8, 9, 10, 11),
    ]
    assert [preset(p, 5) for p in ("low", "middle", "high")] == [(0, 1), (2,), (3, 4)]
    assert preset("middle", 1) == ()


def test_keeping_parts():
    a = random_adapter(tiny_clip())
    assert layers_of(a) == (0, 1, 2)
    assert keep(a) == a
    assert layers_of(keep(a, "low")) == (0,)  # a third of the layers that it has
    even = keep(a, "even")
    assert {site_of(n)[1] for n in even.deltas if site_of(n)[0] == "vision"} == {
        0,
        2,
    }
    assert layers_of(even, "text") == (0, 1)
    assert all(even.deltas[n] is a.deltas[n] for n in even.deltas)
    q = keep(a, [1], "q", tower="text")
    assert [n for n in q.deltas if site_of(n)[0] == "text"] == [hf_name("text", 1, "q")]
    assert layers_of(q) == (0, 1, 2)
    kinds = lambda x: {site_of(n)[2] for n in x.deltas if site_of(n)[0] == "vision"}  # noqa: E731
    assert kinds(keep(a, kinds="fc1")) == {"fc1"}
    assert kinds(keep(a, kinds=("q", "out"))) == {"q", "out"}
    assert layers_of(keep(keep(a, "even"), "even")) == (
        0,
        2,
    )  # a preset counts layers, not what is left of them
    text_q = keep(a, kinds="q", tower="text")
    for bad, message in (
        ({"layers": [3]}, "no layer 3"),
        ({"kinds": "w"}, "of kind 'w'"),
        ({"kinds": "fc2", "tower": "text"}, "of kind 'fc2' in the text tower; it has q$"),
        ({"layers": "all"}, "unknown preset"),
        ({"tower": "audio"}, "no site in"),
    ):
        with pytest.raises(ValueError, match=message):
            keep(text_q, **bad)


def test_the_best_layers_stay():
    a = random_adapter(tiny_clip())
    worth = {0: 0.1, 1: -0.3, 2: 0.1}
    assert [layers_of(keep_best(a, worth, k)) for k in range(4)] == [(), (0,), (0, 2), (0, 1, 2)]
    assert layers_of(keep_best(a, {layer: -v for layer, v in worth.items()}, 1)) == (1,)
    assert keep_best(a, worth, 3) == a
    assert layers_of(keep_best(a, {0: 1.0, 1: 2.0}, 1, "text"), "text") == (1,)
    size = magnitudes(a)
    whole = sum(
        d.delta().square().sum().item() for n, d in a.deltas.items() if site_of(n)[0] == "vision"
    )
    assert sum(v * v for v in size.values()) == pytest.approx(whole, rel=1e-5)
    assert magnitudes(keep(a, [1]))[1] == size[1]
    for count, bad, message in (
        (4, worth, "0 to 3"),
        (-1, worth, "0 to 3"),
        (1, {0: 1.0}, "each of the layers"),
        (1, worth | {2: np.nan}, "finite"),
    ):
        with pytest.raises(ValueError, match=message):
            keep_best(a, bad, count)


def test_a_layer_that_is_pruned_shows_the_base():
    clip = tiny_clip()
    bench, a = (
        Bench(clip, tiny_task(), precision="float32"),
        random_adapter(clip, towers=("vision",), size=0.4),
    )
    assert torch.equal(bench.logits(keep(a, [])), bench.logits())
    assert torch.equal(bench.logits(sparsify(a, 1.0)), bench.logits())
    assert not torch.equal(bench.logits(keep(a, [1])), bench.logits())


@pytest.mark.slow
@given(
    st.floats(0, 1),
    st.sampled_from(("factors", "delta")),
    st.sampled_from(("adapter", "layer", "site")),
)
def test_sparsity_is_what_was_asked_for_and_the_largest_stay(share, of, within):
    a = random_adapter(tiny_clip(), towers=("vision",), rank=2)
    pruned = sparsify(a, share, of, within)
    for half in ("A", "B") if of == "factors" else ("delta",):

        def entries(x, half=half):
            return torch.cat(
                [
                    (d.delta() if half == "delta" else getattr(d, half)).flatten()
                    for d in x.deltas.values()
                ]
            )

        before, after = entries(a), entries(pruned)
        kept = after != 0
        groups = {"adapter": 1, "layer": 3, "site": len(a)}[within]
        assert abs(int(kept.sum()) - (1 - share) * len(before)) <= 0.5 * groups + 1e-6
        torch.testing.assert_close(after[kept], before[kept])
        if within == "adapter" and kept.any() and not kept.all():
            assert before[kept].abs().min() >= before[~kept].abs().max() - 1e-6


def test_sparsify_at_its_ends_and_bad_input():
    a = random_adapter(tiny_clip())
    assert sparsify(a, 0.0) is a
    assert sparsity(sparsify(a, 1.0)) == 1
    assert sparsity(Adapter({})) == 0
    # In each layer by itself: where layer 0 is ten times as large, half of it goes all the same.
    low, high = (
        random_adapter(tiny_clip(), kinds="q").deltas[hf_name("vision", i, "q")] for i in (0, 1)
    )
    uneven = Adapter(
        {
            hf_name("vision", 0, "q"): replace(low, B=10 * low.B, A=10 * low.A),
            hf_name("vision", 1, "q"): high,
        }
    )
    for d in sparsify(uneven, 0.5, within="layer").deltas.values():
        assert (d.A == 0).float().mean() == pytest.approx(0.5, abs=0.01)
    assert sparsity(sparsify(a, 0.8)) == pytest.approx(0.8, abs=1e-3)
    for bad in (-0.1, 1.1, float("nan")):
        with pytest.raises(ValueError, match="sparsity"):
            sparsify(a, bad)
    with pytest.raises(ValueError, match="of must be one of"):
        sparsify(a, 0.5, "weights")
    with pytest.raises(ValueError, match="not a matrix"):
        keep(Adapter({"lm_head": LowRank(torch.ones(1, 1), torch.ones(1, 1))}))
