"""Adapters of any method as values: saved, taken apart, averaged, held against peft itself; and the
game of their layers.
"""

import json
import shutil

import numpy as np
import peft
import pytest
import torch
from tiny_peft import METHODS, adapted, bert, logits

from copra_lab.adapters import AdapterError
from copra_lab.merging import ties, weighted_sum
from copra_lab.peft_models import PeftAdapter, Switches, average, keep, tuner_layers
from copra_lab.pruning import sparsify, sparsity
from copra_lab.shapley import SwitchGame, estimate, exact

pytestmark = pytest.mark.filterwarnings(
    "ignore:Unsupported layer type"
)  # peft, of the layer norms that it does support


def loaded(folder) -> peft.PeftModel:
    return peft.PeftModel.from_pretrained(bert(), folder).eval()


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=2e-6, rtol=1e-5)


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_a_pruned_adapter_loads_in_peft_and_is_the_model_with_layers_off(method, tmp_path):
    model = adapted(method)
    adapter = PeftAdapter.of(model)
    assert list(adapter.blocks()) == list(tuner_layers(model))
    for blocks, on in (
        ("even", [True, False, True, False]),
        (["bert.encoder.layer.1"], [False, True, False, False]),
    ):
        keep(adapter, blocks).save(tmp_path)
        Switches(model).set(on)
        found = loaded(tmp_path)
        assert list(tuner_layers(found)) == [
            b for b, x in zip(adapter.blocks(), on, strict=True) if x
        ]
        close(logits(found), logits(model))


def test_pruning_names_what_is_not_there():
    adapter = PeftAdapter.of(adapted("LoRA"))
    for blocks, message in (
        (["bert.encoder.layer.9"], "no block 'bert.encoder.layer.9'"),
        ([], "use the base"),
        ("most", "unknown preset"),
    ):
        with pytest.raises(ValueError, match=message):
            keep(adapter, blocks)


def test_an_adapter_is_shown_in_a_line():
    adapter = PeftAdapter.of(adapted("LoRA"))
    numbers = sum(t.numel() for t in adapter.tensors.values())
    assert (
        repr(adapter) == f"PeftAdapter(LORA, {len(adapter.tensors)} tensors, {numbers:,} numbers)"
    )


def test_each_stack_of_layers_is_counted_by_itself():
    names = [f"{tower}.layers.{i}.q_proj" for tower in ("text", "vision") for i in (0, 1, 2, 10)]
    tensors = {
        f"base_model.model.{n}.lora_{h}.weight": torch.ones(1, 1) for n in names for h in "AB"
    }
    adapter = PeftAdapter({"peft_type": "LORA", "r": 1, "lora_alpha": 1}, tensors)
    assert list(adapter.blocks()) == [n.removesuffix(".q_proj") for n in names]
    assert list(keep(adapter, "even").modules) == [n for n in names if ".0." in n or ".2." in n]
    assert list(keep(adapter, "high").modules) == [n for n in names if ".2." in n or ".10." in n]


@pytest.mark.slow
@pytest.mark.parametrize("method", METHODS)
def test_an_average_of_parameters_is_that_of_every_number(method, tmp_path):
    models = [adapted(method, seed=s) for s in (1, 2)]
    average([PeftAdapter.of(m) for m in models], [0.25, 0.75], "parameters").save(tmp_path)
    found = dict(loaded(tmp_path).named_parameters())
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(found[name], 0.25 * a + 0.75 * b, msg=name)


@pytest.mark.parametrize("method", ["LoRA", "rsLoRA, ranks by layer", "LoRA and a head"])
def test_an_average_of_deltas_is_exact_and_peft_agrees(method, tmp_path):
    models = [adapted(method, seed=s) for s in (1, 2)]
    adapters = [PeftAdapter.of(m) for m in models]
    merged = average(adapters)
    merged.save(tmp_path)
    found = loaded(tmp_path)

    base = {n: p for n, p in bert().named_parameters()}
    parts = [dict(m.merge_and_unload().named_parameters()) for m in models]
    whole = dict(found.merge_and_unload().named_parameters())
    for name, w in base.items():
        if name.startswith("classifier"):
            torch.testing.assert_close(whole[name], (parts[0][name] + parts[1][name]) / 2)
        else:
            torch.testing.assert_close(
                whole[name] - w, (parts[0][name] + parts[1][name]) / 2 - w, atol=1e-6, rtol=1e-5
            )

    one = peft.PeftModel.from_pretrained(
        bert(), tmp_path
    )  # peft's own stacking of ranks says the same
    for i, a in enumerate(adapters):
        a.save(tmp_path / str(i))
        one.load_adapter(tmp_path / str(i), f"seed {i}")
    if method == "LoRA":
        one.add_weighted_adapter(["seed 0", "seed 1"], [0.5, 0.5], "both", combination_type="cat")
        mine = logits(one.eval())
        one.set_adapter("both")
        close(logits(one.eval()), mine)


def test_lora_goes_through_the_tools_for_adapters_and_back(tmp_path):
    a, b = (PeftAdapter.of(adapted("LoRA and a head", seed=s)) for s in (1, 2))
    a.with_deltas(a.deltas).save(tmp_path)
    close(logits(loaded(tmp_path)), logits(adapted("LoRA and a head", seed=1)))
    a.with_deltas(ties([a.deltas, b.deltas])).save(tmp_path)
    assert not torch.allclose(
        logits(loaded(tmp_path)), logits(adapted("LoRA and a head", seed=1)), atol=1e-3
    )
    sparse = sparsify(a.deltas, 0.5)
    a.with_deltas(sparse).save(tmp_path)
    assert sparsity(PeftAdapter.load(tmp_path).deltas) == pytest.approx(0.5, abs=0.01)
    only = a.with_deltas(weighted_sum([a.deltas.keep(list(a.deltas.deltas)[:1])], [2.0]))
    assert list(only.modules) == list(a.deltas.deltas)[:1]
    assert only.head.keys() == a.head.keys()
    with pytest.raises(AdapterError, match="use the base"):
        a.with_deltas(weighted_sum([a.deltas], [0.0]))


def test_what_has_no_deltas_or_does_not_match_says_so():
    plain = PeftAdapter.of(adapted("LoRA"))
    for method, name in (("DoRA", "DoRA"), ("LoHa", "LOHA")):
        with pytest.raises(AdapterError, match=f"{name} has no low-rank delta"):
            average([PeftAdapter.of(adapted(method))] * 2)
    for other, space, message in (
        ([], "delta", "one finite weight"),
        ([plain, PeftAdapter.of(adapted("LoRA and a head"))], "delta", "different names or shapes"),
        ([plain, PeftAdapter.of(adapted("rsLoRA, ranks by layer"))], "parameters", "differ in"),
        ([plain, plain], "factors", "space must be"),
        ([plain, PeftAdapter({**plain.config, "base_model_name_or_path": "a"}, plain.tensors), PeftAdapter({**plain.config, "base_model_name_or_path": "b"}, plain.tensors)], "delta", "different bases"),
    ):  # fmt: skip
        with pytest.raises(ValueError, match=message):
            average(other, space=space)
    with pytest.raises(ValueError, match="finite weight"):
        average([plain, plain], [float("nan"), 1.0])
    with pytest.raises(ValueError, match="get_peft_model"):
        PeftAdapter.of(bert())


def test_a_damaged_folder_is_named_in_one_sentence(tmp_path):
    good = tmp_path / "good"
    PeftAdapter.of(adapted("LoRA")).save(good)

    def broken(name: str, change) -> None:
        folder = tmp_path / name
        shutil.copytree(good, folder)
        change(folder / "adapter_config.json", folder / "adapter_model.safetensors")

    def pickled(config, weights):
        weights.rename(weights.with_name("adapter_model.bin"))

    def not_finite(config, weights):
        from safetensors.torch import load_file, save_file

        tensors = load_file(weights)
        next(iter(tensors.values()))[0, 0] = float("nan")
        save_file(tensors, weights)

    broken("missing", lambda c, w: w.unlink())
    broken("never loaded", pickled)
    broken("not a peft configuration", lambda c, w: c.write_text('{"r": '))
    broken("not a whole safetensors", lambda c, w: w.write_bytes(w.read_bytes()[:-50]))
    broken("NaN", not_finite)
    broken(
        "no adapter layers", lambda c, w: c.write_text(json.dumps({"peft_type": "PROMPT_TUNING"}))
    )
    for folder in tmp_path.iterdir():
        if folder != good:
            with pytest.raises(AdapterError, match=folder.name):
                PeftAdapter.load(folder)


# --- the game of layers ------------------------------------------------------------------------------------------


def test_a_linear_metric_gives_each_layer_its_own_value():
    """v = the sum of what each layer that is on is worth by itself: Shapley values are known."""
    model, worth = adapted("LoHa"), np.array([1.0, -2.0, 0.5, 4.0])
    switches = Switches(model)
    game = SwitchGame(model, lambda m: float(worth @ switches.on))
    assert game.names == tuple(f"bert.encoder.layer.{i}" for i in range(4))
    assert game.n_players == 4
    np.testing.assert_allclose(exact(game, 4).values, worth)
    np.testing.assert_allclose(estimate(game, 4, budget=60).values, worth)


def test_a_users_metric_is_asked_once_a_coalition_in_evaluation_mode():
    model, asked = adapted("LoRA"), []

    def metric(m) -> float:
        assert not m.training
        assert not torch.is_grad_enabled()
        asked.append(1)
        return float((m(input_ids=torch.ones(2, 4, dtype=torch.long)).logits ** 2).mean())

    game = SwitchGame(model, metric)
    found = exact(game, 4)
    assert len(asked) == 16
    np.testing.assert_allclose(found.values.sum(), found.worth[-1] - found.worth[0])
    exact(game, 4)
    assert len(asked) == 16
    single = SwitchGame(model, metric, unit="module")
    assert single.n_players == 8
    assert single(np.ones(8, bool))[0] == pytest.approx(found.worth[-1])
    with pytest.raises(ValueError, match="4 players"):
        game(np.ones(3, bool))


def test_the_model_is_left_as_it_was_when_a_metric_fails():
    model = adapted("LoRA").train()
    frozen = next(p for p in model.parameters() if p.requires_grad).requires_grad_(False)
    dropout = model.base_model.model.bert.encoder.layer[0].attention.self.dropout.eval()
    whole = [p.requires_grad for p in model.parameters()]

    def metric(m) -> float:
        raise RuntimeError("no data")

    with pytest.raises(RuntimeError, match="no data"):
        exact(SwitchGame(model, metric), 4)
    assert model.training
    assert not dropout.training
    assert not frozen.requires_grad
    assert all(Switches(model).on)
    assert [p.requires_grad for p in model.parameters()] == whole
