import copy
import json
import shutil

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_adapter, tiny_clip

from copra_lab.adapters import save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.models import load_clip, to_hugging_face
from copra_lab.models.clip import weights_hash
from copra_lab.tasks import load_task, task_names


@pytest.fixture(scope="module")
def clip():
    return load_clip()


def test_the_bundled_clip_is_open_clips_own_and_small(clip):
    from open_clip.model import CLIP

    assert type(clip.model) is CLIP
    assert clip.layers == 12
    assert clip.side == 64
    assert not any(p.requires_grad for p in clip.model.parameters())
    assert not clip.model.training
    assert load_clip() is clip
    assert load_clip("emoji-clip") is clip
    assert clip.hash == weights_hash(clip.model.state_dict())


@settings(max_examples=200, deadline=None)
@given(st.text(max_size=40))
def test_any_text_encodes(text):
    clip = load_clip()
    tokens = clip.tokenizer([text])
    assert tokens.shape == (1, 32)
    assert int(tokens.min()) >= 0
    assert int(tokens.max()) == clip.tokenizer.eot_token_id


@pytest.mark.slow
def test_the_cut_vocabulary_cuts_prompts_as_clip_does(clip):
    from open_clip.tokenizer import SimpleTokenizer

    full = SimpleTokenizer()
    for name in task_names():
        for prompt in load_task(name).prompts:
            ours, theirs = (
                [t.decoder[i] for i in t.encode(prompt)] for t in (clip.tokenizer, full)
            )
            assert ours == theirs


def test_features_are_open_clips_and_normalised(clip):
    task = load_task("novel-kinds")
    images = task.val.images[:7]
    f = clip.image_features(images, batch=3)
    with torch.no_grad():
        expected = clip.model.encode_image(clip.pixels(images), normalize=True)
    torch.testing.assert_close(f, expected, atol=1e-6, rtol=0)
    p = clip.probabilities(images, task.prompts)
    torch.testing.assert_close(p.sum(-1), torch.ones(7))
    with pytest.raises(ValueError, match="uint8 images"):
        clip.image_features(images.float())


def test_other_sizes_are_resized(clip):
    images = torch.randint(0, 255, (2, 100, 80, 3), dtype=torch.uint8)
    assert clip.pixels(images).shape == (2, 3, 64, 64)


@torch.no_grad()
def test_peft_on_hugging_face_agrees_on_the_bundled_clip(clip, tmp_path):
    from peft import PeftModel

    adapter = random_adapter(clip, rank=2, size=0.05)
    save_adapter(adapter, tmp_path)
    # In float64, where logits of up to 88 may be asked to agree to 1e-5.
    theirs = (
        PeftModel.from_pretrained(to_hugging_face(clip).double(), str(tmp_path)).double().eval()
    )
    x, tokens = (
        clip.pixels(load_task("digits").val.images[:6]).double(),
        clip.tokenizer(["a handwritten three", "a fox"]),
    )
    merged = copy.deepcopy(clip.model).double()
    merged.load_state_dict(merged.state_dict() | merged_weights(merged, adapter))
    cosines = (
        F.normalize(merged.encode_image(x), dim=-1)
        @ F.normalize(merged.encode_text(tokens), dim=-1).T
    )
    got = theirs(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(got, merged.logit_scale.exp() * cosines, atol=1e-5, rtol=0)


@pytest.fixture
def folder(clip, tmp_path):
    from importlib.resources import files

    shutil.copytree(str(files("copra_lab") / "assets" / "clip"), tmp_path / "clip")
    return tmp_path / "clip"


def test_a_folder_in_open_clips_layout_is_the_same_model(clip, folder):
    assert load_clip(folder).hash == clip.hash


def test_a_damaged_folder_gives_one_clear_error(folder):
    weights, config = folder / "open_clip_model.safetensors", folder / "open_clip_config.json"
    whole, about = weights.read_bytes(), json.loads(config.read_text())
    for cut in (0, 10, len(whole) // 2):
        weights.write_bytes(whole[:cut])
        with pytest.raises(ValueError, match="is damaged"):
            load_clip(folder)
    weights.write_bytes(whole)
    config.write_text(json.dumps(about | {"model_cfg": about["model_cfg"] | {"embed_dim": 64}}))
    with pytest.raises(
        ValueError,
        match=r"does not fit the architecture .*: its 'text_projection' has shape \(128, 128\), where \(128, 64\) is expected",
    ):
        load_clip(folder)
    for text in (
        "{",
        "[]",
        '{"model_cfg": {}}',
        '{"model_cfg": {"strange": 1}, "preprocess_cfg": {}}',
    ):
        config.write_text(text)
        with pytest.raises(ValueError, match="not an open_clip configuration"):
            load_clip(folder)
    config.unlink()
    with pytest.raises(FileNotFoundError, match="is missing"):
        load_clip(folder)


def test_no_hugging_face_twin_is_said():
    clip = tiny_clip()
    import dataclasses

    with pytest.raises(ValueError, match="no Hugging Face twin"):
        to_hugging_face(dataclasses.replace(clip, model=torch.nn.Linear(2, 2)))
