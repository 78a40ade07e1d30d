"""Every merge of the table: what the table says of each holds, and where it says that an identity
fails, it does.
"""

import inspect
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import random_adapter, tiny_clip

from copra_lab.adapters import Adapter, LowRank, from_delta
from copra_lab.merging import MERGES, Parameter, merge, merge_names

CLIP = tiny_clip(layers=1)
A, B, C = (
    random_adapter(CLIP, rank=4, seed=s, towers=("vision",), kinds=("q", "fc1")) for s in range(3)
)
SITE = next(iter(A.deltas))
UNTRAINED = replace(A, deltas={n: replace(d, B=0 * d.B) for n, d in C.deltas.items()})
SEPARATE = pytest.mark.parametrize("name", MERGES)


def measured(kind: str, count: int, seed: int = 0) -> list[dict[str, torch.Tensor]]:
    """What a merge needs of each of `count` adapters: random Grams or squared gradients."""
    g = torch.Generator().manual_seed(seed)
    out: list[dict[str, torch.Tensor]] = []
    for _ in range(count):
        own = {}
        for name, d in A.deltas.items():
            rows, width = (2 * d.shape[1], d.shape[1]) if kind == "grams" else d.shape
            x = torch.randn(rows, width, generator=g)
            own[name] = x.T @ x / rows if kind == "grams" else x.square()
        out.append(own)
    return out


def merged(name: str, adapters, data=None, **parameters) -> Adapter:
    line = MERGES[name]
    if line.needs:
        data = measured(line.needs, len(adapters)) if data is None else data
        return merge(name, adapters, data, **parameters)
    return merge(name, adapters, **parameters)


def neutral(name: str) -> dict:
    return dict(MERGES[name].alone or {})


def times(c: float, adapter: Adapter) -> Adapter:
    deltas = {n: replace(d, scale=c * d.scale) for n, d in adapter.deltas.items()}
    return replace(adapter, deltas=deltas)


def gap(one: Adapter, other: Adapter) -> float:
    """How far two ΔW are apart at most, as a share of the larger one."""
    assert set(one.deltas) == set(other.deltas)
    gaps = [0.0]
    for n, d in one.deltas.items():
        x, y = d.delta().double(), other.deltas[n].delta().double()
        gaps.append(float((x - y).norm() / max(x.norm(), y.norm(), 1e-12)))
    return max(gaps)


def same(one: Adapter, other: Adapter, rtol: float = 2e-4) -> bool:
    return gap(one, other) <= rtol


def gauged(adapter: Adapter, seed: int) -> Adapter:
    """(B·P, P⁻¹·A) at each site, with a P that is far from a rotation."""
    g = torch.Generator().manual_seed(seed)
    deltas = {}
    for name, d in adapter.deltas.items():
        p = torch.randn(d.rank, d.rank, generator=g).double() + 2 * torch.eye(d.rank)
        a, b = torch.linalg.solve(p, d.A.double()), d.B.double() @ p
        deltas[name] = LowRank(a.float(), b.float(), d.scale)
    return replace(adapter, deltas=deltas)


# --- the table ---------------------------------------------------------------------------------


@SEPARATE
def test_a_line_says_what_its_function_takes(name):
    line = MERGES[name]
    function = inspect.signature(line.load()).parameters
    free = [p for p in function.values() if p.name not in line.fixed][1 + bool(line.needs) :]
    assert {p.name: p.default for p in free} == {n: p.default for n, p in line.parameters.items()}
    assert not line.needs or list(function)[1] == line.needs
    assert set(line.alone or {}) <= set(line.parameters)
    assert line.about.endswith(".") and line.label
    for n, p in line.parameters.items():
        p.check(n, p.default)
        assert p.about
        if p.kind is float and p.low > -float("inf"):
            with pytest.raises(ValueError, match=f"^{n} must be {p.range}, got"):
                p.check(n, p.low - 1)
        if p.kind in (float, int):
            with pytest.raises(ValueError, match=f"{n} must be a (finite|whole) number"):
                p.check(n, float("nan"))


def test_no_two_lines_are_one():
    assert len({m.label for m in MERGES.values()}) == len(MERGES)
    assert len({(m.function, *m.fixed.items()) for m in MERGES.values()}) == len(MERGES)
    assert set(merge_names()) - set(merge_names(data=False)) == {"fisher", "regmean"}


def test_ranges_in_words():
    assert Parameter(0.2, "", 0, 1, (0,)).range == "above 0 and at most 1"
    assert Parameter(0.2, "", 0, 1, (1,)).range == "at least 0 and below 1"
    assert Parameter(1, "", 1, kind=int).range == "at least 1"
    assert Parameter(1.0, "").range == ""
    for value, kind in ((True, float), (0.5, int), (1, bool), ("1", float), (None, float)):
        with pytest.raises(ValueError, match="must be"):
            Parameter(kind(1), "", kind=kind).check("x", value)
    Parameter(None, "", 1, kind=int).check("x", None)


def test_the_table_of_the_documentation_is_this_one(monkeypatch):
    root = Path(__file__).parents[2]
    monkeypatch.syspath_prepend(str(root / "experiments"))
    monkeypatch.syspath_prepend(str(root / "recipes"))
    import tables

    page = (root / "docs" / "methods" / "merging.md").read_text(encoding="utf-8")
    assert page == tables.filled(page)
    assert [line.split("`")[1] for line in page.splitlines() if line.startswith("| [`")][
        -len(MERGES) :
    ] == list(MERGES)


# --- identities --------------------------------------------------------------------------------


@SEPARATE
def test_one_adapter_stays_as_it_is(name):  # M1
    line = MERGES[name]
    if line.pair:
        assert same(merged(name, [A, B], weight=0.0), A)
        assert same(merged(name, [A, B], weight=1.0), B)
    else:
        assert same(merged(name, [A], **neutral(name)), A) == (line.alone is not None)


@SEPARATE
def test_copies_become_what_the_line_says(name):  # M2
    line, t = MERGES[name], 2 if MERGES[name].pair else 3
    one = A if line.pair else merged(name, [A], **neutral(name))
    copies = merged(name, [A] * t, **neutral(name))
    is_ = {"itself": same(copies, one), "sum": same(copies, times(t, one))}
    assert is_ == {kind: kind == line.copies for kind in is_}


@SEPARATE
def test_order_does_not_matter_where_the_line_says_so(name):  # M3
    line = MERGES[name]
    adapters, turned = ([A, B], [B, A]) if line.pair else ([A, B, C], [C, A, B])
    data = measured(line.needs, 3) if line.needs else None
    other = data and [data[2], data[0], data[1]]
    assert same(merged(name, adapters, data), merged(name, turned, other)) == line.order_free


@SEPARATE
def test_an_adapter_without_size_does_what_the_line_says(name):  # M4
    line = MERGES[name]
    adapters = [A] if line.pair else [A, B]
    t = len(adapters)
    data = measured(line.needs, t + 1) if line.needs else None
    before = A if line.pair else merged(name, adapters, data and data[:t], **neutral(name))
    after = merged(name, [*adapters, UNTRAINED], data, **neutral(name))
    is_ = {"neutral": same(after, before), "shrinks": same(after, times(t / (t + 1), before))}
    assert is_ == {kind: kind == line.zeros for kind in is_}
    if (
        line.zeros != "other"
    ):  # a site that an adapter does not have is the same as one without size
        assert same(merged(name, [*adapters, Adapter({}, A.base)], data, **neutral(name)), after)


@SEPARATE
def test_the_gauge_does_not_matter_where_the_line_says_so(name):  # M5
    line = MERGES[name]
    adapters = [A, B] if line.pair else [A, B, C]
    turned = [gauged(a, seed) for seed, a in enumerate(adapters)]
    assert all(same(*pair, 1e-5) for pair in zip(adapters, turned, strict=True))
    # a threshold may fall between two entries that rounding has exchanged: few, and small ones
    assert same(merged(name, adapters), merged(name, turned), 1e-2) == line.gauge_free


@SEPARATE
def test_scaling_goes_through_where_the_line_says_so(name):  # M6
    line = MERGES[name]
    adapters = [A, B] if line.pair else [A, B, C]
    scaled = merged(name, [times(0.25, a) for a in adapters])  # a power of two: exact
    assert same(scaled, times(0.25, merged(name, adapters))) == line.homogeneous


@SEPARATE
def test_the_rank_is_that_of_a_sum_where_the_line_says_so(name):
    line = MERGES[name]
    adapters = [A, B] if line.pair else [A, B, C]
    result = merged(name, adapters)
    assert set(result.deltas) == set(A.deltas)
    assert result.base == A.base
    assert result.provenance["made by"]
    assert (result.rank > sum(a.rank for a in adapters)) == line.dense
    for d in result.deltas.values():
        assert d.A.dtype == d.B.dtype == torch.float32
        assert d.A.is_contiguous() and d.B.is_contiguous()


@SEPARATE
def test_adapters_stay_as_they_were_and_the_result_is_the_same_again(name):
    adapters = [A, B]
    before = [a.hash for a in adapters]
    fresh = [Adapter(a.deltas, a.base) for a in adapters]
    assert merged(name, adapters) == merged(name, adapters)
    assert [a.hash for a in fresh] == before


@SEPARATE
def test_nothing_becomes_nothing(name):
    result = merged(name, [UNTRAINED, UNTRAINED])
    assert set(result.deltas) == set(A.deltas)
    assert not any(d.delta().any() for d in result.deltas.values())
    assert all(d.A.isfinite().all() for d in result.deltas.values())
    empty = Adapter({}, A.base)
    assert not merged(name, [empty, empty]).deltas


# --- refusals ----------------------------------------------------------------------------------


@SEPARATE
def test_what_cannot_be_merged_is_refused_in_a_sentence(name):
    line = MERGES[name]
    small = Adapter({SITE: from_delta(torch.ones(3, 3))}, A.base)
    broken = replace(A, deltas={n: replace(d, B=d.B * float("nan")) for n, d in A.deltas.items()})
    stranger = replace(B, base="0" * 16)
    cases = [([A, stranger], "different bases"), ([A, small], "different s(hapes|ites)")]
    if line.function.partition(":")[0] != "linear":  # there a NaN stays one, for all to see
        cases += [([A, broken], "adapter 2 has numbers at '.*' that are not finite")]
    for adapters, says in cases:
        with pytest.raises(ValueError, match=says):
            merged(name, adapters)
    with pytest.raises(ValueError, match="adapter"):
        merged(name, [])
    with pytest.raises(ValueError, match="has no parameter 'densitty'"):
        merged(name, [A, B], densitty=0.5)
    for parameter, p in line.parameters.items():
        for bad in [x for x in (p.low - 1, p.high + 1, *p.outside) if abs(x) < float("inf")]:
            with pytest.raises(ValueError, match=f"^{parameter} must be"):
                merged(name, [A, B], **{parameter: bad})
            if p.kind is not int or p.low >= 0:  # the function by itself, too
                data = [measured(line.needs, 2)] if line.needs else []
                with pytest.raises(ValueError, match=f"^{parameter} must be"):
                    line.load()([A, B], *data, **{parameter: bad})


def test_merges_that_there_are_not_and_data_that_is_not_asked_for():
    with pytest.raises(ValueError, match="must be one of sum, task-arithmetic"):
        merge("average", [A])
    with pytest.raises(ValueError, match=r"has no parameter 'densty'.*did you mean 'density'"):
        merge("ties", [A], densty=0.1)
    with pytest.raises(ValueError, match="regmean needs grams"):
        merge("regmean", [A])
    with pytest.raises(ValueError, match="ties needs nothing but"):
        merge("ties", [A], [{}])


@pytest.mark.parametrize("name", [n for n in MERGES if MERGES[n].needs])
def test_what_was_measured_must_fit(name):
    own, what = measured(MERGES[name].needs, 2), MERGES[name].needs.replace("_", " ").capitalize()
    what = "Grams" if what == "Grams" else what.lower()
    x = own[1][SITE]

    def changed(value) -> list:
        return [own[0], {**own[1], SITE: value}]

    lacks = {n: y for n, y in own[1].items() if n != SITE}
    cases = [
        (own[:1], f"expected {what} of each adapter, got 1 for 2"),
        ([own[0], lacks], f"the {what} of adapter 2 at .* are missing"),
        (changed(x[:, :-1]), "must be .*, got"),
        (changed(x * float("nan")), "not finite"),
        (changed(-x), "negative"),
    ]
    if name == "regmean":
        cases += [(changed(x + torch.randn_like(x).triu(1)), "not symmetric")]
    for data, says in cases:
        with pytest.raises(ValueError, match=says):
            merge(name, [A, B], data)
