"""Where training runs: placement of every tensor, and several processes that share each batch."""

import os
import socket
import subprocess
import sys
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from tiny import random_adapter, tiny_clip, tiny_task

from copra_lab.training import fit
from copra_lab.utils.devices import Process, cores, spread, this_process


def test_a_process_trains_on_the_cpu_unless_there_is_more():
    assert this_process() == Process(torch.device("cpu"))
    assert this_process().first
    if not torch.cuda.is_available():
        assert this_process("auto") == this_process("cpu")
        with pytest.raises(ValueError, match="no device 'cuda:1' here"):
            this_process("cuda:1")
    with pytest.raises(ValueError, match="no device 'nonsense' here"):
        this_process("nonsense")


def test_cores_are_those_that_the_process_may_use(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(12)), raising=False)
    assert (cores(), cores(8)) == (12, 8)
    monkeypatch.delattr(os, "sched_getaffinity")  # there is none but on Linux
    monkeypatch.setattr(os, "cpu_count", lambda: None)
    assert (cores(), cores(8)) == (1, 1)


def test_sweeps_spread_over_gpus(monkeypatch):
    assert spread("auto", "run") == "auto"
    assert spread("cuda:1", "run") == "cuda:1"
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    given = [spread("auto", f"run {i}") for i in range(60)]
    assert given == [spread("auto", f"run {i}") for i in range(60)]
    assert min(given.count(f"cuda:{k}") for k in range(3)) > 10
    assert spread("cpu", "run") == "cpu"


def test_shares_are_disjoint_and_weighted_means_are_the_mean():
    batch = torch.arange(7.0)
    processes = [Process(torch.device("cpu"), r, 3) for r in range(3)]
    shares = [p.share(batch) for p in processes]
    assert sorted(torch.cat(shares).tolist()) == batch.tolist()
    weighted = [
        p.weighted(s.mean(), len(s), len(batch)) for p, s in zip(processes, shares, strict=True)
    ]
    assert torch.stack(weighted).mean() == pytest.approx(batch.mean())


def test_a_clip_elsewhere_is_the_same_clip():
    clip = tiny_clip()
    assert clip.on(torch.device("cpu")) is clip
    there = clip.on(torch.device("meta"))
    assert there.device.type == "meta"
    assert clip.device.type == "cpu"
    assert set(there.sites) == set(clip.sites)
    assert there.pixels(tiny_task().val.images[:2]).device.type == "meta"


CHILD = """
    import sys
    sys.path.insert(0, sys.argv[1])
    import torch
    torch.set_num_threads(1)
    from tiny import tiny_clip, tiny_task
    from copra_lab.methods import LoRA
    from copra_lab.prompts import CoOp
    from copra_lab.training import CopRA, Dropout, fit
    from safetensors.torch import save_file
    common = dict(steps=6, batch=7, progress=False, device="cpu")
    task = tiny_task()
    seen, out = [], {}
    for name, lora, dropping, more in (
        ("copra", LoRA(2), CopRA(start=0.3), {}),
        ("views", LoRA(2), Dropout(), {"views": 2}),
        ("text", LoRA(2, towers=("vision", "text")), CopRA(start=0.5), {"views": 2}),
    ):
        a = fit(tiny_clip(), task, lora, dropping, lr=1e-2, on_step=lambda s: seen.append(s.loss), **more, **common)
        out |= {f"{name}.{n}": d.delta().contiguous() for n, d in a.deltas.items()}
    out["coop"] = fit(tiny_clip(), task, CoOp(2), **common).context
    out["losses"] = torch.tensor([x if x is not None else -1.0 for x in seen])
    save_file(out, sys.argv[2])
"""


@pytest.mark.slow
def test_two_processes_train_what_one_does(tmp_path):
    from safetensors.torch import load_file

    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = str(s.getsockname()[1])

    def start(rank: int, world: int) -> subprocess.Popen:
        more = {
            "WORLD_SIZE": str(world),
            "RANK": str(rank),
            "LOCAL_RANK": str(rank),
            "MASTER_ADDR": "127.0.0.1",
            "MASTER_PORT": port,
        }
        command = [
            sys.executable,
            "-c",
            textwrap.dedent(CHILD),
            str(Path(__file__).parents[1] / "support"),
            str(tmp_path / f"{world}-{rank}.safetensors"),
        ]
        return subprocess.Popen(
            command,
            env={**os.environ, **(more if world > 1 else {})},
            stderr=subprocess.PIPE,
            text=True,
        )

    for child in [start(0, 1), start(0, 2), start(1, 2)]:
        errors = child.communicate(timeout=180)[1]
        assert child.returncode == 0, errors
    alone, first, second = (
        load_file(tmp_path / f"{name}.safetensors") for name in ("1-0", "2-0", "2-1")
    )
    assert set(alone) == set(first) == set(second)
    assert any(v.abs().max() > 1e-3 for k, v in alone.items() if k.startswith("copra"))
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        assert torch.allclose(first[name], value, atol=2e-4), name


def test_a_batch_too_small_to_share_is_refused(monkeypatch):
    from copra_lab.training import fitting as train

    monkeypatch.setattr(train, "this_process", lambda device: Process(torch.device("cpu"), 0, 4))
    with pytest.raises(ValueError, match="a batch of 3 is too small for 4 processes"):
        fit(tiny_clip(), tiny_task(), steps=1, batch=3, progress=False)


@pytest.mark.slow
def test_no_tensor_stays_behind(monkeypatch):
    """On the meta device, where nothing has a value, an operation on tensors of two devices is
    refused all the same.
    """
    from copra_lab.methods import LoRA
    from copra_lab.prompts import VPT, CoOp, Nemesis
    from copra_lab.training import Dropout, Job, TrainingSettings, joint
    from copra_lab.training.grouping import build
    from copra_lab.training.joint import JointLoRA
    from copra_lab.utils.devices import Process

    meta = Process(torch.device("meta"))
    clip, task = tiny_clip().on(meta.device), tiny_task()
    vars(clip).update(logit_scale=10.0, hash=tiny_clip().hash)  # numbers, which nothing there has
    monkeypatch.setattr(torch, "allclose", lambda *_, **__: True)
    monkeypatch.setattr(torch.Tensor, "item", lambda self: 0.0)
    monkeypatch.setattr(torch.Tensor, "tolist", lambda self: [0.0] * len(self))
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda p, lr, **_: torch.optim.SGD(p, lr=lr)
    )  # AdamW's fused kernel knows real devices only
    begin = joint._begin  # reads the numbers that it draws
    monkeypatch.setattr(joint, "_begin", lambda clip, run: begin(tiny_clip(), run))
    options = TrainingSettings(lr=1e-2, steps=4, batch=8, weight_decay=0.0, schedule="cosine")
    for lora in (LoRA(2), LoRA(2, sites=("q", "out", "fc1"), towers=("vision", "text"))):
        for views in (0, 2):
            settings = replace(options, views=views).resolve(lora)
            job = Job(task, lora, Dropout(), settings)
            training = build(clip, [job, job] if lora.towers == ("vision",) else [job], meta)
            assert isinstance(training, JointLoRA) == (lora.towers == ("vision",))
            training.step(0)
    for method in (CoOp(2), CoOp(2, position="middle", class_specific=True), VPT(2)):
        for views in (0, 2):
            for penalty in (None, Nemesis(0.5, samples=2)):
                settings = replace(options, views=views)
                adapter = random_adapter(tiny_clip())
                job = Job(task, method, settings=settings, penalty=penalty, adapter=adapter)
                prompts = build(clip, [job, job], meta)
                prompts.step(0)
                assert [p.grad.device.type for p in prompts.parameters] == ["meta", "meta"]
