"""The lessons as a web site that needs nothing from elsewhere: ``make site``, or

sphinx-build -W -c docs . site

Its pages are the notebooks as they lie in ``lessons/``, with the outputs that they have, and the reports; nothing is run.
"""

import re
from pathlib import Path

from docutils import nodes
from latex2mathml.converter import convert

ROOT = Path(__file__).parents[1]
REPORTS = ("experiments/README", "benchmarks/README")

project, author, copyright = "copra-lab", "copra-lab contributors", "copra-lab contributors"
extensions = ["myst_nb"]
root_doc = "lessons/README"
include_patterns = ["lessons/README.md", "lessons/*.ipynb", *(f"{r}.md" for r in REPORTS)]
nb_execution_mode = "off"
nb_merge_streams = True
myst_enable_extensions = ["dollarmath"]
myst_heading_anchors = 3

html_theme = "furo"
html_title = "copra-lab"
html_math_renderer = "mathml"
html_show_sphinx = False
templates_path, html_static_path = [], []


def inline(self, node):
    self.body.append(convert(node.astext()))
    raise nodes.SkipNode


def block(self, node):
    self.body.append(f'<div class="math">{convert(node.astext(), display="block")}</div>')
    raise nodes.SkipNode


def adapted(app, docname, source):
    """A menu of every page, in order: the file itself is read on GitHub too, which has no menus. And links to files that are no
    pages, which become downloads."""
    source[0] = re.sub(r"\]\((exercises/\w+\.ipynb)\)", r"](path:\1)", source[0])
    if docname == root_doc:
        pages = [f"/lessons/{p.stem}" for p in sorted((ROOT / "lessons").glob("[0-9][0-9]_*.ipynb"))]
        pages += [f"/{r}" for r in REPORTS if (ROOT / f"{r}.md").exists()]
        source[0] += "\n```{toctree}\n:hidden:\n" + "\n".join(pages) + "\n```\n"


def begun(app, error):
    """The site's address leads to the first page."""
    if error is None and app.builder.format == "html":
        (Path(app.outdir) / "index.html").write_text(f'<meta http-equiv="refresh" content="0; url={root_doc}.html">\n', encoding="utf-8")


def setup(app):
    # Browsers set MathML by themselves; Sphinx's own ways load a script from elsewhere or need LaTeX.
    app.add_html_math_renderer("mathml", (inline, None), (block, None))
    app.connect("source-read", adapted)
    app.connect("build-finished", begun)
