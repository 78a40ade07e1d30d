"""What the package promises: its public modules and names, in one place. A name that comes or goes is changed here, on purpose."""

import ast
import functools
import inspect
import re
from importlib import import_module
from pathlib import Path

import pytest

import copra_lab

ROOT = Path(__file__).parents[2]
PACKAGE = """__version__ load_clip Clip load_task Task fit LoRA CopRA CoOp VPT Nemesis Adapter SoftPrompt Bench load_adapter to_hugging_face
    save_hugging_face CopRACallback Progressive PeftAdapter"""
PUBLIC = {
    "anypeft": "PeftAdapter keep average",
    "attached": "Attached",
    "bench": "Bench Path",
    "callback": "CopRACallback",
    "clip": "load_clip Clip",
    "copra": "CopRA Dropout ProgressiveDropout StochasticDepth PLAIN DROPPINGS Dropping Draw ramp group masks drawn",
    "datasets": "SETS data_folder",
    "games": "LayerGame SwitchGame players_of",
    "grid": "read_grid grid Grid METHODS",
    "hf": "to_hugging_face save_hugging_face",
    "hf_datasets": "listing",
    "hub": "push_to_hub model_card",
    "lora": "LoRA Adapter NONE LowRank merged_into",
    "merge": "weighted_sum Weight interpolate plane task_arithmetic ties dare truncate average_factors interpolate_factors barrier highest_barrier",
    "nemesis": "Nemesis pun pan omega rescale replace survey Corruption occurrences Occurrences",
    "parallel": "run_all rows_of",
    "prompts": "CoOp VPT SoftPrompt PromptError norms word_norm",
    "prune": "keep PRESETS preset layers_of keep_best magnitudes sparsify sparsity",
    "seeds": "generator",
    "shapley": "Game solve exact Exact Curve all_coalitions estimate Estimate SAMPLERS permutations owen stratified",
    "shipped": "shipped Shipped shipped_prompts ShippedPrompt",
    "show": """Picture titled answers grid matrices walk curve bands lines accuracies differences dots estimates masks landscape changes table
        BLUE GREEN GREY PALE VERMILION""",
    "sites": "Site find_sites choose hf_name site_of KINDS TOWERS",
    "stats": "Accuracy bootstrap_interval paired_bootstrap",
    "storage": "load_adapter save_adapter AdapterError",
    "sweep": "Run PromptRun trained",
    "tasks": "load_task task_names image_folder Task Split photo IMAGE_FILES MEGAPIXELS",
    "texts": "Encoder",
    "train": "fit DEFAULTS RATES Step",
    "tuners": "Progressive Switches tuner_layers block_of",
}


def shown() -> dict[str, dict[str, str]]:
    """Module → what the reference shows of it, and as what."""
    pages = "\n".join(
        p.read_text(encoding="utf-8") for p in sorted((ROOT / "docs" / "reference").glob("*.md"))
    )
    parts = re.split(r"\.\. automodule:: copra_lab\.(\w+)", pages)[1:]
    directives = (
        re.findall(r"\.\. auto(function|class|data|exception):: (\w+)", text)
        for text in parts[1::2]
    )
    return {
        module: {name: kind for kind, name in found}
        for module, found in zip(parts[::2], directives, strict=True)
    }


def test_the_package_has_these_names_and_no_others():
    assert set(copra_lab.__all__) == set(PACKAGE.split())
    homes = {
        name: getattr(copra_lab, name).__module__.removeprefix("copra_lab.")
        for name in copra_lab.__all__
        if name != "__version__"
    }
    assert all(name in PUBLIC[home].split() for name, home in homes.items())
    table = (ROOT / "docs" / "reference" / "README.md").read_text(encoding="utf-8")
    assert (
        dict(reversed(found) for found in re.findall(r"^   ~(\w+)\.(\w+)$", table, re.MULTILINE))
        == homes
    )


def test_the_public_modules_are_these():
    files = [*(ROOT / "copra_lab").glob("*.py"), *(ROOT / "copra_lab").glob("*/__init__.py")]
    says = {
        (f if f.name != "__init__.py" else f.parent).stem
        for f in files
        if "__all__" in _assigned(f)
    }
    assert says - {"copra_lab", "cli"} == set(
        PUBLIC
    )  # of the command line, --help is the reference
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
def test_a_module_promises_these_names_shows_them_and_says_what_they_are(name):
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
    """For what has a name and for each of its public methods and properties, whether it has no docstring of its own."""
    out = [
        not thing.__doc__ or thing.__doc__.startswith(f"{name}(")
    ]  # what a dataclass writes itself is none
    for member, value in vars(thing).items() if inspect.isclass(thing) else ():
        function = getattr(value, "__func__", None) or getattr(value, "fget", None)
        function = value.func if isinstance(value, functools.cached_property) else function or value
        if not member.startswith(("_", "on_")) and inspect.isroutine(
            function
        ):  # on_…: transformers says what its callbacks are
            out.append(not function.__doc__)
    return out
