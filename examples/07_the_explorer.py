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
# # 07 The explorer
#
# Type two captions and watch where a model tells them apart; click a cell and ask what is in it; compare two models;
# prescribe layer weights; copy the view as code. Needs `pip install 'tracescribe[jupyter]'`, and no network.
#
# **With a real model** only the next cell changes: `ts.load("open_clip:ViT-B-32-quickgelu", pretrained="openai")`, a
# local checkpoint, or `ts.wrap(...)` around a model that you have.

# %%
import tempfile
from pathlib import Path

import tracescribe as ts

model = ts.load("phantom")
folder = ts.benchmark.phantom.build_phantom(Path(tempfile.mkdtemp()) / "films", 40, seed=0)
pairs = ts.read_pairs(folder / "pairs.jsonl")
negation = [pair for pair in pairs if pair.attribute == "existence"]
control = [pair for pair in pairs if pair.attribute == "severity"]
len(negation), len(control)

# %% [markdown]
# ## One model, a data set, and a control
#
# *Preset* takes captions and image of a pair. *Show: data set* traces all pairs in the background, *subtract control*
# shows what remains beyond swapping "mild" and "severe". Where no kernel runs, you see a picture of the first view.

# %%
explorer = ts.viz.explore(model, negation, control=control, candidates=["The lungs are clear."])
explorer

# %% [markdown]
# ## What you see is what the API gives
#
# *Copy as code* has the calls; here they are for the view above.

# %%
print(explorer.code())

# %% [markdown]
# ## The same from Python
#
# The page sends requests to a session, which you can drive yourself. Everything it computes runs in a background
# thread; `wait` waits for it.

# %%
session = explorer.session
session.choose(scope="data", subtract=True)
session.wait()
explorer.figure()

# %% [markdown]
# ## Two models
#
# With `compare`, the page shows A, B and B − A on one colour scale. Your own: the model before and after fine-tuning.
# Here the MLP of one block is weakened, as a change whose place is known.

# %%
import torch

changed = ts.load("phantom")
with torch.no_grad():
    for parameter in changed.source.transformer.resblocks[1].mlp.parameters():
        parameter.mul_(0.5)

both = ts.viz.explore(model, compare={"weaker block 2": changed})
both.session.choose(compare="model:weaker block 2")
both.session.wait()
both
