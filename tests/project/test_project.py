"""The files around the code say the same thing, and the package ships what it should."""

import re
import subprocess
import sys
import tarfile
import tomllib
import zipfile
from pathlib import Path

import documents
import pytest
import yaml
from packaging.requirements import Requirement
from packaging.specifiers import SpecifierSet
from packaging.utils import canonicalize_name

import copra_lab

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PYTHONS = SpecifierSet(PROJECT["requires-python"])
README = (ROOT / "README.md").read_text(encoding="utf-8")
MAKEFILE = (ROOT / "Makefile").read_text(encoding="utf-8")
ENVIRONMENT = (ROOT / "environment.yml").read_text(encoding="utf-8")


MARKDOWN = [
    p.relative_to(ROOT).as_posix()
    for folder in (".", "docs", "docs/*", "lessons", "experiments", "benchmarks")
    for p in sorted(ROOT.glob(f"{folder}/*.md"))
]
MARKDOWN_TEXTS = [(ROOT / name).read_text(encoding="utf-8") for name in MARKDOWN]
LESSONS = [p.read_text(encoding="utf-8") for p in sorted(ROOT.glob("lessons/[0-9]*.py"))]


def project_files() -> list[Path]:
    """Tracked files, and new ones that are not ignored."""
    listed = subprocess.run(
        ["git", "ls-files", "-co", "--exclude-standard"], cwd=ROOT, capture_output=True, text=True
    )
    if listed.returncode:
        pytest.skip("not a git checkout")
    return [ROOT / name for name in listed.stdout.splitlines() if (ROOT / name).is_file()]


def names(requirements: list[str]) -> set[str]:
    return {canonicalize_name(Requirement(r).name) for r in requirements}


EXTRAS = PROJECT["optional-dependencies"]
NOT_SERVED = {"transformers", "peft", "accelerate", "typer"}
"""What the page does without: see test_space.py."""


def whole(extra: str) -> list[str]:
    """What an extra names, with what stands in its place where it names another extra of ours."""
    return [
        d
        for r in EXTRAS[extra]
        for d in (
            [d for e in sorted(Requirement(r).extras) for d in whole(e)]
            if names([r]) == {PROJECT["name"]}
            else [r]
        )
    ]


def test_a_space_installs_what_the_app_needs():
    lines = (ROOT / "requirements.txt").read_text(encoding="utf-8").splitlines()
    assert [line for line in lines if not line.startswith(("#", "--"))] == [
        d for d in [*PROJECT["dependencies"], *whole("app")] if not names([d]) & NOT_SERVED
    ]


def test_developers_get_every_extra_of_users():
    users = set(EXTRAS) - {"docs", "lessons", "recipes", "test"}
    apart = {"ray", "dask", "parquet"}  # large, and asked for in their absence
    assert set().union(*(names(whole(e)) for e in users - apart)) <= names(whole("test"))
    for developers in ("docs", "lessons", "recipes", "test"):
        assert names(whole("plots") + whole("drawings")) <= names(whole(developers))


def test_a_space_is_told_what_to_run():
    told = yaml.safe_load(README.split("---\n")[1])
    gradio = next(r for r in map(Requirement, whole("app")) if r.name == "gradio")
    assert (ROOT / told["app_file"]).is_file()
    assert told["sdk"] == "gradio"
    assert told["sdk_version"] in gradio.specifier
    assert f"{told['python_version']}.99" in PYTHONS


def test_conda_and_binder_get_the_same():
    *conda, pip = yaml.safe_load(ENVIRONMENT)["dependencies"]
    python = next(c.partition("=")[2] for c in conda if c.startswith("python="))
    assert f"{python}.99" in PYTHONS
    assert [line for line in pip["pip"] if not line.startswith("--")] == ["-e .[lessons,test]"]


def test_every_way_to_install_names_the_same_extras():
    for text in (documents.TEXT, MAKEFILE, ENVIRONMENT):
        assert ["lessons", "test"] in [
            sorted(found.split(","))
            for found in re.findall(r"(?<=\[)[a-z]+(?:,[a-z]+)+(?=\])", text)
        ]
    assert {"lessons", "test"} <= set(EXTRAS)
    assert set(re.findall(r"^EXTRAS_\w+ := \[(.*)\]$", MAKEFILE, re.MULTILINE)) == {
        "app", "docs", "lessons,test", "recipes"
    }  # fmt: skip
    told = {e for t in (*MARKDOWN_TEXTS, *LESSONS) for e in re.findall(r"copra-lab\[([\w,]+)\]", t)}
    assert {e for found in told for e in found.split(",")} <= set(EXTRAS)
    release = copra_lab.__version__.partition(".dev")[0]
    assert all(f'"copra-lab[lessons]=={release}"' in text for text in LESSONS)


def test_the_guides_name_commands_that_exist():
    targets = set(re.findall(r"^([a-z]+):", MAKEFILE, re.MULTILINE))
    quoted = "".join(re.findall(r"`[^`]*`", documents.TEXT))
    assert set(re.findall(r"\bmake ([a-z]+)\b", quoted)) <= targets
    assert set(re.findall(r"\bcl\.(\w+)", documents.TEXT)) <= set(copra_lab.__all__)


@pytest.mark.parametrize("name", MARKDOWN)
def test_links_between_files_lead_somewhere(name):
    text = re.sub(
        r"```.*?```|`[^`\n]*`", "", (ROOT / name).read_text(encoding="utf-8"), flags=re.DOTALL
    )
    targets = [
        t for t in re.findall(r"\]\(([^)\s]+)\)", text) if not re.match(r"https?:|mailto:|#", t)
    ]
    assert [t for t in targets if not ((ROOT / name).parent / t.partition("#")[0]).exists()] == []


@pytest.mark.parametrize("name", [n for n in MARKDOWN if n.startswith("docs/methods/")])
def test_a_page_of_a_method_gives_numbers_that_the_reports_have(name):
    """They are written by hand, and what ships is made anew now and then."""
    reports = "".join(
        (ROOT / r).read_text(encoding="utf-8")
        for r in ("docs/results.md", "experiments/README.md", "benchmarks/README.md")
    )
    found = (ROOT / name).read_text(encoding="utf-8").partition("## What this project found")[2]
    number = r"(?<![\d.,:/])\d+\.\d+(?!\d|\.\d)"
    given = set(re.findall(number, re.sub(r"\]\([^)]*\)", "", found)))
    assert len(given) >= 5
    assert sorted(given - set(re.findall(number, reports))) == []


def test_whoever_cites_names_the_version_and_the_papers():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert citation["cff-version"] == "1.2.0"
    assert citation["version"] == copra_lab.__version__
    assert citation["license"] == PROJECT["license"]
    assert citation["authors"] == PROJECT["authors"]
    assert citation["title"] == PROJECT["name"]
    assert citation["message"]
    assert citation["type"] == "software"
    assert f"## {copra_lab.__version__.partition('.dev')[0]}" in (ROOT / "CHANGELOG.md").read_text(
        encoding="utf-8"
    )
    papers = {paper["url"].rpartition("/")[2]: paper for paper in citation["references"]}
    for number, paper in papers.items():
        assert {"type", "title", "year"} <= set(paper)
        assert all(set(a) == {"given-names", "family-names"} for a in paper["authors"])
        assert paper["identifiers"] == [{"type": "other", "value": f"arXiv:{number}"}]
    sources = "".join(p.read_text(encoding="utf-8") for p in (ROOT / "copra_lab").rglob("*.py"))
    assert {n for n in papers if n in sources} >= {
        "2410.22911",
        "2506.05713",
        "2106.09685",
        "2405.18541",
        "2109.01134",
        "2203.12119",
    }


def test_everything_attributed_is_a_dependency():
    attribution = (ROOT / "ATTRIBUTION.md").read_text(encoding="utf-8")
    attributed = names(re.findall(r"^\| `([^`]+)` \|", attribution, re.MULTILINE))
    assert len(attributed) >= 8
    assert attributed <= names([*PROJECT["dependencies"], *whole("recipes")])


def test_importing_the_package_is_light():
    heavy = "torch gradio peft transformers matplotlib open_clip ipywidgets"
    code = f"import sys, copra_lab; print(*set('{heavy}'.split()) & set(sys.modules))"
    assert (
        subprocess.run(
            [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout.strip()
        == ""
    )


@pytest.mark.parametrize("name", copra_lab.__all__)
def test_every_public_name_is_there_and_says_what_it_is(name):
    assert getattr(copra_lab, name).__doc__
    assert name in dir(copra_lab)


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'nonsense'"):
        copra_lab.nonsense  # noqa: B018


def test_no_file_knows_the_machine_it_was_written_on_or_is_half_merged():
    machine = re.compile(r"(?<![\w.~])/(?:home|root|work|Users)/\w|^(?:<{7}|>{7}) \w")
    found = []
    for path in project_files():
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError:
            continue
        found += [
            f"{path.relative_to(ROOT)}:{i}: {line.strip()[:120]}"
            for i, line in enumerate(text.split("\n"), 1)
            if machine.search(line)
        ]
    assert found == []


def built(kind: str, folder: Path) -> Path:
    """A wheel or an sdist of the files as they are."""
    build = [sys.executable, "-m", "hatchling", "build", "-t", kind, "-d", str(folder)]
    subprocess.run(build, cwd=ROOT, capture_output=True, check=True)
    return next(folder.iterdir())


def package_files() -> set[str]:
    return {
        p.relative_to(ROOT).as_posix() for p in project_files() if ROOT / "copra_lab" in p.parents
    }


def test_the_package_has_its_types_its_page_and_its_weights():
    ends = {
        Path(name).name if "py.typed" in name else Path(name).suffix for name in package_files()
    }
    assert {"py.typed", ".css", ".json", ".safetensors", ".gz"} <= ends


@pytest.mark.slow
def test_the_wheel_holds_the_package_its_assets_and_nothing_else(tmp_path):
    with zipfile.ZipFile(built("wheel", tmp_path)) as wheel:
        inside = set(wheel.namelist())
    info = f"copra_lab-{copra_lab.__version__}.dist-info/"
    assert package_files() == {n for n in inside if not n.startswith(info)}
    assert {info + "licenses/LICENSE", info + "licenses/ATTRIBUTION.md"} <= inside


@pytest.mark.slow
def test_the_sdist_holds_what_a_wheel_is_made_of(tmp_path):
    with tarfile.open(built("sdist", tmp_path)) as archive:
        inside = {n.partition("/")[2] for n in archive.getnames()}
    assert package_files() <= inside
    assert {"pyproject.toml", "README.md", "LICENSE", "ATTRIBUTION.md", "app.py"} <= inside
