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
# # 02 Which layers carry negation
#
# CTE follows *any* differing word to the end token. Before a layer is called a negation layer it must do more for "no"
# than for another swap of two words, hold for both directions, and survive resampling of patients and texts.
#
# **With a real model**: another `ts.load(...)`, and your own pairs with `attribute`, `negation` and `group`
# (`tracescribe build pairs MODEL LABELS -o pairs.jsonl` makes them from CheXpert-style labels).

# %%
import tempfile
from pathlib import Path

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom

model = ts.load("phantom")
data = build_phantom(Path(tempfile.mkdtemp()) / "data", 300, seed=0)
pairs = ts.read_pairs(data / "pairs.jsonl")

# %% [markdown]
# ## Negation and a control
#
# The control swaps "severe" and "mild": as much of a difference in words, and none in negation.

# %%
negation = ts.trace(model, [pair for pair in pairs if pair.attribute == "existence"], progress=False)
control = ts.trace(model, [pair for pair in pairs if pair.attribute == "severity"], progress=False)
ts.viz.profile({"negation": negation, "severity swaps": control})

# %%
excess = negation.control(control).per_layer()  # the same patients are resampled together
excess

# %% [markdown]
# Where the interval holds 0, nothing is shown beyond an ordinary swap. Layer 0 and the last layer are 1 in both by
# construction, so that their excess is 0.
#
# ## Both directions
#
# "no" may be in the correct caption or in the foil. A layer that carries negation should matter in both.

# %%
sides = {f"“no” in the {side} caption": negation.select(negated=side) for side in ("correct", "foil")}
ts.viz.panels(sides)

# %% [markdown]
# Denoising asks the opposite question: which states of the correct caption *restore* the score in the foil's run?

# %%
some = [pair for pair in pairs if pair.attribute == "existence"][:60]
both = {way: ts.trace(model, some, direction=way, progress=False) for way in ("foil->correct", "correct->foil")}
ts.viz.panels({"noising (foil → correct)": both["foil->correct"], "denoising": both["correct->foil"]})

# %% [markdown]
# ## Is the ranking of layers real?

# %%
print(f"maps of two halves of the patients correlate at {negation.split_half():.2f}")
plan = ts.prescribe(negation)
plan

# %% [markdown]
# The doubts under the bars are part of the result: here few different texts stand behind the intervals, however many
# films there are. Report them with the ranking.
#
# Which heads do it?

# %%
heads = ts.trace(model, some, site="z", heads="each", progress=False)
heads.heatmap()
