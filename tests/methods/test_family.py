"""What holds for every way of changing the weights: a new one is tested by being listed."""

import copy
from dataclasses import fields, replace

import pytest
import torch
from tiny import tiny_clip, tiny_task

from copra_lab.adapters import load_adapter, save_adapter
from copra_lab.adapters.adapter import merged_weights
from copra_lab.methods import METHODS, AdapterMethod, CoDyRA, DyLoRA, LoRA, SLTrain
from copra_lab.methods.registry import label_of, method, name_of
from copra_lab.models import find_sites
from copra_lab.sweeps import grid
from copra_lab.training import PLAIN, CopRA, Dropout, TrainingSettings, fit
from copra_lab.training.lora import AdapterTraining
from copra_lab.utils.devices import this_process

FAMILY = [n for n, m in METHODS.items() if m.kind == "adapter" and not m.dropping]
BOTH = {"sites": ("q", "out", "fc1", "fc2"), "towers": ("vision", "text")}
"""Matrices of all shapes, fused and not."""

every_method = pytest.mark.parametrize("name", FAMILY)


def made(name: str, **settings) -> AdapterMethod:
    return replace(METHODS[name].parts().method, **settings)


def training(learner: AdapterMethod, dropping=PLAIN, steps: int = 8, **settings):
    chosen = {"steps": steps, "batch": 8, "lr": 1e-2} | settings
    complete = TrainingSettings(**chosen).resolve(learner, dropping)
    return AdapterTraining(tiny_clip(), tiny_task(), learner, dropping, complete, this_process())


def weights(run: AdapterTraining) -> dict[str, torch.Tensor]:
    """What the forward pass multiplies by, by site."""
    return {
        s.name: getattr(run.model.get_submodule(s.module), s.parameter)[s.start : s.stop]
        for s in run.attached.sites
    }


def base_weights() -> dict[str, torch.Tensor]:
    model = tiny_clip().model
    return {
        s.name: model.get_submodule(s.module).get_parameter(s.parameter)[s.start : s.stop]
        for s in find_sites(model).values()
    }


@every_method
def test_it_starts_at_the_base_or_says_that_it_does_not(name):
    learner = made(name, **BOTH)
    run = training(learner)
    changed = [not torch.equal(w, base_weights()[n]) for n, w in weights(run).items()]
    assert all(changed) if not learner.starts_at_base else not any(changed)
    assert learner.starts_at_base or "start" in type(learner).__doc__


@every_method
def test_every_site_has_a_gradient_in_the_first_step(name):
    run = training(made(name, **BOTH))
    assert run.step(0) != [None]
    for part in run.attached.parts.values():
        assert any(p.grad is not None and p.grad.any() for p in part.parameters())


@every_method
@torch.no_grad()
def test_the_adapter_is_what_the_forward_pass_added(name, tmp_path):
    with torch.enable_grad():
        run = training(made(name, **BOTH), steps=4)
        losses = [run.step(step)[0] for step in range(4)]
    assert None not in losses
    adapter = run.result(0, {"method": name})
    base, merged = base_weights(), merged_weights(tiny_clip().model, adapter)
    with run.attached.whole():
        for site, w in weights(run).items():
            added = adapter.deltas[site].delta() if site in adapter.deltas else 0
            torch.testing.assert_close(w, base[site] + added, atol=1e-6, rtol=0)
            assert not torch.equal(w, base[site])
        pixels = tiny_clip().pixels(tiny_task().val.images)
        features = run.model.encode_image(pixels)
    model = copy.deepcopy(tiny_clip().model)
    model.load_state_dict(model.state_dict() | merged)
    torch.testing.assert_close(features, model.encode_image(pixels), atol=1e-5, rtol=0)
    save_adapter(adapter, tmp_path)
    assert load_adapter(tmp_path, tiny_clip()) == adapter


@every_method
def test_as_many_numbers_are_trained_as_it_says(name):
    learner = made(name, **BOTH)
    run = training(learner)
    for site in run.attached.sites:
        trained = [p for p in run.attached.parts[site.name].parameters() if p.requires_grad]
        assert sum(p.numel() for p in trained) == learner.numbers(*site.shape), site.name
    grouped = [p for g in run.attached.groups() for p in g.parameters]
    assert sorted(map(id, grouped)) == sorted(map(id, run.attached.parameters()))


@every_method
@torch.no_grad()
def test_with_nothing_on_it_is_the_base_to_the_bit(name):
    with torch.enable_grad():
        run = training(made(name, **BOTH))
        run.step(0)
    run.attached.activate([])
    pixels = tiny_clip().pixels(tiny_task().val.images)
    assert torch.equal(run.model.encode_image(pixels), tiny_clip().model.encode_image(pixels))
    tokens = run.tokens
    assert torch.equal(run.model.encode_text(tokens), tiny_clip().model.encode_text(tokens))


def parameters(part: torch.nn.Module) -> dict[str, torch.Tensor]:
    return {name: p.detach() for name, p in part.named_parameters()}


@every_method
def test_what_is_off_is_left_alone(name):
    run = training(made(name), CopRA(start=0.4), weight_decay=0.1)
    run.step(0), run.step(1)
    moved = 0
    for step in range(2, 6):
        before = {n: copy.deepcopy(parameters(p)) for n, p in run.attached.parts.items()}
        moments = {p: copy.deepcopy(run.optimiser.state.get(p)) for p in run.parameters}
        run.step(step)
        units = zip(run.units.values(), run.drawn.on, strict=True)
        on = {site for sites, is_on in units if is_on for site in sites}
        for site, part in run.attached.parts.items():
            same = all(torch.equal(x, before[site][k]) for k, x in parameters(part).items())
            moved += not same
            if site in on:
                continue
            assert same
            for p in part.parameters() if on else ():
                assert p.grad is None
                assert str(run.optimiser.state.get(p)) == str(moments[p])
    assert moved


@every_method
@pytest.mark.parametrize("dropping", [PLAIN, CopRA(start=0.3)], ids=["plain", "copra"])
@pytest.mark.slow
def test_an_interrupted_run_ends_as_an_unbroken_one(name, dropping, tmp_path):
    options = {"steps": 10, "batch": 8, "lr": 1e-2, "progress": False}
    whole = fit(tiny_clip(), tiny_task(), made(name), dropping, **options)

    def stop(step):
        if step.step == 7:
            raise KeyboardInterrupt

    options |= {"checkpoint": tmp_path / "run.part", "checkpoint_every": 3}
    with pytest.raises(KeyboardInterrupt):
        fit(tiny_clip(), tiny_task(), made(name), dropping, on_step=stop, **options)
    seen = []
    resumed = fit(tiny_clip(), tiny_task(), made(name), dropping, on_step=seen.append, **options)
    assert seen[0].step == 7
    assert resumed.hash == whole.hash
    assert resumed.provenance == whole.provenance
    expected = name if dropping is PLAIN else "copra" if name == "lora" else f"{name}+copra"
    assert whole.provenance["method"] == expected
    settings = whole.provenance["lora"]
    assert settings.keys() == {f.name for f in fields(made(name))}


NEUTRAL = [
    (CoDyRA(rank=2, threshold=0, gate_rate=0), LoRA(2)),
    (DyLoRA(rank=1), LoRA(1)),
    (SLTrain(rank=2, share=0), LoRA(2)),
]


@pytest.mark.parametrize(("learner", "lora"), NEUTRAL, ids=lambda m: type(m).__name__)
def test_with_neutral_settings_it_is_lora(learner, lora):
    found = []
    for one in (learner, lora):
        run = training(one, CopRA(start=0.5), steps=5)
        for step in range(5):
            run.step(step)
        found.append(run.result(0, {}))
    for site, d in found[1].deltas.items():
        assert torch.equal(found[0].deltas[site].delta(), d.delta())


@every_method
def test_dropout_sees_the_branch_of_any_method(name):
    run = training(made(name), Dropout(0.5))
    if name == "increlora":
        with pytest.raises(ValueError, match="needs the gradient of ΔW; train it without dropout"):
            run.step(0)
        return
    run.step(0)
    before = {n: copy.deepcopy(p.state_dict()) for n, p in run.attached.parts.items()}
    run.step(1)
    assert any(
        not torch.equal(x, before[n][k])
        for n, p in run.attached.parts.items()
        for k, x in p.state_dict().items()
    )


@every_method
def test_a_rank_that_is_none_is_refused_in_a_sentence(name):
    if not hasattr(made(name), "rank"):
        return
    for bad in (-1, 1.5, 2**20):
        with pytest.raises(ValueError, match=r"^rank must be a whole number of at least 1"):
            made(name, rank=bad)


@every_method
def test_an_unknown_site_and_a_start_that_says_too_little_are_refused(name):
    with pytest.raises(ValueError, match="unknown site 'w'"):
        training(made(name, sites=("w",)))
    if name == "lora":
        return
    adapter = training(made(name)).attached.adapter(tiny_clip().hash)
    with pytest.raises(ValueError, match=r"cannot begin with an adapter|does not match"):
        training(made(name)).start_from(0, adapter)
    with pytest.raises(ValueError, match="bfloat16 training needs a plain ViT"):
        fit(tiny_clip(), tiny_task(), made(name), steps=1, precision="bfloat16", progress=False)


@every_method
def test_sweeps_and_names_have_it_with_copra_on_top(name):
    both = f"{name}+copra"
    runs = grid({"methods": [name, both], "tasks": ["digits"], "settings": {"steps": 3}}).runs
    assert [type(r.method) for r in runs] == [type(made(name))] * 2
    assert runs[1].dropping == CopRA()
    assert runs[1].name == ("copra" if name == "lora" else both)
    parts = method(both).parts()
    assert name_of(parts.method, dropping=parts.dropping) == runs[1].name
    assert label_of(both) == f"{METHODS[name].label} + CopRA"
    assert METHODS[name].about.endswith(".")
    if METHODS[name].paper.startswith("after"):
        assert "after " in type(made(name)).__doc__.lower()


@pytest.mark.parametrize("name", ["svfit+svfit", "copra+dropout", "lora+coop", "coop+copra", "x+y"])
def test_names_that_are_nothing_are_refused(name):
    with pytest.raises(ValueError, match="unknown method"):
        grid({"methods": [name], "tasks": ["digits"]})
