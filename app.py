"""The page: put your hands into a fine-tuned CLIP. ``python app.py --help`` lists its options."""

import argparse
import os
import sys
import threading
from pathlib import Path

from copra_lab.page import build, launch
from copra_lab.page.lab import Lab
from copra_lab.shipped import FOLDER

demo = build()


def main() -> None:
    parser = argparse.ArgumentParser(
        prog="app.py", description="Opens a page on which you blend and prune fine-tuned CLIPs, bend their prompts, and watch their accuracy."
    )
    parser.add_argument("--port", type=int, help="port to serve on (default: $GRADIO_SERVER_PORT, or the first free one from 7860)")
    parser.add_argument("--host", help="address to serve on (default: $GRADIO_SERVER_NAME, or 127.0.0.1: this computer alone)")
    parser.add_argument("--no-browser", action="store_true", help="do not open a browser")
    parser.add_argument(
        "--adapters", type=Path, action="append", default=[], metavar="FOLDER", help="more adapters, as FOLDER/task/label/; can be repeated"
    )
    parser.add_argument(
        "--precision", choices=("auto", "float32", "bfloat16"), default="auto", help="arithmetic of the bench (default: %(default)s, the faster one)"
    )
    parser.add_argument(
        "--model", metavar="NAME", help="another CLIP than the bundled one, as load_clip takes it; give adapters made from it with --adapters"
    )
    args = parser.parse_args()
    if missing := [str(folder) for folder in args.adapters if not folder.is_dir()]:
        parser.error(f"no folder {missing[0]}")
    lab = Lab((FOLDER, *args.adapters), args.precision, model=args.model)
    if args.model:
        check(lab, parser)
    page = build(lab) if args.adapters or args.model or args.precision != "auto" else demo
    # Wake the first task while the server starts; a first rendering of the drawings shows its progress here.
    threading.Thread(target=wake, args=(lab,), daemon=True).start()
    quiet = args.no_browser or "SPACE_ID" in os.environ
    try:
        _, url, _ = launch(page, server_name=args.host, server_port=args.port, inbrowser=not quiet)
    except OSError as e:
        parser.exit(1, f"The page could not be served: {e}\nChoose another port with --port, or another address with --host.\n")
    print(f"copra-lab is open at {url} (Ctrl+C closes it)", flush=True)
    page.block_thread()


def check(lab: Lab, parser: argparse.ArgumentParser) -> None:
    """Ends the program, in a sentence, where the model cannot be loaded or no adapter was made from it."""
    try:
        clip = lab.clip
    except (OSError, ValueError) as e:
        parser.error(str(e))
    if not lab.tasks():
        parser.error(
            f"no adapter was made from {clip.name} (weights {clip.hash}); make one with copra_lab.fit, save it as FOLDER/task/label, "
            "where task is the name of one of copra-lab's, and give --adapters FOLDER"
        )


def wake(lab: Lab) -> None:
    try:
        lab.bench(next(iter(lab.tasks())))
    except (OSError, ValueError) as e:  # the page says it too, to each visitor
        print(f"The first task could not be prepared: {e}", file=sys.stderr)


if __name__ == "__main__":
    main()
