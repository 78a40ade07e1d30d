"""Every block of code in the README and in the guides beside it, and every command in their text,
is run as it stands, but for what is said here: few images and few steps, nothing is installed or
published, and what starts a server or a training of minutes is asked for its help instead.
"""

import importlib.metadata
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
from dataclasses import replace
from functools import cache
from importlib.util import find_spec

import pytest
import typer
from documents import BLOCK, CODE, README, ROOT, TEXT
from packaging.requirements import Requirement
from tiny import save_clip, save_images
from typer.testing import CliRunner

import copra_lab
from copra_lab.adapters import load_adapter
from copra_lab.cli import app
from copra_lab.methods import LoRA
from copra_lab.models import load_clip
from copra_lab.prompts import CoOp
from copra_lab.sweeps import runs
from copra_lab.tasks import task as tasks
from copra_lab.training import settings as train

ELSEWHERE = {
    "trainer": "peft_models/test_trainer_callback",
    "loop": "peft_models/test_trainer_callback",
    "folder": "peft_models/test_trainer_callback",
    "images": "tasks/test_benchmarks",
    "programs": "page/test_api",
}
HERE = {"setup", "use", "many", "commands", "sweep"}
COMMAND = typer.main.get_command(app)


def test_the_readme_takes_two_minutes():
    assert len(README.splitlines()) <= 150


def test_every_block_of_code_has_a_test_that_runs_it():
    assert len(CODE) == len(BLOCK.findall(TEXT))
    assert set(CODE) == HERE | set(ELSEWHERE)
    for name, file in ELSEWHERE.items():
        text = (ROOT / "tests" / f"{file}.py").read_text(encoding="utf-8")
        assert f'exec(documents.CODE["{name}"]' in text, name


@pytest.fixture
def small(monkeypatch, tmp_path):
    """In an empty folder, the bundled CLIP learns in two steps and is measured on twenty images,
    validated on four.
    """

    def load_task(*args, **kwargs):
        task = full(*args, **kwargs)
        return replace(task, test=task.test.pick(range(20)), val=task.val.pick(range(4)))

    full = tasks.load_task
    for place in (copra_lab, tasks, runs):
        monkeypatch.setattr(place, "load_task", load_task)
    for method in (LoRA, CoOp):
        monkeypatch.setitem(train.DEFAULTS, method, train.DEFAULTS[method] | {"steps": 2})
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.mark.slow
def test_use(small, monkeypatch):
    published = {}
    monkeypatch.setattr(
        copra_lab, "push_to_hub", lambda adapter, repo, **_: published.update({repo: adapter})
    )
    names: dict = {}
    exec(CODE["use"], names)
    assert names["bench"].accuracy(names["one"]).n == 20
    assert names["two"].provenance["method"] == "copra"
    assert (
        load_adapter("digits-lora", names["clip"]) == names["one"] == published["you/digits-lora"]
    )
    assert names["prompt"].provenance["method"] == "pun"


def test_many(small):
    clip = load_clip()
    names = {"cl": copra_lab, "clip": clip, "task": copra_lab.load_task("digits", clip)}
    exec(CODE["many"], names)
    assert [a.provenance["seed"] for a in names["adapters"]] == [0, 1, 2, 3]
    assert {a.provenance["method"] for a in names["adapters"]} == {"copra"}


@pytest.mark.slow
def test_commands(small):
    table = CODE["sweep"]
    for key, value in {
        "tasks": '["digits"]',
        "seeds": "1",
        "steps": "1",
        "shots": "[1]",
        "rank": "[2]",
    }.items():
        table, n = re.subn(rf"^{key} = .*", f"{key} = {value}", table, flags=re.MULTILINE)
        assert n == 1, key
    (small / "sweep.toml").write_text(table, encoding="utf-8")
    assert tomllib.loads(CODE["sweep"])["seeds"] == 3
    save_images(small / "photos")
    save_clip(small / "my-clip")
    lines = [shlex.split(line, comments=True) for line in CODE["commands"].splitlines()]
    for _, *words in lines:
        if words[0].startswith("-"):  # changes the files of a shell
            assert words[0] in {o for p in COMMAND.params for o in p.opts}
            continue
        words = (
            [*words, "--help"]
            if words == ["app"]
            else [
                w if before != "--jobs" else "1"
                for before, w in zip(["", *words], words, strict=False)
            ]
        )
        result = CliRunner().invoke(app, words)
        assert result.exit_code == 0, f"{words}: {result.output}"
    assert {line[1] for line in lines if line[1] in COMMAND.commands} == set(COMMAND.commands)
    assert {f.name for f in small.iterdir()} == {
        "digits-copra", "path.svg", "both", "half", "digits-pun", "both-peft", "clip-hf", "mine", "sweep.toml", "sweep", "results.csv",
        "photos", "my-clip", "photos-lora",
    }  # fmt: skip
    assert (small / "results.csv").read_text(encoding="utf-8").count("done") == 2


PROGRAMS = (
    r"make|%?pip|[!.]?[\w\\/.]*python3?|py|[\w\\/.]*pip|conda|[\w/.]*jupyter|accelerate|copra-lab"
)
IN_TEXT = sorted(
    {" ".join(c.split()) for c in re.findall(rf"`((?:{PROGRAMS})\s[^`]+)`", BLOCK.sub("", TEXT))}
    | set(CODE["setup"].splitlines())
)


def test_the_text_has_commands():
    assert len(IN_TEXT) >= 20


@pytest.mark.slow
@pytest.mark.parametrize("command", IN_TEXT)
def test_a_command_in_the_text_can_be_given(command):
    program, *words = shlex.split(command.replace("\\", "/").lstrip("!%"), comments=True)
    match program.removeprefix(".venv/").removeprefix("bin/").removeprefix("Scripts/"):
        case "make":
            if not shutil.which("make"):
                pytest.skip("no make")
            subprocess.run(["make", "--dry-run", *words], cwd=ROOT, capture_output=True, check=True)
        case "pip":
            assert words.pop(0) == "install"
            assert all(map(_installs, _arguments(words)))
        case "python" | "python3" | "py" if words[0] == "-m":
            assert find_spec(words[1])
        case "python":
            said = _help(words[0])
            assert words[0].rpartition("/")[2] in said
            assert all(o in said for o in words[1:] if o.startswith("-"))
        case "conda":
            assert words[:3] == ["env", "create", "-f"]
            assert (ROOT / words[3]).is_file()
        case "jupyter":
            assert words[0] == "lab"
            assert find_spec("jupyterlab")
            assert (ROOT / words[1]).is_dir()
        case "accelerate":
            assert words[:2] == ["launch", "-m"]
            assert find_spec(f"{words[2]}.__main__")
            assert words[3] in COMMAND.commands
        case "copra-lab":
            assert words[0] == "VERB" or words[0] in COMMAND.commands
        case other:
            pytest.fail(f"nothing here says how to try {other!r}")


@cache
def _help(script: str) -> str:
    return subprocess.run(
        [sys.executable, script, "--help"], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout


def _arguments(words: list[str]) -> list[str]:
    """What pip is to install: packages, and files of them."""
    out, flag = [], ""
    for word in words:
        if flag in ("-e", "-r"):
            assert (ROOT / word.partition("[")[0]).exists()
        if flag in ("", "-e"):
            out += [re.sub(r"^\.(?=$|\[)", "copra-lab", word)] if not word.startswith("-") else []
        flag = word if word.startswith("-") else ""
    return out


def _installs(wanted: str) -> bool:
    """Whether there is such a package, installed here, with such extras."""
    requirement = Requirement(wanted)
    if requirement.name == "copra-lab":
        project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
        return requirement.extras <= set(project["optional-dependencies"])
    return requirement.extras <= set(
        importlib.metadata.metadata(requirement.name).get_all("Provides-Extra") or ()
    )
