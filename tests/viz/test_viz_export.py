"""Paper figures: vector, embedded fonts, an exact width, the same bytes each time, no display, nothing colliding."""

from __future__ import annotations

import contextlib
import inspect
import itertools
import os
import re
import struct
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import matplotlib
import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.errors import OutputError
from tracescribe.tracer import LayerProfile, TraceMap
from tracescribe.viz import FigureError, export, export_overlay, heatmap, overlay, profile
from tracescribe.viz.figure_data import heatmap_data
from tracescribe.viz.paper.files import FORMATS, matplotlib_settings
from tracescribe.viz.paper.fonts import Fonts
from tracescribe.viz.paper.heatmap import draw_heatmap

TRACE = synthetic_trace(8, 12)
WORDS = ("[SOT]", "there", "is", "no", "severe", "cardiomegaly", "in", "the", "right", "<b>", "$x$", "pneumothorax")


def a_map(n_columns: int, n_layers: int, marked: int = 3) -> TraceMap:
    rows = [WORDS[i % len(WORDS)] for i in range(n_columns)]
    rows[marked] = "first differing"
    values = np.random.default_rng(0).normal(0, 0.4, (n_layers + 1, n_columns))
    return TraceMap(values, tuple(rows), np.arange(n_layers + 1), np.full(n_columns, 9))


def size_in_inches(content: bytes) -> tuple[float, float]:
    box = re.search(rb"/MediaBox \[ ?([-\d. ]+)\]", content)
    assert box is not None
    left, bottom, right, top = map(float, box[1].split())
    return (right - left) / 72, (top - bottom) / 72


@pytest.mark.parametrize("suffix", FORMATS)
def test_the_same_data_give_the_same_bytes(tmp_path: Path, suffix: str) -> None:
    # Embedding fonts in an EPS takes matplotlib seconds for each face, and a profile has one.
    source = TRACE.per_layer() if suffix == ".eps" else TRACE
    first, second = (export(source, tmp_path / f"{name}{suffix}").read_bytes() for name in ("one", "two"))
    assert first == second and len(first) > 2000


@pytest.mark.parametrize(("width", "inches"), [("column", 3.25), ("page", 6.75), (4.5, 4.5)])
def test_the_file_is_exactly_as_wide_as_asked(tmp_path: Path, width: str | float, inches: float) -> None:
    content = export(TRACE, tmp_path / "figure.pdf", width).read_bytes()
    assert size_in_inches(content)[0] == pytest.approx(inches, abs=1e-6)
    png = export(TRACE, tmp_path / "figure.png", width, dpi=200).read_bytes()
    assert struct.unpack(">I", png[16:20])[0] == round(200 * inches)
    for source in (TRACE, TRACE.per_layer(), a_map(40, 24)):
        svg = export(source, tmp_path / "figure.svg", width).read_text(encoding="utf-8")
        found = re.search(r'<svg[^>]* width="([\d.]+)pt"', svg)
        assert found is not None and float(found[1]) == pytest.approx(72 * inches, abs=1e-6)


@pytest.mark.parametrize("source", [TRACE, TRACE.per_layer()], ids=["heatmap", "profile"])
def test_a_pdf_embeds_truetype_fonts_and_holds_no_bitmap(tmp_path: Path, source: object) -> None:
    content = export(source, tmp_path / "figure.pdf").read_bytes()
    assert b"/FontFile2" in content and b"/Type3" not in content
    assert b"/Subtype /Image" not in content and b"/DCTDecode" not in content
    assert "<image" not in export(source, tmp_path / "figure.svg").read_text(encoding="utf-8")


def test_an_eps_embeds_truetype_fonts_and_holds_no_bitmap(tmp_path: Path) -> None:
    eps = export(TRACE.per_layer(), tmp_path / "figure.eps").read_bytes()
    assert b"/FontType 42" in eps and b"colorimage" not in eps and b"CreationDate" not in eps


def test_it_needs_no_display_and_no_pyplot(tmp_path: Path) -> None:
    code = f"""
import sys
import numpy as np
from tracescribe.tracer import LayerProfile, TraceMap
from tracescribe.viz import export
values, counts = np.array([[1.0, 0.0], [0.6, 0.3]]), np.array([5, 5])
export(TraceMap(values, ("first differing", "[end]"), np.arange(2), counts), {str(tmp_path / "a.pdf")!r})
print([name for name in ("matplotlib.pyplot", "torch", "plotly") if name in sys.modules])
"""
    quiet = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "MPLBACKEND")}
    done = subprocess.run([sys.executable, "-c", code], env=quiet, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]" and (tmp_path / "a.pdf").stat().st_size > 1000


def test_the_users_matplotlib_settings_are_neither_used_nor_changed(tmp_path: Path) -> None:
    plain = export(TRACE, tmp_path / "plain.pdf").read_bytes()
    with matplotlib.rc_context(
        {"font.size": 30, "axes.facecolor": "black", "pdf.fonttype": 3, "savefig.bbox": "tight"}
    ):
        before = dict(matplotlib.rcParams)
        assert export(TRACE, tmp_path / "styled.pdf").read_bytes() == plain
        assert dict(matplotlib.rcParams) == before


@pytest.mark.parametrize("family", ["DejaVu Sans", "DejaVu Serif"])
@pytest.mark.parametrize("size", [6.5, 9, 12])
def test_names_of_axes_stay_inside_at_every_size(family: str, size: float) -> None:
    with matplotlib_settings():
        figure = draw_heatmap(heatmap_data(a_map(5, 12)), Fonts(family, size), 3.0, ("", ()), values=False, height=None)
        figure.draw_without_rendering()
        names = [axis.label for axes in figure.axes for axis in (axes.xaxis, axes.yaxis) if axis.label.get_text()]
        assert {name.get_text() for name in names} >= {"layer"} and len(names) == 2  # and the profile's
        for name in names:
            box = name.get_window_extent()
            assert box.x0 >= 0 and box.x1 <= figure.bbox.width, name.get_text()


def test_a_profile_of_some_layers_stands_beside_those(tmp_path: Path) -> None:
    """Its points were drawn from the lowest line of cells upwards, beside other layers than theirs."""
    curve = LayerProfile(np.array([0.5, 0.25, 0.75]), np.array([2, 3, 7]), "sum")
    view = heatmap_data(a_map(5, 8), profile=curve)
    with matplotlib_settings():
        figure = draw_heatmap(view, Fonts(), 3.25, ("", ()), values=False, height=None)
    lines = [(*line.get_xdata(), *line.get_ydata()) for axes in figure.axes for line in axes.lines]
    assert (0.5, 0.25, 0.75, 2, 3, 7) in lines
    with pytest.raises(FigureError, match="the profile has layer 9, and the map layers 0 to 8"):
        export(a_map(5, 8), tmp_path / "a.pdf", profile=LayerProfile(np.zeros(2), np.array([8, 9]), "sum"))


@pytest.mark.parametrize("quantity", ["CTE of the first 50 neurons, summed", "CTE" + 12 * ", a long name"])
def test_a_long_name_of_the_scale_stays_inside(quantity: str) -> None:
    view = replace(heatmap_data(a_map(4, 4)), quantity=quantity)
    with matplotlib_settings():
        figure = draw_heatmap(view, Fonts(), 3.25, ("", ()), values="auto", height=None)
        figure.draw_without_rendering()
        [name] = [text for axes in figure.axes for text in axes.texts if text.get_text() == view.quantity]
        numbers = next(axes for axes in figure.axes if name in axes.texts).get_xticklabels()
        assert name.get_window_extent().x0 >= 0
        boxes = [number.get_window_extent() for number in numbers]
        assert all(one.x1 < other.x0 for one, other in itertools.pairwise(boxes))


@pytest.mark.parametrize("inches", [3.25, 6.75])
@pytest.mark.parametrize(("n_columns", "n_layers"), [(4, 4), (6, 12), (12, 12), (14, 24), (30, 12), (77, 12), (77, 32)])
def test_no_text_is_cut_off_or_collides(n_columns: int, n_layers: int, inches: float) -> None:
    view = heatmap_data(a_map(n_columns, n_layers))
    crowded = n_columns == 77 and inches < 4
    says = pytest.warns(UserWarning, match="77 columns in 3.25 inches") if crowded else contextlib.nullcontext()
    with matplotlib_settings(), says:
        figure = draw_heatmap(view, Fonts(), inches, ("", ()), values="auto", height=None)
        figure.draw_without_rendering()
        width, height = figure.bbox.width, figure.bbox.height
        texts = [
            text for axes in figure.axes for text in (*axes.texts, *axes.get_xticklabels(), *axes.get_yticklabels())
        ]
        boxes = {}
        for text in texts:
            if text.get_text():
                box = text.get_window_extent()
                assert box.x0 >= -0.5 and box.x1 <= width + 0.5, text.get_text()
                assert box.y0 >= -0.5 and box.y1 <= height + 0.5, text.get_text()
                boxes[text] = box
        upright = [box for text, box in boxes.items() if text.get_rotation() in (0.0, 90.0)]
        # A hundredth of an inch of overlap is the empty rim that a glyph's box has.
        slack = 0.01 * figure.dpi
        for i, one in enumerate(upright):
            for other in upright[:i]:
                across = min(one.x1, other.x1) - max(one.x0, other.x0)
                along = min(one.y1, other.y1) - max(one.y0, other.y0)
                assert min(across, along) <= slack
        tokens = [text for text in boxes if text.get_text() in {*view.labels} and text.get_rotation() in (45.0, 90.0)]
        assert all(text.get_fontsize() >= 4.5 for text in tokens)
        named = [text.get_text() for text in boxes if text.get_text() in {*view.labels}]
        assert "first differing" in named and len(named) >= (n_columns if not crowded else 20)
        assert height / figure.dpi < 6.5  # a page holds it


def test_markup_and_dollars_are_drawn_as_they_are(tmp_path: Path) -> None:
    svg = export(a_map(12, 6), tmp_path / "figure.svg", "page").read_text(encoding="utf-8")
    assert "&lt;b&gt;" in svg and "$x$" in svg


def test_values_are_written_only_where_they_fit(tmp_path: Path) -> None:
    few = export(a_map(8, 6), tmp_path / "few.svg").read_text(encoding="utf-8").count("<text")
    many = export(a_map(60, 6), tmp_path / "many.svg").read_text(encoding="utf-8").count("<text")
    assert few > 7 * 8 > many - 60 - 7 * 6
    none = export(a_map(8, 6), tmp_path / "none.svg", values=False).read_text(encoding="utf-8").count("<text")
    assert few - none == 7 * 8


def test_a_character_that_no_font_has_is_replaced_with_a_warning(tmp_path: Path) -> None:
    rows = ("\U000e0fff", "first differing")  # a code point that is not assigned
    cells = TraceMap(np.eye(2), rows, np.arange(2), np.array([1, 1]))
    with pytest.warns(UserWarning, match="no installed font has"):
        svg = export(cells, tmp_path / "figure.svg").read_text(encoding="utf-8")
    assert "\ufffd" in svg


def test_characters_of_a_font_without_glyph_names_are_in_an_eps(tmp_path: Path) -> None:
    """As fonts of CJK scripts are: Type 42 calls glyphs by names that such a font lacks, and viewers show nothing."""
    from fontTools.subset import Options, Subsetter
    from fontTools.ttLib import TTFont
    from matplotlib import font_manager

    font = TTFont(font_manager.findfont("DejaVu Sans"))
    subsetter = Subsetter(Options(glyph_names=False, hinting=False, layout_features=[]))
    subsetter.populate(text="".join(map(chr, range(32, 127))) + "−·→")
    subsetter.subset(font)
    for record in font["name"].names:
        if record.nameID in (1, 4, 16):
            record.string = "Nameless"
    font.save(tmp_path / "nameless.ttf")
    font_manager.fontManager.addfont(tmp_path / "nameless.ttf")
    try:
        eps = export(TRACE.per_layer(), tmp_path / "figure.eps", font="Nameless").read_bytes()
    finally:
        entries = font_manager.fontManager.ttflist
        entries[:] = [entry for entry in entries if entry.name != "Nameless"]
    assert b"/FontType 3" in eps and b"/FontType 42" not in eps
    called = set(re.findall(rb"/(\S+) glyphshow", eps))
    defined = set(re.findall(rb"^/(\S+) ?\{", eps, re.MULTILINE))
    assert called and called <= defined


def test_control_characters_and_surrogates_leave_the_file_well_formed(tmp_path: Path) -> None:
    from xml.etree import ElementTree

    odd = "a\x00\x0b\x1b\ud800\uffff\n\tb"
    cells = TraceMap(np.eye(3), (odd, "first differing", "\x85"), np.arange(3), np.array([1, 1, 1]), quantity=odd)
    for source in (cells, {odd: TRACE.per_layer(), "b": TRACE}):
        for suffix in (".svg", ".pdf", ".png"):
            path = export(source, tmp_path / f"figure{suffix}", title=odd, notes=True)
            if suffix == ".svg":
                ElementTree.parse(path)
    heatmap(cells, title=odd).to_html(full_html=False, include_plotlyjs=False).encode()


def test_long_names_are_shortened_in_messages_and_figures(tmp_path: Path) -> None:
    long = replace(TRACE, ids=("x" * 15_000, *TRACE.ids[1:]), provenance={**TRACE.provenance, "model": "m" * 15_000})
    with pytest.raises(FigureError) as raised:
        export(long, tmp_path / "figure.svg", pair="y" * 15_000)
    assert len(str(raised.value)) < 400
    svg = export(long, tmp_path / "figure.svg", pair=0, notes=True, title="t" * 15_000).read_text(encoding="utf-8")
    assert "x" * 100 not in svg and "m" * 100 not in svg and "t" * 400 not in svg
    with pytest.raises(FigureError) as raised:
        export(TRACE, tmp_path / ("f." + "s" * 10_000))
    assert len(str(raised.value)) < 400


def test_a_limit_that_cells_exceed_is_marked(tmp_path: Path) -> None:
    cells = TraceMap(np.array([[0.2, 2.0], [0.1, -0.3]]), ("a", "first differing"), np.arange(2), np.array([1, 1]))
    assert heatmap_data(cells).clipped_ends == (False, False)
    assert heatmap_data(cells, limit=0.5).clipped_ends == (False, True)
    assert heatmap_data(cells, limit=0.25).clipped_ends == (True, True)
    bar = heatmap(cells, limit=0.5).data[0].colorbar
    assert bar.ticktext[-1] == "≥ 0.5" and bar.ticktext[0] == "−0.5"
    size = {limit: export(cells, tmp_path / "a.svg", limit=limit).read_text().count("<path") for limit in (0.5, 2.0)}
    assert size[0.5] > size[2.0]  # the arrow


def test_a_drawn_figure_exports_what_it_shows(tmp_path: Path) -> None:
    for name, source, figure in (("h", TRACE, heatmap(TRACE)), ("p", TRACE.per_layer(), profile(TRACE.per_layer()))):
        one, two = (export(s, tmp_path / f"{name}{i}.svg", "neurips") for i, s in enumerate((source, figure)))
        texts = ["".join(re.split("<metadata>.*</metadata>", path.read_text(), flags=re.S)) for path in (one, two)]
        assert texts[0] == texts[1] and 'width="396pt"' in texts[0]
    with pytest.raises(FigureError, match="do not apply to a figure that is drawn already"):
        export(heatmap(TRACE), tmp_path / "x.svg", limit=1.0)
    with pytest.raises(FigureError, match="reduce='median' does not apply"):
        export(heatmap(TRACE), tmp_path / "x.svg", reduce="median")


@pytest.mark.parametrize("function", [export, export_overlay, heatmap, overlay, profile])
def test_every_option_is_in_the_signature(function: Callable[..., object]) -> None:
    kinds = {parameter.kind for parameter in inspect.signature(function).parameters.values()}
    assert not kinds & {inspect.Parameter.VAR_KEYWORD, inspect.Parameter.VAR_POSITIONAL}


def test_names_of_files_and_options_are_checked_before_any_work(tmp_path: Path) -> None:
    with pytest.raises(FigureError, match=r"suffix '\.docx'.*\.pdf, \.svg, \.eps, \.pgf, \.png"):
        export(TRACE, tmp_path / "figure.docx")
    with pytest.raises(FigureError, match="no suffix"):
        export(TRACE, tmp_path / "figure")
    for width in ("colum", 0.1, True, float("nan")):
        with pytest.raises(FigureError, match=re.escape(repr(width))):
            export(TRACE, tmp_path / "figure.pdf", width)
    with pytest.raises(FigureError, match="No Such Font"):
        export(TRACE, tmp_path / "figure.pdf", font="No Such Font")
    with pytest.raises(FigureError, match="too little for 13 layers"):
        export(TRACE, tmp_path / "figure.pdf", height=0.5)
    with pytest.raises(FigureError, match="ndarray"):
        export(np.ones((2, 2)), tmp_path / "figure.pdf")
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError, match="missing"):
        export(TRACE, tmp_path / "missing" / "figure.pdf")
    folder = tmp_path / "taken.pdf"
    folder.mkdir()
    with pytest.raises(OutputError, match=r"taken\.pdf"):
        export(TRACE, folder)
    assert [path.name for path in tmp_path.rglob("*")] == ["taken.pdf"]


def test_a_trace_exports_itself(tmp_path: Path) -> None:
    TRACE.export(tmp_path / "a.svg", pair=1)
    export(TRACE, tmp_path / "b.svg", pair=1)
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


@pytest.mark.parametrize("function", [export, heatmap, overlay, profile])
def test_a_traces_methods_have_the_options_of_the_functions(function: Callable[..., object]) -> None:
    """Two signatures that an editor shows, and one set of options."""
    method = inspect.signature(getattr(ts.CausalTrace, function.__name__))
    ours, theirs = list(method.parameters.values())[1:], list(inspect.signature(function).parameters.values())[1:]
    assert [(p.name, p.kind, p.default) for p in ours] == [(p.name, p.kind, p.default) for p in theirs]
