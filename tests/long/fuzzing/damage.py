"""What can be wrong with anything: bytes, JSON, tensors, folders and pictures, damaged by a random
generator.
"""

import io
import json
import math
import os
import pickle
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

Case = Callable[[random.Random], None]
"""Makes a case and knocks. Returns, or raises what its door may not raise."""


class Owned(Exception):
    """Code that a file brought along has run."""


class Bomb:
    """Unpickling it leaves a mark."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return os.mkdir, (str(self.mark),)


def may(error: BaseException) -> None:
    """Let errors pass that are raised on purpose and say something; raise the others."""
    if (
        not isinstance(error, ValueError | OSError)
        or not str(error).strip()
        or "Traceback" in str(error)
    ):
        raise error
    if len(str(error)) > 2000:
        raise AssertionError(
            f"an error of {len(str(error))} characters is no sentence: {str(error)[:200]}…"
        ) from error


def bytes_damaged(data: bytes, r: random.Random, mark: Path) -> bytes:
    out = bytearray(data)
    way = r.randrange(11)
    at = r.randrange(len(out)) if out else 0
    if way <= 2 and out:
        for _ in range(r.choice((1, 1, 3, 40))):
            out[r.randrange(len(out) if way else min(len(out), 400))] ^= 1 << r.randrange(8)
    elif way == 3:
        del out[at:]
    elif way == 4:
        out[at:at] = r.randbytes(r.choice((1, 9, 4000)))
    elif way == 5:
        out[at : at + r.choice((1, 8, 300))] = b""
    elif way == 6:
        out[at : at + 64] = bytes(len(out[at : at + 64]))
    elif way == 7:
        out[:8] = r.choice((2**63 - 1, 2**40, 0, 7, len(out) - 8, 99_999_999)).to_bytes(8, "little")
    elif way == 8:
        return pickle.dumps(Bomb(mark))
    elif way == 9:
        return r.randbytes(r.choice((0, 1, 8, 100, 5000)))
    else:
        out += out[at:] * r.choice((1, 3))
    return bytes(out)


def value(r: random.Random, depth: int = 2) -> Any:
    """Something that nobody asked for."""
    plain = [
        None, True, -1, 0, 1, 3, 2**70, -0.0, 0.5, 1e308, -1e-320, math.nan, math.inf, "", " ", "q", "digits", "base", "NaN", "-1", "../../etc/passwd",
        "/dev/zero", "/proc/self/mem", "~", "\0", "\ud800", "é" * 300, "x" * 70_000, "<script>alert(1)</script>", "{}", "%s%n", "hf-hub:a/b", "0" * 400, "(((",
        "(a+)+$", "novel-names", "0/lora-seed-0", "0/copra-seed-0", "own/0", "data:image/png;base64,AAAA", "http://127.0.0.1:1/", [], {}, b"x".decode(),
    ]  # fmt: skip
    if depth and r.random() < 0.25:
        return r.choice(
            (
                [value(r, depth - 1) for _ in range(r.randrange(5))],
                {str(value(r, 0))[:50]: value(r, depth - 1) for _ in range(r.randrange(4))},
            )
        )
    if depth and r.random() < 0.02:
        return deep(r.choice((50, 3000)))
    return r.choice(plain)


def deep(n: int) -> Any:
    out: Any = 0
    for _ in range(n):
        out = [out]
    return out


def json_damaged(x: Any, r: random.Random) -> Any:
    """The same with one place changed, removed or added."""
    if isinstance(x, dict) and x and r.random() < 0.9:
        key, way = r.choice(list(x)), r.random()
        rest = {k: v for k, v in x.items() if k != key}
        if way < 0.15:
            return rest
        if way < 0.25:
            return {**x, str(value(r, 0))[:99]: value(r)}
        return {**x, key: json_damaged(x[key], r)}
    if isinstance(x, list) and x and r.random() < 0.7:
        i = r.randrange(len(x))
        return x[:i] + [json_damaged(x[i], r)] * r.choice((0, 1, 1, 1, 2)) + x[i + 1 :]
    return value(r)


def dumped(x: Any) -> bytes:
    try:
        return json.dumps(x).encode(errors="surrogatepass")
    except RecursionError:
        return b"[" * 100_000


def tensors_damaged(file: Path, r: random.Random) -> None:
    """A whole safetensors file whose content makes no sense."""
    import torch
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as f:
        header, tensors = f.metadata() or {}, {k: f.get_tensor(k) for k in f.keys()}  # noqa: SIM118 (not a dict)
    for _ in range(r.choice((1, 1, 2, 5))):
        key = r.choice(list(tensors))
        t, way = tensors.pop(key), r.randrange(10)
        if way == 0:
            t = t.to(
                r.choice(
                    (
                        torch.int64,
                        torch.bool,
                        torch.uint8,
                        torch.float16,
                        torch.bfloat16,
                        torch.float64,
                        torch.float8_e4m3fn,
                        torch.complex64,
                    )
                )
            )
        elif way == 1:
            t = t.clone()
            t.view(-1)[r.randrange(max(1, t.numel())) :][:1] = (
                r.choice((math.nan, math.inf, -math.inf, 3e38))
                if t.numel() and t.is_floating_point()
                else 0
            )
        elif way == 2:
            t = t.T.contiguous() if t.ndim == 2 else t[None].contiguous()
        elif way == 3:
            t = torch.zeros(r.choice(((), (0,), (0, 64), (64, 0), (1, 1), (2, 3, 4), (3, 100_000))))
        elif way == 4:
            t = t[:-1].clone() if t.ndim else t
        elif way == 5:
            t = 1e30 * t.float()
        if way == 6 and tensors:
            continue
        name = (
            key
            if way < 8
            else str(
                r.choice(
                    (
                        key.replace("0", "99"),
                        key.replace("lora_A", "lora_B"),
                        key[:-9],
                        "lora_A",
                        key + ".x",
                        value(r, 0),
                    )
                )
            )[:500]
        )
        tensors[name.encode(errors="replace").decode() or "x"] = t
    if r.random() < 0.6 and "copra_lab" in header:
        header["copra_lab"] = dumped(json_damaged(json.loads(header["copra_lab"]), r)).decode(
            errors="replace"
        )
    save_file(tensors, file, {k: v for k, v in header.items() if r.random() < 0.97})


def folder_damaged(folder: Path, r: random.Random, mark: Path) -> None:
    """A folder of weights and JSON, one of whose files is not what it was."""
    file = r.choice(sorted(f for f in folder.iterdir() if f.is_file()))
    way = r.random()
    if way < 0.05:
        file.unlink()
    elif way < 0.1:
        file.unlink()
        r.choice(
            (
                file.mkdir,
                lambda: file.symlink_to("/dev/zero"),
                lambda: file.symlink_to(file),
                lambda: file.symlink_to("/proc/self/mem"),
            )
        )()
    elif way < 0.5 or file.suffix not in (".json", ".safetensors"):
        file.write_bytes(bytes_damaged(file.read_bytes(), r, mark))
    elif file.suffix == ".json":
        file.write_bytes(dumped(json_damaged(json.loads(file.read_bytes()), r)))
    else:
        tensors_damaged(file, r)


def folder_door(
    home: Path, made: list[Path], open_: Callable[[Path, random.Random], object]
) -> Case:
    def case(r: random.Random) -> None:
        folder = home / "case"
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(r.choice(made), folder)
        folder_damaged(folder, r, home / "owned")
        try:
            open_(folder, r)
        except Exception as e:
            may(e)

    return case


def pictures(r: random.Random, side: int = 40) -> bytes:
    """A real picture in one of the formats and modes that there are."""
    from PIL import Image

    mode, form = r.choice(
        (("RGB", "PNG"), ("RGBA", "PNG"), ("P", "PNG"), ("1", "PNG"), ("I;16", "PNG"), ("LA", "PNG"), ("RGB", "JPEG"), ("CMYK", "JPEG"), ("L", "JPEG"),
         ("RGB", "WEBP"), ("RGBA", "WEBP"), ("P", "GIF"), ("RGB", "BMP"), ("RGB", "TIFF"), ("F", "TIFF"), ("YCbCr", "TIFF"), ("I", "TIFF"))
    )  # fmt: skip
    w, h = r.choice(((side, side), (1, 1), (1, 300), (97, 3)))
    image = Image.frombytes("RGB", (w, h), r.randbytes(3 * w * h))
    image = (
        image.convert("L").convert(mode)
        if mode in ("I;16", "LA", "F", "I")
        else image.convert(mode)
    )
    data = io.BytesIO()
    image.save(data, form)
    return data.getvalue()


def hostile_picture(r: random.Random, mark: Path) -> bytes:
    import struct
    import zlib

    def png(w: int, h: int, body: bytes) -> bytes:
        def chunk(kind: bytes, x: bytes) -> bytes:
            return struct.pack(">I", len(x)) + kind + x + struct.pack(">I", zlib.crc32(kind + x))

        return (
            b"\x89PNG\r\n\x1a\n"
            + chunk(b"IHDR", struct.pack(">IIBBBBB", w, h, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", body)
            + chunk(b"IEND", b"")
        )

    way = r.randrange(8)
    if way == 0:
        return png(
            r.choice((10_000, 65_000, 2**31 - 1)),
            r.choice((1, 10_000, 65_000)),
            zlib.compress(bytes(100_000)),
        )
    if way == 1:
        return b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>'
    if way == 2:
        return b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n"
    if way == 3:
        return b"BM" + r.randbytes(60)
    if way == 4:
        return b"GIF89a" + struct.pack("<HH", 65535, 65535) + r.randbytes(80)
    if way == 5:
        return b"II*\0" + r.randbytes(200)
    return bytes_damaged(pictures(r), r, mark)
