"""A tower as a TransformerLens ``HookedRootModule``: its caches, hooks and patching functions work unchanged."""

from __future__ import annotations

from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

from jaxtyping import Float, Int
from torch import Tensor

if TYPE_CHECKING:
    from transformer_lens import HookedRootModule

    from .tower import Tower


def as_hooked_root_module(tower: Tower) -> HookedRootModule:
    """The tower over the same parameters with TransformerLens hook points; token ids in, embeddings out."""
    from transformer_lens import HookedRootModule as Root
    from transformer_lens.hook_points import HookPoint as LensPoint

    from .block import Block
    from .hooks import share

    twin = share(tower, LensPoint)
    for block in twin.blocks:
        if isinstance(block, Block):
            block.attn.explicit = True  # so that hook_pattern fires

    class LensTower(Root):
        """The text tower seen by TransformerLens."""

        def __init__(self) -> None:
            super().__init__()
            self.cfg: Any = SimpleNamespace(
                n_layers=twin.n_layers,
                n_heads=twin.n_heads,
                n_key_value_heads=None,
                d_model=twin.d_model,
                d_head=twin.d_model // twin.n_heads if twin.n_heads else None,
                n_ctx=twin.context_length,
                device=twin.device,
            )
            for name, child in twin.named_children():
                self.add_module(name, child)
            self.setup()

        def forward(self, ids: Int[Tensor, "batch pos"]) -> Float[Tensor, "batch embed"]:
            return twin(ids)

    return LensTower().eval()
