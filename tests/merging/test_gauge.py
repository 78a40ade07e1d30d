"""Alignment: it changes no ΔW, and makes an average of factors one of the deltas alone."""

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.linalg import orthogonal_procrustes
from tiny import random_adapter, tiny_clip, tiny_task
from torch import Tensor

from copra_lab.adapters import Adapter, LowRank, from_delta
from copra_lab.bench import Bench
from copra_lab.merging import (
    SPACES,
    align,
    align_all,
    average_factors,
    balance,
    interpolate,
    interpolate_aligned,
    ties,
    truncate,
    weighted_sum,
)

CLIP = tiny_clip()
A, B, C, D = (random_adapter(CLIP, seed=s, towers=("vision",), kinds="q") for s in range(4))
SITE = next(iter(A.deltas))


def gauged(adapter: Adapter, seed: int, worst: float = 10.0) -> Adapter:
    """(B·P, P⁻¹·A) at each site, with another P, whose singular values are 1/worst to worst."""
    g = torch.Generator().manual_seed(seed)
    deltas = {}
    for name, d in adapter.deltas.items():
        left, right = (
            torch.linalg.qr(torch.randn(d.rank, d.rank, generator=g).double()).Q for _ in range(2)
        )
        sizes = worst ** (2 * torch.rand(d.rank, generator=g).double() - 1)
        p, inverse = left * sizes @ right, right.T / sizes @ left.T
        deltas[name] = LowRank(
            (inverse @ d.A.double()).float(), (d.B.double() @ p).float(), d.scale
        )
    return Adapter(deltas, adapter.base)


def close(one: Adapter, other: Adapter, rtol: float = 1e-5) -> None:
    """The same ΔW, up to a share of its norm."""
    assert set(one.deltas) == set(other.deltas)
    for n, d in one.deltas.items():
        x, y = d.delta(), other.deltas[n].delta()
        assert (x - y).norm() <= rtol * max(x.norm(), y.norm())


def stacked(d: LowRank) -> Tensor:
    """B over Aᵀ, (out + in, r)."""
    return torch.cat([d.B, d.A.T])


def apart(adapters: Sequence[Adapter], site: str = SITE) -> float:
    """Σ‖Xᵢ − M‖² of what `align_all` makes as alike as it can."""
    x = torch.stack([stacked(a.deltas[site]) for a in adapters]).double()
    return float((x - x.mean(0)).square().sum())


# --- what alignment leaves as it is


@pytest.mark.parametrize(
    "turn", [balance, lambda a: align(a, B), lambda a: align_all([B, a, C])[1]]
)
@pytest.mark.parametrize("scale", [0.7, 1.0, -2.0])
def test_no_delta_changes_and_the_rank_is_kept(turn, scale):
    a = Adapter({n: LowRank(d.A, d.B, scale) for n, d in A.deltas.items()}, A.base)
    turned = turn(a)
    close(turned, a)
    for n, d in turned.deltas.items():
        assert (d.rank, d.scale, d.shape) == (a.deltas[n].rank, 1.0, a.deltas[n].shape)
        torch.testing.assert_close(d.B.T @ d.B, d.A @ d.A.T, atol=1e-6, rtol=1e-4)  # balanced
    assert turned.base == a.base
    assert turned.provenance["of"] == [a.hash]


def test_balanced_factors_stay_as_they_are():
    once = balance(A)
    for n, d in balance(once).deltas.items():
        torch.testing.assert_close(stacked(d), stacked(once.deltas[n]), atol=1e-6, rtol=1e-5)
    # Any rotation of them is balanced, too.
    q = torch.linalg.qr(torch.randn(3, 3, generator=torch.Generator().manual_seed(0))).Q
    turned = Adapter({n: LowRank(q.T @ d.A, d.B @ q) for n, d in once.deltas.items()})
    for n, d in balance(turned).deltas.items():
        torch.testing.assert_close(stacked(d), stacked(turned.deltas[n]), atol=1e-6, rtol=1e-5)


def test_aligned_to_itself_is_itself_and_so_is_another_gauge_of_it():
    for other in (A, gauged(A, 1)):
        for n, d in align(other, A).deltas.items():
            torch.testing.assert_close(
                stacked(d), stacked(balance(A).deltas[n]), atol=1e-5, rtol=1e-4
            )


# --- against algebra, SciPy and a search


def test_the_middle_differs_from_that_of_the_deltas_by_a_quarter_of_a_product():
    one, two = align_all([A, B])
    fusion, mixture = interpolate_aligned(A, B, 0.5), interpolate(A, B, 0.5)
    for n, d in one.deltas.items():
        gap = -(d.B - two.deltas[n].B) @ (d.A - two.deltas[n].A) / 4
        found = fusion.deltas[n].delta() - mixture.deltas[n].delta()
        torch.testing.assert_close(found, gap, atol=1e-6, rtol=1e-4)


def test_the_rotation_is_that_of_orthogonal_procrustes():
    fixed, moving = (stacked(balance(x).deltas[SITE]) for x in (A, B))
    p, _ = orthogonal_procrustes(moving.double().numpy(), fixed.double().numpy())
    expected = moving.double() @ torch.from_numpy(p)
    torch.testing.assert_close(stacked(align(B, A).deltas[SITE]), expected.float())
    one, two = align_all([A, B])
    assert apart([one, two]) == pytest.approx(apart([balance(A), align(B, A)]), rel=1e-5)


def test_no_random_rotations_do_better_than_those_of_the_mean():
    aligned = align_all([A, B, C, D])
    best = apart(aligned)
    g = torch.Generator().manual_seed(0)
    for size in (1e-2, 1e-1, 1.0):
        for _ in range(20):
            moved = []
            for a in aligned:
                d = a.deltas[SITE]
                step = size * torch.randn(3, 3, generator=g)
                q = torch.matrix_exp(step - step.T)
                moved.append(Adapter({SITE: LowRank(q.T @ d.A, d.B @ q)}))
            assert apart(moved) >= best * (1 - 1e-6)


def test_no_sweep_drives_them_apart_and_all_beat_each_to_the_first(monkeypatch):
    from copra_lab.merging import gauge

    found = []
    for sweeps in (1, 2, 3, 10, 100):
        monkeypatch.setattr(gauge, "SWEEPS", sweeps)
        found.append(apart(align_all([A, B, C, D])))
    # Up to float32's rounding, which is larger than what the last sweeps gain.
    assert found == pytest.approx(sorted(found, reverse=True), rel=1e-6)
    assert found[-1] < apart([balance(A), *(align(x, A) for x in (B, C, D))])


# --- one model, whatever its gauge


@settings(max_examples=25)
@given(st.integers(0, 10**6), st.integers(0, 10**6), st.floats(-0.5, 1.5))
def test_the_aligned_line_does_not_know_the_gauge(one, two, weight):
    line = interpolate_aligned(A, B, weight)
    close(interpolate_aligned(gauged(A, one), gauged(B, two), weight), line, rtol=2e-4)


@settings(max_examples=8)
@given(st.permutations(range(4)), st.integers(0, 10**6))
def test_the_aligned_mean_knows_neither_gauge_nor_order(order, seed):
    mean = average_factors([A, B, C, D], [0.1, 0.2, 0.3, 0.4], aligned=True)
    parts = [gauged((A, B, C, D)[i], seed + i) for i in order]
    again = average_factors(parts, [(i + 1) / 10 for i in order], aligned=True)
    close(again, mean, rtol=1e-3)


def test_two_gauges_of_one_adapter_average_to_it_and_without_alignment_do_not():
    parts = [A, gauged(A, 1), gauged(A, 2)]
    close(average_factors(parts, aligned=True), A, rtol=1e-4)
    plain = average_factors(parts).deltas[SITE].delta()
    assert (plain - A.deltas[SITE].delta()).norm() > 0.1 * plain.norm()


def test_the_line_ends_at_the_two_adapters_and_has_no_step_there():
    other = random_adapter(CLIP, seed=1, towers=("vision",), kinds="q", scale=0.1)
    for b in (B, other):
        assert interpolate_aligned(A, b, 0) == A
        assert interpolate_aligned(A, b, 1) == b
        close(interpolate_aligned(A, b, 1e-6), A, rtol=1e-4)
        close(interpolate_aligned(A, b, 1 - 1e-6), b, rtol=1e-4)
    close(interpolate_aligned(A, B, 0.3), interpolate_aligned(B, A, 0.7), rtol=1e-4)
    close(interpolate_aligned(A, B, -0.4), interpolate_aligned(B, A, 1.4), rtol=1e-4)
    assert interpolate_aligned(A, B, 0.5).rank == A.rank
    assert interpolate_aligned(A, B, 0.5).provenance["aligned"] is True
    assert "aligned" not in average_factors([A, B]).provenance


def test_the_line_is_straight_in_the_aligned_factors():
    one, two = align_all([A, B])
    for w in (-0.5, 0.25, 1.5):
        found, d, e = (x.deltas[SITE] for x in (interpolate_aligned(A, B, w), one, two))
        torch.testing.assert_close(
            found.delta(), ((1 - w) * d.B + w * e.B) @ ((1 - w) * d.A + w * e.A)
        )


def test_what_has_weight_zero_takes_no_part():
    expected = average_factors([A, B], [0.5, 0.5], aligned=True)
    close(average_factors([A, C, B], [0.5, 0, 0.5], aligned=True), expected)
    assert average_factors([A], [1], aligned=True) == A
    nothing = average_factors([A, B], [0, 0], aligned=True)
    assert not any(d.A.any() or d.B.any() for d in nothing.deltas.values())


# --- directions without size, and sizes that repeat


def finite(adapter: Adapter) -> bool:
    return all(bool(stacked(d).isfinite().all()) for d in adapter.deltas.values())


def test_directions_that_are_not_there_are_zero_and_everything_stays_finite():
    none = Adapter({n: LowRank(d.A, torch.zeros_like(d.B)) for n, d in A.deltas.items()}, A.base)
    assert not any(stacked(d).any() for d in balance(none).deltas.values())
    quarter = average_factors([A, none], aligned=True)  # halves of A and B
    close(quarter, weighted_sum([A], [0.25]))
    twice = weighted_sum([A, A], [0.5, 0.5])  # rank 6 in name, 3 in fact
    for turned in (balance(twice), align(twice, weighted_sum([B, C], [1, 1]))):
        close(turned, twice)
        assert turned.rank == 6
        assert finite(turned)
    assert (stacked(balance(twice).deltas[SITE]).norm(dim=0) > 0).sum() <= 6
    s = torch.linalg.svdvals(stacked(balance(twice).deltas[SITE]))
    assert (s > 0.01 * s[0]).sum() == 3
    close(average_factors([twice, gauged(twice, 5, worst=2)], aligned=True), twice, rtol=1e-3)
    wide = weighted_sum([A] * 20, [0.05] * 20)  # a rank above the width
    close(balance(wide), wide)
    assert balance(wide).rank == 60


def test_repeated_singular_values_make_no_difference():
    q = torch.linalg.qr(torch.randn(8, 8, generator=torch.Generator().manual_seed(1))).Q
    same, turned = (Adapter({SITE: LowRank(q[:3], q[:, 3:6])}), Adapter({SITE: from_delta(q)}))
    for a in (same, turned):
        close(average_factors([a, gauged(a, 3)], aligned=True), a, rtol=1e-4)
        assert align(a, a) == align(a, a)  # the same numbers each time
    dense = [ties([A, B]), ties([C, D])]
    assert finite(average_factors(dense, aligned=True))


# --- errors, and everything that offers a line


@pytest.mark.parametrize(
    "merge",
    [
        lambda a, b: align(a, b),
        lambda a, b: align_all([a, b]),
        lambda a, b: interpolate_aligned(a, b, 0.5),
    ],
)
def test_what_does_not_line_up_is_refused_with_its_remedy(merge):
    ranks, sites = truncate(A, 2), A.keep([SITE])
    with pytest.raises(ValueError, match=r"different ranks at .*; truncate, or interpolate"):
        merge(A, ranks)
    with pytest.raises(ValueError, match=r"different sites .*; interpolate the deltas"):
        merge(A, sites)
    with pytest.raises(ValueError, match="different bases"):
        merge(A, random_adapter(tiny_clip(1), towers=("vision",), kinds="q"))


def test_a_bench_walks_the_aligned_line():
    assert list(SPACES) == ["delta", "factors", "aligned"]
    bench = Bench(CLIP, tiny_task(), precision="float32")
    path = bench.path(A, B, (0.0, 0.5, 1.0), space="aligned")
    points = [A, interpolate_aligned(A, B, 0.5), B]
    assert list(path.accuracies) == bench.accuracies(points)
    with pytest.raises(ValueError, match="space must be one of delta, factors, aligned"):
        bench.path(A, B, space="gauge")
