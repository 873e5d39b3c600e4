"""Text in figures: short, readable, and never a lie about a number."""

from __future__ import annotations

import unicodedata

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tracescribe.viz import theme
from tracescribe.viz.figure_data.labels import cell_text, clean, plotly_text, shorten, tidy_token, wrap_phrases


@given(st.floats(-1e4, 1e4))
def test_a_cell_reads_back_as_its_value(value: float) -> None:
    text = cell_text(value)
    step = 0.01 if abs(value) < 9.99 else 0.1 if abs(value) < 99.9 else 1.0
    assert abs(float(text.replace("−", "-")) - value) <= step / 2 * (1 + 1e-9)
    assert len(text) <= 6 and "-" not in text


@given(st.floats(-0.00499, 0.00499))
def test_no_negative_zero(value: float) -> None:
    assert "−" not in cell_text(value)


def test_only_exact_cells_lose_their_decimals() -> None:
    assert (cell_text(1.0), cell_text(0.0)) == ("1", "0")
    assert (cell_text(0.9999), cell_text(0.0001)) == ("1.00", ".00")


@given(st.text(min_size=1, max_size=30))
def test_a_tidied_token_is_visible_and_writable(token: str) -> None:
    shown = tidy_token(token)
    assert any(unicodedata.category(c) not in ("Cf", "Zs", "Zl", "Zp") for c in shown)
    shown.encode("utf-8")
    assert not any(ord(c) < 32 for c in shown)


def test_nothing_invisible_and_nothing_that_turns_the_text() -> None:
    assert [tidy_token(one) for one in ("\u200d", "\u200b\ufeff", "a\u200db")] == [
        "[U+200D]",
        "[U+200B] [U+FEFF]",
        "a\u200db",
    ]
    assert tidy_token("\u202eevil\u2066") == clean("\u202eevil\u2066") == "\ufffdevil\ufffd"


@given(st.text(max_size=40))
def test_no_markup_survives_escaping(text: str) -> None:
    safe = plotly_text(text)
    assert "<" not in safe and ">" not in safe and "$" not in safe


@given(st.text(max_size=60), st.integers(4, 30))
def test_shortening_keeps_both_ends(text: str, limit: int) -> None:
    short = shorten(text, limit)
    assert len(short) <= limit
    assert short == text if len(text) <= limit else short[0] == text[0] and short[-1] == text[-1]


@given(st.lists(st.text("abc ", min_size=1, max_size=30).filter(str.strip), max_size=8), st.integers(8, 60))
def test_wrapping_loses_no_word(phrases: list[str], columns: int) -> None:
    lines = wrap_phrases(tuple(phrases), columns)
    words = " ".join(lines).replace("·", " ").split()
    assert "".join(words) == "".join(" ".join(phrases).split())
    assert all(len(line) <= columns for line in lines)


@pytest.mark.parametrize("palette", theme.PALETTES)
def test_text_contrasts_with_every_cell_colour(palette: str) -> None:
    def luminance(rgb: tuple[float, ...]) -> float:
        return float(
            np.dot([0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb])
        )

    for value in np.linspace(-1, 1, 201):
        cell = luminance(theme.colour_at(value, 1.0, palette))
        ink = theme.text_colour(value, 1.0, palette)
        text = luminance(tuple(int(ink[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        # The best that black or white can do on a mid tone is 4.6; ours is a soft black.
        assert (max(cell, text) + 0.05) / (min(cell, text) + 0.05) >= 4.0


def test_opposite_values_have_mirrored_colours() -> None:
    for value in (0.1, 0.5, 1.0):
        red, _, blue = theme.colour_at(value, 1.0)
        assert red > blue
        red, _, blue = theme.colour_at(-value, 1.0)
        assert red < blue


# Machado, Oliveira, Fernandes 2009, severity 1; on linear RGB.
DEFICIENCIES = {
    "protan": [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]],
    "deutan": [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]],
    "tritan": [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]],
}


def linear(rgb: object) -> np.ndarray:
    values = np.asarray(rgb)
    return np.where(values <= 0.04045, values / 12.92, ((values + 0.055) / 1.055) ** 2.4)


def lab(linear_rgb: np.ndarray) -> np.ndarray:
    """CIELAB (D65) of linear RGB: a difference of 2.3 is just seen (Mahy and others, 1994)."""
    to_xyz = np.array([[0.4124, 0.3576, 0.1805], [0.2126, 0.7152, 0.0722], [0.0193, 0.1192, 0.9505]])
    x, y, z = np.cbrt(to_xyz @ np.clip(linear_rgb, 0, 1) / np.array([0.9505, 1.0, 1.089]))
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


@pytest.mark.parametrize("palette", theme.PALETTES)
@pytest.mark.parametrize("kind", DEFICIENCIES)
def test_signs_stay_apart_for_colour_blind_readers(kind: str, palette: str) -> None:
    seen = np.array(DEFICIENCIES[kind])
    for value in np.linspace(0.2, 1.0, 9):
        sides = [lab(seen @ linear(theme.colour_at(sign * value, 1.0, palette))) for sign in (-1, 1)]
        assert np.linalg.norm(sides[0] - sides[1]) > 4 * 2.3  # four times the difference that is just seen


@pytest.mark.parametrize("palette", theme.PALETTES)
def test_strength_can_be_read_in_grey(palette: str) -> None:
    for sign in (-1, 1):
        lightness = [lab(linear(theme.colour_at(sign * value, 1.0, palette)))[0] for value in np.linspace(0, 1, 101)]
        assert (np.diff(lightness) < 0).all() and lightness[0] - lightness[-1] > 60


def test_curves_are_readable_on_white_and_differ_without_colour() -> None:
    from tracescribe.viz.interactive.profile import _DASHES, _SYMBOLS

    assert len(set(zip(_DASHES, _SYMBOLS, strict=True))) == len(theme.SERIES)
    for colour in theme.SERIES:
        assert lab(linear([int(colour[i : i + 2], 16) / 255 for i in (1, 3, 5)]))[0] < 75
