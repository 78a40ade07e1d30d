"""A Hugging Face folder of a CLIP or SigLIP gives transformers' own features for a picture and a
text, or is refused in one sentence.
"""

import dataclasses
import json
import shutil

import numpy as np
import pytest
import torch
import torch.nn.functional as F
import transformers
from hypothesis import Phase, given, settings
from hypothesis import strategies as st
from PIL import Image
from tiny import (
    MEAN,
    STD,
    clip_tokenizer,
    perturb,
    random_adapter,
    save_images,
    save_siglip,
    siglip_tokenizer,
    tiny_clip,
    words_tokenizer,
)

from copra_lab.adapters import Adapter
from copra_lab.adapters.adapter import check_fits
from copra_lab.models import load_clip, save_hugging_face, to_hugging_face, tokenizers
from copra_lab.models.clip import weights_hash
from copra_lab.models.preprocessing import FILTERS
from copra_lab.prompts import SoftPrompt
from copra_lab.prompts.soft_prompt import check_prompt
from copra_lab.tasks import image_folder, load_task, photo

SIDE = 24
ONE_LEVEL = 1 / 255
# Pillow's own processors, which transformers names so where torchvision's are the default.
OF_CLIP = getattr(transformers, "CLIPImageProcessorPil", transformers.CLIPImageProcessor)
OF_SIGLIP = getattr(transformers, "SiglipImageProcessorPil", transformers.SiglipImageProcessor)


def noise(width: int, height: int, seed: int = 0) -> Image.Image:
    """A picture with edges and colours, so that a filter, a pixel's shift and a level's difference
    all show.
    """
    g = np.random.default_rng(seed)
    coarse = Image.fromarray(g.integers(0, 256, (5, 5, 3), dtype=np.uint8)).resize(
        (width, height), Image.Resampling.NEAREST
    )
    return Image.blend(
        coarse, Image.fromarray(g.integers(0, 256, (height, width, 3), dtype=np.uint8)), 0.3
    )


def save_model(
    folder,
    siglip: bool,
    act: str = "gelu",
    eps: float = 1e-5,
    heads: int = 2,
    eos: int | None = None,
):
    """transformers' model and tokenizer, written by transformers (CLIP's vocabulary by us, which
    the features hold to account).
    """
    torch.manual_seed(0)
    sizes = {
        "hidden_size": 32,
        "num_attention_heads": heads,
        "intermediate_size": 40,
        "num_hidden_layers": 2,
        "hidden_act": act,
        "layer_norm_eps": eps,
    }
    vision = {**sizes, "image_size": SIDE, "patch_size": 8}
    if siglip:
        text = {**sizes, "vocab_size": 20, "max_position_embeddings": 12, "projection_size": 32}
        model = transformers.SiglipModel(
            transformers.SiglipConfig(vision_config=vision, text_config=text)
        )
        siglip_tokenizer().save_pretrained(folder)
    else:
        words = clip_tokenizer(12, merges=80)
        tokenizers.save(words, folder, "")
        text = {
            **sizes,
            "vocab_size": words.vocab_size,
            "max_position_embeddings": 12,
            "eos_token_id": eos or words.eot_token_id,
        }
        model = transformers.CLIPModel(
            transformers.CLIPConfig(vision_config=vision, text_config=text, projection_dim=16)
        )
    perturb(model).save_pretrained(folder)
    return model


def save_processor(folder, siglip: bool, nested: bool, **says) -> None:
    """In either form of its file, as transformers writes them."""
    kind = "Siglip" if siglip else "CLIP"
    if says.get("do_center_crop"):
        says.setdefault("crop_size", SIDE)
    found = (OF_SIGLIP if siglip else OF_CLIP)(**says)
    says = {k: v for k, v in json.loads(found.to_json_string()).items() if v is not None} | {
        "image_processor_type": f"{kind}ImageProcessor"
    }
    name, told = (
        ("processor_config.json", {"image_processor": says})
        if nested
        else ("preprocessor_config.json", says)
    )
    (folder / name).write_text(json.dumps({**told, "processor_class": f"{kind}Processor"}))


@torch.no_grad()
def theirs(folder, siglip: bool, model, picture, texts):
    """(pixels, image features, text features) of transformers' own model and processor."""
    x = (OF_SIGLIP if siglip else OF_CLIP).from_pretrained(folder)(picture, return_tensors="pt")[
        "pixel_values"
    ]
    words = transformers.AutoTokenizer.from_pretrained(folder)
    out = model(
        pixel_values=x.float(),
        input_ids=words(
            texts, padding="max_length", truncation=True, max_length=12, return_tensors="pt"
        ).input_ids,
    )
    return x.float(), out.image_embeds, out.text_embeds


@torch.no_grad()
def ours(clip, picture, texts):
    x = clip.pixels(photo(picture, fit=clip.fit)[None])
    return x, F.normalize(clip.model.encode_image(x), dim=-1), clip.text_features(texts)


def agree(a, b) -> None:
    torch.testing.assert_close(
        a[0], b[0], atol=2e-6, rtol=2e-6
    )  # transformers multiplies by 1/255 where we divide
    for own, other in zip(a[1:], b[1:], strict=True):
        torch.testing.assert_close(own, other, atol=2e-5, rtol=0)


def refused(error, match: str, folder) -> None:
    with pytest.raises(error, match=match) as e:
        load_clip(folder)
    assert "\n" not in str(e.value) and len(str(e.value)) < 500, str(e.value)


# --- random configurations ---------------------------------------------------------------------------------------------

numbers = st.tuples(*[st.floats(0.05, 0.95)] * 3).map(list)
edges = st.sampled_from([SIDE, SIDE, 27, 32, 41, 16])
sizes = st.one_of(
    edges.map(lambda n: {"shortest_edge": n}), st.tuples(edges, edges).map(lambda n: {"height": n[0], "width": n[1]}), st.just(SIDE),
    st.just({"shortest_edge": SIDE, "longest_edge": 40}),
)  # fmt: skip
processors = st.fixed_dictionaries(
    {"size": sizes, "do_center_crop": st.booleans()},
    optional={
        "resample": st.integers(0, 5), "image_mean": numbers, "image_std": numbers, "do_normalize": st.booleans(), "do_rescale": st.booleans(),
        "rescale_factor": st.sampled_from([1 / 127.5, 1 / 256]), "do_resize": st.just(True) | st.booleans(), "crop_size": st.sampled_from([SIDE, SIDE, SIDE, 16]),
        "do_pad": st.just(False) | st.booleans(),
    },
)  # fmt: skip
models = st.fixed_dictionaries(
    {},
    optional={
        "act": st.sampled_from(["gelu", "gelu_pytorch_tanh", "quick_gelu"]),
        "eps": st.sampled_from([1e-3, 1e-6]),
        "heads": st.sampled_from([1, 4]),
    },
)


def followed(siglip: bool, says) -> bool:
    """Whether pictures of any shape become squares of the model's size, and no border is made."""
    size = says["size"]
    if size == SIDE:  # a number is the shorter side, in both
        size = {"shortest_edge": SIDE}
    small = min(size.values())
    if not says.get("do_resize", True) or says.get("do_pad") or "longest_edge" in size:
        return False
    if says["do_center_crop"]:
        return says.get("crop_size", SIDE) == SIDE and small >= SIDE
    return "height" in size and size["height"] == size["width"] == SIDE


@pytest.mark.slow
@settings(
    max_examples=40, phases=[Phase.explicit, Phase.generate]
)  # which need no shrinking to be read
@given(
    siglip=st.booleans(), nested=st.booleans(), says=processors, model=models, eos=st.sampled_from([None, 2]), seed=st.integers(0, 99),
    shape=st.tuples(st.integers(9, 90), st.integers(9, 90)), texts=st.lists(st.sampled_from("a cat! Dog 12 the_mat, <photo> & THING".split()), min_size=1, max_size=9),
)  # fmt: skip
def test_a_random_folder_gives_transformers_features_or_is_refused(
    tmp_path_factory, siglip, nested, says, model, eos, seed, shape, texts
):
    folder = tmp_path_factory.mktemp("random") / "model"
    hugging_face = save_model(folder, siglip, **model, eos=eos)
    save_processor(folder, siglip, nested, **says)
    if siglip and model.get("act") == "quick_gelu":
        return refused(ValueError, "with QuickGELU", folder)
    if not followed(siglip, says):
        return refused(ValueError, "cannot be followed: ", folder)
    picture, words = noise(*shape, seed), [" ".join(texts), "a photo of a dog"]
    clip = load_clip(folder)
    expected = theirs(folder, siglip, hugging_face, picture, words)
    agree(ours(clip, picture, words), expected)
    save_hugging_face(clip, folder.parent / "again")
    again = load_clip(folder.parent / "again")
    agree(ours(again, picture, words), expected)
    agree(
        theirs(
            folder.parent / "again",
            siglip and clip.resize == "squash" and not clip.resize_to,
            to_hugging_face(clip),
            picture,
            words,
        ),
        expected,
    )
    assert again.hash == clip.hash


# --- each setting in turn ----------------------------------------------------------------------------------------------

SETTINGS = {
    "mean and std": {"image_mean": [0.5, 0.4, 0.3], "image_std": [0.2, 0.5, 0.9]},
    "resize larger than the crop": {"size": {"shortest_edge": 31}},
    "resize to a shape, then crop": {"size": {"height": 40, "width": 29}},
    "squash": {"size": {"height": SIDE, "width": SIDE}, "do_center_crop": False},
    "no rescale": {"do_rescale": False},
    "rescale by another factor": {"rescale_factor": 1 / 127.5},
    "no normalisation": {"do_normalize": False},
    "neither": {"do_normalize": False, "do_rescale": False},
    "size as a number": {"size": 31},
    "unknown to all": {
        "processor_class": "CLIPProcessor",
        "feature_extractor_type": "CLIPFeatureExtractor",
    },
} | {f"resample {name}": {"resample": int(f)} for name, f in FILTERS.items()}


@pytest.mark.slow
@pytest.mark.parametrize("nested", [False, True])
@pytest.mark.parametrize("name", SETTINGS)
def test_each_setting_gives_transformers_pixels(tmp_path, name, nested):
    model = save_model(tmp_path, False)
    save_processor(
        tmp_path,
        False,
        nested,
        **{"size": {"shortest_edge": SIDE}, "do_center_crop": True, **SETTINGS[name]},
    )
    clip = load_clip(tmp_path)
    for i, shape in enumerate([(57, 40), (33, 90), (SIDE, SIDE), (25, 24), (17, 12)]):
        picture, texts = noise(*shape, i), ["a photo of a cat"]
        agree(ours(clip, picture, texts), theirs(tmp_path, False, model, picture, texts))


@pytest.mark.parametrize("resample", [0, 2, 3])
def test_torchvisions_processor_differs_by_a_level(tmp_path, resample):
    """It resizes with other rounding than Pillow, whose pixels are taken here."""
    save_model(tmp_path, False)
    save_processor(
        tmp_path, False, True, size={"shortest_edge": 31}, do_center_crop=True, resample=resample
    )
    clip, picture = load_clip(tmp_path), noise(57, 40)
    other = transformers.CLIPImageProcessor.from_pretrained(tmp_path)(picture, return_tensors="pt")[
        "pixel_values"
    ]
    difference = (clip.pixels(clip.fit(picture)[None]) - other).abs().amax(
        (0, 2, 3)
    ) * torch.tensor(clip.std)
    assert float(difference.max()) < 1.01 * ONE_LEVEL


@pytest.mark.parametrize("resample", [1, 2, 3])
@pytest.mark.parametrize("shape", [(2100, 11), (9, 2300)])
def test_a_long_strip_is_resized_where_it_is_seen(shape, resample):
    """To the level, as if it were resized whole, in memory that its length does not fill."""
    name = next(n for n, f in FILTERS.items() if f == resample)
    clip, picture = dataclasses.replace(tiny_clip(), side=SIDE, interpolation=name), noise(*shape)
    w, h = (int(SIDE * n / min(shape)) for n in shape)
    left, top = round((w - SIDE) / 2), round((h - SIDE) / 2)
    whole = np.array(picture.resize((w, h), FILTERS[name])).astype(int)[
        top : top + SIDE, left : left + SIDE
    ]
    assert np.abs(clip.fit(picture).numpy() - whole).max() <= 1
    assert clip.fit(Image.new("RGB", (1, 4_000_000), "red")).float().mean((0, 1)).tolist() == [
        255,
        0,
        0,
    ]


def test_what_is_nested_comes_first_as_in_transformers(tmp_path):
    save_model(tmp_path, False)
    squares = {"size": {"shortest_edge": SIDE}, "do_center_crop": True}
    save_processor(tmp_path, False, True, **squares, image_mean=[0.1, 0.2, 0.3])
    save_processor(tmp_path, False, False, **squares, image_mean=[0.5, 0.5, 0.5])
    assert (
        load_clip(tmp_path).mean
        == (0.1, 0.2, 0.3)
        == tuple(OF_CLIP.from_pretrained(tmp_path).image_mean)
    )
    (tmp_path / "processor_config.json").write_text(
        '{"processor_class": "CLIPProcessor"}'
    )  # as transformers 4 wrote it
    shutil.copytree(tmp_path, tmp_path / "older")
    assert (
        load_clip(tmp_path / "older").mean
        == (0.5,) * 3
        == tuple(OF_CLIP.from_pretrained(tmp_path / "older").image_mean)
    )


@pytest.mark.slow
@pytest.mark.parametrize(
    ("says", "why"),
    [
        ("{", "is damaged; copy it again"),
        ("[]", "is damaged; copy it again"),
        (
            '{"size": {"longest_edge": 3}}',
            "size says longest_edge; write shortest_edge, or height and width",
        ),
        ('{"resample": 9, "crop_size": 24}', "resample 9 is not a filter"),
        ('{"image_mean": [1, 2], "crop_size": 24}', "image_mean has 2 numbers"),
        ('{"image_std": [0, 1, 1], "crop_size": 24}', "above zero"),
        ('{"crop_size": 24, "size": 16}', "is not between crop_size .24. and 8 times that"),
        ('{"crop_size": 24, "size": 100000}', "is not between crop_size .24. and 8 times that"),
        (
            "{}",
            "pictures become 224 × 224 pixels, and the image tower takes 24 × 24; copy the file of "
            "this model",
        ),
        ('{"do_center_crop": false, "size": 24}', "pictures stay oblong; set it to true"),
        ('{"do_resize": false}', "do_resize is false"),
        ('{"do_pad": true}', "do_pad is true"),
        (
            '{"image_processor_type": "BlipImageProcessor"}',
            "BlipImageProcessor prepares its pictures; choose a model with",
        ),
    ],
)
def test_the_rest_is_refused_by_name(tmp_path, says, why):
    save_model(tmp_path, False)
    (tmp_path / "preprocessor_config.json").write_text(says)
    refused(ValueError, why, tmp_path)


def test_a_folder_that_does_not_say_how_pictures_are_prepared_is_refused(tmp_path):
    save_model(tmp_path, False)
    refused(
        FileNotFoundError,
        r"does not say how pictures are prepared: copy preprocessor_config.json",
        tmp_path,
    )


# --- tokenizers --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("siglip", [False, True])
@pytest.mark.parametrize("left", [(), ("tokenizer_config.json",)])
def test_a_folder_without_a_vocabulary_is_refused(tmp_path, siglip, left):
    """transformers 5 makes an empty tokenizer of such a folder, to which all texts are one."""
    save_model(tmp_path, siglip)
    save_processor(
        tmp_path, siglip, False, size={"height": SIDE, "width": SIDE}, do_center_crop=False
    )
    for name in {"tokenizer.json", "tokenizer_config.json"} - set(left):
        (tmp_path / name).unlink()
    refused(
        FileNotFoundError,
        "has no tokenizer: copy tokenizer.json and tokenizer_config.json .* from the repository",
        tmp_path,
    )


def test_a_model_saved_without_its_tokenizer_is_refused(tmp_path):
    to_hugging_face(tiny_clip()).save_pretrained(tmp_path)
    refused(FileNotFoundError, "has no tokenizer", tmp_path)


def test_the_base_repository_is_named_where_it_is_known(tmp_path):
    save_model(tmp_path, False)
    (tmp_path / "tokenizer.json").unlink()
    config = json.loads((tmp_path / "config.json").read_text())
    (tmp_path / "config.json").write_text(
        json.dumps({**config, "_name_or_path": "openai/clip-vit-base-patch32"})
    )
    refused(FileNotFoundError, "into it from 'openai/clip-vit-base-patch32'", tmp_path)


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (["?", "<end>"], "the same tokens, so its vocabulary is empty"),  # all words unknown
        (
            ["?", *map(str, range(700)), "a", "cat", "dog", "<end>"],
            "has token 704, and the model only 594 tokens",
        ),
        (
            ["?", "a", "cat", "dog", "<end>"],
            "ends texts with token 4, and the model reads them at token 593",
        ),
    ],
)
def test_another_models_tokenizer_is_refused(tmp_path, words, why):
    save_model(tmp_path, False)
    save_processor(tmp_path, False, False, size=SIDE, do_center_crop=True)
    words_tokenizer(words, "<end>").save_pretrained(tmp_path)
    if "593" in why:  # at the highest number CLIP would find the end
        config = json.loads((tmp_path / "config.json").read_text())
        assert config["text_config"]["eos_token_id"] == 593
        config["text_config"]["eos_token_id"] = 592
        (tmp_path / "config.json").write_text(json.dumps(config))
        why = "ends texts with token 4, and the model reads them at token 592"
    refused(ValueError, why, tmp_path)


def test_an_open_clip_folder_with_another_vocabulary_is_refused(tmp_path):
    from tiny import save_clip

    save_clip(tmp_path / "clip")
    config = json.loads((tmp_path / "clip" / "open_clip_config.json").read_text())
    clip_tokenizer(16, merges=50)
    config["model_cfg"]["text_cfg"]["hf_tokenizer_name"] = "somebody/something"
    (tmp_path / "clip" / "open_clip_config.json").write_text(json.dumps(config))
    words_tokenizer(["?", "<end>"], "<end>").save_pretrained(tmp_path / "clip")
    refused(ValueError, "the same tokens, so its vocabulary is empty", tmp_path / "clip")


@pytest.mark.slow
@pytest.mark.parametrize("merges", [None, 80])
def test_a_clip_of_hugging_faces_has_open_clips_tokenizer_so_that_prompts_can_be_trained(
    tmp_path, merges
):
    tokenizers.save(clip_tokenizer(12, merges), tmp_path, "")
    found = tokenizers.of_transformers(tmp_path, "", 12, None)
    of_transformers = transformers.AutoTokenizer.from_pretrained(tmp_path)
    assert found.sot_token_id == of_transformers.bos_token_id
    assert found.encode("a cat") == of_transformers("a cat").input_ids[1:-1]


@settings(max_examples=200)
@given(
    st.text(st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs", "M")), max_size=30)
)
def test_any_text_becomes_transformers_tokens(written, text):
    found, of_transformers = written
    tokens = of_transformers(text, truncation=True, max_length=12).input_ids
    assert found([text])[0, : len(tokens)].tolist() == tokens


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    folder = tmp_path_factory.mktemp("tokenizer")
    tokenizers.save(clip_tokenizer(12), folder, "")
    return tokenizers.of_transformers(
        folder, "", 12, None
    ), transformers.AutoTokenizer.from_pretrained(folder)


# --- written folders ---------------------------------------------------------------------------------------------------

WORDS = ["a drawing of a tiger", "A Tiger, drawn!", "a handwritten three"]


def test_the_bundled_clip_goes_to_transformers_and_back(tmp_path):
    clip, picture = load_clip(), noise(90, 70)
    save_hugging_face(clip, tmp_path)
    again, processor = load_clip(tmp_path), transformers.AutoProcessor.from_pretrained(tmp_path)
    assert again.hash == clip.hash == "574537b2085dc066"
    assert type(again.tokenizer) is type(clip.tokenizer)
    assert torch.equal(again.text_features(WORDS), clip.text_features(WORDS))
    assert torch.equal(again.tokenizer(WORDS), clip.tokenizer(WORDS))
    inputs = processor(text=WORDS, images=picture, return_tensors="pt", padding=True)
    with torch.no_grad():
        out = transformers.CLIPModel.from_pretrained(tmp_path)(**inputs)
    torch.testing.assert_close(again.text_features(WORDS), out.text_embeds, atol=1e-5, rtol=0)
    pixels = clip.pixels(clip.fit(picture)[None])
    assert float((pixels - inputs["pixel_values"]).abs().amax()) < 1.01 * ONE_LEVEL / min(
        STD
    )  # torchvision's rounding
    torch.testing.assert_close(
        F.normalize(clip.model.encode_image(pixels), dim=-1), out.image_embeds, atol=0.02, rtol=0
    )


@pytest.mark.slow
def test_a_siglip_with_its_own_preprocessing_comes_back(tmp_path):
    save_siglip(tmp_path / "a")
    clip = load_clip(tmp_path / "a")
    for i, change in enumerate(
        (
            {},
            {"mean": (0.1, 0.2, 0.3)},
            {"resize": "shortest"},
            {"resize_to": (40, 36)},
            {"interpolation": "lanczos"},
        )
    ):
        save_hugging_face(dataclasses.replace(clip, **change), tmp_path / str(i))
        again = load_clip(tmp_path / str(i))
        assert again.hash == dataclasses.replace(clip, **change).hash
        assert all(getattr(again, k) == v for k, v in change.items())


def test_what_transformers_has_no_word_for_is_refused(tmp_path):
    clip = tiny_clip()
    with pytest.raises(ValueError, match="a border around pictures"):
        save_hugging_face(dataclasses.replace(clip, resize="longest"), tmp_path / "a")
    with pytest.raises(ValueError, match="neither CLIP's nor Hugging Face's"):
        save_hugging_face(dataclasses.replace(clip, tokenizer=lambda texts: texts), tmp_path / "a")
    assert not (tmp_path / "a").exists() or not list((tmp_path / "a").iterdir())


@pytest.mark.slow
def test_what_was_in_the_folder_before_is_not_read_in_its_place(tmp_path):
    clip = tiny_clip()
    to_hugging_face(tiny_clip(seed=1)).save_pretrained(tmp_path, max_shard_size="300KB")
    save_processor(tmp_path, False, True, size=32, crop_size=32, image_mean=[0, 0, 0])
    save_hugging_face(clip, tmp_path)
    assert load_clip(tmp_path).hash == clip.hash
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "open_clip_config.json").write_text("{}")
    with pytest.raises(
        ValueError, match="holds a CLIP in open_clip's layout; choose another folder"
    ):
        save_hugging_face(clip, tmp_path / "b")


# --- identity ----------------------------------------------------------------------------------------------------------


def test_an_identity_covers_what_changes_features():
    clip = tiny_clip()
    assert clip.hash == weights_hash(clip.model.state_dict())
    changes = [
        {"mean": (0.5, 0.5, 0.5)}, {"std": (0.5, 0.5, 0.5)}, {"interpolation": "bilinear"}, {"resize": "squash"}, {"resize": "longest"},
        {"resize": "longest", "fill": 128}, {"resize_to": 40}, {"model": tiny_clip(quick_gelu=True).model}, {"tokenizer": clip_tokenizer(16, merges=80)},
    ]  # fmt: skip
    hashes = [dataclasses.replace(clip, **change).hash for change in changes]
    assert len({clip.hash, *hashes}) == 1 + len(changes)
    assert all(h.startswith(f"{clip.hash}-") for h in hashes)
    assert (
        dataclasses.replace(clip, crop="floor").hash == clip.hash
    )  # which libraries differ in, on the same settings


def test_an_adapter_is_held_against_what_it_was_trained_with():
    plain, other = tiny_clip(), dataclasses.replace(tiny_clip(), mean=(0.5, 0.5, 0.5))
    for a, b in ((plain, other), (other, dataclasses.replace(plain, resize="squash"))):
        adapter = random_adapter(a)
        check_fits(adapter, a.sites, a.hash)
        if a is plain:
            continue
        with pytest.raises(
            ValueError,
            match="the same weights with another preprocessing, activation or vocabulary",
        ):
            check_fits(adapter, b.sites, b.hash)
        with pytest.raises(
            ValueError,
            match=r"this soft prompt was trained on base .* the same weights with another",
        ):
            check_prompt(SoftPrompt(torch.zeros(2, 32), base=a.hash), b, ["x"])
    with pytest.raises(ValueError, match="trained on base 0123, not on"):
        check_fits(Adapter(random_adapter(plain).deltas, "0123"), plain.sites, plain.hash)


def test_one_that_names_weights_alone_is_taken_with_a_warning():
    """As version 0.1.0 wrote them for every CLIP."""
    clip = dataclasses.replace(tiny_clip(), mean=(0.5, 0.5, 0.5))
    with pytest.warns(UserWarning, match="names its CLIP's weights alone, as copra-lab 0.1.0 did"):
        check_fits(random_adapter(tiny_clip()), clip.sites, clip.hash)


# --- pictures from files -----------------------------------------------------------------------------------------------


def test_a_folder_of_pictures_is_prepared_as_the_clip_says(tmp_path):
    save_model(tmp_path / "model", False)
    save_processor(
        tmp_path / "model",
        False,
        False,
        size={"height": 40, "width": 30},
        do_center_crop=True,
        resample=2,
        image_mean=[0.1] * 3,
    )
    clip = load_clip(tmp_path / "model")
    save_images(tmp_path / "pictures", 24)
    for i, file in enumerate((tmp_path / "pictures").rglob("*.png")):
        noise(50, 30 + i % 9, i).save(file)
    task = load_task(tmp_path / "pictures", clip)
    processor = OF_CLIP.from_pretrained(tmp_path / "model")
    for image, source in zip(task.val.images, task.val.sources, strict=True):
        x = processor(Image.open(tmp_path / "pictures" / source), return_tensors="pt")[
            "pixel_values"
        ]
        torch.testing.assert_close(clip.pixels(image[None]), x, atol=2e-6, rtol=0)
    assert torch.equal(
        image_folder(tmp_path / "pictures", side=SIDE, clip=clip).val.images, task.val.images
    )
    assert clip.mean != MEAN
    assert not torch.equal(
        image_folder(tmp_path / "pictures", side=SIDE).val.images, task.val.images
    )


# --- what has a twin ---------------------------------------------------------------------------------------------------

TIMM = {"image_size": 160, "timm_pool": "token", "timm_proj": "linear"}
VARIANTS = {
    "plain": {},
    "QuickGELU": {"quick_gelu": True},
    "approximate GELU": {"vision_cfg": {"act_kwargs": {"approximate": "tanh"}}},
    "a text that reads both ways": {"text_cfg": {"no_causal_mask": True}},
    "a text read at its last token": {"text_cfg": {"pool_type": "last"}},
    "a text read at its first token": {"text_cfg": {"pool_type": "first"}},
    "a text read at one token": {"text_cfg": {"pool_type": "eos", "eos_id": 49407}},
    "patches averaged": {"vision_cfg": {"pool_type": "avg"}},
    "an attentional pool": {"vision_cfg": {"attentional_pool": True}},
    "layers scaled": {"vision_cfg": {"ls_init_value": 0.1}},
    "no norm before": {"vision_cfg": {"no_ln_pre": True}},
    "the norm after": {"vision_cfg": {"final_ln_after_pool": True, "pool_type": "avg"}},
    "positions of sines": {"vision_cfg": {"pos_embed_type": "sin_cos_2d"}},
    "a text projection with bias": {"custom_text": True, "text_cfg": {"proj_bias": True}},
    "text apart": {"custom_text": True},
    **{
        f"timm's {name}, {pool}{', text apart' * custom}": {"custom_text": custom, "vision_cfg": {**TIMM, "timm_model_name": name, "timm_pool": pool}}
        for name, pool in (("test_vit", "token"), ("test_vit", "avg"), ("test_vit2", "avg"), ("test_vit3", "avg"), ("vit_tiny_patch16_224", "token"))
        for custom in (False, True)
    },
    "timm's, with SigLIP's text": {
        "custom_text": True, "vision_cfg": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"no_causal_mask": True, "proj_bias": True, "pool_type": "last"}, "embed_dim": 64, "init_logit_bias": -10,
    },
    "timm's with its pool, with CLIP's text": {
        "custom_text": True, "vision_cfg": {**TIMM, "timm_model_name": "test_vit", "timm_pool": "map", "timm_proj": "none"},
        "text_cfg": {"proj_bias": True}, "embed_dim": 64, "init_logit_bias": -10,
    },
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("name", VARIANTS)
def test_a_model_has_a_twin_of_the_same_features_or_none(name):
    import open_clip

    more = dict(VARIANTS[name])
    vision = (
        {"image_size": 32, "patch_size": 8, "width": 64, "layers": 2, "head_width": 64}
        if "timm" not in name
        else {}
    )
    text = {"context_length": 16, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 1}
    vision, text = vision | more.pop("vision_cfg", {}), text | more.pop("text_cfg", {})
    make = open_clip.CustomTextCLIP if more.pop("custom_text", False) else open_clip.CLIP
    torch.manual_seed(0)
    model = perturb(make(**{"embed_dim": 32, "vision_cfg": vision, "text_cfg": text, **more}))
    clip = dataclasses.replace(tiny_clip(), model=model, side=vision["image_size"], name="mine")
    try:
        twin = to_hugging_face(clip)
    except ValueError as e:
        assert (
            str(e).startswith("mine is not a plain CLIP")
            and "\n" not in str(e)
            and "split" not in str(e)
        ), str(e)
        assert name not in ("plain", "QuickGELU", "a text read at one token")
        return
    x, tokens = (
        torch.randn(2, 3, clip.side, clip.side),
        clip.tokenizer(["a cat", "two dogs on a mat"]),
    )
    with torch.no_grad():
        out = twin(pixel_values=x, input_ids=tokens)
        torch.testing.assert_close(
            F.normalize(model.encode_image(x), dim=-1), out.image_embeds, atol=1e-5, rtol=0
        )
        torch.testing.assert_close(
            F.normalize(model.encode_text(tokens), dim=-1), out.text_embeds, atol=1e-5, rtol=0
        )
