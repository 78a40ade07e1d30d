"""The base is enough for adapters of any model, and whoever lacks an extra is told its name in one
sentence.
"""

import ast
import json
import os
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from functools import cache
from importlib.metadata import (
    PackageNotFoundError,
    distributions,
    packages_distributions,
    requires,
)
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from copra_lab.utils.extras import EXTRAS, MissingExtra, needs

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]

ASKS = {
    "app": "import copra_lab.page",
    "benchmarks": "from copra_lab.tasks.benchmark_layouts import _matlab; _matlab(Path('labels.mat'))",
    "clip": "copra_lab.load_clip()",
    "dask": "from copra_lab.sweeps.engines import engine; engine('dask', 1, None).__enter__()",
    "drawings": "copra_lab.load_task('novel-kinds')",
    "lessons": "import copra_lab.plots.widgets",
    "mcp": "import copra_lab.page.serve as s; s.main(['--mcp', '--no-browser'])",
    "parquet": "from copra_lab.sweeps import results; results.export([{'settings': {}}], Path('a.parquet'))",
    "plots": "import copra_lab.plots",
    "ray": "from copra_lab.sweeps.engines import engine; engine('ray', 1, None).__enter__()",
    "sweeps": "from copra_lab.sweeps import run_all; run_all([], Path('work'))",
}
"""Extra → code that needs it."""

COMMANDS = {
    "app": ["app", "--no-browser"],
    "clip": ["fit", "digits", "-o", "out"],
    "drawings": ["fit", "digits", "-o", "out"],
    "plots": ["fit", "digits", "-o", "out", "--figure", "loss.png"],
}
"""Extra → a command line that needs it."""


def brought(requirements: list[str]) -> set[str]:
    """The distributions that are installed for these requirements, and for what they require in
    turn.
    """
    extras = PROJECT["optional-dependencies"].items()
    told = [*PROJECT["dependencies"], *(f'{r}; extra == "{e}"' for e, rs in extras for r in rs)]
    found, todo = set(), [Requirement(r) for r in requirements]
    while todo:
        r = todo.pop()
        key = canonicalize_name(r.name)
        if (key, *r.extras) in found:
            continue
        found.add((key, *r.extras))
        try:
            more = map(Requirement, told if key == PROJECT["name"] else requires(key) or [])
        except PackageNotFoundError:  # Ray, say, which is not installed to test
            continue
        todo += [
            m
            for m in more
            if not m.marker or any(m.marker.evaluate({"extra": e}) for e in ("", *r.extras))
        ]
    return {key for key, *_ in found}


def own(extra: str) -> set[str]:
    """The distributions that an extra names itself; of another package's extra, what that adds to
    the package.
    """
    found = set()
    for r in map(Requirement, PROJECT["optional-dependencies"][extra]):
        if r.name != PROJECT["name"]:
            found |= (
                brought([str(r)]) - brought([r.name]) if r.extras else {canonicalize_name(r.name)}
            )
    return found


@cache
def tops() -> dict[str, set[str]]:
    """Module at the top → the distributions that have it, in half a second."""
    return {m: set(map(canonicalize_name, of)) for m, of in packages_distributions().items()}


def modules(of: set[str]) -> list[str]:
    """What Python imports from distributions, by names at the top."""
    return sorted(module for module, theirs in tops().items() if theirs <= of)


@pytest.fixture(scope="module")
def hidden() -> dict[str, list[str]]:
    """By extra, the modules that it brings; and by "all", what an environment with the base alone
    has not.
    """
    base = brought(PROJECT["dependencies"]) | {"pip", "setuptools", PROJECT["name"]}
    every = {canonicalize_name(d.name) for d in distributions()}
    return {"all": modules(every - base)} | {e: modules(own(e) - base) for e in EXTRAS}


def python(code: str, cwd: Path) -> str:
    """What `code` prints in a process of its own that finds the tests' helpers."""
    path = os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))
    ran = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        cwd=cwd, env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_every_extra_is_one_that_code_asks_for_or_one_for_developers():
    assert set(ASKS) == set(EXTRAS)
    assert set(PROJECT["optional-dependencies"]) == set(EXTRAS) | {
        "all", "docs", "recipes", "shapiq", "test"
    }  # fmt: skip


def test_the_base_is_small():
    assert len(PROJECT["dependencies"]) <= 14


def test_an_extra_names_what_the_base_has_not():
    def names(requirements: list[str]) -> set[str]:
        return {canonicalize_name(Requirement(r).name) for r in requirements} - {PROJECT["name"]}

    of_users = {e: names(r) for e, r in PROJECT["optional-dependencies"].items() if e in EXTRAS}
    for extra, found in of_users.items():
        assert not found & names(PROJECT["dependencies"]), extra


def imported(node: ast.AST, under: str = "") -> Iterator[tuple[str, str]]:
    """What a module imports, by its name at the top, and the extra under whose `needs` it does."""
    match node:
        case ast.With(items=[ast.withitem(ast.Call(ast.Name("needs"), [ast.Constant(extra), *_]))]):
            under = extra
        case ast.If(test=ast.Name("TYPE_CHECKING")):
            return
        case ast.Import():
            yield from ((a.name.partition(".")[0], under) for a in node.names)
        case ast.ImportFrom():
            yield str(node.module).partition(".")[0], under
    for child in ast.iter_child_nodes(node):
        yield from imported(child, under)


@pytest.mark.slow
def test_what_an_extra_brings_is_imported_where_its_name_is_said(hidden):
    """The page's and the plots' packages say it for all their modules."""
    whole = {"copra_lab/page": "app", "copra_lab/plots": "plots"}
    brings = {e: set(modules(brought(PROJECT["optional-dependencies"][e]))) for e in EXTRAS}
    wrong, found = [], 0
    for file in sorted((ROOT / "copra_lab").rglob("*.py")):
        name = file.relative_to(ROOT).as_posix()
        at_once = {e for folder, e in whole.items() if name.startswith(folder)}
        for module, under in imported(ast.parse(file.read_text(encoding="utf-8"))):
            if module in hidden["all"]:
                found += 1
                if not any(module in brings[e] for e in {under, *at_once} - {""}):
                    wrong.append(f"{name}: {module}")
    assert wrong == []
    assert found > 20


@pytest.mark.slow
def test_the_base_alone_imports_all_but_the_page_and_the_plots(tmp_path, hidden):
    code = f"""
from hiding import hide
hide({hidden["all"]})
import pkgutil, sys
from importlib import import_module
import copra_lab
apart = ("copra_lab.page", "copra_lab.plots")
for found in pkgutil.walk_packages(copra_lab.__path__, "copra_lab.", onerror=lambda name: None):
    if not found.name.startswith(apart) and not found.name.endswith("__main__"):
        import_module(found.name)
print(sorted(m for m in {hidden["all"]} if m in sys.modules))
"""
    assert python(code, tmp_path) == "[]\n"


@pytest.mark.slow
def test_the_base_alone_trains_merges_prunes_and_explains(tmp_path, hidden):
    script = ROOT / "tests" / "support" / "base_alone.py"
    code = f"from hiding import hide; hide({hidden['all']}); import runpy; runpy.run_path({str(script)!r})"
    assert python(code, tmp_path).startswith("values of the layers:")


@pytest.mark.slow
def test_whoever_lacks_an_extra_reads_one_sentence_that_names_it(tmp_path, hidden):
    code = f"""
import contextlib, io, json, sys
from pathlib import Path
from hiding import hide
import copra_lab
from copra_lab.cli import app
from typer.testing import CliRunner
said = {{}}
for extra, ask in {ASKS}.items():
    hide({hidden}[extra])
    for name in [n for n in sys.modules if n.startswith(("copra_lab.page", "copra_lab.plots"))]:
        del sys.modules[name]
    with contextlib.redirect_stderr(io.StringIO()) as errors:
        try:
            exec(ask)
        except ImportError as e:
            errors.write(str(e))
        except SystemExit:
            pass
    said[extra] = errors.getvalue()
for extra, arguments in {COMMANDS}.items():
    hide({hidden}[extra])
    for name in [n for n in sys.modules if n.startswith(("copra_lab.page", "copra_lab.plots"))]:
        del sys.modules[name]
    ran = CliRunner().invoke(app, arguments)
    said["copra-lab " + extra] = ran.stderr if ran.exit_code in (1, 2) else repr(ran)
print(json.dumps(said))
"""
    said = json.loads(python(code, tmp_path).splitlines()[-1])
    assert len(said) == len(ASKS) + len(COMMANDS)
    for key, words in said.items():
        extra = key.rpartition(" ")[2]
        told = " ".join(words.replace("│", " ").split())
        assert f'pip install "copra-lab[{extra}]"' in told, (key, words)
        assert "Traceback" not in words
        if key in ASKS and key != "mcp":  # which argparse says, under its usage
            assert "\n" not in words


def test_the_script_of_the_page_says_so_too(tmp_path, hidden):
    code = f"from hiding import hide; hide({hidden['app']}); import runpy; runpy.run_path({str(ROOT / 'app.py')!r})"
    ran = subprocess.run(
        [sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True, check=False,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, (ROOT, ROOT / "tests" / "support")))},
    )  # fmt: skip
    assert ran.returncode == 1
    assert (
        ran.stderr
        == 'The page needs gradio, which is not installed: pip install "copra-lab[app]"\n'
    )


def test_other_import_errors_stay_what_they_are():
    with pytest.raises(ModuleNotFoundError, match="nowhere") as missing, needs("app"):
        import copra_lab.nowhere  # noqa: F401
    assert not isinstance(missing.value, MissingExtra)
    with pytest.raises(ImportError, match="cannot import name") as wrong, needs("app"):
        from json import nothing  # noqa: F401
    assert not isinstance(wrong.value, MissingExtra)


def test_the_sentence_may_name_another_way():
    with pytest.raises(MissingExtra) as missing, needs("parquet", instead="write a .csv"):
        import no_such_package  # noqa: F401
    assert missing.value.name == "no_such_package"
    assert str(missing.value) == (
        "A table in Parquet needs no_such_package, which is not installed: "
        'pip install "copra-lab[parquet]", or write a .csv'
    )
