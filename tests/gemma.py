"""Gemma's tokenizer as SigLIP 2 uses it, over letters: an end token behind the text, <pad> on the right."""

from __future__ import annotations

from pathlib import Path
from typing import Any

PIECES = ["<pad>", "<eos>", "<bos>", "<unk>", "<mask>", "▁", *"abcdefghijklmnopqrstuvwxyz.N", "no", "▁e"]
MERGES = [("n", "o"), ("▁", "e")]


def save_gemma(folder: Path, *, lowercase: bool = False) -> Any:
    """Save the tokenizer to a folder as the hub has it, and return it.

    lowercase: as transformers' Siglip2Tokenizer, in place of GemmaTokenizer.
    """
    from tokenizers.processors import TemplateProcessing
    from transformers import GemmaTokenizer, Siglip2Tokenizer

    kind = Siglip2Tokenizer if lowercase else GemmaTokenizer
    tokenizer: Any = kind(
        vocab={piece: i for i, piece in enumerate(PIECES)}, merges=MERGES, padding_side="right", model_max_length=64
    )
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(single="$A <eos>", special_tokens=[("<eos>", 1)])
    tokenizer.save_pretrained(folder)
    return tokenizer
