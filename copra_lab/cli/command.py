"""What every verb has: options from flags or a file, text or JSON, errors and exit codes.

Nothing here or at the top of the verbs' modules imports torch, so that help and completion answer
at once.
"""

import difflib
import functools
import inspect
import json
import sys
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import typer

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
        document: For programs; JSON can hold it.
        text: For people.
        failed: The verb did its work and found something broken; the exit code is then 1.
    """

    document: dict[str, Any]
    text: str
    failed: bool = False


def read_config(ctx: typer.Context, file: Path | None) -> Path | None:
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
    if unknown := [k for k, v in table.items() if isinstance(v, dict) and k not in EXAMPLES]:
        raise typer.BadParameter(
            f"{file} has a table [{unknown[0]}], which is no verb; choose from "
            f"{', '.join(EXAMPLES)}"
        )
    options = {
        o.removeprefix("--"): p
        for p in ctx.command.params
        for o in (p.name or "", *p.opts)
        if not o.startswith("-") or o.startswith("--")
    }
    values: dict[str, Any] = {}
    for key, value in (
        {k: v for k, v in table.items() if not isinstance(v, dict)} | dict(table.get(verb, {}))
    ).items():
        option = options.get(key) or options.get(key.replace("_", "-"))
        if option is None or key in ("config", "help"):
            close = difflib.get_close_matches(key, options, 1)
            raise typer.BadParameter(
                f"{file} sets {key!r}, which {verb} does not know"
                + (f"; did you mean {close[0]!r}?" if close else "")
            )
        many = getattr(option, "multiple", False) or option.nargs != 1
        values[option.name or ""] = (
            ",".join(map(str, value)) if isinstance(value, list) and not many else value
        )
    ctx.default_map = {**(ctx.default_map or {}), **values}
    return file


@dataclass(frozen=True)
class Group:
    """Options that several verbs have, or that belong together: one argument of a verb's function.

    A verb takes it as ``settings: Annotated[Any, Group.of(function)]``; `make` turns the values of
    the options, by name, into what the verb works with.
    """

    parameters: tuple[inspect.Parameter, ...]
    make: Callable[..., Any]

    @classmethod
    def of(cls, make: Callable[..., Any]) -> "Group":
        """The options that a function has as parameters."""
        return cls(tuple(inspect.signature(make, eval_str=True).parameters.values()), make)


def _groups(signature: inspect.Signature) -> dict[str, Group]:
    return {
        name: found
        for name, p in signature.parameters.items()
        for found in getattr(p.annotation, "__metadata__", ())
        if isinstance(found, Group)
    }


_COMMON = {
    "config": Annotated[
        Path | None,
        typer.Option(
            help="A TOML file with options, at its top or in a table named like the verb; flags "
            "win.",
            callback=read_config,
            is_eager=True,
        ),
    ],
    "json_": Annotated[
        bool,
        typer.Option("--json", help="Print one JSON document; progress goes to standard error."),
    ],
    "debug": Annotated[bool, typer.Option("--debug", help="Show the traceback of an error.")],
}


def verb(
    example: str, name: str = "", **settings: Any
) -> Callable[[Callable[..., Report]], Callable[..., Report]]:
    """Make a function a verb of the command line.

    The function may raise anything: a usage error (typer.BadParameter) ends with code 2, any other
    error with its sentence and code 1.

    Args:
        example: A command that the verb's help shows.
        name: The verb's name; the function's by default.
        **settings: What `typer.Typer.command` takes.
    """

    def register(work: Callable[..., Report]) -> Callable[..., Report]:
        called = name or work.__name__
        EXAMPLES[called] = example
        signature = inspect.signature(work, eval_str=True)
        groups = _groups(signature)

        @functools.wraps(work)
        def command(*, config: Path | None, json_: bool, debug: bool, **options: Any) -> None:
            try:
                with (
                    redirect_stdout(sys.stderr),
                    _plain_warnings(),
                ):  # engines and libraries chat; standard output is the answer's
                    for argument, group in groups.items():
                        values = {p.name: options.pop(p.name) for p in group.parameters}
                        options[argument] = group.make(**values)
                    report = work(**options)
            except (typer.BadParameter, typer.Exit, typer.Abort):
                raise
            except KeyboardInterrupt:
                typer.echo(f"copra-lab {called}: interrupted", err=True)
                raise typer.Exit(130) from None
            except Exception as e:
                if debug:
                    raise
                sentence = _sentence(e)
                typer.echo(f"copra-lab {called}: {sentence}", err=True)
                if json_:
                    typer.echo(json.dumps({"error": sentence}, ensure_ascii=False))
                raise typer.Exit(1) from None
            typer.echo(
                json.dumps(report.document, ensure_ascii=False, default=str)
                if json_
                else report.text
            )
            if report.failed:
                raise typer.Exit(1)

        command.__signature__ = _flat_signature(signature, groups)  # type: ignore[attr-defined]
        app.command(called, epilog=f"Example: {example}", **settings)(command)
        return work

    return register


def _flat_signature(signature: inspect.Signature, groups: dict[str, Group]) -> inspect.Signature:
    """A verb's parameters with every group spelled out, and those that all verbs have."""
    parameters = [
        q.replace(kind=inspect.Parameter.KEYWORD_ONLY)
        for name, p in signature.parameters.items()
        for q in (groups[name].parameters if name in groups else (p,))
    ]
    common = [
        inspect.Parameter(
            n,
            inspect.Parameter.KEYWORD_ONLY,
            annotation=a,
            default=None if n == "config" else False,
        )
        for n, a in _COMMON.items()
    ]
    return signature.replace(parameters=[*parameters, *common], return_annotation=None)


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
