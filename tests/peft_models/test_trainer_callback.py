"""CopRA in transformers' Trainer: accumulation, evaluation, checkpoints, several groups of
parameters, two processes.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import documents
import peft
import pytest
import torch
from tiny import save_images
from tiny_peft import adapted, bert, logits, tokens
from trainer_run import Words, trainer
from transformers import TrainerCallback

from copra_lab.peft_models import CopRACallback
from copra_lab.training import CopRA, masks

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("accumulate", [1, 3])
def test_one_draw_a_step_of_the_optimiser_and_all_on_between(tmp_path, accumulate):
    made, watch = trainer(
        tmp_path,
        gradient_accumulation_steps=accumulate,
        eval_strategy="steps",
        eval_steps=5,
        save_strategy="steps",
        save_steps=4,
    )
    made.train()
    assert watch.on == [
        [s, list(on)] for s, on in enumerate(masks(CopRA(min_active=1), 4, 12, seed=made.args.seed))
    ]
    assert watch.wrong == []
    assert not all(all(on) for _, on in watch.on)
    assert len(watch.outside) >= 6
    assert all(watch.outside)


@pytest.mark.slow
@pytest.mark.parametrize("method", ["DoRA", "LoHa", "VeRA", "RandLoRA"])
def test_other_methods_are_driven_alike(tmp_path, method):
    made, watch = trainer(
        tmp_path, CopRACallback(CopRA(start=0.3, min_active=1), seed=5), method=method
    )
    made.train()
    assert watch.wrong == []
    assert watch.on[3] == [
        3,
        list(masks(CopRA(start=0.3, min_active=1), 4, 12, seed=5)[3]),
    ]


@pytest.mark.slow
def test_parameter_groups_with_rates_of_their_own(tmp_path):
    made, watch = trainer(tmp_path)
    head, rest = (
        [
            p
            for n, p in made.model.named_parameters()
            if p.requires_grad and ("classifier" in n) == side
        ]
        for side in (True, False)
    )
    made.optimizer = torch.optim.AdamW(
        [{"params": head, "lr": 1e-3}, {"params": rest, "weight_decay": 0.1}], lr=1e-2
    )
    made.train()
    assert watch.wrong == []
    assert [len(g["params"]) for g in made.optimizer.param_groups] == [
        len(head),
        len(rest),
    ]


class Stop(TrainerCallback):
    """An interruption in the middle of a step that has layers off."""

    def on_pre_optimizer_step(self, args, state, control, **kwargs):
        if state.global_step == 6:
            raise KeyboardInterrupt


@pytest.mark.slow
def test_a_training_resumed_in_the_ramp_ends_as_an_unbroken_one(tmp_path):
    whole, seen = trainer(tmp_path / "whole")
    whole.train()
    how = {"save_strategy": "steps", "save_steps": 5}
    broken, first = trainer(tmp_path / "broken", more=[Stop()], **how)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    assert not all(first.copra.drops.on.values())
    again, second = trainer(tmp_path / "broken", **how)
    again.train(resume_from_checkpoint=True)
    assert first.on == seen.on[:7]
    assert second.on == seen.on[5:]
    for a, b in zip(whole.model.parameters(), again.model.parameters(), strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-5)


@pytest.mark.slow
def test_a_model_whose_training_was_interrupted_can_be_used_and_trained_again(tmp_path):
    broken, _ = trainer(tmp_path, more=[Stop()], save_strategy="steps", save_steps=5)
    with pytest.raises(KeyboardInterrupt):
        broken.train()
    model = broken.model.eval()
    found = logits(model)
    other = adapted("LoRA and a head")
    other.load_state_dict(model.state_dict())
    assert torch.equal(found, logits(other))  # all layers are on
    broken.remove_callback(Stop)
    broken.train(resume_from_checkpoint=True)
    assert len(broken.optimizer.state) == sum(p.requires_grad for p in model.parameters())


@pytest.mark.slow
def test_settings_that_would_train_something_else_are_refused(tmp_path):
    made, _ = trainer(tmp_path, CopRACallback(CopRA()), method="LoRA")
    with pytest.raises(ValueError, match="min_active=1"):
        made.train()
    made, watch = trainer(tmp_path, CopRACallback(CopRA()))  # a head learns while nothing is on
    made.train()
    assert watch.on[0] == [0, [False] * 4]
    assert watch.wrong == []

    class Args:
        deepspeed, fsdp, world_size, ddp_find_unused_parameters, seed = None, None, 1, None, 0

    def begin(model=made.model, **change) -> None:
        CopRACallback().on_train_begin(
            type("Some", (Args,), change)(), made.state, made.control, model=model
        )

    for change, message in (
        ({"deepspeed": {}, "fsdp": "full_shard"}, "FSDP"),
        ({"world_size": 2, "ddp_find_unused_parameters": False}, "unused"),
    ):
        with pytest.raises(ValueError, match=message):
            begin(**change)


def test_checkpointing_that_data_parallel_training_cannot_follow_is_refused(tmp_path):
    made, _ = trainer(tmp_path, method="LoRA")
    plain = made.model.get_base_model()
    enable = getattr(plain, "activation_checkpointing_enable", plain.gradient_checkpointing_enable)

    def begin(model, processes: int = 2) -> None:
        class Args:
            deepspeed, fsdp, world_size, ddp_find_unused_parameters, seed = (
                None,
                None,
                processes,
                None,
                0,
            )

        CopRACallback().on_train_begin(Args, made.state, made.control, model=model)

    made.state.max_steps = 4
    begin(made.model)
    enable({"use_reentrant": True})
    with pytest.raises(
        ValueError, match=r'gradient_checkpointing_kwargs=\{"use_reentrant": False\}'
    ):
        begin(made.model)
    begin(made.model, processes=1)  # where it computes the same layers anew
    enable({"use_reentrant": False})
    begin(made.model)
    injected = bert()
    peft.inject_adapter_in_model(peft.LoraConfig(target_modules=["query"]), injected)
    begin(injected)
    getattr(injected, "activation_checkpointing_enable", injected.gradient_checkpointing_enable)(
        {"use_reentrant": False}
    )
    with pytest.raises(ValueError, match="ddp_find_unused_parameters=True"):
        begin(injected)


@pytest.mark.slow
def test_two_processes_draw_the_same_and_end_the_same(tmp_path):
    run = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node=2",
        str(ROOT / "tests" / "support" / "trainer_run.py"),
        str(tmp_path / "said"),
    ]
    env = {"PYTHONPATH": f"{ROOT}{os.pathsep}{ROOT / 'tests' / 'support'}", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        run, cwd=ROOT, env=os.environ | env, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (
        json.loads((tmp_path / f"said.{rank}").read_text(encoding="utf-8")) for rank in (0, 1)
    )
    assert one == two
    assert one["world"] == 2
    assert one["wrong"] == []
    assert one["on"] == [
        [s, list(on)] for s, on in enumerate(masks(CopRA(min_active=1), 4, 10, seed=42))
    ]


@pytest.mark.slow
def test_the_guide_goes_from_a_folder_to_peft(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    save_images(tmp_path / "photos", 8)
    seen: dict = {}
    exec(documents.CODE["folder"].replace("lr=4e-3", "lr=4e-3, steps=3, progress=False"), seen)
    assert seen["one"].provenance["steps"] == 3
    assert len(seen["both"]) == 36
    assert (
        seen["logits"] - seen["bench"].logits()
    ).abs().max() > 1e-2  # of the adapter, not of the base


@pytest.mark.slow
def test_the_guide_does_what_it_says(tmp_path, monkeypatch):
    from transformers import TrainingArguments

    monkeypatch.chdir(tmp_path)
    adapted("LoRA and a head", seed=1).save_pretrained("yours")
    settings = {
        "max_steps": 4,
        "report_to": [],
        "disable_tqdm": True,
        "use_cpu": True,
        "dataloader_pin_memory": False,
        "save_strategy": "no",
    }
    given = {
        "base": bert(),
        "args": TrainingArguments("out", **settings),
        "data": Words(),
        "accuracy": lambda m: float(logits(m).mean()),
    }
    exec(documents.CODE["trainer"], given)
    assert given["game"].n_players == 4
    for folder in ("half", "middle"):
        assert torch.isfinite(logits(peft.PeftModel.from_pretrained(bert(), folder).eval())).all()

    before = [p.detach().clone() for p in given["model"].parameters() if p.requires_grad]
    given["optimiser"] = torch.optim.AdamW(
        [p for p in given["model"].parameters() if p.requires_grad]
    )
    given["batches"] = [{"input_ids": tokens(), "labels": torch.arange(6) % 3}] * 6
    exec(documents.CODE["loop"], given)
    after = [p for p in given["model"].parameters() if p.requires_grad]
    assert any(not torch.equal(a, b) for a, b in zip(before, after, strict=True))
    assert all(given["drops"].on.values())
