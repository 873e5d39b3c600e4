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
# # 04 Layer weights in your own training loop
#
# A plan says how much each block of the text encoder should learn. Four ways to apply it: a loop in torch, the
# Trainer of transformers, accelerate, and open_clip's kind of loop with a scheduler and gradient clipping.
#
# **Not** by scaling gradients under AdamW: its step hardly changes when a gradient is multiplied by a constant
# (docs/method.md). `param_groups` and `mode="update"` scale what the layers learn under every optimiser.
#
# **With a real model**: another `ts.load(...)` or `ts.wrap(your_module, tokenizer=...)`, and your own data loader.

# %%
import tempfile
from pathlib import Path

import torch

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom

folder = Path(tempfile.mkdtemp())
data = build_phantom(folder / "data", 120, seed=0)
pairs = [pair for pair in ts.read_pairs(data / "pairs.jsonl") if pair.attribute == "existence"]
model = ts.load("phantom")
plan = ts.prescribe(ts.trace(model, pairs, progress=False)).with_budget("mean")  # only *where* it learns differs
plan.save(folder / "plan.json")
plan


# %%
def fresh() -> torch.nn.Module:
    """The model with its text blocks trainable and everything else frozen."""
    module = ts.load("phantom").source.requires_grad_(False)
    for block in ts.patching.text_blocks(module):
        block.requires_grad_(True)
    return module.train()


batch = pairs[:32]
images = model.encode_images([pair.image for pair in batch])  # the image tower is frozen: once is enough
tokens = model.text.tokenize([pair.correct for pair in batch])


def loss_of(module: torch.nn.Module) -> torch.Tensor:
    texts = torch.nn.functional.normalize(module.encode_text(tokens), dim=-1)
    return ts.finetune.clip_loss(images, texts, model.logit_scale)


def share(module: torch.nn.Module) -> str:
    """How the change is spread over the blocks, in percent."""
    return " ".join(f"{100 * part:.0f}" for part in ts.finetune.update_share(model.source, module, plan).share)


# %% [markdown]
# ## torch: one learning rate per block

# %%
module = fresh()
optimizer = torch.optim.AdamW(plan.param_groups(module, lr=1e-4), weight_decay=0.0)
for _ in range(5):
    optimizer.zero_grad()
    loss_of(module).backward()
    optimizer.step()
print("share of the update (%):", share(module))

# %% [markdown]
# ## A loop as in open_clip: one rate, a warm-up, gradient clipping, steps scaled afterwards
#
# `attach` scales each step after the optimiser made it, so that the groups and the scheduler stay as they are.

# %%
module = fresh()
optimizer = torch.optim.AdamW([p for p in module.parameters() if p.requires_grad], lr=1e-4, weight_decay=0.0)
scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, (step + 1) / 3))
attachment = plan.attach(module, optimizer, mode="update")
for _ in range(5):
    optimizer.zero_grad()
    loss_of(module).backward()
    torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
    optimizer.step()
    scheduler.step()
attachment.remove()
print("share of the update (%):", share(module))

# %% [markdown]
# ## transformers' Trainer: a callback

# %%
from transformers import Trainer, TrainingArguments


class ForTrainer(torch.nn.Module):
    """What a Trainer calls: a module that returns its loss."""

    def __init__(self, clip: torch.nn.Module) -> None:
        super().__init__()
        self.clip = clip

    def forward(self, index: torch.Tensor) -> dict[str, torch.Tensor]:
        return {"loss": loss_of(self.clip)}


module = fresh()
arguments = TrainingArguments(
    output_dir=str(folder / "trainer"),
    max_steps=5,
    learning_rate=1e-4,
    report_to=[],
    save_strategy="no",
    use_cpu=True,  # leave it out on a GPU
    disable_tqdm=True,
    logging_strategy="no",
)
rows = [{"index": torch.tensor(i)} for i in range(8)]
Trainer(ForTrainer(module), arguments, train_dataset=rows, callbacks=[plan.callback("update", module=module)]).train()
print("share of the update (%):", share(module))

# %% [markdown]
# ## accelerate: the same groups, prepared

# %%
from accelerate import Accelerator

accelerator = Accelerator(cpu=True)  # Accelerator() on a GPU, or under `accelerate launch`
module = fresh()
optimizer = torch.optim.AdamW(plan.param_groups(module, lr=1e-4), weight_decay=0.0)
prepared, optimizer = accelerator.prepare(module, optimizer)
for _ in range(5):
    optimizer.zero_grad()
    accelerator.backward(loss_of(accelerator.unwrap_model(prepared)))
    optimizer.step()
print("share of the update (%):", share(accelerator.unwrap_model(prepared)))

# %% [markdown]
# ## LoRA
#
# `plan.lora_config(module, mode="scale")` gives a peft `LoraConfig` with exact targets; `"rank"` and `"mask"` weigh
# the ranks and the choice of blocks. All shares in one picture:

# %%
from peft import get_peft_model

config = plan.lora_config(model.source, mode="rank", r=4)
tuned = get_peft_model(fresh(), config)
tuned.print_trainable_parameters()
print({name.split("resblocks")[-1]: rank for name, rank in list((config.rank_pattern or {}).items())[:4]})

# %%
shares = {"per-layer rates": ts.finetune.update_share(model.source, module, plan)}
ts.viz.alpha_bars(plan, shares)
