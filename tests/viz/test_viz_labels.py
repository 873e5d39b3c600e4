"""Text in figures: short, readable, and never a lie about a number."""

from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from tracescribe.viz import theme
from tracescribe.viz.figure_data.labels import cell_text, plotly_text, shorten, tidy_token, wrap_phrases


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
    assert shown and shown.strip()
    shown.encode("utf-8")
    assert not any(ord(c) < 32 for c in shown)


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


def test_text_contrasts_with_every_cell_colour() -> None:
    def luminance(rgb: tuple[float, ...]) -> float:
        return float(
            np.dot([0.2126, 0.7152, 0.0722], [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in rgb])
        )

    for value in np.linspace(-1, 1, 201):
        cell = luminance(theme.colour_at(value, 1.0))
        ink = theme.text_colour(value, 1.0)
        text = luminance(tuple(int(ink[i : i + 2], 16) / 255 for i in (1, 3, 5)))
        # The best that black or white can do on a mid tone is 4.6; ours is a soft black.
        assert (max(cell, text) + 0.05) / (min(cell, text) + 0.05) >= 4.0


def test_opposite_values_have_mirrored_colours() -> None:
    for value in (0.1, 0.5, 1.0):
        red, _, blue = theme.colour_at(value, 1.0)
        assert red > blue
        red, _, blue = theme.colour_at(-value, 1.0)
        assert red < blue
