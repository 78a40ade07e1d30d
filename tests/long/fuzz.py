"""Every door from outside, with whatever may come through it: ``python tests/long/fuzz.py`` tries
8,000 damaged, hostile or senseless adapters, prompts, pictures, zips, task folders, command
lines, configurations, requests and addresses, and says what was not met with a sentence.

A case is good when it works, or fails as its door says it may (an error that is raised on purpose,
an exit code), within `LONGEST` seconds and `LARGEST` megabytes, and when no code that was brought
along has run. Cases depend on ``--seed`` and their number alone: ``--doors adapter --only 41``
repeats one. The exit code is 1 if any case was not good.
"""

import argparse
import base64
import io
import logging
import multiprocessing as mp
import os
import random
import resource
import shutil
import sys
import tempfile
import time
import traceback
import warnings
import zipfile
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout, suppress
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests" / "support"), str(ROOT / "tests" / "long")]

from fuzzing.damage import (  # noqa: E402 (after the path)
    Case,
    Owned,
    bytes_damaged,
    dumped,
    folder_door,
    hostile_picture,
    json_damaged,
    may,
    pictures,
    value,
)
from fuzzing.readers import READERS  # noqa: E402

LONGEST, LARGEST = 30, 1500
"""Seconds and megabytes (beyond what the door itself needs) that a case may take."""

# --- the doors


def adapter(home: Path) -> Case:
    """`Adapter.load` and what is done with the result: ours and peft's folders, alone or held
    against a model.
    """
    from tiny import random_adapter, tiny_clip

    from copra_lab.adapters import Adapter, LowRank, load_adapter, save_adapter
    from copra_lab.merging import interpolate

    clip = tiny_clip()
    sites = random_adapter(clip, rank=2)
    save_adapter(sites, home / "ours")
    other = Adapter(
        {
            n: LowRank(d.A, d.B, 2.0 if i % 2 else 1.0)
            for i, (n, d) in enumerate(sites.deltas.items())
        },
        clip.hash,
        {},
    )
    save_adapter(other, home / "peft")
    weights = home / "peft" / "adapter_model.safetensors"
    from safetensors.torch import load_file, save_file

    save_file(
        load_file(weights), weights, {"format": "pt"}
    )  # without our header, as peft writes it

    def open_(folder: Path, r: random.Random) -> None:
        found = load_adapter(folder, clip if r.random() < 0.7 else None)
        if found.base:
            assert all(d.delta().shape == d.shape for d in found.deltas.values())
            interpolate(found, found, 0.5)

    return folder_door(home, [home / "ours", home / "peft"], open_)


def prompt(home: Path) -> Case:
    """`SoftPrompt.load`, alone or held against a model and its classes."""
    import torch
    from tiny import tiny_clip

    from copra_lab.prompts import SoftPrompt

    clip = tiny_clip()
    g = torch.Generator().manual_seed(0)
    SoftPrompt(
        torch.randn(4, 32, generator=g),
        "text",
        "front",
        ("red thing", "green thing"),
        clip.hash,
        {"task": "colours"},
    ).save(home / "text")

    def open_(folder: Path, r: random.Random) -> None:
        SoftPrompt.load(folder, *(r.choice(((), (clip,), (clip, ("red thing", "green thing"))))))

    return folder_door(home, [home / "text"], open_)


def model(home: Path) -> Case:
    """`load_clip` of a folder in open_clip's layout."""
    from tiny import save_clip

    from copra_lab.models import loading as clip

    save_clip(home / "clip", layers=1)

    def open_(folder: Path, r: random.Random) -> None:
        clip._loaded.clear()  # a name is loaded once, and every case has the same
        clip.load_clip(folder)

    return folder_door(home, [home / "clip"], open_)


def picture(home: Path) -> Case:
    """`photos.photo`, through which every picture from outside goes."""
    from copra_lab.tasks import photo

    def case(r: random.Random) -> None:
        data = hostile_picture(r, home / "owned")
        try:
            made = photo(io.BytesIO(data), r.choice((16, 64)), "picture")
            assert made.ndim == 3
            assert made.shape[2] == 3
        except Exception as e:
            may(e)

    return case


def archive(home: Path) -> Case:
    """`uploads.zip_task`: a visitor's zip."""
    from copra_lab.tasks.zip_upload import zip_task

    def zipped(r: random.Random) -> bytes:
        data = io.BytesIO()
        with zipfile.ZipFile(
            data,
            "w",
            r.choice(
                (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
            ),
        ) as z:
            for kind in range(r.choice((0, 1, 2, 3, 60))):
                for i in range(r.choice((0, 1, 2, 4))):
                    name = f"class {kind}/{i}.png"
                    if r.random() < 0.1:
                        name = str(r.choice(("../../x.png", "/etc/x.png", "a\\b.png", "c/./d.png", "x" * 300 + "/a.png", "con/aux.png", "a/b/c.png", "__MACOSX/._a",
                                             "a/\u202e.png", "a/.png", "\0/a.png", "a/b.svg", "é/ü.png", "a//b.png", "C:/a.png")))  # fmt: skip
                    info = zipfile.ZipInfo(name)
                    info.compress_type = z.compression
                    if r.random() < 0.03:
                        info.external_attr = r.choice((0o120777, 0o020666, 0o010666)) << 16
                    z.writestr(
                        info,
                        pictures(r) if r.random() < 0.9 else hostile_picture(r, home / "owned"),
                    )
            if r.random() < 0.05:
                z.writestr("class 0/bomb.png", bytes(80_000_000))
        return data.getvalue()

    def case(r: random.Random) -> None:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # the same name twice
            data = zipped(r)
        if r.random() < 0.6:
            data = bytes_damaged(data, r, home / "owned")
        try:
            task = zip_task(data, 32)
            assert len(task.test.images) == len(task.test.labels) <= 500
        except Exception as e:
            may(e)

    return case


def task(home: Path) -> Case:
    """`load_task` of a folder: names, depths, links, and pictures that are none."""
    from tiny import tiny_clip

    from copra_lab.tasks import load_task

    clip = tiny_clip()

    def case(r: random.Random) -> None:
        folder = home / "photos"
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir()
        for kind in range(r.choice((0, 1, 2, 3))):
            name = r.choice(
                (
                    f"kind {kind}",
                    f"kind_{kind}",
                    f".kind{kind}",
                    f"kind{kind}" + "x" * 100,
                    f"<b {kind}>",
                    f"{kind}\n",
                    f"ü{kind}",
                    f"{kind} {{}}",
                )
            )
            (folder / name).mkdir()
            for i in range(r.choice((0, 1, 2, 3, 5, 9))):
                file = (
                    folder
                    / name
                    / (f"{i}" + r.choice((".png", ".png", ".png", ".JPG", ".txt", ".png.part", "")))
                )
                if r.random() < 0.04:
                    file.symlink_to(
                        r.choice(
                            ("/dev/zero", "/proc/self/mem", str(file), "/etc/passwd", str(folder))
                        )
                    )
                else:
                    file.write_bytes(
                        pictures(r) if r.random() < 0.9 else hostile_picture(r, home / "owned")
                    )
        try:
            load_task(
                folder,
                clip,
                shots=r.choice((1, 4, 0, -1, 16)),
                seed=r.choice((0, 1, -1)),
                test_images=r.choice((None, 1, 50, 0)),
            )
        except Exception as e:
            may(e)

    return case


def words_of_commands(home: Path, r: random.Random) -> list[str]:
    clip, images, one, two = (str(home / n) for n in ("clip", "colours", "one", "two"))
    out = str(home / "out" / str(r.randrange(10**9)))
    good = [
        [
            "fit",
            images,
            "--clip",
            clip,
            "--out",
            out,
            "--steps",
            "1",
            "--batch",
            "2",
            "--rank",
            "1",
            "--shots",
            "2",
        ],
        [
            "prompt",
            images,
            "--clip",
            clip,
            "--out",
            out,
            "--steps",
            "1",
            "--batch",
            "2",
            "--shots",
            "2",
        ],
        ["path", one, two, "--clip", clip, "--points", "2", "--task", images],
        ["shapley", one, "--clip", clip, "--task", images],
        ["merge", one, two, "--clip", clip, "--out", out],
        ["prune", one, "--clip", clip, "--layers", "even", "--out", out, "--task", images],
        ["export", one, "--clip", clip, "--out", out],
        ["import", one, "--clip", clip, "--out", out],
        ["sweep", str(home / "sweep.toml"), "--work", out, "--jobs", "1"],
        ["doctor"],
        ["app", "--help"],
    ]
    given = list(r.choice(good))
    flags = ["--method", "--lr", "--json", "--rank", "--sites", "--layers", "--best", "--sparsity", "--task", "--split", "--points", "--figure", "--shots", "--seed",
             "--steps", "--batch", "--weights", "--drop", "--density", "--clip", "--out", "-o", "--config", "--penalty", "--precision", "--overwrite", "--nonsense",
             "--jobs", "--table", "--help", "--", "-", "--samples", "--clip-out", "--start", "--ramp", "--alpha"]  # fmt: skip
    for _ in range(r.choice((1, 1, 2, 3))):
        way = r.randrange(6)
        at = r.randrange(len(given) + 1)
        if way == 0 and given:
            del given[min(at, len(given) - 1)]
        elif way == 1:
            given[at:at] = [r.choice(flags)]
        elif way in (2, 3):
            given += [r.choice(flags), str(value(r, 0))]
        elif way == 4 and given:
            given[min(at, len(given) - 1)] = str(value(r, 0))
        else:
            given.insert(at, str(value(r, 0)))
    # What no operating system can hand over, and what would stay: a server, a shell's settings, and
    # work of minutes.
    given = [w.replace("\0", "").encode(errors="replace").decode()[:5000] for w in given]
    too_long = {"--steps", "--batch", "--points", "--rank", "--samples", "--jobs", "--shots"}
    given = [
        w
        if i == 0 or given[i - 1] not in too_long or not w.lstrip("-").isdigit()
        else str(max(min(int(w[:9]), 3), -3))
        for i, w in enumerate(given)
    ]
    if given[:1] == ["app"] and "--help" not in given[1:2]:
        given.insert(1, "--help")
    return given


def told(arguments: list[str]) -> None:
    """Run a command line and make sure that it ends as one may."""
    from typer.testing import CliRunner

    from copra_lab.cli import app

    result = CliRunner().invoke(app, arguments)
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    assert result.exit_code in (0, 1, 2), f"exit code {result.exit_code}"
    assert "Traceback" not in result.output, result.output[-2000:]
    assert "--debug shows where" not in result.output, result.output[-500:]
    if result.exit_code == 1 and "doctor" not in arguments:
        assert result.output.strip(), "failed without a word"


def home_of_commands(home: Path) -> None:
    from tiny import random_adapter, save_clip, save_images

    from copra_lab.adapters import save_adapter

    clip = save_clip(home / "clip", layers=2)
    save_images(home / "colours", 12)
    for seed, name in enumerate(("one", "two")):
        save_adapter(
            random_adapter(clip, rank=2, seed=seed, kinds=("q", "v"), towers=("vision",)),
            home / name,
        )
    (home / "sweep.toml").write_text(
        SWEEP.format(clip=home / "clip", task=home / "colours"), encoding="utf-8"
    )
    os.environ |= {"HOME": str(home), "HF_HUB_OFFLINE": "1"}
    os.chdir(home)


SWEEP = 'clip = "{clip}"\nmethods = ["lora"]\ntasks = ["{task}"]\nseeds = 1\n[settings]\nsteps = 1\nbatch = 2\nshots = 2\n[lora]\nrank = [1]\n'


def command(home: Path) -> Case:
    """`copra-lab` with arguments as they may be mistyped."""
    home_of_commands(home)

    def case(r: random.Random) -> None:
        told(words_of_commands(home, r))
        shutil.rmtree(home / "out", ignore_errors=True)

    return case


def config(home: Path) -> Case:
    """Files of settings, for a verb and for a sweep."""
    home_of_commands(home)
    from copra_lab.sweeps import read_grid

    verb = f'clip = "{home / "clip"}"\nsteps = 1\nbatch = 2\nshots = 2\n[fit]\nrank = 1\nsites = ["q", "v"]\nlr = 1e-3\n'
    sweep = SWEEP.format(clip=home / "clip", task=home / "colours")
    values = (
        "-1",
        "0",
        "nan",
        "inf",
        "1e400",
        '"x"',
        "true",
        "[]",
        "[[]]",
        "{}",
        "[1, 2]",
        '["lora", 3]',
        "9" * 300,
        "1979-05-27",
        "''",
        '"../../x"',
        "[0.1, true]",
    )

    def damaged(text: str, r: random.Random) -> bytes:
        lines = text.splitlines()
        way, i = r.randrange(6), r.randrange(len(text.splitlines()))
        if way <= 2:
            lines[i] = f"{lines[i].partition(' =')[0]} = {r.choice(values)}"
        elif way == 3:
            lines[i] = (
                f"{r.choice(('seeds', 'lora', 'rank', 'method', 'x', 'prompt', 'steps', 'json', 'config', 'out', 'clip'))} = {r.choice(values)}"
            )
        elif way == 4:
            lines.insert(
                i,
                r.choice(
                    (
                        "[method.copra]",
                        "[method]",
                        "[lora.rank]",
                        "[[settings]]",
                        "[",
                        "=",
                        "# é",
                        "a.b.c = 1",
                        "[fit]",
                    )
                ),
            )
        else:
            return bytes_damaged(text.encode(), r, home / "owned")
        return "\n".join(lines).encode()

    def case(r: random.Random) -> None:
        file = home / "case.toml"
        if r.random() < 0.75:
            file.write_bytes(damaged(sweep, r))
            try:
                read_grid(file)
            except Exception as e:
                may(e)
        else:
            file.write_bytes(damaged(verb, r))
            told(
                [
                    "fit",
                    str(home / "colours"),
                    "--config",
                    str(file),
                    "--out",
                    str(home / "out"),
                    "--overwrite",
                ]
            )

    return case


def api(home: Path) -> Case:
    """The page's endpoints, as a program may call them."""
    import gradio as gr

    from copra_lab.page.api.endpoints import ENDPOINTS, Api
    from copra_lab.page.state.lab import Lab

    endpoints = Api(Lab())
    where = "faces-noise"
    keys = [key for _, key in endpoints.lab.adapters(where)]
    good: dict[str, dict[str, Any]] = {
        "tasks": {},
        "adapters": {"task": where},
        "prompts": {"task": where},
        "base": {"task": where},
        "blend": {"task": where, "a": keys[0], "b": keys[1], "weight": 0.5},
        "prune": {
            "task": where,
            "adapter": keys[0],
            "layers": [0, 2, 4],
            "kinds": ["q", "v"],
            "sparsity": 50,
        },
        "shapley": {"task": where, "adapter": keys[0], "seconds": 0},
        "prompt": {"task": "digits", "prompt": "x", "percents": [100, 0, 50, 200]},
        "classify": {"task": where, "image": ""},
    }
    assert set(good) == set(ENDPOINTS)

    def case(r: random.Random) -> None:
        name = r.choice(ENDPOINTS)
        given = dict(good[name])
        if name == "classify":
            given["image"] = base64.b64encode(hostile_picture(r, home / "owned")).decode()
        for _ in range(r.choice((0, 1, 1, 2)) if given else 0):
            key = r.choice(list(given))
            given[key] = (
                json_damaged(given[key], r)
                if isinstance(given[key], list) and r.random() < 0.5
                else value(r)
            )
        if isinstance(given.get("seconds"), int | float):
            given["seconds"] = (
                min(given["seconds"], 0.05)
                if given["seconds"] == given["seconds"]
                else given["seconds"]
            )
        try:
            dumped(getattr(endpoints, name)(**given))
        except gr.Error as e:
            may(ValueError(str(e)))

    return case


def address(home: Path) -> Case:
    """Addresses of the page, as anybody may type them."""
    from urllib.parse import quote, quote_plus

    from copra_lab.page.state import address as link
    from copra_lab.page.state.lab import Lab

    lab = Lab()
    good = [
        "view=blend&task=digits&a=lora-seed-0&b=copra-seed-1&weight=0.5&mix=factors&compare=no",
        "view=triangle&task=digits&a=lora-seed-0&b=copra-seed-1&c=lora-seed-1&point=40,40",
        "view=prune&task=digits&adapter=copra-seed-0&off=0,3,k,q7&sparsity=80",
        "view=shapley&task=digits&adapter=copra-seed-0&layer=3",
        "view=prompt&task=digits&percents=100,0,50,200&replaced=2&sigma=0.1",
        "view=train&task=digits&method=copra&rank=4&lr=0.004&steps=300&batch=8&sites=q,v&shots=16&seed=3",
        "view=try&task=digits",
    ]
    values = (
        "",
        "nan",
        "inf",
        "-1",
        "1e999",
        "0x10",
        "٣",
        "1,2,3",
        "q7,q7",
        ",,,",
        "../../etc/passwd",
        "<script>",
        "none",
        "yes",
        "\x00",
        "q" * 400,
    )

    def case(r: random.Random) -> None:
        view = r.choice(list(link.CODES))
        pairs = [tuple(p.split("=")) for p in r.choice(good).split("&")]
        for _ in range(r.choice((0, 1, 1, 2, 4))):
            i, way = r.randrange(len(pairs)), r.randrange(4)
            name, said = pairs[i]
            if way == 0:
                pairs[i] = (
                    name,
                    r.choice((*values, str(value(r)), r.choice(r.choice(good).split("=")[1:]))),
                )
            elif way == 1:
                pairs.insert(i, (r.choice(pairs)[0], r.choice(pairs)[1]))
            elif way == 2:
                pairs[i] = (
                    name,
                    "".join(r.choice((c, c, c, "", c + c, chr(r.randrange(0x3000)))) for c in said),
                )
            elif len(pairs) > 1:
                del pairs[i]
        text = "&".join(f"{n}={r.choice((str, quote, quote_plus))(v)}" for n, v in pairs)
        query = r.choice(
            (f"?{text}", text, text[: r.randrange(len(text) + 1)], text * 30, value(r))
        )
        state, refused = link.read(lab, view, query)
        assert all(isinstance(words, str) and 0 < len(words) < 500 for words in refused), refused
        if state is not None:  # what was taken can be shared again, and is the same then
            again, refused = link.read(lab, view, link.write(lab, state))
            assert not refused and (again is None or again == state), (state, again, refused)

    return case


DOORS: dict[str, tuple[Callable[[Path], Case], int]] = {
    "adapter": (adapter, 1500),
    "prompt": (prompt, 700),
    "model": (model, 200),
    "picture": (picture, 1200),
    "archive": (archive, 600),
    "task": (task, 400),
    "command": (command, 500),
    "config": (config, 600),
    "api": (api, 300),
    "address": (address, 500),
    **READERS,
}
"""What is behind each, and its share of all."""


# --- knocking


def knock(door: str, seed: int, numbers: list[int], line: Connection) -> None:
    """In a process of its own: say "start" and "end" of every case, with what was not good about
    it.
    """
    home = Path(tempfile.mkdtemp(prefix=f"fuzz-{door}-"))
    try:
        logging.disable(logging.CRITICAL)
        warnings.simplefilter("ignore")
        with (
            open(os.devnull, "w", encoding="utf-8") as nowhere,
            redirect_stdout(nowhere),
            redirect_stderr(nowhere),
        ):
            case = DOORS[door][0](home)
            case(random.Random(f"{seed}/{door}/warm"))  # what is loaded once is nobody's fault
            line.send(("ready", None, None))
            before = memory()
            for i in numbers:
                line.send(("start", i, None))
                fault = None
                try:
                    case(random.Random(f"{seed}/{door}/{i}"))
                    if (home / "owned").exists():
                        raise Owned("code that the file brought along has run")
                except BaseException as e:
                    fault = "".join(traceback.format_exception(e)[-6:])
                    with suppress(OSError):
                        (home / "owned").rmdir()
                if fault is None and (more := memory() - before) > LARGEST:
                    fault, before = f"took {more:.0f} MB", memory()
                line.send(("end", i, fault))
            line.send(("done", None, None))
    finally:
        os.chdir("/")
        shutil.rmtree(home, ignore_errors=True)


def memory() -> float:
    """The most that this process ever held, MB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (
        1e6 if sys.platform == "darwin" else 1e3
    )


def tried(door: str, seed: int, numbers: list[int]) -> Iterator[tuple[int, str | None]]:
    """(number, what was not good) of each case; a process that hangs or dies costs one case, and
    another goes on.
    """
    spawn = mp.get_context("spawn")
    left = list(numbers)
    while left:
        here, there = spawn.Pipe(duplex=False)
        process = spawn.Process(target=knock, args=(door, seed, left, there), daemon=True)
        process.start()
        there.close()
        at, patience = left[0], 300.0
        while True:
            try:
                if not here.poll(patience):
                    process.kill()
                    yield at, f"took longer than {patience:.0f} s"
                    break
                said, number, fault = here.recv()
            except EOFError:
                process.join()
                yield at, f"the process died (exit code {process.exitcode})"
                break
            patience = LONGEST
            if said == "done":
                left = []
                break
            if said == "start":
                at = number
            elif said == "end":
                left = [i for i in left if i != number]
                yield number, fault
        process.join(10)
        left = [i for i in left if i != at] if left else left


def main(given: list[str] | None = None) -> int:
    p = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument(
        "--cases", type=int, default=8000, help="how many, over all doors (default: %(default)s)"
    )
    p.add_argument("--doors", nargs="+", choices=DOORS, default=list(DOORS), help="only these")
    p.add_argument("--seed", type=int, default=0)
    p.add_argument("--only", type=int, nargs="+", help="only the cases of these numbers")
    a = p.parse_args(given)
    if a.cases < 1:
        p.error("give one case at least")
    from tqdm.auto import tqdm

    whole, rows, bad = sum(n for _, n in DOORS.values()), [], 0
    for door in a.doors:
        numbers = a.only or list(range(max(1, round(a.cases * DOORS[door][1] / whole))))
        began, faults, slowest, last = time.monotonic(), 0, 0.0, time.monotonic()
        for number, fault in tqdm(
            tried(door, a.seed, numbers), desc=f"{door:8}", total=len(numbers)
        ):
            slowest, last = max(slowest, time.monotonic() - last), time.monotonic()
            if fault is not None:
                faults += 1
                print(
                    f"\n{door} {number} (--doors {door} --only {number} --seed {a.seed}): {fault}",
                    flush=True,
                )
        rows.append(
            f"| {door} | {(DOORS[door][0].__doc__ or '').strip().splitlines()[0]} | "
            f"{len(numbers):,} | {faults} | {time.monotonic() - began:.0f} |"
        )
        bad += faults
    print(
        "\n| door | what is behind it | cases | not good | seconds |\n|---|---|---|---|---|\n"
        + "\n".join(rows)
    )
    return 1 if bad else 0


if __name__ == "__main__":
    sys.exit(main())
