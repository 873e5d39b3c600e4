"""The text tower: one plain module for every supported text encoder, which can resume in the middle of a forward pass.

Layers are numbered as in the literature: 0 is the embedding output (token + position), l the output of block l.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from ..errors import ContextOverflowError, UnsupportedTowerError
from .block import Attention, Block
from .hooks import HookPoint, share
from .layers import LayerNorm, TokenEmbedding
from .resuming import CleanRun, KeyValues, Layout, Site
from .tokens import TextTokenizer

if TYPE_CHECKING:
    from transformer_lens import HookedRootModule

Pooling = Literal["argmax", "eos", "last", "first"]
Padding = Literal["trim", "attend", "mask"]


@dataclass(frozen=True)
class TowerSpec:
    """What a text tower declares about itself."""

    causal: bool
    pooling: Pooling
    # "trim": padding never reaches the readout and is cut off; "mask": neither, and whole passes mask it out;
    # "attend": the model attends to it, so it stays
    padding: Padding
    context_length: int
    eos_id: int | None = None  # for pooling="eos"


class TextTower(nn.Module):
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

    blocks: Sequence[Block]

    def __init__(
        self,
        *,
        spec: TowerSpec,
        tokenizer: TextTokenizer,
        embedding: TokenEmbedding,
        blocks: Sequence[Block],
        ln_final: LayerNorm | None,
        projection: nn.Module | None,
    ) -> None:
        super().__init__()
        self.spec, self.tokenizer = spec, tokenizer
        self.embedding, self.hook_embed = embedding, HookPoint()
        self.blocks = cast(Sequence[Block], nn.ModuleList(blocks))
        self.ln_final = nn.Sequential()  # a namespace, so that the hook point has TransformerLens' name
        if ln_final is not None:
            self.ln_final.add_module("norm", ln_final)
        self.ln_final.add_module("hook_normalized", HookPoint())
        self.projection = projection or nn.Identity()
        self._fingerprint: tuple[object, str] = (None, "")
        self.eval()

    # what the tower is -----------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks, L."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int:
        """Attention heads in each block."""
        return self.blocks[0].attn.n_heads

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        return self.embedding.positions.shape[-1]

    @property
    def causal(self) -> bool:
        """Whether a position attends only to itself and to positions before it."""
        return self.spec.causal

    @property
    def pooling(self) -> Pooling:
        """Which position the embedding is read from."""
        return self.spec.pooling

    @property
    def context_length(self) -> int:
        """The most tokens a text may have, special tokens included."""
        return self.spec.context_length

    @property
    def device(self) -> torch.device:
        return self.embedding.positions.device

    @property
    def dtype(self) -> torch.dtype:
        return self.embedding.positions.dtype

    def extra_repr(self) -> str:
        return f"n_layers={self.n_layers}, n_heads={self.n_heads}, d_model={self.d_model}, {self.spec}"

    def fingerprint(self) -> str:
        """SHA-256 over every weight of the tower, by name: equal fingerprints mean equal weights.

        It is kept until a weight changes: another tensor, a write that torch counts, or another sum of its bytes (which
        a write behind torch's back, through ``.data``, changes too).
        """
        tensors = sorted(self.state_dict().items())
        state = [(name, t.data_ptr(), t._version, _byte_sum(t)) for name, t in tensors]
        if self._fingerprint[0] != state:
            digest = hashlib.sha256()
            for name, tensor in tensors:
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().view(torch.uint8).numpy().data)
            self._fingerprint = (state, digest.hexdigest())
        return self._fingerprint[1]

    # text in, embedding out --------------------------------------------------------------------------------------

    def token_ids(self, text: str) -> list[int]:
        """Token ids of one text, special tokens included, neither padded nor truncated.

        Raises:
            ContextOverflowError: the text has more tokens than the context; it is never truncated.
        """
        if not isinstance(text, str):
            raise TypeError(f"a text must be a string, got {type(text).__name__}: {text!r}")
        ids = self.tokenizer.encode(text)
        if max(ids, default=0) >= len(self.embedding.tokens):
            raise UnsupportedTowerError(
                f"the tokenizer gives id {max(ids)} for {text[:80]!r}, but the model's vocabulary has only "
                f"{len(self.embedding.tokens)} entries: this tokenizer does not belong to this model"
            )
        if len(ids) > self.context_length:
            raise ContextOverflowError(
                f"the text has {len(ids)} tokens but the model's context holds {self.context_length}, and "
                f"tracescribe never truncates: shorten {text[:80] + '…' if len(text) > 80 else text!r}"
            )
        return ids

    def tokenize(self, texts: Sequence[str]) -> Int[Tensor, "batch context"]:
        """Token ids padded to the context length, as the source model's own encoder takes them.

        Raises:
            ContextOverflowError: a text has more tokens than the context.
        """
        if isinstance(texts, str):
            raise TypeError(f"tokenize takes a list of texts, got the single string {texts!r}: write [{texts!r}]")
        rows = [self._pad(self.token_ids(text)) for text in texts]
        return torch.tensor(rows, dtype=torch.long, device=self.device).reshape(len(rows), self.context_length)

    def rows(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids that really have to be run: trimmed at the last token, or padded where padding is attended to."""
        if isinstance(texts, str):
            raise TypeError(f"expected a list of texts, got the single string {texts!r}: write [{texts!r}]")
        unpadded = [self.token_ids(text) for text in texts]
        return [self._pad(ids) for ids in unpadded] if self.spec.padding == "attend" else unpadded

    def token_strings(self, ids: Sequence[int]) -> list[str]:
        """Readable strings of token ids: ``[SOT]``, ``there``, ``[EOT]``."""
        return self.tokenizer.strings(list(map(int, ids)))

    def _pad(self, ids: list[int]) -> list[int]:
        return ids + [self.tokenizer.pad_id] * (self.context_length - len(ids))

    @torch.no_grad()
    def encode(self, texts: Sequence[str], batch_size: int = 256) -> Float[Tensor, "batch embed"]:
        """L2-normalised text embeddings.

        Texts of one length run together, without padding, so that a text's embedding does not depend on the others.

        Raises:
            ContextOverflowError: a text has more tokens than the context.
        """
        rows = self.rows(texts)
        out: Tensor | None = None
        for chunk in equal_length_batches(rows, batch_size):
            ids = torch.tensor([rows[i] for i in chunk], device=self.device)
            embeddings = normalise(self(ids))
            if out is None:
                out = embeddings.new_empty(len(rows), embeddings.shape[-1])
            out[chunk] = embeddings
        return torch.empty(0, 0) if out is None else out

    # the forward pass, whole and resumed ---------------------------------------------------------------------------

    def forward(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch embed"]:
        """Embeddings (not normalised) of token ids; padded rows are allowed wherever the source model allows them."""
        x, mask = self.embedding(ids, self.hook_embed), self.mask(ids.shape[1])
        if self.spec.padding == "mask":
            mask = (ids != self.tokenizer.pad_id)[:, None, None]  # (batch, head, query, key)
        for block in self.blocks:
            x = block(x, mask)
        return self.readout(x[torch.arange(len(x), device=x.device), self.pooled_positions(ids)])

    def readout(self, pooled: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows embed"]:
        """Final norm and projection of the pooled rows."""
        return self.projection(self.ln_final(pooled))

    def pooled_positions(self, ids: Int[Tensor, "batch pos"]) -> Int[Tensor, " batch"]:
        """The position each row's embedding is read from."""
        match self.spec.pooling:
            case "argmax":
                return ids.argmax(dim=-1)
            case "eos":
                return ids.eq(self.spec.eos_id or 0).int().argmax(dim=-1)
            case "first":
                return ids.new_zeros(len(ids))
            case "last":
                return ids.new_full((len(ids),), ids.shape[1] - 1)

    def mask(self, length: int, start: int = 0) -> Tensor | None:
        """Which keys (all positions) the queries from ``start`` on may attend to: True is allowed."""
        if not self.spec.causal or length - start == 1:
            return None
        return torch.ones(length - start, length, dtype=torch.bool, device=self.device).tril_(diagonal=start)

    def run_clean(self, ids: Int[Tensor, "batch pos"]) -> CleanRun:
        """An unpatched pass over rows of one length and one pooled position, keeping what a resumed pass needs."""
        pooled = self.pooled_positions(ids)
        if (pooled != pooled[0]).any():
            raise ValueError(f"rows of one clean run must be read at one position, got {pooled.unique().tolist()}")
        x, mask = self.embedding(ids, self.hook_embed), self.mask(ids.shape[1])
        resid, kv = [x], []

        def attend(attention: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
            kv.append(KeyValues(k, v))
            return attention.mix(q, k, v, mask)

        for block in self.blocks:
            x = block.body(block.hook_resid_pre(x), attend)
            resid.append(x)
        return CleanRun(resid, kv, int(pooled[0]), self.readout(x[:, int(pooled[0])]))

    def site(self, clean: CleanRun, position: int, joins: list[Int[Tensor, " texts"]]) -> Site:
        """A position to patch, with the rows that this tower has to run for it."""
        start = position if self.spec.causal else 0
        return Site(clean, position, start, joins, self.mask(clean.resid[0].shape[1], start))

    def resume(
        self, sites: Sequence[Site]
    ) -> tuple[Float[Tensor, "sequences embed"], list[Float[Tensor, "joining d"]]]:
        """One pass down the blocks for every layer and position that is to be patched.

        Before each block the clean states of the texts that are patched there join the flat batch and pass through the
        block's ``hook_resid_pre``, where the engine replaces their row (``Layout.patched``). The last block computes
        only the pooled rows.

        Returns:
            The embeddings of all joined texts, site after site and in order of joining; and for each block the states
            that stood at the patched rows *after* the hook point, which is what really went on.
        """
        x = sites[0].clean.embedding.new_empty(0, self.d_model)
        held: list[Tensor] = []
        for layer, block in enumerate(self.blocks):
            layout = Layout(sites, layer)
            x = layout.enter(x)
            if not len(x):  # nothing is patched so far, as at layer 0 of pairs that differ in one token
                held.append(x)
                continue
            x = block.hook_resid_pre(x)
            held.append(x[layout.patched()])
            last = layer == self.n_layers - 1
            x = block.body(x, layout.attend(only_pooled=last), layout.pooled() if last else None)
        return self.readout(x), held

    # other views of the same tower -----------------------------------------------------------------------------------

    def twin(self, dtype: torch.dtype | None = None) -> TextTower:
        """The same tower over the same parameters with hook points of its own; with ``dtype``, over cast copies."""
        twin = share(self).eval()
        if dtype is not None and dtype != self.dtype:
            for module in twin.modules():
                for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                    if tensor is not None and tensor.is_floating_point():
                        module._parameters.pop(name, None)
                        module._buffers[name] = tensor.detach().to(dtype)
        return twin

    def to_transformer_lens(self) -> HookedRootModule:
        """The same tower, over the same parameters, as a TransformerLens ``HookedRootModule``.

        ``run_with_cache``, ``run_with_hooks`` and ``transformer_lens.patching`` work on it with token ids as input.
        """
        from .lens import as_hooked_root_module

        return as_hooked_root_module(self)


def _byte_sum(tensor: Tensor) -> int:
    """The sum of a tensor's memory read as 64-bit integers (modulo 2^64), or as bytes where that does not go up."""
    flat = tensor.detach().contiguous().flatten()
    whole = flat.numel() * flat.element_size() % 8 == 0
    return int(flat.view(torch.int64 if whole else torch.uint8).sum())


def normalise(x: Float[Tensor, "*rows embed"]) -> Float[Tensor, "*rows embed"]:
    """Unit length along the last axis, in single precision or better whatever the tower's precision."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)


def equal_length_batches(rows: Sequence[Sequence[int]], batch_size: int) -> Iterator[list[int]]:
    """Indices of rows, in batches of equal length, so that no row is ever padded for another's sake."""
    by_length: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        by_length.setdefault(len(row), []).append(i)
    for indices in by_length.values():
        for at in range(0, len(indices), batch_size):
            yield indices[at : at + batch_size]
