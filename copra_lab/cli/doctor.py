"""``copra-lab doctor``: is everything there, and what to do about what is not."""

import os
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass

from copra_lab.cli import arguments
from copra_lab.cli.command import Report, verb
from copra_lab.utils.files import cache_folder

OK, WARN, BROKEN = "ok", "warn", "broken"
NEEDED = ("torch", "transformers", "peft", "accelerate", "huggingface_hub", "safetensors")
OPTIONAL = {
    "gradio": "app",
    "open_clip_torch": "clip",
    "resvg_py": "drawings",
    "matplotlib": "plots",
    "scipy": "benchmarks",
    "joblib": "sweeps",
    "ray": "ray",
    "distributed": "dask",
    "pyarrow": "parquet",
}
"""Package → the extra that brings it."""

HUB = ("huggingface.co", 443)

REINSTALL = "install copra-lab anew"


@dataclass(frozen=True)
class Check:
    """One line of the report.

    Args:
        name: What was checked.
        state: ok, warn (something is missing that not everybody needs) or broken.
        found: What was found.
        fix: What to do about it.
    """

    name: str
    state: str
    found: str
    fix: str = ""


@verb("copra-lab doctor")
def doctor(clip: arguments.ClipName = None) -> Report:
    """Check the installation.

    Versions, processor, cache, network, the bundled CLIP and its adapters.
    """
    checks: list[Check] = []
    for look in (_packages, _extras, _processor, _cache, _network, _model):
        checks += _safely(look, clip)
    document = {"checks": [asdict(c) for c in checks]}
    lines = [
        f"{c.name:<16} {c.state:<6} {c.found}" + (f"\n{'':<24}→ {c.fix}" if c.fix else "")
        for c in checks
    ]
    return Report(document, "\n".join(lines), failed=any(c.state == BROKEN for c in checks))


def _safely(look: Callable[[str | None], Iterator[Check]], clip: str | None) -> Iterator[Check]:
    """What a look finds; if it fails, that."""
    from copra_lab.utils.extras import MissingExtra

    name = look.__name__.removeprefix("_")
    try:
        yield from look(clip)
    except MissingExtra as e:
        yield Check(name, WARN, "not checked", str(e))
    except Exception as e:
        yield Check(name, BROKEN, " ".join(f"{type(e).__name__}: {e}".split()), REINSTALL)


def _version(package: str) -> str | None:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _packages(_: str | None) -> Iterator[Check]:
    import platform

    from copra_lab import __version__

    system = f"{platform.system()} {platform.machine()}"
    yield Check("copra-lab", OK, f"{__version__}, Python {platform.python_version()} on {system}")
    found = {p: _version(p) for p in NEEDED}
    missing = [p for p, v in found.items() if v is None]
    fix = f"pip install {' '.join(missing)}" if missing else ""
    versions = ", ".join(f"{p} {v or 'missing'}" for p, v in found.items())
    yield Check("packages", BROKEN if missing else OK, versions, fix)


def _extras(_: str | None) -> Iterator[Check]:
    for package, extra in OPTIONAL.items():
        version = _version(package)
        absent = f'not installed; if you want it: pip install "copra-lab[{extra}]"'
        yield Check(f"extra {extra}", OK, f"{package} {version}" if version else absent)


def _processor(_: str | None) -> Iterator[Check]:
    import torch

    from copra_lab.engine import transformer
    from copra_lab.utils import devices

    threads, there = torch.get_num_threads(), devices.cores()
    many = threads > there
    yield Check(
        "processor",
        WARN if many else OK,
        f"{torch.backends.cpu.get_cpu_capability()}, {there} cores, {threads} threads, "
        f"{devices.cores(transformer.MOST_WORKERS)} of them for the bench",
        f"threads wait for each other: set OMP_NUM_THREADS={there}" if many else "",
    )
    count = torch.cuda.device_count() if torch.cuda.is_available() else 0
    gpus = [torch.cuda.get_device_name(i) for i in range(count)]
    yield Check("GPU", OK, ", ".join(gpus) or "none; everything runs on the processor")


def _cache(_: str | None) -> Iterator[Check]:
    import tempfile

    from copra_lab.tasks.emoji.drawings import STYLES, VERSION

    folder = cache_folder()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as e:
        why = f"cannot be written ({e.strerror}), so drawings are rendered anew each time"
        fix = "set COPRA_LAB_CACHE to a folder that can be"
        yield Check("cache", WARN, f"{folder} {why}", fix)
        return
    later = sum(not (folder / f"{s}-v{VERSION}.safetensors").exists() for s in STYLES)
    styles = f"; {later} styles of drawings are rendered when they are first needed"
    yield Check("cache", OK, f"{folder}{styles if later else ''}")


def _network(_: str | None) -> Iterator[Check]:
    import socket

    if os.environ.get("HF_HUB_OFFLINE", "").upper() in ("1", "ON", "YES", "TRUE"):
        yield Check("network", OK, "not tried, since HF_HUB_OFFLINE is set")
        return
    try:
        socket.create_connection(HUB, timeout=3).close()
        yield Check("network", OK, f"{HUB[0]} is reached")
    except OSError as e:
        found = f"{HUB[0]} is not reached ({e}); what comes with the package needs no network"
        fix = "for other models and data sets connect to it, or give their folders"
        yield Check("network", WARN, found, fix)


def _model(name: str | None) -> Iterator[Check]:
    from copra_lab.bench.bench import Bench
    from copra_lab.models.loading import load_clip
    from copra_lab.tasks.task import load_task
    from copra_lab.zoo import shipped, shipped_prompts

    try:
        clip = load_clip(name)
    except (OSError, ValueError) as e:
        yield Check("model", BROKEN, str(e), "give another with --clip" if name else REINSTALL)
        return
    yield Check("model", OK, f"{clip.name}, {clip.layers} layers, weights {clip.hash}")
    bench = Bench(clip, load_task("digits", clip))  # drawn by no artist, so there at once
    chosen = str(bench.dtype).removeprefix("torch.")
    agrees = f"which agrees with float32 on {100 * bench.agreement:.0f} % of images"
    yield Check("precision", OK, f"the bench computes in {chosen}, {agrees}")
    if name is not None:
        return
    broken = []
    every = [s.load for s in shipped()] + [s.load for s in shipped_prompts()]
    for load in every:
        try:
            load(clip)
        except ValueError as e:
            broken.append(str(e))
    if broken:
        yield Check("shipped", BROKEN, broken[0], REINSTALL)
    else:
        found = f"{len(every)} adapters and prompts load, made from these weights"
        yield Check("shipped", OK, found)
