"""Runs of a sweep that one worker trains side by side: who is in a group, that each ends as it
does alone, and that nothing is lost when a group is interrupted or one of its runs fails.
"""

import json
from collections import Counter
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tiny import one_thread, tiny_clip
from tiny_sweep import Killer, make_home, runs, sweep

from copra_lab.adapters import Adapter, load_adapter
from copra_lab.methods import LoRA
from copra_lab.models import load_clip
from copra_lab.prompts import VPT, CoOp, Nemesis
from copra_lab.sweeps import Run, runner
from copra_lab.sweeps import runs as of_runs
from copra_lab.sweeps.groups import Grouping
from copra_lab.sweeps.results import DONE, FAILED
from copra_lab.training.grouping import grouped

STEPS = 120
"""So many that there is a checkpoint, after a hundred."""


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> SimpleNamespace:
    return make_home(tmp_path_factory.mktemp("sweep"))


def adapters(todo, home, work: Path) -> list[Adapter]:
    clip = load_clip(home.clip)
    return [load_adapter(r.folder(clip, work), clip) for r in todo]


def hashes(todo, home, work: Path) -> list[str]:
    return [a.hash for a in adapters(todo, home, work)]


def apart(a: Adapter, b: Adapter) -> float:
    """The largest difference of any number of two adapters."""
    pairs = [(a.deltas[n], b.deltas[n]) for n in a.deltas]
    return max(float((x - y).abs().max()) for p, q in pairs for x, y in ((p.A, q.A), (p.B, q.B)))


# --- who is in a group -----------------------------------------------------------------------------------------------

KINDS = {
    "usual": {},
    "brief": {"steps": 7},
    "wide": {"batch": 40},
    "on texts": {"method": LoRA(towers=("vision", "text"))},
    "coop": {"method": CoOp()},
    "vpt": {"method": VPT(2)},
    "not here": {"method": CoOp(), "task": "no-such-task"},
}


@pytest.mark.slow
@given(
    st.lists(st.sampled_from(list(KINDS)), max_size=60),
    st.integers(1, 9),
    st.none() | st.integers(1, 12),
)
def test_every_run_is_in_one_group_of_its_kind_and_of_fair_size(kinds, workers, most):
    todo = [Run.of(**{"task": "digits", "seed": s} | KINDS[kind]) for s, kind in enumerate(kinds)]
    groups = grouped(tiny_clip(), todo, "cpu", most, workers)
    assert sorted(j for g in groups for j in g) == list(range(len(todo)))
    sizes: dict[str, list[int]] = {}
    for group in groups:
        (kind,) = {kinds[j] for j in group}
        sizes.setdefault(kind, []).append(len(group))
    for kind, found in sizes.items():
        alone = kind in ("on texts", "not here")
        fast = most or {"wide": 1, "coop": 16}.get(kind, 8)  # 64 images, or 160 texts
        assert max(found) <= (1 if alone else min(fast, -(-len(todo) // workers)))
        assert max(found) - min(found) <= 1


def test_workers_get_as_many_groups_each():
    clip, todo = tiny_clip(), [Run.of("digits", s) for s in range(24)]
    sizes = {w: list(map(len, grouped(clip, todo, "cpu", None, w))) for w in (1, 2, 4, 24)}
    assert sizes == {1: [8] * 3, 2: [6] * 4, 4: [6] * 4, 24: [1] * 24}
    assert len(grouped(clip, todo, "cuda")) == 1


def test_a_group_has_one_folder_and_no_two_share_one(tmp_path):
    clip = tiny_clip()
    known = {r.folder(clip, tmp_path).name: r for r in (Run.of("digits", s) for s in range(9))}
    grouping = Grouping(clip, tmp_path, 2)
    first = grouping.groups(known, known)
    assert [len(g.runs) for g in first] == [4, 5]
    assert len({g.folder for g in first}) == 2
    # begun again: as before, also when some are done; for other workers, anew
    waiting = dict(list(known.items())[:2])
    assert grouping.groups(known, known) == first
    assert grouping.groups(waiting, known) == first[:1]
    assert not first[1].folder.exists()
    alone = Grouping(clip, tmp_path, 4).groups(waiting, known)
    assert [list(g.runs) for g in alone] == [[key] for key in waiting]
    assert [g.folder.name for g in alone] == list(waiting)
    assert not first[0].folder.exists()


def test_a_group_with_a_checkpoint_is_continued_unless_it_is_too_large(tmp_path):
    clip = tiny_clip()
    known = {r.folder(clip, tmp_path).name: r for r in (Run.of("digits", s) for s in range(4))}
    (group,) = Grouping(clip, tmp_path, 1).groups(known, known)
    (group.folder / "fit.part").touch()
    one = dict(list(known.items())[:1])
    assert Grouping(clip, tmp_path, 3).groups(one, known) == [group]
    assert Grouping(clip, tmp_path, 1).groups(one, one) == group.singly()[:1]  # another sweep's
    assert group.begun
    assert Grouping(clip, tmp_path, 1, at_once=3).groups(one, known) == group.singly()[:1]
    assert not group.begun


# --- what comes of it ------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_runs_of_a_group_end_as_they_do_alone(home, tmp_path, monkeypatch):
    sizes = Counter()
    whole = runner.trained_together
    monkeypatch.setattr(
        runner, "trained_together", lambda r, *a: sizes.update([len(r)]) or whole(r, *a)
    )
    todo = runs(home, steps=20)
    together, alone = tmp_path / "together", tmp_path / "alone"
    found = sweep(todo, home, together)
    assert sizes == {4: 1}
    single = sweep(todo, home, alone, at_once=1)
    assert sizes == {4: 1, 1: 4}
    different = {"seconds", "host"}
    for run in todo:
        assert found[run]["state"] == DONE
        assert {k: v for k, v in found[run].items() if k not in different} == {
            k: v for k, v in single[run].items() if k not in different
        }
    for a, b in zip(adapters(todo, home, together), adapters(todo, home, alone), strict=True):
        assert apart(a, b) < 1e-5
        assert a.provenance == b.provenance
    names = {f.name for f in todo[0].folder(load_clip(home.clip), alone).iterdir()}
    assert names == {f.name for f in todo[0].folder(load_clip(home.clip), together).iterdir()}
    assert len({row["seconds"] for row in found.values()}) == 1  # each has its share
    assert not (together / "groups").exists()


@pytest.mark.slow
def test_prompts_of_a_group_end_as_they_do_alone(home, tmp_path, monkeypatch):
    sizes = []
    whole = runner.trained_together
    monkeypatch.setattr(
        runner, "trained_together", lambda r, *a: sizes.append(len(r)) or whole(r, *a)
    )
    todo = [
        Run.of(home.task, s, method=m, penalty=p, steps=6, batch=8)
        for m in (CoOp(2), VPT(2))
        for s, p in ((0, None), (1, Nemesis(1.0, 0.1)), (2, Nemesis(0.0, 0.5, samples=1)))
    ]
    assert {run.classes for run in todo} == {todo[0].load_task().classes}
    half = todo[0].changed(part="base")
    assert half.classes == half.load_task().classes
    together, alone = tmp_path / "together", tmp_path / "alone"
    found, single = sweep(todo, home, together), sweep(todo, home, alone, at_once=1)
    assert sizes == [3, 3, *6 * [1]]
    clip = load_clip(home.clip)
    for run in todo:
        assert found[run]["state"] == DONE
        assert found[run]["accuracy"] == single[run]["accuracy"]
        a, b = (run.read(run.folder(clip, work), clip) for work in (together, alone))
        assert (a.context - b.context).abs().max() < 1e-4
        assert a.provenance == b.provenance


@pytest.mark.slow
def test_each_failure_is_the_runs_own(home, tmp_path, monkeypatch):
    good = runs(home, seeds=1)
    wild, unmeasured = (good[0].changed(seed=s, lr=lr) for s, lr in ((7, 1e30), (8, 1e-2)))
    absent = Run.of(str(tmp_path / "nowhere"), method=LoRA(2), steps=2, batch=16)
    whole = runner._measured

    def measured(run, *rest):
        if run == unmeasured:
            raise RuntimeError("no\nroom")
        return whole(run, *rest)

    monkeypatch.setattr(runner, "_measured", measured)
    todo = (wild, *good, unmeasured, absent)
    found = sweep(todo, home, tmp_path / "work", at_once=9)
    assert [row["state"] for row in found.values()] == [FAILED, DONE, DONE, FAILED, FAILED]
    assert found[wild]["error"].startswith("the loss became")
    assert found[wild]["error"].endswith("lower the learning rate (now 1e+30)")
    assert found[unmeasured]["error"] == "RuntimeError: no room"
    assert "nowhere" in found[absent]["error"]


@pytest.mark.slow
def test_a_group_that_cannot_be_trained_is_trained_run_by_run(home, tmp_path, monkeypatch):
    whole, sizes = of_runs.fit_many_steps, []

    def no_room(clip, jobs, **options):
        sizes.append(len(jobs))
        if len(jobs) > 1:
            raise MemoryError("too large")
        return whole(clip, jobs, **options)

    monkeypatch.setattr(of_runs, "fit_many_steps", no_room)
    todo = runs(home)
    assert {row["state"] for row in sweep(todo, home, tmp_path).values()} == {DONE}
    assert sizes == [4, 1, 1, 1, 1]


# --- interruptions ---------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def unbroken(home, tmp_path_factory) -> list[str]:
    """The adapters of two groups that nobody disturbs."""
    work = tmp_path_factory.mktemp("unbroken")
    todo = runs(home, STEPS)
    sweep(todo, home, work, at_once=2)
    return hashes(todo, home, work)


@pytest.mark.slow
@pytest.mark.parametrize("moment", ["training", "saving"])
def test_an_interrupted_group_goes_on_from_its_checkpoint(
    home, tmp_path, monkeypatch, unbroken, moment
):
    todo, seen, save = runs(home, STEPS), [], of_runs._save

    def interrupt_training(teller, step):
        seen.append(step.step)
        if step.step == STEPS - 10:
            raise KeyboardInterrupt

    def interrupt_saving(run, *rest):
        if run == todo[1]:
            raise KeyboardInterrupt
        save(run, *rest)

    with monkeypatch.context() as m:
        if moment == "training":
            m.setattr(runner._Teller, "__call__", interrupt_training)
        else:
            m.setattr(of_runs, "_save", interrupt_saving)
        with pytest.raises(KeyboardInterrupt):
            sweep(todo, home, tmp_path, at_once=2)
    assert len(list(tmp_path.glob("groups/*/fit.part"))) == 1
    seen.clear()
    monkeypatch.setattr(runner._Teller, "__call__", lambda teller, step: seen.append(step.step))
    sweep(todo, home, tmp_path, at_once=2)
    assert hashes(todo, home, tmp_path) == unbroken
    assert not list(tmp_path.rglob("*.part"))
    assert not (tmp_path / "groups").exists()
    # of the first group the last twenty steps, or none; of the second, all
    assert seen.count(1) == 2
    assert seen.count(101) == (4 if moment == "training" else 2)


@pytest.mark.slow
def test_what_is_trained_or_has_failed_is_not_trained_again(home, tmp_path, monkeypatch):
    good = runs(home, seeds=1)
    todo = (good[0].changed(seed=7, lr=1e30), *good)

    def interrupt(run, *rest):
        raise KeyboardInterrupt

    with monkeypatch.context() as m, pytest.raises(KeyboardInterrupt):
        m.setattr(runner, "_measured", interrupt)
        sweep(todo, home, tmp_path)
    monkeypatch.setattr(of_runs, "fit_many_steps", interrupt)
    assert [row["state"] for row in sweep(todo, home, tmp_path).values()] == [FAILED, DONE, DONE]


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")
def test_a_killed_group_ends_with_the_same_bytes(home, tmp_path, unbroken):
    todo = runs(home, STEPS)
    killer = Killer(todo[1].folder(load_clip(home.clip), tmp_path).name, tmp_path, 1)
    killer.start()
    found = sweep(todo, home, tmp_path, jobs=2)
    killer.join(1)
    assert [members for _, members in killer.killed] == [2]
    assert {row["state"] for row in found.values()} == {DONE}
    assert hashes(todo, home, tmp_path) == unbroken
    assert not list(tmp_path.rglob("*.part"))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")
def test_a_run_that_always_kills_its_worker_is_found(home, tmp_path):
    todo, clip = runs(home, STEPS), load_clip(home.clip)
    victim = todo[1]
    killer = Killer(victim.folder(clip, tmp_path).name, tmp_path, 3)
    killer.start()
    found = sweep(todo, home, tmp_path, jobs=2)
    killer.join(1)
    assert [members for _, members in killer.killed] == [2, 2, 1]  # in its group twice, then alone
    assert {r: row["state"] for r, row in found.items()} == {
        r: FAILED if r == victim else DONE for r in todo
    }
    assert "lost each time, the last time alone" in found[victim]["error"]
    with one_thread():
        alone, _ = of_runs.trained(todo[0], clip, tmp_path / "alone")
    assert load_adapter(todo[0].folder(clip, tmp_path), clip).hash == alone.hash


def test_a_worker_tells_how_far_it_is(tmp_path, monkeypatch):
    monkeypatch.setattr(runner._Teller, "SECONDS", 0)
    tell = runner._Teller(tmp_path / "started.json")
    tell(SimpleNamespace(step=3, steps=4))
    assert json.loads((tmp_path / "started.json").read_text())["step"] == 3
    clip = tiny_clip()
    known = {r.folder(clip, tmp_path).name: r for r in (Run.of("digits", s) for s in range(2))}
    (group,) = Grouping(clip, tmp_path, 1).groups(known, known)
    (tmp_path / "started.json").rename(group.started)
    outcomes = SimpleNamespace(runs=known, waiting=lambda: known, count=lambda state: 0)
    with runner._progress(outcomes, [group], True) as bar:
        pass
    assert bar.n == 1.5
