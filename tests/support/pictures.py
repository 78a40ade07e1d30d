"""Picture files of every depth, written bit by bit where Pillow cannot, so that a test knows the
numbers that a file holds.
"""

import io
import struct
import zlib

import numpy as np
from PIL import Image

COLOUR_TYPES = {1: 0, 2: 4, 3: 2, 4: 6}
"""PNG's, by channels: grey, with alpha, colour, with alpha."""


def png(values: np.ndarray, bits: int = 0, clear: bytes = b"") -> bytes:
    """A PNG of values (h, w) or (h, w, channels), in their own 8 or 16 bits, or grey in fewer;
    `clear`: what stands in its tRNS.
    """
    values = values[..., None] if values.ndim == 2 else values
    height, width, channels = values.shape
    bits = bits or 8 * values.dtype.itemsize
    if bits < 8:
        spread = np.unpackbits(values[:, :, 0].astype(np.uint8)[..., None], axis=2)[
            ..., 8 - bits :
        ].reshape(height, -1)
        rows = [row.tobytes() for row in np.packbits(spread, axis=1)]
    else:
        rows = [row.tobytes() for row in values.astype(values.dtype.newbyteorder(">"))]
    head = struct.pack(">IIBBBBB", width, height, bits, COLOUR_TYPES[channels], 0, 0, 0)
    chunks = [
        (b"IHDR", head),
        *([(b"tRNS", clear)] if clear else []),
        (b"IDAT", zlib.compress(b"".join(b"\0" + r for r in rows))),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(d)) + k + d + struct.pack(">I", zlib.crc32(k + d)) for k, d in chunks
    )


def tiff(
    values: np.ndarray, order: str = "<", bits: int = 0, kind: int = 1, black: int = 1
) -> bytes:
    """An uncompressed TIFF of values (h, w) or (h, w, channels). `kind`: 1 whole numbers, 2 with a
    sign, 3 floats; `black`: 0 where 0 is white, 1 where it is black. 12 `bits` are packed, two
    numbers in three bytes.
    """
    height, width, channels = (*values.shape, 1)[:3]
    bits = bits or 8 * values.dtype.itemsize
    if bits == 12:
        pairs = values.reshape(height, -1, 2).astype(np.uint32)
        packed = (pairs[..., 0] << 12 | pairs[..., 1]).astype(">u4").tobytes()
        data = b"".join(packed[i + 1 : i + 4] for i in range(0, len(packed), 4))
    else:
        data = values.astype(values.dtype.newbyteorder(order)).tobytes()
    photometric = 2 if channels >= 3 else black
    depth = struct.pack(f"{order}{channels}H", *[bits] * channels)
    tags = [(256, 4, [width]), (257, 4, [height]), (258, 3, [bits] * channels), (259, 3, [1]), (262, 3, [photometric]), (273, 4, [0]),
            (277, 3, [channels]), (278, 4, [height]), (279, 4, [len(data)]), (339, 3, [kind] * channels)]  # fmt: skip
    after = 8 + 2 + 12 * len(tags) + 4
    kinds = struct.pack(f"{order}{channels}H", *[kind] * channels)
    rest, places = b"", {}
    for tag, stored in ((258, depth), (339, kinds)):
        if len(stored) > 4:
            places[tag] = after + len(rest)
            rest += stored
    start = after + len(rest)
    out = (
        (b"II*\0" if order == "<" else b"MM\0*")
        + struct.pack(f"{order}I", 8)
        + struct.pack(f"{order}H", len(tags))
    )
    for tag, size, numbers in tags:
        numbers = [start] if tag == 273 else numbers
        field = (
            struct.pack(f"{order}I", places[tag])
            if tag in places
            else struct.pack(f"{order}{len(numbers)}{'H' if size == 3 else 'I'}", *numbers)
        )
        out += struct.pack(f"{order}HHI", tag, size, len(numbers)) + field.ljust(4, b"\0")
    return out + b"\0" * 4 + rest + data


def saved(image: Image.Image, format: str, **settings: object) -> bytes:
    file = io.BytesIO()
    image.save(file, format, **settings)
    return file.getvalue()


def ppm(values: np.ndarray, most: int = 255) -> bytes:
    """A PGM or PPM whose white is `most`."""
    colour = values.ndim == 3
    return (
        f"P{6 if colour else 5} {values.shape[1]} {values.shape[0]} {most}\n".encode()
        + values.astype(">u2" if most > 255 else "u1").tobytes()
    )


def claiming_png(width: int, height: int) -> bytes:
    """A PNG that claims any size, of next to no bytes."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return (
            struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        )

    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", head)
        + chunk(b"IDAT", zlib.compress(b"\0" * 100))
        + chunk(b"IEND", b"")
    )
