"""Serving the page: ``python app.py`` and ``copra-lab app``."""

import argparse
import os
import sys
import threading
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path

import gradio as gr

from copra_lab.page import build, launch
from copra_lab.page.state.lab import Lab
from copra_lab.utils.extras import sentence
from copra_lab.zoo import FOLDER


def main(
    arguments: Sequence[str] | None = None,
    prog: str = "app.py",
    page: gr.Blocks | None = None,
    example: str = "",
) -> None:
    """Serve until interrupted.

    ``arguments``: of the command line, if not this process's own; ``page``: one that is built
    already, over the lab as it is without options; ``example``: a command for the help.
    """
    parser = _parser(prog, example)
    args = parser.parse_args(arguments)
    if missing := [str(folder) for folder in args.adapters if not folder.is_dir()]:
        parser.error(f"no folder {missing[0]}")
    if args.mcp and not find_spec("mcp"):
        parser.error(sentence("mcp", "mcp"))
    lab = Lab((FOLDER, *args.adapters), args.precision, clip_name=args.clip)
    if args.clip:
        check(lab, parser)
    if page is None or args.adapters or args.clip or args.precision != "auto":
        page = build(lab)
    # Wake the first task while the server starts, in a thread of its own; a first rendering of the
    # drawings shows its progress here.
    threading.Thread(target=wake, args=(lab,), daemon=True).start()
    hosted = "SPACE_ID" in os.environ
    mcp = args.mcp or (hosted and find_spec("mcp") is not None)  # a Space comes with it
    try:
        _, url, _ = launch(
            page,
            server_name=args.host,
            server_port=args.port,
            inbrowser=not (args.no_browser or hosted),
            mcp_server=mcp or None,
        )
    except OSError as e:
        parser.exit(
            1,
            f"The page could not be served: {e}\nChoose another port with --port, or another "
            "address with --host.\n",
        )
    print(f"copra-lab is open at {url} (Ctrl+C closes it)", flush=True)
    if mcp:
        print(page.mcp_error or f"Its tools are at {url}gradio_api/mcp/", flush=True)
    page.block_thread()


def _parser(prog: str, example: str) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=prog,
        description="Opens a page on which you blend and prune fine-tuned CLIPs, bend their "
        "prompts, and watch their accuracy.",
        epilog=f"Example: {example}" if example else None,
    )
    parser.add_argument(
        "--port",
        type=int,
        help="port to serve on (default: $GRADIO_SERVER_PORT, or the first free one from 7860)",
    )
    parser.add_argument(
        "--host",
        help="address to serve on (default: $GRADIO_SERVER_NAME, or 127.0.0.1: this computer "
        "alone)",
    )
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--adapters",
        type=Path,
        action="append",
        default=[],
        metavar="FOLDER",
        help="more adapters, as FOLDER/task/label/; can be repeated",
    )
    parser.add_argument(
        "--precision",
        choices=("auto", "float32", "bfloat16"),
        default="auto",
        help="arithmetic of the bench (default: %(default)s, the faster one)",
    )
    parser.add_argument(
        "--clip",
        "--model",
        metavar="NAME",
        help="the CLIP, as load_clip takes it (default: the bundled one); give adapters made from "
        "it with --adapters",
    )
    parser.add_argument(
        "--mcp",
        action="store_true",
        help="let assistants use what the page measures, too, as tools (Model Context Protocol)",
    )
    return parser


def check(lab: Lab, parser: argparse.ArgumentParser) -> None:
    """End the program, with a sentence, if there is no model or no adapter of it."""
    try:
        clip = lab.clip
    except (OSError, ValueError) as e:
        parser.error(str(e))
    if not lab.tasks():
        parser.error(
            f"no adapter was made from {clip.name} (weights {clip.hash}); make one with "
            "copra_lab.fit, save it as FOLDER/task/label, "
            "where task is the name of one of copra-lab's, and give --adapters FOLDER"
        )


def wake(lab: Lab) -> None:
    """Prepare the first task, so that the first visitor does not wait for it."""
    try:
        lab.bench(next(iter(lab.tasks())))
    except (OSError, ValueError) as e:  # the page says it too, to each visitor
        print(f"The first task could not be prepared: {e}", file=sys.stderr)
