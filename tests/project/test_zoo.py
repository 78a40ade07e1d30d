"""What ships belongs together, and the numbers that are reported can be measured again."""

import csv
import json
import subprocess
import sys
from dataclasses import replace
from functools import partial
from pathlib import Path

import pytest
from adapters import PENDING, ship  # recipes/adapters.py
from tiny import random_adapter, tiny_clip

from copra_lab.adapters import NONE, save_adapter
from copra_lab.adapters.peft_folder import WEIGHTS
from copra_lab.bench import Bench
from copra_lab.models import load_clip
from copra_lab.sweeps import Run
from copra_lab.tasks import load_task, task_names
from copra_lab.zoo import shipped

ROOT = Path(__file__).parents[2]


def results() -> list[dict]:
    with open(ROOT / "experiments" / "results" / "tasks.csv", encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.mark.slow
def test_nothing_that_ships_is_stale():
    run = subprocess.run(
        [sys.executable, str(ROOT / "recipes" / "rebuild.py"), "--check"],
        capture_output=True,
        text=True,
        check=False,
    )
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
    monkeypatch.setattr(
        rebuild,
        "STEPS",
        [
            (s, lambda _, s=s: "stale" if s in stale else None, s)
            for s in (rebuild.FEDERATED, "after.py")
        ],
    )
    monkeypatch.setattr(sys, "argv", ["rebuild.py"])
    assert rebuild.main() == 1
    assert run == ["after.py"]
    assert "environment of its own" in capsys.readouterr().err


def test_a_row_that_was_not_measured_is_a_sentence(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import rebuild
    import tables

    measured = [
        {
            "what": w,
            "ours": 0.5,
            "theirs": 1.5,
            "unit": "s",
            "precision": "float32",
            "ratio": 3.0,
            "low": 2.0,
            "high": 4.0,
        }
        for w in ("other", *tables.SPEED)
    ]
    monkeypatch.setattr(tables, "RESULTS", tmp_path / "results.json")
    monkeypatch.setattr(
        tables, "TABLES", dict.fromkeys(tables.TABLES, str) | {"speed": tables.speed_table}
    )
    for rows in ([], measured[:-1]):
        tables.RESULTS.write_text(json.dumps({"rows": rows}), encoding="utf-8")
        assert f"no row {tables.SPEED[-1 if rows else 0]!r}" in rebuild.tables_are_stale(
            load_clip()
        )
    tables.RESULTS.write_text(json.dumps({"rows": measured}), encoding="utf-8")
    assert tables.speed_table().splitlines()[2:] == [
        f"| {w} | 500 ms | 1.50 s | 3.00 (2.00 to 4.00) | float32 |" for w in tables.SPEED
    ]


def test_what_ships_is_there_until_the_new_is_written(tmp_path):
    adapter = random_adapter(tiny_clip())
    ship(
        tmp_path,
        {Run.of("old", 0): adapter, Run.of("digits", 0): adapter, Run.of("digits", 1): adapter},
    )
    with pytest.raises(ValueError, match="without sites"):
        ship(tmp_path, {Run.of("digits", 2): NONE})
    assert {f.relative_to(tmp_path).as_posix() for f in tmp_path.glob("*/*")} == {
        "old/lora-seed-0",
        "digits/lora-seed-0",
        "digits/lora-seed-1",
    }
    ship(tmp_path, {Run.of("digits", s): adapter for s in (1, 2)})
    assert [s.folder.relative_to(tmp_path).as_posix() for s in shipped(folder=tmp_path)] == [
        "digits/lora-seed-1",
        "digits/lora-seed-2",
    ]
    assert [f.name for f in tmp_path.iterdir()] == ["digits"]


def test_every_task_is_in_the_table_and_two_adapters_are_shipped_for_some():
    there = [r["task"] for r in results()]
    absent = "tasks that the table has are no longer pending"
    assert there == [t for t in task_names() if t not in PENDING], absent
    tasks = {s.task for s in shipped()}
    assert len(tasks) >= 4
    assert all(len(shipped(t)) >= 2 for t in tasks)
    assert sum(int(r["n"]) >= 300 for r in results()) >= 3


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted({s.task for s in shipped()}))
def test_the_reported_accuracies_are_measured_again(name):
    clip, row = load_clip(), next(r for r in results() if r["task"] == name)
    bench = Bench(clip, load_task(name), precision="float32")
    slack = 2 / len(bench)  # a tie may fall otherwise on another processor
    assert len(bench) == int(row["n"])
    assert bench.accuracy().value == pytest.approx(float(row["zero_shot"]), abs=slack + 1e-4)
    each = [float(v) for v in row["lora_each"].split()]
    lora = [s for s in shipped(name) if s.folder.name.startswith("lora")]
    assert len(lora) >= 2
    assert len(shipped(name)) > len(lora)
    for seed, adapter in enumerate(lora):
        assert bench.accuracy(adapter.load(clip)).value == pytest.approx(
            each[seed], abs=slack + 1e-4
        )


def test_method_and_seed_come_from_the_provenance_or_else_from_the_folders_name(tmp_path):
    adapter = random_adapter(tiny_clip())
    trained = replace(adapter, provenance={"method": "copra", "seed": 7})
    for name, saved in (("mine", trained), ("lora-seed-3", adapter), ("own-thing", adapter)):
        save_adapter(saved, tmp_path / "digits" / name)
    (tmp_path / "digits" / "lora-seed-3" / WEIGHTS).write_bytes(b"broken")
    found = shipped(folder=tmp_path)
    assert [(s.method, s.seed, s.label) for s in found] == [
        ("lora", 3, "LoRA, seed 3"),
        ("copra", 7, "CopRA, seed 7"),
        ("own-thing", None, "own thing"),
    ]
