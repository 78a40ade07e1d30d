"""Federated averaging without Flower: the parts that both the simulation and a network run."""

import tomllib
from dataclasses import fields, replace
from pathlib import Path

import pytest
import torch
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters import Adapter, LowRank
from copra_lab.tasks import Task
from copra_lab.training import RATES, fit, fit_many
from experiments.federated import rounds as fed
from experiments.federated.rounds import (
    METHODS,
    Federation,
    aggregate,
    client_task,
    initial,
    local_job,
    local_seed,
    rounds,
)

QUICK = {"steps": 4, "lr": 1e-2, "batch": 8, "rank": 2, "rounds": 2, "precision": "float32"}


def tiny_federation(**settings) -> Federation:
    return Federation("colours", **{"split": "classes"} | QUICK | settings)


def styled_task() -> Task:
    """`tiny_task` with every third image in another style."""
    task = tiny_task()
    sources = tuple(f"{'twemoji' if i % 3 else 'openmoji'}:{i}" for i in range(len(task.train)))
    return replace(
        task,
        train=replace(task.train, sources=sources),
        val=replace(task.val, sources=sources[: len(task.val)]),
    )


def close(one: Adapter, other: Adapter, atol: float = 1e-6) -> bool:
    return set(one.deltas) == set(other.deltas) and all(
        torch.allclose(d.delta(), other.deltas[n].delta(), atol=atol) for n, d in one.deltas.items()
    )


@pytest.mark.parametrize(
    ("split", "clients"),
    [("style", 2), ("classes", 1), ("classes", 2), ("classes", 3), ("classes", 4)],
)
def test_the_clients_parts_are_disjoint_and_complete(split, clients):
    task, f = styled_task(), tiny_federation(split=split, clients=clients)
    parts = [client_task(task, f, c) for c in range(clients)]
    for name in ("train", "val"):
        held = [s for p in parts for s in getattr(p, name).sources]
        assert sorted(held) == sorted(getattr(task, name).sources)
    what = [
        set(
            p.train.labels.tolist()
            if split == "classes"
            else (s.split(":")[0] for s in p.train.sources)
        )
        for p in parts
    ]
    assert all(a.isdisjoint(b) for i, a in enumerate(what) for b in what[:i])
    for p in parts:  # an image keeps its label, and nobody forgets a class name
        whole = dict(zip(task.train.sources, task.train.labels.tolist(), strict=True))
        assert [whole[s] for s in p.train.sources] == p.train.labels.tolist()
        assert p.classes == task.classes


def test_the_seed_deals_the_classes():
    dealt = {
        tuple(client_task(tiny_task(), tiny_federation(seed=s), 0).train.labels.unique().tolist())
        for s in range(8)
    }
    assert len(dealt) > 1


def test_a_split_that_a_task_does_not_have_is_refused():
    with pytest.raises(
        ValueError, match="openmoji, twemoji; a split by style needs as many clients, not 3"
    ):
        client_task(styled_task(), tiny_federation(split="style", clients=3), 0)
    with pytest.raises(ValueError, match="choose fewer clients"):
        client_task(tiny_task(), tiny_federation(clients=5), 4)


@pytest.mark.parametrize(
    "settings",
    [
        {"method": "sgd"},
        {"aggregation": "median"},
        {"split": "random"},
        {"clients": 0},
        {"rounds": 0},
    ],
)
def test_settings_that_make_no_sense_are_refused(settings):
    with pytest.raises(ValueError, match=f"{next(iter(settings))} must be|must be at least 1"):
        tiny_federation(**settings)


def test_settings_survive_a_flower_configuration():
    f = tiny_federation(method="copra", aggregation="ffa", seed=3)
    assert Federation.of(f.settings() | {"server-round": 2, "base": "0123"}) == f


def test_the_flower_app_offers_every_setting():
    app = tomllib.loads((Path(fed.__file__).parent / "pyproject.toml").read_text(encoding="utf-8"))[
        "tool"
    ]["flwr"]["app"]
    assert {f.name for f in fields(Federation)} == set(app["config"]) - {"save"}
    assert Federation.of(app["config"]).settings() == {
        k: v for k, v in app["config"].items() if k != "save"
    }
    measured = Federation("people-occluded", "copra", lr=RATES["copra"])  # by run.py
    assert Federation.of(app["config"]) == measured
    for part in app["components"].values():
        assert (Path(fed.__file__).parent / f"{part.partition(':')[0]}.py").is_file()


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("aggregation", fed.AGGREGATIONS)
def test_one_client_is_plain_training(method, aggregation):
    clip, task, f = (
        tiny_clip(),
        tiny_task(),
        tiny_federation(method=method, aggregation=aggregation, clients=1, rounds=1, steps=8),
    )
    first, server = rounds(clip, task, f)
    seed = local_seed(f, 0, 1)
    plain = fit(
        clip,
        task,
        f.lora,
        METHODS[method],
        seed=seed,
        steps=8,
        lr=1e-2,
        batch=8,
        start_from=first,
        progress=False,
    )
    assert server.hash == plain.hash != first.hash


def test_the_server_starts_where_fit_starts():
    clip, task, f = tiny_clip(), tiny_task(), tiny_federation(seed=5)
    options = {"seed": 5, "steps": 2, "lr": 1e-2, "batch": 8, "progress": False}
    assert (
        fit(clip, task, f.lora, start_from=initial(clip, f), **options).hash
        == fit(clip, task, f.lora, **options).hash
    )
    assert all(not d.B.any() for d in initial(clip, f).deltas.values())


@pytest.mark.parametrize("aggregation", fed.AGGREGATIONS)
def test_equal_adapters_average_to_themselves(aggregation):
    clip, f = tiny_clip(), tiny_federation(aggregation=aggregation, rank=3)
    one = random_adapter(clip, rank=3, scale=1.0)
    assert close(aggregate(f, [one, one, one], [5, 1, 2], one), one)


def whole_numbers(clip, seed: int, a: Adapter | None = None) -> Adapter:
    """Small whole numbers, whose averages over quarters have no rounding errors. With the A of `a`."""
    g = torch.Generator().manual_seed(seed)
    shapes = {n: s.shape for n, s in clip.sites.items() if s.kind in "qkv" and s.tower == "vision"}

    def draw(*shape: int):
        return torch.randint(-4, 5, shape, generator=g).float()

    return Adapter(
        {
            n: LowRank(a.deltas[n].A if a else draw(2, w), draw(o, 2))
            for n, (o, w) in shapes.items()
        },
        clip.hash,
    )


def test_ffa_averages_the_deltas_exactly_and_factors_do_not():
    clip, images = tiny_clip(), [10, 30]
    start = whole_numbers(clip, 0)
    shared = [whole_numbers(clip, s, start) for s in (1, 2)]
    free = [whole_numbers(clip, s) for s in (1, 2)]

    def error(aggregation: str, adapters: list[Adapter]) -> float:
        server = aggregate(tiny_federation(aggregation=aggregation), adapters, images, start)
        wanted = {
            n: 0.25 * adapters[0].deltas[n].delta() + 0.75 * adapters[1].deltas[n].delta()
            for n in start.deltas
        }
        return max((server.deltas[n].delta() - w).norm().item() for n, w in wanted.items())

    assert error("ffa", shared) == error("factors", shared) == 0
    assert (
        error("factors", free) > error("delta", free) > 1
    )  # of rank 4, cut to 2: as near as that rank can come
    assert error("delta", shared) < 1e-4  # of rank 2 already
    # Aligned, no truncation, but still not the mean of the deltas.
    assert error("factors", free) > error("aligned", free) > error("delta", free)


def test_ffa_wants_a_shared_a():
    clip = tiny_clip()
    start = whole_numbers(clip, 0)
    with pytest.raises(ValueError, match="share A"):
        aggregate(
            tiny_federation(aggregation="ffa"), [start, whole_numbers(clip, 1)], [1, 1], start
        )


@pytest.mark.parametrize("aggregation", fed.AGGREGATIONS)
def test_weights_are_shares_of_the_images(aggregation):
    clip, f = tiny_clip(), tiny_federation(aggregation=aggregation)
    start = whole_numbers(clip, 0)
    adapters = [start, whole_numbers(clip, 1, start)]
    assert close(aggregate(f, adapters, [7, 0], start), adapters[0])
    assert close(aggregate(f, adapters, [0, 7], start), adapters[1])
    assert close(
        aggregate(f, adapters, [1, 3], start),
        aggregate(f, [adapters[0], *[adapters[1]] * 3], [5] * 4, start),
        atol=1e-5,  # entries are up to 30, and aligned ones are no whole numbers any more
    )


def test_directions_without_size_come_back_to_life():
    clip, f = tiny_clip(), tiny_federation()
    start = initial(clip, f)
    thin = random_adapter(clip, rank=1, kinds=("q", "k"), towers=("vision",), scale=0.5)
    again = fed.going_on(thin, start)
    assert close(again.keep(thin.deltas), thin)
    assert all(d.scale == f.lora.scale and d.rank == f.rank for d in again.deltas.values())
    assert all(d.A.norm(dim=1).min() > 0.1 for d in again.deltas.values())
    assert set(again.deltas) == set(start.deltas)
    assert fed.going_on(start, start) == start
    (moved,) = fit_many(clip, [local_job(tiny_task(), f, 0, 1, again)], progress=False)
    assert all(d.delta().norm() > 0 and d.B[:, 1].norm() > 0 for d in moved.deltas.values())


def test_clients_trained_together_end_as_each_by_itself():
    clip, task, f = tiny_clip(), tiny_task(), tiny_federation(method="copra", clients=3, rounds=1)
    start, server = rounds(clip, task, f)
    parts = [client_task(task, f, c) for c in range(3)]
    each = [fit_many(clip, [local_job(p, f, c, 1, start)])[0] for c, p in enumerate(parts)]
    assert close(server, aggregate(f, each, [len(p.train) for p in parts], start))


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("aggregation", fed.AGGREGATIONS)
def test_rounds_repeat_and_keep_the_shape(method, aggregation):
    clip, task, f = (
        tiny_clip(),
        tiny_task(),
        tiny_federation(method=method, aggregation=aggregation, clients=3),
    )
    found, again = list(rounds(clip, task, f)), list(rounds(clip, task, f))
    assert [a.hash for a in found] == [a.hash for a in again]
    assert len({a.hash for a in found}) == 3
    for server in found:
        assert all(
            d.A.shape == found[0].deltas[n].A.shape and d.scale == f.lora.scale
            for n, d in server.deltas.items()
        )
    if aggregation == "ffa":
        assert all(torch.equal(d.A, found[0].deltas[n].A) for n, d in found[-1].deltas.items())


def test_adapters_travel_as_arrays():
    clip, f = tiny_clip(), tiny_federation(rank=3)
    adapter = random_adapter(clip, scale=1.0)
    arrays = fed.to_arrays(adapter)
    assert fed.from_arrays(arrays, clip.hash, clip, f) == adapter
    name = next(iter(arrays))
    for wrong, why in (
        ({k: v for k, v in arrays.items() if k != name}, "A and B and nothing else"),
        (arrays | {name: arrays[name] * float("nan")}, "not finite"),
        (arrays | {name: arrays[name][:, 1:]}, "in this CLIP and"),
        ({"nowhere.A": arrays[name], "nowhere.B": arrays[name].T}, "it adapts nowhere"),
    ):
        with pytest.raises(ValueError, match=why):
            fed.from_arrays(wrong, clip.hash, clip, f)
    with pytest.raises(ValueError, match="trained on base"):
        fed.from_arrays(arrays, "0" * 16, clip, f)
