"""Dropout of LoRA's input: each element by itself, as LoRA, CLIP-LoRA and peft do it."""

import copy

import pytest
import torch
import torch.nn.functional as F
from tiny import random_adapter, tiny_clip

from copra_lab.engine.extraction import embed, plain_tower
from copra_lab.methods import Attached, InputDropout, LoRA
from copra_lab.methods.stacked import StackedLoRA
from copra_lab.models import KINDS, TOWERS, to_hugging_face
from copra_lab.utils.devices import Process
from copra_lab.utils.rng import generator

RATE = 0.4
EVERYWHERE = LoRA(rank=3, alpha=6, sites=KINDS, towers=TOWERS)


def pixels(clip, n=5):
    return torch.randn(n, 3, clip.side, clip.side, generator=torch.Generator().manual_seed(1))


def all_logits(model, x, tokens):
    images, texts = model.encode_image(x), model.encode_text(tokens)
    return F.normalize(images, dim=-1) @ F.normalize(texts, dim=-1).T


def mask_of(name: str, shape) -> torch.Tensor:
    """A mask that depends on the site alone; where a block computes fewer tokens, those of it."""
    whole = torch.rand(shape[0], 20, *shape[2:], generator=generator(0, 0, name)) >= RATE
    return whole[:, : shape[1]]


@pytest.fixture
def same_masks(monkeypatch):
    monkeypatch.setattr(InputDropout, "kept", lambda self, shape, site: mask_of(site.name, shape))


def dropped_factors(clip, adapter, images, rate=RATE):
    """What one run of a stack adds to each layer of the image tower, with dropout or without."""
    sites = list(adapter.deltas)
    stack = StackedLoRA([adapter], [[sites]], clip.sites, [True], torch.device("cpu"))
    drop = InputDropout(rate, generator(0, 0, "dropout")), sites
    on = stack.on(torch.tensor([False, True]))
    return dict(enumerate(stack.factors(on, [0], [drop if rate else None], images)))


def attached_to(model, adapter, rate=RATE, seed=0):
    attached = Attached(model, EVERYWHERE, torch.Generator().manual_seed(0))
    attached.load(adapter)
    attached.drop_inputs(InputDropout(rate, generator(seed, 0, "dropout")))
    return attached


class Masked(torch.nn.Module):
    """In place of the dropout of one of peft's layers."""

    def __init__(self, name: str):
        super().__init__()
        self.name = name

    def forward(self, x):
        return x * mask_of(self.name, x.shape).to(x) / (1 - RATE)


def peft_logits(clip, adapter, x, tokens, folder):
    from peft import PeftModel

    from copra_lab.adapters import save_adapter

    save_adapter(adapter, folder)
    model = PeftModel.from_pretrained(to_hugging_face(clip), str(folder))
    for name, layer in model.base_model.model.named_modules():
        if hasattr(layer, "lora_dropout"):
            layer.lora_dropout["default"] = Masked(name)
    return model(pixel_values=x, input_ids=tokens).logits_per_image


@pytest.mark.parametrize("made_of", ["open_clip", "transformers"])
def test_the_same_masks_give_what_peft_gives(same_masks, tmp_path, made_of):
    clip = tiny_clip()
    adapter = random_adapter(clip, scale=2.0)
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    expected = peft_logits(clip, adapter, x, tokens, tmp_path)
    if made_of == "open_clip":
        model = copy.deepcopy(clip.model)
        attached_to(model, adapter)
        got = clip.logit_scale * all_logits(model, x, tokens)
    else:
        model = to_hugging_face(clip)
        attached_to(model, adapter)
        got = model(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


def test_the_fast_engine_gives_what_peft_gives(same_masks, tmp_path):
    clip = tiny_clip()
    adapter = random_adapter(clip, scale=2.0, towers=("vision",))
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    expected = peft_logits(clip, adapter, x, tokens, tmp_path)
    factors = dropped_factors(clip, adapter, len(x))
    features = plain_tower(clip.model.visual).features(embed(clip.model.visual, x), factors=factors)
    text = F.normalize(clip.model.encode_text(tokens), dim=-1)
    got = clip.logit_scale * features @ text.T
    torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-4)


@torch.no_grad()
def test_a_rate_of_zero_drops_nothing_and_detaching_leaves_no_hook():
    clip, model = tiny_clip(), copy.deepcopy(tiny_clip().model)
    adapter, x = random_adapter(clip, scale=2.0), pixels(clip)
    attached = attached_to(model, adapter, rate=0)
    assert attached.dropout is None
    tokens = clip.tokenizer(["a cat", "a dog"])
    whole = all_logits(model, x, tokens)
    attached.drop_inputs(InputDropout(0.5, generator(1, 0, "dropout")))
    assert not torch.allclose(all_logits(model, x, tokens), whole, atol=1e-3)
    with attached.whole():
        assert torch.equal(all_logits(model, x, tokens), whole)
    attached.drop_inputs(None)
    assert torch.equal(all_logits(model, x, tokens), whole)
    attached.detach()
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert torch.equal(all_logits(model, x, tokens), all_logits(clip.model, x, tokens))


@torch.no_grad()
def test_two_images_of_a_batch_have_masks_of_their_own():
    clip, model = tiny_clip(), copy.deepcopy(tiny_clip().model)
    x = pixels(clip, 1).expand(2, -1, -1, -1)
    attached_to(model, random_adapter(clip, scale=2.0))
    one, other = model.encode_image(x)
    assert not torch.allclose(one, other, atol=1e-3)
    factors = dropped_factors(clip, random_adapter(clip, scale=2.0, towers=("vision",)), 2)
    one, other = plain_tower(clip.model.visual).features(embed(clip.model.visual, x), 0, factors)
    assert not torch.allclose(one, other, atol=1e-3)


@torch.no_grad()
def test_a_branch_with_dropout_is_on_average_the_branch():
    clip = tiny_clip()
    adapter = random_adapter(clip, scale=2.0, towers=("vision",))
    x = torch.randn(1, 1, 64, generator=torch.Generator().manual_seed(0)).expand(20_000, -1, -1)
    down, up = dropped_factors(clip, adapter, len(x))[0]["out"]
    dropped = down(x)[0] @ up[0].T
    ((a,), (b,)) = dropped_factors(clip, adapter, len(x), rate=0)[0]["out"]
    mean, error = dropped.mean(0), dropped.std(0) / len(x) ** 0.5
    assert ((mean - x[0, 0] @ a.T @ b.T).abs() <= 4.5 * error).all()


def test_processes_that_share_a_batch_drop_what_one_would():
    site = next(iter(tiny_clip().sites.values()))
    x = torch.randn(5, 3, 64)
    alone = InputDropout(RATE, generator(0, 0, "dropout"), images=5)(x, site)
    for rank in (0, 1):
        process = Process(torch.device("cpu"), rank, 2)
        share = InputDropout(RATE, generator(0, 0, "dropout"), process, 5)(x[rank::2], site)
        assert torch.equal(share, alone[rank::2])


def test_attention_that_does_not_show_its_inputs_is_refused():
    clip = tiny_clip(block_type="custom")
    model = copy.deepcopy(clip.model)
    attached_to(model, random_adapter(clip, scale=2.0))
    with pytest.raises(ValueError, match=r"dropout needs the inputs of .* does not show"):
        model.encode_image(pixels(clip))
