"""The base of text and image towers: one plain module for every supported encoder.

Layers are numbered as in the literature: 0 is the embedding output (token + position), l the output of block l.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Self, cast

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from .block import Block, OpaqueBlock
from .hooks import HookPoint, share
from .spec import TowerSpec

if TYPE_CHECKING:
    from transformer_lens import HookedRootModule


class Tower(nn.Module):
    """Blocks with named hook points between an embedding and a readout, over the source model's own parameters.

    Shapes: hidden states ``[batch, pos, d_model]``, embeddings ``[batch, embed]``. What goes in is up to the subclass:
    token ids or pixels.
    """

    blocks: Sequence[Block | OpaqueBlock]

    def __init__(
        self,
        *,
        spec: TowerSpec,
        blocks: Sequence[Block | OpaqueBlock],
        ln_final: nn.Module | None,
        projection: nn.Module | None,
        head: nn.Module | None = None,
    ) -> None:
        super().__init__()
        self.spec = spec
        self.blocks = cast("Sequence[Block | OpaqueBlock]", nn.ModuleList(blocks))
        self.ln_final = nn.Sequential()  # a namespace, so that the hook point has TransformerLens' name
        if ln_final is not None:
            self.ln_final.add_module("norm", ln_final)
        self.ln_final.add_module("hook_normalized", HookPoint())
        self.head = head
        self.projection = projection or nn.Identity()
        self._fingerprint: tuple[object, str] = (None, "")
        # raises StaleTowerError where the source model has changed since the tower was built; None without a source
        self.source_state: Callable[[], None] | None = None

    # what the tower is -----------------------------------------------------------------------------------------

    @property
    def n_layers(self) -> int:
        """Number of transformer blocks, L."""
        return len(self.blocks)

    @property
    def n_heads(self) -> int | None:
        """Attention heads in each block; None where blocks are not taken apart."""
        first = self.blocks[0]
        return first.attn.n_heads if isinstance(first, Block) else None

    @property
    def n_neurons(self) -> int | None:
        """Neurons in the MLP of each block; None where blocks are not taken apart."""
        first = self.blocks[0]
        return first.mlp.n_neurons if isinstance(first, Block) else None

    @property
    def d_model(self) -> int:
        """Width of the residual stream."""
        raise NotImplementedError

    @property
    def causal(self) -> bool:
        """Whether a position attends only to itself and to positions before it."""
        return self.spec.causal

    @property
    def pooling(self) -> str:  # not Pooling: jedi 0.20, which completes in notebooks, fails at properties of a Literal
        """Which position the embedding is read from."""
        return self.spec.pooling

    @property
    def readout_layers(self) -> tuple[int, ...]:
        """The layers whose states the readout sees; almost always only the last."""
        return self.spec.readout_layers or (self.n_layers,)

    @property
    def opaque(self) -> bool:
        """Whether a block is not taken apart, so that only the residual stream can be patched."""
        return not all(isinstance(block, Block) for block in self.blocks)

    @property
    def resumable(self) -> bool:
        """Whether a pass can resume in the middle: every block is taken apart and only the last state is read."""
        only_last = self.readout_layers == (self.n_layers,)
        return not self.opaque and only_last and (self.spec.reads_one or not self.causal)

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return next(itertools.chain(self.parameters(), self.buffers())).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the states, and of the weights that make layer 0."""
        raise NotImplementedError

    def extra_repr(self) -> str:
        return f"n_layers={self.n_layers}, n_heads={self.n_heads}, d_model={self.d_model}, {self.spec}"

    def check_source(self) -> None:
        """Raise if the source model has changed so that this tower no longer computes what it computes.

        Raises:
            StaleTowerError: it has; ``model.text`` and ``model.vision`` follow their source.
        """
        if self.source_state is not None:
            self.source_state()

    def fingerprint(self) -> str:
        """SHA-256 over every weight of the tower, by name: equal fingerprints mean equal weights.

        It is kept until a weight changes: another tensor, a write that torch counts, or another sum of its bytes (which
        a write behind torch's back, through ``.data``, changes too).
        """
        tensors = sorted(self.state_dict().items())
        state = [(name, t.data_ptr(), 0 if t.is_inference() else t._version, byte_sum(t)) for name, t in tensors]
        if self._fingerprint[0] != state:
            digest = hashlib.sha256()
            for name, tensor in tensors:
                digest.update(name.encode())
                digest.update(tensor.cpu().contiguous().flatten().view(torch.uint8).numpy().data)
            self._fingerprint = (state, digest.hexdigest())
        return self._fingerprint[1]

    # what a subclass knows of its inputs ------------------------------------------------------------------------

    def collate(self, items: Sequence[Any]) -> Tensor:
        """Inputs of one shape as one batch on the tower's device."""
        raise NotImplementedError

    def shape_of(self, item: Any) -> tuple[int, int | None]:
        """Number of positions of one input, and the one that is read out; None for a mean."""
        raise NotImplementedError

    def embed(self, inputs: Tensor, places: Tensor | None = None) -> Float[Tensor, "batch pos d_model"]:
        """Layer 0; ``places``: the positions that the inputs' parts take, where the tower is ``movable``."""
        raise NotImplementedError

    @property
    def movable(self) -> bool:
        """Whether positions are added in layer 0 only, so that a token can be run as if it stood elsewhere."""
        return False

    def attention_mask(self, inputs: Tensor) -> Bool[Tensor, "*batch #pos pos"] | None:
        """Which keys a query may attend to: [pos, pos] for all alike, or [batch, 1, 1 or pos, pos]; None for all."""
        return None

    def pooled_positions(self, inputs: Tensor) -> Int[Tensor, " batch"] | None:
        """The position each row's embedding is read from; None for a mean."""
        raise NotImplementedError

    def counted(self, inputs: Tensor) -> Bool[Tensor, "batch pos"] | None:
        """The positions that enter a mean, or that a head reads; None for all."""
        return None

    # the forward pass -----------------------------------------------------------------------------------------------

    def forward(self, inputs: Tensor) -> Float[Tensor, "batch embed"]:
        """Embeddings (not normalised)."""
        x, mask = self.embed(inputs), self.attention_mask(inputs)
        states = {0: x}
        for layer, block in enumerate(self.blocks, start=1):
            x = block(x, mask)
            states[layer] = x
            if layer - 1 not in self.readout_layers:
                del states[layer - 1]
        return self.read_states(states, inputs)

    def read_states(
        self, states: Mapping[int, Tensor] | Sequence[Tensor], inputs: Tensor
    ) -> Float[Tensor, "batch embed"]:
        """The embedding of states by layer: of the last one's, or of the mean of those that the readout averages."""
        read = states[self.n_layers]
        if self.readout_layers != (self.n_layers,):
            read = torch.stack([states[layer] for layer in self.readout_layers]).mean(dim=0)
        return self.read(read, self.pooled_positions(inputs), self.counted(inputs))

    def read(
        self, x: Float[Tensor, "batch pos d_model"], pooled: Tensor | None, counted: Tensor | None = None
    ) -> Float[Tensor, "batch embed"]:
        """The embedding of hidden states: by the pooled row of each, by the head, or by the mean of counted rows."""
        if pooled is not None:
            return self.readout(x[torch.arange(len(x), device=x.device), pooled])
        x = self.ln_final(x)
        if self.head is not None:
            return self.projection(self.head(x) if counted is None else self.head(x, counted))
        if counted is None:
            return self.projection(x.mean(dim=1))
        weights = counted.to(x.dtype)
        return self.projection((x * weights[..., None]).sum(dim=1) / weights.sum(dim=1, keepdim=True))

    def readout(self, pooled: Float[Tensor, "rows d_model"]) -> Float[Tensor, "rows embed"]:
        """Final norm and projection of the pooled rows."""
        return self.projection(self.ln_final(pooled))

    # other views of the same tower -----------------------------------------------------------------------------------

    def twin(self, dtype: torch.dtype | None = None) -> Self:
        """The same tower over the same parameters with other hook points; with ``dtype``, over cast copies.

        Weights that were made under ``torch.inference_mode`` are copied too: autograd cannot read them.

        Raises:
            StaleTowerError: see :meth:`check_source`.
        """
        self.check_source()
        twin = share(self).eval()
        with torch.inference_mode(False), torch.no_grad():
            for module in twin.modules():
                if dtype is not None and "cast" in module.__dict__:
                    module.__dict__["cast"] = None  # one precision throughout
                for name, tensor in [*module._parameters.items(), *module._buffers.items()]:
                    if tensor is None:
                        continue
                    wanted = dtype if dtype is not None and tensor.is_floating_point() else tensor.dtype
                    if wanted != tensor.dtype or tensor.is_inference():
                        module._parameters.pop(name, None)
                        module._buffers[name] = tensor.detach().to(wanted, copy=True)
        return twin

    def to_transformer_lens(self) -> HookedRootModule:
        """The same tower, over the same parameters, as a TransformerLens ``HookedRootModule``.

        ``run_with_cache``, ``run_with_hooks`` and ``transformer_lens.patching`` work on it with token ids (or pixels).
        """
        from .transformerlens import as_hooked_root_module

        return as_hooked_root_module(self)


def byte_sum(tensor: Tensor) -> int:
    """The sum of a tensor's memory read as 64-bit integers (modulo 2^64), or as bytes where that does not go up."""
    flat = tensor.detach().contiguous().flatten()
    by_words = flat.numel() * flat.element_size() % 8 == 0
    return int(flat.view(torch.int64 if by_words else torch.uint8).sum())


def normalise(x: Float[Tensor, "*rows embed"]) -> Float[Tensor, "*rows embed"]:
    """Unit length along the last axis, in single precision or better whatever the tower's precision."""
    return F.normalize(x.to(torch.promote_types(x.dtype, torch.float32)), dim=-1)
