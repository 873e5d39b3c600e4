# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 03 Figures for a paper
#
# Figures of a template's exact width (`"icml"`, `"neurips"`, `"acl"`, `"nature"`, their `-page` widths, or inches), as
# PDF, SVG, EPS, PGF or PNG, with embedded TrueType fonts and colours that colour-blind readers can tell apart.
# [The gallery](../docs/gallery.md) shows every kind with its code.
#
# **With your own traces**: `ts.load_trace("trace.safetensors")` in place of the arrays below.

# %%
import tempfile
from pathlib import Path

import numpy as np

import tracescribe as ts

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## The published figure in three lines
#
# CTE of CLIP ViT-B/32 on VALSE existence (Quantmeyer, Mosteiro, Gatt 2024, arXiv 2407.10488; their published arrays).

# %%
maps = ts.viz.published_maps()
figure = ts.viz.panels(maps)
ts.viz.export(figure, folder / "figure1.pdf", width="icml-page")
figure

# %% [markdown]
# ## Its caption and its numbers

# %%
print(ts.viz.caption(figure))

# %%
print(ts.viz.export_table(ts.viz.heatmap(maps["negation in the foil"]), folder / "table.tex").read_text()[:420], "...")

# %% [markdown]
# ## Before, after, difference
#
# One scale for all panels; the third is the second minus the first.

# %%
foil, caption = maps.values()
ts.viz.panels({"in the foil": foil, "in the caption": caption}, difference="caption − foil")

# %% [markdown]
# ## Layer weights and what training did
#
# `ts.finetune.update_share(before, after, plan)` measures the shares; here two made-up ones.

# %%
plan = ts.prescribe(foil.values, beta=2)
ts.viz.alpha_bars(plan, {"uniform": np.ones(12), "CTE-weighted": plan.multipliers})

# %% [markdown]
# ## Trade-offs and curves
#
# The numbers of NAST's Table 1 (claim accuracy) and Table 3 (gap between affirmative and negated claims).

# %%
methods = ("CLIP", "NegCLIP", "ConCLIP", "NegBench", "NAST")
gaps, claims = (21.6, 12.8, 10.7, 10.2, 4.2), (24.6, 41.3, 44.9, 48.7, 55.6)
points = dict(zip(methods, zip(gaps, claims, strict=True), strict=True))
ts.viz.pareto(points, "affirmative − negated (pp)", "claim accuracy (%)", better=("lower", "higher"))

# %% [markdown]
# ## Your own axes
#
# `ts.viz.draw` draws into matplotlib axes of yours and returns the cells, for a colour bar.

# %%
import matplotlib.pyplot as plt

mine, (left, right) = plt.subplots(1, 2, figsize=(6.75, 2.3), width_ratios=(3, 2), layout="constrained")
cells = ts.viz.draw(foil, left, title="a", palette="PuOr", values=False)
mine.colorbar(cells, ax=left, label="CTE")
ts.viz.draw({name: cells.per_layer("sum") for name, cells in maps.items()}, right, title="b")
mine.savefig(folder / "mine.pdf")

# %% [markdown]
# ## In LaTeX
#
# ```latex
# \includegraphics{figure1.pdf}   % no width: it has the column's or the page's
# \usepackage{pgf} ... \input{figure1.pgf}   % text in the document's own font
# ```

# %%
for suffix in ("pdf", "pgf", "svg", "png"):
    path = ts.viz.export(foil, folder / f"map.{suffix}", width="acl", size=7)
    print(f"{path.name}: {path.stat().st_size / 1000:.0f} kB")
