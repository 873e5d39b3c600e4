"""DICOM files, written by pydicom, become the pictures that their window, LUT and photometric interpretation say."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pydicom
import pytest
import torch
from dicoms import GREY, dicom
from PIL import Image
from pydicom.dataset import Dataset
from pydicom.uid import JPEGLosslessSV1

import tracescribe as ts
from tracescribe.errors import DataFormatError
from tracescribe.patching import read_image


def grey_of(raw: bytes) -> list[int]:
    image = read_image(raw)
    assert image.mode == "RGB"
    values = np.asarray(image)
    assert (values == values[..., :1]).all()
    return values[..., 0].ravel().tolist()


def lut(entries: list[int], bits: int, first: int = 0) -> list[Dataset]:
    table = Dataset()
    table.add_new("LUTDescriptor", "US", [len(entries), first, bits])
    table.add_new("LUTData", "OW", np.array(entries, dtype=np.uint16).tobytes())
    return [table]


def test_without_a_window_the_extremes_are_black_and_white() -> None:
    assert grey_of(dicom()) == [0, 62, 125, 255]  # 255 * x / 4095, rounded
    assert grey_of(dicom(GREY // 2)) == [0, 62, 125, 255]  # whatever the largest value is
    assert grey_of(dicom(np.full((2, 2), 7, dtype=np.uint16))) == [0] * 4


def test_monochrome1_is_inverted() -> None:
    assert grey_of(dicom(PhotometricInterpretation="MONOCHROME1")) == [255, 193, 130, 0]


def test_a_window_clips_and_may_be_narrower_than_the_image() -> None:
    # PS3.3 C.11.2.1.2: centre 1500, width 1001 → (x - 1499.5) / 1000 + 0.5 of white; 1000 is .0005, 2000 is above 1
    assert grey_of(dicom(WindowCenter=1500, WindowWidth=1001)) == [0, 0, 255, 255]
    assert grey_of(dicom(WindowCenter=2000, WindowWidth=4001)) == [0, 64, 128, 255]
    several = dicom(WindowCenter=[2000, 10], WindowWidth=[4001, 2])
    assert grey_of(several) == [0, 64, 128, 255]  # the first of several
    assert grey_of(dicom(WindowCenter=1000, WindowWidth=1000, VOILUTFunction="SIGMOID"))[1] == 128


def test_a_window_wider_than_the_image_is_not_stretched_to_its_extremes() -> None:
    dark = np.array([[0, 100], [200, 400]], dtype=np.uint16)
    assert max(grey_of(dicom(dark, WindowCenter=2048, WindowWidth=4096))) == 25  # 400 of 4095


def test_rescale_comes_before_the_window() -> None:
    signed = np.array([[-1000, 0], [1000, 3000]], dtype=np.int16)
    window = {"WindowCenter": 1000, "WindowWidth": 4001, "RescaleSlope": 1, "RescaleIntercept": -24}
    assert grey_of(dicom(signed, bits=16, **window)) == [0, 62, 126, 254]  # (2976 - 999.5) / 4000 + .5 = .9941
    # A negative slope turns the values round once, not twice.
    turned = {"RescaleSlope": -1, "RescaleIntercept": 4095, "WindowCenter": 2048, "WindowWidth": 4096}
    assert grey_of(dicom(**turned)) == [255, 193, 130, 0]


def test_a_lut_maps_values_and_its_ends_are_black_and_white() -> None:
    entries = [0] * 1000 + [128] * 1000 + [255] * 2096
    for bits in (8, 16):  # entries of 8 bits: an index of 8 bits would wrap around
        assert grey_of(dicom(VOILUTSequence=lut(entries, bits))) == [0, 128, 255, 255]
    assert grey_of(dicom(VOILUTSequence=lut(entries, 16, first=1000))) == [0, 0, 128, 255]


def test_padding_does_not_count_for_the_extremes() -> None:
    padded = np.array([[0, 2000], [3000, 4000]], dtype=np.uint16)
    assert grey_of(dicom(padded, PixelPaddingValue=0)) == [0, 0, 128, 255]


def test_sixteen_bits_and_colour() -> None:
    wide = np.array([[0, 32768], [65535, 65535]], dtype=np.uint16)
    assert grey_of(dicom(wide, bits=16)) == [0, 128, 255, 255]
    colour = np.random.default_rng(0).integers(0, 256, (4, 6, 3), dtype=np.uint8)
    assert (np.asarray(read_image(dicom(colour, bits=8))) == colour).all()


def test_a_model_reads_it_as_the_png_of_the_same_picture(tmp_path: Path) -> None:
    film = np.random.default_rng(0).integers(0, 256, (64, 64), dtype=np.uint8)
    film[0, :2] = 0, 255
    (tmp_path / "film.dcm").write_bytes(dicom(film, bits=8))
    Image.fromarray(film).save(tmp_path / "film.png")
    model = ts.load("phantom")
    # one by one: rows of one product may be rounded differently where several threads share them
    found = [model.encode_images([tmp_path / name]) for name in ("film.dcm", "film.png")]
    assert torch.equal(*found)


@pytest.mark.parametrize(
    ("raw", "message"),
    [
        (dicom(NumberOfFrames=3, PixelData=GREY.tobytes() * 3), "holds 3 frames"),
        (dicom(Rows=60_000, Columns=60_000), "60,000 x 60,000 pixels, and at most"),
        (dicom(PixelData=b"\x00\x00"), "cannot be read: "),
        (dicom(WindowCenter=1, WindowWidth=0), "Window Width must be greater than or equal to 1"),
        (dicom(syntax=JPEGLosslessSV1, PixelData=pydicom.encaps.encapsulate([b"1234"])), "install a decoder"),
        (dicom(syntax=pydicom.uid.DeflatedExplicitVRLittleEndian), "deflated"),
        (dicom()[:140], "cannot be read: |without pixel data"),
        (b"\x00" * 128 + b"DICM", "without pixel data|cannot be read"),
    ],
    ids=["frames", "size", "two bytes", "window", "no decoder", "deflated", "cut short", "a preamble alone"],
)
@pytest.mark.filterwarnings("ignore::UserWarning:pydicom")
def test_what_is_no_single_picture_is_a_sentence_without_patient_data(raw: bytes, message: str) -> None:
    with pytest.raises(DataFormatError, match=message) as refusal:
        read_image(raw)
    assert "\n" not in str(refusal.value)
    assert "Secret" not in str(refusal.value)


def test_without_pydicom_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "pydicom", None)
    (tmp_path / "film.dcm").write_bytes(dicom())
    with pytest.raises(DataFormatError, match=r"film\.dcm' is a DICOM file, which needs pydicom: pip install"):
        read_image(tmp_path / "film.dcm")
