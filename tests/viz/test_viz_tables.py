"""Tables and captions beside figures: the figure's numbers, whatever its names hold."""

from __future__ import annotations

import csv
import shutil
import subprocess
from pathlib import Path

import numpy as np
import pytest
from builders import synthetic_trace

from tracescribe.tracer import TraceMap
from tracescribe.viz import FigureError, caption, export_table, heatmap, pareto, profile

TRACE = synthetic_trace(12, 4)


def test_a_csv_holds_every_digit_of_the_figure(tmp_path: Path) -> None:
    figure = heatmap(TRACE)
    with export_table(figure, tmp_path / "t.csv").open(encoding="utf-8", newline="") as handle:
        header, *lines = csv.reader(handle)
    cells, curve = TRACE.map(), TRACE.per_layer()
    assert header[1 : 1 + len(cells.rows)] == list(cells.rows)
    assert header[-3:] == ["sum over tokens", "95% low", "95% high"]
    numbers = np.array(lines, dtype=float)[::-1]
    np.testing.assert_array_equal(numbers[:, 0], cells.layers)
    np.testing.assert_array_equal(numbers[:, 1:-3], cells.values)
    np.testing.assert_array_equal(numbers[:, -3:], np.array([curve.value, curve.lo, curve.hi]).T)


def test_names_are_safe_in_latex_and_markdown(tmp_path: Path) -> None:
    odd = "a&b_%$#{}\\~^<|>"
    figure = heatmap(TraceMap(np.array([[np.nan, -0.25]]), (odd, "no·"), np.arange(1), np.array([1, 1])), profile=False)
    tex = export_table(figure, tmp_path / "t.tex").read_text(encoding="utf-8")
    name = r"a\&b\_\%\$\#\{\}\textbackslash{}\textasciitilde{}\textasciicircum{}\textless{}\textbar{}\textgreater{}"
    assert rf"layer & {name} & no$\cdot$ \\" in tex and r"0 & -- & $-$0.25 \\" in tex
    assert tex.startswith("% needs \\usepackage{booktabs}\n\\begin{tabular}")
    cells = TraceMap(np.array([[0.5, -0.25]]), ("不存在", "é → ü"), np.arange(1), np.array([1, 1]))
    told = export_table(heatmap(cells, profile=False), tmp_path / "cjk.tex").read_text(encoding="utf-8").splitlines()[1]
    assert told == "% 不 在 存: XeLaTeX or LuaLaTeX with a font that has them"
    lines = export_table(figure, tmp_path / "t.md").read_text(encoding="utf-8").splitlines()
    assert lines == ["| layer | a&b\\_%\\$#{}\\\\\\~^\\<\\|> | no· |", "|---:|---:|---:|", "| 0 | – | −0.25 |"]


NAMES = (
    "[SOT]",
    "*",
    "**bold**",
    "&lt;b&gt;",
    "[x](http://a.b)",
    "=1+1",
    "-2+3|' /C calc'!A0",
    "--",
    "a, b",
    "-",
    "`x`",
)


def test_a_name_is_no_argument_in_latex_no_markup_in_markdown_and_no_formula_in_a_csv(tmp_path: Path) -> None:
    r"""Behind ``\\`` LaTeX takes "[SOT]" for a distance and swallows a "*"; a spreadsheet runs what begins with "="."""
    figure = pareto({name: (i, i) for i, name in enumerate(NAMES)}, "x", "y")
    tex = export_table(figure, tmp_path / "t.tex").read_text(encoding="utf-8").splitlines()
    begun = [line.partition(" & ")[0] for line in tex if line.endswith(r" \\")][1:]
    assert begun[:3] == ["{}[SOT]", "{}*", "{}**bold**"] and begun[7] == "-{}-"
    assert begun[10] == r"\`{}x\`{}"
    lines = export_table(figure, tmp_path / "t.md").read_text(encoding="utf-8").splitlines()[2:]
    cells = [line.split(" | ")[0].removeprefix("| ") for line in lines]
    assert cells[:4] == ["[SOT]", r"\*", r"\*\*bold\*\*", r"\&lt;b\&gt;"] and cells[4] == r"[x\](http://a.b)"
    with export_table(figure, tmp_path / "t.csv").open(encoding="utf-8", newline="") as handle:
        written = [line[0] for line in csv.reader(handle)][1:]
    guarded = {"=1+1", "-2+3|' /C calc'!A0", "--"}
    assert written == [f"'{name}" if name in guarded else name for name in NAMES]


@pytest.mark.slow
@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="LaTeX is not installed")
def test_latex_typesets_every_name(tmp_path: Path) -> None:
    figure = pareto({name: (i, i) for i, name in enumerate(NAMES)}, "x", "y")
    table = export_table(figure, tmp_path / "t.tex").read_text(encoding="utf-8").replace(r"\usepackage{booktabs}", "")
    rules = "".join(rf"\let\{name}rule\hline" for name in ("top", "mid", "bottom"))  # where booktabs is not installed
    text = rf"\documentclass{{article}}\begin{{document}}{rules}{table}\end{{document}}"
    (tmp_path / "a.tex").write_text(text, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "a.tex"], cwd=tmp_path, capture_output=True, check=False
    )
    assert done.returncode == 0 and (tmp_path / "a.pdf").exists(), done.stdout[-1500:]


def test_curves_of_different_layers_share_one_table(tmp_path: Path) -> None:
    figure = profile({"a": TRACE.per_layer(ci=None), "b": synthetic_trace(4, 2).per_layer(ci=None)})
    lines = export_table(figure, tmp_path / "t.md", decimals=1).read_text(encoding="utf-8").splitlines()
    assert lines[0] == "| layer | a | b |" and lines[2].startswith("| 4 | ") and lines[2].endswith("| – |")


def test_a_caption_says_what_is_needed_to_read_the_figure() -> None:
    text = caption(heatmap(TRACE, limit=0.5))
    for phrase in (
        "CTE by layer and token — synthetic.",
        "run from −0.5 to 0.5.",
        "Values above 0.5 have the colour of the limit.",
        "the tokens in which the two captions differ.",
        "12 pairs (4 texts); 9 of them used (S_corr > S_foil)",
        "foil → correct; residual stream; ratio of means",
        "band: 95% bootstrap interval over 9 groups and 4 texts.",
    ):
        assert phrase in text
    assert "Colours" not in caption(profile(TRACE))


def test_what_has_no_table_is_refused(tmp_path: Path) -> None:
    for wrong, name in (("figure", "t.csv"), (heatmap(TRACE), "t.docx"), (heatmap(TRACE), "t")):
        with pytest.raises(FigureError):
            export_table(wrong, tmp_path / name)
    with pytest.raises(FigureError, match="decimals=-1"):
        export_table(heatmap(TRACE), tmp_path / "t.tex", decimals=-1)
    assert list(tmp_path.iterdir()) == []
