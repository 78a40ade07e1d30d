"""The page over another CLIP than the bundled one: only what was made from it is on the shelf."""

import subprocess
import sys
from pathlib import Path

import pytest
from tiny import random_adapter, save_siglip

from copra_lab.adapters import save_adapter
from copra_lab.models import load_clip
from copra_lab.page import model_line
from copra_lab.page.state.lab import BASE, Lab

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def own(tmp_path_factory) -> tuple[str, Path]:
    """A model's folder, and one of adapters: one of that model, one of the bundled one, and one
    whose file is broken.
    """
    folder = tmp_path_factory.mktemp("own")
    save_siglip(folder / "model")
    save_adapter(
        random_adapter(load_clip(folder / "model"), rank=2),
        folder / "adapters" / "digits" / "lora-seed-0",
    )
    save_adapter(
        random_adapter(load_clip(), rank=2), folder / "adapters" / "digits" / "lora-seed-1"
    )
    (folder / "adapters" / "digits" / "lora-seed-2").mkdir()
    (folder / "adapters" / "digits" / "lora-seed-2" / "adapter_config.json").write_text("{}")
    return str(folder / "model"), folder / "adapters"


@pytest.mark.slow
def test_adapters_of_another_base_are_left_out(own):
    model, adapters = own
    lab = Lab((adapters,), "float32", clip_name=model)
    assert list(lab.tasks()) == ["digits"]
    assert lab.clip is load_clip(model)
    assert [label for label, _ in lab.menu("digits")][:2] == [
        "LoRA, seed 0",
        "LoRA, seed 2",
    ]  # the broken one says so when it is chosen
    key = lab.adapters("digits")[0][1]
    assert lab.adapter("digits", key).base == lab.clip.hash
    assert len(lab.adapter("digits", BASE)) == 0
    assert lab.prompt_tasks() == []  # those that ship are of the bundled one
    assert lab.clip.hash in model_line(lab)
    bench = lab.bench("digits")
    assert bench.clip is lab.clip
    assert bench.split.images.shape[1] == 32
    assert 0 <= bench.accuracy(lab.adapter("digits", key)).value <= 1


def test_with_the_bundled_one_nothing_is_left_out(own):
    assert len(Lab((own[1],)).adapters("digits")) == 3


@pytest.mark.slow
@pytest.mark.parametrize("case", ["no adapter", "no model"])
def test_the_command_says_what_is_missing(own, case):
    model, adapters = own
    options = (
        ["--model", "nowhere"]
        if case == "no model"
        else [
            "--model",
            str(Path(model).parent / "other"),
            "--adapters",
            str(adapters.parent / "none"),
        ]
    )
    if case == "no adapter":
        save_siglip(Path(model).parent / "other", seed=1)
        save_adapter(
            random_adapter(load_clip(), rank=1, kinds=("q",)),
            adapters.parent / "none" / "digits" / "lora-seed-0",
        )
    done = subprocess.run(
        [sys.executable, "app.py", "--no-browser", *options],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2
    assert "Traceback" not in done.stderr
    said = done.stderr.splitlines()[-1]
    assert (
        "no CLIP 'nowhere'" if case == "no model" else "no adapter was made from other (weights "
    ) in said
