"""Sweeps: the runs that a file comes to, and doing each of them once, whatever happens to the
workers.
"""

import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
from command_line import run, told
from hypothesis import given
from hypothesis import strategies as st
from tiny import one_thread, save_images, tiny_clip
from tiny_sweep import Killer, make_home, runs, sweep

from copra_lab.adapters import load_adapter
from copra_lab.bench import Bench
from copra_lab.methods import METHODS, AdapterMethod, LoRA
from copra_lab.models import load_clip
from copra_lab.prompts import VPT, CoOp
from copra_lab.sweeps import Grid, Run, grid, read_grid, rows_of, runner, trained
from copra_lab.sweeps.results import COLUMNS, DONE, FAILED, WAITING, Outcomes, flat, row_of
from copra_lab.training import DEFAULTS, RATES, CopRA, TrainingSettings

SMALL = {"methods": ["lora"], "tasks": ["digits"]}

# --- what a file comes to --------------------------------------------------------------------------------------------


def test_a_grid_is_every_combination():
    found = grid(
        {
            "methods": ["lora", "copra", "vpt+pun"], "tasks": ["digits", "icons"], "seeds": [0, 5], "settings": {"steps": 7, "shots": [1, 4], "batch": 3},
            "lora": {"rank": [2, 4], "sites": [["q", "v"], ["fc1"]]}, "prompt": {"length": 3}, "method": {"copra": {"ramp": [0.5, 1], "lr": 1e-2}},
        }
    )  # fmt: skip
    by = {m: [r for r in found.runs if r.name == m] for m in ("lora", "copra", "vpt+pun")}
    assert {m: len(r) for m, r in by.items()} == {
        "lora": 2 * 2 * 2 * 2 * 2,
        "copra": 2 * 2 * 2 * 2 * 2 * 2,
        "vpt+pun": 2 * 2 * 2,
    }
    assert len(set(found.runs)) == len(found.runs)
    assert found.clip is None
    assert {r.settings.steps for r in found.runs} == {7}
    assert {r.seed for r in found.runs} == {0, 5}
    assert {r.settings.batch for r in found.runs} == {3}
    assert {r.settings.lr for r in by["lora"]} == {RATES["lora"]}
    assert {r.settings.lr for r in by["copra"]} == {1e-2}
    assert {r.method.sites for r in by["lora"]} == {("q", "v"), ("fc1",)}
    assert {r.dropping for r in by["copra"]} == {CopRA(ramp=0.5), CopRA(ramp=1.0)}
    assert {(r.method, r.penalty.beta) for r in by["vpt+pun"]} == {(VPT(3), 1.0)}


@pytest.mark.parametrize("method", ["lora", "coop"])
def test_a_template_is_a_setting_that_changes_no_other_run(method, tmp_path):
    save_images(tmp_path / "colours", 4)
    table = {"methods": [method], "tasks": [str(tmp_path / "colours")]}
    (plain,) = grid(table).runs
    assert "template" not in plain.as_json()
    assert "splits" not in plain.as_json()
    drawn, own = grid(
        table | {"settings": {"template": ["a drawing of a {}", "{}"], "splits": False}}
    ).runs
    assert drawn.as_json() == plain.as_json() | {"template": "a drawing of a {}", "splits": False}
    assert own.load_task().options == {"template": "{}", "splits": False}
    assert plain.load_task().options == {}


@pytest.mark.parametrize("method", METHODS)
def test_every_method_has_its_name_and_its_defaults(method):
    (found,) = grid(SMALL | {"methods": [method]}).runs
    assert found.name == method
    assert found.task == "digits"
    assert found.seed == 0
    parts = {k: v for k, v in vars(METHODS[method].parts()).items() if v is not None}
    assert found == Run.of("digits", 0, **parts)
    expected = TrainingSettings().resolve(found.method, found.dropping)  # what `fit` takes
    adapter = isinstance(found.method, AdapterMethod)
    assert found.settings == replace(expected, views=0 if adapter else 4)
    usual = DEFAULTS.get(type(found.method), DEFAULTS[LoRA])["lr"]
    own = type(found.method).defaults.get("lr") if adapter else None
    assert expected.lr == (own or RATES.get(method, usual))


def test_the_settings_that_name_a_folder_are_these():
    """Whatever is changed here, what was trained before is not found any more."""
    assert Run.of("digits").as_json() == {
        "task": "digits", "seed": 0, "method": "lora", "dropping": {}, "steps": 1200, "lr": 0.002, "batch": 8, "schedule": "cooldown", "views": 0,
        "lora": {"rank": 4, "alpha": None, "scaling": "alpha/r", "sites": ["q", "k", "v"], "towers": ["vision"], "train_a": True},
        "precision": "float32", "shots": 16, "task_seed": 0, "part": "all",
    }  # fmt: skip
    assert Run.of("digits", method=CoOp()).as_json() == {
        "task": "digits", "seed": 0, "method": "coop", "penalty": None, "steps": 200, "lr": 0.01, "batch": 32, "views": 4, "shots": 16, "part": "all",
        "prompt": {"length": None, "position": "end", "class_specific": False, "words": None, "std": 0.02},
    }  # fmt: skip


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"methods": []}, "methods must be a list of names"),
        ({"methods": ["copa"]}, "unknown method copa: did you mean 'copra'?"),
        ({"tasks": "digits"}, "tasks must be a list of names"),
        ({"seeds": 0}, "seeds must be"),
        ({"seeds": [-1]}, "seeds must be"),
        ({"setings": {}}, "unknown setings: did you mean 'settings'?"),
        ({"settings": {"stepps": 1}}, "unknown settings.stepps: did you mean 'steps'?"),
        ({"settings": {"steps": "many"}}, "settings.steps must be a whole number, got 'many'"),
        ({"settings": {"steps": 1.5}}, "settings.steps must be a whole number"),
        ({"settings": {"steps": True}}, "settings.steps must be a whole number"),
        ({"settings": {"lr": []}}, "settings.lr is an empty list"),
        ({"settings": 3}, r"settings must be a table \(\[settings\]\)"),
        ({"lora": {"rank": 0}}, "rank must be a whole number of at least 1"),
        ({"lora": {"sites": "q"}}, "lora.sites must be a list of words"),
        ({"method": {"copra": {}}}, "unknown method.copra"),
        ({"method": {"lora": {"ramp": 1}}}, "unknown method.lora.ramp"),
        ({"clip": 5}, "clip must be a name or a folder"),
    ],
)
def test_a_grid_that_makes_no_sense_is_refused(more, says):
    with pytest.raises(ValueError, match=says):
        grid(SMALL | more)


VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.sampled_from(["q", "lora", "copra", "digits", "linear"])
    | st.text(max_size=3),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(
            st.sampled_from(["steps", "rank", "copra", "ramp", "x"]), inner, max_size=3
        )
    ),
    max_leaves=6,
)


@given(
    st.dictionaries(
        st.sampled_from(
            ["methods", "tasks", "seeds", "settings", "lora", "prompt", "method", "clip", "y"]
        ),
        VALUES,
        max_size=4,
    )
)
def test_whatever_a_file_holds_is_a_grid_or_a_sentence(table):
    try:
        assert isinstance(grid(SMALL | table), Grid)
    except ValueError as e:
        assert str(e)


def test_a_file_says_the_same(tmp_path):
    file = tmp_path / "s.toml"
    file.write_text(
        "methods = ['lora']\ntasks = ['digits']\nseeds = 2\n[lora]\nrank = 3\n", encoding="utf-8"
    )
    assert read_grid(file).runs == (
        Run.of("digits", 0, method=LoRA(3)),
        Run.of("digits", 1, method=LoRA(3)),
    )
    file.write_text("methods = 'lora'", encoding="utf-8")
    with pytest.raises(ValueError, match=r"s\.toml: methods must be"):
        read_grid(file)
    file.write_text("methods = [", encoding="utf-8")
    with pytest.raises(ValueError, match=r"s\.toml is not a TOML file"):
        read_grid(file)
    with pytest.raises(FileNotFoundError, match="a sweep is a TOML file"):
        read_grid(tmp_path)


# --- the table -------------------------------------------------------------------------------------------------------


def row(key: str, seed: int = 0, **more: object) -> dict:
    settings = {"task": "t", "method": "m", "seed": seed, "lora": {"rank": 4, "sites": ["q", "v"]}}
    known = {"key": key, "task": "t", "method": "m", "seed": seed, "settings": settings}
    return known | {"base": "b", **more}


def test_the_table_is_read_from_the_runs_folders(tmp_path):
    clip = tiny_clip()
    todo = [Run.of("b", 1), Run.of("b", 0), Run.of("a", 0, dropping=CopRA()), Run.of("a", 0)]
    outcomes = Outcomes(todo, clip, tmp_path)
    assert [(r["task"], r["method"], r["seed"]) for r in outcomes.rows()] == [
        ("a", "copra", 0),
        ("a", "lora", 0),
        ("b", "lora", 0),
        ("b", "lora", 1),
    ]
    assert list(outcomes.waiting().values()) == todo
    folder = todo[0].folder(clip, tmp_path)
    folder.mkdir()
    # a line of 0.1.0, which knew fewer columns
    written = row_of(todo[0], clip, tmp_path) | {"state": DONE, "accuracy": 0.5}
    (folder / "outcome.json").write_text(
        json.dumps({k: written[k] for k in written if k != "error"})
    )
    outcomes.fail(todo[1], "why")
    assert [r["state"] for r in outcomes.rows()] == [WAITING, WAITING, FAILED, DONE]
    assert all(tuple(r) == COLUMNS for r in outcomes.rows())
    assert outcomes.rows()[-1]["accuracy"] == 0.5
    assert outcomes.rows()[2]["error"] == "why"
    outcomes.forget_failures()
    assert list(outcomes.waiting().values()) == todo[1:]
    (folder / "outcome.json").write_bytes(b"broken")
    assert list(Outcomes(todo, clip, tmp_path).waiting().values()) == todo


@pytest.mark.slow
def test_what_is_only_trained_is_done_without_a_measurement(home, tmp_path):
    todo = runs(home, seeds=1)
    rows = runner.run_all(
        todo, tmp_path, clip_name=home.clip, jobs=1, measure=False, progress=False
    )
    assert [(r["state"], r["accuracy"]) for r in rows] == [(DONE, None)] * 2
    assert not list(tmp_path.glob("*.csv"))
    assert all(r["state"] == WAITING for r in rows_of(todo, tmp_path, home.clip))
    assert all(r["accuracy"] is not None for r in sweep(todo, home, tmp_path).values())


def test_settings_become_columns():
    assert flat(row("a")["settings"]) == {
        "task": "t",
        "method": "m",
        "seed": 0,
        "lora.rank": 4,
        "lora.sites": "q v",
    }


# --- doing them ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> SimpleNamespace:
    return make_home(tmp_path_factory.mktemp("sweep"))


BROKEN = {"method": LoRA(2, towers=("vision", "text")), "precision": "bfloat16"}
"""Settings that only the training itself finds out to be impossible."""


@pytest.mark.slow
def test_a_sweep_does_each_run_once(home, tmp_path, monkeypatch):
    first = runs(home)
    found = sweep(first, home, tmp_path, at_once=1)
    clip = load_clip(home.clip)
    for r, told_of in found.items():
        adapter = load_adapter(r.folder(clip, tmp_path), clip)
        with one_thread():
            assert adapter.hash == trained(r, clip, tmp_path / "again")[0].hash
        accuracy = Bench(clip, r.load_task(clip), precision="float32").accuracy(adapter)
        assert (told_of["state"], told_of["correct"], told_of["n"]) == (
            DONE,
            accuracy.correct,
            accuracy.n,
        )
        assert told_of["validation"] == adapter.provenance["validation accuracy"]
        assert told_of["base"] == clip.hash
    handed_out = []
    monkeypatch.setattr(
        runner, "attempt", lambda g, *a: handed_out.append(g) or pytest.fail("done already")
    )
    assert sweep(first, home, tmp_path) == found
    assert not handed_out
    monkeypatch.undo()
    more = sweep(runs(home, seeds=3), home, tmp_path)
    assert {r: more[r] for r in first} == found
    assert all(r["state"] == DONE for r in more.values())
    (tmp_path / runner.TABLE).unlink()
    assert sweep(first, home, tmp_path) == found  # workers wrote it down


@pytest.mark.slow
def test_a_run_that_fails_is_reported_and_costs_nothing_else(home, tmp_path):
    todo = (*runs(home, seeds=1), runs(home, seeds=1)[0].changed(**BROKEN))
    found = sweep(todo, home, tmp_path)
    assert [r["state"] for r in found.values()] == [DONE, DONE, FAILED]
    assert found[todo[-1]]["error"].startswith("bfloat16 training needs a plain ViT")
    outcome = tmp_path / found[todo[-1]]["key"] / "outcome.json"
    before = outcome.stat().st_mtime_ns
    assert sweep(todo, home, tmp_path)[todo[-1]]["state"] == FAILED
    assert outcome.stat().st_mtime_ns == before
    assert sweep(todo, home, tmp_path, retry_failed=True)[todo[-1]]["state"] == FAILED
    assert outcome.stat().st_mtime_ns > before


def test_two_sweeps_do_not_share_a_table(home, tmp_path):
    from filelock import FileLock

    with (
        FileLock(tmp_path / runner.LOCK),
        pytest.raises(ValueError, match="another sweep is at work"),
    ):
        sweep(runs(home), home, tmp_path)


def test_engines_that_are_not_there_are_named(home, tmp_path):
    with pytest.raises(ValueError, match="backend must be one of loky, ray, dask"):
        sweep(runs(home), home, tmp_path, backend="slurm")
    with pytest.raises(ValueError, match="at_once must be a whole number of at least 1"):
        sweep(runs(home), home, tmp_path, at_once=0)
    with pytest.raises(ValueError, match="loky has no address"):
        sweep(runs(home), home, tmp_path, address="10.0.0.1:6379")


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:A worker stopped while some jobs")
@pytest.mark.parametrize(("times", "state"), [(1, DONE), (2, FAILED)])
def test_a_killed_worker_costs_only_its_run(home, tmp_path, times, state):
    todo, clip = runs(home, steps=200, seeds=2), load_clip(home.clip)
    victim = todo[1]
    killer = Killer(victim.folder(clip, tmp_path).name, tmp_path, times)
    killer.start()
    found = sweep(todo, home, tmp_path, jobs=2, at_once=1)
    killer.join(1)
    assert len(killer.killed) == times
    assert {r: row["state"] for r, row in found.items()} == {
        r: state if r == victim else DONE for r in todo
    }
    if state == FAILED:
        assert "lost each time, the last time alone" in found[victim]["error"]
        found = sweep(todo, home, tmp_path, jobs=2, retry_failed=True)
    adapter = load_adapter(victim.folder(clip, tmp_path), clip)
    with one_thread():
        assert found[victim]["state"] == DONE
        assert adapter.hash == trained(victim, clip, tmp_path / "whole")[0].hash


# --- the verb --------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_the_verb_sweeps_tells_and_exports(home, tmp_path):
    file = tmp_path / "mine.toml"
    text = f"clip = '{home.clip}'\nmethods = ['lora', 'copra', 'coop']\ntasks = ['{home.task}']\nseeds = 2\n[settings]\nsteps = [1, 2]\nbatch = 8\n"
    file.write_text(text + "[lora]\nrank = 2\n[prompt]\nlength = 2\n", encoding="utf-8")
    assert "was not started yet" in run("sweep", file, "--status", code=1).stderr
    found = told("sweep", file, "--jobs", 1, "--at-once", 3, "--table", tmp_path / "t.csv")
    assert (found["done"], found["failed"], found["waiting"]) == (12, 0, 0)
    assert len(found["rows"]) == 12
    assert found["table"] == str(tmp_path / "mine" / "results.csv")
    assert (tmp_path / "t.csv").read_bytes() == Path(found["table"]).read_bytes()
    lines = (tmp_path / "t.csv").read_text(encoding="utf-8").splitlines()
    assert len(lines) == 13
    assert {"accuracy", "lora.rank", "prompt.length", "steps"} <= set(lines[0].split(","))
    said = run("sweep", file, "--jobs", 1).stdout
    assert "steps=1" in said
    assert "±" in said
    assert "12 done, 0 failed, 0 waiting" in said
    file.write_text(
        text.replace("[1, 2]", "[1, 2, 3]") + "[lora]\nrank = 2\n[prompt]\nlength = 2\n",
        encoding="utf-8",
    )
    status = told("sweep", file, "--status")
    assert (status["done"], status["waiting"]) == (12, 6)


def test_the_verb_fails_with_its_runs(home, tmp_path):
    file = tmp_path / "mine.toml"
    file.write_text(
        f"clip = '{home.clip}'\nmethods = ['lora']\ntasks = ['{home.task}']\n[settings]\nsteps = "
        "1\nprecision = ['float32', 'bfloat16']\n"
        "[lora]\ntowers = ['vision', 'text']\n",
        encoding="utf-8",
    )
    result = run("sweep", file, "--jobs", 1, code=1)
    assert "1 done, 1 failed" in result.stdout
    assert "bfloat16 training needs a plain ViT" in result.stdout
    assert "--retry-failed" in result.stdout
    assert run("sweep", file, "--status").stdout.count("failed:") == 1


def test_parquet_needs_what_it_needs(tmp_path):
    from copra_lab.sweeps.results import export

    pytest.importorskip("pandas")
    rows = [row("a", state=DONE, accuracy=0.5)]
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        with pytest.raises(ImportError, match=r"copra-lab\[parquet\]"):
            export(rows, tmp_path / "t.parquet")
        return
    import pandas

    export(rows, tmp_path / "t.parquet")
    assert pandas.read_parquet(tmp_path / "t.parquet")["lora.rank"].tolist() == [4]
