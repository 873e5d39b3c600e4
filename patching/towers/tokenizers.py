"""One interface for all tokenizers: ids without padding or truncation, and readable token strings."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cached_property
from typing import Any, Protocol, runtime_checkable

from ...errors import ContextOverflowError, UnsupportedTowerError
from ...io.quoting import shown
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
    """``SimpleTokenizer`` (byte-pair encoding), OpenAI's or open_clip's, which alone tells the ids of its ends."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        ends = [_end_token(tokenizer, "sot", "start"), _end_token(tokenizer, "eot", "end")]
        self.sot_id, self.eot_id, self.pad_id = *ends, 0
        self.special_ids = frozenset((self.sot_id, self.eot_id))

    def encode(self, text: str) -> list[int]:
        return [self.sot_id, *map(int, self._tokenizer.encode(text)), self.eot_id]

    def strings(self, ids: Sequence[int]) -> list[str]:
        names = {self.sot_id: "[SOT]", self.eot_id: "[EOT]"}
        pieces = [self._tokenizer.decoder[i] for i in ids]
        return WordMarks("</w>", byte_level=True).strings(pieces, [names.get(i) for i in ids])


def _end_token(tokenizer: Any, name: str, word: str) -> int:
    """The id of the token that starts or ends a text."""
    known = getattr(tokenizer, "encoder", {})
    found = getattr(tokenizer, f"{name}_token_id", known.get(f"<|{word}oftext|>", known.get(f"<{word}_of_text>")))
    if found is None:
        raise UnsupportedTowerError(
            f"a {type(tokenizer).__module__}.{type(tokenizer).__name__} has neither the attribute {name}_token_id nor "
            f"the token <|{word}oftext|>: pass open_clip.get_tokenizer(...), or a function from texts to token ids"
        )
    return int(found)


class TransformersTokenizer:
    """A transformers tokenizer, with the text cleaning that open_clip puts before one where it does.

    gives_mask: whether it tells the source model to hide padding.

    Raises:
        UnsupportedTowerError: it knows no word, or its limit is no number.
    """

    def __init__(self, tokenizer: Any, clean: Callable[[str], str] | None = None) -> None:
        limit = getattr(tokenizer, "model_max_length", 0)
        if not isinstance(limit, int | float):
            raise UnsupportedTowerError(
                f"the tokenizer's model_max_length is {shown(limit)}, which is no number: correct it in "
                f"tokenizer_config.json"
            )
        _check_words(tokenizer)
        self._tokenizer, self._clean = tokenizer, clean
        self.pads_left = getattr(tokenizer, "padding_side", "right") != "right"
        self.gives_mask = "attention_mask" in getattr(tokenizer, "model_input_names", ())
        self.context_length: int | None = None  # where more is known of it than of the encoder's positions
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


def _check_words(tokenizer: Any) -> None:
    """Refuse a vocabulary of special tokens alone.

    Raises:
        UnsupportedTowerError: it is one; transformers makes such a tokenizer where a folder holds none.
    """
    if not hasattr(tokenizer, "get_vocab") or len(tokenizer) > _MOST_SPECIAL:
        return
    if set(tokenizer.get_vocab()) <= {*tokenizer.all_special_tokens, "▁"}:  # a piece that sentencepiece always has
        raise UnsupportedTowerError(
            f"this {type(tokenizer).__name__} knows no word, so that all texts would be the same tokens: transformers "
            f"makes such a tokenizer of a folder without tokenizer files; put the model's own there "
            f"(tokenizer.save_pretrained), or wrap the model with it"
        )


class CallableTokenizer:
    """Any function from a list of texts to token ids: a tensor, array or lists, or a mapping with ``input_ids``.

    A row may have any length, and is read up to its padding: by the ``attention_mask`` of a mapping, else by the id
    that stands behind the tokens of an empty text. Such a function may cut texts without a word. A text is refused
    where saying it twice gives the same tokens as saying it once, since what was added has then been cut.

    pad_known: whether the id of padding was seen or declared. Otherwise rows are not padded, and ``pad_id`` is 0 until
    an adapter puts in the id that its model hides; towers that attend to padding refuse such a tokenizer.
    pads_left: whether its mask says that padding comes first.
    """

    def __init__(self, function: Callable[[list[str]], Any], context_length: int) -> None:
        self._function, self._context = function, context_length
        empty, mask = self._read([""])[0]
        probe, _ = self._read([_PROBE])[0]
        try:
            together, shared = self._read(["", _PROBE])[0]  # padded to the longest text of a batch, perhaps
        except (RuntimeError, ValueError, TypeError):  # rows of several lengths are no tensor
            together, shared = empty, mask
        self.pads_left = shared is not None and shared[0] == 0
        declared = getattr(function, "pad_token_id", getattr(function, "pad_id", None))
        self.pad_known = True
        if mask is not None and 0 in mask:
            self.pad_id = empty[mask.index(0)]
        elif declared is not None:
            self.pad_id = int(declared)
        elif len(empty) == len(probe):
            self.pad_id = empty[-1]
        else:
            self.pad_known = len(together) > len(empty)
            self.pad_id = together[-1] if self.pad_known else 0
        # where the token that ends a text also pads (CLIP's in transformers), the first of them is no padding
        ends_alone = len(empty) != len(probe) and self.pad_known and mask is None and self.pad_id == empty[-1]
        self._pad_ends = ends_alone or (len(empty) == len(probe) and 0 < self.pad_id == max(empty))
        self.special_ids = frozenset(self._tokens(""))
        ends = {"sot_token_id": "[SOT]", "bos_token_id": "[SOT]", "eot_token_id": "[EOT]", "eos_token_id": "[EOT]"}
        declared_ends = {getattr(function, attribute, None): name for attribute, name in ends.items()}
        self._names = {i: name for i, name in declared_ends.items() if i in self.special_ids}

    def encode(self, text: str) -> list[int]:
        try:
            ids = self._tokens(text)
        except (RuntimeError, ValueError) as error:  # it worked for an empty text: OpenAI's refuses long ones so
            raise ContextOverflowError(f"the tokenizer does not take {text[:80]!r}: {str(error)[:200]}") from error
        if len(ids) > len(self.special_ids) and self._cuts(text, ids):
            raise ContextOverflowError(
                f"the tokenizer may have cut {text[:80]!r}: it fills all {len(ids)} places, or gives the same tokens "
                f"when the text is repeated; shorten it, or wrap the model with a tokenizer that has an `encode` method"
            )
        return ids

    def _cuts(self, text: str, ids: list[int]) -> bool:
        try:
            return self._tokens(f"{text} {text}") == ids
        except (RuntimeError, ValueError):  # it refuses long texts instead of cutting them, as OpenAI's does
            return False

    def _tokens(self, text: str) -> list[int]:
        """The ids of one text without padding."""
        ids, mask = self._read([text])[0]
        if mask is not None:
            return [i for i, kept in zip(ids, mask, strict=True) if kept]
        end = len(ids)
        while self.pad_known and end and ids[end - 1] == self.pad_id:
            end -= 1
        return ids[: end + 1] if self._pad_ends else ids[:end]

    def strings(self, ids: Sequence[int]) -> list[str]:
        decode = getattr(self._function, "decode", None)
        if decode is None:
            return [f"#{i}" for i in ids]
        raw = [self._names.get(i) or _decoded(decode, i) for i in ids]
        names = [text.strip() if i in self.special_ids else None for i, text in zip(ids, raw, strict=True)]
        if any(text.endswith(" ") for text in raw):  # as open_clip's: a space ends each word
            pieces = [text.strip() + "</w>" * text.endswith(" ") for text in raw]
            return WordMarks("</w>").strings(pieces, names)
        pieces = ["▁" * text.startswith(" ") + text.strip() for text in raw]
        return WordMarks("▁" if any(text.startswith(" ") for text in raw) else "").strings(pieces, names)

    def _read(self, texts: list[str]) -> list[tuple[list[int], list[int] | None]]:
        """What the function gives for each text: ids, and its attention mask if it tells one."""
        with without_function_modes():
            found = self._function(texts)
        mapping = hasattr(found, "keys")
        rows = _rows(found["input_ids"] if mapping else found)
        masks = _rows(found["attention_mask"]) if mapping and "attention_mask" in found else None
        if rows is None or len(rows) != len(texts) or not all(rows):
            raise UnsupportedTowerError(
                f"the tokenizer must return a row of token ids for each text (at most {self._context}, padded or not), "
                f"as a tensor, lists or a mapping with input_ids; for {len(texts)} texts it gave {_shape(found)}"
            )
        return [(row, None if masks is None else masks[number]) for number, row in enumerate(rows)]


_MOST_SPECIAL = 1000  # tokens; T5 has 103 special ones
_PROBE = "a photo of a cat on a mat"  # longer than an empty text in any tokenizer


def _decoded(decode: Callable[[list[int]], Any], token: int) -> str:
    """A token's text; its number where it has none: start and end tokens may lie outside what can be decoded."""
    try:
        return str(decode([token])) or f"#{token}"
    except Exception:  # the code of others may raise anything
        return f"#{token}"


def _rows(ids: Any) -> list[list[int]] | None:
    """Token ids as lists of whole numbers, one for each text; None where they are anything else."""
    if hasattr(ids, "tolist"):
        ids = ids.tolist()
    if not isinstance(ids, (list, tuple)):
        return None
    rows = [row.tolist() if hasattr(row, "tolist") else row for row in ids]
    if not all(isinstance(row, (list, tuple)) and all(isinstance(i, int) for i in row) for row in rows):
        return None
    return [[int(i) for i in row] for row in rows]


def _shape(found: Any) -> str:
    return f"a {type(found).__name__}" + (f" of shape {list(found.shape)}" if hasattr(found, "shape") else "")


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
