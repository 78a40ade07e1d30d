"""The command line: ``copra-lab VERB``, each verb a thin view of the library's functions.

``copra-lab --help`` lists them.
"""

from copra_lab.cli import training, measuring, merging, converting, sweeping, serve, doctor  # noqa: F401, I001 (help lists them in this order)
from copra_lab.cli.command import EXAMPLES, app

__all__ = ["EXAMPLES", "app", "main"]


def main() -> None:
    """What ``copra-lab`` runs."""
    app(prog_name="copra-lab")
