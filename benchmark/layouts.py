"""Tables in the form of the method's paper: retrieval and claims (1), affirmative ones only (2), the gap (3)."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from ..errors import DataFormatError

if TYPE_CHECKING:
    from .comparison import Comparison, Difference

__all__ = ["LAYOUTS", "Layout", "layout_rows"]

Layout = Literal["tasks", "negation", "affirmative", "gap"]
LAYOUTS: tuple[Layout, ...] = ("tasks", "negation", "affirmative", "gap")
ALL = "all items"
Measure = tuple[str, str, str]  # task, subset, value


def _whole(*tasks: str) -> list[Measure]:
    return [(task, ALL, ALL) for task in tasks]


# By layout, the columns and what fills them: the first measure that the comparison has.
COLUMNS: Mapping[str, Sequence[tuple[str, Sequence[Measure]]]] = {
    "negation": (
        ("R@1", _whole("image_to_text_r1_captions", "image_to_text_r1")),
        ("R@5", _whole("image_to_text_r5_captions", "image_to_text_r5")),
        ("claim accuracy", _whole("claims")),
    ),
    "affirmative": (
        ("R@1", _whole("image_to_text_r1_affirmative")),
        ("R@5", _whole("image_to_text_r5_affirmative")),
        ("claim accuracy", [("claims", "polarity", "affirmative")]),
    ),
}


def layout_rows(found: Comparison, layout: Layout) -> tuple[list[str], list[list[str]]]:
    """The header and one row per model, in percent; ``*`` marks a difference from the first model with q < 0.05.

    Raises:
        DataFormatError: another layout is asked for, or nothing of the layout was scored.
    """
    if layout not in LAYOUTS:
        raise DataFormatError(f"unknown table layout {layout!r}; choose one of: {', '.join(LAYOUTS)}")
    if layout == "gap":
        if not found.gaps:
            raise DataFormatError(
                "the table of gaps needs multiple choice in both wordings (mcq_affirmative and mcq_negated)"
            )
        return (
            ["model", "affirmative", "negated", "gap", "both right"],
            [
                [g.model, *(f"{v:.1f}" for v in (g.affirmative, g.negated)), str(g.gap), f"{g.both_right:.1f}"]
                for g in found.gaps
            ],
        )
    cells = {(one.model, one.task, one.subset, one.value): one for one in found.differences}
    if layout == "tasks":
        tasks = dict.fromkeys(one.task for one in found.differences)
        columns: Sequence[tuple[str, Sequence[Measure]]] = [(task, _whole(task)) for task in tasks]
    else:
        columns = COLUMNS[layout]
    chosen = [
        (title, next((m for m in measures if (found.models[0], *m) in cells), None)) for title, measures in columns
    ]
    if not any(measure for _, measure in chosen):
        needed = ", ".join(measures[0][0] for _, measures in columns)
        raise DataFormatError(f"nothing of the table {layout!r} was scored: it needs {needed}")
    rows = []
    for model in found.models:
        row = [_cell(None if measure is None else cells[(model, *measure)]) for _, measure in chosen]
        if layout == "tasks" and found.gaps:
            row.append(f"{next(gap.gap.value for gap in found.gaps if gap.model == model):.1f}")
        rows.append([model, *row])
    return ["model", *(title for title, _ in chosen), *(["gap"] if layout == "tasks" and found.gaps else [])], rows


def _cell(one: Difference | None) -> str:
    if one is None:
        return "–"
    return f"{one.accuracy.value:.1f}{'*' if one.q is not None and one.q < 0.05 else ''}"
