"""An atlas for people: its text table, its figure, its page, and its HTML in a notebook."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from .config import CORRECT, DIFFERENCE, IMAGE

if TYPE_CHECKING:
    from ..viz import PaperFigure, Report, Section
    from .result import Atlas, Entry

__all__ = ["figure", "head_figure", "html", "page", "text_table", "write"]

_AXIS = "relative depth (layer / blocks)"
_HEADER = ("model", "set", "pairs", "peak layer", "relative depth", "draws there", "top-3 share", "even", "agreement")


def text_table(atlas: Atlas, format: Literal["text", "markdown", "latex", "csv"] = "text") -> str:
    """The table without its warnings."""
    from ..benchmark.tables import as_table

    return as_table(_HEADER, _rows(atlas), format)


def figure(atlas: Atlas) -> PaperFigure:
    """See :meth:`Atlas.figure`."""
    from ..viz import PaperFigure
    from ..viz.figure_data import curve_panels_data

    panels: dict[str, dict[str, Any]] = {name: {} for name in atlas.config.sets}
    for each in atlas.entries:
        if each.profile is not None and each.trace is not None:
            band = () if each.profile.lo is None else (each.profile.lo, each.profile.hi)
            panels[each.set][each.model] = (each.profile.layers / each.trace.n_layers, each.profile.value, *band)
    order = [model for model in atlas.config.models if any(model in curves for curves in panels.values())]
    drawn = {
        name: {model: curves[model] for model in order if model in curves} for name, curves in panels.items() if curves
    }
    sizes = [f"{name}: {_pairs_of(atlas, name)}" for name in drawn]
    told = (f"bands: {atlas.config.ci:.0%} bootstrap intervals over clusters of pairs", *sizes)
    data = curve_panels_data(drawn, _AXIS, f"CTE, {atlas.config.aggregate} per layer", f"CTE by {_AXIS}", ())
    return PaperFigure(type(data)(data.panels, data.names, data.title, told))


def head_figure(atlas: Atlas) -> PaperFigure:
    """See :meth:`Atlas.head_figure`."""
    from ..viz import panels

    one_set = len(atlas.config.sets) == 1
    maps = {
        model if one_set else f"{model}, {name}": cells
        for (model, name), cells in sorted(atlas.head_maps().items(), key=lambda item: _place(atlas, *item[0]))
    }
    return panels(maps, bars=None, axis="depth")


def _place(atlas: Atlas, model: str, name: str) -> tuple[int, int]:
    """Set by set, the models in the order in which they were given."""
    return list(atlas.config.sets).index(name), list(atlas.config.models).index(model)


def page(atlas: Atlas) -> Report:
    """See :meth:`Atlas.page`."""
    from ..viz import Note, Plot, Report, Section, Table, profile

    drawn = [each for each in atlas.entries if each.profile is not None]
    sections: list[Section] = []
    if drawn:
        picture = atlas.figure()
        said = "A line per model, on one axis of relative depth; bands are bootstrap intervals."
        by_layer = [
            Plot(profile(atlas.profiles(name), title=""), f"{name}, by number of the layer.", f"Lines of CTE on {name}")
            for name in atlas.config.sets
            if atlas.profiles(name)
        ]
        sections.append(Section("Profiles", figures=[Plot(picture, said, said), *by_layer]))
    sections.append(
        Section(
            "Where each model has its peak",
            text=[_how(atlas)],
            tables=[Table(_HEADER, _rows(atlas))],
            notes=[Note(f"{line}.", "caution") for line in atlas.doubts()],
        )
    )
    alike = atlas.agreements()
    if len(alike):
        sections.append(_alike(alike, atlas.config.ci))
    if atlas.heads:
        sections.append(_heads(atlas))
    sections.append(_sets(atlas))
    pairs = [(name, f"{number:,} pairs") for name, number in atlas.n_pairs.items()]
    return Report("Atlas of layer profiles", _lead(atlas), sections, pairs)


def write(atlas: Atlas, folder: Path) -> list[str]:
    """See :meth:`Atlas.write`."""
    from ..io.tables import write_csv
    from ..viz import export, report

    tables = {"table.csv": atlas.table(), "agreement.csv": atlas.agreements()}
    if atlas.heads:
        tables["heads.csv"] = atlas.head_table()
    for name, table in tables.items():
        write_csv(table, folder / name)
    names = list(tables)
    drawn = {}
    if any(each.profile is not None for each in atlas.entries):
        drawn["atlas"] = atlas.figure()
    if atlas.head_maps():
        drawn["heads"] = atlas.head_figure()
    for stem, shown in drawn.items():
        for name in (f"{stem}.pdf", f"{stem}.png"):
            export(shown, folder / name, "page", notes=True)
            names.append(name)
    report(folder / "atlas.html", atlas.page())
    return [*names, "atlas.html"]


def html(atlas: Atlas) -> str:
    """The table as a card."""
    from ..cards import card, table

    about = f"{len(atlas.config.models)} models × {len(atlas.config.sets)} sets"
    return card("Atlas", about, [], table(_HEADER, _rows(atlas), left=2), doubts=atlas.doubts()[:20])


def _rows(atlas: Atlas) -> list[list[str]]:
    table = atlas.table().to_dict("records")
    rows = []
    for row, each in zip(table, atlas.entries, strict=True):
        if each.profile is None:
            rows.append([each.model, each.set, "0", *["–"] * (len(_HEADER) - 3)])
            continue
        peak, top = each.peak, each.top
        rows.append(
            [
                each.model,
                each.set,
                f"{row['n_pairs']} of {row['n_set']}",
                "–" if peak is None else f"{peak.layer} of {row['n_layers']:d}",
                "–" if peak is None else f"{peak.depth:.2f}{_between(peak.lo, peak.hi)}",
                "–" if peak is None or math.isnan(peak.share) else f"{peak.share:.0%}",
                "–" if top is None else f"{top.value:.2f}{_between(top.lo, top.hi)}",
                "–" if top is None else f"{top.even:.2f}",
                "–" if math.isnan(row["agreement"]) else f"{row['agreement']:.2f}",
            ]
        )
    return rows


def _between(lo: float, hi: float) -> str:
    return "" if math.isnan(lo) else f" [{lo:.2f}, {hi:.2f}]"


def _how(atlas: Atlas) -> str:
    config = atlas.config
    site = config.options().site
    ends = ", without the embedding output and the last layer" if site == "resid" else ""
    return (
        f"The peak is the layer of the largest CTE ({config.aggregate} over tokens) at site {site}{ends}. Brackets "
        f"hold {config.ci:.0%} of the bootstrap's draws of the pairs; “draws there” is the share of draws whose peak "
        "is at this layer, and “even” the top-3 share that a flat profile would have. Agreement is the mean rank "
        "correlation with the other models' profiles at equal relative depth, over the pairs that enter from both."
    )


def _pairs_of(atlas: Atlas, name: str) -> str:
    numbers = sorted({profile.n_pairs for profile in atlas.profiles(name).values()})
    span = str(numbers[0]) if len(numbers) == 1 else f"{numbers[0]} to {numbers[-1]}"
    return f"{span} pair{'s' * (span != '1')}"


def _lead(atlas: Atlas) -> str:
    with_peak = [each for each in atlas.entries if each.peak is not None]
    if not with_peak:
        return "No model has a profile; the table says why."
    said = [_said(each) for each in with_peak[:6]]
    more = f" {len(with_peak) - 6} more are in the table." if len(with_peak) > 6 else ""
    return " ".join(said) + more


def _said(each: Entry) -> str:
    assert each.peak is not None and each.trace is not None
    peak = each.peak
    doubt = f", not told from layers {', '.join(map(str, peak.alike))}" if peak.alike else ""
    return f"{each.model} on {each.set}: peak at layer {peak.layer} of {each.trace.n_layers}{doubt}."


def _alike(alike: Any, ci: float) -> Section:
    from ..viz import Section, Table

    rows = []
    for row in alike.to_dict("records"):
        rank = (
            "–"
            if row["rank"] is None or math.isnan(row["rank"])
            else f"{row['rank']:.2f}{_between(row['lo'], row['hi'])}"
        )
        apart = f"{row['peak_difference']:+.2f}{_between(row['peak_lo'], row['peak_hi'])}"
        rows.append([row["set"], row["first"], row["second"], row["n_pairs"], row["n_depths"], rank, apart])
    text = (
        f"Rank correlation of two profiles, and the depth of the second's peak less the first's, with {ci:.0%} of the "
        "draws. Noise lowers a correlation, so that the value may lie at the upper end of its draws."
    )
    header = ["set", "first", "second", "pairs", "depths", "rank correlation", "peaks apart"]
    return Section("How alike the models are", text=[text], tables=[Table(header, rows)])


def _heads(atlas: Atlas) -> Section:
    from ..viz import Plot, Section, Table, heatmap

    found = atlas.head_table()
    rows = [
        [
            row["model"],
            row["set"],
            row["layer"],
            f"{row['depth']:.2f}",
            row["head"],
            f"{row['cte']:.2f}{_between(row['lo'], row['hi'])}",
        ]
        for row in found.to_dict("records")
    ]
    drawn = [
        Plot(heatmap(cells, title=""), f"{model} on {name}: CTE by layer and head.", f"Heads of {model} on {name}")
        for (model, name), cells in atlas.head_maps().items()
    ]
    if drawn:
        said = "All maps of heads on one scale, by relative depth."
        drawn.insert(0, Plot(atlas.head_figure(), said, "Heatmaps of CTE by relative depth and head, one per model"))
    text = "The five heads of the largest CTE. They are chosen by the numbers shown, whose intervals do not know of it."
    table = Table(["model", "set", "layer", "relative depth", "head", "CTE"], rows)
    return Section("Heads", text=[text], figures=drawn, tables=[table])


def _sets(atlas: Atlas) -> Section:
    from ..viz import Section, Table

    kinds = {
        IMAGE: "what the file gives",
        CORRECT: "the correct caption",
        DIFFERENCE: "the way from the foil's embedding to the correct caption's",
    }
    rows = [
        [name, spec.file.name, atlas.n_pairs.get(name, 0), kinds.get(spec.target, f"the text “{spec.target}”")]
        for name, spec in atlas.config.sets.items()
    ]
    models = [[name, spec.model, spec.pretrained or ""] for name, spec in atlas.config.models.items()]
    tables = [
        Table(["set", "file", "pairs", "scored against"], rows),
        Table(["model", "loaded as", "weights"], models),
    ]
    return Section("What was traced", tables=tables)
