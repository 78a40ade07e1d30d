"""The folder that ``recipes/space.py`` makes is a Space that the hub would take, and starts from
what is in it alone.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import space
from huggingface_hub import SpaceCard

import copra_lab
from copra_lab.page.state.lab import Lab

ROOT = Path(__file__).parents[2]
CARD = SpaceCard.load(ROOT / "README.md").data.to_dict()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    space.make(made := tmp_path_factory.mktemp("space") / "mine", "someone/lab")
    return made


def files(folder: Path) -> list[Path]:
    return [p for p in folder.rglob("*") if p.is_file()]


def test_its_card_is_one_that_the_hub_takes(folder):
    card = SpaceCard.load(folder / "README.md")
    space.check(card.data.to_dict())
    assert (folder / card.data.app_file).is_file()
    assert card.data.sdk == "gradio"
    assert card.data.title == CARD["title"]
    assert 'Client("someone/lab")' in card.text
    assert copra_lab.__version__ in card.text


@pytest.mark.parametrize(
    ("key", "value", "said"),
    [
        ("title", None, "lacks title"),
        ("sdk", "docker", "must be gradio"),
        ("colorTo", "orange", "colorTo must be one of red"),
        ("emoji", "fox", "must be a single one"),
        ("emoji", "🦊🦊", "must be a single one"),
        ("short_description", "x" * 61, "61 characters"),
        ("python_version", 3.1, "in quotes"),
    ],
)
def test_a_card_that_the_hub_would_refuse_is_refused_here(key, value, said):
    with pytest.raises(space.SpaceError, match=said):
        space.check({**CARD, key: value})


def test_it_holds_the_page_its_weights_and_nothing_else(folder):
    names = {p.relative_to(folder).as_posix() for p in files(folder)}
    own = {
        p.relative_to(ROOT).as_posix()
        for p in files(ROOT / "copra_lab")
        if "__pycache__" not in p.parts
    }
    assert names == own | {*space.FILES, "README.md", ".gitattributes", space.MANIFEST}
    large = {kind.split()[0].removeprefix("*") for kind in space.ATTRIBUTES.splitlines()}
    for p in files(folder):
        assert p.stat().st_size < 10_000_000 or p.suffix in large
        if p.suffix not in large:
            p.read_text(
                encoding="utf-8"
            )  # the hub takes other binary files in large-file storage only


@pytest.mark.slow
def test_its_app_needs_only_the_folder_and_what_its_requirements_name(folder):
    code = """
import sys
for name in ("transformers", "peft", "accelerate", "matplotlib"):
    sys.modules[name] = None  # what is not installed
import app, copra_lab
from copra_lab.page.api.endpoints import Api
from copra_lab.page.state.lab import Lab
answer = Api(Lab(precision="float32")).blend("digits", "0/lora-seed-0", "0/lora-seed-1", 0.5)
print(copra_lab.__file__, app.__file__, answer["correct"], sep="\\n")
"""
    clean = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    ran = subprocess.run(
        [sys.executable, "-c", code],
        cwd=folder,
        env=clean,
        capture_output=True,
        text=True,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    *places, correct = ran.stdout.split("\n")[-4:-1]
    assert all(Path(p).resolve().is_relative_to(folder.resolve()) for p in places)
    lab = Lab(precision="float32")
    a, b = (lab.adapter("digits", f"0/lora-seed-{i}") for i in (0, 1))
    assert int(correct) == lab.bench("digits").path(a, b, [0.5]).accuracies[0].correct


def test_one_of_its_own_is_made_anew(tmp_path):
    space.make(tmp_path / "mine")
    before = space.hashes(tmp_path / "mine")
    cache = tmp_path / "mine" / "copra_lab" / "__pycache__"
    cache.mkdir()
    (cache / "left.pyc").write_bytes(b"by a run")
    space.make(tmp_path / "mine")
    assert space.hashes(tmp_path / "mine") == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]
    assert json.loads((tmp_path / "mine" / space.MANIFEST).read_text())["files"] == before


def test_nothing_of_others_is_replaced(tmp_path):
    (tmp_path / "theirs").mkdir()
    (tmp_path / "theirs" / "thesis.txt").write_text("years of work")
    space.make(mine := tmp_path / "mine")
    (mine / ".git").mkdir()
    (mine / ".git" / "config").write_text("a clone")
    space.make(changed := tmp_path / "changed")
    (changed / "app.py").write_text("print('mended by hand')")
    (tmp_path / "file").write_text("a file")
    for folder, said in (
        (tmp_path / "theirs", "holds something else"),
        (mine, "config"),
        (changed, "changed since"),
        (tmp_path / "file", "no folder"),
    ):
        with pytest.raises(space.SpaceError, match=said):
            space.make(folder)
    assert (tmp_path / "theirs" / "thesis.txt").read_text() == "years of work"
    assert "mended" in (changed / "app.py").read_text()
    with pytest.raises(space.SpaceError, match="something else"):
        space.make(ROOT)


def test_what_fails_half_way_leaves_what_was_there(tmp_path, monkeypatch):
    space.make(tmp_path / "mine")
    before = space.hashes(tmp_path / "mine")

    def full(*_):
        raise OSError("no space left on device")

    monkeypatch.setattr(
        space, "hashes", lambda folder: before if folder == tmp_path / "mine" else full()
    )
    with pytest.raises(OSError, match="no space left"):
        space.make(tmp_path / "mine")
    monkeypatch.undo()
    assert space.hashes(tmp_path / "mine") == before
    assert [p.name for p in tmp_path.iterdir()] == ["mine"]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("token", "said"), [("", "no token for the hub"), ("hf_none", "could not be reached")]
)
def test_publishing_without_a_token_or_a_connection_is_answered_in_words(tmp_path, token, said):
    command = [
        sys.executable,
        str(ROOT / "recipes" / "space.py"),
        str(tmp_path / "mine"),
        "--publish",
        "someone/lab",
    ]
    environment = {
        **os.environ,
        "HF_TOKEN": token,
        "HF_HOME": str(tmp_path / "home"),
        "HF_HUB_OFFLINE": "1",
    }
    ran = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 1
    assert said in ran.stderr
    assert "Traceback" not in ran.stderr
    assert (tmp_path / "mine" / "app.py").is_file()


def test_publishing_uploads_the_folder(tmp_path, monkeypatch):
    calls = []

    class Hub:
        def create_repo(self, name, **options):
            calls.append((name, options["repo_type"], options["space_sdk"]))

        def upload_folder(self, **options):
            calls.append((options["repo_id"], options["repo_type"], options["folder_path"]))

    monkeypatch.setattr(space, "HfApi", Hub)
    monkeypatch.setattr(space, "get_token", lambda: "hf_some")
    assert space.publish(tmp_path, "someone/lab").endswith("/spaces/someone/lab")
    assert calls == [("someone/lab", "space", "gradio"), ("someone/lab", "space", tmp_path)]
