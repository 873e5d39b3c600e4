"""The miniature's tokenizer: OpenAI's BPE pieces, renumbered to the hundred or so that phantom captions use."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Sequence
from functools import lru_cache
from importlib.util import find_spec, module_from_spec, spec_from_file_location
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Int64

from ...errors import ContextOverflowError, DataFormatError
from ...io.quoting import shown
from ...token_strings import WordMarks, bare
from ...warn import warn_user

CONTEXT_LENGTH = 48
FORMAT = "tracescribe.phantom-vocabulary/1"


class UnknownTokenWarning(UserWarning):
    """A text holds pieces that the miniature has never seen; they became [UNK].

    SHOWN: how many of them a command prints.
    """

    SHOWN = 3


@lru_cache(maxsize=1)
def _bpe() -> Any:
    """open_clip's tokenizer of OpenAI's byte-pair encoding.

    Its module is run by itself: importing it as a part of open_clip runs all of open_clip first, which takes seconds.
    """
    loaded = sys.modules.get("open_clip.tokenizer")
    if loaded is None:
        package = find_spec("open_clip")
        assert package is not None and package.origin is not None  # a dependency of ours
        spec = spec_from_file_location("_open_clip_tokenizer", Path(package.origin).with_name("tokenizer.py"))
        assert spec is not None and spec.loader is not None
        loaded = module_from_spec(spec)
        spec.loader.exec_module(loaded)
    return loaded.SimpleTokenizer()


class PhantomTokenizer:
    """Maps texts to ids: 0 pads, 1… are BPE pieces, then [UNK], [SOT] and [EOT], which is the largest id.

    open_clip's towers read the text at the position of the largest id, hence the order.

    Args:
        bpe_ids: OpenAI BPE ids in the order of the miniature's ids 1, 2, …
        context_length: longest sequence, [SOT] and [EOT] included.
    """

    pad_id = 0

    def __init__(self, bpe_ids: Sequence[int], context_length: int = CONTEXT_LENGTH) -> None:
        if len(set(bpe_ids)) != len(bpe_ids):
            raise ValueError("a BPE id appears twice in the vocabulary")
        self.bpe_ids = tuple(int(i) for i in bpe_ids)
        self.context_length = context_length
        self.unk_id = len(self.bpe_ids) + 1
        self.sot_id = self.unk_id + 1
        self.eot_id = self.unk_id + 2
        self.special_ids = frozenset((self.sot_id, self.eot_id))
        self._of_bpe = {bpe: i + 1 for i, bpe in enumerate(self.bpe_ids)}
        self._pieces = ["", *(_bpe().decoder[i] for i in self.bpe_ids), "", "", ""]
        self._names = {self.pad_id: "[PAD]", self.unk_id: "[UNK]", self.sot_id: "[SOT]", self.eot_id: "[EOT]"}

    @classmethod
    def from_texts(cls, texts: Iterable[str], context_length: int = CONTEXT_LENGTH) -> PhantomTokenizer:
        """A tokenizer whose vocabulary is the pieces of these texts, in the order of their BPE ids."""
        return cls(sorted({i for text in texts for i in _bpe().encode(text)}), context_length)

    @property
    def vocab_size(self) -> int:
        """Number of ids, padding and specials included."""
        return self.eot_id + 1

    def encode(self, text: str) -> list[int]:
        """Ids of one text with [SOT] and [EOT], however long it is.

        Pieces outside the vocabulary become [UNK], with an `UnknownTokenWarning` that names them.
        """
        bpe = _bpe().encode(text)
        if any(i not in self._of_bpe for i in bpe):
            names = WordMarks("</w>", byte_level=True).strings([_bpe().decoder[i] for i in bpe])
            unknown = dict.fromkeys(name for name, i in zip(names, bpe, strict=True) if i not in self._of_bpe)
            pieces = ", ".join(map(repr, unknown))
            warn_user(
                f"the phantom miniature does not know {pieces} in {shown(text)}: read as [UNK]", UnknownTokenWarning
            )
        return [self.sot_id, *(self._of_bpe.get(i, self.unk_id) for i in bpe), self.eot_id]

    def __call__(self, texts: str | Sequence[str]) -> Int64[torch.Tensor, "text context"]:
        """Ids of many texts, padded with 0 to the context length.

        Raises:
            ContextOverflowError: a text is longer than the context; nothing is truncated.
        """
        batch = [texts] if isinstance(texts, str) else list(texts)
        out = torch.zeros(len(batch), self.context_length, dtype=torch.long)
        for row, text in enumerate(batch):
            ids = self.encode(text)
            if len(ids) > self.context_length:
                raise ContextOverflowError(
                    f"{text!r} has {len(ids)} tokens, more than the phantom miniature's context of "
                    f"{self.context_length}; shorten it"
                )
            out[row, : len(ids)] = torch.tensor(ids)
        return out

    def strings(self, ids: Iterable[int]) -> list[str]:
        """Each id as text, and [PAD], [UNK], [SOT], [EOT]; parts of a word are marked: "no·", "·dule"."""
        numbers = [int(i) for i in ids]
        return WordMarks("</w>").strings([self._pieces[i] for i in numbers], [self._names.get(i) for i in numbers])

    def to_json(self) -> str:
        """The vocabulary as JSON; `from_json` reads it."""
        return json.dumps(
            {
                "format": FORMAT,
                "context_length": self.context_length,
                "bpe_ids": list(self.bpe_ids),
                "pieces": [bare(piece) for piece in self._pieces[1 : self.unk_id]],
            },
            indent=1,
        )

    @classmethod
    def from_json(cls, path: str | Path) -> PhantomTokenizer:
        """Read a vocabulary file.

        Raises:
            DataFormatError: not a vocabulary written by `to_json`.
        """
        try:
            data = json.loads(Path(path).read_text(encoding="utf-8"))
            if data["format"] != FORMAT:
                raise KeyError("format")
            return cls(data["bpe_ids"], data["context_length"])
        except (json.JSONDecodeError, KeyError, TypeError) as error:
            raise DataFormatError(f"{path}: not a phantom vocabulary ({FORMAT}): {error}") from error
