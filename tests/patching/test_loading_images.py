"""Everything image-like means one thing, or is refused with a sentence that says what was given."""

from __future__ import annotations

import io
import os
import struct
import subprocess
import time
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models import open_clip_model
from PIL import Image

import tracescribe as ts
from tracescribe.errors import DataFormatError, NonFiniteError, TraceWarning
from tracescribe.patching import read_image

FILM = np.random.default_rng(0).integers(0, 256, (24, 32), dtype=np.uint8)
RGB = np.random.default_rng(1).integers(0, 256, (24, 32, 3), dtype=np.uint8)
EXIF_ORIENTATION = 0x0112


def grey_of(given: Any) -> np.ndarray:
    image = read_image(given)
    assert image.mode == "RGB"
    return np.asarray(image)[..., 0]


def png_of(image: Image.Image, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG file, with chunks put in behind its header."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    raw = buffer.getvalue()
    head = 8 + 25  # the signature and IHDR
    extra = b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in chunks
    )
    return raw[:head] + extra + raw[head:]


@pytest.mark.parametrize(
    "given",
    [
        RGB,
        RGB.transpose(2, 0, 1),
        RGB.astype(np.int64),
        torch.from_numpy(RGB),
        torch.from_numpy(RGB).permute(2, 0, 1).int(),
        RGB / 255.0,
        (RGB / 255.0).astype(np.float32),
        torch.from_numpy(RGB / 255.0),
        Image.fromarray(RGB),
        png_of(Image.fromarray(RGB)),
        memoryview(png_of(Image.fromarray(RGB))),
        io.BytesIO(png_of(Image.fromarray(RGB))),
        np.dstack([RGB, np.full((24, 32), 255, np.uint8)]),
    ],
)
def test_the_same_picture_in_any_form_is_the_same_image(given: Any) -> None:
    assert np.array_equal(np.asarray(read_image(given)), RGB)


@pytest.mark.parametrize("given", [FILM, FILM[..., None], FILM[None], torch.from_numpy(FILM), Image.fromarray(FILM)])
def test_grey_is_three_equal_channels(given: Any) -> None:
    assert np.array_equal(np.asarray(read_image(given)), np.repeat(FILM[..., None], 3, axis=2))


def test_floats_of_three_planes_are_preprocessed_pixels_and_used_as_they_are() -> None:
    pixels = torch.randn(3, 8, 8)
    assert read_image(pixels) is pixels
    assert torch.equal(read_image(pixels.numpy()), pixels)
    half = pixels.half()
    assert read_image(half) is half


def test_integers_go_through_the_preprocessing_of_the_model() -> None:
    model = ts.load("phantom")
    expected = model.encode_images([Image.fromarray(RGB)])
    batch = torch.from_numpy(RGB).permute(2, 0, 1)[None]
    for given in ([RGB], [torch.from_numpy(RGB)], batch, batch.numpy(), batch.long()):
        assert torch.equal(model.encode_images(given), expected)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_a_photograph_is_turned_as_its_exif_data_say(orientation: int, tmp_path: Path) -> None:
    turns = {2: 0, 3: 3, 4: 1, 5: 5, 6: 4, 7: 6, 8: 2}  # orientation -> PIL's Transpose
    image, exif = Image.fromarray(RGB), Image.Exif()
    exif[EXIF_ORIENTATION] = orientation
    image.save(tmp_path / "turned.png", exif=exif)
    meant = image if orientation == 1 else image.transpose(Image.Transpose(turns[orientation]))
    for given in (tmp_path / "turned.png", Image.open(tmp_path / "turned.png")):
        assert np.array_equal(np.asarray(read_image(given)), np.asarray(meant))


def test_sixteen_bits_that_hold_twelve_are_not_black(tmp_path: Path) -> None:
    twelve = ((FILM.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    twelve[0, 0] = 4095
    expected = FILM.copy()
    expected[0, 0] = 255
    image = Image.fromarray(twelve)
    with pytest.warns(TraceWarning, match=r"no value above 4095: read as 12-bit values, 4095 being white"):
        assert np.array_equal(grey_of(png_of(image)), expected)
    with pytest.warns(TraceWarning, match="12-bit"):
        assert np.array_equal(grey_of(twelve), expected)
    with pytest.warns(TraceWarning, match=r"read as 8-bit values, 255 being white"):
        assert np.array_equal(grey_of(FILM.astype(np.uint16)), FILM)
    # a file that says so is not guessed at, and a black one has nothing to guess
    assert np.array_equal(grey_of(png_of(image, (b"sBIT", b"\x0c"))), expected)
    assert grey_of(np.zeros((4, 4), np.uint16)).max() == 0
    image.save(tmp_path / "film.tiff", tiffinfo={281: 4095})
    assert np.array_equal(grey_of(tmp_path / "film.tiff"), expected)


def test_stated_bits_of_values_that_were_scaled_up_as_the_png_standard_asks() -> None:
    twelve = ((FILM.astype(np.uint32) * 4095 + 127) // 255).astype(np.uint16)
    for scaled in (twelve << 4, (twelve << 4) | (twelve >> 8)):
        found = grey_of(png_of(Image.fromarray(scaled), (b"sBIT", b"\x0c")))
        assert np.abs(found.astype(int) - FILM).max() <= 1  # the shifted ones are up to 15/65535 too dark
    dark = (twelve >> 4) << 4  # at most 4080, all lowest bits 0: scaled up, and really dark
    assert grey_of(png_of(Image.fromarray(dark), (b"sBIT", b"\x0c"))).max() <= 16
    full = Image.fromarray(twelve)
    assert grey_of(png_of(full, (b"sBIT", b"\x10"))).max() <= 16  # sixteen bits, it says: dark


@pytest.mark.parametrize("mode", ["1", "L", "P", "RGB", "CMYK", "YCbCr", "LA", "RGBA", "PA", "HSV"])
def test_every_mode_of_eight_bits_is_read(mode: str) -> None:
    flat = Image.new("RGB", (8, 8), (255, 255, 255))
    image = flat.convert("RGBA").convert("P").convert("PA") if mode == "PA" else flat.convert(mode)
    assert np.asarray(read_image(image)).min() >= 250


def test_transparent_parts_are_black_and_said() -> None:
    values = np.full((4, 4, 4), 255, np.uint8)
    values[0, :, 3] = 0
    with pytest.warns(TraceWarning, match="partly transparent and is put on black"):
        grey = grey_of(values)
    assert (grey[0] == 0).all() and (grey[1:] == 255).all()
    palette = Image.fromarray(FILM % 4).convert("P")
    palette.info["transparency"] = 0
    with pytest.warns(TraceWarning, match="partly transparent"):
        read_image(palette)


def test_of_several_frames_the_chosen_one_or_none(tmp_path: Path) -> None:
    frames = [Image.fromarray(FILM), Image.fromarray(255 - FILM)]
    frames[0].save(tmp_path / "two.tiff", save_all=True, append_images=frames[1:])
    with pytest.raises(DataFormatError, match=r"two\.tiff' holds 2 frames"):
        read_image(tmp_path / "two.tiff")
    with Image.open(tmp_path / "two.tiff") as opened:
        opened.seek(1)
        assert np.array_equal(grey_of(opened), 255 - FILM)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (np.zeros(512), r"shape \[512\] is no image.*an embedding is no image"),
        (np.zeros((2, 3, 8, 8), np.uint8), "several images are given as a list"),
        (np.zeros((0, 8), np.uint8), r"shape \[0, 8\]"),
        (np.zeros((8, 8, 5), np.uint8), "one side must be the 1, 3 or 4 channels"),
        (np.full((8, 8), 256), "int64 has values from 256 to 256: an image of integers has 0 to 255"),
        (np.full((8, 8, 3), -1), "values from -1 to -1"),
        (np.full((8, 8, 3), 200.0), "values from 200 to 200: an image of floats has 0 to 1"),
        (np.zeros((8, 8), complex), "complex128"),
        (np.array([["a"]]), "is no image"),
        (torch.zeros(8, 8, dtype=torch.complex64), "complex64"),
        (torch.zeros(8, 8, 8), "one side must be the 1, 3 or 4 channels"),
        (None, "None is of type NoneType"),
        (7, "7 is of type int"),
        (b"", "an image given as 0 bytes cannot be read: it is empty"),
        (b"not a picture", "it is none of PNG, JPEG"),
        (io.StringIO("text"), "must give bytes"),
        (Image.fromarray(np.zeros((4, 4), np.float32)), "32 bits a pixel"),
        (Image.new("RGB", (0, 4)), "has no pixels"),
        (png_of(Image.fromarray(RGB))[:90], "cannot be read"),
        ("x" * 300, "File name too long"),
        ("x\0.png", "no file can have this name"),
        ("/dev/zero", "it is a device"),
        ("https://example.org/film.png", "does not exist"),
    ],
)
def test_what_is_no_image_is_said(given: Any, message: str) -> None:
    with pytest.raises(DataFormatError, match=message) as caught:
        read_image(given)
    assert len(str(caught.value)) < 600


def test_nan_pixels_are_refused() -> None:
    for shape in ((3, 4, 4), (4, 4, 3), (4, 4)):
        for bad in (float("nan"), float("inf")):
            with pytest.raises(NonFiniteError, match="NaN or infinity"):
                read_image(torch.full(shape, bad))
            with pytest.raises(NonFiniteError, match="NaN or infinity"):
                read_image(np.full(shape, bad))


def test_special_files_folders_and_circles_of_links_are_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.png")
    (tmp_path / "circle.png").symlink_to("circle.png")
    began = time.monotonic()
    for name, message in [("pipe.png", "a pipe"), ("", "a folder"), ("circle.png", "symbolic links")]:
        with pytest.raises(DataFormatError, match=message):
            read_image(tmp_path / name)
    assert time.monotonic() - began < 5


def test_postscript_is_never_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def started(*arguments: object, **options: object) -> None:
        raise AssertionError(f"a process was started: {arguments}")

    monkeypatch.setattr(subprocess, "Popen", started)
    program = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n%%EndComments\n{} loop\nshowpage\n%%EOF\n"
    for name in ("film.png", "film.eps", "film.pdf"):
        (tmp_path / name).write_bytes(program)
        with pytest.raises(DataFormatError, match=r"film\.... ?' cannot be read: it is none of PNG"):
            read_image(tmp_path / name)


def test_a_decompression_bomb_and_a_broken_avif_are_said(tmp_path: Path) -> None:
    header = struct.pack(">IIBBBBB", 60000, 60000, 8, 0, 0, 0, 0)
    bomb = b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))
        for kind, data in ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(1000))), (b"IEND", b""))
    )
    (tmp_path / "bomb.png").write_bytes(bomb)
    with pytest.raises(DataFormatError, match=r"bomb\.png' cannot be read: Image size \(3600000000 pixels\)"):
        read_image(tmp_path / "bomb.png")
    buffer = io.BytesIO()
    Image.fromarray(RGB).save(buffer, format="WEBP")
    brands = b"\0\0\0\x1cftypavif\0\0\0\0avifmif1miaf"
    for raw in (brands, brands + bytes(200), buffer.getvalue()[:60]):
        with pytest.raises(DataFormatError, match="cannot be read"):
            read_image(raw)


def test_pixels_that_do_not_fit_the_encoder_are_said() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=lambda texts: torch.zeros(len(texts), 12).long())
    with pytest.raises(DataFormatError, match=r"does not take pixels of shape \[3, 48, 48\]"):
        model.encode_images([torch.zeros(3, 48, 48)])
    with pytest.raises(DataFormatError, match=r"have shape \[3, 16, 16\], those of another .* \[3, 32, 32\]"):
        model.encode_images([torch.zeros(3, 32, 32), torch.zeros(3, 16, 16)])
    with pytest.raises(DataFormatError, match=r"shape \[n, 3, height, width\]"):
        model.encode_images(np.zeros((32, 32, 3), np.uint8))
    for single in ("film.png", b"film", Image.new("L", (2, 2))):
        with pytest.raises(TypeError, match="put it in a list"):
            model.encode_images(single)


def test_an_image_pair_of_arrays_and_of_a_turned_photograph_is_traced(tmp_path: Path) -> None:
    model = ts.load("phantom")
    other = RGB.copy()
    other[:12] = 0
    exif = Image.Exif()
    exif[EXIF_ORIENTATION] = 3
    turned = tmp_path / "turned.png"
    Image.fromarray(RGB[::-1, ::-1]).save(turned, exif=exif)
    pairs = [
        ts.ImagePair(image=image, counterfactual=other, caption="There is a pacemaker.")
        for image in (RGB, turned, torch.from_numpy(RGB))
    ]
    trace = ts.trace_images(model, pairs, floor=0, progress=False)
    assert np.array_equal(trace.cte[0], trace.cte[1], equal_nan=True)
    assert np.array_equal(trace.cte[0], trace.cte[2], equal_nan=True)
