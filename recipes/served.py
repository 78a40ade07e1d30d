"""The page in a separate process, for scripts that look at it from outside."""

import socket
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import IO

ROOT = Path(__file__).parents[1]
PATIENCE = 300
"""Seconds that the page may take to start."""


@contextmanager
def served(*options: str, log: IO[bytes] | None = None) -> Iterator[tuple[str, int]]:
    """Start ``app.py`` with `options` on a free port; returns its address and process id.

    It waits until the page answers. The output goes to `log`; if the page does not start, this
    exits with that output.
    """
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    command = [
        sys.executable,
        str(ROOT / "app.py"),
        "--no-browser",
        "--host",
        "127.0.0.1",
        "--port",
        str(port),
        *options,
    ]
    with nullcontext(log) if log else tempfile.TemporaryFile() as said:
        app = subprocess.Popen(command, cwd=ROOT, stdout=said, stderr=subprocess.STDOUT)
        try:
            url, deadline = f"http://127.0.0.1:{port}", time.monotonic() + PATIENCE
            while True:
                try:
                    urllib.request.urlopen(f"{url}/config", timeout=5).close()
                    break
                except OSError:  # those of urllib are
                    if app.poll() is not None or time.monotonic() > deadline:
                        said.seek(0)
                        sys.exit(f"the page did not start:\n{said.read().decode(errors='replace')}")
                    time.sleep(0.1)
            yield url, app.pid
        finally:
            app.terminate()
            app.wait(30)
