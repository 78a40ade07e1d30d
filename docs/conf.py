"""The web site, which needs nothing from elsewhere: ``make site``, or

    sphinx-build -W -c docs . site

Its pages are the lessons' notebooks with the outputs that they have (no notebook is run), the
guides under ``docs/``, a page for each method, the reference, which is made from the docstrings,
the decisions, and the reports.
"""

import inspect
import re
import sys
from functools import cache
from importlib import import_module
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.domains.python import PyObject
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[1]
GUIDES = ("usage", "cli", "tasks", "results", "limits", "architecture")
METHODS = ("lora", "copra", "merging", "pruning", "shapley", "prompts", "nemesis")
REFERENCE = (
    "README",
    "models",
    "tasks",
    "adapters",
    "methods",
    "training",
    "prompts",
    "bench",
    "merging",
    "pruning",
    "shapley",
    "peft_models",
    "sweeps",
    "plots",
    "zoo",
    "engine",
    "utils",
)
MENU = {
    "Lessons": [f"lessons/{p.stem}" for p in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"))],
    "Guides": [f"docs/{name}" for name in GUIDES],
    "Methods": [f"docs/methods/{name}" for name in METHODS],
    "Reference": [f"docs/reference/{name}" for name in REFERENCE],
    "Decisions": ["docs/decisions/README"]
    + [f"docs/decisions/{p.stem}" for p in sorted((ROOT / "docs/decisions").glob("[a-z]*.md"))],
    "Reports": ["experiments/README", "experiments/federated/README", "benchmarks/README"],
    "Project": ["CHANGELOG", "CONTRIBUTING", "SECURITY", "copra_lab/assets/clip/README"],
}

SHOWN = [
    m
    for name in REFERENCE
    for m in re.findall(
        r"automodule:: (\S+)", (ROOT / f"docs/reference/{name}.md").read_text(encoding="utf-8")
    )
]
"""The packages and modules of the reference."""

project, author, copyright = "copra-lab", "copra-lab contributors", "copra-lab contributors"
extensions = [
    "myst_nb",
    "sphinx.ext.autodoc",
    "sphinx.ext.autosummary",
    "sphinx.ext.napoleon",  # Google's docstrings
    "sphinx.ext.viewcode",
]
root_doc = "lessons/README"
include_patterns = [
    "lessons/README.md",
    "lessons/*.ipynb",
    "docs/*.md",
    "docs/*/*.md",
    *(f"{page}.md" for page in MENU["Reports"] + MENU["Project"]),
]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

napoleon_numpy_docstring = False
napoleon_use_ivar = True  # an attribute stands in its class's list, not as an entry beside it

autodoc_default_options = {"members": True}
autodoc_member_order = "bysource"
autodoc_preserve_defaults = True
autodoc_typehints_format = "short"
autodoc_inherit_docstrings = False
autosummary_generate = False
add_module_names = False
python_maximum_signature_line_length = 100
toc_object_entries_show_parents = "hide"

html_theme = "furo"
html_title = "copra-lab"
html_math_renderer = "mathml"
html_show_sphinx = False
templates_path, html_static_path = [], []


def inline(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(self, node):
    # On a phone a long equation scrolls sideways; it is not cut.
    self.body.append(
        '<div class="math" style="overflow-x: auto; padding: 0.5em '
        f'0">{convert(node.astext(), display="block")}</div>'
    )
    raise nodes.SkipNode


def adapted(app, docname, source):
    """Adds a menu of every page to the first one (the file is read on GitHub too, which has no
    menus), and makes downloads of links to files that are no pages.
    """
    source[0] = re.sub(r"\]\((exercises/\w+\.ipynb)\)", r"](path:\1)", source[0])
    if docname == root_doc:
        for caption, pages in MENU.items():
            source[0] += (
                "\n```{toctree}\n:hidden:\n:caption: "
                + caption
                + "\n"
                + "".join(f"/{p}\n" for p in pages)
                + "```\n"
            )


def linked(app, what, name, obj, options, lines):
    """Docstrings are plain text. What stands in single backticks is code, and leads to its own
    place in the reference if it has one there and is no argument. What a package imports from
    one of its modules keeps the text below its assignment there.
    """
    if what == "data":
        lines[:] = text_below(name)
    try:
        arguments = set(inspect.signature(obj).parameters)
    except (TypeError, ValueError):
        arguments = set()

    def code(found):
        word, call, glued = found.groups()
        home = None if word in arguments else place_of(word, name)
        return (f":py:obj:`{word}{call} <{home}>`" if home else f"``{word}{call}``") + (
            "\\ " if glued else ""
        )

    text = re.sub(
        r"(?<![`:])`([A-Za-z_][\w.]*)((?:\([^`]*\))?)`(?!`)(?=(\w|\()?)", code, "\n".join(lines)
    )
    text = re.sub(r"arXiv:(\d{4}\.\d{5})", r"`arXiv:\1 <https://arxiv.org/abs/\1>`__", text)
    lines[:] = text.split("\n")


def text_below(name):
    """The lines below the assignment of a constant, in whichever module of its package that is."""
    package, _, constant = name.rpartition(".")
    for module in sorted(m for m in sys.modules if f"{m}.".startswith(f"{package}.")):
        analyzer = ModuleAnalyzer.for_module(module)
        if found := analyzer.find_attr_docs().get(("", constant)):
            return found
    return []


def place_of(word, where):
    """The full name of what `word` means in the docstring of `where`: something of its own, of its
    class, of its package, or of the only package with such a name. A module inside a package is
    left out: ``copra_lab.merging.sparse.ties`` stands in the reference as
    ``copra_lab.merging.ties``. None for what the reference does not show.
    """
    parts, inside = where.split("."), word.split(".")
    near = [".".join([*parts[:i], word]) for i in range(len(parts), 0, -1)]
    outside = [".".join([*inside[:2], *inside[i:]]) for i in range(3, len(inside))]
    far = [f"{m}.{word}" for m in SHOWN if is_shown(f"{m}.{word}")]
    found = next(filter(is_shown, [word, *near, *outside]), None)
    return found or (far[0] if len(far) == 1 else None)


@cache
def is_shown(path):
    for module in SHOWN:
        if path == module:
            return True
        if path.startswith(f"{module}."):
            first, *rest = path.removeprefix(f"{module}.").split(".")
            if first in (m := import_module(module)).__all__:
                return not rest or hasattr(getattr(m, first), rest[0])
    return False


def begun(app, error):
    """The site's address leads to its first page. And what the theme leaves out for people who use
    a keyboard or a screen reader.
    """
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    (out / "index.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>copra-lab</title>'
        f'<meta http-equiv="refresh" content="0; url={root_doc}.html"></head><body><main><a '
        f'href="{root_doc}.html">copra-lab</a></main></body></html>\n',
        encoding="utf-8",
    )
    for page in out.rglob("*.html"):
        text = old = page.read_text(encoding="utf-8")
        text = text.replace(
            ' role="heading"><span class="caption-text">',
            ' role="heading" aria-level="2"><span class="caption-text">',
        )
        # What scrolls sideways must be reachable by keys.
        text = re.sub(r"<pre(?! tabindex)", '<pre tabindex="0"', text)
        text = re.sub(r'<div (?=class="(?:math|table-wrapper)\b)', '<div tabindex="0" ', text)
        # Sphinx writes the arguments of a long signature as definitions of nothing.
        text = re.sub(
            r"<dl>\n((?:<dd>.*</dd>\n)+)</dl>",
            lambda m: (
                m[1].replace("<dd>", '<div style="margin-left: 2em">').replace("</dd>", "</div>")
            ),
            text,
        )
        if text != old:
            page.write_text(text, encoding="utf-8")


def setup(app):
    # Browsers set MathML by themselves; Sphinx's own ways load a script from elsewhere or need
    # LaTeX.
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    # Of `fit` every setting is to be seen, not what type checkers are told.
    analyzer = ModuleAnalyzer.for_module(import_module("copra_lab.training").fit.__module__)
    analyzer.analyze()
    analyzer.overloads.clear()
    # Sphinx calls what a class holds "Variables".
    next(f for f in PyObject.doc_field_types if f.name == "variable").label = "Attributes"
    app.connect("source-read", adapted)
    app.connect("autodoc-process-docstring", linked)
    app.connect(
        "autodoc-process-signature",
        lambda app, what, name, obj, *_: (
            ("", None) if getattr(obj, "_is_protocol", False) else None
        ),
    )
    app.connect("build-finished", begun)
