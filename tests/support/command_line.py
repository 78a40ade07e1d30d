"""The command line, run in this process."""

import json

from typer.testing import CliRunner

from copra_lab.cli import app


def run(*arguments: object, code: int = 0):
    result = CliRunner().invoke(app, [str(a) for a in arguments])
    assert result.exit_code == code, result.output
    assert "Traceback" not in result.output
    return result


def told(*arguments: object) -> dict:
    """What a verb prints with ``--json``: one document and nothing else."""
    return json.loads(run(*arguments, "--json").stdout)
