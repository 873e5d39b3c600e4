"""The page about a trace says what the trace holds; text from files stays text; a browser finds nothing amiss."""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from browsers import AXE, CHROMIUM, NO_AXE, browser, violations
from builders import (
    synthetic_head_edges,
    synthetic_knock_out,
    synthetic_negator_attention,
    synthetic_neurons,
    synthetic_trace,
)
from plotly.offline import get_plotlyjs

import tracescribe as ts
from tracescribe.errors import OutputError, TraceError
from tracescribe.viz import Report, Section, Table, report, trace_page

TRACE, CONTROL = synthetic_trace(24, 8, n_texts=24), synthetic_trace(24, 8, n_texts=24, seed=1)
EVIL = "<script>alert(1)</script><img src=x onerror=alert(2)>"


def text_of(page: Report) -> str:
    """Every string of a page."""
    parts = [page.title, page.lead, page.footer, *(part for fact in page.facts for part in fact)]
    for section in page.sections:
        notes = [note if isinstance(note, str) else note.text for note in section.notes]
        cells = [cell for table in section.tables for row in table.rows for cell in row]
        parts += [section.heading, *section.text, *notes, *map(str, cells)]
    return "\n".join(parts)


def test_the_page_says_what_the_trace_holds() -> None:
    page = trace_page(TRACE, control=CONTROL)
    curve, said = TRACE.per_layer(), text_of(page)
    assert curve.lo is not None and curve.hi is not None
    peak = 1 + int(np.argmax(curve.value[1:-1]))  # between the ends, which are 1 by construction
    assert f"highest at layer {peak}: {curve.value[peak]:.2f}" in page.lead
    assert f"interval {curve.lo[peak]:.2f} to {curve.hi[peak]:.2f}" in page.lead
    used = int((TRACE.valid & (TRACE.denominator > 0)).sum())
    assert ("pairs in the map", f"{used} of 24") in list(page.facts)
    assert f"correlate at {TRACE.split_half():.2f}" in said and "Beyond the control" in said
    tables = {section.heading: section.tables for section in page.sections}
    np.testing.assert_array_equal([row[1:] for row in tables["Where the difference is carried"][0].rows][::-1],
                                  TRACE.map().values)  # fmt: skip
    np.testing.assert_array_equal([row[1] for row in tables["By layer"][0].rows], curve.value)
    margins = [row[3] for row in tables["Pairs"][0].rows]
    np.testing.assert_array_equal(margins, TRACE.denominator[np.argsort(-np.abs(TRACE.denominator))[:12]])


def test_the_layer_where_the_end_token_takes_over_is_the_last_crossing() -> None:
    cells = TRACE.map()
    ahead = cells.row("[end]") > cells.row("first differing")
    layer = int(re.search(r"From layer (\d+) on", trace_page(TRACE).lead)[1])  # type: ignore[index]
    assert ahead[layer:].all() and not ahead[layer - 1]


def test_a_trace_without_a_usable_pair_has_a_page_that_says_so() -> None:
    page = trace_page(TRACE.with_floor(1.0))
    assert page.lead.startswith("No CTE is defined: none of the 24 pairs")
    assert [section.heading for section in page.sections] == ["Pairs", "How it came about"]


def test_a_control_of_another_model_is_refused() -> None:
    with pytest.raises(TraceError, match="layers"):
        trace_page(TRACE, control=synthetic_trace(8, 4))


def test_one_pair_has_no_interval_and_no_halves() -> None:
    said = text_of(trace_page(TRACE.select([int(np.argmax(TRACE.denominator))])))
    assert "too few clusters" in said or "one cluster" in said
    assert "nan" not in said.lower().replace("nan_", "")


@pytest.mark.parametrize("columns", [("head 0", "head 1"), None], ids=["heads", "tokens"])
def test_text_from_files_stays_text(tmp_path: Path, columns: tuple[str, ...] | None) -> None:
    names = (EVIL,) * TRACE.n_pairs
    evil = replace(TRACE, captions=names, foil_captions=names, ids=tuple(f"{EVIL}{i}" for i in range(TRACE.n_pairs)),
                   provenance={**TRACE.provenance, "model": EVIL, EVIL: EVIL})  # fmt: skip
    if columns is not None:
        scores = replace(evil.scores, patched=evil.scores.patched[:, :, :2])
        evil = replace(evil, scores=scores, columns=columns)
    written = evil.report(tmp_path / "page.html").read_text(encoding="utf-8").replace(get_plotlyjs(), "")
    assert "<script>alert" not in written and "<img" not in written and "&lt;script&gt;alert(1)" in written
    assert not re.search(r'(src|href)="(?!data:|#)', written) and "@import" not in written


def test_the_page_is_dark_where_the_reader_wants_it_and_prints_light(tmp_path: Path) -> None:
    written = report(tmp_path / "page.html", Report("t")).read_text(encoding="utf-8")
    assert "@media screen and (prefers-color-scheme: dark)" in written and "@media print" in written
    assert '<html lang="en">' in written and 'content="light dark"' in written


def test_a_trace_of_images_is_told_as_one() -> None:
    from tracescribe.benchmark.phantom import counterfactual_pairs

    trace = ts.trace_images(ts.load("phantom"), counterfactual_pairs(1, seed=3), grid=8, progress=False)
    said = text_of(trace_page(trace))
    assert "an image and a counterfactual" in said and "one patch" in said and "correct caption" not in said


def test_an_unwritable_path_leaves_nothing(tmp_path: Path) -> None:
    with pytest.raises(OutputError):
        TRACE.report(tmp_path / "missing" / "page.html")
    assert list(tmp_path.iterdir()) == []


PAGES: dict[str, Callable[[Path], Path]] = {
    "trace": lambda path: TRACE.report(path, control=CONTROL),
    "comparison": lambda path: ts.compare(TRACE, CONTROL, n_boot=50).report(path),
    "circuit": lambda path: a_circuit().report(path),
    "neurons": lambda path: synthetic_neurons().report(path),
    "edges between heads": lambda path: synthetic_head_edges().report(path),
    "knock-out": lambda path: synthetic_knock_out().report(path),
    "negator attention": lambda path: synthetic_negator_attention().report(path),
    "a table without a name": lambda path: report(path, Report("t", sections=[Section("s", tables=[NAMELESS])])),
}
NAMELESS = Table(["", "gap"], [["uniform", 18.2], ["NAST", 4.2]])


def a_circuit() -> ts.Circuit:
    ones = np.array([0.5, 0.9])
    return ts.Circuit(np.array([1, 3]), ("negator", "[end]"), ones, ones, ones, 30, "greedy", 0.9, 1.0, 12, 8)


def test_the_head_of_a_column_without_a_name_is_no_header(tmp_path: Path) -> None:
    for make in (PAGES["a table without a name"], PAGES["circuit"]):
        written = make(tmp_path / "page.html").read_text(encoding="utf-8")
        assert not re.search(r"<th[^>]*></th>", written)
    assert '<th scope="col" class="n">taken</th>' in written


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
@pytest.mark.skipif(CHROMIUM is None or not AXE.is_file(), reason=f"needs chromium; {NO_AXE}")
def test_axe_finds_no_violation_and_nothing_is_asked_of_the_network(tmp_path: Path, dark: bool) -> None:
    pytest.importorskip("playwright", reason="the extra 'browser' is not installed")
    with browser() as started:
        page = started.new_page(color_scheme="dark" if dark else "light")
        asked: list[str] = []
        page.on("request", lambda request: asked.append(request.url))
        for name, make in PAGES.items():
            page.goto(make(tmp_path / "page.html").as_uri())
            assert violations(page, "html") == [], name
            assert page.evaluate("() => document.documentElement.scrollWidth <= innerWidth"), name
        assert [url for url in asked if not url.startswith(("file:", "data:", "blob:"))] == []
