"""What trainings wrap around a CLIP's weights is taken off where it is unambiguous; else one
sentence names what does not fit.
"""

import copy
import json
import re
import shlex
import subprocess
import sys
from collections import OrderedDict

import numpy as np
import open_clip
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import perturb

from copra_lab.models import load_clip
from copra_lab.models.checkpoints import read_weights

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1},
}
MARKS = {
    "input_resolution": torch.tensor(32),
    "context_length": torch.tensor(16),
    "vocab_size": torch.tensor(49408),
}


@pytest.fixture(scope="module")
def architectures(tmp_path_factory):
    """Two that open_clip knows by name, in small: with GELU and with QuickGELU."""
    folder = tmp_path_factory.mktemp("configs")
    for name, more in (("small-ViT", {}), ("small-ViT-quickgelu", {"quick_gelu": True})):
        (folder / f"{name}.json").write_text(json.dumps(CONFIG | more))
    open_clip.add_model_config(folder)
    return "small-ViT", "small-ViT-quickgelu"


@pytest.fixture(scope="module")
def weights() -> dict[str, torch.Tensor]:
    torch.manual_seed(0)
    return perturb(open_clip.CLIP(**copy.deepcopy(CONFIG))).state_dict()


def refused(match: str, name: str) -> None:
    with pytest.raises(ValueError, match=match) as e:
        load_clip(name)
    assert "\n" not in str(e.value) and "damaged" not in str(e.value), str(e.value)


def under(prefix: str, weights):
    return {prefix + k: v for k, v in weights.items()}


WRAPPINGS = {
    "model_state_dict": lambda w: {
        "epoch": 3,
        "model_state_dict": w,
        "optimizer_state_dict": {"state": {0: {"step": torch.tensor(1.0)}}},
    },
    "model": lambda w: {"model": w, "step": 7},
    "model in a checkpoint": lambda w: {"checkpoint": {"model": w}},
    "compiled": lambda w: under("_orig_mod.", w),
    "compiled, in parallel": lambda w: {"state_dict": under("module._orig_mod.", w)},
    "in parallel, compiled": lambda w: under("_orig_mod.module.", w),
    "Lightning": lambda w: {
        "state_dict": under("model.", w),
        "pytorch-lightning_version": "2.4.0",
        "hparams": {"lr": 0.1},
    },
    "an attribute of one's own": lambda w: under("clip_model.backbone.", w),
    "numbers among the weights": lambda w: {**w, "epoch": 3, "name": "mine"},
    "an ordered dictionary": lambda w: OrderedDict(under("module.", w)),
    "a number as a row": lambda w: {**w, "logit_scale": w["logit_scale"].reshape(1)},
}


@pytest.mark.slow
@pytest.mark.parametrize("how", WRAPPINGS)
def test_what_is_wrapped_around_weights_is_taken_off(tmp_path, architectures, weights, how):
    torch.save(WRAPPINGS[how](weights), tmp_path / "x.pt")
    found = load_clip(f"{architectures[0]}:{tmp_path / 'x.pt'}").model.state_dict()
    assert found.keys() == weights.keys()
    assert all(torch.equal(found[k], v) for k, v in weights.items())


prefixes = st.lists(
    st.sampled_from(["module", "_orig_mod", "model", "clip", "net"]), max_size=3
).map(lambda p: "".join(f"{x}." for x in p))
containers = st.lists(
    st.sampled_from(["state_dict", "model", "model_state_dict", "weights"]), max_size=3
)


@settings(max_examples=60)
@given(prefix=prefixes, inside=containers, safe=st.booleans())
def test_random_wrappings_are_taken_off(tmp_path_factory, prefix, inside, safe):
    weights = {
        "logit_scale": torch.zeros(()),
        "visual.proj": torch.ones(2, 3),
        "text.model.weight": torch.ones(2),
    }
    file, wrapped = (
        tmp_path_factory.mktemp("x") / ("x.safetensors" if safe and not inside else "x.pt"),
        under(prefix, weights),
    )
    for name in inside:
        wrapped = {name: wrapped, "epoch": 1}
    (save_file if file.suffix == ".safetensors" else torch.save)(wrapped, file)
    assert read_weights(file).keys() == weights.keys()


@pytest.mark.slow
def test_openais_marks_in_an_architectures_file(tmp_path, architectures, weights):
    """They say that the weights are OpenAI's own, trained with QuickGELU: open_clip warns of such,
    and so do we.
    """
    plain, quick = architectures
    save_file({**weights, **MARKS}, tmp_path / "x.safetensors")
    with pytest.warns(
        UserWarning,
        match=r"x.safetensors was trained with QuickGELU, and this architecture computes GELU; give 'openai:",
    ):
        assert (
            load_clip(f"{plain}:{tmp_path / 'x.safetensors'}").model.state_dict().keys()
            == weights.keys()
        )
    right = load_clip(
        f"{quick}:{tmp_path / 'x.safetensors'}"
    )  # without a warning, which would be an error here
    assert right.hash == load_clip(f"openai:{tmp_path / 'x.safetensors'}").hash
    assert right.hash != load_clip(f"{plain}:{tmp_path / 'x.safetensors'}").hash


def test_a_tag_with_gelu_under_an_architecture_with_quick_gelu(
    tmp_path, architectures, weights, monkeypatch
):
    save_file(weights, tmp_path / "x.safetensors")
    monkeypatch.setitem(
        open_clip.pretrained._PRETRAINED,
        architectures[1],
        {"some_tag": {"file": str(tmp_path / "x.safetensors")}},
    )
    with pytest.warns(
        UserWarning,
        match=r"was trained with GELU, and this architecture computes QuickGELU; give 'small-ViT:some_tag'",
    ):
        load_clip(f"{architectures[1]}:some_tag")


def test_a_file_whose_architecture_is_prepared_in_two_ways(
    tmp_path, architectures, weights, monkeypatch
):
    save_file(weights, tmp_path / "y.safetensors")
    tags = {"a": {"file": "", "mean": (0.1,) * 3}, "b": {"file": "", "mean": (0.2,) * 3}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architectures[0], tags)
    with pytest.warns(
        UserWarning,
        match="they are prepared as for 'a', not as for 'b'; if that is wrong, give a folder",
    ):
        assert load_clip(f"{architectures[0]}:{tmp_path / 'y.safetensors'}").mean == (0.1,) * 3


def test_a_clip_trained_with_siglips_loss_keeps_its_bias(tmp_path, architectures, weights):
    torch.save({**weights, "logit_bias": torch.tensor(-10.0)}, tmp_path / "x.pt")
    clip = load_clip(f"{architectures[0]}:{tmp_path / 'x.pt'}")
    assert float(clip.model.logit_bias) == -10
    plain = {k: v for k, v in clip.model.state_dict().items() if k != "logit_bias"}
    assert all(torch.equal(plain[k], v) for k, v in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("change", "why"),
    [
        (
            lambda w: {**w, "head.weight": torch.zeros(3, 4)},
            r"it holds 'head.weight' of shape \(3, 4\), which is not expected",
        ),
        (
            lambda w: {k: v for k, v in w.items() if k != "visual.ln_pre.bias"},
            r"it lacks 'visual.ln_pre.bias' of shape \(64,\)",
        ),
        (
            lambda w: {**w, "visual.proj": torch.zeros(64, 16)},
            r"its 'visual.proj' has shape \(64, 16\), where \(64, 32\) is expected",
        ),
        (
            lambda w: {k: v for k, v in w.items() if "visual" in k},
            r"it lacks 'positional_embedding' of shape \(16, 64\)",
        ),
        (
            lambda w: under("model.", w) | {"loss.weight": torch.zeros(2)},
            "holds 'loss.weight' beside the model under 'model.'; save",
        ),
        (
            lambda w: under("student.", w) | under("teacher.", w),
            "holds several models, under 'student' and 'teacher'; save",
        ),
        (
            lambda w: {"model": w, "ema": w},
            "holds several models, under 'model' and 'ema'; save one as a file of its own",
        ),
        (lambda w: {"epoch": 3}, "holds no weights of a CLIP"),
        (lambda w: {"vision_model.x.weight": torch.zeros(2)}, "it holds 'vision_model.x.weight'"),
    ],
)
def test_what_does_not_fit_is_named(tmp_path, architectures, weights, change, why):
    torch.save(change(weights), tmp_path / "x.pt")
    refused(rf"x.pt .*{why}", f"{architectures[0]}:{tmp_path / 'x.pt'}")


@pytest.mark.slow
def test_numpys_numbers_and_the_command_that_leaves_them_out(tmp_path, architectures, weights):
    torch.save(
        {"model": weights, "best": np.float64(0.5), "history": [np.float32(1)]}, tmp_path / "x.pt"
    )
    with pytest.raises(
        ValueError,
        match=r"holds NumPy numbers .* if you trust it, keep only the tensors with `",
    ) as e:
        load_clip(f"{architectures[0]}:{tmp_path / 'x.pt'}")
    command = shlex.split(re.search("`(.*)`", str(e.value))[1])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True, capture_output=True)
    found = load_clip(f"{architectures[0]}:{tmp_path / 'x-tensors.pt'}").model.state_dict()
    assert all(torch.equal(found[k], v) for k, v in weights.items())
