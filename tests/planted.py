"""A small open_clip model in which, by construction, exactly one head carries the negator to where the text is read."""

from __future__ import annotations

import torch
from models import WordTokenizer, open_clip_model
from torch import nn

import tracescribe as ts

NEGATED, AFFIRMATIVE = "there is no edema here", "there is some edema here"
WIDTH, HEADS, LAYERS = 32, 4, 3
IDENTITY, READ = slice(0, 8), slice(8, 16)  # channels: which negator it is; what the planted head writes


def planted_model(layer: int = 2, head: int = 1, *, selective: float = 0.0) -> ts.DualEncoder:
    """Every head and MLP is random and busy, but blind to the first 16 channels and unable to write there.

    "no" and "some" are one embedding plus and minus a vector in the identity channels, so that layer norms see no
    difference. Head ``head`` of block ``layer`` (from 1) alone reads these channels, and writes into the others that
    the projection reads. Its queries and keys are as blind as all others', unless ``selective`` > 0: the logit that
    every query adds for "no", and subtracts for "some", before division by the state's norm.
    """
    source = open_clip_model(seed=1, width=WIDTH, heads=HEADS, layers=LAYERS)
    tokenizer = WordTokenizer()
    no, some = (tokenizer.encode(word)[1] for word in ("no", "some"))
    generator = torch.Generator().manual_seed(0)
    hidden = slice(0, READ.stop)
    size = WIDTH // HEADS

    def balanced(*shape: int) -> torch.Tensor:
        """Columns that sum to 0, so that a layer norm's mean does not change."""
        values = torch.randn(*shape, generator=generator)
        return values - values.mean(dim=0)

    with torch.no_grad():
        for block in source.transformer.resblocks:
            block.attn.in_proj_weight[:, hidden] = 0
            block.mlp.c_fc.weight[:, hidden] = 0
            for out in (block.attn.out_proj, block.mlp.c_proj):
                out.weight[hidden] = 0
                out.bias[hidden] = 0
            for norm in (block.ln_1, block.ln_2):  # a plain norm: blindness must not depend on its gain
                nn.init.ones_(norm.weight)
                nn.init.zeros_(norm.bias)
        source.token_embedding.weight[:, hidden] = 0
        source.positional_embedding[:, hidden] = 0
        which = 2 * balanced(8, 1)[:, 0]
        source.token_embedding.weight[some] = source.token_embedding.weight[no]
        source.token_embedding.weight[no, IDENTITY] = which
        source.token_embedding.weight[some, IDENTITY] = -which
        attention = source.transformer.resblocks[layer - 1].attn
        queries, keys, values = (
            slice(part * WIDTH + head * size, part * WIDTH + (head + 1) * size) for part in range(3)
        )
        attention.in_proj_weight[values] = 0
        attention.in_proj_weight[values, IDENTITY] = balanced(8, size).T
        attention.in_proj_bias[values] = 0
        attention.out_proj.weight[:, head * size : (head + 1) * size] = 0
        attention.out_proj.weight[READ, head * size : (head + 1) * size] = balanced(8, size)
        if selective:
            attention.in_proj_bias[queries] = 1
            attention.in_proj_weight[keys, IDENTITY] = selective * which / (size**0.5 * which.norm() ** 2)
    return ts.wrap(source, tokenizer=tokenizer, name="planted")
