"""Pictures of every kind become the 8-bit RGB that their format says, as numpy reckons it, or a
sentence.
"""

import io
import struct
import zlib
from functools import partial

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hn
from pictures import png, ppm, saved, tiff
from PIL import Image, ImageOps

from copra_lab.tasks import IMAGE_FILES, decoding, photo
from copra_lab.tasks.decoding import COMMON, FORMATS, MEMORY, decoded
from copra_lab.tasks.photos import photos

SIDE = 16
RNG = np.random.default_rng(0)
DEEP = RNG.integers(0, 65536, (SIDE, SIDE), dtype=np.uint16)
DEEP[0, :3] = 0, 255, 65535
COLOUR = RNG.integers(0, 65536, (SIDE, SIDE, 3), dtype=np.uint16)
SHARES = RNG.random((SIDE, SIDE), dtype=np.float32)
SHARES[0, :2] = 0, 1


def read(data: bytes, side: int = SIDE) -> np.ndarray:
    return photo(io.BytesIO(data), side).numpy()


def grey(values: np.ndarray) -> np.ndarray:
    return np.repeat(values.astype(np.uint8)[..., None], 3, 2)


@pytest.mark.parametrize("data", {
    "png": png(DEEP), "tiff": tiff(DEEP), "tiff, big end first": tiff(DEEP, ">"), "tiff, compressed": saved(Image.fromarray(DEEP), "TIFF", compression="tiff_lzw"),
    "pgm": ppm(DEEP, 65535),
}.items(), ids=lambda item: item[0])  # fmt: skip
def test_of_16_bits_the_high_byte_counts(data):
    assert (read(data[1]) == grey(DEEP >> 8)).all()
    assert decoded(io.BytesIO(data[1]), SIDE).odd == ("deep",)
    before = np.asarray(Image.open(io.BytesIO(data[1])).convert("RGB"))
    assert (before != read(data[1])).mean() > 0.5
    assert before.mean() > 250


def test_jpeg_2000_of_16_bits():
    data = saved(Image.fromarray(DEEP), "JPEG2000")
    read_ = next(iter(photos(["a"], lambda _: io.BytesIO(data), SIDE).images)).numpy()
    assert (read_ == grey(DEEP >> 8)).all()


@pytest.mark.parametrize("values", [DEEP, COLOUR, SHARES], ids=["grey", "colour", "floats"])
def test_scaled_as_torchvision_scales(values):
    from torchvision.transforms.v2.functional import to_dtype

    reference = to_dtype(torch.from_numpy(values), torch.uint8, scale=True).numpy()
    found = read(tiff(values, kind=3) if values is SHARES else png(values))
    # It cuts floats off a little below the next number where this rounds.
    assert np.abs(
        found.astype(int) - (reference if values.ndim == 3 else grey(reference))
    ).max() <= (values is SHARES)


DEPTHS = {
    "0 is white": (tiff(DEEP, black=0), grey(255 - (DEEP >> 8))),
    "0 is white, 8 bits": (tiff((DEEP >> 8).astype(np.uint8), black=0), grey(255 - (DEEP >> 8))),
    "12 bits": (tiff(DEEP >> 4, bits=12), grey(DEEP >> 8)),
    "a pgm that ends at 4095": (
        ppm(DEEP >> 4, 4095),
        grey(np.round((DEEP >> 4) / 4095 * 65535).astype(int) >> 8),
    ),
    "colour": (png(COLOUR), COLOUR >> 8),
    "colour, tiff": (tiff(COLOUR), COLOUR >> 8),
    "colour, big end first": (tiff(COLOUR, ">"), COLOUR >> 8),
    "floats": (tiff(SHARES, kind=3), grey(np.round(SHARES * 255))),
    "floats, big end first": (tiff(SHARES, ">", kind=3), grey(np.round(SHARES * 255))),
    "floats in a pfm": (saved(Image.fromarray(SHARES), "PPM"), grey(np.round(SHARES * 255))),
    "1 bit": (png(DEEP & 1, bits=1), grey((DEEP & 1) * 255)),
    "2 bits": (png(DEEP & 3, bits=2), grey((DEEP & 3) * 85)),
    "4 bits": (png(DEEP & 15, bits=4), grey((DEEP & 15) * 17)),
}


@pytest.mark.parametrize("name", DEPTHS)
def test_other_depths(name):
    data, expected = DEPTHS[name]
    assert (read(data) == expected).all()


CLEAR = {
    "16 bits, one grey": (
        png(DEEP, clear=DEEP[3, 3].tobytes()[::-1]),
        np.where((DEEP[3, 3] == DEEP)[..., None], 255, grey(DEEP >> 8)),
    ),
    "8 bits, one grey": (
        png((DEEP >> 8).astype(np.uint8), clear=bytes([0, 7])),
        np.where((DEEP >> 8 == 7)[..., None], 255, grey(DEEP >> 8)),
    ),
    "4 bits, one grey": (
        png(DEEP & 15, bits=4, clear=bytes([0, 7])),
        np.where((DEEP & 15 == 7)[..., None], 255, grey((DEEP & 15) * 17)),
    ),
    "2 bits, one grey": (
        png(DEEP & 3, bits=2, clear=bytes([0, 2])),
        np.where((DEEP & 3 == 2)[..., None], 255, grey((DEEP & 3) * 85)),
    ),
    "1 bit, one grey": (png(DEEP & 1, bits=1, clear=bytes([0, 0])), np.full((SIDE, SIDE, 3), 255)),
    "one colour": (
        png((COLOUR >> 15).astype(np.uint8), clear=bytes(6)),
        np.where((COLOUR >> 15 == 0).all(2)[..., None], 255, COLOUR >> 15),
    ),
}


@pytest.mark.parametrize("name", CLEAR)
def test_what_is_transparent_is_white(name):
    data, expected = CLEAR[name]
    assert (read(data) == expected).all()
    assert (expected == 255).any()


REFUSED = {
    "int32": (tiff(DEEP.astype(np.int32), kind=2), "it is unknown which one is white: save it with 8 or 16 bits"),
    "uint32": (tiff(DEEP.astype(np.uint32)), "it is unknown which one is white"),
    "int16": (tiff((DEEP >> 1).astype(np.int16), kind=2), "it is unknown which one is white"),
    "floats": (tiff(SHARES * 300, kind=3), r"numbers from 0 to 300, but 0 is black and 1 is white: scale them"),
    "below 0": (tiff(SHARES - 0.5, kind=3), r"numbers from -0.5 to 0.5, but"),
    "no number": (tiff(np.where(SHARES > 0.5, np.float32("nan"), SHARES), kind=3), "numbers from nan to nan"),
    "colour of 16 bits, one transparent": (png(COLOUR, clear=bytes(6)), "save it with an alpha channel"),
    "postscript": (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\nshowpage", "not a supported image format"),
    "pdf": (saved(Image.new("RGB", (9, 9)), "PDF"), "not a supported image format"),
    "svg": (b"<svg/>", "not a supported image format"), "nothing": (b"", "not a supported image format"),
    "cut off": (png(DEEP)[:-100], "truncated"),
    "targa, by its bytes alone": (saved(Image.new("RGB", (9, 9)), "TGA"), "not a supported image format"),
}  # fmt: skip


@pytest.mark.parametrize("name", REFUSED)
def test_the_rest_is_refused_in_a_sentence(name):
    data, words = REFUSED[name]
    with pytest.raises(ValueError, match=words) as e:
        photo(io.BytesIO(data), SIDE, "this.png")
    assert str(e.value).startswith("this.png cannot be read as an image (")
    assert "\n" not in str(e.value)
    assert " object at 0x" not in str(e.value)


def test_pictures_in_memory_have_the_same_rules():
    assert (photo(Image.fromarray(DEEP), SIDE).numpy() == grey(DEEP >> 8)).all()
    assert (photo(Image.fromarray(SHARES), SIDE).numpy() == grey(np.round(SHARES * 255))).all()
    with pytest.raises(
        ValueError, match=r"the picture cannot be read .* save it with 8 or 16 bits"
    ):
        photo(Image.fromarray(DEEP.astype(np.int32)), SIDE)
    mine = Image.fromarray(DEEP)
    photo(mine, SIDE)
    assert mine.mode == "I;16"
    assert (np.asarray(mine) == DEEP).all()


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_followed(orientation):
    image = Image.fromarray((COLOUR >> 8).astype(np.uint8))
    exif = Image.Exif()
    exif[0x0112] = orientation
    expected = np.asarray(
        ImageOps.exif_transpose(Image.open(io.BytesIO(saved(image, "PNG", exif=exif))))
    )  # as transformers' load_image has it
    assert (read(saved(image, "PNG", exif=exif)) == expected).all()
    assert orientation == 1 or (expected != np.asarray(image)).any()
    plain, deep = (Image.fromarray(values) for values in ((DEEP >> 8).astype(np.uint8), DEEP))
    assert (read(saved(deep, "PNG", exif=exif)) == read(saved(plain, "PNG", exif=exif))).all()


@pytest.mark.parametrize(
    ("format", "settings"),
    [
        ("GIF", {}),
        ("PNG", {}),
        ("WEBP", {"lossless": True}),
        ("TIFF", {}),
        ("AVIF", {"quality": 100}),
    ],
)
def test_of_several_frames_the_first_counts_and_it_is_said(format, settings):
    first, second = (
        Image.new("RGB", (SIDE, SIDE), colour) for colour in ((200, 40, 40), (40, 40, 200))
    )
    data = saved(first, format, save_all=True, append_images=[second], **settings)
    assert np.abs(read(data).astype(int) - [200, 40, 40]).max() <= 6
    assert decoded(io.BytesIO(data), SIDE).odd == ("frames",)
    assert decoded(io.BytesIO(saved(first, format, **settings)), SIDE).odd == ()


def test_a_phones_second_picture_is_no_frame():
    first = Image.new("RGB", (SIDE, SIDE), (200, 40, 40))
    data = saved(first, "MPO", save_all=True, append_images=[Image.new("RGB", (SIDE, SIDE))])
    assert np.abs(read(data).astype(int) - [200, 40, 40]).max() <= 3
    assert decoded(io.BytesIO(data), SIDE).odd == ()


def test_a_deep_picture_that_is_nearly_black_is_said():
    for dark in (
        png(DEEP >> 4),
        png(COLOUR >> 4),
        tiff(SHARES / 17, kind=3),
        tiff(DEEP >> 4, black=0),
    ):
        assert decoded(io.BytesIO(dark), SIDE).odd == ("deep", "dim")


MODES = {
    "LA": lambda image: image.convert("LA"), "P": lambda image: image.quantize(9), "CMYK": lambda image: image.convert("CMYK"), "L": lambda image: image.convert("L"),
    "1": lambda image: image.convert("1"), "RGBA": lambda image: with_alpha(image), "P, transparent": lambda image: with_alpha(image).quantize(9),
    "LA, transparent": lambda image: with_alpha(image).convert("LA"), "LAB": lambda image: image.convert("LAB"),
}  # fmt: skip


def with_alpha(image: Image.Image) -> Image.Image:
    out = image.convert("RGBA")
    out.putalpha(Image.fromarray((DEEP >> 8).astype(np.uint8)))
    return out


@pytest.mark.parametrize(
    ("mode", "format"),
    [(m, f) for m in MODES for f in ("PNG", "TIFF") if f == "TIFF" or m not in ("CMYK", "LAB")],
)
def test_modes_are_pillows_on_white(mode, format):
    image = MODES[mode](Image.fromarray((COLOUR >> 8).astype(np.uint8)))
    data = saved(image, format)
    again = Image.open(io.BytesIO(data))
    r, g, b, a = np.moveaxis(np.asarray(again.convert("RGBA"), float), 2, 0)
    white = np.round(np.stack([r, g, b], 2) * a[..., None] / 255 + 255 - a[..., None])
    assert np.abs(read(data) - white).max() <= 1


# --- kinds of files -----------------------------------------------------------------------------------------------------


def test_the_names_of_files_are_those_that_pillow_gives_these_formats():
    Image.init()
    known = Image.registered_extensions()
    for format, names in FORMATS.items():
        theirs = {suffix for suffix, f in known.items() if f == format} | (
            {".mpo"} if format == "JPEG" else set()
        )
        assert theirs in (set(names), set())  # an old Pillow has no AVIF
    assert set(IMAGE_FILES) == {suffix for f in COMMON for suffix in FORMATS[f]}
    assert not {".eps", ".ps", ".pdf", ".wmf", ".emf", ".svg"} & {
        suffix for names in FORMATS.values() for suffix in names
    }


@pytest.mark.parametrize(
    "suffix",
    [
        ".jfif",
        ".jpe",
        ".avif",
        ".ppm",
        ".pgm",
        ".jp2",
        ".tga",
        ".pcx",
        ".ico",
        ".qoi",
        ".sgi",
        ".mpo",
        ".apng",
        ".webp",
    ],
)
def test_files_of_ones_own_are_read_whatever_their_kind(tmp_path, suffix):
    image = Image.new("RGB", (32, 32), (200, 90, 40))
    format = {".pgm": "PPM", ".apng": "PNG"}.get(suffix) or Image.registered_extensions()[suffix]
    image.convert("L" if suffix == ".pgm" else "RGB").save(tmp_path / f"a{suffix}", format)
    found = photos(["a"], lambda _: tmp_path / f"a{suffix}", SIDE)
    expected = (200, 90, 40) if suffix != ".pgm" else (117, 117, 117)
    assert not found.failed
    assert np.abs(found.images[0].numpy().astype(int) - expected).max() <= 4


def test_only_common_kinds_are_read_from_strangers():
    for format in set(FORMATS) - set(COMMON):
        with pytest.raises(ValueError, match="not a supported image format"):
            photo(io.BytesIO(saved(Image.new("RGB", (32, 32)), format)), SIDE)


def test_a_kind_that_this_pillow_lacks_is_refused_and_no_other(monkeypatch):
    monkeypatch.delitem(Image.OPEN, "AVIF")
    with pytest.raises(ValueError, match="not a supported image format"):
        read(saved(Image.new("RGB", (32, 32)), "PNG").replace(b"PNG", b"PNX"))
    assert read(saved(Image.new("RGB", (32, 32), "white"), "PNG")).mean() == 255


# --- memory -------------------------------------------------------------------------------------------------------------


def claiming(data: bytes, width: int, height: int) -> bytes:
    """A JPEG whose header says another size."""
    at = next(i for i in range(2, len(data)) if data[i] == 0xFF and data[i + 1] in (0xC0, 0xC2))
    return data[: at + 5] + height.to_bytes(2, "big") + width.to_bytes(2, "big") + data[at + 9 :]


def test_a_photo_of_45_megapixels_is_shrunk_while_it_is_read():
    data = saved(Image.new("RGB", (8192, 5464), (200, 90, 40)), "JPEG")
    assert decoded(io.BytesIO(data), 64).image.size == (1024, 683)
    assert np.abs(read(data, 64).astype(int) - [200, 90, 40]).max() <= 3


JPEG = saved(Image.new("RGB", (64, 64)), "JPEG")
SLOW = saved(Image.new("RGB", (64, 64)), "JPEG", progressive=True)


def vast(width: int, height: int) -> bytes:
    """A PNG that holds one pixel and claims more."""
    small = png(np.zeros((1, 1, 3), np.uint8))
    head = b"IHDR" + struct.pack(">II", width, height) + small[24:29]
    return small[:12] + head + struct.pack(">I", zlib.crc32(head)) + small[33:]


CLAIMS = {
    "progressive": (partial(claiming, SLOW), 8.5e7),
    "jpeg": (partial(claiming, JPEG), 5.1e8),
    "png": (vast, 1.28e8),
}


@pytest.mark.parametrize(("data", "most"), CLAIMS.values(), ids=CLAIMS)
def test_what_would_fill_the_memory_is_refused_before_it_is_decoded(data, most, monkeypatch):
    monkeypatch.setattr(
        Image, "MAX_IMAGE_PIXELS", 1
    )  # Pillow's own bound, which would refuse the photo too, is not asked
    side = int(1.1 * most**0.5)
    with pytest.raises(
        ValueError,
        match=rf"megapixels take [\d,]+ MB of memory but the limit is {MEMORY // 10**6} MB: make it smaller",
    ):
        photo(io.BytesIO(data(side, side)), SIDE)
    with decoding.opened(io.BytesIO(data(side // 2, side // 2))) as image:
        assert decoding.shrink(image, SIDE) <= MEMORY


def test_large_pictures_are_decoded_one_at_a_time(monkeypatch):
    inside, most = [0], [0]
    real = decoding._decoded

    def watched(*arguments):
        inside[0] += 1
        most[0] = max(most[0], inside[0])
        try:
            return real(*arguments)
        finally:
            inside[0] -= 1

    data = saved(Image.new("RGB", (400, 400)), "PNG")
    monkeypatch.setattr(
        decoding, "_decoded", lambda image, side, in_place: watched(image, side, in_place)
    )
    monkeypatch.setattr(decoding, "LARGE", 1)
    assert not photos([str(i) for i in range(40)], lambda _: io.BytesIO(data), SIDE).failed
    assert most == [1]


# --- any picture --------------------------------------------------------------------------------------------------------

VALUES = st.one_of(
    hn.arrays(np.uint16, (SIDE, SIDE)), hn.arrays(np.uint8, (SIDE, SIDE)), hn.arrays(np.uint16, (SIDE, SIDE, 3)), hn.arrays(np.uint8, (SIDE, SIDE, 3)),
    hn.arrays(np.float32, (SIDE, SIDE), elements=st.floats(-0.25, 1.25, width=32)), hn.arrays(np.int32, (SIDE, SIDE)),
)  # fmt: skip


@settings(max_examples=60)
@given(VALUES, st.sampled_from(["<", ">"]), st.booleans())
def test_any_numbers_are_what_numpy_makes_of_them_or_a_sentence(values, order, as_png):
    whole = values.dtype.kind == "u"
    data = (
        png(values)
        if as_png and whole
        else tiff(values, order, kind={"u": 1, "i": 2, "f": 3}[values.dtype.kind])
    )
    try:
        found = read(data)
    except ValueError as e:
        assert not whole
        assert "cannot be read as an image" in str(e)
        assert values.dtype.kind == "i" or values.min() < 0 or values.max() > 1
        return
    eight = (
        np.round(values * np.float32(255))
        if values.dtype.kind == "f"
        else values >> (8 * values.dtype.itemsize - 8)
    )
    assert (found == (eight if values.ndim == 3 else grey(eight))).all()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "P", "L", "I;16", "F"])
def test_a_large_picture_is_first_averaged_down(mode, monkeypatch):
    """To the same picture within rounding."""
    values = np.add.outer(np.arange(640), np.arange(640))
    made = {
        "F": Image.fromarray((values / 1279).astype(np.float32)),
        "I;16": Image.fromarray((values * 51).astype(np.uint16)),
    }
    image = made.get(mode) or Image.fromarray((values * 51 >> 8).astype(np.uint8)).convert(mode)
    whole = photo(image, SIDE).int()
    monkeypatch.setattr(decoding, "LARGE", 1)
    assert decoded(image, SIDE).image.size == (128, 128)
    assert (photo(image, SIDE).int() - whole).abs().max() <= 2
