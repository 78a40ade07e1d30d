"""Whoever upgrades from 0.1.0 finds in the changelog where everything went."""

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SECTION = (ROOT / "CHANGELOG.md").read_text(encoding="utf-8").partition("## 0.1.0")[0]
ROWS = dict(re.findall(r"^\| `([\w.]+)` \| (.*) \|$", SECTION, re.MULTILINE))
"""What stands left in a table of 0.2.0 → what stands right of it."""

PUBLIC = {
    "anypeft": """PeftAdapter keep average""",
    "attached": """Attached""",
    "bench": """Bench Path""",
    "callback": """CopRACallback""",
    "clip": """load_clip Clip""",
    "copra": """CopRA Dropout ProgressiveDropout StochasticDepth PLAIN DROPPINGS Dropping Draw
        ramp group masks drawn""",
    "datasets": """SETS data_folder""",
    "games": """LayerGame SwitchGame players_of""",
    "grid": """read_grid grid Grid METHODS""",
    "hf": """to_hugging_face save_hugging_face""",
    "hf_datasets": """listing""",
    "hub": """push_to_hub model_card""",
    "lora": """LoRA Adapter NONE LowRank merged_into""",
    "merge": """weighted_sum Weight interpolate plane task_arithmetic ties dare truncate
        average_factors interpolate_factors barrier highest_barrier""",
    "nemesis": """Nemesis pun pan omega rescale replace survey Corruption occurrences Occurrences""",
    "parallel": """run_all rows_of""",
    "prompts": """CoOp VPT SoftPrompt PromptError norms word_norm""",
    "prune": """keep PRESETS preset layers_of keep_best magnitudes sparsify sparsity""",
    "seeds": """generator""",
    "shapley": """Game solve exact Exact Curve all_coalitions estimate Estimate SAMPLERS
        permutations owen stratified""",
    "shipped": """shipped Shipped shipped_prompts ShippedPrompt""",
    "show": """Picture titled answers grid matrices walk curve bands lines accuracies
        differences dots estimates masks landscape changes table BLUE GREEN GREY PALE
        VERMILION""",
    "sites": """Site find_sites choose hf_name site_of KINDS TOWERS""",
    "stats": """Accuracy bootstrap_interval paired_bootstrap""",
    "storage": """load_adapter save_adapter AdapterError""",
    "sweep": """Run PromptRun trained""",
    "tasks": """load_task task_names image_folder Task Split photo IMAGE_FILES MEGAPIXELS""",
    "texts": """Encoder""",
    "train": """fit DEFAULTS RATES Step""",
    "tuners": """Progressive Switches tuner_layers block_of""",
}
"""What 0.1.0 promised: module → names."""

MODULES = """adapter_files anypeft attached bench callback catalogue checkpoints checks
    checks.bend_prompt checks.build_lora checks.drop_layers checks.meet_clip checks.merge_models
    checks.normalise_prompt checks.prune_adapter checks.take_home checks.value_layers
    checks.walk_line cli cli.changing cli.doctor cli.exchange cli.frame cli.given cli.measuring
    cli.page cli.sweeping cli.training clip clip_lora concepts copra datasets decoding devices
    diffusion_lora download fetching files gallery games grid hf hf_datasets hf_names hub
    layouts listing loading loop lora lora_training merge nemesis nuisances page page.against
    page.answers page.api page.axes page.best page.blend page.blend_parts page.checks
    page.controls page.folders page.guard page.lab page.limits page.link page.live page.look
    page.measure page.orders page.own page.own_parts page.parts page.path page.places
    page.prompt page.prompt_parts page.prune page.prune_parts page.queueing page.serve
    page.sessions page.sketch page.solving page.sparsity page.state page.stepping page.tour
    page.train page.train_charts page.train_parts page.training page.triangle
    page.triangle_hands page.triangle_parts page.turns page.views page.visitors page.waiting
    page.walk page.words page.worth page.worth_parts pairs parallel peft_config peft_tensors
    photos plain preprocessing prompt_training prompts prune reading seeds shapley shipped show
    show.curves show.images show.picture show.rows show.tables sites sources splits stats
    storage sweep table tasks texts tokenizing tower train tuners uploads widgets""".split()
"""Every module of 0.1.0."""


def named(cell: str) -> list[str]:
    return re.findall(r"`([\w.]+)`", cell)


@pytest.mark.parametrize("module", PUBLIC)
def test_a_public_name_of_the_first_version_is_where_the_changelog_says(module):
    homes = [
        import_module(n) for n in named(ROWS[f"copra_lab.{module}"]) if n.startswith("copra_lab.")
    ]
    gone = set(named(SECTION.partition("\nGone, ")[2].partition("\nAn ")[0]))
    assert homes
    for name in PUBLIC[module].split():
        assert any(hasattr(h, name) for h in homes) or f"{module}.{name}" in gone, name


def test_every_module_of_the_first_version_is_accounted_for():
    stayed = named(re.findall(r"^(`cli`.*) are where they were", SECTION, re.MULTILINE)[0])
    moved = {old for old in ROWS if not old.startswith("copra_lab.")}
    assert sorted([*moved, *stayed]) == sorted(MODULES)
    for new in [*stayed, *(n for old in moved for n in named(ROWS[old]))]:
        assert import_module(f"copra_lab.{new}")
