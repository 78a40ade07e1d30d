"""What the experiments share: which files there are, who writes them, and that a part of one never
passes for the whole.
"""

import csv
import fnmatch
import re
import sys
from pathlib import Path

import numpy as np
import pytest
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters import NONE
from copra_lab.bench import Bench
from copra_lab.utils.files import csv_bytes
from copra_lab.utils.statistics import Outcomes, share_lost

ROOT = Path(__file__).parents[2]


@pytest.fixture
def common(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "experiments"))
    import common

    return common


def test_the_results_are_those_that_the_experiments_write(common):
    names = [n for written in common.WRITTEN.values() for n in written]
    assert sorted(f.name for f in common.RESULTS.glob("*.csv")) == sorted([*names, "tasks.csv"])
    table = re.findall(
        r"^\| `python experiments/(\S+)` \| (.*?) \|",
        (ROOT / "experiments" / "head.md").read_text(encoding="utf-8"),
        re.MULTILINE,
    )
    told = {
        script: {
            n for pattern in re.findall(r"`(.*?)`", files) for n in fnmatch.filter(names, pattern)
        }
        for script, files in table
    }
    assert told == {script: set(written) for script, written in common.WRITTEN.items()} | {
        "report.py": set()
    }


def test_a_part_of_an_experiment_is_printed_and_not_written(common, monkeypatch, tmp_path, capsys):
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    options, text = common.arguments("", methods=("lora", "copra")), "task,n,base\ndigits,1,0123\n"
    for given in (["--tasks", "digits"], ["--methods", "lora"], []):
        common.finish(
            options.parse_args(given),
            "some.csv",
            ("task", "n"),
            [{"task": "digits", "n": 1}],
            "0123",
        )
        assert capsys.readouterr().out == (text if given else "")
        assert [f.read_text(encoding="utf-8") for f in tmp_path.iterdir()] == (
            [] if given else [text]
        )
    for option in ("--tasks", "--methods", "--jobs"):  # what a script does not take is not offered
        with pytest.raises(SystemExit):
            common.arguments("", tasks=False, jobs=False).parse_args([option, "1"])


def outcomes(right: list[int]) -> np.ndarray:
    """For each seed 20 images, the first of which are right."""
    return np.array([[1.0] * k + [0.0] * (20 - k) for k in right])


def test_a_row_of_all_tasks_says_what_they_lose_together(common, capsys):
    names = [str(i) for i in range(20)]
    one = Outcomes(outcomes([16, 16]), outcomes([12, 12]), outcomes([8])[0], names)
    other = Outcomes(outcomes([12, 12]), outcomes([12, 12]), outcomes([8])[0], names)
    row = common.lost_row("lora", 0.5, [one, other], space="delta")
    assert (row["task"], row["n"], row["accuracy"]) == (common.ALL_TASKS, 40, 0.6)
    assert row["lost"] == round(0.2 / 0.6, 4)
    assert row["low"] < row["lost"] < row["high"]
    assert row["space"] == "delta"
    nothing = Outcomes(one.base, one.base, one.base, names)
    row = common.lost_row("lora", 0.5, [nothing])
    assert [row[c] for c in common.LOST] == ["", "", ""]
    assert "compare accuracies" in capsys.readouterr().err


def rows(path: Path) -> list[dict[str, str]]:
    with open(path, encoding="utf-8") as f:
        return list(csv.DictReader(f))


@pytest.fixture
def report(common, monkeypatch, tmp_path):
    """The report on results that a test may change: of earlier versions, without what is newer."""
    import report

    for name in ("lines.csv", "structured.csv", "unstructured.csv"):
        old = [
            {k: v for k, v in r.items() if k not in (*common.LOST, "scale")}
            for r in rows(common.RESULTS / name)
            if r["task"] != common.ALL_TASKS and r.get("space") in (None, "delta", "factors")
        ]
        (tmp_path / name).write_bytes(csv_bytes(list(old[0]), old))
    monkeypatch.setattr(common, "RESULTS", tmp_path)
    return report


def test_results_without_the_newer_rows_are_reported_without_them(report):
    cells = report.headline()
    columns = report.measured(cells, report.HEADLINE)
    assert columns == [c for c in report.HEADLINE if c != "middle, aligned factors"]
    assert "nan" not in report.table(cells, columns)
    assert report.controls_section() == ""


@pytest.mark.slow
def test_aligned_middles_and_controls_are_reported_where_they_are(report, common):
    before = report.table(report.headline(), ["alone", "middle, ΔW"])
    lines = rows(common.RESULTS / "lines.csv")
    middles = [r for r in lines if (r["setting"], r["space"]) == ("0.5", "factors")]
    lines += [r | {"space": "aligned"} for r in middles]
    lines += [r | {"space": "control", "setting": "half of one"} for r in middles]
    told = {"task": common.ALL_TASKS, "method": "lora", "setting": "0.5", "accuracy": "0.1"}
    told |= {"lost": "-0.1234", "low": "-0.2", "high": "0.051"}
    lines += [told | {"space": "factors"}, told | {"space": "delta", "lost": ""}]
    columns = [*middles[0], *common.LOST]
    (common.RESULTS / "lines.csv").write_bytes(csv_bytes(columns, lines))
    cells = report.headline()
    assert report.measured(cells, report.HEADLINE) == list(report.HEADLINE)
    assert cells["lora", "middle, aligned factors"] == cells["lora", "middle, factors"]
    assert report.table(cells, ["alone", "middle, ΔW"]) == before  # no row of all tasks is in it
    section = report.controls_section()
    assert "half of one" in section
    assert "| LoRA |  | −12 (−20 to 5) |" in section
    assert {s.get_label() for s in report.lines_figure().axes[0].lines} >= {"LoRA, aligned factors"}


@pytest.fixture
def tiny_run(common, monkeypatch, capsys):
    """Runs an experiment on random adapters of a tiny CLIP, and gives the rows of each file."""

    def run(script) -> list[list[dict[str, str]]]:
        clip, task = tiny_clip(), tiny_task()

        def made(runs, work, jobs):
            return clip, {r: random_adapter(clip, seed=r.seed, size=0.3) for r in runs}, {}

        benches = {s: Bench(clip, task, s, precision="float32") for s in ("val", "test")}
        monkeypatch.setattr(script, "adapters", made)
        monkeypatch.setattr(script, "bench", lambda clip, name, split: benches[split])
        monkeypatch.setattr(sys, "argv", ["", "--tasks", "colours", "--methods", "lora"])
        script.main()
        tables = re.split("^(?=task,)", capsys.readouterr().out, flags=re.MULTILINE)[1:]
        return [list(csv.DictReader(text.splitlines())) for text in tables]

    return run


@pytest.mark.slow
def test_lines_has_three_lines_their_controls_and_what_is_lost(tiny_run, common):
    import lines

    (found,) = tiny_run(lines)
    single = [r for r in found if r["task"] != common.ALL_TASKS]
    for pair in ("0-1", "4-0"):
        own = {(r["space"], r["setting"]): r for r in single if r["seed"] == pair}
        assert [s for s, w in own if w == "0.5"] == ["delta", "factors", "aligned"]
        for end in ("0.0", "1.0"):
            assert len({own[s, end]["accuracy"] for s in ("delta", "factors", "aligned")}) == 1
        assert float(own["control", "tuned middle"]["scale"]) in lines.SCALES
    total = [r for r in found if r["task"] == common.ALL_TASKS]
    assert {(r["space"], r["setting"]) for r in total} == {
        *((s, "0.5") for s in ("delta", "factors", "aligned")),
        *(("control", s) for s in ("half of one", "half of the middle", "tuned middle")),
    }
    for r in total:
        of = [x for x in single if (x["space"], x["setting"]) == (r["space"], r["setting"])]
        assert float(r["accuracy"]) == pytest.approx(
            np.mean([float(x["accuracy"]) for x in of]), abs=1e-3
        )


def test_the_scale_of_a_middle_is_the_best_on_validation_images(common):
    import lines

    clip = tiny_clip()
    bench = Bench(clip, tiny_task(), "val", precision="float32")
    a = random_adapter(clip, size=0.3)
    best = lines.best_scale(a, bench)
    right = {s: bench.accuracy(lines.scaled(a, s)).correct for s in lines.SCALES}
    assert right[best] == max(right.values())
    assert lines.best_scale(NONE, bench) == 1  # all equal: the middle as it is


@pytest.mark.slow
def test_pruning_says_what_is_lost_of_all_tasks(tiny_run, common):
    import pruning

    structured, unstructured = tiny_run(pruning)
    (total,) = [r for r in structured if r["task"] == common.ALL_TASKS]
    halves = [r for r in structured if r["setting"] in ("layers even", "layers odd")]
    assert float(total["accuracy"]) == pytest.approx(
        np.mean([float(r["accuracy"]) for r in halves]), abs=1e-3
    )
    assert [
        (r["entries"], r["setting"]) for r in unstructured if r["task"] == common.ALL_TASKS
    ] == [(of, str(s)) for of in ("factors", "delta") for s in pruning.SPARSITIES if s]


def test_what_several_settings_lose_is_the_mean_of_each_seed(common):
    import pruning

    right = {"all": [16, 12], "none": [8, 8], "layers even": [12, 12], "layers odd": [16, 8]}
    kept = {("lora", s): {"digits": list(outcomes(k))} for s, k in right.items()}
    names = [str(i) for i in range(20)]
    (of,) = pruning.lost(kept, "lora", ("layers even", "layers odd"), {"digits": names})
    assert of.weaker.sum(1).tolist() == [14, 10]
    assert of.alone.sum(1).tolist() == [16, 12]
    assert share_lost([of]) == pytest.approx(2 / 6)
