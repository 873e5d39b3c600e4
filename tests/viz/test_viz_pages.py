"""HTML pages: self-contained, escaped, the same bytes each time, and whole or not there."""

from __future__ import annotations

import base64
import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from builders import synthetic_trace
from plotly.offline import get_plotlyjs

from tracescribe.errors import DataFormatError, OutputError
from tracescribe.viz import (
    FigureError,
    Note,
    Picture,
    Plot,
    Report,
    Section,
    Table,
    heatmap,
    profile,
    report,
    save_html,
)

TRACE = synthetic_trace(6, 4)
EVIL = "<script>alert(1)</script><b>&amp;\"' $x$ {{ 7*7 }}"
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAYAAAAfFcSJAAAADUlEQVR42mNk+M9QDwADhgGAWjR9awAAAABJRU5ErkJggg=="
)


class Page(HTMLParser):
    """Tags with their attributes, and the text outside scripts and styles."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.text, self._inside = "", ""
        self.feed(html)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        self._inside = tag

    def handle_endtag(self, tag: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside not in ("script", "style"):
            self.text += data

    def of(self, tag: str) -> list[dict[str, str | None]]:
        return [attrs for name, attrs in self.tags if name == tag]


def a_report(text: str = "plain") -> Report:
    return Report(
        text,
        lead=text,
        facts=[(text, text)],
        footer=text,
        sections=[
            Section(
                text,
                text=[text],
                figures=[Plot(heatmap(TRACE, title=text), text, text), profile(TRACE)],
                tables=[Table([text, "n"], [[text, 1.5], [None, float("nan")]], text, highlight=[0])],
                images=[Picture([PNG, PNG], text, text)],
                notes=[Note(text, "caution", text), text],
                code=[text],
            )
        ],
    )


def assert_self_contained(html: str) -> Page:
    assert html.count(get_plotlyjs()) == 1
    page = Page(html.replace(get_plotlyjs(), ""))
    for tag, attrs in page.tags:
        assert tag not in ("link", "iframe", "object", "embed", "base")
        for name in ("src", "href", "srcset", "data"):
            value = attrs.get(name)
            assert value is None or value.startswith(("data:", "#")), (tag, value)
    assert not re.search(r"@import|url\(|cdn\.", html.replace(get_plotlyjs(), ""))
    return page


def test_a_saved_figure_needs_no_network(tmp_path: Path) -> None:
    path = save_html(heatmap(TRACE, title=EVIL), tmp_path / "figure.html")
    page = assert_self_contained(path.read_text(encoding="utf-8"))
    assert "alert(1)" in page.text  # in the browser tab's title, as text
    assert len(page.of("script")) == len(Page(save_html(heatmap(TRACE), tmp_path / "b.html").read_text()).of("script"))


def test_a_report_needs_no_network_and_holds_plotly_once(tmp_path: Path) -> None:
    page = assert_self_contained(report(tmp_path / "r.html", a_report()).read_text(encoding="utf-8"))
    assert len([d for d in page.of("div") if "plotly-graph-div" in (d.get("class") or "")]) == 2
    ids = [attrs["id"] for _, attrs in page.tags if "id" in attrs]
    assert len(ids) == len(set(ids))


def test_a_report_without_figures_carries_no_plotly(tmp_path: Path) -> None:
    path = report(tmp_path / "r.html", Report("t", sections=[Section("s", text=["x"])]))
    assert path.stat().st_size < 20_000


def test_a_users_strings_stay_text(tmp_path: Path) -> None:
    evil = Page(report(tmp_path / "evil.html", a_report(EVIL)).read_text(encoding="utf-8").replace(get_plotlyjs(), ""))
    plain = Page(report(tmp_path / "plain.html", a_report()).read_text(encoding="utf-8").replace(get_plotlyjs(), ""))
    assert [tag for tag, _ in evil.tags] == [tag for tag, _ in plain.tags]
    # title, heading, lead, fact label and value, section heading, paragraph, note heading and text, plain note,
    # figure caption, table header, cell and caption, picture caption, code, footer
    assert evil.text.count(EVIL) == 17
    assert {attrs["alt"] for attrs in evil.of("img")} == {f"{EVIL} (1 of 2)", f"{EVIL} (2 of 2)"}
    assert any(attrs.get("aria-label") == EVIL for attrs in evil.of("div"))


def test_every_picture_and_figure_says_what_it_is(tmp_path: Path) -> None:
    page = Page(report(tmp_path / "r.html", a_report()).read_text(encoding="utf-8").replace(get_plotlyjs(), ""))
    assert all(attrs.get("alt") for attrs in page.of("img")) and page.of("img")
    groups = [attrs for attrs in page.of("div") if attrs.get("role") == "group"]
    assert len(groups) == 2 and all(attrs.get("aria-label") for attrs in groups)


def test_the_same_report_gives_the_same_bytes(tmp_path: Path) -> None:
    one, two = (report(tmp_path / name, a_report()).read_bytes() for name in ("one.html", "two.html"))
    assert one == two
    one, two = (save_html(profile(TRACE), tmp_path / name).read_bytes() for name in ("three.html", "four.html"))
    assert one == two


def test_gaps_in_tables_are_dashes_and_numbers_align(tmp_path: Path) -> None:
    table = Table(["way", "accuracy", "pairs"], [["a", 1234.567, 3], ["b", None, 4000], ["c", -0.001, -1]], decimals=1)
    shown = [[table.text(i, cell) for i, cell in enumerate(row)] for row in table.rows]
    assert shown == [["a", "1,234.6", "3"], ["b", "–", "4,000"], ["c", "0.0", "−1"]]
    assert [table.numeric(i) for i in range(3)] == [False, True, True]
    with pytest.raises(FigureError, match="row 1 of the table has 2 cells"):
        Table(["a"], [[1], [1, 2]])


def test_images_are_read_from_files_too(tmp_path: Path) -> None:
    (tmp_path / "film.png").write_bytes(PNG)
    section = Section("s", images=[Picture(tmp_path / "film.png", "a film")])
    html = report(tmp_path / "r.html", Report("t", sections=[section])).read_text(encoding="utf-8")
    assert base64.b64encode(PNG).decode() in html


@pytest.mark.parametrize(
    ("image", "problem"), [(b"not an image", "not a PNG"), ("missing.png", "'missing.png'"), ("/dev/zero", "a device")]
)
def test_a_broken_image_leaves_no_page(tmp_path: Path, image: bytes | str, problem: str) -> None:
    with pytest.raises(DataFormatError, match=problem):
        report(tmp_path / "r.html", Report("t", sections=[Section("s", images=[Picture(image)])]))
    assert list(tmp_path.iterdir()) == []


def test_an_unwritable_path_leaves_nothing(tmp_path: Path) -> None:
    missing = tmp_path / "missing" / "page.html"
    with pytest.raises(OutputError, match="missing"):
        report(missing, a_report())
    with pytest.raises(OutputError, match="missing"):
        save_html(heatmap(TRACE), missing)
    with pytest.raises(FigureError, match="plotly figure"):
        save_html("figure", tmp_path / "page.html")
    assert list(tmp_path.iterdir()) == []


def test_a_lone_surrogate_does_not_lose_the_page(tmp_path: Path) -> None:
    assert "a\ufffdb" in report(tmp_path / "r.html", Report("a\ud800b")).read_text(encoding="utf-8")


def test_control_characters_reach_no_page(tmp_path: Path) -> None:
    for path in (
        report(tmp_path / "r.html", a_report("a\x00b\x1b\x0c\ud800")),
        save_html(heatmap(TRACE, title="a\x00b\x1b\x0c\ud800"), tmp_path / "f.html"),
    ):
        page = path.read_text(encoding="utf-8").replace(get_plotlyjs(), "")
        assert not re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", page) and "a\ufffdb" in page
