"""A tower as a TransformerLens ``HookedRootModule``: its caches, hooks and patching functions work unchanged."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from ...errors import LengthMismatchError, UnsupportedTowerError
from .block import MLP, Attention, Block
from .hooks import HookPoint, share
from .text_tower import TextTower

if TYPE_CHECKING:
    from transformer_lens import HookedRootModule

    from .tower import Tower


def as_hooked_root_module(tower: Tower) -> HookedRootModule:
    """The tower over the same parameters with TransformerLens' hook points; token ids, texts or pixels in.

    Beside the tower's own hook points it has those of TransformerLens that need more work a pass: ``hook_pos_embed``,
    ``mlp.hook_pre`` and, while ``set_use_split_qkv_input(True)`` holds, ``attn.hook_{q,k,v}_input``.
    ``ln_final.hook_normalized`` sees only the rows that are read out.

    What takes the residual stream for a sum of its parts (``decompose_resid``, ``stack_head_results``, direct paths)
    raises :class:`UnsupportedTowerError` where it is none: in post-LN towers such as BERT, and for the parts of a
    sub-layer whose output is scaled (LayerScale).
    """
    from transformer_lens import ActivationCache
    from transformer_lens import HookedRootModule as Root
    from transformer_lens.config import TransformerLensConfig
    from transformer_lens.hook_points import HookPoint as LensPoint

    twin = share(_with_lens_parts(tower.twin()), LensPoint)

    class TowerCache(ActivationCache):
        """Activations by TransformerLens' names; refuses to take apart what is no sum."""

        def decompose_resid(self, *args: Any, **kwargs: Any) -> Any:
            _require_sum(twin.blocks)
            return super().decompose_resid(*args, **kwargs)

        def stack_head_results(self, *args: Any, **kwargs: Any) -> Any:
            _require_sum(twin.blocks, of_parts=True)
            return super().stack_head_results(*args, **kwargs)

        def stack_neuron_results(self, *args: Any, **kwargs: Any) -> Any:
            _require_sum(twin.blocks, of_parts=True)
            return super().stack_neuron_results(*args, **kwargs)

        def apply_ln_to_stack(self, *args: Any, recompute_ln: bool = False, **kwargs: Any) -> Any:
            if not recompute_ln:
                raise UnsupportedTowerError(
                    "the scale of a layer norm is not among this tower's activations: use apply_ln=False, or "
                    "accumulated_resid(apply_ln=True), which norms every state anew"
                )
            return super().apply_ln_to_stack(*args, recompute_ln=True, **kwargs)

    class LensTower(Root):
        """The text tower seen by TransformerLens."""

        def __init__(self) -> None:
            super().__init__()
            n_heads, first = twin.n_heads or 1, twin.blocks[0]
            self.cfg: Any = TransformerLensConfig(
                d_model=twin.d_model,
                d_head=(first.attn.out.weight.shape[1] if isinstance(first, Block) else twin.d_model) // n_heads,
                n_layers=twin.n_layers,
                n_ctx=twin.spec.context_length,
                n_heads=n_heads,
                d_mlp=first.mlp.n_neurons if isinstance(first, Block) else None,
                device=str(twin.device),
                dtype=twin.dtype,
                use_attn_result=True,
            )
            for name, child in twin.named_children():
                self.add_module(name, child)
            # with a norm, token and position embeddings are no parts of layer 0
            if isinstance(twin, TextTower) and twin.embedding.norm is None:
                self.hook_pos_embed = LensPoint()
                self.hook_embed = twin.hook_embed
                twin.embedding.register_forward_hook(self._fire_embedding_parts)
                twin.hook_embed = nn.Identity()  # type: ignore[assignment]
            for block in twin.blocks:
                if isinstance(block, Block) and not block.post_norm:
                    _fork_inputs(block, self.cfg)
            self.setup()

        def _fire_embedding_parts(self, embedding: nn.Module, args: tuple[Any, ...], output: Tensor) -> Tensor:
            tokens: list[Tensor] = []

            def keep(x: Tensor) -> Tensor:
                tokens.append(x)
                return torch.zeros_like(x)

            positions = embedding.forward(args[0], keep)  # what is left of the embedding without the tokens
            return self.hook_embed(tokens[0]) + self.hook_pos_embed(positions)

        def forward(self, ids: Int[Tensor, "batch pos"] | str | Sequence[str]) -> Float[Tensor, "batch embed"]:
            return twin(ids if isinstance(ids, Tensor) else self.to_tokens(ids))

        def to_tokens(self, texts: str | Sequence[str]) -> Int[Tensor, "batch pos"]:
            """Token ids, special tokens included; nothing is padded or truncated.

            Raises:
                LengthMismatchError: the texts have different numbers of tokens.
            """
            rows = _text(twin).rows([texts] if isinstance(texts, str) else texts)
            if len({len(row) for row in rows}) > 1:
                raise LengthMismatchError(
                    f"the texts have {', '.join(str(len(row)) for row in rows)} tokens; give texts of one length, or "
                    f"token ids padded as the model takes them (TextTower.tokenize)"
                )
            return torch.tensor(rows, dtype=torch.long, device=twin.device)

        def to_str_tokens(self, text: str) -> list[str]:
            return _text(twin).token_strings(_text(twin).rows([text])[0])

        def run_with_cache(
            self, *args: Any, return_cache_object: bool = True, remove_batch_dim: bool = False, **kwargs: Any
        ) -> tuple[Tensor, ActivationCache | dict[str, Tensor]]:
            """Embeddings and an ``ActivationCache``, or its plain dictionary with ``return_cache_object=False``."""
            out, cache = super().run_with_cache(*args, remove_batch_dim=remove_batch_dim, **kwargs)
            return out, TowerCache(cache, self, has_batch_dim=not remove_batch_dim) if return_cache_object else cache

        def set_use_split_qkv_input(self, use_split_qkv_input: bool) -> None:
            """Give queries, keys and values of each head their own copy of the residual stream, to be patched alone.

            Raises:
                UnsupportedTowerError: what a head writes is not what a later head reads (post-LN, LayerScale).
            """
            if use_split_qkv_input:
                _require_sum(twin.blocks, of_parts=True)
            self.cfg.use_split_qkv_input = use_split_qkv_input

        def accumulated_bias(
            self, layer: int, mlp_input: bool = False, include_mlp_biases: bool = True
        ) -> Float[Tensor, " d_model"]:
            """Sum of the output biases of the blocks before ``layer`` (``mlp_input``: and of its attention)."""
            _require_sum(twin.blocks, of_parts=True)
            blocks = [block for block in twin.blocks if isinstance(block, Block)]  # all of them: see _require_sum
            linears = [block.attn.out for block in blocks[: layer + mlp_input]]
            linears += [block.mlp.down for block in blocks[:layer]] if include_mlp_biases else []
            total = torch.zeros(twin.d_model, device=twin.device, dtype=twin.dtype)
            for linear in linears:
                total = total if linear.bias is None else total + linear.bias
            return total

    return LensTower().eval()


class LensAttention(Attention):
    """Attention that computes every activation TransformerLens names, with its weights in TransformerLens' shapes."""

    def __init__(self, source: Attention) -> None:
        super().__init__(
            source.qkv, source.out, source.n_heads, relative=source.relative, scale=source.scale, gate=source.gate
        )
        self.explicit = True  # so that hook_pattern and hook_result fire
        self.hook_q_input, self.hook_k_input, self.hook_v_input = HookPoint(), HookPoint(), HookPoint()

    def head_inputs(self) -> list[tuple[nn.Module, Float[Tensor, "head d_model d_head"], Tensor | None]]:
        """For queries, keys and values: where their input is patched, their weight, and their bias [head, d_head]."""
        points = (self.hook_q_input, self.hook_k_input, self.hook_v_input)
        return [
            (
                point,
                weight.unflatten(0, (self.n_heads, -1)).mT,
                None if bias is None else bias.unflatten(0, (self.n_heads, -1)),
            )
            for point, (weight, bias) in zip(points, self.qkv.parts(), strict=True)
        ]

    @property
    def W_Q(self) -> Float[Tensor, "head d_model d_head"]:
        return self.head_inputs()[0][1]

    @property
    def W_K(self) -> Float[Tensor, "head d_model d_head"]:
        return self.head_inputs()[1][1]

    @property
    def W_V(self) -> Float[Tensor, "head d_model d_head"]:
        return self.head_inputs()[2][1]

    @property
    def W_O(self) -> Float[Tensor, "head d_head d_model"]:
        return self.out.weight.T.unflatten(0, (self.n_heads, -1))


class LensMLP(MLP):
    """An MLP whose neurons have both hook points, with its weights in TransformerLens' shapes."""

    def __init__(self, source: MLP) -> None:
        super().__init__(source.up, source.activation, source.down, source.gate)
        self.hook_pre = HookPoint()

    def forward(self, x: Float[Tensor, "*rows d"]) -> Float[Tensor, "*rows d"]:
        if self.gate is None:
            return self.down(self.hook_post(self.activation(self.hook_pre(self.up(x)))))
        return self.down(self.hook_post(self.activation(self.hook_pre(self.gate(x))) * self.up(x)))

    @property
    def W_in(self) -> Float[Tensor, "d_model d_mlp"]:
        return self.up.weight.T

    @property
    def W_out(self) -> Float[Tensor, "d_mlp d_model"]:
        return self.down.weight.T


def _text(tower: Tower) -> TextTower:
    if not isinstance(tower, TextTower):
        raise UnsupportedTowerError("an image tower reads no texts: give it pixels [n, 3, h, w]")
    return tower


def _with_lens_parts(twin: Tower) -> Tower:
    """The twin itself, its attention and MLPs replaced by those with more hook points."""
    for block in twin.blocks:
        if isinstance(block, Block):
            block.attn, block.mlp = LensAttention(block.attn), LensMLP(block.mlp)
    return twin.eval()


def _fork_inputs(block: Block, cfg: Any) -> None:
    """While ``cfg.use_split_qkv_input`` holds, every head gets its queries, keys and values from copies of its own.

    The copies are taken before the layer norm, as TransformerLens does for direct paths.
    """
    attention = block.attn
    assert isinstance(attention, LensAttention)
    residual: list[Tensor] = []

    def keep(norm: nn.Module, args: tuple[Tensor, ...]) -> None:
        if cfg.use_split_qkv_input:
            residual[:] = args

    def fork(qkv: nn.Module, args: Any, output: Any) -> tuple[Tensor, ...] | None:
        if not cfg.use_split_qkv_input:
            return None
        x = residual.pop()
        copies = x.unsqueeze(-2).expand(*x.shape[:-1], attention.n_heads, x.shape[-1])
        forked = []
        for point, weight, bias in attention.head_inputs():
            mine = block.ln_1.forward(point(copies.clone()))  # not a call: only the real norm's input is kept
            out = torch.einsum("...hd,hdc->...hc", mine, weight)
            forked.append((out if bias is None else out + bias).flatten(-2))
        return tuple(forked)

    block.ln_1.register_forward_pre_hook(keep)
    attention.qkv.register_forward_hook(fork)


def _require_sum(blocks: Sequence[nn.Module], of_parts: bool = False) -> None:
    """Refuse a residual stream that is no sum of sub-layer outputs (``of_parts``: of heads, neurons and biases)."""
    for number, block in enumerate(blocks):
        if not isinstance(block, Block):
            reason = "is not taken apart"
        elif block.post_norm:
            reason = "normalises the residual stream after each addition (post-LN)"
        elif of_parts and not all(isinstance(scale, nn.Identity) for scale in (block.scale_attn, block.scale_mlp)):
            reason = "scales the outputs of its attention and MLP (LayerScale)"
        else:
            continue
        raise UnsupportedTowerError(
            f"block {number} {reason}, so its residual stream is no sum of the parts asked for; patch the activations "
            f"themselves (resid, attn_out, mlp_out, z, q, k, v, pattern)"
        )
