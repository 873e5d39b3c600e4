"""TransformerLens' TransformerBridge for the text models of transformers' CLIP and SigLIP, which it has no adapter for.

:class:`ClipTextAdapter` is registered as an entry point of the group ``transformer_lens.architectures``; this module is
imported by TransformerLens, or by who calls :func:`text_bridge`, and by nothing else here.
"""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformer_lens.model_bridge import TransformerBridge
from transformer_lens.model_bridge.architecture_adapter import ArchitectureAdapter
from transformer_lens.model_bridge.generalized_components import (
    BlockBridge,
    EmbeddingBridge,
    LinearBridge,
    NormalizationBridge,
    PosEmbedBridge,
    PositionEmbeddingsAttentionBridge,
)
from transformer_lens.model_bridge.sources import build_bridge_from_module

from ...errors import DataFormatError, UnsupportedTowerError
from .hooks import share

# which field of its output is a model's text embedding; None: it has no projection and no head
_EMBEDDING = {
    "CLIPTextModel": None,
    "CLIPTextModelWithProjection": "text_embeds",
    "SiglipTextModel": "pooler_output",
    "Siglip2TextModel": "pooler_output",
}
_STORED_AS = {
    "clip": "CLIPTextModelWithProjection",
    "clip_text_model": "CLIPTextModelWithProjection",
    "siglip": "SiglipTextModel",
    "siglip_text_model": "SiglipTextModel",
    "siglip2": "Siglip2TextModel",
    "siglip2_text_model": "Siglip2TextModel",
}


class TextAttentionBridge(PositionEmbeddingsAttentionBridge):
    """Attention computed step by step, so that edits of every activation count; there is nothing rotary in it."""

    def __init__(self, config: Any, *, is_causal: bool) -> None:
        projections = {name[0]: LinearBridge(name=f"{name}_proj") for name in ("q", "k", "v", "out")}
        super().__init__("self_attn", config, projections, is_causal=is_causal)
        for never_fires in ("hook_cos", "hook_sin"):
            delattr(self, never_fires)
            self._hook_registry.pop(never_fires, None)


class ClipTextAdapter(ArchitectureAdapter):
    """How TransformerLens reads transformers' text models of CLIP, SigLIP and SigLIP 2.

    A bridge returns what ends its model: text embeddings [batch, embed] where there is a projection or a head
    (not normalised), and else, as TransformerLens does for encoders without one, the last hidden states after the final
    layer norm [batch, pos, d_model].
    """

    supports_generation = False
    supports_causal_loss = False  # nothing here predicts a token
    supports_compatibility_mode = False  # it folds the last layer norm into an unembedding, and there is none

    def __init__(self, cfg: Any) -> None:
        super().__init__(cfg)
        causal = cfg.architecture.startswith("CLIP")
        self.cfg.normalization_type = "LN"
        self.cfg.positional_embedding_type = "standard"
        self.cfg.final_rms = False
        self.cfg.gated_mlp = False
        self.cfg.attn_only = False
        self.cfg.attention_dir = "causal" if causal else "bidirectional"
        self.weight_processing_conversions = {**self._qkvo_weight_conversions(include_biases=True)}
        below = "text_model." if cfg.architecture.endswith("WithProjection") else ""

        def norm(name: str) -> NormalizationBridge:
            return NormalizationBridge(name=name, config=self.cfg, use_native_layernorm_autograd=True)

        self.component_mapping = {
            "embed": EmbeddingBridge(name=f"{below}embeddings.token_embedding"),
            "pos_embed": PosEmbedBridge(name=f"{below}embeddings.position_embedding"),
            "blocks": BlockBridge(
                name=f"{below}encoder.layers",
                config=self.cfg,
                submodules={
                    "ln1": norm("layer_norm1"),
                    "attn": TextAttentionBridge(self.cfg, is_causal=causal),
                    "ln2": norm("layer_norm2"),
                    "mlp": self._ungated_mlp(up="fc1", down="fc2"),
                },
            ),
            "ln_final": norm(f"{below}final_layer_norm"),
        }
        if below:
            self.component_mapping["text_projection"] = LinearBridge(name="text_projection")
        elif not causal:
            self.component_mapping["text_projection"] = LinearBridge(name="head")

    def prepare_model(self, hf_model: Any) -> None:
        """Attend by tensors that can be hooked, and let the output hold the embedding where TransformerLens looks."""
        hf_model.set_attn_implementation("eager")  # other kernels get no mask that attention computed here could read
        embedding = _EMBEDDING[self.cfg.architecture]
        if embedding is not None:
            hf_model.register_forward_hook(lambda module, args, output: _with_logits(output, embedding))
        # 2 is what configurations said before transformers' #24773: the largest id is read, whatever its number
        if embedding == "text_embeds" and hf_model.config.eos_token_id != 2:
            hf_model.register_forward_pre_hook(_require_end_token, with_kwargs=True)


def text_bridge(source: str | Path | nn.Module, **load: Any) -> TransformerBridge:
    """A ``TransformerBridge`` around the text model of transformers' CLIP, SigLIP or SigLIP 2; it takes token ids.

    Texts have to be tokenised as the model's own processor does: TransformerLens' own tokenisation takes the end token
    away, where CLIP reads its embedding, and masks padding, which SigLIP attends to.

    ``TransformerBridge.boot_transformers`` of TransformerLens 4.3 looks for an architecture in its own table only, so
    it cannot find adapters of others; this is the same bridge, built by ``build_bridge_from_module``, which can.

    Args:
        source: a folder or hub id that ``from_pretrained`` reads (a whole CLIP will do), or a model in memory: its
            parameters are shared, and neither its modules nor its configuration is changed.
        load: further arguments of ``from_pretrained``.

    Raises:
        UnsupportedTowerError: ``source`` is no text model of these families.

    >>> from transformers import CLIPTextConfig, CLIPTextModelWithProjection
    >>> config = CLIPTextConfig(hidden_size=8, intermediate_size=16, num_hidden_layers=2, num_attention_heads=2,
    ...                         vocab_size=10, max_position_embeddings=6, eos_token_id=9, projection_dim=4)
    >>> bridge = text_bridge(CLIPTextModelWithProjection(config))
    >>> embedding, cache = bridge.run_with_cache(torch.tensor([[8, 1, 2, 9]]))
    >>> embedding.shape, cache["resid_post", 1].shape, cache["pattern", 0].shape
    (torch.Size([1, 4]), torch.Size([1, 4, 8]), torch.Size([1, 2, 4, 4]))
    """
    model = _our_own(source) if isinstance(source, nn.Module) else _load(str(source), **load)
    return build_bridge_from_module(
        model,
        type(model).__name__,
        hf_config=model.config,
        model_name=str(model.config.name_or_path or type(model).__name__),
    )


def _load(name: str, **load: Any) -> Any:
    """The text model stored in a folder or on the hub."""
    import transformers

    config = transformers.AutoConfig.from_pretrained(name)
    kind = _STORED_AS.get(config.model_type)
    if config.model_type == "clip_text_model" and "CLIPTextModel" in (config.architectures or ()):
        kind = "CLIPTextModel"
    if kind is None:
        raise UnsupportedTowerError(
            f"{name!r} holds a model of type {config.model_type!r}; a text bridge reads {', '.join(_STORED_AS)}"
        )
    if config.model_type == "clip":  # a whole CLIP keeps the size of its embeddings beside its text configuration
        config.text_config.projection_dim = config.projection_dim
        load = {"config": config.text_config, **load}
    return getattr(transformers, kind).from_pretrained(name, **load).eval()


def _our_own(source: Any) -> Any:
    """A model over the parameters of ``source`` whose modules and configuration may be changed."""
    import transformers

    kind = type(source).__name__
    if kind == "CLIPModel":  # has the parts of CLIPTextModelWithProjection
        with torch.device("meta"):
            model: Any = transformers.CLIPTextModelWithProjection(source.config.text_config)
        model.text_model, model.text_projection = share(source.text_model), share(source.text_projection)
    elif kind in ("SiglipModel", "Siglip2Model"):
        model = share(source.text_model)
    elif kind in _EMBEDDING:
        model = share(source)
    else:
        raise UnsupportedTowerError(
            f"{kind} is no text model that a bridge reads; give one of {', '.join(_EMBEDDING)}, or the CLIPModel, "
            f"SiglipModel or Siglip2Model it is a part of"
        )
    config = copy.deepcopy(model.config)
    for module in model.modules():
        if "config" in module.__dict__:
            module.config = config
    return model.eval()


def _require_end_token(model: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
    ids, end = args[0] if args else kwargs["input_ids"], model.config.eos_token_id
    if not (ids == end).any(dim=-1).all():
        raise DataFormatError(
            f"a row of token ids has no end token {end}, where CLIP reads the text embedding; TransformerLens takes it "
            f"away from texts, so give the ids that the model's own tokenizer makes"
        )


def _with_logits(output: Any, name: str) -> Any:
    output.logits = getattr(output, name)
    return output
