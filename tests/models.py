"""Small random models of the real classes, and a slow, independent way to patch them: what the tests compare with."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

VISION = {"image_size": 32, "patch_size": 16, "layers": 1, "width": 32, "head_width": 16}


class WordTokenizer:
    """A word a token: ids 1..., then [SOT] and [EOT] as the two largest ids."""

    def __init__(self, vocab_size: int = 64, pad_id: int = 0) -> None:
        self.pad_id, self.sot_id, self.eot_id = pad_id, vocab_size - 2, vocab_size - 1
        self.special_ids = frozenset((self.sot_id, self.eot_id))
        self._words: dict[str, int] = {}

    def encode(self, text: str) -> list[int]:
        words = text.replace(".", " .").split()
        ids = [self._words.setdefault(word, 2 + len(self._words) % (self.sot_id - 2)) for word in words]
        return [self.sot_id, *ids, self.eot_id]

    def strings(self, ids: Sequence[int]) -> list[str]:
        names = {i: word for word, i in self._words.items()} | {self.sot_id: "[SOT]", self.eot_id: "[EOT]"}
        return [names.get(i, f"#{i}") for i in ids]


def word_tokenizer(source: nn.Module) -> WordTokenizer:
    """A word tokenizer that pads as ``source`` expects: where padding is masked, by the configured id."""
    encoder = getattr(source, "text_model", None) or getattr(getattr(source, "text", None), "transformer", None)
    config = getattr(encoder, "config", None)
    return WordTokenizer(pad_id=config.pad_token_id if hasattr(config, "type_vocab_size") else 0)


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


_SMALL = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 3, "num_attention_heads": 2}
_TEXT = _SMALL | {"vocab_size": 64, "max_position_embeddings": 12}
_IMAGE = _SMALL | {"image_size": 32, "patch_size": 16}
_EFFICIENTNET = {
    "image_size": 32,
    "width_coefficient": 0.1,
    "depth_coefficient": 0.1,
    "hidden_dim": 64,
    "depth_divisor": 8,
    "kernel_sizes": [3],
    "in_channels": [8],
    "out_channels": [64],
    "strides": [1],
    "num_block_repeats": [1],
    "expand_ratios": [1],
    "depthwise_padding": [],
    "pooling_type": "mean",
}
_BERT = _TEXT | {"pad_token_id": 0, "max_position_embeddings": 14}


def siglip_model(seed: int = 0, *, layers: int = 3, version: int = 1) -> nn.Module:
    """A random transformers ``SiglipModel`` or ``Siglip2Model``."""
    import transformers

    kind = "Siglip" if version == 1 else "Siglip2"
    vision = _SMALL | {"patch_size": 16} | ({"image_size": 32} if version == 1 else {"num_patches": 4})
    text = _TEXT | {"num_hidden_layers": layers, "projection_size": 32}
    torch.manual_seed(seed)
    config = getattr(transformers, f"{kind}Config")(text_config=text, vision_config=vision)
    return _shaken(getattr(transformers, f"{kind}Model")(config), seed)


def chinese_clip_model(seed: int = 0, *, layers: int = 3) -> nn.Module:
    """A random transformers ``ChineseCLIPModel``: a BERT text tower read at its first token."""
    from transformers import ChineseCLIPConfig, ChineseCLIPModel

    torch.manual_seed(seed)
    text = _BERT | {"num_hidden_layers": layers}
    config = ChineseCLIPConfig(text_config=text, vision_config=_IMAGE, projection_dim=16)
    return _shaken(ChineseCLIPModel(config), seed)


def align_model(seed: int = 0) -> nn.Module:
    """A random transformers ``AlignModel``: BERT beside an EfficientNet."""
    from transformers import AlignConfig, AlignModel

    torch.manual_seed(seed)
    return _shaken(AlignModel(AlignConfig(text_config=_BERT, vision_config=_EFFICIENTNET, projection_dim=32)), seed)


def vision_text_model(seed: int = 0, *, text: str = "Bert", layers: int = 3) -> nn.Module:
    """A random ``VisionTextDualEncoderModel`` over BERT or RoBERTa, read through its pooler."""
    import transformers

    extra = {"pad_token_id": 1, "bos_token_id": 62, "eos_token_id": 63} if text == "Roberta" else {}
    torch.manual_seed(seed)
    config = transformers.VisionTextDualEncoderConfig.from_vision_text_configs(
        transformers.ViTConfig(**_IMAGE),
        getattr(transformers, f"{text}Config")(**_BERT | extra | {"num_hidden_layers": layers}),
        projection_dim=16,
    )
    return _shaken(transformers.VisionTextDualEncoderModel(config), seed)


def clip_text_only_model(seed: int = 0) -> nn.Module:
    """A random transformers ``CLIPTextModelWithProjection``: no image tower at all."""
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    torch.manual_seed(seed)
    return _shaken(CLIPTextModelWithProjection(CLIPTextConfig(**_TEXT, eos_token_id=63, projection_dim=16)), seed)


def clipseg_model(seed: int = 0) -> nn.Module:
    """A random transformers ``CLIPSegModel``."""
    from transformers import CLIPSegConfig, CLIPSegModel

    torch.manual_seed(seed)
    config = CLIPSegConfig(text_config=_TEXT | {"eos_token_id": 63}, vision_config=_IMAGE, projection_dim=16)
    return _shaken(CLIPSegModel(config), seed)


def open_clip_hf_model(
    seed: int = 0,
    *,
    text: str = "Bert",
    pooler: str = "cls_last_hidden_state_pooler",
    proj: str = "mlp",
    layers: int = 3,
) -> nn.Module:
    """A random open_clip ``CustomTextCLIP`` over a transformers encoder, as BiomedCLIP is built."""
    import tempfile

    import transformers
    from open_clip.model import CustomTextCLIP

    extra = {"pad_token_id": 1} if text == "Roberta" else {}
    config = getattr(transformers, f"{text}Config")(**_BERT | extra | {"num_hidden_layers": layers})
    torch.manual_seed(seed)
    with tempfile.TemporaryDirectory() as folder:
        config.save_pretrained(folder)
        cfg = {"hf_model_name": folder, "hf_model_pretrained": False, "hf_pooler_type": pooler, "hf_proj_type": proj}
        model = CustomTextCLIP(embed_dim=16, vision_cfg=VISION, text_cfg=cfg)
    return _shaken(model, seed)


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
    if not hasattr(model, "get_text_features"):
        return model(input_ids=ids).text_embeds
    config = model.text_model.config
    masked = {"attention_mask": (ids != config.pad_token_id).long()} if hasattr(config, "type_vocab_size") else {}
    return model.get_text_features(input_ids=ids, **masked).pooler_output


def source_blocks(model: nn.Module) -> nn.ModuleList:
    """The source model's own text blocks, found without the package."""
    places = ("text.transformer.encoder.layer", "text.transformer.resblocks", "transformer.resblocks")
    for place in (*places, "text_model.encoder.layers", "text_model.encoder.layer"):
        try:
            return model.get_submodule(place)
        except AttributeError:
            continue
    raise AssertionError(f"no text blocks in {type(model).__name__}")


def patched_by_hooks(model: nn.Module, base: Tensor, donor: Tensor, layer: int, positions: Sequence[int]) -> Tensor:
    """Whole passes of the *source* model with plain PyTorch hooks: no tower, no nnsight, no shortcut.

    base, donor: padded ids [1, context]. Returns the L2-normalised embedding [embed].
    """
    blocks = source_blocks(model)
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
