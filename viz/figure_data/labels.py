"""Text in figures: readable token strings, short numbers, and escaping for HTML."""

from __future__ import annotations

import html
import math
import re
import textwrap
import unicodedata

from ...io.quoting import plural
from ...token_strings import JOIN, bare

__all__ = [
    "MINUS",
    "cell_text",
    "clean",
    "number",
    "plotly_text",
    "plural",
    "quoted",
    "shorten",
    "tex_text",
    "text_units",
    "tidy_token",
    "wrap_phrases",
    "writable",
]

_SPECIALS = {
    "<|startoftext|>": "[SOT]",
    "<start_of_text>": "[SOT]",
    "<|endoftext|>": "[EOT]",
    "<end_of_text>": "[EOT]",
    "<bos>": "[BOS]",
    "<s>": "[BOS]",
    "<eos>": "[EOS]",
    "</s>": "[EOS]",
    "<pad>": "[PAD]",
}
_APART = "\0"  # between characters that TeX would draw as one
_TEX = {
    "\\": r"\textbackslash{}", "&": r"\&", "%": r"\%", "$": r"\$", "#": r"\#", "_": r"\_", "{": r"\{", "}": r"\}",
    "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}", ">": r"\textgreater{}",
    "−": "$-$", "→": r"$\rightarrow$", "≤": r"$\leq$", "≥": r"$\geq$", "·": r"$\cdot$", "×": r"$\times$",
    "α": r"$\alpha$", "β": r"$\beta$", "–": "--", "—": "---", "“": "``", "”": "''", "…": r"\ldots{}",
    "|": r"\textbar{}", "`": r"\`{}", _APART: "{}",
}  # fmt: skip
MINUS = "−"  # a true minus sign: as wide as a digit, and not taken for a hyphen


def tidy_token(token: str, special: bool = False) -> str:
    """A token string as a person reads it: marks of word ends and word starts removed, the invisible made visible.

    special: whether the position is a special token; the characters "<s>" of a caption stay what they are.

    >>> [tidy_token(t) for t in ("severe</w>", "Ġedema", "▁no", "##itis", "<b>", " ", "</w>")]
    ['severe', 'edema', 'no', '·itis', '<b>', '␣', '</w>']
    >>> tidy_token("<|startoftext|>", special=True), tidy_token("<s>", special=True), tidy_token("<s>")
    ('[SOT]', '[BOS]', '<s>')
    """
    if token in _SPECIALS and (special or "_of_text" in token or "|" in token):
        return _SPECIALS[token]
    plain = "" if token in ("Ġ", "▁") else bare(token)
    if len(plain) > 2 and plain.startswith("##"):
        plain = JOIN + plain[2:]
    shown = clean("".join(map(_visible, plain))).strip()
    if shown and all(unicodedata.category(character) in ("Cf", "Zs", "Zl", "Zp") for character in shown):
        return " ".join(f"[U+{ord(character):04X}]" for character in shown)  # joiners, marks of direction
    return shown or "␣"


def _visible(character: str) -> str:
    return {"\n": "⏎", "\r": "⏎", "\t": "⇥"}.get(character, character)


def clean(text: str) -> str:
    """Text that every format can hold, on one line: SVG, HTML and PDF have no control characters, UTF-8 no surrogates.

    >>> clean("a\\x01b\\ud800 c\\n d") == "a\\ufffdb\\ufffd c d"
    True
    """
    return writable(re.sub(r"[\t\n\r]+ *", " ", text))


def writable(text: str) -> str:
    """Text with a replacement for each character that XML, HTML or UTF-8 cannot hold; line ends and tabs stay.

    Characters that turn the direction of the text after them are replaced too: a caption must not turn its page.

    >>> writable("a\\x00b\\n") == "a\\ufffdb\\n"
    True
    """
    return "".join("\ufffd" if _unwritable(character) else character for character in text)


def _unwritable(character: str) -> bool:
    control = unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\r\t"
    turned = "\u202a" <= character <= "\u202e" or "\u2066" <= character <= "\u2069"
    return control or turned or ord(character) & 0xFFFE == 0xFFFE


def quoted(value: object, limit: int = 80) -> str:
    """A user's value for a message: as Python writes it, shortened.

    >>> quoted("x" * 15_000, 12)
    "'xxxxx…xxxx'"
    """
    return shorten(repr(value), limit)


def shorten(text: str, limit: int = 24) -> str:
    """At most ``limit`` characters, with an ellipsis in the middle: a chest finding differs at its end too.

    >>> shorten("pneumonoultramicroscopicsilicovolcanoconiosis", 12)
    'pneumo…iosis'
    """
    if len(text) <= limit:
        return text
    return text[: limit // 2] + "…" + text[len(text) - (limit - 1) // 2 :]


def cell_text(value: float) -> str:
    """A value in as few characters as carry two decimals; 0 and 1 without decimals only where they are exact.

    >>> [cell_text(v) for v in (0.05, -0.004, 0.0, 1.0, 0.998, -0.12, 1.346, -12.34, float("nan"))]
    ['.05', '.00', '0', '1', '1.00', '−.12', '1.35', '−12.3', '']
    """
    if not math.isfinite(value):
        return ""
    for exact in (0, 1):
        if abs(value - exact) < 5e-7:  # what float32 leaves of an exact cell
            return str(exact)
    decimals = 2 if abs(value) < 9.995 else 1 if abs(value) < 99.95 else 0
    digits = f"{abs(value):.{decimals}f}"
    sign = MINUS if value < 0 and float(digits) != 0 else ""
    return sign + (digits[1:] if digits.startswith("0.") else digits)


def number(value: float, decimals: int = 3) -> str:
    """A value for running text: a true minus sign, no "−0.000".

    >>> number(-0.25), number(-0.0001), number(float("nan"))
    ('−0.250', '0.000', 'none')
    """
    if not math.isfinite(value):
        return "none"
    digits = f"{abs(value):.{decimals}f}"
    return (MINUS if value < 0 and float(digits) != 0 else "") + digits


def plotly_text(text: str) -> str:
    """Text that plotly shows as it is: plotly reads HTML tags, and LaTeX between dollar signs where MathJax is loaded.

    >>> plotly_text("<b> costs $5$ & up")
    '&lt;b&gt; costs &#36;5&#36; &amp; up'
    """
    return html.escape(text, quote=False).replace("$", "&#36;")


def tex_text(text: str) -> str:
    """Text that LaTeX typesets as it is.

    >>> tex_text("50_% $x$ → {y}")
    '50\\\\_\\\\% \\\\$x\\\\$ $\\\\rightarrow$ \\\\{y\\\\}'
    >>> tex_text("a|b--c")
    'a\\\\textbar{}b-{}-c'
    """
    apart = re.sub(r"([-',])(?=\1)", rf"\1{_APART}", text)
    return "".join(_TEX.get(character, character) for character in apart)


def text_units(text: str) -> float:
    """Rough width of a text in ems: what a layout needs before anything is drawn.

    >>> text_units("no") < text_units("無し")
    True
    """
    return sum(_units(character) for character in text)


def _units(character: str) -> float:
    if unicodedata.combining(character):
        return 0.0
    if unicodedata.east_asian_width(character) in ("W", "F"):
        return 1.05
    if character in "ijl.,:;'|!I[]()ftr ":
        return 0.34
    return 0.86 if character in "mwMW@%" else 0.66 if character.isupper() else 0.57


def wrap_phrases(phrases: tuple[str, ...], columns: int) -> list[str]:
    """Phrases joined by middle dots, broken into lines of about ``columns`` characters between phrases where possible.

    >>> wrap_phrases(("24 pairs", "ratio of means", "foil → correct"), 28)
    ['24 pairs · ratio of means', 'foil → correct']
    """
    lines: list[str] = []
    for phrase in phrases:
        for piece in textwrap.wrap(phrase, max(columns, 8)) or [""]:
            joined = f"{lines[-1]} · {piece}" if lines else piece
            if lines and len(joined) <= columns:
                lines[-1] = joined
            else:
                lines.append(piece)
    return lines
