"""``copra-lab app``: the page."""

import typer

from copra_lab.cli.command import EXAMPLES, app

EXAMPLES["app"] = "copra-lab app --no-browser --port 8000"


@app.command(
    "app",
    add_help_option=False,
    context_settings={"allow_extra_args": True, "ignore_unknown_options": True},
)
def page(ctx: typer.Context) -> None:
    """Open the page. copra-lab app --help lists its options, which are those of python app.py."""
    from copra_lab.utils.extras import MissingExtra

    try:
        from copra_lab.page.serve import main
    except MissingExtra as e:
        typer.echo(f"copra-lab app: {e}", err=True)
        raise typer.Exit(1) from None

    main(ctx.args, prog="copra-lab app", example=EXAMPLES["app"])
