"""The report page: text, figures, tables and images in one self-contained HTML file that a person opens or prints."""

from __future__ import annotations

import base64
import math
import numbers
import os
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from ...arguments import explains_arguments
from ...errors import DataFormatError, FigureError
from ...io.atomic import ensure_writable, write_atomically
from ...io.quoting import shown, shown_path
from ...io.reading import MAX_DOCUMENT, read_bytes
from ...validation import is_whole
from .. import theme
from ..figure_data.labels import MINUS, writable
from ..interactive.html import figure_div, plotly_script
from ..paper.figure import PaperFigure
from ..paper.files import PaperOptions, rendered

if TYPE_CHECKING:
    import plotly.graph_objects as go

__all__ = ["Note", "Picture", "Plot", "Report", "Section", "Table", "report"]

_NUMERIC = re.compile(r"[-−+±]?\d[\d\s.,…–−±%()\[\]+-]*(pp)?")
_PICTURE = PaperOptions("page", dpi=200)
_SIGNATURES = {b"\x89PNG\r\n\x1a\n": "image/png", b"\xff\xd8\xff": "image/jpeg", b"GIF8": "image/gif"}


@dataclass(frozen=True, eq=False)
class Plot:
    """A plotly figure, or one of :func:`tracescribe.viz.panels` and its like, with what is said under it.

    alt: what a screen reader says in its place.
    """

    figure: go.Figure | PaperFigure
    caption: str = ""
    alt: str = ""


@dataclass(frozen=True, eq=False)
class Picture:
    """A bitmap: a path, or the bytes of a PNG, JPEG or GIF file; or several side by side under one caption."""

    image: str | os.PathLike[str] | bytes | Sequence[str | os.PathLike[str] | bytes]
    caption: str = ""
    alt: str = ""


@explains_arguments
@dataclass(frozen=True)
class Table:
    """Rows of numbers and text. Numbers are aligned right; None and NaN are shown as a dash.

    highlight: numbers of the rows to stress.
    decimals: of floats; text is shown as it is, so format what needs another form.
    """

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    caption: str = ""
    highlight: Sequence[int] = ()
    decimals: int = 2

    def __post_init__(self) -> None:
        if not is_whole(self.decimals, 0, 100):
            raise FigureError(f"decimals must be a whole number from 0 to 100, not {shown(self.decimals)}")
        for i, row in enumerate(self.rows):
            if len(row) != len(self.columns):
                raise FigureError(f"row {i} of the table has {len(row)} cells, its header {len(self.columns)}")

    def numeric(self, column: int) -> bool:
        """Whether the column holds numbers only, or text such as "77.4 ± 0.3" and "0.1 … 0.4", and gaps.

        >>> table = Table(["way", "gap"], [["uniform", "18.2 (17.9–18.5)"], ["NAST", ""]])
        >>> table.numeric(0), table.numeric(1)
        (False, True)
        """
        cells = [row[column] for row in self.rows if row[column] not in (None, "")]
        return bool(cells) and all(_is_number(cell) or _NUMERIC.fullmatch(str(cell)) for cell in cells)

    def text(self, column: int, cell: Any) -> str:
        """A cell as it is shown; a column of whole numbers only has no decimals.

        >>> table = Table(["pairs", "gap"], [[1200, 18.26], [24, 3]], decimals=1)
        >>> [table.text(i, cell) for row in table.rows for i, cell in enumerate(row)]
        ['1,200', '18.3', '24', '3.0']
        >>> table.text(1, -0.01), table.text(1, -3), table.text(1, None), table.text(1, "−3 pp")
        ('0.0', '−3.0', '–', '−3 pp')
        """
        if cell is None or (_is_number(cell) and not math.isfinite(cell)):
            return "–"
        if not _is_number(cell):
            return str(cell)
        whole = all(isinstance(row[column], numbers.Integral) for row in self.rows if _is_number(row[column]))
        shown = f"{cell:,.{0 if whole else self.decimals}f}"
        negative = shown.startswith("-")
        digits = shown.lstrip("-")
        return MINUS + digits if negative and digits.strip("0.,") else digits


@dataclass(frozen=True)
class Note:
    """A callout: something to know before believing the numbers ("caution"), or beside them ("note")."""

    text: str
    kind: Literal["note", "caution"] = "note"
    heading: str = ""


@dataclass(frozen=True, eq=False)
class Section:
    """A part of the page, in this order: paragraphs, notes, figures, tables, pictures."""

    heading: str
    text: Sequence[str] = ()
    figures: Sequence[Plot | go.Figure | PaperFigure] = ()
    tables: Sequence[Table] = ()
    images: Sequence[Picture] = ()
    notes: Sequence[Note | str] = ()
    code: Sequence[str] = ()


@dataclass(frozen=True, eq=False)
class Report:
    """A page: a title, a lead that says the result, and sections.

    facts: short label and value pairs under the lead, for the few numbers that matter.
    footer: how the page came to be: versions, seeds, commands.
    """

    title: str
    lead: str = ""
    sections: Sequence[Section] = field(default_factory=tuple)
    facts: Sequence[tuple[str, str]] = ()
    footer: str = ""


@explains_arguments
def report(path: str | os.PathLike[str], page: Report) -> Path:
    """Write ``page`` as one HTML file that needs no network: images and plotly.js are inside. Returns the path.

    All text is shown as it is: "<b>" in a caption or a token stays "<b>".

    Raises:
        DataFormatError: an image that cannot be read, or is no PNG, JPEG or GIF.
        FigureError: a figure that is no plotly figure.
        OutputError: nothing can be written at ``path``; nothing was written.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     written = report(f"{folder}/report.html", Report("A trace", "Layer 2 carries <no>."))
    ...     "Layer 2 carries &lt;no&gt;." in written.read_text(encoding="utf-8")
    True
    """
    import jinja2

    ensure_writable(path)
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("tracescribe.viz.reports", "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        finalize=_writable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    sections = [_prepared(section, number) for number, section in enumerate(page.sections, 1)]
    html = environment.get_template("report.html.j2").render(
        page=page,
        sections=sections,
        theme=theme,
        script=plotly_script() if any(section["plots"] for section in sections) else "",
    )
    with write_atomically(path, binary=True) as handle:
        handle.write(html.encode("utf-8"))
    return Path(path)


def _writable(value: Any) -> Any:
    """A user's text without characters that HTML cannot hold; what is markup already stays as it is."""
    return value if not isinstance(value, str) or hasattr(value, "__html__") else writable(value)


def _prepared(section: Section, number: int) -> dict[str, Any]:
    """What the template needs of a section: figures as fragments, images as data."""
    from markupsafe import Markup

    plots, pictures = [], []
    drawn: list[Picture] = []
    for i, plot in enumerate(section.figures, 1):
        plot = plot if isinstance(plot, Plot) else Plot(plot)
        if isinstance(plot.figure, PaperFigure):
            drawn.append(Picture(rendered(plot.figure.shown, ".png", _PICTURE), plot.caption, plot.alt))
            continue
        fragment = figure_div(plot.figure, f"figure-{number}-{i}")
        plots.append({"html": Markup(fragment), "caption": plot.caption, "alt": plot.alt or _described(plot)})
    for picture in (*drawn, *section.images):
        images = [picture.image] if isinstance(picture.image, str | os.PathLike | bytes) else list(picture.image)
        pictures.append({"uris": [_data_uri(image) for image in images], "of": picture})
    notes = [note if isinstance(note, Note) else Note(note) for note in section.notes]
    return {"anchor": f"section-{number}", "of": section, "plots": plots, "pictures": pictures, "notes": notes}


def _described(plot: Plot) -> str:
    return plot.caption or "Interactive figure"


def _data_uri(image: str | os.PathLike[str] | bytes) -> str:
    if isinstance(image, bytes):
        content, name = image, "an image of the report"
    else:
        content, name = read_bytes(image, MAX_DOCUMENT), f"the image {shown_path(image)}"
    kind = next((kind for start, kind in _SIGNATURES.items() if content.startswith(start)), None)
    if kind is None:
        raise DataFormatError(f"{name} is not a PNG, JPEG or GIF image")
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _is_number(cell: Any) -> bool:
    return isinstance(cell, numbers.Real) and not isinstance(cell, bool)
