"""Layer weights from a trace in a training loop of your own: per-layer learning rates, or scaled steps.

python examples/weights_for_training.py OUTPUT_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import torch

import tracescribe as ts


def main(folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = ts.load("phantom")
    data = ts.benchmark.phantom.build_phantom(folder / "data", 200, seed=0)
    pairs = [pair for pair in ts.read_pairs(data / "pairs.jsonl") if pair.attribute == "existence"]
    plan = ts.prescribe(ts.trace(model, pairs), beta=1.0)
    plan.save(folder / "plan.json")
    print(plan)
    for doubt in plan.warnings:  # read these before you believe the weights
        print("-", doubt)

    module = model.source.requires_grad_(False)
    for block in ts.patching.text_blocks(module):
        block.requires_grad_(True)

    # Per-layer learning rates: exact under every optimiser. Scaling gradients is not: AdamW cancels it.
    optimizer = torch.optim.AdamW(plan.param_groups(module, lr=1e-4))
    for group in optimizer.param_groups:
        print(f"block {group['layer']}: lr {group['lr']:.1e}")

    batch = pairs[:16]  # your data loader
    images = model.encode_images([pair.image for pair in batch])  # the vision tower is frozen: once is enough
    tokens = model.text.tokenize([pair.correct for pair in batch])
    for _ in range(3):
        features = torch.nn.functional.normalize(module.encode_text(tokens), dim=-1)
        loss = ts.finetune.clip_loss(images, features, model.logit_scale)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        print(f"loss {loss.item():.3f}")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
