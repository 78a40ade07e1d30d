"""A CLIP from every kind of source is the same CLIP, to open_clip's and transformers' own outputs;
what cannot be loaded says why.
"""

import copy
import json
import pickle
import shutil
import warnings

import open_clip
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from tiny import (
    MEAN,
    STD,
    clip_tokenizer,
    perturb,
    random_adapter,
    save_siglip,
    siglip_tokenizer,
    tiny_task,
    words_tokenizer,
)

from copra_lab.adapters import save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.bench.bench import NONE
from copra_lab.engine import plain_text, plain_tower
from copra_lab.methods import Attached, LoRA
from copra_lab.models import (
    KINDS,
    TOWERS,
    Clip,
    load_clip,
    save_hugging_face,
    to_hugging_face,
    tokenizers,
)
from copra_lab.prompts import VPT, CoOp
from copra_lab.tasks import photo
from copra_lab.training import CopRA, fit

CONFIG = {
    "embed_dim": 32,
    "vision_cfg": {"image_size": 32, "patch_size": 8, "width": 64, "layers": 3, "head_width": 64},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}
"""Of OpenAI's proportions, in small."""
TEXTS = ["a red thing", "a cat on the mat"]


def made(block_type: str | None = None, quick_gelu: bool = False) -> torch.nn.Module:
    """Weights that do not depend on the block's class."""
    torch.manual_seed(0)
    cfg = copy.deepcopy(CONFIG)
    for part in ("vision_cfg", "text_cfg"):
        cfg[part] |= {"block_type": block_type} if block_type else {}
    return perturb(open_clip.CLIP(**cfg, quick_gelu=quick_gelu))


def pixels(clip: Clip, n: int = 4, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(n, 3, clip.side, clip.side, generator=torch.Generator().manual_seed(1)).to(
        dtype
    )


def merged(clip: Clip, adapter) -> torch.nn.Module:
    """open_clip's model with the adapter's deltas in its weights, in float64."""
    model = copy.deepcopy(clip.model)
    model.load_state_dict(model.state_dict() | merged_weights(model, adapter))
    return model.double()


@torch.no_grad()
def logits(model, x, tokens) -> torch.Tensor:
    cosines = (
        F.normalize(model.encode_image(x), dim=-1)
        @ F.normalize(model.encode_text(tokens), dim=-1).T
    )
    return model.logit_scale.exp() * cosines + (0 if model.logit_bias is None else model.logit_bias)


@torch.no_grad()
def logits_of_peft(hugging_face, folder, x, tokens) -> torch.Tensor:
    from peft import PeftModel

    return (
        PeftModel.from_pretrained(copy.deepcopy(hugging_face), str(folder))
        .double()
        .eval()(pixel_values=x, input_ids=tokens)
        .logits_per_image
    )


def save_open_clip(model, folder, cfg=None, weights="open_clip_model.safetensors", **preprocess):
    folder.mkdir(exist_ok=True)
    (folder / "open_clip_config.json").write_text(
        json.dumps({"model_cfg": cfg or CONFIG, "preprocess_cfg": preprocess})
    )
    if weights.endswith("safetensors"):
        save_file(model.state_dict(), folder / weights)
    else:
        torch.save(model.state_dict(), folder / weights)
    return folder


@pytest.fixture(scope="module")
def architecture(tmp_path_factory) -> str:
    """An architecture that open_clip knows by name, in small."""
    file = tmp_path_factory.mktemp("configs") / "tiny-ViT.json"
    file.write_text(json.dumps(CONFIG))
    open_clip.add_model_config(file)
    return file.stem


# --- one model, every format -------------------------------------------------------------------------------------------


def formats(model, folder, architecture) -> dict[str, str]:
    """The same weights in every format for CLIPs; what `load_clip` is given."""
    clip = Clip(model, open_clip.get_tokenizer(architecture), "made", 32, MEAN, STD)
    save_hugging_face(clip, folder / "hf")
    twin = to_hugging_face(clip)
    shutil.copytree(folder / "hf", folder / "sharded", ignore=lambda *_: ["model.safetensors"])
    twin.save_pretrained(folder / "sharded", max_shard_size="300KB")
    assert len(list((folder / "sharded").glob("model-*.safetensors"))) > 1
    shutil.copytree(folder / "hf", folder / "pickled")
    (folder / "pickled" / "model.safetensors").unlink()
    torch.save(twin.state_dict(), folder / "pickled" / "pytorch_model.bin")
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    save_file(weights, folder / "weights.safetensors")
    torch.save(
        {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}},
        folder / "epoch_3.pt",
    )
    return {
        "open_clip folder": str(save_open_clip(model, folder / "oc")),
        "open_clip folder, .bin": str(
            save_open_clip(model, folder / "bin", weights="open_clip_pytorch_model.bin")
        ),
        "architecture and safetensors": f"{architecture}:{folder / 'weights.safetensors'}",
        "architecture and training checkpoint": f"{architecture}:{folder / 'epoch_3.pt'}",
        "Hugging Face folder": str(folder / "hf"),
        "Hugging Face folder in shards": str(folder / "sharded"),
        "Hugging Face folder, .bin": str(folder / "pickled"),
    }


@pytest.mark.slow
def test_every_format_is_the_same_model(tmp_path, architecture):
    from transformers import CLIPModel

    model = made()
    twin = None
    for how, name in formats(model, tmp_path, architecture).items():
        clip = load_clip(name)
        twin = twin or CLIPModel.from_pretrained(tmp_path / "hf").eval()
        x, tokens = pixels(clip), clip.tokenizer(TEXTS)
        assert torch.equal(logits(clip.model, x, tokens), logits(model, x, tokens)), how
        with torch.no_grad():
            theirs = twin(pixel_values=x, input_ids=tokens).logits_per_image
        torch.testing.assert_close(logits(clip.model, x, tokens), theirs, atol=1e-5, rtol=0)
        assert clip.hash == load_clip(tmp_path / "oc").hash and load_clip(name) is clip, how
        assert (clip.side, clip.resize, clip.interpolation) == (32, "shortest", "bicubic"), how
        assert plain_tower(clip.model.visual) is not None and plain_text(clip.model) is not None, (
            how
        )


@pytest.mark.parametrize("how", ["published", "saved by its code", "pickled"])
def test_openais_state_dicts_say_their_architecture(tmp_path, how):
    model = made(quick_gelu=True)
    weights = {k: v.clone() for k, v in model.state_dict().items()}
    sizes = {
        "input_resolution": torch.tensor(32),
        "context_length": torch.tensor(16),
        "vocab_size": torch.tensor(49408),
    }
    file = tmp_path / ("ViT.pt" if how == "pickled" else "ViT.safetensors")
    (torch.save if how == "pickled" else save_file)(
        weights | ({} if how == "saved by its code" else sizes), file
    )
    if how == "saved by its code":
        with pytest.raises(
            ValueError, match="does not say its architecture; give it too, as 'ViT-B-32:"
        ):
            load_clip(file)
    clip = load_clip(f"openai:{file}" if how == "saved by its code" else file)
    x, tokens = pixels(clip), clip.tokenizer(TEXTS)
    assert torch.equal(logits(clip.model, x, tokens), logits(model, x, tokens))
    assert clip.name == "ViT"


def test_a_tag_brings_its_preprocessing_and_its_activation(tmp_path, architecture, monkeypatch):
    model = made(quick_gelu=True)
    save_file(model.state_dict(), tmp_path / "weights.safetensors")
    says = {
        "quick_gelu": True,
        "mean": (0.1, 0.2, 0.3),
        "std": (1.0, 2.0, 3.0),
        "interpolation": "bilinear",
        "resize_mode": "squash",
    }
    tags = {"some_tag": {"file": str(tmp_path / "weights.safetensors"), **says}}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, architecture, tags)
    clip = load_clip(f"{architecture}:some_tag")
    assert (clip.mean, clip.std, clip.interpolation, clip.resize) == (
        (0.1, 0.2, 0.3),
        (1.0, 2.0, 3.0),
        "bilinear",
        "squash",
    )
    x, tokens = pixels(clip), clip.tokenizer(TEXTS)
    assert torch.equal(logits(clip.model, x, tokens), logits(model, x, tokens))
    of_file = load_clip(
        f"{architecture}:{tmp_path / 'weights.safetensors'}"
    )  # whose activation is the architecture's
    assert of_file.mean == clip.mean
    assert not torch.equal(logits(of_file.model, x, tokens), logits(model, x, tokens))


def test_half_precision_is_widened(tmp_path):
    model = made().half()
    clip = load_clip(save_open_clip(model, tmp_path / "half"))
    assert {p.dtype for p in clip.model.parameters()} == {torch.float32}
    assert torch.equal(clip.model.visual.proj, model.visual.proj.float())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("block_type", "quick_gelu"), [(None, False), ("custom", False), (None, True), ("custom", True)]
)
def test_peft_agrees_with_adapters_on_every_kind_of_site(tmp_path, block_type, quick_gelu):
    model = made(block_type, quick_gelu)
    cfg = copy.deepcopy(CONFIG) | {"quick_gelu": quick_gelu}
    if block_type:
        cfg["vision_cfg"]["block_type"] = cfg["text_cfg"]["block_type"] = block_type
    clip = load_clip(save_open_clip(model, tmp_path / "clip", cfg))
    blocks = "CustomResidualAttentionBlock" if block_type else "ResidualAttentionBlock"
    assert type(clip.model.visual.transformer.resblocks[0]).__name__ == blocks
    adapter = random_adapter(clip, size=0.2)
    assert len(adapter) == 6 * (3 + 2)
    save_adapter(adapter, tmp_path / "adapter")
    x, tokens = pixels(clip, dtype=torch.float64), clip.tokenizer(TEXTS)
    ours = logits(merged(clip, adapter), x, tokens)
    assert (ours - logits(merged(clip, NONE), x, tokens)).abs().max() > 0.1
    torch.testing.assert_close(
        logits_of_peft(to_hugging_face(clip), tmp_path / "adapter", x, tokens),
        ours,
        atol=1e-5,
        rtol=0,
    )


def test_open_clip_itself_loads_the_folder_to_the_same_outputs(tmp_path):
    folder = save_open_clip(made(), tmp_path / "clip", mean=[0.1, 0.2, 0.3], std=[0.9, 0.8, 0.7])
    clip = load_clip(folder)
    theirs, _, preprocess = open_clip.create_model_and_transforms(f"local-dir:{folder}")
    image = Image.effect_noise((32, 32), 80).convert("RGB")
    theirs = theirs.eval()
    x, tokens = preprocess(image)[None], open_clip.get_tokenizer(f"local-dir:{folder}")(TEXTS)
    own = torch.frombuffer(bytearray(image.tobytes()), dtype=torch.uint8).view(1, 32, 32, 3)
    torch.testing.assert_close(clip.pixels(own), x, atol=1e-6, rtol=0)
    assert torch.equal(clip.tokenizer(TEXTS), tokens)
    torch.testing.assert_close(
        logits(clip.model, clip.pixels(own), tokens), logits(theirs, x, tokens), atol=1e-5, rtol=0
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("act", "eos"), [("quick_gelu", 2), ("gelu", 49407), ("gelu_pytorch_tanh", 49407), ("gelu", 7)]
)
def test_hugging_faces_settings_are_followed(tmp_path, act, eos):
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel

    sizes = {
        "hidden_size": 32,
        "num_attention_heads": 2,
        "intermediate_size": 71,
        "num_hidden_layers": 2,
        "hidden_act": act,
        "layer_norm_eps": 1e-3,
    }
    config = CLIPConfig(
        vision_config={**sizes, "image_size": 24, "patch_size": 8},
        text_config={**sizes, "max_position_embeddings": 10, "eos_token_id": eos},
        projection_dim=16,
    )
    torch.manual_seed(0)
    theirs = perturb(CLIPModel(config))
    theirs.save_pretrained(tmp_path)
    if eos == 7:
        words_tokenizer("? a b c cat dog of <end> photo".split(), "<end>").save_pretrained(tmp_path)
    else:
        tokenizers.save(clip_tokenizer(10), tmp_path, "")
    CLIPImageProcessor(size={"shortest_edge": 24}, crop_size=24).save_pretrained(tmp_path)
    clip = load_clip(tmp_path)
    x, tokens = (
        pixels(clip),
        torch.tensor(
            [[49406, 5, 7, 9, 49407, 0, 0, 0, 0, 0], [49406, 7, 3, 49407, 49407, 49407, 0, 0, 0, 0]]
        ),
    )
    with torch.no_grad():
        expected = theirs(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(logits(clip.model, x, tokens), expected, atol=1e-5, rtol=0)


# --- SigLIP ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def siglip(tmp_path_factory):
    """(folder, transformers' model, ours)."""
    folder = tmp_path_factory.mktemp("models") / "siglip"
    theirs = save_siglip(folder)
    return folder, theirs, load_clip(folder)


def test_a_siglip_gives_what_transformers_gives(siglip):
    _, theirs, clip = siglip
    x, tokens = pixels(clip), clip.tokenizer(["A red thing!", "a cat on the mat"])
    assert tokens.tolist() == [
        [2, 3, 7, *[1] * 9],
        [2, 8, 10, 11, 12, *[1] * 7],
    ]  # lower case, no punctuation, padded with the end
    with torch.no_grad():
        expected = theirs(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(logits(clip.model, x, tokens), expected, atol=1e-5, rtol=0)
    assert (clip.mean, clip.std, clip.resize) == ((0.5,) * 3, (0.5,) * 3, "squash")
    assert [s.shape for s in clip.sites.values()][:6] == [(48, 48)] * 4 + [
        (80, 48),
        (48, 80),
    ]
    assert len(clip.sites) == 6 * (3 + 2)


def test_siglip_and_back_is_the_same_to_the_bit(siglip):
    _, theirs, clip = siglip
    ours = to_hugging_face(clip).state_dict()
    assert ours.keys() == theirs.state_dict().keys()
    assert all(torch.equal(ours[k], v) for k, v in theirs.state_dict().items())


def test_peft_agrees_on_siglip_with_adapters_on_every_kind_of_site(siglip, tmp_path):
    _, theirs, clip = siglip
    adapter = random_adapter(clip, size=0.2)
    save_adapter(adapter, tmp_path)
    x, tokens = pixels(clip, dtype=torch.float64), clip.tokenizer(TEXTS)
    ours = logits(merged(clip, adapter), x, tokens)
    assert (ours - logits(merged(clip, NONE), x, tokens)).abs().max() > 0.01
    torch.testing.assert_close(logits_of_peft(theirs, tmp_path, x, tokens), ours, atol=1e-5, rtol=0)


@torch.no_grad()
def test_lora_on_siglip_in_training_is_what_is_saved(siglip):
    _, _, clip = siglip
    model, adapter = copy.deepcopy(clip.model), random_adapter(clip, scale=1.0)
    attached = Attached(
        model, LoRA(rank=3, sites=KINDS, towers=TOWERS), torch.Generator().manual_seed(0)
    )
    x, tokens = pixels(clip), clip.tokenizer(TEXTS)
    assert torch.equal(logits(model, x, tokens), logits(clip.model, x, tokens))  # B is zero
    attached.load(adapter)
    torch.testing.assert_close(
        logits(model, x, tokens),
        logits(merged(clip, adapter).float(), x, tokens),
        atol=1e-5,
        rtol=0,
    )
    attached.activate([s for s in clip.sites if ".2." not in s])
    part = adapter.keep(s for s in clip.sites if ".2." not in s)
    torch.testing.assert_close(
        logits(model, x, tokens), logits(merged(clip, part).float(), x, tokens), atol=1e-5, rtol=0
    )


@pytest.mark.slow
def test_the_bench_runs_siglip_on_the_fast_path_as_its_own_modules_do(siglip):
    _, _, clip = siglip
    task = tiny_task()
    bench, adapter = Bench(clip, task, precision="float32"), random_adapter(clip, size=0.2)
    assert bench.tower is not None
    assert bench.tower.whole
    images = clip.pixels(task.test.images[bench.order])
    own = (
        logits(merged(clip, adapter), images.double(), clip.tokenizer(task.prompts)).float()
        - clip.model.logit_bias
    )
    torch.testing.assert_close(bench.logits(adapter), own, atol=1e-4, rtol=0)


@pytest.mark.parametrize("towers", [("vision",), ("vision", "text")])
def test_siglip_learns(siglip, towers):
    _, _, clip = siglip
    losses = []
    settings = {
        "steps": 40,
        "lr": 1e-2,
        "progress": False,
        "on_step": lambda s: losses.append(s.loss),
    }
    adapter = fit(
        clip, tiny_task(), LoRA(rank=2, towers=towers, sites=KINDS), CopRA(min_active=1), **settings
    )
    assert len(adapter) == 6 * (3 + 2 * (len(towers) - 1))
    assert adapter.base == clip.hash
    before, after = (
        Bench(clip, tiny_task(), precision="float32").accuracy(a).value for a in (NONE, adapter)
    )
    assert after > before
    assert sum(losses[-5:]) < sum(losses[:5])


def test_of_soft_prompts_siglip_takes_those_beside_patches(siglip):
    _, _, clip = siglip
    prompt = fit(clip, tiny_task(), VPT(length=2), steps=3, progress=False)
    assert prompt.context.shape == (2, 48)
    assert Bench(clip, tiny_task(), precision="float32").accuracy(prompt=prompt).n == 120
    with pytest.raises(ValueError, match="soft prompts for texts need CLIP's own tokenizer") as e:
        fit(clip, tiny_task(), CoOp(length=2), steps=3, progress=False)
    assert "\n" not in str(e.value)


@pytest.mark.slow
def test_a_timm_trunk_that_is_no_siglip_goes_the_general_way(tmp_path):
    cfg = copy.deepcopy(CONFIG) | {
        "custom_text": True,
        "vision_cfg": {"timm_model_name": "test_vit", "image_size": 160, "timm_pool": "token"},
    }
    model = perturb(
        open_clip.CustomTextCLIP(**{k: v for k, v in cfg.items() if k != "custom_text"})
    )
    clip = load_clip(save_open_clip(model, tmp_path / "clip", cfg))
    assert clip.layers == 6
    assert clip.side == 160
    assert plain_tower(clip.model.visual) is None
    assert plain_text(clip.model) is not None
    task, adapter = tiny_task(8, 4, 160), random_adapter(clip, size=0.2)
    bench = Bench(clip, task, precision="float32")
    own = logits(
        merged(clip, adapter),
        clip.pixels(task.test.images[bench.order]).double(),
        clip.tokenizer(task.prompts),
    ).float()
    torch.testing.assert_close(bench.logits(adapter), own, atol=1e-4, rtol=0)
    assert fit(clip, task, LoRA(rank=1), steps=2, batch=4, progress=False).base == clip.hash
    with pytest.raises(ValueError, match="no Hugging Face twin"):
        to_hugging_face(clip)


# --- preprocessing -----------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("interpolation", ["bicubic", "bilinear"])
@pytest.mark.parametrize("resize", ["shortest", "squash", "longest"])
@pytest.mark.parametrize("size", [(90, 61), (50, 83), (47, 47)])
def test_images_of_any_shape_are_fitted_as_open_clip_does(tmp_path, interpolation, resize, size):
    clip = load_clip(
        save_open_clip(
            made(),
            tmp_path / "clip",
            interpolation=interpolation,
            resize_mode=resize,
            fill_color=90,
        )
    )
    preprocess = open_clip.image_transform(
        32,
        False,
        mean=clip.mean,
        std=clip.std,
        resize_mode=resize,
        interpolation=interpolation,
        fill_color=90,
    )
    across = (
        torch.linspace(0, 9, size[0]).sin()[None, :, None]
        + torch.linspace(0, 7, size[1]).cos()[:, None, None]
    )
    own = ((across * torch.tensor([0.2, 0.15, -0.2]) + 0.5) * 255).clamp(0, 255).to(torch.uint8)
    theirs = preprocess(Image.fromarray(own.numpy()))
    assert torch.equal(clip.pixels(own[None])[0], theirs)
    assert torch.equal(
        clip.pixels(photo(Image.fromarray(own.numpy()), fit=clip.fit)[None])[0], theirs
    )


def test_a_picture_file_goes_all_the_way(siglip, tmp_path):
    Image.effect_noise((50, 70), 80).convert("RGB").save(tmp_path / "picture.png")
    clip = siglip[2]
    p = clip.probabilities(photo(tmp_path / "picture.png", clip.side)[None], TEXTS)
    assert p.shape == (1, 2)
    assert p.sum().item() == pytest.approx(1)


# --- what cannot be loaded ---------------------------------------------------------------------------------------------


def refused(error, match, name):
    with pytest.raises(error, match=match) as e:
        load_clip(name)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500, str(e.value)


def test_names_that_are_none_are_helped():
    refused(FileNotFoundError, "did you mean 'ViT-B-32'", "ViT-B32")
    refused(FileNotFoundError, "did you mean 'ViT-B-32:laion2b_s34b_b79k'", "ViT-B-32:laion2b_s34b")
    refused(FileNotFoundError, "after the colon goes a file, or a tag of ViT-B-32", "ViT-B-32")
    refused(FileNotFoundError, "no CLIP 'nowhere'", "nowhere")
    refused(FileNotFoundError, "no file .*nowhere.pt; check the path", "openai:nowhere.pt")


@pytest.mark.parametrize(
    "name",
    [
        "hf-hub:somebody/something",
        "somebody/something",
        "ViT-B-32:laion2b_s34b_b79k",
        "ViT-B-16-SigLIP:webli",
    ],
)
def test_without_a_network_one_sentence_says_what_to_do(name):
    refused(
        ConnectionError,
        "Hugging Face hub, which cannot be reached; connect to the internet .* or give ",
        name,
    )


def test_a_hub_that_is_not_there_is_asked_once(monkeypatch):
    """huggingface_hub tries a single file again and again."""
    asked = []

    def nobody(repo, **_):
        asked.append(repo)
        raise ConnectionError("no route to host")

    monkeypatch.setattr("huggingface_hub.snapshot_download", nobody)
    monkeypatch.setattr("open_clip.download_pretrained", lambda *_: pytest.fail("asked again"))
    refused(
        ConnectionError,
        "weights of 'ViT-B-32:laion2b_s34b_b79k' .* cannot be reached",
        "ViT-B-32:laion2b_s34b_b79k",
    )
    assert asked == ["laion/CLIP-ViT-B-32-laion2B-s34B-b79K"]


def test_a_tokenizer_that_would_come_from_the_hub_is_asked_for(tmp_path):
    cfg = copy.deepcopy(CONFIG)
    cfg["text_cfg"]["hf_tokenizer_name"] = "somebody/something"
    folder = save_open_clip(made(), tmp_path / "clip", cfg)
    refused(
        ConnectionError,
        r"tokenizer 'somebody/something' of clip .* or give tokenizer.json",
        folder,
    )
    (folder / "tokenizer.json").write_text("{")
    refused(ValueError, "the tokenizer in .* cannot be read", folder)


def test_code_is_never_run(tmp_path):
    class Evil:
        def __reduce__(self):
            return (pytest.fail, ("unpickled",))

    evil, script = tmp_path / "evil.pt", tmp_path / "script.pt"
    evil.write_bytes(pickle.dumps(Evil(), protocol=2))
    refused(ValueError, "is not unpickled here", evil)
    torch.save({"state_dict": {"x": Evil()}}, evil)
    refused(ValueError, "is not unpickled here; save its weights as safetensors", f"openai:{evil}")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.script(torch.nn.Linear(2, 2)), script)
    with pytest.raises(
        ValueError,
        match=r"TorchScript archive, which holds code and is not run here; .* convert it once with",
    ):
        load_clip(script)


@pytest.mark.slow
def test_the_conversion_that_is_proposed_works(tmp_path):
    """As OpenAI publishes its models: a TorchScript archive with the sizes among its weights."""
    import re
    import shlex
    import subprocess
    import sys

    model = made(quick_gelu=True)

    class Published(torch.nn.Module):
        def __init__(self):
            super().__init__()
            for k, size in (
                ("input_resolution", 32),
                ("context_length", 16),
                ("vocab_size", 49408),
            ):
                self.register_buffer(k, torch.tensor(size))
            self.visual, self.transformer, self.token_embedding, self.ln_final = (
                model.visual,
                model.transformer,
                model.token_embedding,
                model.ln_final,
            )
            self.positional_embedding, self.text_projection, self.logit_scale = (
                model.positional_embedding,
                model.text_projection,
                model.logit_scale,
            )

        def forward(self, x):
            return self.visual(x)

    file = tmp_path / "ViT.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.jit.save(torch.jit.trace(Published().eval(), torch.zeros(1, 3, 32, 32)), file)
    with pytest.raises(ValueError, match="TorchScript") as e:
        load_clip(file)
    command = shlex.split(re.search("`(.*)`", str(e.value))[1])
    subprocess.run([sys.executable, *command[1:]], cwd=tmp_path, check=True, capture_output=True)
    assert load_clip(tmp_path / "ViT.safetensors").hash == Clip(model, None, "", 32, MEAN, STD).hash


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9])
def test_a_cut_off_file_is_refused(tmp_path, architecture, share):
    model = made()
    torch.save(model.state_dict(), tmp_path / "a.pt")
    save_file(model.state_dict(), tmp_path / "a.safetensors")
    for file in (tmp_path / "a.pt", tmp_path / "a.safetensors"):
        whole = file.read_bytes()
        file.write_bytes(whole[: int(len(whole) * share)])
        refused(ValueError, "is damaged", f"{architecture}:{file}")
        refused(ValueError, "is damaged", f"openai:{file}")


def test_other_weights_are_refused(tmp_path, architecture):
    save_file({"x": torch.zeros(2)}, tmp_path / "x.safetensors")
    refused(
        ValueError,
        r"x.safetensors does not fit tiny-ViT: it holds 'x' of shape \(2,\)",
        f"{architecture}:{tmp_path / 'x.safetensors'}",
    )
    refused(
        ValueError,
        "holds no CLIP of OpenAI's with a ViT .it lacks 'visual.conv1.weight'.",
        f"openai:{tmp_path / 'x.safetensors'}",
    )


def test_towers_without_a_vit_are_refused(tmp_path):
    cfg = copy.deepcopy(CONFIG) | {
        "vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8, "head_width": 8}
    }
    refused(
        ValueError,
        "is not a ViT for square images",
        save_open_clip(open_clip.CLIP(**cfg), tmp_path / "resnet", cfg),
    )
    cfg = copy.deepcopy(CONFIG)
    cfg["vision_cfg"]["image_size"] = [32, 24]
    refused(
        ValueError,
        "is not a ViT for square images",
        save_open_clip(open_clip.CLIP(**cfg), tmp_path / "oblong", cfg),
    )
    refused(
        ValueError,
        "CoCa",
        save_open_clip(made(), tmp_path / "coca", {**CONFIG, "multimodal_cfg": {}}),
    )


@pytest.mark.slow
def test_a_damaged_hugging_face_folder_gives_one_clear_error(siglip, tmp_path):
    folder = tmp_path / "siglip"
    shutil.copytree(siglip[0], folder)
    weights, config = folder / "model.safetensors", folder / "config.json"
    tensors, said = (
        {k: v.clone() for k, v in load_file(weights).items()},
        json.loads(config.read_text()),
    )
    whole = weights.read_bytes()
    weights.write_bytes(whole[: len(whole) // 2])
    refused(ValueError, r"model.safetensors is damaged", folder)
    save_file({k: v for k, v in tensors.items() if "head.probe" not in k}, weights)
    refused(
        ValueError,
        r"model.safetensors does not fit .* it lacks 'vision_model.head.probe' of shape \(1, 1, "
        r"48\); copy both",
        folder,
    )
    save_file({**tensors, "more": torch.zeros(2)}, weights)
    refused(
        ValueError,
        r"model.safetensors does not fit .* it holds 'more' of shape \(2,\), which is not expected",
        folder,
    )
    weights.unlink()
    refused(FileNotFoundError, r"model.safetensors is missing", folder)
    for change, why in (
        ({"model_type": "bert"}, "describes 'bert'"),
        ({"model_type": "siglip_vision_model"}, "both towers together"),
    ):
        config.write_text(json.dumps(said | change))
        refused(ValueError, why, folder)
    for text in (
        "{",
        "[]",
        '{"model_type": "siglip", "vision_config": {"num_attention_heads": 0}}',
    ):
        config.write_text(text)
        refused(ValueError, "config.json cannot be read", folder)


# --- in full size ------------------------------------------------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("name", ["ViT-B-32", "ViT-B-16", "ViT-B-16-SigLIP"])
def test_the_real_architectures_go_to_hugging_face_and_back(name, tmp_path):
    torch.manual_seed(0)
    model = open_clip.create_model(name, pretrained_text=False).eval().requires_grad_(False)
    side = model.visual.image_size[0]
    siglip_tokenizer().save_pretrained(tmp_path / "words")
    words = (
        open_clip.tokenizer.HFTokenizer(str(tmp_path / "words"), context_length=64)
        if "SigLIP" in name
        else open_clip.get_tokenizer(name)
    )
    clip = Clip(model, words, name, side, (0.5,) * 3, (0.5,) * 3)
    twin = to_hugging_face(clip)
    save_hugging_face(clip, tmp_path / "hf")
    again = load_clip(tmp_path / "hf")
    assert again.hash == clip.hash
    assert again.mean == clip.mean
    adapter = random_adapter(clip, rank=2, size=0.05)
    assert len(adapter) == 6 * 24
    save_adapter(adapter, tmp_path / "adapter")
    x = pixels(clip, 1)
    tokens = again.tokenizer(TEXTS)
    model.load_state_dict(model.state_dict() | merged_weights(model, adapter))
    from peft import PeftModel

    with torch.no_grad():
        theirs = (
            PeftModel.from_pretrained(twin, str(tmp_path / "adapter"))
            .eval()(pixel_values=x, input_ids=tokens)
            .logits_per_image
        )
    torch.testing.assert_close(logits(model, x, tokens), theirs, atol=1e-4, rtol=1e-4)
