"""Small random models of the real classes, and a slow, independent way to patch them: what the tests compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

VISION = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}


class WordTokenizer:
    """A word a token: ids 1..., then [SOT] and [EOT] as the two largest ids."""

    def __init__(self, vocab_size: int = 64) -> None:
        self.pad_id, self.sot_id, self.eot_id = 0, vocab_size - 2, vocab_size - 1
        self.special_ids = frozenset((self.sot_id, self.eot_id))
        self._words: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace(".", " .").split()
        ids = [self._words.setdefault(word, 1 + len(self._words) % (self.sot_id - 1)) for word in words]
        return [self.sot_id, *ids, self.eot_id]

    def strings(self, ids: Sequence[int]) -> list[str]:
        names = {i: word for word, i in self._words.items()} | {self.sot_id: "[SOT]", self.eot_id: "[EOT]"}
        return [names.get(i, f"#{i}") for i in ids]


def open_clip_model(
    seed: int = 0,
    *,
    custom: bool = False,
    quick_gelu: bool = False,
    width: int = 32,
    heads: int = 2,
    layers: int = 3,
    **text: Any,
) -> nn.Module:
    """A random open_clip ``CLIP`` (or ``CustomTextCLIP``) whose blocks all matter: weights of order one."""
    from open_clip.model import CLIP, CustomTextCLIP

    cfg = {"context_length": 12, "vocab_size": 64, "width": width, "heads": heads, "layers": layers} | text
    torch.manual_seed(seed)
    model = (CustomTextCLIP if custom else CLIP)(embed_dim=16, vision_cfg=VISION, text_cfg=cfg, quick_gelu=quick_gelu)
    return _shaken(model, seed)


def transformers_model(seed: int = 0, *, eos_token_id: int = 63, layers: int = 3, act: str = "quick_gelu") -> nn.Module:
    """A random transformers ``CLIPModel``; ``eos_token_id=2`` is the legacy configuration."""
    from transformers import CLIPConfig, CLIPModel

    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": layers, "num_attention_heads": 2}
    text = small | {"vocab_size": 64, "max_position_embeddings": 12, "eos_token_id": eos_token_id, "hidden_act": act}
    torch.manual_seed(seed)
    config = CLIPConfig(text_config=text, vision_config=small | {"image_size": 32, "patch_size": 16}, projection_dim=16)
    return _shaken(CLIPModel(config), seed)


def _shaken(model: nn.Module, seed: int) -> nn.Module:
    """Biases and norms are 0 and 1 at initialisation, which would hide an adapter that forgets them."""
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.15 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def source_encoder(model: nn.Module, ids: Tensor) -> Tensor:
    """The source model's own text encoder on padded ids."""
    if hasattr(model, "encode_text"):
        return model.encode_text(ids)
    return model.get_text_features(input_ids=ids).pooler_output


def patched_by_hooks(model: nn.Module, base: Tensor, donor: Tensor, layer: int, positions: Sequence[int]) -> Tensor:
    """Whole passes of the *source* model with plain PyTorch hooks: no tower, no nnsight, no shortcut.

    base, donor: padded ids [1, context]. Returns the L2-normalised embedding [embed].
    """
    if hasattr(model, "encode_text"):
        transformer = model.text.transformer if hasattr(model, "text") else model.transformer
        blocks, first = transformer.resblocks, transformer.resblocks[0]
    else:
        blocks = model.text_model.encoder.layers
        first = blocks[0]
    kept: list[Tensor] = []

    def keep_or_put(state: Tensor, put: bool) -> Tensor:
        if not put:
            kept.append(state.clone())
            return state
        state = state.clone()
        state[:, list(positions)] = kept[0][:, list(positions)]
        return state

    def run(ids: Tensor, put: bool) -> Tensor:
        if layer == 0:
            handle = first.register_forward_pre_hook(lambda module, args: (keep_or_put(args[0], put), *args[1:]))
        else:
            handle = blocks[layer - 1].register_forward_hook(lambda module, args, out: keep_or_put(out, put))
        try:
            with torch.no_grad():
                return source_encoder(model, ids)
        finally:
            handle.remove()

    run(donor, put=False)
    return nn.functional.normalize(run(base, put=True), dim=-1)[0]
