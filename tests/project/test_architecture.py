"""The pictures of the architecture are what the code says, and its page names files that exist."""

import re
from pathlib import Path

import architecture
import pytest

ROOT = Path(__file__).parents[2]
PAGES = [ROOT / "docs" / "architecture.md", *sorted((ROOT / "docs" / "decisions").glob("*.md"))]


@pytest.mark.parametrize("file", [architecture.PACKAGES, architecture.ROOMS], ids=lambda f: f.name)
def test_the_committed_picture_is_what_the_code_says(file):
    assert file.read_text(encoding="utf-8") == architecture.pictures()[file], (
        "run recipes/architecture.py"
    )


def test_an_arrow_that_others_imply_is_left_out():
    edges = {("a", "b"), ("b", "c"), ("a", "c"), ("d", "c")}
    assert architecture.needed(edges) == [("a", "b"), ("b", "c"), ("d", "c")]


def test_a_package_without_a_caption_is_named(monkeypatch):
    monkeypatch.delitem(architecture.CAPTIONS, "zoo")
    with pytest.raises(ValueError, match="captions and layers differ: zoo"):
        architecture.pictures()


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_a_page_names_files_and_folders_that_exist(page):
    """`merging/sparse.py` is a file of the package, `tests/support` one of the project; `NN` and
    `PACKAGE` stand for a name.
    """
    named = re.findall(r"`([\w.-]+/[\w./-]*)`", page.read_text(encoding="utf-8"))
    paths = [n for n in named if not re.search(r"\bNN_|PACKAGE", n)]
    homes = (ROOT, ROOT / "copra_lab", ROOT / "copra_lab" / "page")
    assert [p for p in paths if not any((home / p).exists() for home in homes)] == []


def test_every_package_has_its_line():
    page = PAGES[0].read_text(encoding="utf-8")
    lines = set(re.findall(r"^\| `(\w+)(?:/|\.py)?` \|", page, re.MULTILINE))
    assert lines >= set(architecture.CAPTIONS)
    assert lines >= set(architecture.ROOM_CAPTIONS)
