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
# # 05 Your own model
#
# A module that you already have is wrapped, not copied: the tower shares its parameters and leaves its modules alone.
# Each tower is compared with the model's own text encoder before it is returned.
#
# Here the models have random weights, because nothing is downloaded. **With real ones** replace the line that makes
# the module: `open_clip.create_model("ViT-B-32-quickgelu", pretrained="openai")`, `CLIPModel.from_pretrained(...)`.

# %%
import open_clip
import torch

import tracescribe as ts

_ = torch.manual_seed(0)

# %% [markdown]
# ## open_clip

# %%
from open_clip.model import CLIP, CLIPTextCfg, CLIPVisionCfg

clip = CLIP(
    embed_dim=64,
    vision_cfg=CLIPVisionCfg(layers=2, width=64, head_width=32, patch_size=16, image_size=32),
    text_cfg=CLIPTextCfg(width=64, heads=2, layers=4),
).eval()
model = ts.wrap(clip, tokenizer=open_clip.get_tokenizer("ViT-B-32"), name="my CLIP")
model

# %%
pair = ts.Pair(correct="a photo without a dog", foil="a photo of a dog", image=ts.Text("an empty street"))
trace = ts.trace(model, [pair], align="auto", progress=False)  # 5 words against 5; "auto" also aligns other lengths
trace

# %% [markdown]
# ## transformers
#
# Any dual encoder of transformers: CLIP, SigLIP, ChineseCLIP, AltCLIP, VisionTextDualEncoder, ... The tokenizer may
# be a transformers tokenizer, an open_clip tokenizer, or a function from texts to padded ids.

# %%
from transformers import CLIPConfig, CLIPModel

small = {"hidden_size": 64, "intermediate_size": 128, "num_hidden_layers": 4, "num_attention_heads": 2}
config = CLIPConfig(
    text_config={**small, "bos_token_id": 49406, "eos_token_id": 49407},
    vision_config={**small, "image_size": 32, "patch_size": 16},
    projection_dim=64,
)
hf = ts.wrap(CLIPModel(config).eval(), tokenizer=open_clip.get_tokenizer("ViT-B-32"), name="my transformers CLIP")
hf

# %% [markdown]
# ## The wrapped model changes: the tower follows
#
# Train it, add adapters, load other weights: the next use builds and verifies the tower anew where it must.

# %%
before = ts.trace(model, [pair], align="auto", progress=False)
with torch.no_grad():
    for block in ts.patching.text_blocks(clip)[:2]:
        block.mlp.c_proj.weight.mul_(2)
after = ts.trace(model, [pair], align="auto", progress=False)
ts.viz.panels({"before": before, "after": after}, difference="after − before")

# %% [markdown]
# ## An adapter of your own
#
# A text encoder that no adapter reads needs one file: [docs/add_a_tower.md](../docs/add_a_tower.md) has a complete
# one of 40 lines. Until then the error names what was found:

# %%
try:
    ts.wrap(torch.nn.Sequential(torch.nn.Embedding(10, 4), torch.nn.Linear(4, 4)), tokenizer=open_clip.tokenize)
except ts.errors.UnsupportedTowerError as error:
    print(str(error)[:300])

# %% [markdown]
# ## TransformerLens
#
# The same tower under TransformerLens' hook names, for its caches and patching functions:

# %%
lens = model.text.to_transformer_lens()
ids = model.text.tokenize([pair.correct])
_, cache = lens.run_with_cache(ids)
{name: tuple(value.shape) for name, value in cache.items() if name.startswith("blocks.0.hook_resid")}
