"""Adapters in the files of other tools, each written here from its documented layout and compared
with what the formula says.
"""

import json
import math
import pickle
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from tiny import random_adapter, tiny_clip

from copra_lab.adapters import Adapter, AdapterError, load_adapter, merged_into, save_adapter
from copra_lab.adapters.peft_folder import CONFIG, WEIGHTS

TEXT, VISION = 32, 64
"""Widths of the towers of `tiny_clip`, which have 2 and 3 layers."""


def drawn(rank, width, g, out=None):
    return torch.randn(rank, width, generator=g) / 10, torch.randn(
        out or width, rank, generator=g
    ) / 10


def clip_lora(file, layers, rank, alpha, encoder, position, params, g):
    """A file as CLIP-LoRA saves it, of layers of these widths; what was drawn, by layer and matrix."""
    pairs = [{p: drawn(rank, width, g) for p in params} for width in layers]
    names = {"q": "q_proj", "k": "k_proj", "v": "v_proj", "o": "proj"}
    weights = {
        f"layer_{i}": {names[p]: {"w_lora_A": a, "w_lora_B": b} for p, (a, b) in layer.items()}
        for i, layer in enumerate(pairs)
    }
    metadata = {
        "r": rank,
        "alpha": alpha,
        "encoder": encoder,
        "params": list(params),
        "position": position,
    }
    torch.save({"weights": weights, "metadata": metadata}, file)
    return pairs


@settings(max_examples=25)
@given(
    rank=st.integers(1, 4), alpha=st.integers(1, 8), encoder=st.sampled_from(["text", "vision", "both"]),
    position=st.sampled_from(["all", "bottom", "half-bottom"]), params=st.lists(st.sampled_from("qkvo"), min_size=1, unique=True),
    seed=st.integers(0, 99),
)  # fmt: skip
def test_clip_lora_adds_alpha_by_the_root_of_r_first_to_the_texts_tower(
    tmp_path_factory, rank, alpha, encoder, position, params, seed
):
    clip, file = tiny_clip(), tmp_path_factory.mktemp("clip-lora") / "lora_weights.pt"
    towers = [
        *([("text", TEXT)] * 2 if encoder != "vision" else []),
        *([("vision", VISION)] * 3 if encoder != "text" else []),
    ]
    pairs = clip_lora(
        file,
        [w for _, w in towers],
        rank,
        alpha,
        encoder,
        position,
        params,
        torch.Generator().manual_seed(seed),
    )
    adapter = load_adapter(file, clip)
    assert len(adapter) == len(towers) * len(params)
    assert adapter.base == ""
    assert adapter.provenance["source"] == "CLIP-LoRA"
    numbers = {"text": 0, "vision": 0}
    for (tower, _), layer in zip(towers, pairs, strict=True):
        for p, (a, b) in layer.items():
            d = adapter.deltas[
                f"{tower}_model.encoder.layers.{numbers[tower]}.self_attn.{'out' if p == 'o' else p}_proj"
            ]
            torch.testing.assert_close(d.delta(), alpha / math.sqrt(rank) * (b @ a))
        numbers[tower] += 1


def test_what_clip_lora_saved_changes_the_images_and_texts_as_it_does_there(tmp_path):
    """By its way: W + B·A·alpha/√r in the rows of q, k and v of the fused matrix, and in the output
    projection.
    """
    clip = tiny_clip()
    pairs = clip_lora(
        tmp_path / "a.pt",
        [TEXT] * 2 + [VISION] * 3,
        2,
        3,
        "both",
        "all",
        "qkvo",
        torch.Generator().manual_seed(0),
    )
    expected = merged_into(clip, Adapter({})).model
    blocks = [*expected.transformer.resblocks, *expected.visual.transformer.resblocks]
    with torch.no_grad():
        for block, layer in zip(blocks, pairs, strict=True):
            block.attn.in_proj_weight += (
                torch.cat([layer[p][1] @ layer[p][0] for p in "qkv"]) * 3 / math.sqrt(2)
            )
            block.attn.out_proj.weight += layer["o"][1] @ layer["o"][0] * 3 / math.sqrt(2)
        found = merged_into(clip, load_adapter(tmp_path / "a.pt", clip)).model
        x, text = torch.rand(2, 3, 32, 32), clip.tokenizer(["a cat", "two dogs"])
        torch.testing.assert_close(
            found.encode_image(x), expected.encode_image(x), atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            found.encode_text(text), expected.encode_text(text), atol=1e-5, rtol=0
        )
        assert (found.encode_image(x) - clip.model.encode_image(x)).abs().max() > 0.01


OPENAI = [
    ("both", "all", 12, 768, range(12), range(12)),
    ("both", "half-up", 6, 768, range(6, 12), range(6, 12)),
    ("both", "top3", 3, 768, range(9, 12), range(9, 12)),
    ("vision", "mid", 4, 768, (), range(4, 8)),
    ("text", "up", 0, 768, range(8, 12), ()),
    ("both", "all", 24, 1024, range(12), range(24)),
    ("both", "all", 21, 1024, range(12), range(21)),
    ("both", "half-up", 12, 1024, range(6, 12), range(12, 24)),
    ("both", "half-up", 6, 1024, range(6, 12), range(6, 12)),
    ("vision", "half-bottom", 12, 1024, (), range(12)),
    ("vision", "bottom", 4, 1024, (), range(4)),
]


@pytest.mark.parametrize(("encoder", "position", "image_layers", "width", "text", "vision"), OPENAI)
def test_clip_lora_numbers_the_layers_of_its_position(
    tmp_path, encoder, position, image_layers, width, text, vision
):
    """Of ViT-L/14 the positions changed in September 2024; the number of layers tells which of the
    two a file follows.
    """
    layers = [512 if width == 768 else 768] * len(text) + [width] * image_layers
    clip_lora(tmp_path / "a.pt", layers, 1, 1, encoder, position, "q", torch.Generator())
    expected = [f"text_model.encoder.layers.{i}" for i in text] + [
        f"vision_model.encoder.layers.{i}" for i in vision
    ]
    assert [
        n.removesuffix(".self_attn.q_proj") for n in load_adapter(tmp_path / "a.pt").deltas
    ] == expected


class Evil:
    def __reduce__(self):
        return (pytest.fail, ("unpickled",))


def change(found, **more):
    return {"weights": found["weights"], "metadata": found["metadata"] | more}


NOT_CLIP_LORA = {
    "pickle": (lambda f: Evil(), "weights alone"),
    "rank": (lambda f: change(f, r=5), "not what its metadata say"),
    "parameters": (lambda f: change(f, params=["q"]), "not what its metadata say"),
    "alpha": (lambda f: change(f, alpha=math.inf), "not what its metadata say"),
    "position": (lambda f: change(f, position="middle"), "which is unknown"),
    "layers": (lambda f: change(f, position="top3"), "5 layers of LoRA"),
    "no metadata": (lambda f: f | {"metadata": {}}, "not the layout"),
    "another method": (
        lambda f: (f["weights"]["layer_0"]["q_proj"].update(router=torch.ones(1)), f)[1],
        "another method",
    ),
    "another matrix": (
        lambda f: (f["weights"]["layer_0"].update(fc1=f["weights"]["layer_0"]["q_proj"]), f)[1],
        "not the layout",
    ),
    "a gap": (
        lambda f: (f["weights"].update(layer_9=f["weights"].pop("layer_4")), f)[1],
        "not the layout",
    ),
    "NaN": (lambda f: (f["weights"]["layer_0"]["q_proj"]["w_lora_A"].fill_(math.nan), f)[1], "NaN"),
    "no layers": (lambda f: f | {"weights": {}}, "no LoRA weights"),
    "a list": (lambda f: [1, 2], "not laid out as CLIP-LoRA's"),
    "other tensors": (lambda f: {"weight": torch.ones(2)}, "'weight'"),
    "peft's": (lambda f: {"base_model.model.x.lora_A.weight": torch.ones(2)}, "safe_serialization"),
}


@pytest.mark.parametrize("case", NOT_CLIP_LORA)
def test_a_pt_file_of_another_kind_gives_one_clear_error(tmp_path, case):
    spoil, message = NOT_CLIP_LORA[case]
    clip_lora(
        tmp_path / "a.pt", [TEXT] * 2 + [VISION] * 3, 2, 1, "both", "all", "qkv", torch.Generator()
    )
    torch.save(spoil(torch.load(tmp_path / "a.pt", weights_only=True)), tmp_path / "a.pt")
    with pytest.raises(AdapterError, match=message) as e:
        load_adapter(tmp_path / "a.pt", tiny_clip())
    assert "\n" not in str(e.value)
    assert "check the path" not in str(e.value)


@pytest.mark.parametrize("share", [0.0, 0.3, 0.9, 0.999])
@pytest.mark.parametrize("name", ["a.pt", "a.safetensors"])
def test_a_cut_off_file_is_refused(tmp_path, name, share):
    if name == "a.pt":
        clip_lora(
            tmp_path / name,
            [TEXT] * 2 + [VISION] * 3,
            2,
            1,
            "both",
            "all",
            "qkv",
            torch.Generator(),
        )
    else:
        save_file(
            diffusion("kohya", {(0, "q"): drawn(2, TEXT, torch.Generator())}), tmp_path / name
        )
    data = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(data[: int(len(data) * share)])
    with pytest.raises(AdapterError, match="whole"):
        load_adapter(tmp_path / name, tiny_clip())


STYLES = {
    "kohya": ("lora_te_", "_", ".lora_down.weight", ".lora_up.weight"),
    "kohya, first of two": ("lora_te1_", "_", ".lora_down.weight", ".lora_up.weight"),
    "diffusers": ("text_encoder.", ".", ".lora_A.weight", ".lora_B.weight"),
    "diffusers, second": ("text_encoder_2.", ".", ".lora_A.weight", ".lora_B.weight"),
    "diffusers before peft": (
        "text_encoder.",
        ".",
        ".lora_linear_layer.down.weight",
        ".lora_linear_layer.up.weight",
    ),
    "diffusers, short": ("text_encoder.", ".", ".lora.down.weight", ".lora.up.weight"),
}


def diffusion(style, pairs, alphas=None, root="text_model."):
    """The tensors of a file in this style: (layer, kind) → A and B, and alphas where there are any."""
    prefix, dot, down, up = STYLES[style]
    out = {}
    for (layer, kind), (a, b) in pairs.items():
        part = f"mlp.{kind}" if kind.startswith("fc") else f"self_attn.{kind}_proj"
        module = prefix + f"{root}encoder.layers.{layer}.{part}".replace(".", dot)
        out |= {module + down: a, module + up: b}
        if alphas:
            out[f"{module}.alpha"] = torch.tensor(alphas[layer, kind])
    return out


UNET = {
    "lora_unet_down_blocks_0_attentions_0_proj_in.lora_down.weight": torch.ones(2, 4, 1, 1),
    "unet.mid_block.to_q.lora_A.weight": torch.ones(2, 4),
}
KINDS = {
    "q": (32, 32),
    "k": (32, 32),
    "v": (32, 32),
    "out": (32, 32),
    "fc1": (32, 128),
    "fc2": (128, 32),
}


@settings(max_examples=40)
@given(
    style=st.sampled_from(list(STYLES)), where=st.lists(st.tuples(st.integers(0, 1), st.sampled_from(list(KINDS))), min_size=1, unique=True),
    rank=st.integers(1, 4), alpha=st.one_of(st.none(), st.sampled_from([0.5, 1.0, 8.0])), unet=st.booleans(), root=st.sampled_from(["text_model.", ""]),
    half=st.booleans(), seed=st.integers(0, 99),
)  # fmt: skip
def test_lora_of_a_text_tower_is_read_in_every_naming(
    tmp_path_factory, style, where, rank, alpha, unet, root, half, seed
):
    g = torch.Generator().manual_seed(seed)
    pairs = {at: drawn(rank, KINDS[at[1]][0], g, KINDS[at[1]][1]) for at in where}
    if half:
        pairs = {at: (a.half(), b.half()) for at, (a, b) in pairs.items()}
    alphas = {at: alpha * (1 + i) for i, at in enumerate(where)} if alpha else None
    file = tmp_path_factory.mktemp("diffusion") / "style.safetensors"
    save_file(diffusion(style, pairs, alphas, root) | (UNET if unet else {}), file)
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter("always")
        adapter = load_adapter(file, tiny_clip())
    assert len(adapter) == len(where)
    assert adapter.provenance.get("passed over", 0) == len(told) * 2 == (2 if unet else 0)
    for (layer, kind), (a, b) in pairs.items():
        part = f"mlp.{kind}" if kind.startswith("fc") else f"self_attn.{kind}_proj"
        scale = alphas[layer, kind] / rank if alphas else 1.0
        torch.testing.assert_close(
            adapter.deltas[f"text_model.encoder.layers.{layer}.{part}"].delta(),
            scale * (b.float() @ a.float()),
        )


def test_the_oldest_naming_of_diffusers_is_read(tmp_path):
    a, b = drawn(2, TEXT, torch.Generator())
    names = {"q": "to_q_lora", "out": "to_out_lora"}
    keys = {
        f"text_encoder.text_model.encoder.layers.1.self_attn.{n}.{d}.weight": t
        for n in names.values()
        for d, t in (("down", a), ("up", b))
    }
    save_file({k: t.clone() for k, t in keys.items()}, tmp_path / "a.safetensors")
    adapter = load_adapter(tmp_path / "a.safetensors", tiny_clip())
    assert set(adapter.deltas) == {f"text_model.encoder.layers.1.self_attn.{n}_proj" for n in names}
    assert all(torch.equal(d.delta(), b @ a) for d in adapter.deltas.values())


@pytest.mark.parametrize(
    ("config", "scale"),
    [
        ({"r": 2, "lora_alpha": 6}, 3.0),
        ({"r": 2, "lora_alpha": 6, "use_rslora": True}, 6 / math.sqrt(2)),
        (None, 1.0),
    ],
)
def test_the_scale_that_newer_diffusers_write_is_followed(tmp_path, config, scale):
    a, b = drawn(2, TEXT, torch.Generator())
    whole = {"unet.lora_alpha": 99, **{f"text_encoder.{k}": v for k, v in (config or {}).items()}}
    save_file(
        diffusion("diffusers", {(0, "v"): (a, b)}),
        tmp_path / "a.safetensors",
        {"lora_adapter_metadata": json.dumps(whole)},
    )
    (d,) = load_adapter(tmp_path / "a.safetensors", tiny_clip()).deltas.values()
    torch.testing.assert_close(d.delta(), scale * (b @ a))


def test_of_two_text_towers_the_one_that_fits_is_read(tmp_path):
    g, file = torch.Generator().manual_seed(0), tmp_path / "sdxl.safetensors"
    one, two = drawn(2, TEXT, g), drawn(2, 48, g)
    both = diffusion("kohya, first of two", {(0, "q"): one}) | {
        k.replace("lora_te_", "lora_te2_"): t
        for k, t in diffusion("kohya", {(0, "q"): two}).items()
    }
    save_file(both, file)
    with pytest.warns(UserWarning, match=r"2 are of other models \(lora_te2\)"):
        (d,) = load_adapter(file, tiny_clip()).deltas.values()
    assert torch.equal(d.delta(), one[1] @ one[0])
    with pytest.raises(
        AdapterError, match=r"several text towers .*lora_te1 of width 32, lora_te2 of width 48"
    ):
        load_adapter(file)
    save_file(
        {
            k.replace("te1", "te3"): t.repeat(1, 2)[:, : 2 if "up" in k else None].contiguous()
            for k, t in both.items()
        },
        file,
    )
    with pytest.raises(AdapterError, match="none fits this CLIP"):
        load_adapter(file, tiny_clip())


A_PAIR = diffusion("kohya", {(0, "q"): (torch.ones(2, TEXT), torch.ones(TEXT, 2))})
REFUSED = {
    "unet alone": (UNET, r"no LoRA on a CLIP's text tower .*lora_unet, unet"),
    "T5 alone": (
        {"lora_te2_encoder_block_0_layer_0_SelfAttention_q.lora_down.weight": torch.ones(2, 4)},
        "no LoRA on a CLIP's text tower",
    ),
    "empty": ({}, "no LoRA on a CLIP's text tower"),
    "DoRA": (
        A_PAIR
        | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.dora_scale": torch.ones(1, TEXT)},
        "dora_scale.*only plain LoRA",
    ),
    "LoHa": (
        A_PAIR | {"lora_te_text_model_encoder_layers_1_mlp_fc1.hada_w1_a": torch.ones(2, 2)},
        "hada_w1_a.*only plain LoRA",
    ),
    "projection": (
        A_PAIR | {"lora_te_text_projection.lora_down.weight": torch.ones(2, TEXT)},
        "text_projection.*only plain LoRA",
    ),
    "one half": (dict(list(A_PAIR.items())[:1]), "only one of A and B"),
    "alpha 0": (
        A_PAIR | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha": torch.tensor(0.0)},
        "0.0, not one number other than 0",
    ),
    "alphas": (
        A_PAIR | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha": torch.ones(2)},
        "one number",
    ),
    "alpha NaN": (
        A_PAIR
        | {"lora_te_text_model_encoder_layers_0_self_attn_q_proj.alpha": torch.tensor(math.nan)},
        "the scale at",
    ),
    "twice": (
        A_PAIR | {k.replace("text_model_", ""): t.clone() for k, t in A_PAIR.items()},
        "for one matrix",
    ),
    "another format": (
        A_PAIR | {"vision_model.lora_A.weight": torch.ones(2, 2)},
        "'vision_model.lora_A.weight', which no supported format",
    ),
    "depth": (
        {k.replace("layers_0", "layers_11"): t for k, t in A_PAIR.items()},
        "reaches layer 11 of the text tower, whose layers are 0 to 1",
    ),
    "width": (
        diffusion("kohya", {(0, "q"): (torch.ones(2, 768), torch.ones(768, 2))}),
        r"\(32, 32\) in this CLIP and \(768, 768\)",
    ),
    "peft": (
        {"base_model.model.x.lora_A.weight": torch.ones(2, 2)},
        f"as {WEIGHTS} into a folder with its {CONFIG}",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_a_safetensors_file_of_another_kind_gives_one_clear_error(tmp_path, case):
    tensors, message = REFUSED[case]
    save_file({k: t.clone() for k, t in tensors.items()}, tmp_path / "a.safetensors")
    with pytest.raises(AdapterError, match=message) as e:
        load_adapter(tmp_path / "a.safetensors", tiny_clip())
    assert "\n" not in str(e.value)
    assert "check the path" not in str(e.value)


def test_a_configuration_in_the_header_that_is_more_than_lora_is_refused(tmp_path):
    pair = diffusion("diffusers", {(0, "v"): drawn(2, TEXT, torch.Generator())})
    for words, message in (
        ('{"text_encoder.lora_alpha": 1, "text_encoder.use_dora": true}', "DoRA"),
        ('{"text_encoder.r": 2}', "no scale to use"),
        ("[1]", "header .* is damaged"),
        ("[" * 100_000, "header .* is damaged"),
    ):
        save_file(pair, tmp_path / "a.safetensors", {"lora_adapter_metadata": words})
        with pytest.raises(AdapterError, match=message):
            load_adapter(tmp_path / "a.safetensors", tiny_clip())


def test_a_file_of_our_own_or_of_a_folder_is_read_as_what_it_is(tmp_path):
    clip = tiny_clip()
    adapter = random_adapter(clip)
    save_adapter(adapter, tmp_path / "a")
    assert (
        load_adapter(tmp_path / "a" / WEIGHTS, clip)
        == load_adapter(tmp_path / "a" / CONFIG, clip)
        == adapter
    )
    (tmp_path / "a" / WEIGHTS).rename(tmp_path / "mine.safetensors")
    assert load_adapter(tmp_path / "mine.safetensors", clip) == adapter


def test_a_file_that_exists_is_never_said_to_be_missing(tmp_path):
    (tmp_path / "notes.txt").write_text("no adapter")
    (tmp_path / "a.bin").write_bytes(pickle.dumps(Evil()))
    for name in ("notes.txt", "a.bin"):
        with pytest.raises(AdapterError, match="not a whole"):
            load_adapter(tmp_path / name)
    with pytest.raises(AdapterError, match=r"no adapter at .*; check the path"):
        load_adapter(tmp_path / "nowhere")
    (tmp_path / "loras").mkdir()
    save_file(A_PAIR, tmp_path / "loras" / "pytorch_lora_weights.safetensors")
    with pytest.raises(
        AdapterError,
        match=r"if the adapter is pytorch_lora_weights.safetensors, give the path of that file",
    ):
        load_adapter(tmp_path / "loras")
