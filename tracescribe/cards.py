"""HTML of results in notebooks: a heading, facts, a table, doubts; everything that comes from outside is escaped."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence, Sized
from dataclasses import fields
from html import escape
from typing import Any

__all__ = ["Markup", "card", "short_repr", "shown_text", "table"]

_LONGEST = 400  # characters of one text: a caption may be a page
_FADED = "opacity:.75"  # not a colour: the text has that of the notebook's theme, light or dark
_CELL = "padding:1px 10px 1px 0;text-align:{};vertical-align:top;border:0"


def short_repr(result: Any) -> str:
    """A dataclass in one line: arrays and tensors by their shape, other collections by their length.

    >>> from dataclasses import make_dataclass
    >>> import numpy as np
    >>> short_repr(make_dataclass("Found", ["values", "names", "ci", "lo"])(np.ones((3, 2)), ("a", "b"), 0.95, None))
    'Found(values [3 × 2], 2 names, ci=0.95)'
    """
    parts = []
    for name in (entry.name for entry in fields(result)):
        value = getattr(result, name)
        if hasattr(value, "shape"):
            parts.append(f"{name} [{' × '.join(map(str, value.shape))}]")
        elif isinstance(value, Sized) and not isinstance(value, str):
            parts.append(f"{len(value)} {name}")
        elif value is not None:
            text = f"{value:.4g}" if isinstance(value, float) else repr(value)
            parts.append(f"{name}={text if len(text) <= 60 else text[:59] + '…'}")
    return f"{type(result).__name__}({', '.join(parts)})"


class Markup(str):
    """HTML that was made here; every other string is escaped."""

    __slots__ = ()


def shown_text(value: object) -> str:
    """A value as HTML text: escaped, shortened, without characters that HTML cannot hold.

    >>> shown_text("<b>\\x00"), shown_text(Markup("<b>x</b>"))
    ('&lt;b&gt;\\ufffd', '<b>x</b>')
    """
    if isinstance(value, Markup):
        return value
    text = str(value)
    text = text if len(text) <= _LONGEST else text[:_LONGEST] + "…"
    return escape("".join(c if c.isprintable() or c in "\n\t" else "\ufffd" for c in text))


def card(
    name: str, about: object, facts: Iterable[tuple[str, object]] = (), *parts: Markup, doubts: Sequence[str] = ()
) -> str:
    """One result: its type and what it is, a line per fact, then pictures and tables, then what to doubt.

    Facts without a value (None, "") are left out. No script, no style sheet, no colour of text: a notebook's theme,
    light or dark, decides.

    >>> print(card("Trace", "3 pairs", [("model", "<mine>"), ("site", None)]))  # doctest: +ELLIPSIS
    <div ...<b>Trace</b> <span ...>3 pairs</span>...model...&lt;mine&gt;...</div>
    """
    told = [(label, value) for label, value in facts if value is not None and str(value) != ""]
    cell = f'<td style="{_CELL.format("left")};'
    rows = "".join(
        f'<tr style="background:none">{cell}{_FADED};white-space:nowrap">{shown_text(label)}</td>'
        f'{cell}overflow-wrap:anywhere">{shown_text(value)}</td></tr>'
        for label, value in told
    )
    listed = (
        f'<table style="border-collapse:collapse;margin:2px 0;border:0;color:inherit;font:inherit">{rows}</table>'
        if rows
        else ""
    )
    warned = "".join(
        f'<div style="border-left:3px solid #c26a00;padding:1px 0 1px 8px;margin:4px 0">{shown_text(doubt)}</div>'
        for doubt in doubts
    )
    return (
        f'<div style="max-width:60em;line-height:1.45"><div><b>{shown_text(name)}</b> '
        f'<span style="{_FADED}">{shown_text(about)}</span></div>{listed}{"".join(parts)}{warned}</div>'
    )


def table(header: Sequence[object], rows: Sequence[Sequence[object]], *, left: int = 1) -> Markup:
    """A table whose first ``left`` columns are text and whose others are numbers; None and NaN are a dash.

    >>> "<td" in table(["layer", "alpha"], [[1, 0.5]]), "–" in table(["a"], [[None]])
    (True, True)
    >>> "0.00<" in table(["layer", "alpha"], [[1, -0.001]])  # no "−0.00"
    True
    """

    def line(tag: str, cells: Sequence[object], more: str) -> str:
        parts = (
            f'<{tag} style="{_CELL.format("left" if i < left else "right")};{more}">{_cell(cell)}</{tag}>'
            for i, cell in enumerate(cells)
        )
        return f'<tr style="background:none">{"".join(parts)}</tr>'

    head = line("th", header, f"font-weight:600;{_FADED};border-bottom:1px solid rgba(128,128,128,.5)")
    body = "".join(line("td", row, "font-variant-numeric:tabular-nums;white-space:nowrap") for row in rows)
    drawn = f'<table style="border-collapse:collapse;margin:4px 0;color:inherit;font:inherit">{head}{body}</table>'
    return Markup(f'<div style="overflow:auto">{drawn}</div>')


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and not math.isfinite(value)):
        return "–"
    return shown_text(f"{value:z.2f}".replace("-", "−") if isinstance(value, float) else value)
