"""The text tower: token ids in, embeddings out; attention mask, padding and pooling."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from ...errors import (
    ArgumentError,
    ContextOverflowError,
    DataFormatError,
    LengthMismatchError,
    UnsupportedTowerError,
)
from ...io.quoting import shown
from ..torch_state import neutral_state
from .block import Block, OpaqueBlock
from .hooks import HookPoint
from .layers import TokenEmbedding
from .spec import TowerSpec
from .tokenizers import TextTokenizer
from .tower import Tower, normalise

APPENDED = "[CLS]"  # how the token that CoCa puts behind every text is shown


class TextTower(Tower):
    """A CLIP-family text encoder with named hook points, over the source model's own parameters.

    Shapes: token ids ``[batch, pos]``, hidden states ``[batch, pos, d_model]``, embeddings ``[batch, embed]``.
    Towers are made by an adapter (see :mod:`.adapters`), through :func:`tracescribe.load` or :func:`tracescribe.wrap`.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> text.n_layers, text.n_heads, text.d_model, text.causal
    (8, 4, 64, True)
    >>> text.encode(["There is no effusion."]).shape
    torch.Size([1, 64])
    """

    def __init__(
        self,
        *,
        spec: TowerSpec,
        tokenizer: TextTokenizer,
        embedding: TokenEmbedding,
        blocks: Sequence[Block | OpaqueBlock],
        ln_final: nn.Module | None,
        projection: nn.Module | None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__(spec=spec, blocks=blocks, ln_final=ln_final, projection=projection, head=head)
        if spec.padding == "attend" and not getattr(tokenizer, "pad_known", True):
            raise UnsupportedTowerError(
                "this model attends to padding, and the tokenizer does not tell which id it pads with: make it pad to "
                "the context length, or give it an attribute pad_token_id"
            )
        if spec.padding != "own" and getattr(tokenizer, "pads_left", False):
            raise UnsupportedTowerError(
                "the tokenizer pads on the left, which moves every token of a text, while text encoders of this kind "
                "are padded on the right: set tokenizer.padding_side = 'right'"
            )
        self.tokenizer = tokenizer
        self.embedding, self.hook_embed = embedding, HookPoint()
        self.eval()

    @property
    def d_model(self) -> int:
        return self.embedding.d_model

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.dtype

    @property
    def context_length(self) -> int:
        """The most tokens a text may have, special tokens included."""
        return self.spec.context_length

    # text in, embedding out --------------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Token ids of one text, special tokens included, neither padded nor truncated.

        Raises:
            ContextOverflowError: the text has more tokens than the context; it is never truncated.
            DataFormatError: the text has no token, or holds the padding token itself where the model hides padding.
        """
        if not isinstance(text, str):
            raise TypeError(f"a text must be a string, got {type(text).__name__}: {text!r}")
        ids = self.tokenizer.encode(text)
        if max(ids, default=0) >= len(self.embedding.tokens):
            raise UnsupportedTowerError(
                f"the tokenizer gives id {max(ids)} for {text[:80]!r}, but the model's vocabulary has only "
                f"{len(self.embedding.tokens)} entries: this tokenizer does not belong to this model"
            )
        if not ids:
            raise DataFormatError(
                f"the tokenizer makes no token of the text {shown(text)}, so that there is nothing to encode"
            )
        if len(ids) > self.context_length:
            raise ContextOverflowError(
                f"the text has {len(ids)} tokens but the model's context holds {self.context_length}, and "
                f"tracescribe never truncates: shorten {text[:80] + '…' if len(text) > 80 else text!r}"
            )
        if self.spec.padding == "mask" and not self.spec.pad_in_text and self.tokenizer.pad_id in ids:
            raise DataFormatError(
                f"the text {text[:80]!r} holds the padding token itself (id {self.tokenizer.pad_id}), which the model "
                f"hides in some calls and reads in others: take it out of the text"
            )
        return ids

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "batch context"]:
        """Token ids padded to the context length, as the source model's own encoder takes them.

        They are not padded where the tower runs every text in its own length (``spec.padding`` is "own").

        Raises:
            ContextOverflowError: a text has more tokens than the context.
            LengthMismatchError: the texts have different lengths, and the tower takes no padding.
        """
        if isinstance(texts, str):
            raise ArgumentError(
                f"tokenize takes a list of texts, got the single string {shown(texts)}: put it in a list"
            )
        rows = [self.token_ids(text) for text in texts]
        if self.spec.padding != "own":
            rows = [self._pad(row) for row in rows]
        elif len({len(row) for row in rows}) > 1:
            raise LengthMismatchError(
                f"the texts have {', '.join(str(len(row)) for row in rows)} tokens, and this model's texts are never "
                f"padded: tokenize texts of one length together, or one by one (encode takes any)"
            )
        width = len(rows[0]) if rows and self.spec.padding == "own" else self.context_length
        return torch.tensor(rows, dtype=torch.long, device=self.device).reshape(len(rows), width)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that really have to be run.

        They are trimmed at the last token, or padded where padding is attended to. A token that the model appends has
        the id behind the vocabulary's last one; under CoCa's shifted mask the first padding token stays before it.
        """
        if isinstance(texts, str):
            raise ArgumentError(f"expected a list of texts, got the single string {shown(texts)}: put it in a list")
        return [self._row(self.token_ids(text)) for text in texts]

    def _row(self, ids: list[int]) -> list[int]:
        if self.spec.padding == "attend":
            return self._pad(ids)
        if self.spec.appended is None:
            return ids
        seen = [self.tokenizer.pad_id] if self.spec.appended == "legacy" and len(ids) < self.context_length else []
        return [*ids, *seen, len(self.embedding.tokens)]

    def from_source(self, ids: Int[Tensor, "batch context"]) -> Int[Tensor, "batch pos"]:
        """Padded ids as this tower takes them: with the token that the source model appends by itself."""
        if self.spec.appended is None:
            return ids
        return torch.cat([ids, ids.new_full((len(ids), 1), len(self.embedding.tokens))], dim=1)

    def token_strings(self, ids: Sequence[int] | Int[Tensor, " pos"]) -> list[str]:
        """Readable strings of token ids: ``[SOT]``, ``there``, ``[EOT]``."""
        known = list(map(int, ids))
        appended = [APPENDED] if self.spec.appended and known and known[-1] == len(self.embedding.tokens) else []
        return self.tokenizer.strings(known[: len(known) - len(appended)]) + appended

    def _pad(self, ids: list[int]) -> list[int]:
        return ids + [self.tokenizer.pad_id] * (self.context_length - len(ids))

    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "batch embed"]:
        """L2-normalised text embeddings.

        Texts of one length run together, without padding, so that a text's embedding does not depend on the others.

        Raises:
            ContextOverflowError: a text has more tokens than the context.
            StaleTowerError: the source model has changed since; ``model.text`` follows it.
            TorchStateError: see :func:`.torch_state.neutral_state`.
        """
        self.check_source()
        rows = self.rows(texts)
        with neutral_state(self):
            out: Tensor | None = None
            for chunk in equal_length_batches(rows, batch_size):
                embeddings = normalise(self(self.collate([rows[i] for i in chunk])))
                if out is None:
                    out = embeddings.new_empty(len(rows), embeddings.shape[-1])
                out[chunk] = embeddings
            return torch.empty(0, 0) if out is None else out

    # what a tower has to know of its inputs ---------------------------------------------------------------------------

    def collate(self, items: Sequence[Sequence[int]]) -> Int[Tensor, "batch pos"]:
        return torch.tensor([list(ids) for ids in items], dtype=torch.long, device=self.device)

    def shape_of(self, item: Sequence[int]) -> tuple[int, int | None]:
        pooled = self.pooled_positions(torch.tensor([list(item)], device="cpu"))  # whatever the default device
        return len(item), None if pooled is None else int(pooled[0])

    def embed(
        self, inputs: Int[Tensor, "batch pos"], places: Int[Tensor, "batch pos"] | None = None
    ) -> Float[Tensor, "batch pos d_model"]:
        return self.embedding(inputs, self.hook_embed, places)

    @property
    def movable(self) -> bool:
        relative = any(isinstance(block, Block) and block.attn.relative is not None for block in self.blocks)
        return self.embedding.positions is not None and self.embedding.appended is None and not relative

    def attention_mask(self, inputs: Int[Tensor, "batch pos"]) -> Bool[Tensor, "*batch #pos pos"] | None:
        n = inputs.shape[1]
        causal = torch.ones(n, n, dtype=torch.bool, device=inputs.device).tril_() if self.causal else None
        keys = self._allowed_keys(inputs)
        if keys is None or bool(keys.all()):
            return causal
        keys = keys[:, None, None]  # (batch, head, query, key)
        return keys if causal is None else causal & keys

    def _allowed_keys(self, ids: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
        if self.spec.padding == "mask":
            return ids != self.tokenizer.pad_id
        if self.spec.appended is None:
            return None
        real = ids != self.tokenizer.pad_id
        if self.spec.appended == "correct":
            return real
        return torch.cat([torch.ones_like(real[:, :1]), real[:, :-1]], dim=1)

    def counted(self, inputs: Int[Tensor, "batch pos"]) -> Bool[Tensor, "batch pos"] | None:
        return inputs != self.tokenizer.pad_id if self.spec.padding == "mask" else None

    def pooled_positions(self, inputs: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"] | None:
        match self.spec.pooling:
            case "argmax":
                return inputs.argmax(dim=-1)
            case "eos":
                return inputs.eq(self.spec.eos_id or 0).int().argmax(dim=-1)
            case "first":
                return inputs.new_zeros(len(inputs))
            case "last" if self.spec.padding == "mask":
                return (inputs != self.tokenizer.pad_id).sum(dim=-1) - 1
            case "last":
                return inputs.new_full((len(inputs),), inputs.shape[1] - 1)
            case "mean" | "head":
                return None


def equal_length_batches(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows, in batches of equal length, so that no row is ever padded for another's sake."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    for indices in by_length.values():
        for at in range(0, len(indices), batch_size):
            yield indices[at : at + batch_size]
