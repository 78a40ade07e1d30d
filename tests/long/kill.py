"""kill -9 at random moments: ``python tests/long/kill.py`` starts a training, a sweep, a first
rendering and exports 50 times in all, kills each with everything it started somewhere on its
way, runs the same command again, and holds what it then wrote, byte for byte, against a run that
nobody disturbed. The exit code is 1 if anything differs, or if a second run does not get
through.
"""

import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support")]

SWEEP = """clip = "{home}/clip"
methods = ["lora", "copra"]
tasks = ["{home}/colours"]
seeds = 2
[settings]
steps = 150
batch = 8
"""

RENDER = """
from copra_lab.tasks import load_task
import hashlib
task = load_task("novel-names")
print(hashlib.sha256(b"".join(s.images.numpy().tobytes() for s in (task.train, task.val, task.test))).hexdigest())
"""


@dataclass(frozen=True)
class Work:
    """A command that writes into a folder, and what has to be the same of it however often it was
    killed.
    """

    command: Callable[[Path, Path], list[str]]
    result: Callable[[Path, str], str]
    share: int


def files(folder: Path, said: str) -> str:
    """Names and bytes of all files but those that a killed run had begun, which say so in their
    names.
    """
    whole = (
        f
        for f in sorted(folder.rglob("*"))
        if f.is_file() and ".part" not in str(f.relative_to(folder))
    )
    found = {str(f.relative_to(folder)): hashlib.sha256(f.read_bytes()).hexdigest() for f in whole}
    return json.dumps(found)


def adapter(folder: Path, said: str) -> str:
    """The adapter's bytes; the curve is left out, since it may have been drawn from a checkpoint."""
    return hashlib.sha256((folder / "out" / "adapter_model.safetensors").read_bytes()).hexdigest()


def rows(folder: Path, said: str) -> str:
    """What a sweep found, but for seconds and who did it, and the bytes of all adapters."""
    columns = "key task method seed state correct n validation error settings".split()
    found = [json.loads(f.read_text()) for f in sorted((folder / "work").glob("*/outcome.json"))]
    table = [[row.get(c) for c in columns] for row in found]
    weights = [
        hashlib.sha256(f.read_bytes()).hexdigest()
        for f in sorted((folder / "work").rglob("adapter_model.safetensors"))
    ]
    return json.dumps([table, weights])


def lab(*words: object) -> list[str]:
    return [sys.executable, "-m", "copra_lab.cli", *map(str, words)]


WORKS = {
    "fit": Work(
        lambda home, at: lab(
            "fit",
            home / "colours",
            "--clip",
            home / "clip",
            "--out",
            at / "out",
            "--steps",
            400,
            "--method",
            "copra",
        ),
        adapter,
        15,
    ),
    "sweep": Work(
        lambda home, at: lab(
            "sweep", home / "sweep.toml", "--work", at / "work", "--jobs", 2, "--json"
        ),
        rows,
        12,
    ),
    "render": Work(
        lambda home, at: [sys.executable, "-c", RENDER], lambda folder, said: said.split()[-1], 11
    ),
    "export": Work(
        lambda home, at: lab(
            "export",
            home / "one",
            "--clip",
            home / "clip",
            "--out",
            at / "out",
            "--clip-out",
            at / "model",
            "--overwrite",
        ),
        files,
        6,
    ),
    "export merged": Work(
        lambda home, at: lab(
            "export",
            home / "one",
            "--clip",
            home / "clip",
            "--out",
            at / "out",
            "--merged",
            "--overwrite",
        ),
        files,
        6,
    ),
}


def prepare(home: Path) -> None:
    from tiny import random_adapter, save_clip, save_images

    from copra_lab.adapters import save_adapter

    clip = save_clip(home / "clip", layers=3)
    save_images(home / "colours", 30)
    save_adapter(random_adapter(clip, rank=2), home / "one")
    (home / "sweep.toml").write_text(SWEEP.format(home=home), encoding="utf-8")


STANDS = "choose another folder with --out, or replace it"
"""What a command says whose result stands: the one before was killed after it had written, and what
it wrote is held against the rest.
"""


def start(work: Work, home: Path, at: Path) -> subprocess.Popen:
    at.mkdir(exist_ok=True)
    # Each place renders for itself, as on a new machine.
    more = {"COPRA_LAB_CACHE": str(at / "cache"), "PYTHONPATH": str(ROOT)}
    return subprocess.Popen(
        work.command(home, at),
        env={**os.environ, **more},
        cwd=at,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


def finished(work: Work, home: Path, at: Path) -> str:
    """The result of a run that is let alone. Raises RuntimeError with its last words."""
    process = start(work, home, at)
    said, complained = process.communicate(timeout=600)
    if process.returncode and STANDS not in complained:
        raise RuntimeError(f"exit code {process.returncode}: {complained.strip()[-1500:]}")
    return work.result(at, said)


def killed(work: Work, home: Path, at: Path, seconds: float, r: random.Random) -> float:
    """Start it and kill it with all it started, somewhere in the `seconds` that it takes
    undisturbed: when that was, or 0 if it was done.
    """
    process, moment = start(work, home, at), r.uniform(0.1, 0.95) * seconds
    try:
        process.communicate(timeout=moment)
        return 0.0
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.communicate()
        return moment


def main() -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--times",
        type=int,
        default=50,
        help="how many kills, over all kinds of work (default: %(default)s)",
    )
    p.add_argument("--works", nargs="+", choices=WORKS, default=list(WORKS), help="only these")
    p.add_argument(
        "--seed", type=int, default=0, help="chooses the moments, as shares of an undisturbed run"
    )
    a = p.parse_args()
    if not hasattr(os, "killpg"):
        p.error("there is no kill -9 on this platform")
    from tqdm.auto import tqdm

    home = Path(tempfile.mkdtemp(prefix="kill-"))
    whole, bad, lines = sum(w.share for w in WORKS.values()), 0, []
    try:
        prepare(home)
        for name in a.works:
            work, times, faults = WORKS[name], max(1, round(a.times * WORKS[name].share / whole)), 0
            began = time.monotonic()
            truth = finished(work, home, home / "truth")
            seconds = time.monotonic() - began
            shutil.rmtree(home / "truth")
            for i in tqdm(range(times), desc=f"{name:13}"):
                r, at = random.Random(f"{a.seed}/{name}/{i}"), home / "case"
                while not (
                    moment := killed(work, home, at, seconds, r)
                ):  # it was quicker this time, and ended before
                    shutil.rmtree(at)
                try:
                    if (found := finished(work, home, at)) != truth:
                        raise RuntimeError(
                            f"another result:\n{found[:1500]}\nand undisturbed:\n{truth[:1500]}"
                        )
                except (RuntimeError, OSError, subprocess.TimeoutExpired) as e:
                    faults += 1
                    print(
                        f"\n{name} {i}, killed after {moment:.1f} of {seconds:.1f} s: {e}",
                        flush=True,
                    )
                shutil.rmtree(at)
            lines.append(f"| {name} | {times} | {faults} |")
            bad += faults
    finally:
        shutil.rmtree(home, ignore_errors=True)
    print(
        "\n| work | killed on its way | not finished with the same result |\n|---|---|---|\n"
        + "\n".join(lines)
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
