"""What ships belongs together, and the numbers that are reported can be measured again."""

import csv
import fnmatch
import re
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest

from copra_lab.bench import Bench
from copra_lab.clip import load_clip
from copra_lab.shipped import shipped
from copra_lab.tasks import load_task, task_names

ROOT = Path(__file__).parents[1]


def results() -> list[dict]:
    with open(ROOT / "experiments" / "results" / "tasks.csv", encoding="utf-8") as f:
        return list(csv.DictReader(f))


def test_nothing_that_ships_is_stale():
    run = subprocess.run([sys.executable, str(ROOT / "recipes" / "rebuild.py"), "--check"], capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stdout + run.stderr


def test_a_mismatch_is_found(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "recipes"))
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import rebuild

    class Other:
        hash = "0" * 16

    for stale in (
        rebuild.card_is_stale,
        rebuild.adapters_are_stale,
        rebuild.prompts_are_stale,
        rebuild.table_is_stale,
        partial(rebuild.results_are_stale, name="regimes.csv"),
    ):
        assert stale(load_clip()) is None
        assert "0000000000000000" in stale(Other)


def test_the_results_are_those_that_the_experiments_write(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    from common import RESULTS, WRITTEN

    names = [n for written in WRITTEN.values() for n in written]
    assert sorted(f.name for f in RESULTS.glob("*.csv")) == sorted([*names, "tasks.csv"])
    table = re.findall(r"^\| `python experiments/(\S+)` \| (.*?) \|", (ROOT / "experiments" / "head.md").read_text(encoding="utf-8"), re.MULTILINE)
    told = {script: {n for pattern in re.findall(r"`(.*?)`", files) for n in fnmatch.filter(names, pattern)} for script, files in table}
    assert told == {script: set(written) for script, written in WRITTEN.items()} | {"report.py": set()}


def test_what_needs_flower_holds_up_nothing_else(monkeypatch, capsys):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import rebuild

    stale, run = {rebuild.FEDERATED, "after.py"}, []

    def mended(command, **_):
        run.append(Path(command[1]).name)
        stale.remove(run[-1])
        return subprocess.CompletedProcess(command, 0)

    monkeypatch.setattr(rebuild, "find_spec", lambda _: None)
    monkeypatch.setattr(rebuild.subprocess, "run", mended)
    monkeypatch.setattr(rebuild, "STEPS", [(s, lambda _, s=s: "stale" if s in stale else None, s) for s in (rebuild.FEDERATED, "after.py")])
    monkeypatch.setattr(sys, "argv", ["rebuild.py"])
    assert rebuild.main() == 1 and run == ["after.py"]
    assert "environment of its own" in capsys.readouterr().err


def test_every_task_is_in_the_table_and_two_adapters_are_shipped_for_some():
    assert [r["task"] for r in results()] == list(task_names())
    tasks = {s.task for s in shipped()}
    assert len(tasks) >= 4 and all(len(shipped(t)) >= 2 for t in tasks)
    assert sum(int(r["n"]) >= 300 for r in results()) >= 3


@pytest.mark.parametrize("name", sorted({s.task for s in shipped()}))
def test_the_reported_accuracies_are_measured_again(name):
    clip, row = load_clip(), next(r for r in results() if r["task"] == name)
    bench = Bench(clip, load_task(name), precision="float32")
    slack = 2 / len(bench)  # a tie may fall otherwise on another processor
    assert len(bench) == int(row["n"])
    assert bench.accuracy().value == pytest.approx(float(row["zero_shot"]), abs=slack + 1e-4)
    each = [float(v) for v in row["lora_each"].split()]
    lora = [s for s in shipped(name) if s.folder.name.startswith("lora")]
    assert len(lora) >= 2 and len(shipped(name)) > len(lora)
    for seed, adapter in enumerate(lora):
        assert bench.accuracy(adapter.load(clip)).value == pytest.approx(each[seed], abs=slack + 1e-4)
