import copy
import time

import pytest
import torch
import torch.nn.functional as F
from tiny import random_adapter, tiny_clip, tiny_task
from torch.func import functional_call

from copra_lab.adapters import Adapter, LowRank, save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.bench import Bench
from copra_lab.bench import bench as benches
from copra_lab.bench.bench import NONE
from copra_lab.methods import Attached, LoRA
from copra_lab.models import KINDS, TOWERS, choose, find_sites, to_hugging_face
from copra_lab.prompts import SoftPrompt


def pixels(clip, n=5):
    return torch.randn(n, 3, clip.side, clip.side, generator=torch.Generator().manual_seed(1))


def all_logits(model, x, tokens):
    return (
        F.normalize(model.encode_image(x), dim=-1)
        @ F.normalize(model.encode_text(tokens), dim=-1).T
    )


def everywhere(rank=3, **kw) -> LoRA:
    return LoRA(rank=rank, sites=KINDS, towers=TOWERS, **kw)


@pytest.mark.parametrize("block_type", [None, "custom"])
@torch.no_grad()
def test_sites_are_found_whatever_the_attention_class(block_type):
    clip = tiny_clip(block_type=block_type)
    assert len(clip.sites) == 6 * (3 + 2)
    assert list(clip.sites) == list(tiny_clip().sites)
    site = clip.sites["vision_model.encoder.layers.1.self_attn.v_proj"]
    assert (site.tower, site.layer, site.kind, site.shape) == ("vision", 1, "v", (64, 64))


@pytest.mark.parametrize("block_type", [None, "custom"])
@torch.no_grad()
def test_zero_b_is_the_base_to_the_bit(block_type):
    clip = tiny_clip(block_type=block_type)
    model = copy.deepcopy(clip.model)
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    before = all_logits(model, x, tokens)
    attached = Attached(model, everywhere(), torch.Generator().manual_seed(0))
    assert torch.equal(all_logits(model, x, tokens), before)
    attached.detach()
    assert torch.equal(all_logits(model, x, tokens), before)


def test_a_gate_that_is_off_is_the_base_to_the_bit_and_gets_no_gradient():
    clip = tiny_clip()
    model = copy.deepcopy(clip.model)
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    before = all_logits(model, x, tokens)
    attached = Attached(model, everywhere(), torch.Generator().manual_seed(0))
    attached.load(random_adapter(clip, scale=1.0))
    attached.activate([])
    with torch.no_grad():  # with gradients PyTorch may take another attention kernel
        assert torch.equal(all_logits(model, x, tokens), before)
    on = [("vision", 1), ("text", 0)]
    attached.activate([s.name for s in clip.sites.values() if (s.tower, s.layer) in on])
    all_logits(model, x, tokens).square().sum().backward()
    for name, part in attached.parts.items():
        site = clip.sites[name]
        assert (part.A.grad is not None) == ((site.tower, site.layer) in on), name
    with pytest.raises(ValueError, match="no LoRA sits on"):
        attached.activate(["vision 9"])


@pytest.mark.parametrize("block_type", [None, "custom"])
@torch.no_grad()
def test_training_and_merging_agree(block_type):
    clip = tiny_clip(block_type=block_type)
    adapter = random_adapter(clip, scale=1.0)
    model = copy.deepcopy(clip.model)
    Attached(model, everywhere(), torch.Generator().manual_seed(0)).load(adapter)
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    merged = copy.deepcopy(clip.model)
    merged.load_state_dict(merged.state_dict() | merged_weights(clip.model, adapter))
    assert not torch.allclose(
        all_logits(clip.model, x, tokens), all_logits(merged, x, tokens), atol=1e-3
    )
    torch.testing.assert_close(
        all_logits(model, x, tokens), all_logits(merged, x, tokens), atol=1e-6, rtol=0
    )


@pytest.mark.parametrize("rank", [0, -1, 1.5])
def test_lora_refuses_a_rank_that_is_none(rank):
    with pytest.raises(ValueError, match="rank must be"):
        LoRA(rank=rank)


def test_lora_names_what_is_wrong():
    for bad, message in (({"alpha": 0.0}, "alpha"), ({"scaling": "r"}, "scaling")):
        with pytest.raises(ValueError, match=message):
            LoRA(**bad)
    assert LoRA(rank=4, alpha=8).scale == 2
    assert LoRA(rank=4, alpha=8, scaling="alpha/sqrt(r)").scale == 4
    with pytest.raises(ValueError, match="unknown site 'w'"):
        choose(tiny_clip().sites, ("w",))
    with pytest.raises(ValueError, match="unknown tower"):
        choose(tiny_clip().sites, ("q",), ("audio",))
    with pytest.raises(ValueError, match="no transformer block"):
        find_sites(torch.nn.Linear(3, 3))
    with pytest.raises(ValueError, match="share a rank"):
        LowRank(torch.zeros(2, 3), torch.zeros(3, 1))


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
@pytest.mark.parametrize("block_type", [None, "custom"])
def test_the_bench_says_what_an_independent_forward_pass_says(precision, block_type):
    clip, task = tiny_clip(block_type=block_type), tiny_task()
    bench = Bench(clip, task, precision=precision)
    before = {k: v.clone() for k, v in clip.model.state_dict().items()}
    for adapter in (
        NONE,
        random_adapter(clip),
        random_adapter(clip, kinds=("out", "fc2"), towers=("vision",)),
        random_adapter(clip, towers=("text",)),
    ):
        merged = copy.deepcopy(clip.model)
        merged.load_state_dict(merged.state_dict() | merged_weights(clip.model, adapter))
        with torch.no_grad():
            expected = clip.logit_scale * all_logits(
                merged, clip.pixels(task.test.images), clip.tokenizer(list(task.prompts))
            )
        tolerance = 1e-4 if precision == "float32" else 0.5
        torch.testing.assert_close(
            bench.logits(adapter), expected[bench.order], atol=tolerance, rtol=0
        )
    assert all(torch.equal(v, before[k]) for k, v in clip.model.state_dict().items())


def test_the_bench_streams_the_same_predictions_and_refuses_strangers():
    clip = tiny_clip()
    bench = Bench(clip, tiny_task(), precision="float32")
    adapter = random_adapter(clip)
    head, whole = bench.stream(adapter, first=30)
    assert len(head) == 30
    assert torch.equal(whole[:30], head)
    assert torch.equal(whole, bench.predictions(adapter))
    with pytest.raises(ValueError, match="trained on base"):
        bench.accuracy(random_adapter(tiny_clip(1)))
    path = bench.path(adapter, random_adapter(clip, seed=1), (0, 0.5, 1))
    assert path.accuracies[0] == bench.accuracy(adapter)
    assert path.barrier >= 0


@pytest.mark.slow
def test_choosing_the_arithmetic_of_a_large_tower_takes_moments(monkeypatch):
    """A ViT-B-32 kept a small task waiting for minutes."""

    class Tower:
        ln_post = (torch.zeros(8),)

    full, half, seen = Tower(), Tower(), []

    def slow(tower, x):
        seen.append(len(x))
        time.sleep(len(x) * (0.2 if tower is full else 0.02))

    monkeypatch.setattr(benches, "_features", slow)
    assert benches._bfloat16_is_faster(5, full, half)
    assert max(seen) <= 2
    monkeypatch.setattr(benches, "_features", lambda tower, x: seen.append(len(x)))
    benches._bfloat16_is_faster(6, full, half)
    assert max(seen) == 2 * benches.CHUNK  # a small one fills both workers


def test_two_threads_get_their_own_answers():
    from concurrent.futures import ThreadPoolExecutor

    clip = tiny_clip()
    bench = Bench(clip, tiny_task(), precision="float32")
    adapters = [random_adapter(clip, seed=i, size=0.3) for i in range(8)]
    alone = [bench.logits(a) for a in adapters]
    with ThreadPoolExecutor(8) as pool:
        for expected, got in zip(alone * 3, pool.map(bench.logits, adapters * 3), strict=True):
            torch.testing.assert_close(got, expected, atol=1e-4, rtol=0)


@pytest.mark.parametrize("quick_gelu", [False, True])
@torch.no_grad()
def test_peft_loads_our_folder_on_hugging_faces_clip(tmp_path, quick_gelu):
    from peft import PeftModel

    clip = tiny_clip(quick_gelu=quick_gelu)
    adapter = random_adapter(clip)
    save_adapter(adapter, tmp_path)
    # In float64, where logits may be asked to agree to 1e-5 whatever their scale.
    theirs = (
        PeftModel.from_pretrained(to_hugging_face(clip).double(), str(tmp_path)).double().eval()
    )
    merged = copy.deepcopy(clip.model).double()
    merged.load_state_dict(merged.state_dict() | merged_weights(merged, adapter))
    x, tokens = pixels(clip).double(), clip.tokenizer(["a cat", "a photo of a dog", "zebra"])
    got = theirs(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(
        got, merged.logit_scale.exp() * all_logits(merged, x, tokens), atol=1e-5, rtol=0
    )


@torch.no_grad()
def test_training_attaches_to_hugging_faces_clip():
    clip = tiny_clip()
    theirs = to_hugging_face(clip)
    assert {n: s.shape for n, s in find_sites(theirs).items()} == {
        n: s.shape for n, s in clip.sites.items()
    }
    adapter = random_adapter(clip, scale=1.0)
    x, tokens = pixels(clip), clip.tokenizer(["a cat", "a dog"])
    ours = copy.deepcopy(clip.model)
    for model in (ours, theirs):
        Attached(model, everywhere(), torch.Generator().manual_seed(0)).load(adapter)
    got = theirs(pixel_values=x, input_ids=tokens).logits_per_image
    torch.testing.assert_close(
        got, clip.logit_scale * all_logits(ours, x, tokens), atol=1e-4, rtol=0
    )


def test_what_holds_tensors_shows_itself_in_a_line():
    clip, task = tiny_clip(), tiny_task()
    adapter = random_adapter(clip, rank=2)
    prompt = SoftPrompt(torch.zeros(3, 8), provenance={"method": "coop", "task": "pets"})
    trained = Adapter(adapter.deltas, clip.hash, {"method": "copra", "task": "pets"})
    things = (clip, task, task.train, adapter, trained, next(iter(adapter.deltas.values())), prompt)
    assert all(
        len(repr(x)) < 140 and "tensor" not in repr(x) and "\n" not in repr(x) for x in things
    )
    assert repr(task).count(str(len(task.test)))
    assert f"{len(task.classes)} classes" in repr(task)
    assert (
        repr(trained)
        == f"Adapter(copra, pets, {len(adapter)} sites, rank 2, {adapter.parameters:,} numbers)"
    )
    assert repr(prompt) == "SoftPrompt(coop, pets, text tower, 3×8 numbers)"


def test_an_adapter_is_a_value():
    clip = tiny_clip()
    a, same, other = random_adapter(clip), random_adapter(clip), random_adapter(clip, seed=1)
    assert a == same
    assert hash(a) == hash(same)
    assert a != other
    assert len({a, same, other}) == 2
    with pytest.raises(TypeError):
        a.deltas["x"] = None
    some = list(a.deltas)[:3]
    assert list(a.keep(some).deltas) == some
    assert a.rank == 3
    with pytest.raises(ValueError, match="has no site"):
        a.keep(["nowhere"])
    assert Adapter({}).rank == 0


def test_functional_weights_leave_the_model_alone():
    clip = tiny_clip()
    adapter = random_adapter(clip, towers=("vision",))
    weights = {k.removeprefix("visual."): v for k, v in merged_weights(clip.model, adapter).items()}
    with torch.no_grad():
        out = functional_call(clip.model.visual, weights, (pixels(clip),))
        again = clip.model.visual(pixels(clip))
    assert not torch.equal(out, again)
