"""Whether an adapter of peft's that is off shows the base: for every beginning, bias and method
that peft has, each operation does what the weights computed by hand do, or is refused in one
sentence.
"""

import copy
import tempfile
from functools import cache

import peft
import pytest
import torch
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st
from tiny_peft import ATTENTION, METHODS, bert, logits, moved, tokens
from torch import nn

from copra_lab.merging import task_arithmetic
from copra_lab.peft_models import (
    CopRACallback,
    PeftAdapter,
    Progressive,
    Switches,
    average,
    block_of,
    keep,
    tuner_layers,
)
from copra_lab.peft_models.config import off_is_not_base
from copra_lab.shapley import SwitchGame

pytestmark = [
    pytest.mark.filterwarnings(f"ignore:{of}")  # peft, of what the tests mean to do
    for of in (
        "Unsupported layer type",
        "lora with eva initialization",
        "You are trying to modify a model",
        "Full backward hook",
        "Careful, disabling",
        "PiSSA changes the base",
    )
]

TARGETS = [*ATTENTION, "intermediate.dense"]
KEEPS_BASE = (True, False, "gaussian", "orthogonal", "mica", "eva")
AGAIN = ("pissa", "olora")
LOST = ("pissa_niter_4", "corda", "lora_ga")
BEGINNINGS = (*KEEPS_BASE, *AGAIN, *LOST)


@cache
def _base() -> nn.Module:
    model = bert(2, inner=64)
    return moved(model, seed=9, size=0.05).requires_grad_(
        True
    )  # biases of zero would hide which of them is whose


def base() -> nn.Module:
    return copy.deepcopy(_base())


def begun(init: object, seed: int = 1, **more: object) -> peft.PeftModel:
    """An adapter as it is before any training. Each seed sees data of its own."""
    model, given = (
        base(),
        {"r": 4, "lora_alpha": 6, "target_modules": TARGETS, "init_lora_weights": init, **more},
    )
    x = tokens(32, seed)
    torch.manual_seed(seed)
    if init == "corda":
        from peft.tuners.lora.config import CordaConfig
        from peft.tuners.lora.corda import preprocess_corda

        config = peft.LoraConfig(corda_config=CordaConfig(), **given)
        preprocess_corda(model, config, run_model=lambda: [logits(model, row[None]) for row in x])
    elif init == "lora_ga":
        from peft.tuners.lora.loraga import preprocess_loraga

        config = peft.LoraConfig(lora_ga_config=peft.LoraGAConfig(scale="weight_svd"), **given)
        preprocess_loraga(
            model, config, lambda: model(input_ids=x, labels=x[:, 0] % 3).loss.backward()
        )
        model.zero_grad()
    else:
        config = peft.LoraConfig(
            **given, **({"eva_config": peft.EvaConfig(rho=1.0)} if init == "eva" else {})
        )
    made = peft.get_peft_model(model, config)
    if init == "eva":
        batches = [
            {"input_ids": part, "attention_mask": torch.ones_like(part)} for part in x.split(8)
        ]
        peft.initialize_lora_eva_weights(made, batches, show_progress_bar=False)
    return made.eval()


def effective(model: peft.PeftModel) -> dict[str, torch.Tensor]:
    """The weights that the adapted model computes with, by the base's own names: peft's merging."""
    return copy.deepcopy(model).merge_and_unload().state_dict()


def by_hand(weights: dict[str, torch.Tensor], x: torch.Tensor | None = None) -> torch.Tensor:
    model = base()
    model.load_state_dict(weights)
    return logits(model, x)


def reloaded(adapter: PeftAdapter, onto: nn.Module | None = None) -> peft.PeftModel:
    with tempfile.TemporaryDirectory() as folder:
        adapter.save(folder)
        torch.manual_seed(77)
        return peft.PeftModel.from_pretrained(onto or base(), folder).eval()


def summed(models: list[peft.PeftModel], weights: list[float]) -> dict[str, torch.Tensor]:
    """base + Σ wᵢ (weightsᵢ − base)."""
    start, ends = base().state_dict(), [effective(m) for m in models]
    return {
        k: v + sum(w * (e[k] - v) for w, e in zip(weights, ends, strict=True))
        if v.is_floating_point()
        else v
        for k, v in start.items()
    }


def without(model: peft.PeftModel, gone: set[str]) -> dict[str, torch.Tensor]:
    """The model's weights, and the base's in these blocks."""
    start = base().state_dict()
    return {
        k: start[k] if block_of(k.rpartition(".")[0]) in gone else v
        for k, v in effective(model).items()
    }


def close(a: torch.Tensor, b: torch.Tensor) -> None:
    torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def refused(call, match: str = "") -> None:
    with pytest.raises(ValueError, match=match) as e:
        call()
    assert "\n" not in str(e.value)
    assert ";" in str(e.value)


@pytest.mark.slow
@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
@pytest.mark.parametrize("init", BEGINNINGS)
def test_every_beginning_and_bias_is_followed_or_refused(init, bias):
    starts = [begun(init, seed, bias=bias) for seed in (1, 2)]
    close(
        logits(starts[0]), logits(base())
    ) if init else None  # before the training, the model is the base
    before = [PeftAdapter.of(m) for m in starts]
    models = [moved(copy.deepcopy(m), seed) for seed, m in enumerate(starts)]
    adapters = [PeftAdapter.of(m) for m in models]
    blocks = list(adapters[0].blocks())
    kept, untouched = blocks[::2], init in KEEPS_BASE

    for made in (
        tuner_layers,
        lambda m: Progressive(m, 10),
        lambda m: SwitchGame(m, lambda _: 0.0),
    ):
        if untouched and bias == "none":
            made(models[0])
        else:
            refused(
                lambda made=made: made(models[0]),
                "takes a part out of the base" if not untouched else "trains biases of the base",
            )
    if untouched and bias == "none":
        switches = Switches(models[0])
        switches.set([b in kept for b in blocks])
        half = logits(models[0])
        switches.set([True] * len(blocks))
        close(half, by_hand(without(models[0], set(blocks) - set(kept))))

    if init in LOST:
        refused(lambda: keep(adapters[0], kept), "cannot do that again")
        refused(lambda: average(adapters, space="parameters"), "as_lora")
    else:
        close(
            logits(reloaded(keep(adapters[0], kept))),
            by_hand(without(models[0], set(blocks) - set(kept))),
        )
        if init != "eva":  # which gives each training ranks of its own
            middle = copy.deepcopy(models[0])
            with torch.no_grad():
                for p, a, b in zip(
                    middle.parameters(), models[0].parameters(), models[1].parameters(), strict=True
                ):
                    p.copy_(0.25 * a + 0.75 * b)
            close(logits(reloaded(average(adapters, [0.25, 0.75], "parameters"))), logits(middle))
            refused(lambda: average(adapters, [1.0, 1.0], "parameters"), "sum to 1")

    if untouched:
        close(
            logits(reloaded(average(adapters, [0.25, 0.75]))), by_hand(summed(models, [0.25, 0.75]))
        )
        if bias == "none":
            close(
                logits(reloaded(average(adapters, [1.0, -0.5]))),
                by_hand(summed(models, [1.0, -0.5])),
            )
            half = adapters[0].with_deltas(task_arithmetic([adapters[0].deltas], 0.5))
            close(logits(reloaded(half)), by_hand(summed(models[:1], [0.5])))
        else:
            refused(lambda: average(adapters, [1.0, 1.0]), "biases hold whole values")
            refused(lambda: adapters[0].deltas, "trains biases")
        return
    for call in (
        lambda: average(adapters),
        lambda: adapters[0].deltas,
        lambda: adapters[0].with_deltas(PeftAdapter.of(moved(begun(True))).deltas),
    ):
        refused(call, "as_lora")
    plain = [a.as_lora(s) for a, s in zip(adapters, before, strict=True)]
    close(logits(reloaded(plain[0])), logits(models[0]))
    close(logits(reloaded(average(plain, [0.25, 0.75]))), by_hand(summed(models, [0.25, 0.75])))
    if init in AGAIN:
        close(logits(reloaded(adapters[0].as_lora(base()))), logits(models[0]))
        refused(lambda: adapters[0].as_lora(models[0]), "load it again")
    else:
        refused(lambda: adapters[0].as_lora(base()), "cannot be computed again")


def head_models(**more: object) -> list[peft.PeftModel]:
    return [moved(begun(True, seed, task_type="SEQ_CLS", **more), seed) for seed in (1, 2)]


@pytest.mark.parametrize("bias", ["none", "lora_only", "all"])
def test_heads_are_whole_values(bias):
    models = head_models(bias=bias)
    adapters = [PeftAdapter.of(m) for m in models]
    close(logits(reloaded(average(adapters, [0.25, 0.75]))), by_hand(summed(models, [0.25, 0.75])))
    for weights in ([1.0, 1.0], [1.0, -1.0]):
        for space in ("delta", "parameters"):
            refused(
                lambda weights=weights, space=space: average(adapters, weights, space),
                "hold whole values",
            )
    if bias == "none":
        both = summed(models, [1.0, 1.0]) | {
            k: v for k, v in effective(models[0]).items() if k.startswith("classifier")
        }
        close(logits(reloaded(average(adapters, [1.0, 1.0], heads="first"))), by_hand(both))
        close(
            logits(
                reloaded(
                    adapters[0].with_deltas(task_arithmetic([a.deltas for a in adapters], 1.0))
                )
            ),
            by_hand(both),
        )
    else:
        refused(lambda: average(adapters, [1.0, 1.0], heads="first"), "biases hold whole values")
    with pytest.raises(ValueError, match="heads must be"):
        average(adapters, heads="last")


def test_tokens_that_were_trained_are_whole_values_of_the_same_tokens():
    models = [
        moved(begun(True, s, trainable_token_indices={"word_embeddings": [3, 4]}), s)
        for s in (1, 2)
    ]
    adapters = [PeftAdapter.of(m) for m in models]
    close(logits(reloaded(average(adapters))), by_hand(summed(models, [0.5, 0.5])))
    refused(lambda: average(adapters, [1.0, -1.0]), "heads hold whole values")
    other = PeftAdapter.of(moved(begun(True, trainable_token_indices={"word_embeddings": [5, 6]})))
    refused(lambda: average([adapters[0], other]), "differ in trainable_token_indices")


@pytest.mark.parametrize("init", [None, "LoftQ", "loftq", "pissa_niter_x", "something new"])
def test_a_beginning_that_is_not_known_is_not_trusted(init):
    adapter = PeftAdapter.of(moved(begun(True)))
    other = PeftAdapter({**adapter.config, "init_lora_weights": init}, adapter.tensors)
    assert (off_is_not_base(other.config) is None) == (init is None)
    for call in (
        lambda: other.deltas,
        lambda: keep(other, "even"),
        lambda: average([other, other]),
        lambda: average([other] * 2, space="parameters"),
    ):
        if init is None:
            call()
        else:
            refused(
                call,
                "rounds the base.*train plain LoRA"
                if init == "loftq"
                else "is not known.*train plain LoRA",
            )
    if init:
        refused(lambda: other.as_lora(adapter), "no delta of low rank undoes")


def test_only_the_adapter_that_a_training_began_with_converts_it():
    start = begun("pissa")
    first, trained = PeftAdapter.of(start), PeftAdapter.of(moved(start))
    refused(lambda: first.with_deltas(PeftAdapter.of(begun(True)).deltas), "takes a part out")
    for other in (
        PeftAdapter.of(begun("olora")),
        PeftAdapter.of(begun("pissa", r=2)),
        PeftAdapter.of(begun("pissa", lora_alpha=1)),
    ):
        refused(lambda other=other: trained.as_lora(other), "this pissa training began with")
    refused(lambda: PeftAdapter.of(begun(True)).as_lora(first), "did not move its base")
    scaled = {
        "use_rslora": True,
        "rank_pattern": {"0.attention.self.query": 2},
        "alpha_pattern": {"value": 3},
    }
    with pytest.warns(UserWarning, match="Rank-Stabilized"):  # peft cannot convert this one
        model = begun("pissa", **scaled)
        first = PeftAdapter.of(model)
        close(logits(reloaded(PeftAdapter.of(moved(model)).as_lora(first))), logits(model))


def test_peft_itself_converts_alike(tmp_path):
    model = begun("pissa")
    model.peft_config["default"].init_lora_weights = True  # as peft's documentation asks
    model.save_pretrained(tmp_path / "start")
    model.peft_config["default"].init_lora_weights = "pissa"
    moved(model)
    trained = PeftAdapter.of(model)
    mine = trained.as_lora(PeftAdapter.load(tmp_path / "start"))
    model.save_pretrained(
        tmp_path / "plain", path_initial_model_for_weight_conversion=str(tmp_path / "start")
    )
    theirs = peft.PeftModel.from_pretrained(base(), tmp_path / "plain").eval()
    close(logits(reloaded(mine)), logits(theirs))
    assert mine.deltas.rank == 8
    assert PeftAdapter.load(tmp_path / "plain").deltas.rank == 8


def test_a_scale_that_the_folder_does_not_say_is_named():
    model = begun(
        True, alpha_pattern={"self.query": 16, "0.attention.self.query": 2}
    )  # peft writes them sorted, and the first that fits counts
    refused(
        lambda: PeftAdapter.of(model),
        "peft scales 'bert.encoder.layer.0.attention.self.query' by 4 in this model, but writes a "
        "folder that says 0.5",
    )
    model = moved(begun(True))
    for m in model.modules():
        if hasattr(m, "scale_layer"):
            m.scale_layer(2.0)
    refused(lambda: PeftAdapter.of(model), "undo scale_layer")


ZOO = {
    "AdaLoRA": ("AdaLoraConfig", {"total_step": 10, "tinit": 2, "tfinal": 2}),
    "AdaMSS": ("AdamssConfig", {"r": 4}),
    "BEFT": ("BeftConfig", {}),
    "BOFT": ("BOFTConfig", {"boft_block_size": 4}),
    "C3A": ("C3AConfig", {"block_size": 8}),
    "DEFT": ("DeftConfig", {"r": 4}),
    "DeLoRA": ("DeloraConfig", {"r": 4}),
    "FRoD": ("FrodConfig", {}),
    "GLoRA": ("GloraConfig", {"r": 4}),
    "GraLoRA": ("GraloraConfig", {"r": 4}),
    "HiRA": ("HiraConfig", {"r": 4}),
    "Lily": ("LilyConfig", {"r": 4, "stride_A": 2, "num_B": 2}),
    "MiSS": ("MissConfig", {"r": 4}),
    "MiSS, bat": ("MissConfig", {"r": 4, "init_weights": "bat"}),
    "OSF": ("OSFConfig", {}),
    "PEANuT": ("PeanutConfig", {"r": 4}),
    "PSOFT": ("PsoftConfig", {"r": 4}),
    "PVeRA": ("PveraConfig", {"r": 4}),
    "RoAd": ("RoadConfig", {"group_size": 8}),
    "SHiRA": ("ShiraConfig", {"r": 4}),
    "SuperTuning": ("SupertuningConfig", {}),
    "TinyLoRA": ("TinyLoraConfig", {"r": 4}),
    "WaveFT": ("WaveFTConfig", {"n_frequency": 20}),
}
"""Methods of peft beside those of `tiny_peft.METHODS`, as far as the installed release has them."""


def zoo(method: str, **more: object) -> peft.PeftModel:
    if method in METHODS:
        config = copy.deepcopy(METHODS[method])
        for k, v in more.items():
            setattr(config, k, v)
    else:
        name, given = ZOO[method]
        if not hasattr(peft, name):
            pytest.skip(f"this release of peft has no {method}")
        config = getattr(peft, name)(**{"target_modules": TARGETS, **given, **more})
    torch.manual_seed(0)
    return moved(peft.get_peft_model(base(), config), size=0.1)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", [*METHODS, *ZOO])
def test_every_methods_layers_are_the_base_when_off_and_keep_says_the_same_as_peft(method):
    model = zoo(method)
    adapter = PeftAdapter.of(model)
    blocks = list(adapter.blocks())
    start = base()
    if method == "LoRA and a head":
        start.classifier = model.base_model.model.classifier
    if method == "AdaLoRA":
        refused(lambda: tuner_layers(model), "gradients of all layers")
        layers = {
            b: [
                m
                for n, m in model.named_modules()
                if hasattr(m, "enable_adapters") and f"{b}." in n and hasattr(m, "base_layer")
            ]
            for b in blocks
        }

        def set_on(on):
            for b, x in zip(blocks, on, strict=True):
                for layer in layers[b]:
                    layer.enable_adapters(x)
    else:
        assert list(tuner_layers(model)) == blocks
        set_on = Switches(model).set
    set_on([False, False])
    close(logits(model), logits(start))
    set_on([False, True])
    if method in ("FRoD", "TinyLoRA"):
        refused(lambda: keep(adapter, blocks[1:]), "other layers")
    else:
        close(logits(reloaded(keep(adapter, blocks[1:]))), logits(model))


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("saved", [True, False])
@pytest.mark.parametrize("method", ["VeRA", "PVeRA", "RandLoRA"])
def test_matrices_as_large_as_the_largest_module_stay_so(method, saved):
    """With them out of the folder, peft draws others where the largest module is gone, without a
    word.
    """
    model = zoo(method, target_modules={*TARGETS, "output.dense"}, save_projection=saved)
    adapter = PeftAdapter.of(model)
    name = lambda n: n  # noqa: E731
    refused(
        lambda: keep(adapter, [n for n in adapter.modules if "self.query" in n], name),
        "of every kind and shape",
    )
    low = [n for n in adapter.modules if ".layer.0." in n]
    switches = Switches(model, "module")
    switches.set([n in low for n in switches.names])
    close(logits(reloaded(keep(adapter, low, name))), logits(model))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("method", ZOO)
def test_an_average_of_every_methods_parameters_is_that_of_every_number(method):
    models = [zoo(method), moved(zoo(method), 3)]
    found = dict(
        reloaded(
            average([PeftAdapter.of(m) for m in models], [0.25, 0.75], "parameters")
        ).named_parameters()
    )
    for (name, a), b in zip(models[0].named_parameters(), models[1].parameters(), strict=True):
        if a.requires_grad:
            torch.testing.assert_close(found[name], 0.25 * a + 0.75 * b, msg=name)
    refused(
        lambda: average([PeftAdapter.of(m) for m in models], [1.0, 1.0], "parameters"), "sum to 1"
    )


def test_kasa_cuts_the_base_and_keep_gives_it_back():
    config = pytest.importorskip("peft.tuners.lora.config")
    if not hasattr(config, "KasaConfig"):
        pytest.skip("this release of peft has no KaSA")
    model = moved(begun(True, kasa_config=config.KasaConfig()))
    adapter = PeftAdapter.of(model)
    refused(lambda: tuner_layers(model), "kasa_config takes a part out")
    refused(lambda: adapter.deltas, "kasa_config")
    close(
        logits(reloaded(keep(adapter, ["bert.encoder.layer.1"]))),
        by_hand(without(model, {"bert.encoder.layer.0"})),
    )


def test_attention_with_its_projection_is_kept_whole():
    def fresh() -> nn.Module:
        torch.manual_seed(0)
        return nn.TransformerEncoder(
            nn.TransformerEncoderLayer(8, 2, 16, dropout=0.0, batch_first=True),
            2,
            enable_nested_tensor=False,
        ).eval()

    x = torch.randn(2, 3, 8, generator=torch.Generator().manual_seed(0))
    config = peft.LoraConfig(r=2, target_modules=["self_attn", "linear1"], init_lora_weights=False)
    model = moved(peft.get_peft_model(fresh(), config))
    adapter = PeftAdapter.of(model)
    switches = Switches(model)
    switches.set([False, True])
    with torch.no_grad():
        close(reloaded(keep(adapter, ["layers.1"]), fresh())(x), model(x))
        switches.set([False, False])
        close(model(x), fresh()(x))


def test_layers_that_are_repeated_stay_repeated():
    models = [moved(begun(True, s, layer_replication=[(0, 2), (1, 2)]), s) for s in (1, 2)]
    adapter = PeftAdapter.of(models[0])
    close(logits(reloaded(adapter.with_deltas(adapter.deltas))), logits(models[0]))
    switches = Switches(models[0])
    assert len(switches) == 3
    switches.set([True, False, True])
    close(logits(reloaded(keep(adapter, "even"))), logits(models[0]))
    refused(lambda: average([adapter, PeftAdapter.of(begun(True))]), "differ in layer_replication")


def test_names_that_are_ends_of_others_mean_one_module_each():
    class Two(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            torch.manual_seed(0)
            self.encoder = nn.ModuleDict(
                {"layer": nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])}
            )
            self.image = nn.ModuleDict(
                {
                    "encoder": nn.ModuleDict(
                        {"layer": nn.ModuleList([nn.Linear(4, 4) for _ in range(2)])}
                    )
                }
            )

        def forward(self, x):
            for layer in [*self.encoder["layer"], *self.image["encoder"]["layer"]]:
                x = layer(x).tanh()
            return x

    x = torch.randn(3, 4, generator=torch.Generator().manual_seed(0))
    for more in ({"target_modules": ["0", "1"]}, {"target_modules": r"(image\.)?encoder\.layer\.\d"}, {"target_modules": ["0", "1"], "exclude_modules": ["image.encoder.layer.0"]}):  # fmt: skip
        model = moved(
            peft.get_peft_model(Two(), peft.LoraConfig(r=2, init_lora_weights=False, **more))
        )
        adapter = PeftAdapter.of(model)
        found = reloaded(keep(adapter, ["encoder.layer.0", "encoder.layer.1"]), Two())
        assert list(PeftAdapter.of(found).modules) == ["encoder.layer.0", "encoder.layer.1"]
        switches = Switches(model)
        switches.set([not n.startswith("image") for n in switches.names])
        close(found(x), model(x))


def test_what_is_more_than_a_product_is_named():
    adapter = PeftAdapter.of(moved(begun(True)))
    for field, value in (
        ("lora_bias", True),
        ("kasa_config", {"beta": 1}),
        ("target_parameters", ["w"]),
        ("use_bdlora", {"a": 1}),
        ("to_come", 3),
    ):
        other = PeftAdapter({**adapter.config, field: value}, adapter.tensors)
        refused(lambda other=other: other.deltas, field)
        refused(lambda other=other: average([other, other]), field)
    refused(
        lambda: keep(
            PeftAdapter({**adapter.config, "target_parameters": ["w"]}, adapter.tensors), "even"
        ),
        "target_modules",
    )
    refused(
        lambda: keep(
            PeftAdapter({**adapter.config, "peft_type": "XLORA"}, adapter.tensors), "even"
        ),
        "XLORA",
    )


def test_the_callback_refuses_what_progressive_does():
    class Args:
        deepspeed, fsdp, world_size, seed = None, None, 1, 0

    class State:
        max_steps = 3

    for init, bias in (("pissa", "none"), (True, "all")):
        refused(
            lambda init=init, bias=bias: CopRACallback().on_train_begin(
                Args, State, None, model=begun(init, bias=bias)
            ),
            "base",
        )


# --- any configuration ---------------------------------------------------------------------------------------------


def gpt2() -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    torch.manual_seed(0)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 16, "vocab_size": 50}
    return GPT2ForSequenceClassification(GPT2Config(**sizes, num_labels=3, pad_token_id=0)).eval()


class Convolutions(nn.Module):
    """Pictures made of tokens: two blocks of a convolution and a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.ModuleList(
            [
                nn.ModuleDict({"conv": nn.Conv2d(4, 4, 3, padding=1), "fc": nn.Linear(4, 4)})
                for _ in range(2)
            ]
        )
        self.classifier = nn.Linear(4, 3)

    def forward(self, input_ids: torch.Tensor):
        x = torch.stack([(input_ids / p).sin() for p in (1, 2, 3, 5)], 1)[..., None, :].float()
        for layer in self.layers:
            x = x + layer["fc"](layer["conv"](x).tanh().movedim(1, -1)).movedim(-1, 1)
        return type("Out", (), {"logits": self.classifier(x.mean((2, 3)))})


MODELS = {
    "bert": (
        base,
        ["query", "value", "intermediate.dense", "output.dense", "word_embeddings"],
        "bert.encoder.layer",
    ),
    "gpt2": (lambda: copy.deepcopy(_gpt2()), ["c_attn", "c_proj", "wte"], "transformer.h"),
    "conv": (Convolutions, ["conv", "fc"], "layers"),
}
_gpt2 = cache(gpt2)


@st.composite
def configurations(draw: st.DrawFn) -> tuple[str, dict[str, object]]:
    name = draw(st.sampled_from(sorted(MODELS)))
    _, modules, stack = MODELS[name]
    chosen = draw(st.lists(st.sampled_from(modules), min_size=1, unique=True))
    given: dict[str, object] = {
        "r": draw(st.sampled_from([2, 4])),
        "lora_alpha": draw(st.sampled_from([1, 3, 8])),
        "target_modules": chosen,
        "init_lora_weights": draw(
            st.sampled_from(
                [
                    True,
                    True,
                    False,
                    "gaussian",
                    "orthogonal",
                    "mica",
                    "pissa",
                    "olora",
                    "pissa_niter_2",
                ]
            )
        ),
        "bias": draw(st.sampled_from(["none", "none", "lora_only", "all"])),
        "use_rslora": draw(st.booleans()),
    }
    if draw(st.booleans()):
        given["rank_pattern"] = {f"{draw(st.sampled_from(chosen))}": 2}
    if draw(st.booleans()):
        given["alpha_pattern"] = {f"{stack}.0.*{draw(st.sampled_from(chosen))}": 5}
    if draw(st.integers(0, 3)) == 0:
        given[draw(st.sampled_from(["use_dora", "lora_bias"]))] = True
    narrowing = draw(
        st.sampled_from(["", "", "layers_to_transform", "exclude_modules", "expression"])
    )
    if narrowing == "layers_to_transform":
        given["layers_to_transform"] = [draw(st.integers(0, 1))]
    elif narrowing == "exclude_modules":
        given["exclude_modules"] = rf".*\.0\..*{chosen[0]}"
    elif narrowing == "expression":
        given["target_modules"] = rf".*\.({'|'.join(chosen)})"
    if draw(st.booleans()):
        given["modules_to_save"] = ["score" if name == "gpt2" else "classifier"]
    return name, given


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.filter_too_much],
)
@given(
    drawn=configurations(),
    weights=st.sampled_from([(0.5, 0.5), (0.2, 0.8), (1.0, 1.0), (1.0, -1.0), (2.0, -1.0)]),
    data=st.data(),
)
def test_any_configuration_is_followed_or_refused(drawn, weights, data):
    name, given = drawn
    fresh, _, _stack = MODELS[name]
    models = []
    try:
        for seed in (1, 2):
            torch.manual_seed(seed)
            models.append(
                moved(
                    peft.get_peft_model(fresh(), peft.LoraConfig(**copy.deepcopy(given))), seed, 0.1
                )
            )
        ends = [copy.deepcopy(m).merge_and_unload().state_dict() for m in models]
    except (ValueError, TypeError, NotImplementedError, RuntimeError, AttributeError):
        assume(False)  # peft refuses it
    start = fresh().state_dict()

    def same(adapter: PeftAdapter, expected: dict[str, torch.Tensor]) -> None:
        by_hand = fresh()
        by_hand.load_state_dict(expected)
        close(logits(reloaded(adapter, fresh())), logits(by_hand))

    def attempt(call) -> PeftAdapter | None:
        try:
            return call()
        except ValueError as e:  # AdapterError is one
            assert "\n" not in str(e)
            assert ";" in str(e)
            return None

    if (adapters := attempt(lambda: [PeftAdapter.of(m) for m in models])) is None:
        return
    init, bias, blocks = given["init_lora_weights"], given["bias"], list(adapters[0].blocks())
    repeats, plain = init != "pissa_niter_2", init in KEEPS_BASE and not given.get("use_dora")
    part = data.draw(st.lists(st.sampled_from(blocks), min_size=1, unique=True))
    gone = set(blocks) - set(part)
    inside = {k for k in start if block_of(k.rpartition(".")[0]) in gone}
    if half := attempt(lambda: keep(adapters[0], part)):
        same(half, {k: start[k] if k in inside else v for k, v in ends[0].items()})
    assert (half is not None) == repeats

    if switches := attempt(lambda: Switches(models[0])):
        switches.set([b in part for b in switches.names])
        found = logits(models[0])
        switches.set([True] * len(blocks))
        by_hand = fresh()
        by_hand.load_state_dict({k: start[k] if k in inside else v for k, v in ends[0].items()})
        close(found, logits(by_hand))
    assert (switches is not None) == (init in KEEPS_BASE and bias == "none")

    if merged := attempt(lambda: average(adapters, weights)):
        same(
            merged,
            {
                k: v + sum(w * (e[k] - v) for w, e in zip(weights, ends, strict=True))
                if v.is_floating_point()
                else v
                for k, v in start.items()
            },
        )
    only_linear = not given.get("lora_bias") and not any(
        "conv" in m or m.endswith(("wte", "word_embeddings")) for m in adapters[0].modules
    )
    whole = bias != "none" or "modules_to_save" in given
    assert (merged is not None) == (plain and only_linear and (sum(weights) == 1 or not whole))

    if numbers := attempt(lambda: average(adapters, weights, "parameters")):
        middle = copy.deepcopy(models[0])
        with torch.no_grad():
            for p, *of in zip(middle.parameters(), *(m.parameters() for m in models), strict=True):
                if p.requires_grad or init == "mica":
                    p.copy_(sum(w * x for w, x in zip(weights, of, strict=True)))
        close(logits(reloaded(numbers, fresh())), logits(middle))
    assert (numbers is not None) == (repeats and sum(weights) == 1)
