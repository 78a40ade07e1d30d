import contextlib
import copy
import errno
import json
import os
import pickle
import re
import sqlite3
import warnings

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from safetensors.torch import save as to_bytes
from tiny import random_adapter, save_siglip, tiny_clip

from copra_lab.adapters import (
    Adapter,
    AdapterError,
    LowRank,
    load_adapter,
    merged_into,
    save_adapter,
)
from copra_lab.adapters.adapter import check_fits
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS
from copra_lab.merging import interpolate
from copra_lab.utils.files import write_atomically, written_aside


@pytest.fixture
def saved(tmp_path):
    save_adapter(random_adapter(tiny_clip()), tmp_path / "a")
    return tmp_path / "a"


def damage(folder, change):
    """Apply `change` to the tensors and write them without our header, as another program might."""
    tensors = load_file(folder / WEIGHTS)
    change(tensors)
    save_file(tensors, folder / WEIGHTS)


def test_what_is_saved_comes_back_to_the_byte(saved, tmp_path):
    clip = tiny_clip()
    again = load_adapter(saved, clip)
    assert again == random_adapter(clip)
    assert again.provenance == {"clip": clip.name}
    assert again.base == clip.hash
    save_adapter(again, tmp_path / "b")
    for name in (WEIGHTS, CONFIG):
        assert (saved / name).read_bytes() == (tmp_path / "b" / name).read_bytes()
    assert not list(saved.glob("*.part"))


def test_mixed_ranks_and_scales_survive_in_pefts_own_words_too(tmp_path):
    clip = tiny_clip()
    mixed = interpolate(
        random_adapter(clip, rank=2, kinds=("q", "k")),
        random_adapter(clip, rank=3, kinds=("k", "fc1"), scale=0.3),
        0.25,
    )
    save_adapter(mixed, tmp_path)
    assert load_adapter(tmp_path, clip) == mixed
    damage(tmp_path, lambda t: None)  # header gone: the scales come from adapter_config.json
    for name, d in load_adapter(tmp_path, clip).deltas.items():
        torch.testing.assert_close(d.delta(), mixed.deltas[name].delta())


def test_pefts_own_folder_is_read(tmp_path):
    from peft import LoraConfig, get_peft_model

    from copra_lab.models import to_hugging_face

    clip = tiny_clip()
    torch.manual_seed(0)
    theirs = get_peft_model(
        to_hugging_face(clip),
        LoraConfig(
            r=4,
            lora_alpha=8,
            use_rslora=True,
            target_modules=["q_proj", "fc2"],
            init_lora_weights=False,
        ),
    )
    theirs.save_pretrained(tmp_path)
    adapter = load_adapter(tmp_path, clip)
    assert len(adapter) == 2 * (3 + 2)
    assert adapter.base == ""
    name = "vision_model.encoder.layers.0.mlp.fc2"
    layer = theirs.base_model.model.get_submodule(name)
    torch.testing.assert_close(adapter.deltas[name].delta(), layer.get_delta_weight("default"))


def everything_random(config, model, folder):
    """What peft itself writes for `model`, with random A and B; returns peft's model."""
    from peft import get_peft_model

    torch.manual_seed(0)
    theirs = get_peft_model(model, config)
    for name, p in theirs.named_parameters():
        if "lora_" in name:
            torch.nn.init.normal_(p, std=0.1)
    theirs.save_pretrained(folder)
    return theirs.base_model.model


def test_pefts_own_ranks_and_alphas_for_some_matrices_are_followed(tmp_path):
    from peft import LoraConfig

    from copra_lab.models import to_hugging_face

    clip = tiny_clip()
    every = "q_proj k_proj v_proj out_proj fc1 fc2".split()
    patterns = {
        "rank_pattern": {"q_proj": 2, r"text_model.*\.fc1": 5},
        "alpha_pattern": {"layers.1.self_attn.v_proj": 9, "fc2": 1},
    }
    model = everything_random(
        LoraConfig(r=4, lora_alpha=6, target_modules=every, **patterns),
        to_hugging_face(clip),
        tmp_path,
    )
    adapter = load_adapter(tmp_path, clip)
    assert set(adapter.deltas) == set(clip.sites)
    assert {d.rank for d in adapter.deltas.values()} == {
        2,
        4,
        5,
    }
    for name, d in adapter.deltas.items():
        torch.testing.assert_close(d.delta(), model.get_submodule(name).get_delta_weight("default"))


@pytest.mark.parametrize("tower", ["CLIPVisionModel", "CLIPTextModel"])
def test_an_adapter_of_one_tower_alone_finds_it(tmp_path, tower):
    import transformers
    from peft import LoraConfig

    from copra_lab.models import to_hugging_face

    clip, cls = tiny_clip(), getattr(transformers, tower)
    whole = to_hugging_face(clip)
    part = cls(whole.config.vision_config if "Vision" in tower else whole.config.text_config)
    model = everything_random(LoraConfig(r=2, target_modules=["v_proj", "fc1"]), part, tmp_path)
    adapter, start = load_adapter(tmp_path, clip), "vision" if "Vision" in tower else "text"
    assert len(adapter) == 2 * (3 if start == "vision" else 2)
    assert all(n.startswith(f"{start}_model.") for n in adapter.deltas)
    layer = next(m for n, m in model.named_modules() if n.endswith("layers.1.mlp.fc1"))
    torch.testing.assert_close(
        adapter.deltas[f"{start}_model.encoder.layers.1.mlp.fc1"].delta(),
        layer.get_delta_weight("default"),
    )
    config = json.loads((tmp_path / CONFIG).read_text())
    (tmp_path / CONFIG).write_text(json.dumps(config | {"auto_mapping": None}))
    keys = set(load_file(tmp_path / WEIGHTS))
    if not any(
        "_model." in k.removeprefix("base_model.model.") for k in keys
    ):  # versions of transformers differ in this
        with pytest.raises(AdapterError, match="of the image or the text tower"):
            load_adapter(tmp_path, clip)


def test_an_adapter_inside_another_model_finds_its_matrices(tmp_path):
    from peft import LoraConfig

    from copra_lab.models import to_hugging_face

    clip = tiny_clip()

    class Wrapper(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.backbone = to_hugging_face(clip)

    everything_random(LoraConfig(r=2, target_modules=["q_proj", "fc2"]), Wrapper(), tmp_path)
    assert len(load_adapter(tmp_path, clip)) == 2 * (3 + 2)


TWICE = pytest.mark.filterwarnings("ignore:.*output projection of nn.MultiheadAttention twice")


def in_pefts_words(adapter, folder):
    """`adapter` as peft itself loads it on the Hugging Face CLIP from the folder that we write;
    merged, for pixels → features.
    """
    from peft import PeftModel

    from copra_lab.models import to_hugging_face

    save_adapter(adapter, folder)
    model = PeftModel.from_pretrained(to_hugging_face(tiny_clip()), folder).eval()
    return lambda x: torch.nn.functional.normalize(
        model.get_image_features(pixel_values=x).pooler_output, dim=-1
    )


@torch.no_grad()
def features(adapter, x, clip=None):
    return merged_into(clip or tiny_clip(), adapter).model.encode_image(x, normalize=True)


@TWICE
@pytest.mark.filterwarnings("ignore:The following alpha_pattern keys did not match:RuntimeWarning")
@pytest.mark.parametrize(
    "pattern", [{}, {"alpha_pattern": {"attn": 9}}, {"alpha_pattern": {"out_proj": 9}}]
)
def test_an_adapter_that_peft_put_on_open_clips_own_modules_is_read(tmp_path, pattern):
    """peft's wrapper of `nn.MultiheadAttention` shares one A over q, k and v and adapts the output
    projection too.
    """
    from peft import LoraConfig

    clip = tiny_clip()
    model = everything_random(
        LoraConfig(r=2, lora_alpha=3, target_modules=["attn", "c_fc"], **pattern),
        copy.deepcopy(clip.model),
        tmp_path,
    )
    adapter = load_adapter(tmp_path, clip)
    assert len(adapter) == 5 * (3 + 2)
    fused = model.visual.transformer.resblocks[1].attn
    deltas = [
        adapter.deltas[f"vision_model.encoder.layers.1.self_attn.{k}_proj"].delta() for k in "qkv"
    ]
    torch.testing.assert_close(torch.cat(deltas), fused.get_delta_weight("default"))
    out = adapter.deltas["vision_model.encoder.layers.1.self_attn.out_proj"].delta()
    torch.testing.assert_close(out, fused.base_layer.out_proj.get_delta_weight("default"))


@pytest.mark.filterwarnings("ignore:Could not find a config file:UserWarning")
@TWICE
def test_what_peft_trained_on_fused_q_k_v_is_saved_and_peft_reads_it(tmp_path):
    from peft import LoraConfig

    clip, x = tiny_clip(), torch.randn(3, 3, 32, 32)
    everything_random(
        LoraConfig(r=2, lora_alpha=3, target_modules=["attn", "c_fc"]),
        copy.deepcopy(clip.model),
        tmp_path,
    )
    adapter = load_adapter(tmp_path, clip)
    theirs = in_pefts_words(adapter, tmp_path / "ours")
    assert load_adapter(tmp_path / "ours", clip).hash == adapter.hash
    torch.testing.assert_close(theirs(x), features(adapter, x), atol=1e-5, rtol=0)
    assert (features(adapter, x) - features(Adapter({}), x)).abs().max() > 0.01


@pytest.mark.parametrize("trained", [True, False])
def test_the_output_projection_that_peft_counts_twice_is_told(tmp_path, trained):
    """If this fails with a newer peft, that one has mended it, and the warning has to go."""
    from peft import LoraConfig

    clip, x = tiny_clip(), torch.randn(3, 3, 32, 32)
    model = everything_random(
        LoraConfig(r=2, lora_alpha=3, target_modules=["attn"]), copy.deepcopy(clip.model), tmp_path
    )
    if not trained:
        damage(tmp_path, lambda t: [v.zero_() for k, v in t.items() if "out_proj.lora_B" in k])
    with pytest.warns(UserWarning, match="twice") if trained else contextlib.nullcontext():
        adapter = load_adapter(tmp_path, clip)
    if trained:
        twice = Adapter(
            {
                n: LowRank(d.A, d.B, d.scale * (2 if n.endswith("out_proj") else 1))
                for n, d in adapter.deltas.items()
            },
            adapter.base,
        )
        with torch.no_grad():
            theirs = model.encode_image(x, normalize=True)
        torch.testing.assert_close(theirs, features(twice, x), atol=1e-5, rtol=0)
        assert (theirs - features(adapter, x)).abs().max() > 0.01


def test_sites_that_share_a_matrix_are_saved_and_equal_afterwards(tmp_path):
    clip = tiny_clip()
    shared = torch.randn(2, 64)
    names = [n for n in clip.sites if n.startswith("vision") and n.endswith(("q_proj", "v_proj"))]
    adapter = Adapter(
        {n: LowRank(shared, torch.randn(192, 2)[:64].T.contiguous().T) for n in names}, clip.hash
    )
    save_adapter(adapter, tmp_path)
    assert load_adapter(tmp_path, clip) == adapter


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    from copra_lab.models import load_clip

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        folder = tmp_path_factory.mktemp("siglip")
        model = save_siglip(folder)
        return load_clip(folder), model


NATURAL = "q_proj k_proj v_proj out_proj fc1 fc2".split()


def suggested(message):
    """The target_modules that a refusal recommends."""
    return re.search(r"target_modules=r'(.+?)'", message)[1]


@pytest.mark.parametrize("side", ["Hugging Face", "open_clip"])
def test_an_adapter_on_siglips_pooling_head_is_refused_with_what_leaves_it_out(
    siglip, tmp_path, side
):
    from peft import LoraConfig

    clip, theirs = siglip
    base, names = (
        (theirs, NATURAL)
        if side == "Hugging Face"
        else (clip.model, ["qkv", "proj", "fc1", "fc2", "c_fc"])
    )
    everything_random(LoraConfig(r=2, target_modules=names), copy.deepcopy(base), tmp_path)
    with pytest.raises(AdapterError, match=r"head|attn_pool") as e:
        load_adapter(tmp_path, clip)
    assert "architecture" not in str(e.value)
    assert "merge_and_unload" in str(e.value)
    config = LoraConfig(r=2, lora_alpha=3, target_modules=suggested(str(e.value)))
    model = everything_random(config, copy.deepcopy(base), tmp_path)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # open_clip's texts go through nn.MultiheadAttention
        adapter = load_adapter(tmp_path, clip)
    assert set(adapter.deltas) == set(clip.sites)
    x = torch.rand(3, 3, 32, 32)
    with torch.no_grad():
        found = (
            model.get_image_features(pixel_values=x)
            if side == "Hugging Face"
            else model.encode_image(x)
        )
        found = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
        bare = clip.model.encode_image(x, normalize=True)
    torch.testing.assert_close(found, features(adapter, x, clip), atol=1e-5, rtol=0)
    assert (found - bare).abs().max() > 0.01
    save_adapter(adapter, tmp_path / "again")
    assert load_adapter(tmp_path / "again", clip).hash == adapter.hash


def test_what_peft_adapted_without_effect_is_left_out(siglip, tmp_path):
    """The forward pass of the pooling head never calls the adapter on its output projection, so its
    B stays at 0.
    """
    from peft import LoraConfig, get_peft_model

    clip, theirs = siglip
    model = get_peft_model(copy.deepcopy(theirs), LoraConfig(r=2, target_modules=NATURAL[:4]))
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.01)
    x = torch.rand(2, 3, 32, 32)
    for _ in range(2):
        optimizer.zero_grad()
        model.get_image_features(pixel_values=x).pooler_output.square().sum().backward()
        optimizer.step()
    model.eval().save_pretrained(tmp_path)
    assert any("head.attention.out_proj" in k for k in load_file(tmp_path / WEIGHTS))
    adapter = load_adapter(tmp_path, clip)
    with torch.no_grad():
        found = torch.nn.functional.normalize(
            model.get_image_features(pixel_values=x).pooler_output, dim=-1
        )
    torch.testing.assert_close(found, features(adapter, x, clip), atol=1e-5, rtol=0)


@pytest.mark.slow
@pytest.mark.parametrize(
    "module",
    [
        "visual_projection",
        "text_projection",
        "patch_embedding",
        "token_embedding",
        "position_embedding",
    ],
)
@pytest.mark.parametrize("held", [True, False])
def test_lora_outside_the_blocks_is_refused_for_what_it_is(tmp_path, module, held):
    from peft import LoraConfig

    from copra_lab.models import to_hugging_face

    clip = tiny_clip()
    everything_random(
        LoraConfig(r=2, target_modules=[module, "q_proj"]), to_hugging_face(clip), tmp_path
    )
    with pytest.raises(ValueError, match=f"it adapts .*{module}.*outside the matrices") as e:
        adapter = load_adapter(tmp_path, clip if held else None)
        check_fits(adapter, clip.sites)  # as a bench does with what was loaded without its CLIP
    assert "architecture" not in str(e.value)
    assert "\n" not in str(e.value)
    everything_random(
        LoraConfig(r=2, target_modules=suggested(str(e.value))), to_hugging_face(clip), tmp_path
    )
    assert set(load_adapter(tmp_path, clip).deltas) == set(clip.sites)


@pytest.mark.slow
@settings(max_examples=15, suppress_health_check=[HealthCheck.too_slow])
@TWICE
@given(
    side=st.sampled_from(["Hugging Face", "SigLIP", "open_clip", "open_clip's own attention"]), data=st.data(), r=st.integers(1, 3),
    alpha=st.sampled_from([1, 2, 5]), rslora=st.booleans(),
)  # fmt: skip
def test_what_peft_saved_is_its_model_or_refused(
    siglip, tmp_path_factory, side, data, r, alpha, rslora
):
    """Whatever peft adapts: equal features, but for the output projection that it counts twice; or
    a refusal that names a module outside.
    """
    from peft import LoraConfig

    from copra_lab.models import to_hugging_face

    clip = (
        siglip[0] if side == "SigLIP" else tiny_clip(block_type="custom" if "own" in side else None)
    )
    base = {
        "SigLIP": lambda: copy.deepcopy(siglip[1]),
        "Hugging Face": lambda: to_hugging_face(clip),
    }.get(side, lambda: copy.deepcopy(clip.model))()
    names = {
        "open_clip": ["attn", "c_fc", "c_proj", "conv1"],
        "open_clip's own attention": ["out_proj", "c_fc", "c_proj", "token_embedding"],
    }
    known = names.get(side, [*NATURAL, "patch_embedding"])
    targets = data.draw(st.lists(st.sampled_from(known), min_size=1, unique=True))
    patterns = {"rank_pattern": {targets[0]: 2}, "alpha_pattern": {targets[-1]: 7}}
    folder = tmp_path_factory.mktemp("peft")
    model = everything_random(
        LoraConfig(r=r, lora_alpha=alpha, use_rslora=rslora, target_modules=targets, **patterns),
        base,
        folder,
    )
    outside = {"conv1", "token_embedding", "patch_embedding"} | (
        {"out_proj", "fc1", "fc2"} if side == "SigLIP" else set()
    )
    if outside & set(targets):
        with pytest.raises(AdapterError, match="outside the matrices"):
            load_adapter(folder, clip)
        return
    adapter = load_adapter(folder, clip)
    if side == "open_clip":
        adapter = Adapter(
            {
                n: LowRank(d.A, d.B, d.scale * (2 if n.endswith("out_proj") else 1))
                for n, d in adapter.deltas.items()
            },
            adapter.base,
        )
    x = torch.rand(2, 3, 32, 32)
    with torch.no_grad():
        found = (
            model.encode_image(x)
            if side.startswith("open_clip")
            else model.get_image_features(pixel_values=x)
        )
        found = torch.nn.functional.normalize(getattr(found, "pooler_output", found), dim=-1)
    torch.testing.assert_close(found, features(adapter, x, clip), atol=1e-4, rtol=0)


def test_an_adapter_of_a_deeper_tower_says_so(tmp_path):
    save_adapter(random_adapter(tiny_clip(layers=3)), tmp_path)
    damage(tmp_path, lambda t: None)
    with pytest.raises(
        AdapterError, match="reaches layer 2 of the image tower, whose layers are 0 to 1"
    ):
        load_adapter(tmp_path, tiny_clip(layers=2))


def break_shape(t):
    key = next(iter(t))
    t[key] = t[key][:, :-1].contiguous()


def break_rank(t):
    key = next(k for k in t if "lora_A" in k)
    t[key] = t[key][:-1].contiguous()


def break_nan(t):
    next(iter(t.values()))[0, 0] = float("nan")


def rename(t):
    t["base_model.model.vision_model.encoder.layers.99.self_attn.q_proj.lora_A.weight"] = t.pop(
        next(k for k in t if "lora_A" in k)
    )


CASES = {
    "shape": (break_shape, "in this CLIP and"),
    "rank": (break_rank, "share a rank"),
    "nan": (break_nan, "NaN or infinity"),
    "half": (lambda t: t.pop(next(iter(t))), "only one of A and B"),
    "integers": (
        lambda t: t.update({k: v.to(torch.int32) for k, v in t.items()}),
        "not a matrix of floating-point numbers",
    ),
    "empty": (lambda t: t.clear(), "holds no LoRA weights"),
    "unknown": (rename, "only one of A and B|has no site"),
    "dora": (
        lambda t: t.update({"base_model.model.x.lora_magnitude_vector.weight": torch.ones(3)}),
        "DoRA",
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_a_damaged_folder_gives_one_clear_error(saved, case):
    change, message = CASES[case]
    damage(saved, change)
    with pytest.raises(AdapterError, match=message) as e:
        load_adapter(saved, tiny_clip())
    assert "\n" not in str(e.value)


def test_missing_things_are_named(saved, tmp_path):
    with pytest.raises(AdapterError, match="no adapter at"):
        load_adapter(tmp_path / "nowhere")
    (saved / WEIGHTS).rename(saved / "adapter_model.bin")
    with pytest.raises(AdapterError, match="never loaded"):
        load_adapter(saved)
    (saved / "adapter_model.bin").unlink()
    with pytest.raises(AdapterError, match="is missing"):
        load_adapter(saved)


def test_a_pickle_is_never_loaded(saved):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    (saved / WEIGHTS).write_bytes(pickle.dumps(Evil()))
    with pytest.raises(AdapterError, match="not a whole safetensors file"):
        load_adapter(saved)


@pytest.mark.parametrize("share", [0.0, 0.001, 0.1, 0.5, 0.99, 0.9999])
def test_a_cut_off_file_is_refused(saved, share):
    data = (saved / WEIGHTS).read_bytes()
    (saved / WEIGHTS).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AdapterError, match="copy it again"):
        load_adapter(saved)


@settings(
    max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(at=st.floats(0, 0.2), bit=st.integers(0, 7))
def test_a_flipped_bit_gives_an_error_or_an_adapter_never_a_crash(tmp_path, at, bit):
    save_adapter(random_adapter(tiny_clip(), rank=1, kinds=("q",)), tmp_path)
    data = bytearray((tmp_path / WEIGHTS).read_bytes())
    data[int(at * (len(data) - 1))] ^= 1 << bit
    (tmp_path / WEIGHTS).write_bytes(data)
    with contextlib.suppress(AdapterError):
        load_adapter(tmp_path, tiny_clip())


def test_another_base_is_refused(saved):
    with pytest.raises(AdapterError, match="trained on base"):
        load_adapter(saved, tiny_clip(1))
    with pytest.raises(AdapterError, match=r"has no site|trained on base"):
        load_adapter(saved, tiny_clip(layers=2))


REFUSED = (
    ({"peft_type": "LOHA"}, "LOHA"),
    ({"use_dora": True}, "DoRA, whose learned magnitudes"),
    ({"fan_in_fan_out": True}, "fan_in_fan_out"),
    ({"bias": "lora_only"}, "changed biases too"),
    ({"lora_bias": True}, "changed biases too"),
    ({"modules_to_save": ["visual_projection"]}, "whole modules beside it .*visual_projection"),
    (
        {"init_lora_weights": "pissa_niter_4"},
        "initialised with pissa_niter_4, which changes the base",
    ),
    ({"use_qalora": True}, "use_qalora"),
    ({"lora_alpha": None}, "not a peft configuration"),
    ({"alpha_pattern": {"(": 1}}, "not a peft configuration"),
)


def test_other_kinds_of_adapter_are_refused(saved):
    damage(saved, lambda t: None)
    config = json.loads((saved / CONFIG).read_text())
    for change, message in REFUSED:
        (saved / CONFIG).write_text(json.dumps(config | change))
        with pytest.raises(AdapterError, match=message):
            load_adapter(saved)
    (saved / CONFIG).write_text("{")
    with pytest.raises(AdapterError, match="not a peft configuration"):
        load_adapter(saved)


def test_nothing_to_save_is_said():
    with pytest.raises(AdapterError, match="nothing to save"):
        save_adapter(Adapter({}), "nowhere")
    with pytest.raises(ValueError, match="share a rank"):
        LowRank(torch.zeros(0, 4), torch.zeros(4, 0))


def test_a_failed_save_leaves_the_old_adapter(saved, monkeypatch):
    import os

    monkeypatch.setattr(os, "replace", lambda *a: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        save_adapter(random_adapter(tiny_clip(), seed=5), saved)
    monkeypatch.undo()
    assert load_adapter(saved, tiny_clip()) == random_adapter(tiny_clip())
    assert not list(saved.glob("*.part"))


def test_files_written_aside_appear_together(tmp_path):
    (tmp_path / "model.safetensors").write_text("old")
    with pytest.raises(RuntimeError), written_aside(tmp_path) as aside:
        (aside / "model.safetensors").write_text("half")
        raise RuntimeError
    assert [f.name for f in tmp_path.iterdir()] == ["model.safetensors"]
    assert (tmp_path / "model.safetensors").read_text() == "old"
    with written_aside(tmp_path) as aside:
        (aside / "config.json").write_text("{}")
        (aside / "model.safetensors").write_text("new")
        assert not (tmp_path / "config.json").exists()
    assert {f.name: f.read_text() for f in tmp_path.iterdir()} == {
        "config.json": "{}",
        "model.safetensors": "new",
    }


def test_a_configuration_that_is_nested_or_endless_is_refused(tmp_path):
    clip = tiny_clip()
    save_adapter(random_adapter(clip), tmp_path)
    (tmp_path / WEIGHTS).write_bytes(
        to_bytes(load_file(tmp_path / WEIGHTS), {"format": "pt"})
    )  # as peft writes it, so that the other file is read
    (tmp_path / CONFIG).write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(AdapterError, match="nested too deep"):
        load_adapter(tmp_path)
    (tmp_path / CONFIG).unlink()
    (tmp_path / CONFIG).symlink_to("/dev/zero")
    with pytest.raises(AdapterError, match="is missing"):
        load_adapter(tmp_path)


def test_numbers_that_torch_cannot_compare_are_read_or_refused(tmp_path):
    key = "base_model.model.vision_model.encoder.layers.0.self_attn.q_proj.lora_A.weight"
    for tensor, says in (
        (torch.zeros(0, 4), "not a matrix"),
        (torch.zeros(4), "not a matrix"),
        (torch.zeros(2, 4).to(torch.float8_e4m3fn), "only one of A and B"),
    ):
        (tmp_path / WEIGHTS).write_bytes(to_bytes({key: tensor}, {"format": "pt"}))
        (tmp_path / CONFIG).write_text('{"peft_type": "LORA", "lora_alpha": 1}', encoding="utf-8")
        with pytest.raises(AdapterError, match=says):
            load_adapter(tmp_path)


@pytest.mark.parametrize(
    ("fault", "words"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "make room on that disk"),
        (
            PermissionError(errno.EACCES, "Permission denied"),
            "choose a folder that you may write to",
        ),
        (OSError(errno.EROFS, "Read-only file system"), "choose a folder that you may write to"),
        (
            SafetensorError(
                "Error while serializing: I/O error: No space left on device (os error 28)"
            ),
            "make room on that disk",
        ),
        (sqlite3.OperationalError("database or disk is full"), "make room on that disk"),
    ],
)
def test_a_disk_that_takes_nothing_is_named(tmp_path, monkeypatch, fault, words):
    write_atomically(tmp_path / "kept", b"before")

    def refuse(_):
        raise fault

    monkeypatch.setattr(os, "fsync", refuse)
    with pytest.raises(OSError, match=words) as caught:
        write_atomically(tmp_path / "kept", b"after")
    assert str(caught.value).startswith(f"{tmp_path / 'kept'} cannot be written (")
    assert "Errno" not in str(caught.value)
    assert (tmp_path / "kept").read_bytes() == b"before"
    assert [f.name for f in tmp_path.iterdir()] == ["kept"]
