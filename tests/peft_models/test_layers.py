"""Adapter layers of any method of peft's: grouped by block, switched, and dropped progressively in
any loop.
"""

import copy

import peft
import pytest
import torch
from tiny_peft import ATTENTION, METHODS, adapted, bert, logits, tokens
from torch import nn

from copra_lab.peft_models import Progressive, Switches, block_of, tuner_layers
from copra_lab.training import CopRA, Dropout, StochasticDepth, masks

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type"
)  # peft, of the layer norms that it does support


@pytest.mark.parametrize(
    ("name", "block"),
    [
        ("bert.encoder.layer.3.attention.self.query", "bert.encoder.layer.3"),
        ("vision_model.encoder.layers.11.self_attn.q_proj", "vision_model.encoder.layers.11"),
        ("visual.transformer.resblocks.2.attn.out_proj", "visual.transformer.resblocks.2"),
        ("encoder.block.0.layer.1.DenseReluDense.wi", "encoder.block.0"),  # T5
        ("swin.encoder.layers.0.blocks.1.attention.self.query", "swin.encoder.layers.0.blocks.1"),
        ("segformer.encoder.block.0.1.attention.self.query", "segformer.encoder.block.0.1"),
        (
            "down_blocks.0.attentions.1.transformer_blocks.0.attn1.to_out.0",
            "down_blocks.0.attentions.1.transformer_blocks.0",
        ),
        ("model.layers.4.block_sparse_moe.experts.7.w1", "model.layers.4"),
        ("transformer.h.3.attn.c_attn", "transformer.h.3"),
        ("blocks.3.mlp.0", "blocks.3"),  # timm
        ("encoder.stages.0.layers.1.pwconv1", "encoder.stages.0.layers.1"),  # ConvNeXt
        ("lm_head", "lm_head"),
        ("layers.0", "layers.0"),
    ],
)
def test_blocks_are_found_from_names(name, block):
    assert block_of(name) == block


def test_units_are_blocks_or_modules_in_order_of_depth():
    model = adapted("LoRA and a head")
    assert list(tuner_layers(model)) == [
        f"bert.encoder.layer.{i}" for i in range(4)
    ]  # without the head
    assert all(len(layers) == 2 for layers in tuner_layers(model).values())
    modules = list(tuner_layers(model, "module"))
    assert modules[:2] == [
        "bert.encoder.layer.0.attention.self.query",
        "bert.encoder.layer.0.attention.self.value",
    ]
    assert len(modules) == 8
    assert list(tuner_layers(model, block_of=lambda n: n[-5:])) == ["query", "value"]
    wrapped = nn.Module()
    wrapped.module = model  # as data parallelism does
    assert list(tuner_layers(wrapped)) == list(tuner_layers(model))


def test_models_that_peft_adapted_in_place_have_the_same_units():
    model = bert()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=ATTENTION), model)
    assert list(tuner_layers(model)) == [f"bert.encoder.layer.{i}" for i in range(4)]


def test_attention_and_its_output_projection_are_one_module():
    model = nn.Sequential()
    model.add_module("layers", nn.ModuleList([nn.MultiheadAttention(16, 2) for _ in range(2)]))
    adapted = peft.get_peft_model(model, peft.LoraConfig(r=2, target_modules=["0", "1"]))
    assert {k: len(v) for k, v in tuner_layers(adapted, "module").items()} == {
        "layers.0": 2,
        "layers.1": 2,
    }


def test_what_cannot_be_switched_is_refused_with_a_reason():
    def of(config):
        return peft.get_peft_model(bert(), config)

    for model, reason in (
        (bert(), "no adapter layers"),
        (
            of(peft.PromptTuningConfig(task_type="SEQ_CLS", num_virtual_tokens=2)),
            "no adapter layers",
        ),
        (
            of(peft.AdaLoraConfig(target_modules=ATTENTION, total_step=10, tinit=2, tfinal=2)),
            "gradients of all layers",
        ),
        (
            of(peft.LoraConfig(r=2, target_modules=ATTENTION, init_lora_weights="pissa")),
            "takes a part out of the base",
        ),
    ):
        with pytest.raises(ValueError, match=reason):
            tuner_layers(model)
    merged = adapted("LoRA")
    merged.merge_adapter()
    with pytest.raises(ValueError, match="unmerge_adapter"):
        tuner_layers(merged)
    with pytest.raises(ValueError, match="unit must be"):
        tuner_layers(adapted("LoRA"), "head")
    with pytest.raises(ValueError, match="lora_dropout"):
        Progressive(adapted("LoRA"), 10, Dropout()).draw(0)
    with pytest.raises(ValueError, match="steps must be"):
        Progressive(adapted("LoRA"), 0)
    with pytest.raises(ValueError, match="min_active=1"):
        Progressive(adapted("LoRA"), 10, CopRA()).draw(0)
    assert not any(
        Progressive(adapted("LoRA and a head"), 10, CopRA()).draw(0).on
    )  # its head learns meanwhile


@pytest.mark.parametrize("method", METHODS)
def test_what_is_off_is_the_base_to_the_bit_and_what_is_on_is_not(method):
    model = adapted(method)
    base = bert()
    if method == "LoRA and a head":
        base.classifier = model.base_model.model.classifier
    whole, switches = logits(model), Switches(model)
    learns = [p.requires_grad for p in model.parameters()]
    switches.set([False] * 4)
    assert torch.equal(logits(model), logits(base))
    for i in range(4):
        switches.set([j == i for j in range(4)])
        assert switches.on == tuple(j == i for j in range(4))
        assert not torch.allclose(logits(model), logits(base), atol=1e-5), (
            f"layer {i} alone changes nothing"
        )
        assert [p.requires_grad for p in model.parameters()] == learns
    switches.set([True] * 4)
    assert torch.equal(logits(model), whole)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_what_is_off_is_left_alone_by_the_optimiser_too(method):
    model = adapted(method).train()
    drops = Progressive(model, 8, CopRA(start=0.3, min_active=1))
    names = {p: n for n, p in model.named_parameters() if p.requires_grad}
    optimiser = torch.optim.AdamW(names, lr=1e-2, weight_decay=0.5)
    for step in range(8):
        before = {p: p.detach().clone() for p in names}
        state = {p: copy.deepcopy(optimiser.state.get(p, {})) for p in names}
        with drops.step(step) as drawn:
            off = set(drops.switches.parameters([not x for x in drawn.on]))
            (model(input_ids=tokens()).logits - 3).square().mean().backward()
            optimiser.step()
        assert all(drops.on.values())
        optimiser.zero_grad(
            set_to_none=False
        )  # zeros, with which AdamW would move what is off by momentum and decay
        assert off or all(drawn.on)
        for p, name in names.items():
            if p in off:
                assert torch.equal(p, before[p]), name
                assert all(
                    torch.equal(torch.as_tensor(x), torch.as_tensor(state[p][k]))
                    for k, x in optimiser.state.get(p, {}).items()
                ), name
            else:
                assert not torch.equal(p, before[p]), name


def test_parameters_that_layers_share_are_off_only_when_all_are():
    model = adapted("VB-LoRA")
    switches = Switches(model)
    bank = next(p for n, p in model.named_parameters() if "vector_bank" in n)
    assert not any(p is bank for p in switches.parameters([True, False, False, False]))
    assert any(p is bank for p in switches.parameters([True] * 4))


def test_the_draw_is_that_of_fit_and_needs_nothing_but_seed_and_step():
    drops = [Progressive(adapted("LoRA"), 20, CopRA(min_active=1), seed=3) for _ in range(2)]
    expected = masks(CopRA(min_active=1), 4, 20, seed=3)
    assert [drops[0].draw(s).on for s in range(20)] == expected
    assert [drops[1].draw(s).on for s in (13, 13, 7)] == [expected[s] for s in (13, 13, 7)]
    assert tuple(drops[1].on.values()) == expected[7]
    assert list(drops[1].on) == [f"bert.encoder.layer.{i}" for i in range(4)]
    deep = [
        Progressive(adapted("LoRA"), 20, StochasticDepth(unit="module")).draw(s).on
        for s in range(2)
    ]
    assert all(len(on) == 8 for on in deep)


def test_a_step_lifts_its_mask_whatever_happens():
    model = adapted("LoRA")
    drops = Progressive(model, 10)
    with pytest.raises(KeyboardInterrupt), drops.step(0):
        assert sum(drops.on.values()) == 1
        raise KeyboardInterrupt
    assert all(drops.on.values())
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_evaluation_sees_all_layers_whenever_it_comes():
    model = adapted("LoRA")
    whole, drops = logits(model), Progressive(model, 10)
    model.train()
    drops.draw(0)
    model.eval()
    assert torch.equal(logits(model), whole)
    assert all(drops.on.values())
    drops.draw(0)
    with torch.enable_grad():
        assert not torch.allclose(
            model(input_ids=tokens()).logits, whole
        )  # a training in evaluation mode keeps its mask


def test_an_optimiser_made_in_the_middle_of_a_step_sees_all_parameters():
    model = adapted("LoRA")
    before = [n for n, p in model.named_parameters() if p.requires_grad]
    Progressive(model, 10).draw(0)
    assert [n for n, p in model.named_parameters() if p.requires_grad] == before


def test_parameters_that_the_user_froze_stay_frozen():
    model = adapted("LoRA")
    for name, p in model.named_parameters():
        if "lora_A" in name:
            p.requires_grad_(False)
    drops = Progressive(model, 10)
    for step in range(10):
        with drops.step(step):
            assert not any(p.requires_grad for n, p in model.named_parameters() if "lora_A" in n)


@pytest.mark.filterwarnings("ignore:The model contains some adapter layers that are enabled")
def test_a_look_at_the_base_in_the_middle_of_a_step_changes_nothing():
    """As preference training does: the base's own answer is wanted beside the adapted one."""
    model = adapted("LoRA").train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    drops = Progressive(model, 10)
    with drops.step(0):
        first = model(input_ids=tokens()).logits
        with torch.no_grad(), model.disable_adapter():
            assert torch.equal(model(input_ids=tokens()).logits, logits(bert()))
        assert torch.equal(model(input_ids=tokens()).logits, first)
        with torch.no_grad(), model.disable_adapter():
            model.eval()
            assert torch.equal(model(input_ids=tokens()).logits, logits(bert()))


def test_accumulated_gradients_are_those_of_one_large_batch():
    def run(parts: int) -> list[torch.Tensor]:
        model = adapted("LoRA")
        drops = Progressive(model, 10)
        with drops.step(3):
            for x in tokens(8).chunk(parts):
                drops.draw(
                    3
                )  # a loop that knows its updates only need not remember whether it asked
                (model(input_ids=x).logits.square().mean() / parts).backward()
        return [p.grad for p in model.parameters()]

    for a, b in zip(run(1), run(4), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def _gradients(checkpointing: dict | None, late: bool = False) -> list[torch.Tensor | None]:
    """Of a step that has layers off; `late`: by a backward pass after it."""
    model = adapted("LoRA")
    if checkpointing:
        bert_itself = (
            model.get_base_model()
        )  # older releases of transformers say gradient, newer ones activation
        getattr(
            bert_itself,
            "activation_checkpointing_enable",
            bert_itself.gradient_checkpointing_enable,
        )(checkpointing)
        bert_itself.enable_input_require_grads()
    model.train()
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
    with Progressive(model, 10).step(2):
        loss = model(input_ids=tokens()).logits.square().mean()
        if not late:
            loss.backward()
    if late:
        loss.backward()
    return [p.grad for p in model.parameters()]


@pytest.mark.parametrize("reentrant", [False, True])
def test_checkpointed_activations_are_computed_anew_with_the_same_layers(reentrant):
    for a, b in zip(_gradients(None), _gradients({"use_reentrant": reentrant}), strict=True):
        assert (a is None) == (b is None)
        if a is not None:
            torch.testing.assert_close(a, b)


def test_a_backward_pass_after_its_step_does_not_compute_other_layers_anew():
    for a, b in zip(_gradients(None), _gradients(None, late=True), strict=True):
        assert (a is None) == (b is None)
        assert a is None or torch.equal(a, b)
    with pytest.raises(ValueError, match=r"call backward\(\) inside the step"):
        _gradients({"use_reentrant": True}, late=True)
    with pytest.raises(torch.utils.checkpoint.CheckpointError):  # torch sees it itself
        _gradients({"use_reentrant": False}, late=True)


def test_a_training_that_goes_on_without_steps_is_not_watched():
    model = adapted("LoRA").train()
    drops = Progressive(model, 10)
    with torch.no_grad(), drops.step(0):
        model(input_ids=tokens())
    assert any(m._forward_pre_hooks for m in model.modules())
    model(input_ids=tokens()).logits.sum().backward()
    assert not any(m._forward_pre_hooks for m in model.modules())


def test_accelerate_accumulates_under_one_draw():
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=True, gradient_accumulation_steps=2)
    model = adapted("LoRA and a head").train()
    drops = Progressive(model, 4)
    learning = [p for p in model.parameters() if p.requires_grad]
    loader = torch.utils.data.DataLoader(tokens(32), batch_size=4)
    wrapped, optimiser, loader = accelerator.prepare(
        model, torch.optim.AdamW(learning, lr=1e-2, weight_decay=0.5), loader
    )
    done, drawn = 0, []
    for x in loader:
        before = [p.detach().clone() for p in learning]
        with drops.step(done) as draw, accelerator.accumulate(wrapped):
            accelerator.backward(wrapped(input_ids=x).logits.square().mean())
            off = set(drops.switches.parameters([not on for on in draw.on]))
            optimiser.step()
            optimiser.zero_grad()
        moved = {p for p, was in zip(learning, before, strict=True) if not torch.equal(p, was)}
        assert moved == (set(learning) - off if accelerator.sync_gradients else set())
        drawn.append(draw.on)
        done += accelerator.sync_gradients
    assert done == 4
    assert drawn == [on for on in masks(CopRA(min_active=1), 4, 4) for _ in range(2)]
