"""`TowerSpec`: what a tower declares about itself, and the tolerances of each precision."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch

# Largest difference between two unit vectors that the same weights give in another order of summation, by precision:
# a few units in the last place, grown over 12-32 blocks. Measured: 2e-7 (fp32), 3e-4 (fp16), 4e-3 (bf16).
TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-5, torch.float16: 5e-3, torch.bfloat16: 4e-2}

Pooling = Literal["argmax", "eos", "last", "first", "mean", "head"]
Padding = Literal["trim", "attend", "mask", "own"]


@dataclass(frozen=True)
class TowerSpec:
    """What a tower declares about itself.

    pooling: which position is read out, or "mean" over those that are not padding, or "head": a module of its own reads
        all of them (attention pooling).
    padding: "trim": padding never reaches the readout and is cut off; "mask": neither, and whole passes mask it out;
        "attend": the model attends to it, so it stays; "own": every text runs in its own length, since the id that
        pads also stands in texts (decoders pad with the token that ends a text).
    eos_id: for pooling="eos".
    readout_layers: the states that the readout averages, for towers that read more than the last layer's.
    pad_in_text: for padding="mask": the model tells padding by its id, also inside a text. Elsewhere it depends on the
        call whether a padding token that a text itself holds is hidden, and such a text is refused.
    appended: a learned token stands behind every text and is read out (CoCa). Its mask is shifted by one in the weights
        that exist ("legacy"): it sees the first padding token and not itself.
    """

    causal: bool
    pooling: Pooling
    padding: Padding
    context_length: int
    eos_id: int | None = None
    readout_layers: tuple[int, ...] = ()
    pad_in_text: bool = False
    appended: Literal["legacy", "correct"] | None = None

    @property
    def reads_one(self) -> bool:
        """Whether one position of the last layer is read out, and not all of them."""
        return self.pooling not in ("mean", "head")
