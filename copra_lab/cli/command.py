"""What every verb has: options from flags or a file, text or JSON, errors and exit codes.

Nothing here or at the top of the verbs' modules imports torch, so that help and completion answer
at once.
"""

import functools
import inspect
import json
import re
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from copy import copy
from dataclasses import dataclass, is_dataclass
from pathlib import Path
from typing import Annotated, Any, get_args, get_origin

import typer

from copra_lab.utils.checks import spelling_hint

app = typer.Typer(
    name="copra-lab",
    help="Fine-tunes CLIPs, and merges, prunes and explains what they learned.",
    epilog="Exit codes: 0 done, 1 the work failed (one sentence says why), 2 wrong usage, 130 "
    "interrupted. copra-lab VERB --help shows an example.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["--help", "-h"]},
)

EXAMPLES: dict[str, str] = {}
"""By verb, the command that its help shows."""


@dataclass(frozen=True)
class Report:
    """What a verb found.

    Args:
        document: For programs; JSON can hold it. The verb's name is added to it.
        text: For people.
        failed: The verb did its work and found something broken; the exit code is then 1.
    """

    document: dict[str, Any]
    text: str
    failed: bool = False


def _read_config(ctx: typer.Context, file: Path | None) -> Path | None:
    """Take from a TOML file what no flag sets.

    Raises:
        typer.BadParameter: For a file that cannot be read, or with a name that is no option.
    """
    if file is None or ctx.resilient_parsing:
        return file
    try:
        table = tomllib.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as e:
        raise typer.BadParameter(f"{file} is not a readable TOML file ({e})") from e
    verb = str(ctx.info_name)
    tables = {k: v for k, v in table.items() if isinstance(v, dict)}
    if unknown := [k for k in tables if k not in EXAMPLES]:
        raise typer.BadParameter(
            f"{file} has a table [{unknown[0]}], which is no verb; choose from "
            f"{', '.join(EXAMPLES)}"
        )
    options = {
        o.removeprefix("--"): p
        for p in ctx.command.params
        for o in (p.name or "", *p.opts)
        if o.startswith("--") or not o.startswith("-")
    }
    at_top = {k: v for k, v in table.items() if k not in tables}
    values: dict[str, Any] = {}
    for key, value in (at_top | tables.get(verb, {})).items():
        option = options.get(key) or options.get(key.replace("_", "-"))
        if option is None or key in ("config", "help"):
            hint = spelling_hint(key, options)
            raise typer.BadParameter(f"{file} sets {key!r}, which {verb} does not know{hint}")
        if isinstance(value, list) and not getattr(option, "multiple", False) and option.nargs == 1:
            value = ",".join(map(str, value))
        values[option.name or ""] = value
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return file


@dataclass(frozen=True)
class _Common:
    """The options of every verb.

    Args:
        config: A TOML file with options, at its top or in a table named like the verb; flags win.
        json_: Print one JSON document; progress goes to standard error.
        debug: Show the traceback of an error.
    """

    config: Annotated[Path | None, typer.Option(callback=_read_config, is_eager=True)] = None
    json_: Annotated[bool, typer.Option("--json")] = False
    debug: Annotated[bool, typer.Option("--debug")] = False


def _parameters(group: type) -> list[inspect.Parameter]:
    """The fields of a dataclass as options, with what its docstring says of each as help."""
    docs = "\n".join(inspect.cleandoc(c.__doc__ or "") for c in reversed(group.__mro__))
    entries = re.findall(r"^    (\w+): (.+(?:\n {5,}.+)*)", docs, re.MULTILINE)
    helps = {name: " ".join(text.split()) for name, text in entries}
    parameters = []
    for p in inspect.signature(group).parameters.values():
        annotated = p.annotation if get_origin(p.annotation) is Annotated else None
        kind, option = get_args(annotated) or (p.annotation, typer.Option())
        option = copy(option)
        option.help = option.help or helps[p.name]
        parameters.append(p.replace(kind=p.KEYWORD_ONLY, annotation=Annotated[kind, option]))
    return parameters


def verb(example: str, name: str = "") -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Make a function a verb of the command line.

    A parameter whose type is a dataclass stands for a group of options, the dataclass's fields:
    several verbs have them, or they belong together.

    The function may raise anything: a usage error (typer.BadParameter) ends with code 2, any other
    error with its sentence and code 1.

    Args:
        example: A command that the verb's help shows.
        name: The verb's name; the function's by default.
    """

    def register(work: Callable[..., Report]) -> Callable[..., Report]:
        called = name or work.__name__
        EXAMPLES[called] = example
        taken = inspect.signature(work).parameters
        groups: dict[str, Any] = {
            n: p.annotation for n, p in taken.items() if is_dataclass(p.annotation)
        }
        options = {n: _parameters(group) for n, group in groups.items()}
        common_options = _parameters(_Common)

        @functools.wraps(work)
        def command(**values: Any) -> None:
            def taken_from(parameters: list[inspect.Parameter]) -> dict[str, Any]:
                return {p.name: values.pop(p.name) for p in parameters}

            common = _Common(**taken_from(common_options))
            try:
                # engines and libraries chat; standard output is the answer's
                with redirect_stdout(sys.stderr), _plain_warnings():
                    made = {n: group(**taken_from(options[n])) for n, group in groups.items()}
                    report = work(**made, **values)
            except (typer.BadParameter, typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt:
                typer.echo(f"copra-lab {called}: interrupted", err=True)
                raise typer.Exit(130) from None
            except Exception as e:
                if common.debug:
                    raise
                sentence = _sentence(e)
                typer.echo(f"copra-lab {called}: {sentence}", err=True)
                if common.json_:
                    typer.echo(json.dumps({"error": sentence}, ensure_ascii=False))
                raise typer.Exit(1) from None
            document = {"verb": called} | report.document
            as_json = json.dumps(document, ensure_ascii=False, default=str)
            typer.echo(as_json if common.json_ else report.text)
            if report.failed:
                raise typer.Exit(1)

        flat = [q for n, p in taken.items() for q in options.get(n, [p])] + common_options
        keyword_only = [p.replace(kind=p.KEYWORD_ONLY) for p in flat]
        command.__signature__ = inspect.Signature(keyword_only)  # type: ignore[attr-defined]
        app.command(called, epilog=f"Example: {example}")(command)
        return work

    return register


@contextmanager
def _plain_warnings() -> Iterator[None]:
    """Show the library's warnings as plain sentences, without the line of code."""

    def show(message: Warning | str, category: type[Warning], *where: Any, **more: Any) -> None:
        if category is UserWarning:
            typer.echo(f"warning: {' '.join(str(message).split())}", err=True)
        else:
            shown_before(message, category, *where, **more)

    with warnings.catch_warnings():
        shown_before, warnings.showwarning = warnings.showwarning, show
        yield


def _sentence(e: Exception) -> str:
    said = " ".join(str(e).split())
    if said and isinstance(
        e, ValueError | OSError | ImportError
    ):  # what is raised on purpose says it all
        return said
    return f"{type(e).__name__}{f': {said}' if said else ''} (--debug shows where)"
