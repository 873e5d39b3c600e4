"""A word tokenizer that takes the special ids of any real one: which start and end tokens there are, what pads."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class WordTokenizer:
    """A word a token: the first free id for every new word, between a start and an end token (either may be absent)."""

    def __init__(
        self, vocab_size: int = 64, pad_id: int = 0, *, sot_id: int | None = -2, eot_id: int | None = -1
    ) -> None:
        """A negative ``sot_id`` or ``eot_id`` counts from the end of the vocabulary, as CLIP's largest ids do."""
        self.pad_id = pad_id
        self.sot_id, self.eot_id = (None if i is None else i % vocab_size for i in (sot_id, eot_id))
        self.special_ids = frozenset(i for i in (self.sot_id, self.eot_id) if i is not None)
        taken = self.special_ids | {pad_id, 0, 1, 2}
        self._free = [i for i in range(vocab_size) if i not in taken]
        self._words: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace(".", " .").split()
        ids = [self._words.setdefault(word, self._free[len(self._words) % len(self._free)]) for word in words]
        return [
            *([] if self.sot_id is None else [self.sot_id]),
            *ids,
            *([] if self.eot_id is None else [self.eot_id]),
        ]

    def strings(self, ids: Sequence[int]) -> list[str]:
        names = {i: word for word, i in self._words.items()}
        names |= {i: name for i, name in ((self.sot_id, "[SOT]"), (self.eot_id, "[EOT]")) if i is not None}
        return [names.get(i, f"#{i}") for i in ids]

    def rows(self, texts: Sequence[str], context_length: int | None) -> Tensor:
        """Ids [text, context_length], padded at the end; without a context length, to the longest text."""
        rows = [self.encode(text) for text in texts]
        width = context_length or max(map(len, rows))
        return torch.tensor([row + [self.pad_id] * (width - len(row)) for row in rows])
