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
# # 01 A map in five minutes
#
# Which hidden states of a CLIP text encoder decide between two captions? We put one state of the *foil*'s run into the
# run of the *correct* caption, at one layer and one token, and see how far the score with the image falls. That share
# is the causal tracing effect (CTE): 1 = this state decides everything, 0 = it changes nothing.
#
# Everything here runs offline on the miniature that comes with the package. **With a real model** only the next cell
# changes:
#
# ```python
# model = ts.load("open_clip:ViT-B-32-quickgelu", pretrained="openai")  # or a local checkpoint file
# model = ts.load("hf:openai/clip-vit-base-patch32")                    # or a medical model: ts.load("biomedclip")
# ```

# %%
import tempfile
from pathlib import Path

import tracescribe as ts

model = ts.load("phantom")
model

# %% [markdown]
# ## One pair
#
# A pair is two captions of equally many tokens and a target: an image file, a PIL image, an embedding, or another text.
# (Captions of different lengths: `ts.trace(..., align="auto")`.)

# %%
pair = ts.Pair(
    correct="There is no pleural effusion.",
    foil="There is severe pleural effusion.",
    image=ts.Text("The lungs are clear."),
)
one = ts.trace(model, [pair], progress=False)
one.heatmap()

# %% [markdown]
# Read it from the bottom: at layer 0 only the differing word carries the difference. Further up it has moved to the end
# token, from which the embedding is read. Cells before the first difference are exactly 0 in a causal encoder.
#
# ## A data set
#
# Several pairs are shown by the role of their tokens. **Your own data**: a JSONL or CSV file with `correct`, `foil` and
# `image`, and `group` (the patient) for honest intervals: `pairs = ts.read_pairs("pairs.jsonl")`.

# %%
from tracescribe.benchmark.phantom import build_phantom

folder = Path(tempfile.mkdtemp())
data = build_phantom(folder / "data", 120, seed=0)  # drawn chest films with captions; no patient
pairs = [pair for pair in ts.read_pairs(data / "pairs.jsonl") if pair.attribute == "existence"]
trace = ts.trace(model, pairs, progress=False)
trace

# %%
trace.heatmap()

# %% [markdown]
# ## Numbers, files, a page

# %%
print(trace.summary())
trace.map().to_frame().head()

# %%
trace.save(folder / "trace.safetensors")  # scores, tokens, provenance; no pickle
again = ts.load_trace(folder / "trace.safetensors")
page = again.report(folder / "report.html")  # one page, offline, for a screen and for paper
print(f"{page.name}: {page.stat().st_size / 1e6:.1f} MB")

# %% [markdown]
# Next: [02](02_which_layers_carry_negation.ipynb) asks which layers carry *negation*, with controls.
