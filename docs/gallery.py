"""Draws every kind of figure and writes docs/gallery.md with the code of each: ``make gallery``."""

from __future__ import annotations

import contextlib
import logging
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

import tracescribe as ts

DOCS = Path(__file__).resolve().parent
IMAGES = "img/gallery"


class Kind(NamedTuple):
    """One kind of figure: its name, when to use it, and code that ends with ``figure``."""

    name: str
    use: str
    code: str
    width: str = "page"
    dpi: int = 105


SETUP = """\
import numpy as np

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom, counterfactual_pairs

model = ts.load("phantom")  # your own: ts.load("open_clip:...", pretrained=...), ts.load("hf:..."), ts.wrap(...)
pairs = ts.read_pairs(build_phantom("phantom-data", 120, seed=0) / "pairs.jsonl")
negation = ts.trace(model, [pair for pair in pairs if pair.attribute == "existence"], progress=False)
control = ts.trace(model, [pair for pair in pairs if pair.attribute == "severity"], progress=False)
plan = ts.prescribe(negation, beta=2)
"""

KINDS = (
    Kind(
        "Panels on one scale",
        "The published figure of CLIP ViT-B/32 on VALSE existence, redrawn from its published arrays (Quantmeyer, "
        "Mosteiro, Gatt 2024, arXiv 2407.10488): negation in the foil and in the caption, the sums per layer beneath.",
        "maps = ts.viz.published_maps()\nfigure = ts.viz.panels(maps)\n"
        'ts.viz.export(figure, "figure1.pdf", width="page")',
        dpi=150,
    ),
    Kind("One map", "A trace of several pairs, by the roles of their tokens, with its profile.", "figure = negation.heatmap()", "column", 170),
    Kind(
        "One pair",
        "Its own tokens; the foil's token follows a stroke.",
        'figure = negation.heatmap(pair=0, profile=False)',
        "column",
        170,
    ),
    Kind(
        "Profiles",
        "A trace beside its control, with bootstrap intervals.",
        'figure = ts.viz.profile({"negation": negation, "severity swaps": control})',
        "column",
        170,
    ),
    Kind(
        "Before, after, difference",
        "Two maps and the second minus the first, on one scale.",
        'foil, caption = ts.viz.published_maps().values()\n'
        'figure = ts.viz.panels({"in the foil": foil, "in the caption": caption}, difference="caption − foil")',
    ),
    Kind(
        "Small multiples",
        "One panel per condition; a row holds as many as are readable at the figure's width.",
        "templates = sorted(set(negation.templates))[:4]\n"
        "figure = ts.viz.panels({name: negation.select(template=name) for name in templates}, bars=None)",
    ),
    Kind(
        "Models of different depths",
        "On one axis of relative depth, layer over number of blocks; maps of heads of many models are drawn alike, and "
        "`tracescribe atlas` draws them (`ts.read_atlas(folder).head_figure()`).",
        'figure = ts.viz.panels({"miniature, 8 blocks": negation, "CLIP ViT-B/32, 12": foil}, axis="depth", bars=None)',
    ),
    Kind(
        "Layer and head",
        "Which heads carry the effect: the output z of one head is patched.",
        'heads = ts.trace(model, negation_pairs[:40], site="z", heads="each", progress=False)\nfigure = heads.heatmap()',
        "column",
        170,
    ),
    Kind(
        "Excess over a control",
        "What a trace shows beyond swaps of other words.",
        "figure = ts.viz.heatmap(negation.control(control))",
        "column",
        170,
    ),
    Kind(
        "Layer weights and update shares",
        "Alpha with its interval, the multiplier alpha ** beta, and what training changed.",
        'figure = ts.viz.alpha_bars(plan, {"uniform": np.ones(8), "CTE-weighted": plan.multipliers})',
        "column",
        170,
    ),
    Kind(
        "Trade-offs",
        "Points with a line through those that no other beats in both (numbers of NAST's Tables 1 and 3).",
        'points = {\n    "CLIP": (21.6, 24.6),\n    "NegCLIP": (12.8, 41.3),\n    "ConCLIP": (10.7, 44.9),\n'
        '    "NegBench": (10.2, 48.7),\n    "NAST": (4.2, 55.6),\n}\n'
        'figure = ts.viz.pareto(points, "affirmative − negated (pp)", "claim accuracy (%)", better=("lower", "higher"))',
        "column",
        170,
    ),
    Kind(
        "Faithfulness",
        "What the first k heads do when they are patched together, in the order of the map above and at random.",
        "found = ts.tracer.faithfulness(model, heads, negation_pairs[:40], progress=False)\n"
        'curves = {"by CTE": found.curve("sufficiency"), "random order": found.curve("sufficiency", "random")}\n'
        'figure = ts.viz.curves(curves, "heads patched together", "share of S_corr − S_foil")',
        "column",
        170,
    ),
    Kind(
        "Over an image",
        "A trace of the image tower by patch; patches whose pixels differ are outlined.",
        'films = counterfactual_pairs(1, seed=3, condition="effusion")\n'
        'figure = ts.viz.overlay(ts.trace_images(model, films, grid=8, progress=False), films[0].image)',
    ),
    Kind(
        "Your own axes",
        "`ts.viz.draw` puts a map, curves, weights or points into axes of your matplotlib figure.",
        'from matplotlib.figure import Figure\n\n'
        'mine = Figure(figsize=(6.75, 2.2), layout="constrained")\n'
        'left, right = mine.subplots(1, 2, width_ratios=(3, 2))\n'
        'cells = ts.viz.draw(foil, left, title="a", palette="PuOr", values=False)\n'
        'mine.colorbar(cells, ax=left).ax.set_title("CTE", fontsize=7)\n'
        'ts.viz.draw({name: one.per_layer("sum") for name, one in maps.items()}, right, title="b")\n'
        "figure = mine",
    ),
    Kind(
        "Every script",
        "Tokens in any script that an installed font has, right to left where it is written so; a picture character "
        "without a font is written as its name.",
        'rows = ("negator", "不存在", "لا يوجد", "नहीं है", "한국어", "🫁 lung", "$x_1$ 50%", "\\\\alpha")\n'
        "values = np.random.default_rng(0).normal(0, 0.4, (9, 8))\n"
        "cells = ts.tracer.TraceMap(values, rows, np.arange(9), np.full(8, 9))\n"
        'figure = ts.viz.panels({"tokens": cells}, palette="BrBG")',
        "column",
        170,
    ),
)  # fmt: skip


def main() -> None:
    (DOCS / IMAGES).mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as folder, contextlib.chdir(folder):  # where the code writes its data
        write_page()


def write_page() -> None:
    names: dict[str, Any] = {}
    run(SETUP, names)
    names["negation_pairs"] = [pair for pair in names["pairs"] if pair.attribute == "existence"]
    parts = [head()]
    for kind in KINDS:
        run(kind.code, names)
        path = DOCS / IMAGES / f"{kind.name.lower().replace(' ', '_').replace(',', '')}.png"
        save(names["figure"], path, kind)
        parts.append(
            f"## {kind.name}\n\n{kind.use}\n\n```python\n{kind.code}\n```\n\n![{kind.name}]({IMAGES}/{path.name})\n"
        )
    (DOCS / "gallery.md").write_text("\n".join(parts), encoding="utf-8")


def run(code: str, names: dict[str, Any]) -> None:
    exec(compile(code, "docs/gallery.py", "exec"), names)  # the code that the page shows


def save(figure: Any, path: Path, kind: Kind) -> None:
    if hasattr(figure, "savefig"):
        figure.savefig(path, dpi=kind.dpi)
    else:
        ts.viz.export(figure, path, kind.width, dpi=kind.dpi)


def head() -> str:
    return f"""\
# Gallery

Every kind of figure with the code that drew it. `ts.viz.export(figure, "name.pdf", width="icml")` writes any of them as PDF, SVG,
EPS, PGF or PNG; `ts.viz.caption(figure)` offers a caption and `ts.viz.export_table(figure, "name.tex")` writes the numbers (LaTeX
with booktabs, Markdown, CSV). `make gallery` draws this page again.

| option of `export` | what it does |
|---|---|
| `width` | `"icml"` 3.25 in, `"icml-page"` 6.75, `"neurips"` and `"iclr"` 5.5, `"acl"` 3.03, `"acl-page"` 6.30, `"nature"` 3.50 (89 mm), `"nature-page"` 7.20 (183 mm), `"column"` 3.25, `"page"` 6.75, a measure (`"89mm"`, `"8.5cm"`, or TeX's points as `\\the\\columnwidth` prints them, `"234.8775pt"`), or inches |
| `title`, `notes` | a title, and what the numbers stand on; a paper's figure has none by default |
| `values`, `profile` | the cells' numbers and the profile beside a map, on or off |
| `palette`, `limit` | `"RdBu"`, `"PuOr"` or `"BrBG"`, safe for colour-blind readers and readable in grey, where a dash marks cells below 0 that have no number; the end of the colour scale |
| `font`, `size` | an installed family; the size of ticks in points, from which the others follow |

PGF needs no LaTeX to be written and takes the document's font. PDF and EPS hold embedded TrueType (Type 42) fonts, but for scripts whose
font has PostScript outlines (Noto Sans CJK).

All figures below start from:

```python
{SETUP}negation_pairs = [pair for pair in pairs if pair.attribute == "existence"]
```
"""


if __name__ == "__main__":
    logging.disable(logging.WARNING)  # the plan's doubts; the notebooks show them
    main()
