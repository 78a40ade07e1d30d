"""One table of methods, and what a new line in it comes to."""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from tiny import save_clip, save_images, tiny_clip, tiny_task
from toy_method import HalfLoRA

from copra_lab.adapters import save_adapter
from copra_lab.methods.registry import METHODS, Method, label_of, name_of, names
from copra_lab.sweeps import grid, run_all
from copra_lab.training import CopRA, fit
from copra_lab.zoo import shipped

LINE = Method("half LoRA", "a reader's own", "toy_method:HalfLoRA")


@pytest.mark.parametrize("name", METHODS)
def test_what_a_line_is_made_of_has_its_name(name):
    parts = METHODS[name].parts()
    assert name_of(parts.method, parts.penalty, parts.dropping) == name
    assert METHODS[name].label
    assert METHODS[name].paper
    assert name in names(METHODS[name].kind)


def test_a_name_that_is_not_in_the_table_is_still_words():
    assert label_of("own-thing") == "own thing"


def test_a_new_method_is_one_file_and_one_line(monkeypatch, tmp_path):
    monkeypatch.setitem(METHODS, "half", LINE)
    adapter = fit(tiny_clip(), tiny_task(), HalfLoRA(2), steps=2, progress=False)
    assert adapter.provenance["method"] == "half"
    assert adapter.provenance["lora"]["share"] == 0.5
    assert next(iter(adapter.deltas.values())).scale == 0.5
    assert name_of(HalfLoRA(), dropping=CopRA()) == "half+copra"

    save_clip(tmp_path / "clip")
    save_images(tmp_path / "colours", 12)
    table = {"methods": ["half"], "tasks": [str(tmp_path / "colours")], "lora": {"rank": 2}}
    table |= {"settings": {"steps": 1}, "method": {"half": {"share": [0.25, 0.75]}}}
    clip = str(tmp_path / "clip")
    rows = run_all(grid(table).runs, tmp_path / "work", clip_name=clip, jobs=1, progress=False)
    assert [(r["method"], r["state"]) for r in rows] == [("half", "done")] * 2
    assert {r["settings"]["lora"]["share"] for r in rows} == {0.25, 0.75}

    save_adapter(adapter, tmp_path / "shelf" / "colours" / "mine")
    assert [s.label for s in shipped(folder=tmp_path / "shelf")] == ["half LoRA, seed 0"]


def test_the_command_line_offers_a_new_method_without_torch():
    script = """
        import sys
        from copra_lab.methods.registry import METHODS, Method
        METHODS["half"] = Method("half LoRA", "a reader's own", "toy_method:HalfLoRA")
        from typer.testing import CliRunner
        from copra_lab.cli import app
        shown = CliRunner().invoke(app, ["fit", "--help"], env={"COLUMNS": "300"}).stdout
        assert "full|half" in shown, shown
        assert "torch" not in sys.modules
    """
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(script)],
        cwd=root,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
