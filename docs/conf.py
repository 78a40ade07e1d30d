"""The web site, which needs nothing from elsewhere: ``make site``, or

    sphinx-build -W -c docs . site

Its pages are the lessons' notebooks as they lie in ``lessons/``, with the outputs that they have, a page for each method, the reference,
which is made from the docstrings, and the reports. No notebook is run.
"""

import inspect
import re
from functools import cache
from importlib import import_module
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert
from sphinx.pycode import ModuleAnalyzer

ROOT = Path(__file__).parents[1]
METHODS = ("lora", "copra", "merging", "pruning", "shapley", "prompts", "nemesis")
REFERENCE = (
    "README",
    "clip",
    "tasks",
    "adapters",
    "training",
    "bench",
    "merge",
    "prune",
    "shapley",
    "prompts",
    "peft",
    "sweeps",
    "show",
)
MENU = {
    "Lessons": [f"lessons/{p.stem}" for p in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"))],
    "Methods": [f"docs/methods/{name}" for name in METHODS],
    "Reference": [f"docs/reference/{name}" for name in REFERENCE],
    "Reports": ["experiments/README", "benchmarks/README"],
}

SHOWN = [
    m
    for name in REFERENCE
    for m in re.findall(
        r"automodule:: (\S+)", (ROOT / f"docs/reference/{name}.md").read_text(encoding="utf-8")
    )
]
"""The modules of the reference."""

project, author, copyright = "copra-lab", "copra-lab contributors", "copra-lab contributors"
extensions = ["myst_nb", "sphinx.ext.autodoc", "sphinx.ext.autosummary", "sphinx.ext.viewcode"]
root_doc = "lessons/README"
include_patterns = [
    "lessons/README.md",
    "lessons/*.ipynb",
    "docs/*/*.md",
    *(f"{r}.md" for r in MENU["Reports"]),
]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

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
    # On a phone a long equation is moved sideways, not cut.
    self.body.append(
        f'<div class="math" style="overflow-x: auto; padding: 0.5em 0">{convert(node.astext(), display="block")}</div>'
    )
    raise nodes.SkipNode


def adapted(app, docname, source):
    """A menu of every page, in order: the file itself is read on GitHub too, which has no menus. And links to files that are no
    pages, which become downloads."""
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


def listed(app, what, name, obj, options, lines):
    """Docstrings are plain text. Where one tells of ``this``: and ``that``: it becomes a list. What stands in single backticks is code,
    and leads to its own place in the reference if it has one there and is none of the arguments."""
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
    paragraphs = text.split("\n\n")
    for i, paragraph in enumerate(paragraphs):
        first, *items = re.split(
            r"(?:(?<=[.;]) |\n|^)(?=``[^`]+``(?:(?:,| and) ``[^`]+``)*: )", paragraph
        )
        if items:
            paragraphs[i] = "\n\n".join(
                filter(
                    None, [first, "\n".join("* " + item.replace("\n", "\n  ") for item in items)]
                )
            )
    lines[:] = "\n\n".join(paragraphs).split("\n")


def place_of(word, where):
    """The full name of what `word` means in the docstring of `where`: something of its own, of its class, of its module or of the
    package, or of the only module with such a name. None for what the reference does not show."""
    parts = where.split(".")
    near = [".".join([*parts[:i], word]) for i in range(len(parts), 0, -1)]
    far = [f"{m}.{word}" for m in SHOWN if is_shown(f"{m}.{word}")]
    return next(filter(is_shown, [word, *near]), far[0] if len(far) == 1 else None)


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
    """The site's address leads to the first page; and what the theme leaves out for those who use a keyboard or a screen reader."""
    if error is not None or app.builder.format != "html":
        return
    out = Path(app.outdir)
    (out / "index.html").write_text(
        '<!doctype html><html lang="en"><head><meta charset="utf-8"><title>copra-lab</title>'
        f'<meta http-equiv="refresh" content="0; url={root_doc}.html"></head><body><main><a href="{root_doc}.html">copra-lab</a></main></body></html>\n',
        encoding="utf-8",
    )
    for page in out.rglob("*.html"):
        text = old = page.read_text(encoding="utf-8")
        text = text.replace(
            ' role="heading"><span class="caption-text">',
            ' role="heading" aria-level="2"><span class="caption-text">',
        )
        # What can be moved sideways must be reachable by keys.
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
    # Browsers set MathML by themselves; Sphinx's own ways load a script from elsewhere or need LaTeX.
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    analyzer = ModuleAnalyzer.for_module(
        "copra_lab.training.fitting"
    )  # of `fit` every setting is to be seen, not what type checkers are told
    analyzer.analyze()
    analyzer.overloads.clear()
    app.connect("source-read", adapted)
    app.connect("autodoc-process-docstring", listed)
    app.connect(
        "autodoc-process-signature",
        lambda app, what, name, obj, *_: (
            ("", None) if getattr(obj, "_is_protocol", False) else None
        ),
    )
    app.connect("build-finished", begun)
