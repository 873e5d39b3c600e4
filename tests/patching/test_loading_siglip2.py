"""SigLIP 2 as it is published: the Gemma tokenizer, images of any shape as patches, open_clip's configurations."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from gemma import save_gemma
from models import siglip_model
from PIL import Image
from torch.nn.functional import normalize
from zoo.building import CONTEXT
from zoo.open_clip_models import shrunk

import tracescribe as ts
from tracescribe.errors import DataFormatError, UnsupportedTowerError

TEXTS = ["No edema.", "no a b."]
ROUNDING = 2e-6  # unit vectors in float32


def films() -> list[Any]:
    """Pictures of four shapes, two of which give the same grid of patches."""
    rng = np.random.default_rng(0)
    return [
        Image.fromarray(rng.integers(0, 255, (h, w, 3)).astype(np.uint8))
        for h, w in ((30, 40), (64, 16), (20, 90), (31, 40))
    ]


def features(output: Any) -> torch.Tensor:
    return normalize(getattr(output, "pooler_output", output), dim=-1)


def test_a_naflex_model_reads_texts_and_images_of_any_shape_as_its_own_processors_do(tmp_path: Path) -> None:
    from transformers import Siglip2ImageProcessor

    source: Any = siglip_model(version=2)
    source.save_pretrained(tmp_path)
    tokenizer = save_gemma(tmp_path, lowercase=True)
    processor = Siglip2ImageProcessor(patch_size=16, max_num_patches=4)
    processor.save_pretrained(tmp_path)
    model = ts.load(f"hf:{tmp_path}")
    assert type(model.source).__name__ == "Siglip2Model" and type(model.tokenizer).__name__ == "Siglip2Tokenizer"
    ids = tokenizer(TEXTS, padding="max_length", max_length=CONTEXT, return_tensors="pt")["input_ids"]
    assert torch.equal(model.text.tokenize(TEXTS), ids)
    with torch.no_grad():
        texts = features(source.get_text_features(input_ids=ids))
        # each by itself, with the rows that pad it to the largest number of patches
        images = torch.cat(
            [features(source.get_image_features(**processor(images=film, return_tensors="pt"))) for film in films()]
        )
    torch.testing.assert_close(model.encode_texts(TEXTS), texts, atol=ROUNDING, rtol=0)
    torch.testing.assert_close(model.encode_images(films()), images, atol=ROUNDING, rtol=0)
    assert [tuple(model.image.pixels(film).shape) for film in films()[1:3]] == [(3, 64, 16), (3, 16, 64)]
    trace = ts.trace(
        model, [ts.Pair(correct="no a b.", foil="e a b.", image=film) for film in films()], floor=0, progress=False
    )
    own = (model.encode_texts(["no a b."]) @ images.T)[0].numpy()
    np.testing.assert_allclose(trace.scores.correct, own, atol=ROUNDING)
    with pytest.raises(DataFormatError, match="give preprocessed pixels of one shape"):
        model.encode_images([torch.zeros(3, 32, 32), torch.zeros(3, 16, 64)])
    with pytest.raises(UnsupportedTowerError, match="33 x 32 pixels are no grid of patches of 16"):
        model.encode_images([torch.zeros(3, 33, 32)])


def test_the_text_half_alone_reads_as_the_model_does() -> None:
    from models import word_tokenizer

    source: Any = siglip_model(version=2)
    model, half = (ts.wrap(part, tokenizer=word_tokenizer(source)) for part in (source, source.text_model))
    torch.testing.assert_close(half.encode_texts(TEXTS), model.encode_texts(TEXTS), atol=0, rtol=0)
    with pytest.raises(UnsupportedTowerError, match=r"Siglip2TextModel encodes no images.*ts\.Text"):
        half.encode_images([torch.zeros(3, 32, 32)])


def test_open_clips_configuration_with_the_gemma_tokenizer(tmp_path: Path) -> None:
    import open_clip

    config = shrunk(open_clip.get_model_config("ViT-B-16-SigLIP2"))
    save_gemma(tmp_path)
    assert config["text_cfg"]["tokenizer_kwargs"] == {"clean": "canonicalize"} and config["text_cfg"]["no_causal_mask"]
    config["text_cfg"]["hf_tokenizer_name"] = str(tmp_path)
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.manual_seed(0)
    source = open_clip.create_model(f"local-dir:{tmp_path}", load_weights=False).eval()
    torch.save(source.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    model = ts.load(f"open_clip:local-dir:{tmp_path}")
    assert (model.text.spec.causal, model.text.pooling, model.text.spec.padding) == (False, "last", "attend")
    own = open_clip.get_tokenizer(f"local-dir:{tmp_path}")
    assert torch.equal(model.text.tokenize(TEXTS), own(TEXTS))
    # "canonicalize" drops case and punctuation
    assert model.text.token_strings(model.text.token_ids("No e.")) == ["no", "e", "[EOT]"]
    with torch.no_grad():
        expected = normalize(model.source.encode_text(own(TEXTS)), dim=-1)
    torch.testing.assert_close(model.encode_texts(TEXTS), expected, atol=ROUNDING, rtol=0)
    found = ts.trace(model, [ts.Pair(correct="no e", foil="a e", image=np.eye(16)[0])], floor=0, progress=False)
    assert found.cte.shape == (1, 4, CONTEXT)  # padding is attended to, and can be patched
