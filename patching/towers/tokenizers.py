"""Tokenizers seen one way: ids without padding or truncation, and readable strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

import torch

from ...errors import ContextOverflowError, UnsupportedTowerError
from ...token_strings import WordMarks
from ..torch_state import without_function_modes


@runtime_checkable
class TextTokenizer(Protocol):
    """What a text tower needs of a tokenizer."""

    pad_id: int
    special_ids: frozenset[int]

    def encode(self, text: str) -> list[int]:
        """Ids with special tokens, neither padded nor truncated."""

    def strings(self, ids: Sequence[int]) -> list[str]:
        """A readable string for each id of a text, in order; start and end tokens are ``[SOT]`` and ``[EOT]``.

        Parts of a word are marked, "no·" and "·dule": see :class:`tracescribe.token_strings.WordMarks`.
        """


class OpenClipBpe:
    """open_clip's ``SimpleTokenizer`` (OpenAI's byte-pair encoding)."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self.sot_id, self.eot_id, self.pad_id = int(tokenizer.sot_token_id), int(tokenizer.eot_token_id), 0
        self.special_ids = frozenset((self.sot_id, self.eot_id))

    def encode(self, text: str) -> list[int]:
        return [self.sot_id, *map(int, self._tokenizer.encode(text)), self.eot_id]

    def strings(self, ids: Sequence[int]) -> list[str]:
        names = {self.sot_id: "[SOT]", self.eot_id: "[EOT]"}
        pieces = [self._tokenizer.decoder[i] for i in ids]
        return WordMarks("</w>", byte_level=True).strings(pieces, [names.get(i) for i in ids])


class TransformersTokenizer:
    """A transformers tokenizer, with the text cleaning that open_clip puts before one where it does."""

    def __init__(self, tokenizer: Any, clean: Callable[[str], str] | None = None) -> None:
        self._tokenizer, self._clean = tokenizer, clean
        self.pad_id = 0 if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id)
        self.special_ids = frozenset(map(int, tokenizer.all_special_ids))
        names = {
            tokenizer.bos_token_id: "[SOT]",
            tokenizer.eos_token_id: "[EOT]",
        }  # BERT's [CLS], [SEP] name themselves
        self._names = {i: name for i, name in names.items() if i is not None}

    def encode(self, text: str) -> list[int]:
        cleaned = self._clean(text) if self._clean else text
        return list(map(int, self._tokenizer(cleaned, padding=False, truncation=False, verbose=False)["input_ids"]))

    def strings(self, ids: Sequence[int]) -> list[str]:
        pieces = self._tokenizer.convert_ids_to_tokens(list(ids))
        names = [self._names.get(i) or (p if i in self.special_ids else None) for i, p in zip(ids, pieces, strict=True)]
        return self._marks.strings(pieces, names)

    @cached_property
    def _marks(self) -> WordMarks:
        return WordMarks.of(self._tokenizer.get_vocab())


class CallableTokenizer:
    """Any ``texts -> LongTensor[n, context]``. Such a function truncates silently, so a full row is refused."""

    def __init__(self, function: Callable[[list[str]], torch.Tensor], context_length: int) -> None:
        self._function, self._context = function, context_length
        empty = self._row("")
        self.pad_id = empty[-1]
        self.special_ids = frozenset(i for i in empty if i != self.pad_id)

    def encode(self, text: str) -> list[int]:
        row = self._row(text)
        if row[-1] != self.pad_id:
            raise ContextOverflowError(
                f"the tokenizer fills all {len(row)} places for {text[:80]!r}, so that it may have cut the text: "
                f"shorten it, or wrap the model with a tokenizer that has an `encode` method"
            )
        while row and row[-1] == self.pad_id:
            row.pop()
        return row

    def strings(self, ids: Sequence[int]) -> list[str]:
        decode = getattr(self._function, "decode", None)
        if decode is None:
            return [f"#{i}" for i in ids]
        raw = [str(decode([i])) for i in ids]
        names = [text.strip() if i in self.special_ids else None for i, text in zip(ids, raw, strict=True)]
        if any(text.endswith(" ") for text in raw):  # as open_clip's: a space ends each word
            pieces = [text.strip() + "</w>" * text.endswith(" ") for text in raw]
            return WordMarks("</w>").strings(pieces, names)
        pieces = ["▁" * text.startswith(" ") + text.strip() for text in raw]
        return WordMarks("▁" if any(text.startswith(" ") for text in raw) else "").strings(pieces, names)

    def _row(self, text: str) -> list[int]:
        with without_function_modes():
            rows = torch.as_tensor(self._function([text]))
        if rows.ndim != 2 or rows.shape[0] != 1 or rows.shape[1] != self._context:
            raise UnsupportedTowerError(
                f"the tokenizer must return token ids of shape [1, {self._context}] for one text, "
                f"got {list(rows.shape)}"
            )
        return list(map(int, rows[0]))


def adapt_tokenizer(tokenizer: Any, context_length: int) -> TextTokenizer:
    """Whatever tokenizer a user has, as a :class:`TextTokenizer`.

    Raises:
        UnsupportedTowerError: it is none of the kinds known here.
    """
    kinds = {cls.__name__ for cls in type(tokenizer).__mro__}
    if isinstance(tokenizer, TextTokenizer):
        return tokenizer
    if "SimpleTokenizer" in kinds:
        return OpenClipBpe(tokenizer)
    if "HFTokenizer" in kinds and not (tokenizer.tokenizer_mode or tokenizer.strip_sep_token):
        return TransformersTokenizer(tokenizer.tokenizer, tokenizer.clean_fn)
    if "PreTrainedTokenizerBase" in kinds:
        return TransformersTokenizer(tokenizer)
    if hasattr(tokenizer, "tokenizer") and hasattr(tokenizer, "image_processor"):  # a transformers processor
        return adapt_tokenizer(tokenizer.tokenizer, context_length)
    if callable(tokenizer):
        return CallableTokenizer(tokenizer, context_length)
    raise UnsupportedTowerError(
        f"a {type(tokenizer).__name__} is no tokenizer that tracescribe knows: pass open_clip.get_tokenizer(...), a "
        f"transformers tokenizer, a function from texts to token ids [n, {context_length}], or an object with "
        f"`encode`, `strings`, `pad_id` and `special_ids`"
    )
