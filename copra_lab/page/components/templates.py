"""HTML that does not depend on numbers: files in ``templates/``, whose values are escaped."""

from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

TEMPLATES = Path(__file__).parents[1] / "templates"

_templates = Environment(
    loader=FileSystemLoader(TEMPLATES),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def render(name: str, /, **values: Any) -> str:
    """The HTML of ``templates/name.html``.

    Values are escaped, but for those that are `markupsafe.Markup`.
    """
    return _templates.get_template(f"{name}.html").render(**values)
