"""Soft prompts against references built token by token, by the model's own code."""

import copy
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.engine import Encoder, encode_texts, text_encoder
from copra_lab.methods import LoRA
from copra_lab.prompts import VPT, CoOp, Nemesis, PromptError, SoftPrompt
from copra_lab.prompts.soft_prompt import FILE, POSITIONS
from copra_lab.training import CopRA, fit

CLASSES = tiny_task().classes
QUICK = {"steps": 40, "lr": 0.05, "batch": 16, "progress": False}


def contexts(m=2, length=5, classes=None, size=0.5, width=32, seed=0):
    g = torch.Generator().manual_seed(seed)
    return size * torch.randn(
        *(m, length, width) if classes is None else (m, classes, length, width), generator=g
    )


def by_hand(clip, model, name, context, position):
    """One class's feature: its embeddings put in a row one after another, then the model's own
    layers.
    """
    t = clip.tokenizer
    word = {
        i: model.token_embedding.weight[i]
        for i in (t.sot_token_id, t.eot_token_id, *t.encode(name), *t.encode("."))
    }
    v, half = list(context), len(context) // 2
    own = [word[i] for i in t.encode(name)]
    middle = {"end": [*v, *own], "middle": [*v[:half], *own, *v[half:]], "front": [*own, *v]}[
        position
    ]
    row = [word[t.sot_token_id], *middle, *(word[i] for i in t.encode(".")), word[t.eot_token_id]]
    stop = len(row) - 1
    row += [model.token_embedding.weight[7]] * (
        t.context_length - len(row)
    )  # behind the end, anything
    x = torch.stack(row)[None] + model.positional_embedding
    x = model.ln_final(model.transformer(x, attn_mask=model.attn_mask))[:, stop]
    return F.normalize(x @ model.text_projection, dim=-1)[0]


@pytest.mark.parametrize("general", [False, True])
@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("length", [1, 5])
def test_features_are_those_of_a_row_built_by_hand(position, length, general, monkeypatch):
    clip = tiny_clip()
    if general:
        monkeypatch.setattr(text_encoder, "_plain", lambda clip: None)
    adapter = random_adapter(clip, towers=("text",), size=0.3)
    model = copy.deepcopy(clip.model)
    model.load_state_dict(model.state_dict() | merged_weights(clip.model, adapter))
    shared, own = contexts(2, length), contexts(1, length, len(CLASSES))
    encode = Encoder(clip, CLASSES, length, position, adapter)
    with torch.no_grad():
        for found, given_ in ((encode(shared), shared), (encode(own), own)):
            for m, features in enumerate(found):
                for i, name in enumerate(CLASSES):
                    expected = by_hand(
                        clip, model, name, given_[m] if given_.ndim == 3 else given_[m, i], position
                    )
                    torch.testing.assert_close(features[i], expected, atol=1e-5, rtol=0)
    x = shared.clone().requires_grad_()
    encode(x).square()[..., 0].sum().backward()
    y = shared.clone().requires_grad_()
    torch.stack(
        [by_hand(clip, model, n, c, position)[0] ** 2 for c in y for n in CLASSES]
    ).sum().backward()
    torch.testing.assert_close(x.grad, y.grad, atol=1e-5, rtol=1e-4)


def test_words_as_context_are_the_words():
    clip = tiny_clip()
    context = CoOp(words="a photo of a").begin(clip, CLASSES, torch.Generator())
    with torch.no_grad():
        found = Encoder(clip, CLASSES, 4, "end")(context[None])[0]
    torch.testing.assert_close(
        found, clip.text_features([f"a photo of a {c}." for c in CLASSES]), atol=1e-5, rtol=0
    )
    own = CoOp(words="a photo of a", class_specific=True).begin(clip, CLASSES, torch.Generator())
    assert own.shape == (4, *context.shape)
    assert (own == context).all()


@pytest.mark.parametrize("block_type", [None, "custom"])
def test_whole_texts_with_an_adapter(block_type, monkeypatch):
    clip = tiny_clip(block_type=block_type)
    adapter = random_adapter(clip, towers=("text", "vision"), size=0.3)
    model = copy.deepcopy(clip.model)
    model.load_state_dict(model.state_dict() | merged_weights(clip.model, adapter))
    with torch.no_grad():
        expected = F.normalize(model.encode_text(clip.tokenizer(list(CLASSES))), dim=-1)
    torch.testing.assert_close(encode_texts(clip, CLASSES, adapter), expected, atol=1e-5, rtol=0)
    monkeypatch.setattr(text_encoder, "_plain", lambda clip: None)
    torch.testing.assert_close(encode_texts(clip, CLASSES, adapter), expected, atol=1e-5, rtol=0)


def test_a_prompt_composes_with_adapters_on_either_tower():
    clip, task = tiny_clip(), tiny_task()
    bench = Bench(clip, task, precision="float32")
    adapter = random_adapter(clip, size=0.3)
    model = copy.deepcopy(clip.model)
    model.load_state_dict(model.state_dict() | merged_weights(clip.model, adapter))
    words, beside = (
        SoftPrompt(contexts(1)[0], position="middle"),
        SoftPrompt(contexts(1, 3, width=64)[0], "vision"),
    )
    pixels = clip.pixels(task.test.images[bench.order])
    with torch.no_grad():
        text = torch.stack([by_hand(clip, model, c, words.context, "middle") for c in CLASSES])
        expected = clip.logit_scale * F.normalize(model.encode_image(pixels), dim=-1) @ text.T
        torch.testing.assert_close(
            bench.logits(adapter, prompt=words), expected, atol=1e-3, rtol=1e-4
        )
        # Tokens beside the patches, through the model's own layers.
        v = model.visual
        x = v.conv1(pixels).flatten(2).transpose(1, 2)
        x = v.ln_pre(
            torch.cat([v.class_embedding.expand(len(x), 1, -1), x], 1) + v.positional_embedding
        )
        x = (
            v.ln_post(v.transformer(torch.cat([x, beside.context.expand(len(x), -1, -1)], 1))[:, 0])
            @ v.proj
        )
        plain = F.normalize(model.encode_text(clip.tokenizer(task.prompts)), dim=-1)
        torch.testing.assert_close(
            bench.logits(adapter, prompt=beside),
            clip.logit_scale * F.normalize(x, dim=-1) @ plain.T,
            atol=1e-3,
            rtol=1e-4,
        )
    assert (bench.logits(adapter, prompt=words) - bench.logits(adapter)).abs().max() > 0.1


@pytest.mark.slow
def test_many_prompts_at_once_say_what_each_says():
    clip, task = tiny_clip(), tiny_task()
    bench, adapter = Bench(clip, task, precision="float32"), random_adapter(tiny_clip(), size=0.3)
    many = [SoftPrompt(c) for c in contexts(60)] + [
        SoftPrompt(c, position="front") for c in contexts(2, 3)
    ]
    many += [
        SoftPrompt(contexts(1, 3, width=64)[0], "vision"),
        SoftPrompt(contexts(1, 2, 4)[0], classes=CLASSES),
    ]
    for a in ((), (adapter,)):
        hits = bench.hits(many, *a)
        assert hits.shape == (64, len(bench))
        for p, row in zip(many, hits, strict=True):
            assert row.sum() == bench.accuracy(*a, prompt=p).correct
    assert sum(1 for _ in bench.stream(prompt=many[0])) == 2


@pytest.mark.slow
@pytest.mark.parametrize(
    "method",
    [
        CoOp(4),
        CoOp(3, "front", class_specific=True),
        CoOp(words="a photo of a", position="middle"),
        VPT(4),
    ],
    ids=lambda m: str(m)[:30],
)
@pytest.mark.parametrize("penalty", [None, Nemesis(0.5, 0.1, samples=2)])
def test_fit_learns_a_prompt_the_same_twice_and_through_an_interruption(method, penalty, tmp_path):
    clip, task, file = tiny_clip(), tiny_task(), tmp_path / "part"
    before = clip.hash
    steps = []
    settings_ = QUICK | {"penalty": penalty, "views": 0 if isinstance(method, CoOp) else 2}
    whole = fit(clip, task, method, on_step=steps.append, **settings_)
    assert (
        Bench(clip, task).accuracy(prompt=whole).value > Bench(clip, task).accuracy().value + 0.15
    )
    assert (
        type(clip)(clip.model, clip.tokenizer, clip.name, clip.side, clip.mean, clip.std).hash
        == before
        == whole.base
    )
    assert whole.classes == CLASSES
    assert len(steps[-1].norms) == whole.length
    assert steps[-1].units == {}
    assert steps[-1].loss < steps[0].loss
    assert steps[-1].norms == pytest.approx(whole.norms().tolist(), rel=1e-5)

    class Stop(Exception):
        pass

    def stop(s):
        if s.step == 23:
            raise Stop

    with pytest.raises(Stop):
        fit(clip, task, method, checkpoint=file, checkpoint_every=10, on_step=stop, **settings_)
    assert file.exists()
    assert fit(clip, task, method, checkpoint=file, checkpoint_every=10, **settings_) == whole
    assert fit(clip, task, method, seed=1, **settings_) != whole


def test_a_prompt_learns_on_an_adapter_and_goes_on_from_another():
    clip, task = tiny_clip(), tiny_task()
    adapter = random_adapter(clip, size=0.3)
    learnt = fit(clip, task, CoOp(4), adapter=adapter, **QUICK)
    bench = Bench(clip, task)
    assert bench.accuracy(adapter, prompt=learnt).value > bench.accuracy(adapter).value + 0.2
    assert learnt.provenance["adapter"] == adapter.hash
    assert learnt.provenance["method"] == "coop"
    again = fit(
        clip, task, CoOp(4), adapter=adapter, start_from=learnt, **QUICK | {"steps": 1, "lr": 1e-9}
    )
    torch.testing.assert_close(again.context, learnt.context, atol=1e-6, rtol=0)
    for bad in (
        {"start_from": adapter},
        {"start_from": fit(clip, task, CoOp(3), **QUICK | {"steps": 1})},
    ):
        with pytest.raises(ValueError, match="does not match these settings"):
            fit(clip, task, CoOp(4), **QUICK | bad)
    with pytest.raises(ValueError, match="trained on base"):
        fit(tiny_clip(1), task, CoOp(4), start_from=learnt, **QUICK)
    own = fit(clip, task, CoOp(4, class_specific=True), **QUICK | {"steps": 1})
    with pytest.raises(ValueError, match="the classes changed"):
        fit(
            clip,
            replace(task, classes=task.classes[::-1]),
            CoOp(4, class_specific=True),
            start_from=own,
            **QUICK,
        )
    with pytest.raises(ValueError, match="LoRA can only start from an adapter"):
        fit(clip, task, LoRA(2), start_from=learnt, **QUICK)


def test_each_way_of_tuning_refuses_the_others_settings():
    clip, task = tiny_clip(), tiny_task()
    with pytest.raises(ValueError, match="dropping and precision are for LoRA"):
        fit(clip, task, CoOp(4), CopRA(), **QUICK)
    with pytest.raises(ValueError, match="penalty and adapter are for soft prompts"):
        fit(clip, task, LoRA(2), penalty=Nemesis(), **QUICK)
    with pytest.raises(ValueError, match="lower the learning rate"):
        fit(clip, task, CoOp(4), **QUICK | {"lr": 1e30})


def test_what_is_saved_comes_back(tmp_path):
    clip = tiny_clip()
    for p in (
        SoftPrompt(
            contexts(1)[0],
            position="front",
            classes=CLASSES,
            base=clip.hash,
            provenance={"seed": 3},
        ),
        SoftPrompt(contexts(1, 5, 4)[0], classes=CLASSES, base=clip.hash),
        SoftPrompt(contexts(1, 2, width=64)[0], "vision", base=clip.hash),
    ):
        p.save(tmp_path)
        first = (tmp_path / FILE).read_bytes()
        back = SoftPrompt.load(tmp_path, clip)
        assert back == p
        assert hash(back) == hash(p)
        assert back.provenance == p.provenance
        assert (back.context == p.context).all()
        back.save(tmp_path)
        assert (tmp_path / FILE).read_bytes() == first
    assert list(tmp_path.iterdir()) == [tmp_path / FILE]


def test_what_does_not_fit_is_named(tmp_path):
    clip, task = tiny_clip(), tiny_task()
    own = SoftPrompt(contexts(1, 5, 4)[0], classes=CLASSES, base=clip.hash)
    own.save(tmp_path)
    with pytest.raises(PromptError, match="classes changed \\('dog' instead of 'green thing'\\)"):
        SoftPrompt.load(tmp_path, clip, [CLASSES[0], "dog", *CLASSES[2:]])
    with pytest.raises(PromptError, match="classes changed \\(3 of 4\\)"):
        SoftPrompt.load(tmp_path, clip, CLASSES[:3])
    with pytest.raises(PromptError, match="trained on base"):
        SoftPrompt.load(tmp_path, tiny_clip(1))
    with pytest.raises(PromptError, match="check the path"):
        SoftPrompt.load(tmp_path / "nowhere")
    bench = Bench(clip, task)
    with pytest.raises(ValueError, match="vectors have 31 numbers"):
        bench.accuracy(prompt=SoftPrompt(contexts(1, width=31)[0]))
    with pytest.raises(
        ValueError, match=r"need 17 tokens, and this CLIP reads 16; make the context shorter by 1"
    ):
        bench.accuracy(prompt=SoftPrompt(contexts(1, 12)[0]))
    assert bench.accuracy(prompt=SoftPrompt(contexts(1, 11)[0])).n == len(bench)
    with pytest.raises(ValueError, match="class 1 has an empty name"):
        Encoder(clip, ["a", " "], 3, "end")
    SoftPrompt(torch.full((2, 32), torch.nan)).save(tmp_path)
    with pytest.raises(PromptError, match="NaN or infinity"):
        SoftPrompt.load(tmp_path)
    for wrong, words in (
        (lambda: CoOp(0), "length must be"), (lambda: CoOp(position="back"), "position must be"), (lambda: CoOp(3, words="a b"), "words or a length"),
        (lambda: CoOp(words=" "), "words or a length"), (lambda: VPT(-1), "length must be"), (lambda: SoftPrompt(torch.zeros(3)), "a context is"),
        (lambda: SoftPrompt(torch.zeros(2, 3, 4)), "needs their names"), (lambda: SoftPrompt(torch.zeros(2, 3), "audio"), "tower must be"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=words):
            wrong()


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    folder = tmp_path_factory.mktemp("prompt")
    SoftPrompt(contexts(1)[0], classes=CLASSES, base=tiny_clip().hash, provenance={"seed": 1}).save(
        folder
    )
    return folder / FILE


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_damaged_file_is_refused_or_harmless(file, tmp_path_factory, data):
    raw = bytearray(file.read_bytes())
    if data.draw(st.booleans()):
        raw = raw[: data.draw(st.integers(0, len(raw) - 1))]
    else:
        at = data.draw(st.integers(0, len(raw) - 1))
        raw[at] ^= 1 << data.draw(st.integers(0, 7))
    folder = tmp_path_factory.mktemp("damaged")
    (folder / FILE).write_bytes(raw)
    try:
        assert SoftPrompt.load(folder, tiny_clip()).context.shape == (5, 32)
    except PromptError as e:
        assert "\n" not in str(e)[:200]
