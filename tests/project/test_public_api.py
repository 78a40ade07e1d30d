"""What the package promises: its public names, by package, in one place. Whoever adds or removes
one changes it here, on purpose.
"""

import ast
import functools
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import copra_lab

ROOT = Path(__file__).parents[2]
HOMES = {
    "models": "load_clip Clip to_hugging_face save_hugging_face",
    "tasks": "load_task Task",
    "adapters": "Adapter load_adapter save_adapter push_to_hub",
    "methods": "LoRA",
    "training": "fit fit_many Job CopRA",
    "prompts": "CoOp VPT Nemesis SoftPrompt",
    "bench": "Bench",
    "peft_models": "CopRACallback Progressive PeftAdapter",
}
"""Package → what `import copra_lab` gives of it."""

PUBLIC = {
    "adapters": """Adapter LowRank NONE from_delta merged_into load_adapter save_adapter AdapterError push_to_hub
        model_card""",
    "bench": "Bench Path survey Corruption occurrences Occurrences",
    "engine": "Encoder encode_texts Tower TextTower plain_tower plain_text",
    "merging": """weighted_sum Weight interpolate plane task_arithmetic ties dare keep_largest truncate
        average_factors interpolate_factors interpolate_aligned align align_all balance SPACES barrier
        highest_barrier MERGES Merge Parameter merge merge_names slerp model_stock lego breadcrumbs consensus emr
        emr_tasks dare_sum magprune della in_core in_knots core_ties core_dare_ties knots_ties knots_dare_ties tsv_m
        iso_c iso_cts cart wudi fisher regmean""",
    "methods": """LoRA SVFit LoRAXS LoRASB NOLA LoLDU LaMDA SoRA CoDyRA DyLoRA cut IncreLoRA TriAdaptLoRA SLTrain LTSFT SaRA
        Full AdapterMethod Parametrisation ParameterGroup Start Attached InputDropout METHODS""",
    "models": """load_clip Clip check_base to_hugging_face save_hugging_face Site find_sites choose hf_name site_of
        KINDS TOWERS""",
    "peft_models": """CopRACallback Progressive Switches tuner_layers block_of PeftAdapter keep average""",
    "plots": """Picture titled answers grid matrices walk curve bands lines accuracies differences dots estimates
        masks landscape changes table BLUE GREEN GREY PALE VERMILION""",
    "prompts": """CoOp VPT SoftPrompt PromptError norms word_norm Nemesis pun pan omega rescale replace""",
    "pruning": "keep PRESETS preset layers_of keep_best magnitudes sparsify sparsity",
    "shapley": """LayerGame SwitchGame players_of Game solve exact Exact Curve all_coalitions sharpen Progress
        estimate Estimate SAMPLERS permutations owen stratified""",
    "sweeps": "read_grid grid Grid Run TaskOptions trained run_all rows_of",
    "tasks": """load_task task_names Task Split image_folder photo data_folder TASKS TASK_GROUPS SETS IMAGE_FILES MEGAPIXELS""",
    "tasks.hugging_face": "listing",
    "training": """fit fit_steps fit_many fit_many_steps Job Diverged TrainingSettings Execution DEFAULTS RATES Step CopRA Dropout ProgressiveDropout
        StochasticDepth PLAIN Dropping Draw masks drawn ramp group""",
    "utils.rng": "generator",
    "utils.statistics": "Accuracy bootstrap_interval paired_bootstrap Outcomes share_lost share_lost_interval",
    "zoo": "shipped Shipped shipped_prompts",
}
"""Package, or the one module of a package that is public by itself → its names."""

NO_REFERENCE = {"cli", "page"}
"""Packages whose users do not import them: of the command line, --help is the reference."""


def shown() -> dict[str, dict[str, str]]:
    """Package → what the reference shows of it, and as what."""
    pages = "\n".join(
        p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs" / "reference").glob("*.md"))
    )
    parts = re.split(r"\.\. automodule:: copra_lab\.([\w.]+)", pages)[1:]
    directives = (
        re.findall(r"\.\. auto(function|class|data|exception):: (\w+)", text)
        for text in parts[1::2]
    )
    return {
        module: {name: kind for kind, name in found}
        for module, found in zip(parts[::2], directives, strict=True)
    }


def test_the_package_has_these_names_and_no_others():
    homes = {name: package for package, names in HOMES.items() for name in names.split()}
    assert set(copra_lab.__all__) == {"__version__", *homes}
    assert homes == {n: getattr(copra_lab, n).__module__.split(".")[1] for n in homes}
    assert all(name in PUBLIC[home].split() for name, home in homes.items())
    table = (ROOT / "docs" / "reference" / "README.md").read_text(encoding="utf-8")
    listed = re.findall(r"^   ~(\w+)\.(\w+)$", table, re.MULTILINE)
    assert {name: package for package, name in listed} == homes


def test_the_public_packages_are_these():
    files = [*(ROOT / "copra_lab").glob("*.py"), *(ROOT / "copra_lab").glob("*/__init__.py")]
    says = {
        (f if f.name != "__init__.py" else f.parent).stem
        for f in files
        if "__all__" in _assigned(f)
    }
    assert says - {"copra_lab", *NO_REFERENCE} == {name for name in PUBLIC if "." not in name}
    assert set(shown()) == set(PUBLIC)


def _assigned(file: Path) -> set[str]:
    tree = ast.parse(file.read_text(encoding="utf-8"))
    return {
        t.id
        for n in tree.body
        if isinstance(n, ast.Assign)
        for t in n.targets
        if isinstance(t, ast.Name)
    }


@pytest.mark.parametrize("name", PUBLIC)
def test_a_package_promises_these_names_shows_them_and_says_what_they_are(name):
    module, promised = import_module(f"copra_lab.{name}"), set(PUBLIC[name].split())
    assert set(module.__all__) == promised
    things = {n: getattr(module, n) for n in promised}
    called = {n: _kind(v) for n, v in things.items() if _kind(v)}
    found = shown()[name]
    assert set(found) <= promised
    assert {n: kind for n, kind in found.items() if kind != "data" or n in called} == called
    assert [n for n in called if any(_silent(n, things[n]))] == []
    assert module.__doc__


def _kind(thing: object) -> str:
    if inspect.isclass(thing):
        return "exception" if issubclass(thing, Exception) else "class"
    return "function" if inspect.isroutine(thing) else ""


def _silent(name: str, thing: object) -> list[bool]:
    """For a thing, and for each public method and property of it, whether it lacks a docstring of
    its own.
    """
    out = [
        not thing.__doc__ or thing.__doc__.startswith(f"{name}(")
    ]  # a dataclass writes one itself
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", None) or getattr(value, "fget", None)
        function = value.func if isinstance(value, functools.cached_property) else function or value
        # on_…: transformers says what its callbacks are
        if not member.startswith(("_", "on_")) and inspect.isroutine(function):
            out.append(not function.__doc__)
    return out
