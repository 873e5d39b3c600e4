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
# # 06 From CheXpert labels to a table
#
# From a table of labels: multiple choice with and without negation, and tracing pairs; then scores of two models with
# intervals, shortcuts and a paired comparison.
#
# The labels here belong to drawn films and are written in CheXpert's format, so that nothing needs to be downloaded.
# **With real data** replace the next cell by your paths; MIMIC-CXR-JPG, CAD-Chest, TAIX-Ray and Open-i are read as
# well (docs/data.md).

# %%
import csv
import json
import shutil
import tempfile
import warnings
from pathlib import Path

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom

root = Path(tempfile.mkdtemp())
films = build_phantom(root / "films", 300, seed=0)
conditions = {
    "cardiomegaly": "Cardiomegaly",
    "edema": "Edema",
    "effusion": "Pleural Effusion",
    "nodule": "Lung Lesion",
    "opacity": "Lung Opacity",
    "pneumothorax": "Pneumothorax",
}
others = ("Enlarged Cardiomediastinum", "Consolidation", "Pneumonia", "Atelectasis", "Pleural Other", "Fracture")
labels, images = (
    root / "train.csv",
    root / "images",
)  # your own: train.csv of CheXpert, the folder that holds its images
with labels.open("w", newline="") as handle:
    writer = csv.DictWriter(
        handle, ["Path", *conditions.values(), *others, "Support Devices", "No Finding"], restval=""
    )
    writer.writeheader()
    for line in (films / "captions.jsonl").read_text(encoding="utf-8").splitlines():
        record = json.loads(line)
        path = f"CheXpert-v1.0-small/train/patient{record['group'][-5:]}/study1/{record['id']}.png"
        if not (images / path).exists():
            (images / path).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(films / record["image"], images / path)
            state = {"present": 1.0, "absent": 0.0}
            writer.writerow({"Path": path, **{conditions[c]: state[record["facts"][c]] for c in conditions}})

# %% [markdown]
# ## Build
#
# Each statement is asked about images of which it is true and of which it is false, so that text alone is at chance.
# The folder has a datasheet that says what was left out and why.

# %%
from tracescribe.benchmark.builders import build_mednega, write_pairs

built = build_mednega(labels, root / "mednega", images=images, seed=0)
print((root / "mednega" / "DATASHEET.md").read_text(encoding="utf-8")[:700], "...")

# %%
question = json.loads((root / "mednega" / "mcq.jsonl").read_text(encoding="utf-8").splitlines()[0])
for letter, number in zip("ABCD", range(1, 5), strict=True):
    mark = "*" if question["correct_answer"] == letter else " "
    print(mark, question[f"negation_mcq_choice_{number}"], "|", question[f"affirmative_mcq_choice_{number}"])

# %% [markdown]
# ## Score
#
# Two models on the same items: the miniature, and the same one with noise added to the weights of its text encoder.
# The miniature does not know some words of these sentences ("depicts"), and warns of them, which we silence. Chance
# is 25 %: it reads the wording without negation and fails at the one with it. That gap, not either accuracy, is about
# negation.

# %%
import torch

model = ts.load("phantom")
noisy = ts.load("phantom")
with torch.no_grad():
    for block in ts.patching.text_blocks(noisy.source):
        for weight in block.parameters():
            weight.add_(0.15 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0)))
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    scores = {
        name: ts.benchmark.evaluate(one, root / "mednega", images=images, split=None, n_boot=200)
        for name, one in {"miniature": model, "with noise": noisy}.items()
    }
scores["miniature"]

# %% [markdown]
# ## Compare, and the table

# %%
comparison = ts.benchmark.compare(*scores.values(), names=list(scores), n_boot=200)
comparison

# %%
print(comparison.table("latex"))

# %% [markdown]
# ## Tracing pairs from the same labels
#
# Pairs of equally many tokens for *this* model's tokenizer, with swaps of severity, side and condition as controls.
# Their image paths are relative to the folder of images: so the file goes there.

# %%
with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    report = write_pairs(labels, images / "pairs.jsonl", lambda text: len(model.text.rows([text])[0]), images=images)
    print(report)
    pairs = [pair for pair in ts.read_pairs(images / "pairs.jsonl") if pair.attribute == "existence"][:80]
    trace = ts.trace(model, pairs, progress=False)
trace
