"""Text tables for terminals, Markdown, LaTeX (booktabs) and CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence

from ..errors import DataFormatError
from ..io.spreadsheets import guarded

__all__ = ["FORMATS", "as_table"]

FORMATS = ("text", "markdown", "latex", "csv")
_LATEX = {"\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}"}
_LATEX |= {"<": r"\textless{}", ">": r"\textgreater{}", "|": r"\textbar{}"}  # other signs in the font encoding OT1
_LATEX |= {sign: f"\\{sign}" for sign in "&%$#_{}"}
_MARKDOWN = {"\\": "\\\\", "|": "\\|", "<": "&lt;", "`": "\\`"}


def as_table(header: Sequence[str], rows: Sequence[Sequence[str]], format: str) -> str:
    """Rows of text as one table; the first column is left-aligned, the others right-aligned.

    Raises:
        DataFormatError: another format than one of `FORMATS`.

    >>> print(as_table(["model", "R@1"], [["CLIP", "23.5"], ["a|b", "7.0"]], "markdown"))
    | model | R@1 |
    | --- | ---: |
    | CLIP | 23.5 |
    | a\\|b | 7.0 |
    """
    if format == "csv":
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([guarded(cell) for cell in row] for row in (header, *rows))
        return text.getvalue().rstrip("\n")
    if format == "markdown":
        marks = ["---", *("---:" for _ in header[1:])]
        lines = [[_escaped(cell, _MARKDOWN) for cell in row] for row in (header, *rows)]
        cells = [lines[0], marks, *lines[1:]]
        return "\n".join(f"| {' | '.join(row)} |" for row in cells)
    if format == "latex":
        body = [" & ".join(_escaped(cell, _LATEX) for cell in row) + r" \\" for row in (header, *rows)]
        # "[" and "*" after the end of the row before would be its arguments
        body = ["{}" + line if line.startswith(("[", "*")) else line for line in body]
        columns = "l" + "r" * (len(header) - 1)
        top = [rf"\begin{{tabular}}{{{columns}}}", r"\toprule", body[0], r"\midrule"]
        return "\n".join([*top, *body[1:], r"\bottomrule", r"\end{tabular}"])
    if format == "text":
        header, *rows = ([_on_one_line(cell) for cell in row] for row in (header, *rows))
        widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
        lines = [
            [
                cell.rjust(width) if i else cell.ljust(width)
                for i, (cell, width) in enumerate(zip(row, widths, strict=True))
            ]
            for row in (header, *rows)
        ]
        return "\n".join("  ".join(line).rstrip() for line in lines)
    raise DataFormatError(f"unknown table format {format!r}; choose one of: {', '.join(FORMATS)}")


def _escaped(text: str, signs: Mapping[str, str]) -> str:
    return "".join(signs.get(c, c) for c in _on_one_line(text))


def _on_one_line(text: str) -> str:
    return " ".join(text.splitlines())
