"""Drawings are rendered once, and no accident leaves a wrong or half-written cache behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from digest import digest

from copra_lab.tasks.emoji import drawings

FA = f"fa-v{drawings.VERSION}"
CLEAN = {f"{FA}.safetensors", f"{FA}.lock"}


def left_in(folder: Path) -> set[str]:
    """Files in `folder`. Windows and some platforms remove the lock file with the lock."""
    return {f.name for f in folder.iterdir()} | {f"{FA}.lock"}


class Few:
    """Thirty icons, so that rendering takes milliseconds, in a cache folder of its own.
    ``rendered`` counts.
    """

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch):
        icons, render = drawings._icons, drawings._render
        self.folder, self.rendered = folder, 0

        def few(style):
            names, paint = icons(style)
            return names[:30], paint

        def counted(style):
            self.rendered += 1
            return render(style)

        monkeypatch.setenv("COPRA_LAB_CACHE", str(folder))
        monkeypatch.setattr(drawings, "_icons", few)
        monkeypatch.setattr(drawings, "_render", counted)
        self.truth = digest(render("fa"))

    @property
    def file(self) -> Path:
        return self.folder / f"{FA}.safetensors"

    def load(self) -> str:
        """As a new process would, past the memory of this one."""
        return digest(drawings.drawings.__wrapped__("fa"))


@pytest.fixture
def few(tmp_path, monkeypatch) -> Few:
    return Few(tmp_path / "cache", monkeypatch)


def test_the_cache_is_written_once(few):
    assert [few.load() for _ in range(3)] == [few.truth] * 3
    assert few.rendered == 1
    assert left_in(few.folder) == CLEAN


def test_a_new_version_is_rendered_anew(few, monkeypatch):
    few.load()
    monkeypatch.setattr(drawings, "VERSION", "next")
    assert few.load() == few.truth
    assert few.rendered == 2


@pytest.mark.parametrize("keep", [0, 7, 100, 0.5, -1])
def test_a_truncated_cache_is_rendered_anew(few, keep):
    few.load()
    whole = few.file.read_bytes()
    few.file.write_bytes(whole[: int(keep * len(whole)) if isinstance(keep, float) else keep])
    assert [few.load(), few.load()] == [few.truth] * 2
    assert few.rendered == 2


@pytest.mark.slow
def test_one_flipped_bit_anywhere_is_noticed(few):
    few.load()
    whole = few.file.read_bytes()
    header = 8 + int.from_bytes(whole[:8], "little")
    rng = np.random.default_rng(0)
    for at in [*range(8), *rng.integers(8, header, 150), *rng.integers(header, len(whole), 50)]:
        damaged = bytearray(whole)
        damaged[at] ^= 1 << int(rng.integers(8))
        few.file.write_bytes(damaged)
        assert few.load() == few.truth, f"byte {at} of {len(whole)}, header {header}"


def test_a_cache_folder_that_cannot_be_made_costs_only_time(few):
    few.folder.write_text("a file where the folder should be")
    assert [few.load(), few.load()] == [few.truth] * 2
    assert few.rendered == 2


def test_a_cache_that_can_only_be_read_is_read(few):
    few.load()
    lock = few.file.with_suffix(".lock")
    lock.unlink(missing_ok=True)
    lock.mkdir()  # cannot be locked, by root either
    assert few.load() == few.truth
    assert few.rendered == 1


def test_a_full_disk_costs_only_time(few, monkeypatch):
    def full(self, data):
        with open(self, "wb") as f:
            f.write(data[:1000])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "write_bytes", full)
    assert few.load() == few.truth
    assert few.rendered == 1
    assert left_in(few.folder) == {f"{FA}.lock"}


def test_an_unknown_style_is_named_with_the_known_ones():
    with pytest.raises(ValueError, match=r"'crayon'; choose one of openmoji, twemoji, mdi, fa"):
        drawings.drawings("crayon")


def test_both_emoji_styles_draw_the_same_concepts():
    a, b = drawings.drawings("openmoji"), drawings.drawings("twemoji")
    assert a.keys == b.keys
    assert a.names == b.names
    assert len(a) > 1850
    assert all(
        d.rgba.shape == (len(d), drawings.SIZE, drawings.SIZE, 4)
        and d.rgba[..., 3].any(axis=(1, 2)).all()
        for d in (a, b)
    )
    assert not np.array_equal(a.rgba, b.rgba)


# Whole processes, with all of Font Awesome: half a second each.

CHILD = """
import os, signal, sys
sys.path[:0] = {path!r}
from copra_lab.tasks.emoji import drawings
from digest import digest

def die(*_):
    os.kill(os.getpid(), signal.SIGKILL)

render, replace, rendered = drawings._render, os.replace, []
drawings._render = lambda style: rendered.append(style) or render(style)
{hook}
print(digest(drawings.drawings("fa")), len(rendered))
"""


def start(folder: Path, hook: str = "") -> subprocess.Popen:
    tests = Path(__file__).parents[1]
    code = CHILD.format(path=[str(tests / "support"), str(tests.parent)], hook=hook)
    env = {**os.environ, "COPRA_LAB_CACHE": str(folder)}
    return subprocess.Popen(
        [sys.executable, "-c", code],
        env=env,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def finish(process: subprocess.Popen) -> tuple[str, int]:
    out, err = process.communicate(timeout=120)
    assert process.returncode == 0, err
    found, rendered = out.split()
    return found, int(rendered)


@pytest.fixture(scope="module")
def truth() -> str:
    return digest(drawings._render("fa"))


@pytest.mark.slow
def test_two_processes_at_once_render_once(tmp_path, truth):
    results = [finish(p) for p in [start(tmp_path), start(tmp_path)]]
    assert sorted(results) == [(truth, 0), (truth, 1)]
    assert left_in(tmp_path) == CLEAN


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(signal, "SIGKILL"), reason="no kill -9 on this platform")
@pytest.mark.parametrize(
    "hook",
    [
        pytest.param(
            "drawings.tqdm = lambda them, **_: (die() if i == 300 else x for i, x in "
            "enumerate(them))",
            id="rendering",
        ),
        pytest.param(
            "drawings.Path.write_bytes = lambda self, data: (open(self, 'wb', 0).write(data[: "
            "len(data) // 2]), die())",
            id="writing",
        ),
        pytest.param("os.replace = die", id="before-the-file-appears"),
        pytest.param(
            "os.replace = lambda *paths: (replace(*paths), die())", id="after-the-file-appears"
        ),
    ],
)
def test_kill_9_during_the_first_rendering_leaves_nothing_wrong(tmp_path, truth, hook):
    killed = start(tmp_path, hook)
    killed.communicate(timeout=120)
    assert killed.returncode == -signal.SIGKILL
    assert finish(start(tmp_path))[0] == truth
    assert left_in(tmp_path) == CLEAN
