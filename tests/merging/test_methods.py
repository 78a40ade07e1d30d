"""What each merge means: by hand, at its limits, and against dense matrices in numpy and scipy."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2
from scipy.linalg import polar, subspace_angles
from scipy.optimize import approx_fprime

from copra_lab.adapters import Adapter, LowRank, from_delta
from copra_lab.adapters.loading import load_adapter
from copra_lab.adapters.peft_folder import save_adapter
from copra_lab.merging import (
    breadcrumbs,
    cart,
    consensus,
    core_ties,
    dare,
    dare_sum,
    della,
    emr,
    emr_tasks,
    fisher,
    in_core,
    in_knots,
    interpolate,
    iso_c,
    iso_cts,
    knots_ties,
    lego,
    magprune,
    merge,
    model_stock,
    regmean,
    slerp,
    task_arithmetic,
    ties,
    tsv_m,
    weighted_sum,
    wudi,
)
from copra_lab.models import hf_name
from copra_lab.pruning import sparsify

SITE, OTHER = hf_name("vision", 0, "q"), hf_name("vision", 1, "q")
SHAPES = {SITE: (12, 10), OTHER: (9, 14)}


def adapter(seed: int, rank: int = 2, sites=(SITE, OTHER), size: float = 0.3) -> Adapter:
    g = torch.Generator().manual_seed(seed)
    pairs = {}
    for n in sites:
        a, b = (size * torch.randn(rank, SHAPES[n][i], generator=g) for i in (1, 0))
        pairs[n] = LowRank(a, b.T.contiguous(), 0.7)
    return Adapter(pairs)


def one(matrix) -> Adapter:
    return Adapter({SITE: from_delta(torch.tensor(matrix, dtype=torch.float32))})


def dense(x: Adapter, site: str = SITE) -> np.ndarray:
    return x.deltas[site].delta().double().numpy()


def close(x: Adapter, other: Adapter | dict, atol: float = 1e-5) -> None:
    """The same sites with the same ΔW; of the other dense matrices will do."""
    theirs = other.deltas if isinstance(other, Adapter) else other
    assert set(x.deltas) == set(theirs)
    for n in x.deltas:
        y = dense(other, n) if isinstance(other, Adapter) else other[n]
        np.testing.assert_allclose(dense(x, n), y, atol=atol)


SEEDS = st.lists(st.integers(0, 50), min_size=1, max_size=4, unique=True)
RANKS = st.integers(1, 3)


# --- angles ------------------------------------------------------------------------------------


def test_slerp_by_hand():
    a, b = one([[3.0, 0.0]]), one([[0.0, 1.0]])
    # a right angle: at the middle both at √½, at the norm between 3 and 1
    np.testing.assert_allclose(dense(slerp([a, b])), [[2 * 0.5**0.5] * 2], atol=1e-6)
    at = slerp([a, b], 1 / 3)  # 30° on the way, norm 7/3
    np.testing.assert_allclose(dense(at), [[7 / 3 * 0.75**0.5, 7 / 6]], atol=1e-6)


@pytest.mark.slow
@given(st.floats(0, 1), RANKS, RANKS, st.booleans())
def test_slerp_has_the_ends_and_the_norm_between_them(weight, rank, other, whole):
    a, b = adapter(1, rank), adapter(2, other, size=0.5)
    way = slerp([a, b], weight, whole)
    for end, x in ((0.0, a), (1.0, b)):
        close(slerp([a, b], end, whole), x)

    def norm(x: Adapter, sites) -> float:
        return sum((dense(x, n) ** 2).sum() for n in sites) ** 0.5

    for sites in [(SITE, OTHER)] if whole else [(SITE,), (OTHER,)]:
        expected = (1 - weight) * norm(a, sites) + weight * norm(b, sites)
        assert norm(way, sites) == pytest.approx(expected, rel=1e-5)
        if 0.01 < weight < 0.99:  # the angles add up
            x, y, z = (np.concatenate([dense(q, n).ravel() for n in sites]) for q in (a, b, way))

            def angle(p, q):
                return np.arccos(p @ q / np.linalg.norm(p) / np.linalg.norm(q))

            assert angle(x, z) == pytest.approx(weight * angle(x, y), rel=1e-3, abs=1e-4)


def test_slerp_of_one_direction_is_the_line_and_of_opposite_ones_nothing():
    a = adapter(1)
    close(slerp([a, task_arithmetic([a], 3.0)], 0.25), task_arithmetic([a], 1.5))
    close(slerp([a, Adapter({})], 0.25), task_arithmetic([a], 0.75))
    for whole in (False, True):
        with pytest.raises(ValueError, match="opposite directions"):
            slerp([a, task_arithmetic([a], -1.0)], 0.25, whole)
    with pytest.raises(ValueError, match="two adapters, got 3"):
        slerp([a, a, a])


def test_model_stock_is_the_mean_of_what_agrees_and_the_base_of_what_does_not():
    a, b = one([[2.0, 0.0], [0.0, 0.0]]), one([[0.0, 0.0], [0.0, 5.0]])
    close(model_stock([a, a, a]), a)
    close(model_stock([a, b]), {SITE: np.zeros((2, 2))})
    close(model_stock([a, task_arithmetic([a], -1.0)]), {SITE: np.zeros((2, 2))})
    # 60° apart: c = ½, so ρ = 2·½/(½ + 1) = ⅔ of the mean
    c = one([[1.0, 0.0], [0.0, 3**0.5]])
    close(model_stock([a, c]), task_arithmetic([a, c], 1 / 3))


@pytest.mark.slow
@given(SEEDS)
def test_model_stock_against_dense_angles(seeds):
    adapters = [adapter(s, 1 + s % 3) for s in seeds]
    k, expected = len(adapters), {}
    for n in SHAPES:
        x = np.stack([dense(a, n).ravel() for a in adapters])
        cos = np.corrcoef(np.hstack([x, -x]))  # centred by its mirror image
        c = (cos.sum() - k) / (k * (k - 1)) if k > 1 else 1.0
        c = max(c, 0.0)
        expected[n] = k * c / ((k - 1) * c + 1) * x.mean(0).reshape(SHAPES[n])
    close(model_stock(adapters), expected)


# --- entries -----------------------------------------------------------------------------------


def test_breadcrumbs_by_hand():
    a = one([[9.0, -1.0, 2.0, 0.1], [-3.0, 0.2, 4.0, -0.3]])
    # of eight entries one is too large, and four of the others stay
    kept = np.array([[0, -1.0, 2, 0], [-3, 0, 4, 0]])
    close(breadcrumbs([a], 0.5, 0.125, 1.0), {SITE: kept})
    close(breadcrumbs([a, a], 0.5, 0.125, 0.25), {SITE: kept / 2})
    with pytest.raises(ValueError, match="at most 1 together"):
        breadcrumbs([a], 0.9, 0.2)


@pytest.mark.slow
@given(st.floats(0.01, 1), SEEDS)
def test_breadcrumbs_that_keep_large_entries_are_magnitude_pruning(density, seeds):
    adapters = [adapter(s) for s in seeds]
    pruned = [sparsify(a, 1 - density, of="delta", within="site") for a in adapters]
    kept = {n: sum(dense(p, n) for p in pruned) for n in SHAPES}
    crumbs = breadcrumbs(adapters, density, 0.0, 1.0)
    for n, expected in kept.items():  # both round the number of entries, at a half either way
        differs = np.abs(dense(crumbs, n) - expected) > 1e-5
        assert differs.sum() <= len(adapters)


def test_dare_and_a_sum():
    a, b = adapter(1), adapter(2)
    g = torch.Generator().manual_seed(3)
    found = dare_sum([a, b], 0.75, 0.5, seed=3)
    close(found, task_arithmetic([dare(x, 0.75, g) for x in (a, b)], 0.5))
    assert {n: d.rank for n, d in found.deltas.items()} == {n: min(s) for n, s in SHAPES.items()}


def test_della_without_epsilon_is_dare_and_signs():
    a, b = adapter(1), adapter(2)
    g, h = (torch.Generator().manual_seed(3) for _ in range(2))
    close(magprune(a, 0.75, 0.0, g), dare(a, 0.25, h))
    g = torch.Generator().manual_seed(3)
    expected = ties([dare(x, 0.25, g) for x in (a, b)], 1.0, 2.0)
    close(della([a, b], 0.75, 0.0, 2.0, seed=3), expected)
    for density, epsilon in ((0.1, 0.1), (0.95, 0.1)):
        with pytest.raises(ValueError, match="density ± epsilon"):
            della([a], density, epsilon)


@pytest.mark.slow
def test_della_keeps_large_entries_more_often_and_the_delta_on_average():
    a = one([[1.0, -4.0, 2.0], [0.5, 0.1, -0.2]])
    g, n = torch.Generator().manual_seed(0), 4000
    runs = np.stack([dense(magprune(a, 0.5, 0.3, g)) for _ in range(n)])
    p = np.array([[0.2, 0.8, 0.5], [0.8, 0.2, 0.5]])  # by rank in its own row
    assert (np.abs((runs != 0).mean(0) - p) <= 4.5 * np.sqrt(p * (1 - p) / n)).all()
    x = dense(a)
    assert (np.abs(runs.mean(0) - x) <= 4.5 * np.abs(x) * np.sqrt((1 / p - 1) / n)).all()
    close(magprune(one([[2.0], [1.0]]), 1.0, 0.0, g), one([[2.0], [1.0]]))


def test_consensus_by_hand():
    a, b, c = one([[4.0, 1.0, 0.0]]), one([[2.0, 1.0, 0.0]]), one([[0.0, -1.9, 7.0]])
    # sums 6, 0.1, 7. Entry 0: a has 4 ≥ ½·2 and b 2 ≥ ½·4, kept; entry 1: 1 ≥ ½·0.9 twice and 1.9
    # ≥ ½·2, kept; entry 2: c alone (the others' zeros use nothing), dropped
    close(consensus([a, b, c], 0.5, 2, 1.0), {SITE: np.array([[6, 0.1, 0]])})
    close(consensus([a, b, c], 0.5, 1, 1.0), {SITE: np.array([[6, 0.1, 7]])})
    close(consensus([a, b, c], 0.5, 3, 1.0), {SITE: np.array([[0, 0.1, 0]])})
    close(consensus([a, b, c], 1e9, 2, 1.0), {SITE: np.zeros((1, 3))})
    close(consensus([a], 0.5, 2, 0.5), task_arithmetic([a], 0.5))


def test_emr_by_hand():
    a, b = one([[1.0, -2.0], [3.0, 1.0]]), one([[2.0, 1.0], [-4.0, 0.0]])
    # signs of the sums + − − +; the largest that has each
    close(emr([a, b]), {SITE: np.array([[2.0, -2.0], [-4.0, 1.0]])})
    close(emr([a, b], 0.5), {SITE: np.array([[1.0, -1.0], [-2.0, 0.5]])})
    one_, two = emr_tasks([a, b])
    # a agrees with 2, −2 and 1, of sum 5, and has 1 + 2 + 3 + 1 = 7; b with 2 and −4, of sum 6, and
    # has 2 + 1 + 4 = 7
    close(one_, {SITE: 7 / 5 * np.array([[2.0, -2.0], [0.0, 1.0]])})
    close(two, {SITE: 7 / 6 * np.array([[2.0, 0.0], [-4.0, 0.0]])})
    close(emr_tasks([a])[0], a)
    close(emr_tasks([a, Adapter({})])[1], {SITE: np.zeros((2, 2))})


# --- other coordinates -------------------------------------------------------------------------


@pytest.mark.slow
@given(SEEDS, RANKS)
def test_a_sum_is_a_sum_in_any_coordinates(seeds, rank):
    adapters = [adapter(s, rank, (SITE,) if s % 4 == 3 else (SITE, OTHER)) for s in seeds]
    plain = weighted_sum(adapters, [1.0] * len(adapters))
    for frame in (in_core, in_knots):
        close(frame(task_arithmetic)(adapters, scale=1.0), plain)
        close(frame(weighted_sum)(adapters), weighted_sum(adapters))


@pytest.mark.slow
@given(SEEDS, RANKS)
@settings(max_examples=25)
def test_merges_that_need_no_basis_are_the_same_in_the_core_and_rank_stays(seeds, rank):
    adapters = [adapter(s, rank) for s in seeds]
    for function in (tsv_m, iso_c, iso_cts, cart, wudi, model_stock):
        if len(seeds) * rank <= min(map(min, SHAPES.values())) or function is not tsv_m:
            parameters = {"share": 1.0} if function is cart else {}
            inside = in_core(function)(adapters, **parameters)
            close(inside, function(adapters, **parameters), 1e-4)
    for frame in (in_core, in_knots):
        for function in (ties, emr, breadcrumbs, della):
            result = frame(function)(adapters)
            assert all(d.rank <= len(seeds) * rank for d in result.deltas.values())
            assert result.provenance["merge"] == function.__name__
            assert result.provenance["of"] == [a.hash for a in adapters]
            assert result.provenance["scale"] == function(adapters).provenance["scale"]


def test_ties_in_the_core_and_in_knots_against_dense_matrices():
    adapters = [adapter(s, 1 + s) for s in (0, 1)]

    def elected(xs, density):
        flat = np.stack([np.concatenate([x.ravel() for x in own]) for own in xs])
        for row in flat:
            row[np.argsort(-np.abs(row))[round(density * len(row)) :]] = 0
        agree = (np.sign(flat) == np.sign(flat.sum(0))) & (flat != 0)
        found = (flat * agree).sum(0) / np.maximum(agree.sum(0), 1)
        cuts = np.cumsum([x.size for x in xs[0]])[:-1]
        return [p.reshape(x.shape) for p, x in zip(np.split(found, cuts), xs[0], strict=True)]

    us, vs = [], []
    for n in SHAPES:
        us.append(np.linalg.svd(np.hstack([dense(a, n) for a in adapters]))[0][:, :3])
    inside = [[u.T @ dense(a, n) for u, n in zip(us, SHAPES, strict=True)] for a in adapters]
    back = dict(zip(SHAPES, elected(inside, 0.3), strict=True))
    close(knots_ties(adapters, 0.3), {n: u @ back[n] for u, n in zip(us, SHAPES, strict=True)})

    us = []
    for n in SHAPES:  # the factors balanced by an SVD of their own
        found = [np.linalg.svd(dense(a, n)) for a in adapters]
        cut = [(u[:, : i + 1], s[: i + 1], v[: i + 1]) for i, (u, s, v) in enumerate(found)]
        us.append(np.linalg.svd(np.hstack([u * s**0.5 for u, s, _ in cut]))[0][:, :3])
        vs.append(np.linalg.svd(np.hstack([v.T * s**0.5 for _, s, v in cut]))[0][:, :3])
    frames = list(zip(us, vs, SHAPES, strict=True))
    inside = [[u.T @ dense(a, n) @ v for u, v, n in frames] for a in adapters]
    back = dict(zip(SHAPES, elected(inside, 0.3), strict=True))
    close(core_ties(adapters, 0.3), {n: u @ back[n] @ v.T for u, v, n in frames})


def test_a_merge_in_the_core_is_saved_and_read_as_a_lora(tmp_path):
    result = in_core(ties)([adapter(1), adapter(2)])
    save_adapter(result, tmp_path)
    read = load_adapter(tmp_path)
    assert read.rank <= 4
    close(read, result)


# --- singular values ---------------------------------------------------------------------------


@pytest.mark.slow
@given(SEEDS, RANKS)
def test_tsv_against_a_polar_decomposition(seeds, rank):
    adapters = [adapter(s, rank) for s in seeds]
    expected = {}
    for n, shape in SHAPES.items():
        keep = rank if rank * len(seeds) <= min(shape) else min(shape) // len(seeds)
        found = [np.linalg.svd(dense(a, n)) for a in adapters]
        u = np.hstack([f[0][:, :keep] for f in found])
        v = np.hstack([f[2][:keep].T for f in found])
        s = np.concatenate([f[1][:keep] for f in found])
        expected[n] = polar(u)[0] * s @ polar(v)[0].T
        # with orthonormal vectors, the singular values are those of the tasks
        values = np.linalg.svd(dense(tsv_m(adapters), n))[1][: len(s)]
        np.testing.assert_allclose(values, np.sort(s)[::-1], atol=1e-5)
    close(tsv_m(adapters), expected)


def test_tsv_of_tasks_that_share_no_direction_is_the_sum():
    a, b = one([[2.0, 0, 0], [0, 0, 0]]), one([[0, 0, 0], [0, 0, 3.0]])
    close(tsv_m([a, b]), weighted_sum([a, b], [1.0, 1.0]))


@pytest.mark.slow
@given(SEEDS, RANKS)
def test_iso_makes_what_is_there_equal_and_adds_nothing(seeds, rank):
    adapters = [adapter(s, rank) for s in seeds]
    flat = iso_c(adapters)
    for n, shape in SHAPES.items():
        total = sum(dense(a, n) for a in adapters)
        k = min(rank * len(seeds), *shape)
        s = np.linalg.svd(total)[1]
        values = np.linalg.svd(dense(flat, n))[1]
        np.testing.assert_allclose(values, [s[:k].mean()] * k + [0] * (min(shape) - k), atol=1e-5)
        for x, y in ((dense(flat, n), total), (dense(flat, n).T, total.T)):
            if k < min(shape):
                span = [np.linalg.svd(z)[0][:, :k] for z in (x, y)]
                assert subspace_angles(*span).max() < 1e-3
    close(iso_cts(adapters, 1.0), flat)


def test_iso_does_not_see_padding():
    a, b = adapter(1), adapter(2)
    padded = [
        Adapter(
            {
                n: LowRank(
                    torch.cat([d.A, torch.ones(3, d.shape[1])]),
                    torch.cat([d.B, torch.zeros(d.shape[0], 3)], dim=1),
                    d.scale,
                )
                for n, d in x.deltas.items()
            }
        )
        for x in (a, b)
    ]
    for function in (iso_c, iso_cts, tsv_m, cart, lego):
        parameters = {"clusters": 2} if function is lego else {}
        close(function(padded, **parameters), function([a, b], **parameters))


def test_iso_cts_against_dense_matrices():
    adapters, fraction = [adapter(s, 3) for s in (1, 2)], 0.5
    expected = {}
    for n in SHAPES:
        total = sum(dense(a, n) for a in adapters)
        u, s, v = np.linalg.svd(total)
        us, ss, vs = [u[:, :3]], [s[:3]], [v[:3].T]
        for a in adapters:
            p, t, q = np.linalg.svd(dense(a, n) - u[:, :3] @ u[:, :3].T @ dense(a, n))
            us, ss, vs = [*us, p[:, :1]], [*ss, t[:1]], [*vs, q[:1].T]
        left, right = (polar(np.hstack(x))[0] for x in (us, vs))
        expected[n] = np.concatenate(ss).mean() * left @ right.T
    close(iso_cts(adapters, fraction), expected)


@pytest.mark.slow
@given(SEEDS, st.floats(-1, 2))
def test_cart_at_its_limits(seeds, strength):
    adapters = [adapter(s) for s in seeds]
    t, mean = len(adapters), weighted_sum(adapters)
    close(cart(adapters, 0.0, strength), mean)
    whole = weighted_sum(
        [*adapters, mean], [strength] * t + [1 - strength * t]
    )  # sum − (T − 1)·mean at 1
    close(cart(adapters, 1.0, strength), whole)
    close(cart(adapters, 1.0, 1.0), weighted_sum([*adapters, mean], [1.0] * t + [1.0 - t]))
    expected = {}
    for n, shape in SHAPES.items():
        middle = np.mean([dense(a, n) for a in adapters], axis=0)
        expected[n], k = middle.copy(), int(np.ceil(0.25 * min(shape)))
        for a in adapters:
            u, s, v = np.linalg.svd(dense(a, n) - middle)
            expected[n] += strength * (u[:, :k] * s[:k]) @ v[:k]
    close(cart(adapters, 0.25, strength), expected)


# --- least squares -----------------------------------------------------------------------------


def grams(count: int, seed: int = 0, sites=SHAPES) -> list[dict]:
    rng = np.random.default_rng(seed)
    inputs = [{n: rng.standard_normal((40, SHAPES[n][1])) for n in sites} for _ in range(count)]
    return [{n: torch.tensor(x.T @ x) for n, x in own.items()} for own in inputs], inputs


def test_regmean_is_the_least_squares_optimum():
    adapters = [adapter(s) for s in (1, 2, 3)]
    given_, inputs = grams(3)
    found = regmean(adapters, given_, keep=1.0, ridge=1e-12)
    assert found.rank == 6
    for n in SHAPES:
        x = np.vstack([own[n] for own in inputs])
        y = np.vstack([own[n] @ dense(a, n).T for own, a in zip(inputs, adapters, strict=True)])
        np.testing.assert_allclose(dense(found, n).T, np.linalg.lstsq(x, y)[0], atol=1e-5)


@pytest.mark.slow
@given(SEEDS, st.floats(0, 1), st.floats(1e-9, 1))
def test_regmean_of_equal_grams_is_the_mean_and_of_none_too(seeds, keep, ridge):
    adapters = [adapter(s) for s in seeds]
    (own,), _ = grams(1)
    close(regmean(adapters, [own] * len(seeds), keep, ridge), weighted_sum(adapters))
    nothing = {n: torch.zeros_like(g) for n, g in own.items()}
    close(regmean(adapters, [nothing] * len(seeds), keep, ridge), weighted_sum(adapters))


def test_regmean_multiplies_what_is_off_the_diagonal():
    adapters, (given_, _) = [adapter(1), adapter(2)], grams(2)
    shrunk = [{n: g * (0.3 + 0.7 * torch.eye(len(g))) for n, g in own.items()} for own in given_]
    close(regmean(adapters, given_, keep=0.3), regmean(adapters, shrunk, keep=1.0))


def test_fisher_by_hand_and_at_its_limits():
    a, b = one([[2.0, 8.0]]), one([[4.0, 0.0]])
    f, g = {SITE: torch.tensor([[1.0, 3.0]])}, {SITE: torch.tensor([[3.0, 1.0]])}
    close(fisher([a, b], [f, g]), {SITE: np.array([[3.5, 6.0]])})
    close(fisher([a, b], [f, f]), weighted_sum([a, b]))
    large = {SITE: 100 * f[SITE]}
    close(fisher([a, b], [large, g]), fisher([a, b], [f, g]))  # each has mean 1
    close(
        fisher([a, b], [large, g], normalised=False),
        {SITE: np.array([[212 / 103, 2400 / 301]])},
    )
    none = {SITE: torch.zeros(1, 2)}
    close(fisher([a, b], [f, none], floor=1e-9), a, 1e-4)
    close(fisher([a, b], [none, none]), weighted_sum([a, b]))


@pytest.mark.slow
@given(SEEDS, RANKS)
@settings(max_examples=30)
def test_wudi_is_where_the_gradient_is_zero(seeds, rank):
    adapters = [adapter(s, rank) for s in seeds]
    found = wudi(adapters)
    for n in SHAPES:
        m, xs = dense(found, n), [dense(a, n) for a in adapters]
        terms = [2 * (m - x) @ x.T @ x / (x**2).sum() for x in xs]
        assert np.abs(sum(terms)).max() < 1e-5 * max(1.0, max(np.abs(t).max() for t in terms))
        rows = np.linalg.svd(np.vstack(xs))[2][: rank * len(seeds)]
        np.testing.assert_allclose(
            m @ rows.T @ rows, m, atol=1e-4
        )  # nothing beyond the tasks' rows
    if len(seeds) == 1:
        close(found, adapters[0])


def test_the_gradient_of_wudi_is_that_of_its_loss():
    xs = [dense(adapter(s)) for s in (1, 2)]
    m = dense(adapter(3))

    def loss(flat):
        return sum((((flat.reshape(m.shape) - x) @ x.T) ** 2).sum() / (x**2).sum() for x in xs)

    by_hand = sum(2 * (m - x) @ x.T @ x / (x**2).sum() for x in xs)
    np.testing.assert_allclose(approx_fprime(m.ravel(), loss), by_hand.ravel(), atol=1e-4)


# --- units -------------------------------------------------------------------------------------


@pytest.mark.slow
@given(SEEDS, RANKS)
def test_lego_with_all_units_is_the_sum(seeds, rank):
    adapters = [adapter(s, rank) for s in seeds]
    plain = weighted_sum(adapters, [1.0] * len(seeds))
    for clusters in (rank * len(seeds), 99):
        close(lego(adapters, clusters), plain)
    assert lego(adapters).rank == rank
    assert lego(adapters, 1).rank == 1


def test_lego_puts_units_together_that_are_alike():
    a = one([[4.0, 0, 0], [0, 1.0, 0], [0, 0, 0]])
    b = one([[0, 0, 0], [0, 1.0, 0], [0, 0, 9.0]])
    found = lego([a, b], 3)
    # the second unit is in both: one rank; the others are apart
    close(found, {SITE: np.diag([4.0, 1.0, 9.0])})
    assert found.rank == 3


def test_lego_against_k_means_of_scipy():
    rng = np.random.default_rng(0)
    centres = np.eye(3)[:, :, None] * np.eye(3)[:, None, :]  # three units far apart
    xs = []
    for _ in range(4):
        u, v = (np.linalg.qr(np.eye(3) + 0.05 * rng.standard_normal((3, 3)))[0] for _ in range(2))
        u, v = u * np.sign(np.diag(u)), v * np.sign(np.diag(v))
        xs.append((u * [3.0, 2.0, 1.0]) @ v.T)
    found = dense(lego([one(x) for x in xs], 3))
    units = []
    for x in xs:
        u, s, v = np.linalg.svd(x)
        signs = np.sign(np.diag(u))
        units += list(np.hstack([(u * signs).T, (v.T * signs).T]) * np.sqrt(s)[:, None])
    start = np.array([np.hstack([c.sum(1), c.sum(0)]) for c in centres])
    start *= np.sqrt([[3.0], [2.0], [1.0]])
    means, labels = kmeans2(np.array(units), start, minit="matrix")
    norms = np.linalg.norm(units, axis=1)
    total = np.zeros((3, 3))
    for i, m in enumerate(means):
        m = m / np.linalg.norm(m) * norms[labels == i].mean()
        total += np.outer(m[:3], m[3:])
    np.testing.assert_allclose(found, total, atol=1e-5)


# --- all ---------------------------------------------------------------------------------------


def test_the_table_gives_what_the_functions_give():
    a, b = adapter(1), adapter(2)
    assert merge("ties", [a, b], density=0.5) == ties([a, b], 0.5)
    assert merge("sum", [a, b]) == weighted_sum([a, b], [0.5, 0.5])
    assert merge("slerp", [a, b], weight=0.0).provenance["made by"] == "slerp"
    assert merge("aligned", [a, a]) != merge("factors", [a, a])
    close(merge("slerp", [a, b], weight=1.0), interpolate(a, b, 1.0))
