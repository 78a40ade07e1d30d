"""Bundled CLIPs of earlier versions are loaded by name, from their release's wheel."""

import zipfile
from pathlib import Path

import pytest
from tiny import save_clip

from copra_lab.models import clip as of_clip
from copra_lab.models import earlier, load_clip, loading

NAME = "emoji-clip-0.0.9"


@pytest.fixture
def wheel(tmp_path, monkeypatch) -> Path:
    """The wheel of a release with a tiny CLIP, where it is to be put by hand."""
    monkeypatch.setenv("COPRA_LAB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(loading, "_loaded", {})
    save_clip(tmp_path / "clip")
    weights = load_clip(tmp_path / "clip").hash.partition("-")[0]
    monkeypatch.setitem(earlier.EARLIER, NAME, weights)
    file = tmp_path / "cache" / "clips" / "copra_lab-0.0.9-py3-none-any.whl"
    file.parent.mkdir(parents=True)
    with zipfile.ZipFile(file, "w") as z:
        z.writestr("copra_lab/__init__.py", "raise SystemExit('nothing of a wheel is run')")
        for part in (tmp_path / "clip").iterdir():
            z.write(part, f"copra_lab/assets/clip/{part.name}")
    return file


def test_an_earlier_clip_is_taken_out_of_its_wheel_once(wheel, tmp_path, monkeypatch):
    clip = load_clip(NAME)
    assert (clip.name, clip.hash) == (NAME, load_clip(tmp_path / "clip").hash)
    assert sorted(f.name for f in wheel.parent.iterdir()) == [NAME]
    monkeypatch.setattr(loading, "_loaded", {})
    assert load_clip(NAME).hash == clip.hash


def test_a_wheel_that_is_not_there_is_downloaded_from_the_index(wheel, monkeypatch):
    data, asked = wheel.read_bytes(), []
    wheel.unlink()

    def download(url, file):
        asked.append(url)
        file.write_bytes(data)

    monkeypatch.setattr(earlier, "download", download)
    load_clip(NAME)
    assert asked == [
        "https://files.pythonhosted.org/packages/py3/c/copra-lab/copra_lab-0.0.9-py3-none-any.whl"
    ]


def test_without_network_the_error_says_where_to_put_the_wheel(wheel, monkeypatch):
    wheel.unlink()

    def download(url, file):
        raise FileNotFoundError(f"{url} cannot be downloaded: no route")

    monkeypatch.setattr(earlier, "download", download)
    with pytest.raises(ConnectionError) as e:
        load_clip(NAME)
    assert str(wheel) in str(e.value)
    assert "no route" in str(e.value)


def test_another_clip_under_the_name_is_refused(wheel, monkeypatch):
    monkeypatch.setitem(earlier.EARLIER, NAME, "0" * 16)
    with pytest.raises(ValueError, match=f"does not hold {NAME}; remove it"):
        load_clip(NAME)


@pytest.mark.parametrize("damage", ["cut", "empty"])
def test_a_damaged_wheel_is_one_sentence(wheel, damage):
    if damage == "cut":
        wheel.write_bytes(wheel.read_bytes()[:-200])
    else:
        zipfile.ZipFile(wheel, "w").close()
    with pytest.raises(ValueError, match="remove it and call again"):
        load_clip(NAME)


def test_what_was_trained_on_an_earlier_clip_says_its_name(wheel):
    with pytest.raises(ValueError, match=r"load_clip\('emoji-clip-0.0.9'\)"):
        of_clip.check_base("adapter", load_clip(NAME).hash, "1" * 16)
