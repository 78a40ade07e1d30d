"""What the experiments share: which files there are, who writes them, and that a part of one never
passes for the whole.
"""

import fnmatch
import re
from pathlib import Path

import pytest

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
