"""The command line, verb by verb, on a small CLIP in a folder and a folder of images."""

import json
import os
import shlex
import shutil
import subprocess
import sys
import tomllib
from pathlib import Path
from types import SimpleNamespace

import documents
import pytest
import torch
import typer
from command_line import run, told
from tiny import random_adapter, save_clip, save_images
from typer.testing import CliRunner

from copra_lab.adapters import Adapter, load_adapter, save_adapter
from copra_lab.bench import Bench
from copra_lab.cli import EXAMPLES, app, doctor
from copra_lab.cli import arguments as given
from copra_lab.models import load_clip
from copra_lab.prompts import SoftPrompt
from copra_lab.sweeps import grid
from copra_lab.tasks import load_task

ROOT = Path(__file__).parents[2]
COMMAND = typer.main.get_command(app)
VERBS = (
    "fit",
    "prompt",
    "path",
    "shapley",
    "merge",
    "prune",
    "export",
    "import",
    "sweep",
    "app",
    "doctor",
)


@pytest.fixture(scope="module")
def home(tmp_path_factory) -> SimpleNamespace:
    """A CLIP, a task, and two adapters that the command line trained."""
    folder = tmp_path_factory.mktemp("home")
    save_clip(folder / "clip")
    save_images(folder / "colours")
    h = SimpleNamespace(
        folder=folder,
        clip=folder / "clip",
        task=folder / "colours",
        one=folder / "one",
        two=folder / "two",
        fits=[],
    )
    for seed, out in ((0, h.one), (1, h.two)):
        more = (
            "--method",
            "copra",
            "--start",
            0.5,
            "--figure",
            folder / f"fit{seed}.png",
            "--validate-every",
            10,
        )
        h.fits.append(
            told(
                "fit",
                h.task,
                "--clip",
                h.clip,
                "-o",
                out,
                "--steps",
                40,
                "--lr",
                0.01,
                "--batch",
                16,
                "--seed",
                seed,
                "--rank",
                2,
                *more,
            )
        )
    return h


def test_fit_trains_measures_and_keeps(home):
    clip = load_clip(home.clip)
    first = home.fits[0]
    adapter = load_adapter(home.one, clip)
    assert first["hash"] == adapter.hash
    assert first["base"] == clip.hash == adapter.base
    assert first["provenance"]["method"] == "copra"
    assert first["provenance"]["dropping"]["start"] == 0.5
    assert adapter.rank == 2
    bench = Bench(clip, load_task(home.task, clip))
    assert first["test"]["correct"] == bench.accuracy(adapter).correct
    assert first["before"]["correct"] == bench.accuracy().correct
    assert first["test"]["accuracy"] > first["before"]["accuracy"] + 0.2
    assert [p["step"] for p in first["curve"]] == [10, 20, 30, 40]
    assert (home.folder / "fit0.png").read_bytes().startswith(b"\x89PNG")
    assert not (home.one / "fit.part").exists()
    assert home.fits[1]["hash"] != first["hash"]


@pytest.mark.slow
def test_a_template_is_remembered_by_what_is_trained_with_it(home, tmp_path):
    fit = (
        "fit",
        home.task,
        "--clip",
        home.clip,
        "-o",
        tmp_path / "a",
        "--steps",
        1,
        "--batch",
        2,
        "--rank",
        2,
        "--template",
        "{}, from above",
    )
    document, clip = told(*fit), load_clip(home.clip)
    assert document["provenance"]["task options"] == {"template": "{}, from above"}
    right = Bench(clip, load_task(home.task, clip, template="{}, from above")).accuracy(
        load_adapter(tmp_path / "a", clip)
    )
    assert document["test"]["correct"] == right.correct
    seen = []

    def watch(name, *arguments, **options):
        seen.append(options.get("template"))
        return load_task(name, *arguments, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("copra_lab.tasks.task.load_task", watch)
        run("shapley", tmp_path / "a", "--clip", home.clip)
        run("merge", tmp_path / "a", tmp_path / "a", "--clip", home.clip, "-o", tmp_path / "merged")
        run("prune", tmp_path / "merged", "--clip", home.clip, "--best", 1)
        run("shapley", tmp_path / "a", "--clip", home.clip, "--template", "{}")
        run("path", home.one, home.two, "--clip", home.clip, "--points", 2)
        run(
            "path",
            home.one,
            tmp_path / "a",
            "--clip",
            home.clip,
            "--points",
            2,
            "--template",
            "a {}",
        )
    assert seen == ["{}, from above"] * 4 + ["{}", None, "a {}"]
    assert (
        "different prompts"
        not in run(
            "path",
            home.one,
            tmp_path / "a",
            "--clip",
            home.clip,
            "--points",
            2,
            "--template",
            "a {}",
        ).stderr
    )
    both = run("path", home.one, tmp_path / "a", "--clip", home.clip, "--points", 2).stderr
    assert "these adapters were trained with different prompts" in both
    assert "the usual one and {}, from above" in both
    wrong = run(
        "fit",
        home.task,
        "--clip",
        home.clip,
        "-o",
        tmp_path / "b",
        "--template",
        "no place",
        code=1,
    ).stderr
    assert "a template must contain {} once" in wrong
    assert (
        "digits has its own prompt and split"
        in run("fit", "digits", "-o", tmp_path / "b", "--template", "a {}", code=1).stderr
    )


@pytest.mark.slow
def test_what_was_passed_over_is_printed(home, tmp_path):
    shutil.copytree(home.task, tmp_path / "colours")
    first = next(f for f in sorted((tmp_path / "colours").iterdir()) if f.is_dir())
    (first / "a.png").write_bytes(b"nothing")
    (first / "a.heic").write_bytes(b"nothing")
    passed = f"Passed over: 2 files, the first {first.name}/a.heic (unsupported file type)."
    fit = (
        "fit",
        tmp_path / "colours",
        "--clip",
        home.clip,
        "-o",
        tmp_path / "a",
        "--steps",
        1,
        "--batch",
        2,
    )
    assert passed in run(*fit).stderr
    assert told(*fit, "--overwrite")["notes"] == [passed]
    assert passed in run("shapley", tmp_path / "a", "--clip", home.clip).stderr


def test_classes_may_be_called_like_splits(home, tmp_path):
    for split, colour in (("train", "test"), ("test", "train")):
        shutil.copytree(
            home.task / sorted(f.name for f in home.task.iterdir())[split == "test"],
            tmp_path / "stations" / split / colour,
        )
    fit = (
        "fit",
        tmp_path / "stations",
        "--clip",
        home.clip,
        "-o",
        tmp_path / "a",
        "--steps",
        1,
        "--batch",
        2,
    )
    assert "test has 'train' but train does not" in run(*fit, code=1).stderr
    assert (
        told(*fit, "--no-splits")["provenance"] | {"classes": 2, "task options": {"splits": False}}
        == load_adapter(tmp_path / "a").provenance
    )
    run("shapley", tmp_path / "a", "--clip", home.clip)


@pytest.mark.slow
def test_people_see_what_is_going_on(home, tmp_path):
    task = load_task(home.task, load_clip(home.clip))
    fit = run(
        "fit",
        home.task,
        "--clip",
        home.clip,
        "-o",
        tmp_path / "a",
        "--steps",
        4,
        "--validate-every",
        2,
        "--figure",
        tmp_path / "a.svg",
    )
    first, about, *later = fit.stderr.splitlines()
    assert about == task.about
    assert first == f"{task.title}: {task.counts}; 4 steps"
    assert [line.partition(":")[0] for line in later[:2]] == [
        "step 2",
        "step 4",
    ]
    assert f"figure saved in {tmp_path / 'a.svg'}" in later
    assert "coalitions of 3 players" in run("shapley", home.one, "--clip", home.clip).stderr
    pruned = run("prune", home.one, "--clip", home.clip, "--best", 2, "--json")
    kept = ", ".join(map(str, json.loads(pruned.stdout)["layers"]))
    assert "the Shapley values of 3 layers" in pruned.stderr
    assert f"layers kept: {kept}" in run("prune", home.one, "--clip", home.clip, "--best", 2).stdout


def test_people_read_words(home):
    said = run("prune", home.one, "--clip", home.clip, "--layers", "even").stdout
    assert "whole" in said
    assert "pruned" in said
    assert "%" in said
    assert not said.startswith("{")


@pytest.mark.slow
def test_path_gives_all_lines_and_their_barriers(home):
    found = told(
        "path",
        home.one,
        home.two,
        "--clip",
        home.clip,
        "--points",
        5,
        "--precision",
        "float32",
        "--figure",
        home.folder / "path.svg",
    )
    clip = load_clip(home.clip)
    one, two = (load_adapter(f, clip) for f in (home.one, home.two))
    bench = Bench(clip, load_task(home.task, clip), precision="float32")
    assert list(found["paths"]) == ["delta", "factors", "aligned"]
    for space in found["paths"]:
        path = bench.path(one, two, (0.0, 0.25, 0.5, 0.75, 1.0), space)
        assert [p["correct"] for p in found["paths"][space]["points"]] == [
            a.correct for a in path.accuracies
        ]
        assert found["paths"][space]["barrier"] == path.barrier
    assert (home.folder / "path.svg").read_text(encoding="utf-8").lstrip().startswith("<?xml")
    assert list(
        told("path", home.one, home.two, "--clip", home.clip, "--points", 2, "--space", "delta")[
            "paths"
        ]
    ) == ["delta"]


@pytest.mark.slow
@pytest.mark.parametrize(
    "how",
    [
        [], ["--weights", "0.25,0.75"], ["--how", "factors"], ["--how", "aligned"], ["--how", "ties", "--density", "0.5"], ["--how", "task-arithmetic", "--scale", "0.5"],
        ["--dare", "0.5", "--rank", "2"], ["--how", "slerp", "--set", "weight=0.25", "--set", "whole=true"],
        ["--how", "della", "--density", "0.5", "--seed", "3"],
    ],
    ids=" ".join,
)  # fmt: skip
def test_merge_writes_what_the_library_makes(home, tmp_path, how):
    from copra_lab import merging as m

    clip = load_clip(home.clip)
    parts = [load_adapter(f, clip) for f in (home.one, home.two)]
    found = told(
        "merge",
        home.one,
        home.two,
        "-o",
        tmp_path / "out",
        "--clip",
        home.clip,
        "--precision",
        "float32",
        *how,
    )
    g = torch.Generator().manual_seed(0)
    expected = {
        "": lambda: m.weighted_sum(parts, [0.5, 0.5]),
        "--weights": lambda: m.weighted_sum(parts, [0.25, 0.75]),
        "--how factors": lambda: m.average_factors(parts),
        "--how aligned": lambda: m.average_factors(parts, aligned=True),
        "--how ties": lambda: m.ties(parts, 0.5),
        "--how task-arithmetic": lambda: m.task_arithmetic(parts, 0.5),
        "--how slerp": lambda: m.slerp(parts, 0.25, whole=True),
        "--how della": lambda: m.della(parts, 0.5, seed=3),
        "--dare": lambda: m.truncate(
            m.weighted_sum([m.dare(a, 0.5, g) for a in parts], [0.5, 0.5]), 2
        ),
    }[" ".join(how[: 2 if how[:1] == ["--how"] else 1])]()
    written = load_adapter(tmp_path / "out", clip)
    assert written == expected
    assert found["hash"] == written.hash
    (measured,) = found["test"].values()
    assert (
        measured["merged"]["correct"]
        == Bench(clip, load_task(home.task, clip), precision="float32").accuracy(written).correct
    )
    assert set(measured) == {"merged", str(home.one), str(home.two)}


@pytest.fixture
def strangers(home, tmp_path) -> list[Path]:
    """Two adapters that say nothing, or something that is not there any more, about what they were
    trained on.
    """
    clip = load_clip(home.clip)
    folders = [tmp_path / "silent", tmp_path / "moved"]
    for seed, (folder, about) in enumerate(
        zip(folders, ({}, {"task": str(tmp_path / "gone")}), strict=True)
    ):
        made = random_adapter(clip, rank=2, seed=seed)
        save_adapter(Adapter(made.deltas, made.base, about), folder)
    return folders


def test_a_merge_is_saved_when_all_else_is_done(home, tmp_path, strangers):
    command = ("merge", strangers[0], strangers[0], "-o", tmp_path / "out", "--clip", home.clip)
    assert "nothing to draw" in plain(run(*command, "--figure", tmp_path / "x.png", code=2).stderr)
    assert "unknown task" in run(*command, "--task", tmp_path / "gone", code=1).stderr
    assert not (tmp_path / "out").exists()
    assert told(*command)["test"] == {}
    assert load_adapter(tmp_path / "out")


def test_a_merge_goes_on_without_a_task_that_nobody_asked_for(home, tmp_path, strangers):
    result = run(
        "merge", strangers[1], home.one, "-o", tmp_path / "out", "--clip", home.clip, "--json"
    )
    assert f"not measured on {tmp_path / 'gone'}" in result.stderr
    assert "unknown task" in result.stderr
    assert list(json.loads(result.stdout)["test"]) == [str(home.task)]
    assert load_adapter(tmp_path / "out")


def test_what_cannot_be_finished_writes_nothing(home, tmp_path):
    (tmp_path / "file").touch()
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "model.safetensors").touch()
    out = ("-o", tmp_path / "out", "--clip", home.clip)
    run(
        "prune", home.one, *out, "--layers", "even", "--figure", tmp_path / "file" / "x.png", code=1
    )
    assert (
        "another folder with --clip-out"
        in run("export", home.one, *out, "--clip-out", tmp_path / "full", code=1).stderr
    )
    assert "need two folders" in plain(
        run("export", home.one, *out, "--clip-out", tmp_path / "out", "--merged", code=2).stderr
    )
    assert (
        "unknown task" in run("import", home.one, *out, "--task", tmp_path / "gone", code=1).stderr
    )
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_prune_keeps_what_is_asked(home, tmp_path):
    half = told(
        "prune",
        home.one,
        "-o",
        tmp_path / "half",
        "--clip",
        home.clip,
        "--layers",
        "0,2",
        "--kinds",
        "q,v",
        "--sparsity",
        0.5,
    )
    assert half["layers"] == [0, 2]
    assert half["sites"] == 4
    assert half["of sites"] == 9
    assert half["zeros"] == pytest.approx(0.5, abs=0.01)
    assert load_adapter(tmp_path / "half").hash == half["hash"]
    for by in ("shapley", "magnitude"):
        best = told(
            "prune",
            home.one,
            "--best",
            1,
            "--by",
            by,
            "--clip",
            home.clip,
            "--figure",
            tmp_path / f"{by}.pdf",
        )
        assert len(best["layers"]) == 1
        assert best["folder"] is None
        assert (tmp_path / f"{by}.pdf").read_bytes().startswith(b"%PDF")


@pytest.fixture
def trained_elsewhere(home, tmp_path) -> Path:
    """An adapter of the same CLIP that says it was trained on another task."""
    made = random_adapter(load_clip(home.clip), rank=2)
    save_adapter(
        Adapter(made.deltas, made.base, {"task": str(tmp_path / "shapes"), "shots": 2}),
        tmp_path / "elsewhere",
    )
    save_images(tmp_path / "shapes", 40)
    return tmp_path / "elsewhere"


def test_a_path_between_two_tasks_asks_which_to_measure_on(home, trained_elsewhere):
    both = (home.one, trained_elsewhere, "--clip", home.clip, "--points", 2, "--space", "delta")
    other = trained_elsewhere.with_name("shapes")
    refused = plain(run("path", *both, code=2).stderr)
    asked = f"one adapter was trained on {home.task}, another on {other}; say which to measure on"
    assert asked.replace(" ", "") in refused.replace(" ", "")  # a long path is broken over lines
    assert "--task" in refused
    for task in (home.task, other):
        result = run("path", *both, "--task", task)
        bench = Bench(load_clip(home.clip), load_task(task, load_clip(home.clip)))
        assert result.stdout.splitlines()[-1] == f"measured on {len(bench)} test images of {task}"
        assert f"measured on {task}, and trained on " in result.stderr
        assert str(home.task) in result.stderr
        assert str(other) in result.stderr
    assert (
        "trained on"
        not in run("path", home.one, home.two, "--clip", home.clip, "--points", 2).stderr
    )


@pytest.mark.slow
def test_whoever_measures_elsewhere_is_told(home, trained_elsewhere, tmp_path):
    words = f"measured on {home.task}, and trained on {trained_elsewhere.with_name('shapes')}"
    on = ("--clip", home.clip, "--task", home.task)
    assert words in run("prune", trained_elsewhere, "--layers", "even", *on).stderr
    assert words in run("import", trained_elsewhere, "-o", tmp_path / "in", *on).stderr
    found = run("shapley", trained_elsewhere, *on)
    bench = Bench(load_clip(home.clip), load_task(home.task, load_clip(home.clip)))
    assert words in found.stderr
    assert found.stdout.splitlines()[-1] == f"measured on {len(bench)} test images of {home.task}"
    short = ("--clip", home.clip, "--steps", 1, "--views", 0)
    learned = run(
        "prompt",
        home.task,
        "-o",
        tmp_path / "p",
        "--adapter",
        trained_elsewhere,
        "--length",
        2,
        *short,
    )
    assert (
        f"the adapter that the CLIP has was trained on {trained_elsewhere.with_name('shapes')}"
        in learned.stderr
    )


def test_adapters_with_different_training_images_are_told_whose_are_shown(home, tmp_path):
    clip = load_clip(home.clip)
    one = load_adapter(home.one, clip)
    save_adapter(
        Adapter(one.deltas, one.base, {**one.provenance, "shots": 3, "task seed": 5}),
        tmp_path / "few",
    )
    command = ("path", tmp_path / "few", home.one, "--clip", home.clip, "--points", 2)
    said = run(*command, "--split", "train")
    assert (
        "trained with different training images; here are the first one's, 3 a class, task seed 5"
        in said.stderr
    )
    assert said.stdout.splitlines()[-1] == f"measured on 12 training images of {home.task}"
    assert "different" not in run(*command).stderr


def test_adapters_of_bases_that_differ_by_name_are_told(home, tmp_path):
    """peft knows its base by name alone, so that nothing else can tell that two adapters do not
    belong together.
    """
    made = random_adapter(load_clip(home.clip), rank=2)
    for name in ("a", "b"):
        save_adapter(
            Adapter(made.deltas, "", {"clip": f"openai/clip-{name}", "task": str(home.task)}),
            tmp_path / name,
        )
    command = ("merge", tmp_path / "a", tmp_path / "b", "-o", tmp_path / "out", "--clip", home.clip)
    assert "trained on openai/clip-a, and" in run(*command).stderr
    assert (
        "openai"
        not in run(
            "path", tmp_path / "a", tmp_path / "a", "--clip", home.clip, "--points", 2
        ).stderr
    )


@pytest.mark.filterwarnings("default")
def test_an_adapter_of_another_tool_is_imported_with_what_was_passed_over(home, tmp_path):
    from safetensors.torch import save_file

    te, unet = "lora_te_text_model_encoder_layers_0_self_attn_q_proj", "lora_unet_mid_block"
    halves = {"lora_down.weight": torch.ones(2, 32), "lora_up.weight": torch.ones(32, 2)}
    save_file(
        {f"{module}.{half}": t.clone() for module in (te, unet) for half, t in halves.items()},
        tmp_path / "style.safetensors",
    )
    result = run(
        "import", tmp_path / "style.safetensors", "-o", tmp_path / "out", "--clip", home.clip
    )
    line = f"warning: {tmp_path / 'style.safetensors'}: of 4 tensors 2 are of other models (lora_unet) and are passed over"
    assert line in result.stderr.splitlines()
    imported = load_adapter(tmp_path / "out", load_clip(home.clip))
    assert len(imported) == 1
    assert imported.base
    assert imported.provenance["passed over"] == 2
    (tmp_path / "style.safetensors").write_bytes(b"")
    assert (
        "not a whole safetensors file"
        in run("path", tmp_path / "style.safetensors", home.one, "--clip", home.clip, code=1).stderr
    )


def test_shapley_values_add_up(home):
    exact = told("shapley", home.one, "--clip", home.clip, "--figure", home.folder / "values.png")
    assert exact["method"] == "exact"
    assert exact["evaluations"] == 8
    assert [p["name"] for p in exact["players"]] == ["vision 0", "vision 1", "vision 2"]
    assert sum(p["value"] for p in exact["players"]) == pytest.approx(exact["all"] - exact["none"])
    sampled = told(
        "shapley",
        home.one,
        "--clip",
        home.clip,
        "--method",
        "permutations",
        "--budget",
        60,
        "--value",
        "margin",
    )
    assert sampled["evaluations"] <= 60
    assert all(p["error"] >= 0 for p in sampled["players"])


def test_prompt_learns_vectors(home, tmp_path):
    common = ("--clip", home.clip, "--steps", 3, "--views", 0)
    found = told(
        "prompt",
        home.task,
        "-o",
        tmp_path / "pun",
        "--length",
        2,
        "--penalty",
        "pun",
        "--adapter",
        home.one,
        *common,
    )
    prompt = SoftPrompt.load(tmp_path / "pun", load_clip(home.clip))
    assert found["hash"] == prompt.hash
    assert prompt.length == 2
    assert found["provenance"]["method"] == "pun"
    assert (
        found["before"]["correct"] == home.fits[0]["test"]["correct"]
    )  # with the adapter that it is learned on
    vpt = told(
        "prompt",
        home.task,
        "-o",
        tmp_path / "vpt",
        "--tower",
        "vision",
        "--norm",
        "inf",
        "--penalty",
        "pan",
        *common,
    )
    assert vpt["provenance"]["method"] == "vpt+pan"
    assert SoftPrompt.load(tmp_path / "vpt").tower == "vision"


@pytest.mark.slow
@pytest.mark.filterwarnings(
    "ignore:Could not find a config file in clip"
)  # peft, of a base that is on no hub
def test_peft_takes_what_is_exported_and_gives_it_back(home, tmp_path):
    from peft import PeftModel
    from transformers import CLIPModel

    told(
        "export",
        home.one,
        "-o",
        tmp_path / "peft",
        "--clip-out",
        tmp_path / "hf",
        "--clip",
        home.clip,
    )
    told("export", home.one, "-o", tmp_path / "merged", "--merged", "--clip", home.clip)
    clip = load_clip(home.clip)
    again = load_clip(tmp_path / "hf")
    assert again.hash == clip.hash
    assert torch.equal(
        again.text_features(["a red thing", "blue"]), clip.text_features(["a red thing", "blue"])
    )
    assert load_clip(tmp_path / "merged").mean == clip.mean
    pixels = clip.pixels(load_task(home.task, clip).test.images[:5])
    tokens = clip.tokenizer(["a photo of a red thing", "blue"])
    model = PeftModel.from_pretrained(
        CLIPModel.from_pretrained(tmp_path / "hf"), tmp_path / "peft"
    ).eval()
    merged = CLIPModel.from_pretrained(tmp_path / "merged").eval()
    with torch.no_grad():
        theirs, whole = (
            m(input_ids=tokens, pixel_values=pixels).logits_per_image for m in (model, merged)
        )
        base = (
            CLIPModel.from_pretrained(tmp_path / "hf")
            .eval()(input_ids=tokens, pixel_values=pixels)
            .logits_per_image
        )
    assert torch.allclose(theirs, whole, atol=1e-4)
    assert not torch.allclose(theirs, base, atol=1e-2)
    model.save_pretrained(tmp_path / "back")
    found = told(
        "import",
        tmp_path / "back",
        "-o",
        tmp_path / "mine",
        "--clip",
        home.clip,
        "--task",
        home.task,
    )
    mine, one = load_adapter(tmp_path / "mine", clip), load_adapter(home.one, clip)
    assert mine.base == clip.hash
    assert all(
        torch.allclose(mine.deltas[n].delta(), d.delta(), atol=1e-6) for n, d in one.deltas.items()
    )
    assert found["test"]["correct"] == home.fits[0]["test"]["correct"]


def test_adapters_come_from_the_hub_too(home, tmp_path, monkeypatch):
    from copra_lab.adapters import loading

    monkeypatch.setattr(loading, "download_adapter", lambda repo, names: {"me/one": home.one}[repo])
    there, here = (
        told("path", name, home.two, "--points", 2, "--clip", home.clip)
        for name in ("hf-hub:me/one", home.one)
    )
    assert there["paths"] == here["paths"]
    told("import", "hf-hub:me/one", "-o", tmp_path / "mine", "--clip", home.clip)
    assert load_adapter(tmp_path / "mine") == load_adapter(home.one)
    for verb in ("path", "shapley", "merge", "prune", "export", "import"):
        assert "hf-hub:owner/name" in plain(run(verb, "--help").stdout).replace(" ", ""), (
            verb
        )  # wherever a line ends


# --- options, files, errors ------------------------------------------------------------------------------------------


def test_flags_win_over_the_file_and_the_file_over_defaults(home, tmp_path):
    file = tmp_path / "fit.toml"
    file.write_text(
        f"task = '{home.task}'\nclip = '{home.clip}'\n[fit]\nsteps = 3\nlr = 0.005\nsites = ['q', "
        "'fc1']\nmin_active = 1\nmethod = 'copra'\n[prune]\nbest = 1\n",
        encoding="utf-8",
    )
    recipe = told("fit", "--config", file, "--steps", 2, "-o", tmp_path / "a")["provenance"]
    assert (
        recipe["steps"],
        recipe["lr"],
        recipe["lora"]["sites"],
        recipe["dropping"]["min_active"],
    ) == (2, 0.005, ["q", "fc1"], 1)
    assert recipe["lora"]["rank"] == 4
    assert told("fit", "--config", file, "-o", tmp_path / "b")["provenance"]["steps"] == 3


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("[fit]\nstepps = 3", "'stepps', which fit does not know; did you mean 'steps'?"),
        ("[fitt]\nsteps = 3", "a table [fitt], which is no verb"),
        ("fit = 3", "'fit', which fit does not know"),
        ("[fit]\nsteps = 'many'", "--steps"),
        ("steps = ", "not a readable TOML file"),
        (None, "not a readable TOML file"),
    ],
)
def test_a_file_that_makes_no_sense_is_wrong_usage(home, tmp_path, text, says):
    file = tmp_path / "x.toml"
    if text is not None:
        file.write_text(text, encoding="utf-8")
    result = run("fit", home.task, "-o", tmp_path / "out", "--config", file, code=2)
    assert says in plain(result.stderr)
    assert not result.stdout


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit"], "Missing argument"),
        (["fit", "digits"], "Missing option '--out'"),
        (["fit", "digits", "-o", "x", "--rank", "0"], "--rank"),
        (["fit", "digits", "-o", "x", "--method", "copa"], "'copa' is not one of"),
        (["fit", "digits", "-o", "x", "--rate", "0.5"], "--method lora has no such setting"),
        (
            ["prompt", "digits", "-o", "x", "--tower", "vision", "--words", "a photo"],
            "--tower vision has no such setting",
        ),
        (
            ["prompt", "digits", "-o", "x", "--tower", "vision", "--position", "end"],
            "--position: --tower vision has no such setting",
        ),
        (
            ["prompt", "digits", "-o", "x", "--tower", "vision", "--class-specific"],
            "--class-specific: --tower vision has no such setting",
        ),
        (["prompt", "digits", "-o", "x", "--weight", "2"], "--penalty none has no such setting"),
        (
            ["prompt", "digits", "-o", "x", "--norm", "1"],
            "--norm: --penalty none has no such setting",
        ),
        (
            ["prompt", "digits", "-o", "x", "--penalty", "pun", "--tau", "0.1"],
            "--tau: --penalty pun has no such setting",
        ),
        (
            ["prompt", "digits", "-o", "x", "--samples", "2"],
            "--samples: --penalty none has no such setting",
        ),
        (["prune", "digits/lora-seed-0"], "say what to remove"),
        (["prune", "digits/lora-seed-0", "--layers", "even", "--best", "2"], "not both"),
        (["prune", "digits/lora-seed-0", "--layers", "some"], "numbers with commas"),
        (
            ["merge", "digits/lora-seed-0", "-o", "x", "--density", "0.1"],
            "--how sum has no such setting",
        ),
        (["merge", "digits/lora-seed-0", "-o", "x", "--weights", "much"], "expected numbers"),
        (
            ["merge", "digits/lora-seed-0", "-o", "x", "--how", "ties", "--density", "2"],
            "--how ties: density must be above 0 and at most 1, got 2.0",
        ),
        *[
            (["merge", "digits/lora-seed-0", "-o", "x", "--how", how, "--set", text], says)
            for how, text, says in (
                ("cart", "shar=1", "where --how cart has share, strength, got 'shar=1'"),
                ("cart", "share", "expected NAME=VALUE"),
                ("ties", "scale=2", "where --how ties has none"),
                ("sum", "share=1", "where --how sum has none"),
                ("cart", "share=much", "share must be a number, got 'much'"),
                ("cart", "share=2", "share must be at least 0 and at most 1, got 2.0"),
                ("lego", "clusters=1.5", "clusters must be a whole number, got '1.5'"),
                ("slerp", "whole=1", "whole must be true or false, got '1'"),
            )
        ],
        (
            ["path", "digits/lora-seed-0", "digits/lora-seed-1", "--figure", "path.gif"],
            "ends in .png, .svg, .pdf",
        ),
        (["sweep", "x.toml", "--table", "x.xls"], ".csv or .parquet"),
        (["dance"], "No such command 'dance'"),
    ],
)
def test_wrong_usage_ends_with_two(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, code=2)
    assert says in plain(result.stderr)
    assert not result.stdout
    assert not list(tmp_path.iterdir())


def plain(text: str) -> str:
    """What is in a box, as one line."""
    return " ".join(text.replace("│", " ").replace("\n", " ").split())


@pytest.mark.slow
@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["fit", "digit", "-o", "x"], "unknown task 'digit': did you mean 'digits'?"),
        (["fit", "digits", "-o", "x", "--sites", "q,r"], "unknown site 'r'"),
        (["fit", "digits", "-o", "x", "--device", "cuda:7"], "no device 'cuda:7' here"),
        (["path", "nowhere", "digits/lora-seed-0"], "no adapter at nowhere"),
        (["path", "digits/../digits/lora-seed-0", "digits/lora-seed-0"], "no adapter at"),
        (["prune", "digits/lora-seed-0", "--layers", "77"], "no layer 77"),
        (["import", "nowhere", "-o", "x"], "no adapter at nowhere"),
        (["shapley", "digits/lora-seed-0", "--clip", "nowhere"], "nowhere"),
        (["sweep", "nowhere.toml"], "no file nowhere.toml"),
    ],
)
def test_work_that_fails_says_why_in_a_sentence(arguments, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = run(*arguments, code=1)
    *going_on, sentence = result.stderr.splitlines()
    assert sentence.startswith("copra-lab ")
    assert says in sentence
    assert not result.stdout
    assert all(
        "images: " in line for line in going_on
    )  # of a task that was read well, before the rest could fail
    document = json.loads(run(*arguments, "--json", code=1).stdout)
    assert list(document) == ["error"]
    assert document["error"] in result.stderr


@pytest.mark.slow
def test_nothing_is_overwritten_unasked(home, tmp_path):
    before = (home.one / "adapter_model.safetensors").read_bytes()
    for verb in (
        ["fit", home.task],
        ["merge", home.one, home.two],
        ["prune", home.one, "--best", "1"],
        ["export", home.one],
        ["import", home.two],
    ):
        assert (
            "holds adapter_model.safetensors already"
            in run(*verb, "-o", home.one, "--clip", home.clip, code=1).stderr
        )
    assert (home.one / "adapter_model.safetensors").read_bytes() == before
    told("prune", home.two, "--best", 1, "-o", tmp_path / "x", "--clip", home.clip)
    again = told(
        "prune", home.two, "--best", 2, "-o", tmp_path / "x", "--clip", home.clip, "--overwrite"
    )
    assert load_adapter(tmp_path / "x").hash == again["hash"]


def test_an_interruption_and_a_bug_look_like_neither(home, monkeypatch, tmp_path):
    def press_ctrl_c(*_: object, **__: object):
        raise KeyboardInterrupt

    def divide(*_: object, **__: object):
        return 1 // 0

    arguments = ("prune", home.one, "--best", 1, "--clip", home.clip)
    monkeypatch.setattr(given, "load_bench", press_ctrl_c)
    assert "interrupted" in run(*arguments, code=130).stderr
    monkeypatch.setattr(given, "load_bench", divide)
    assert (
        "ZeroDivisionError: integer division or modulo by zero (--debug shows where)"
        in run(*arguments, code=1).stderr
    )
    assert isinstance(
        CliRunner().invoke(app, [*map(str, arguments), "--debug"]).exception, ZeroDivisionError
    )


@pytest.mark.slow
def test_what_is_interrupted_goes_on(home, tmp_path, monkeypatch):
    from copra_lab.training.joint import JointLoRA

    arguments = (
        "fit",
        home.task,
        "--clip",
        home.clip,
        "-o",
        tmp_path / "x",
        "--steps",
        60,
        "--batch",
        16,
    )
    learn = JointLoRA.step
    monkeypatch.setattr(
        JointLoRA,
        "step",
        lambda self, step: _until(55, step) or learn(self, step),
    )
    run(*arguments, code=130)
    assert (tmp_path / "x" / "fit.part").exists()
    seen = []
    monkeypatch.setattr(
        JointLoRA,
        "step",
        lambda self, step: seen.append(step) or learn(self, step),
    )
    resumed = told(*arguments)
    assert seen[0] == 50
    monkeypatch.undo()
    assert told(*arguments[:5], tmp_path / "y", *arguments[6:])["hash"] == resumed["hash"]


def _until(last: int, step: int) -> None:
    if step == last:
        raise KeyboardInterrupt


# --- help, completion, lightness -------------------------------------------------------------------------------------


def test_every_verb_shows_an_example_that_is_right():
    assert set(COMMAND.commands) == set(VERBS) == set(EXAMPLES)
    for verb, example in EXAMPLES.items():
        program, called, *arguments = shlex.split(example)
        assert (program, called) == ("copra-lab", verb)
        with COMMAND.commands[verb].make_context(
            verb, arguments
        ) as context:  # parses every word, or raises
            assert context.params is not None
        assert example in " ".join(run(verb, "--help").stdout.split())


def test_help_tells_the_defaults_that_training_has():
    from copra_lab.methods import LoRA
    from copra_lab.prompts import VPT, CoOp
    from copra_lab.training import DEFAULTS, RATES

    for verb, first, second in (
        ("fit", DEFAULTS[LoRA], {"lr": RATES["copra"]}),
        ("prompt", DEFAULTS[CoOp], DEFAULTS[VPT]),
    ):
        shown = {p.name: p.show_default for p in COMMAND.commands[verb].params}
        for name, value in first.items():
            one, _, two = shown[name].partition(", ")
            assert one == str(value) and (not two or two.split()[1] == str(second[name])), (
                verb,
                name,
            )


def test_the_guides_commands_are_right():
    commands = [
        line.partition(" #")[0]
        for line in documents.CODE["commands"].splitlines()
        if line.startswith("copra-lab ")
    ]
    assert len(commands) >= 8
    for command in commands:
        _, verb, *arguments = shlex.split(command)
        if verb in VERBS:
            with COMMAND.commands[verb].make_context(verb, arguments):
                pass
        else:
            assert verb == "--install-completion"
    assert len(grid(tomllib.loads(documents.CODE["sweep"])).runs) == 48


def test_the_page_has_its_own_options(tmp_path):
    assert "--no-browser" in run("app", "--help").stdout
    result = run("app", "--adapters", tmp_path / "nowhere", code=2)
    assert "copra-lab app: error: no folder" in result.stderr


def process(code: str, **environment: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=ROOT,
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=True,
    )
    return done.stdout


def test_help_and_completion_answer_without_torch():
    heavy = "torch open_clip transformers peft gradio matplotlib sklearn pandas"
    code = f"import sys, copra_lab.cli; print(*set('{heavy}'.split()) & set(sys.modules))"
    assert process(code).strip() == ""


@pytest.mark.slow
def test_the_shell_completes_verbs_and_options():
    code = "import sys; sys.argv[0] = 'copra-lab'; from copra_lab.cli import main; main()"
    asked = {"_COPRA_LAB_COMPLETE": "complete_bash"}
    assert process(code, **asked, COMP_WORDS="copra-lab sh", COMP_CWORD="1").split() == ["shapley"]
    assert set(
        process(code, **asked, COMP_WORDS="copra-lab fit --sche", COMP_CWORD="2").split()
    ) == {"--schedule"}
    assert process(
        code, **asked, COMP_WORDS="copra-lab fit --method cop", COMP_CWORD="3"
    ).split() == ["copra"]


# --- doctor ----------------------------------------------------------------------------------------------------------


def test_the_doctor_finds_this_installation_well(monkeypatch, tmp_path):
    found = {c["name"]: c for c in told("doctor")["checks"]}
    assert {
        "copra-lab",
        "packages",
        "processor",
        "GPU",
        "cache",
        "network",
        "model",
        "precision",
        "shipped",
    } <= set(found)
    assert all(c["state"] != doctor.BROKEN for c in found.values())
    assert load_clip().hash in found["model"]["found"]
    assert "42 adapters" in found["shipped"]["found"]
    assert "HF_HUB_OFFLINE" in found["network"]["found"]


def test_the_doctor_names_the_fix(monkeypatch, tmp_path):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("COPRA_LAB_CACHE", str(tmp_path / "file" / "cache"))
    monkeypatch.setattr(doctor, "NEEDED", ("torch", "no-such-package"))
    monkeypatch.delenv("HF_HUB_OFFLINE")
    monkeypatch.setattr(doctor, "HUB", ("127.0.0.1", 1))  # where nothing listens
    result = run("doctor", "--clip", tmp_path / "nowhere", code=1)
    said = result.stdout
    for words in (
        "pip install no-such-package",
        "set COPRA_LAB_CACHE",
        "is not reached",
        "give another with --clip",
    ):
        assert words in said, said


def test_a_figure_is_whole_or_not_there(home, monkeypatch, tmp_path):
    from matplotlib.figure import Figure

    def break_off(self, file, **_):
        file.write(b"half")
        raise OSError("disk full")

    monkeypatch.setattr(Figure, "savefig", break_off)
    assert (
        "disk full"
        in run(
            "path",
            home.one,
            home.two,
            "--clip",
            home.clip,
            "--points",
            2,
            "--figure",
            tmp_path / "f.png",
            code=1,
        ).stderr
    )
    assert not list(tmp_path.iterdir())


def test_several_processes_tell_once(home, monkeypatch, tmp_path):
    from copra_lab.utils import devices

    second = devices.Process(torch.device("cpu"), 1, 1)
    monkeypatch.setattr(devices, "this_process", lambda device="cpu": second)
    result = run(
        "fit", home.task, "--clip", home.clip, "-o", tmp_path / "x", "--steps", 2, "--json"
    )
    assert result.stdout == ""
    assert not (tmp_path / "x").exists()


def test_columns_line_up():
    assert (
        given.columns([("a", 1), ("long", 22.5)], ("", "n")) == "         n\na        1\nlong  22.5"
    )
    assert given.columns([]) == ""
    assert given.commas(" q, ,k ") == ("q", "k")
