"""The recipe of the bundled CLIP: what it learns from, and that a run goes on where it stopped. Its
teachers are replaced by random numbers.
"""

import argparse
import json
import math

import numpy as np
import photos  # recipes/
import pretrain
import pretraining_data
import pytest
import text_tower
import torch
from captions import cut_merges, seen_photo
from muon import Muon, orthogonal
from PIL import Image
from safetensors.torch import load_file
from student import Replicas, atomic, build, tokenizer
from torch import nn


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """Tiny ImageNet's archive in small: two classes, one of them held out (a banana), 75 images
    each.
    """
    root, r = tmp_path_factory.mktemp("photos") / "tiny", np.random.default_rng(0)
    for wnid in ("n01", "n02"):
        folder = root / "train" / wnid / "images"
        folder.mkdir(parents=True)
        for i in range(75):
            Image.fromarray(r.integers(0, 255, (64, 64, 3), np.uint8)).save(folder / f"{i:03}.JPEG")
    (root / "words.txt").write_text("n01\ttabby, tabby cat\nn02\tbanana\n")
    return root


def test_photographs_are_read_whatever_folder_they_lie_in(pictures, tmp_path):
    archive = photos.load_photos(str(pictures))
    for wnid, name in (("n01", "tabby"), ("n02", "banana")):
        (tmp_path / name).symlink_to(pictures / "train" / wnid / "images")
    folders = photos.load_photos(str(tmp_path))
    assert archive.names == ("banana", "tabby")
    assert archive.images.shape == (150, 64, 64, 3)
    assert folders.names == archive.names
    assert (folders.images == archive.images).all()


def test_what_is_kept_for_card_and_choice_is_not_trained_on(pictures):
    found = photos.load_photos(str(pictures))
    parts = [set(found.rows(part).tolist()) for part in ("train", "choice", "card")]
    assert [len(p) for p in parts] == [10, 40, 100]
    assert len(set.union(*parts)) == 150
    assert len(photos.load_photos(str(pictures), card=0).rows("card")) == 0


@pytest.mark.parametrize("shape", [(3, 16, 40), (2, 40, 16), (1, 8, 8)])
def test_muon_makes_directions_orthogonal(shape):
    x = torch.randn(shape, generator=torch.Generator().manual_seed(0))
    ours = orthogonal(x)
    u, _, v = torch.linalg.svd(x, full_matrices=False)
    assert torch.linalg.svdvals(ours).sub(1).abs().max() < 0.35
    core = u.mT @ ours @ v.mT
    assert (core - torch.diag_embed(core.diagonal(dim1=1, dim2=2))).abs().max() < 1e-4


def test_muon_steps_as_torchs_own():
    g = torch.Generator().manual_seed(1)
    ours, theirs = (nn.Parameter(torch.ones(12, 30)) for _ in range(2))
    mine, other = (
        Muon([ours], 0.01),
        torch.optim.Muon([theirs], 0.01, weight_decay=0.05, adjust_lr_fn="match_rms_adamw"),
    )
    for _ in range(3):
        ours.grad = torch.randn(12, 30, generator=g)
        theirs.grad = ours.grad.clone()
        mine.step()
        other.step()
    moved = (theirs - 1).norm()
    assert (ours - theirs).norm() < 0.02 * moved  # theirs is in bfloat16


def test_parts_on_threads_have_the_gradient_of_the_whole():
    torch.manual_seed(0)
    layer, x = nn.Linear(6, 3), torch.randn(8, 6)
    grads = []
    for threads in (1, 4):
        replicas = Replicas(dict(layer.named_parameters()), threads, "cpu")
        replicas.half = False
        numbers = replicas.gradients(
            lambda i, n=8 // threads: (
                (loss := layer(x[i * n : (i + 1) * n]).square().mean()),
                {"loss": loss.item()},
            )
        )
        grads.append((layer.weight.grad.clone(), numbers["loss"]))
    assert torch.allclose(grads[0][0], grads[1][0], atol=1e-6)
    assert math.isclose(grads[0][1], grads[1][1], rel_tol=1e-5)


@pytest.fixture(scope="module")
def data(pictures, tmp_path_factory):
    with pytest.MonkeyPatch.context() as m:
        m.setattr(
            pretraining_data,
            "image_features",
            lambda images, **_: torch.randn(len(images), 1280).half(),
        )
        return pretraining_data.Data(
            tmp_path_factory.mktemp("data"), [photos.load_photos(str(pictures), card=20)]
        )


@pytest.fixture
def begun(data, monkeypatch, pictures, tmp_path):
    """Starts a run of so many images in a folder, which it gives a vocabulary and a text tower."""
    monkeypatch.setattr(text_tower, "TEMPLATES", {"photo": ("{}",)})
    source = photos.load_photos(str(pictures), card=20)
    cut_merges(["a cat"], tmp_path / "merges.txt.gz")
    clip = build(tokenizer(tmp_path).vocab_size)
    atomic(
        {k: v for k, v in clip.state_dict().items() if not k.startswith("visual")},
        tmp_path / "text.safetensors",
    )

    def start(work, images: int, **more) -> pretrain.Run:
        work.mkdir(exist_ok=True)
        for file in (
            tmp_path / "merges.txt.gz",
            tmp_path / "text.safetensors",
            *tmp_path.glob("*/captions-*"),
        ):
            (work / file.name).write_bytes(file.read_bytes())
        defaults = {
            "device": "cpu",
            "threads": 1,
            "batch": 16,
            "lr": 1e-3,
            "decay": False,
            "minutes": math.inf,
            "images": images,
        }
        run = pretrain.Run(work, data, [source], argparse.Namespace(**defaults | more))
        run.train()
        return run

    return start


@pytest.mark.slow
def test_a_run_goes_on_where_it_stopped(begun, tmp_path):
    whole = begun(tmp_path / "whole", 64)
    begun(tmp_path / "parts", 32)
    again = begun(tmp_path / "parts", 64)
    assert again.images == whole.images == 64
    for name, weight in whole.student.state_dict().items():
        assert torch.equal(weight, again.student.state_dict()[name]), name
    before = {k: v.clone() for k, v in again.student.state_dict().items()}
    again.save()
    assert all(
        torch.equal(v, before[k]) for k, v in again.student.state_dict().items()
    )  # what is written is the average, aside
    last = json.loads((tmp_path / "parts" / "log.jsonl").read_text().splitlines()[-1])
    assert set(last["choice"]) == {"tiny, 1 seen", "tiny, 1 held out"}
    # The decay is not handed on: another machine goes on with the stable part.
    begun(tmp_path / "parts", 96, decay=True)
    state = load_file(tmp_path / "parts" / "state.safetensors")
    assert torch.equal(state["student.scale"], whole.student.scale.detach().half())
    other = tmp_path / "other"
    other.mkdir()
    pretrain.begin_from(tmp_path / "parts", other)
    assert begun(other, 64).images == 64


def test_no_held_out_photograph_is_in_a_batch(data):
    assert not seen_photo("banana")
    assert "banana" not in data.names
    assert len(data.photos) == 35
    names = {data.names[i] for seed in range(8) for i in data.batch(64, [seed, 0])["name"].tolist()}
    assert {"tabby", "cat"} <= names


def test_a_batch_is_the_same_for_the_same_seed(data):
    one, two, other = (data.batch(32, [seed, 0]) for seed in (3, 3, 4))
    assert all(torch.equal(one[k], two[k]) for k in one)
    assert not torch.equal(one["image"], other["image"])
    assert one["image"].shape == (32, 3, 64, 64)
