"""Models by name: local folders in the hub's own layout, and names that cannot be loaded."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from models import (
    VISION,
    chinese_clip_model,
    open_clip_model,
    siglip_model,
    source_encoder,
    transformers_model,
    vision_text_model,
)
from PIL import Image

import tracescribe as ts
from tracescribe.errors import ContextOverflowError, DataFormatError, UnknownModelError, UnsupportedTowerError

CONFIG = {
    "embed_dim": 16,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "film.png"
    Image.new("RGB", (40, 32), (200, 30, 90)).save(path)
    return path


def test_open_clip_local_dir(tmp_path: Path, image: Path) -> None:
    folder = tmp_path / "model"
    folder.mkdir()
    source = open_clip.model.CLIP(**CONFIG).eval()
    torch.save(source.state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    model = ts.load(f"open_clip:local-dir:{folder}")
    assert model.text.n_layers == 2 and model.name == f"open_clip:local-dir:{folder}"
    with torch.no_grad():
        expected = source.encode_text(open_clip.get_tokenizer("ViT-B-32")(["no edema"]), normalize=True)
    torch.testing.assert_close(model.encode_texts(["no edema"]), expected, atol=2e-6, rtol=0)
    from_path, from_pil = model.encode_images([image]), model.encode_images([Image.open(image)])
    assert torch.equal(from_path, from_pil) and from_path.shape == (1, 16)
    assert from_path.norm() == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("make", [transformers_model, siglip_model, chinese_clip_model, vision_text_model])
def test_a_folder_without_a_tokenizer_is_refused(tmp_path: Path, make: Callable[[], Any]) -> None:
    """transformers makes a tokenizer of special tokens up, by which all captions are the same."""
    make().save_pretrained(tmp_path)
    with pytest.raises((UnsupportedTowerError, UnknownModelError), match=r"knows no word|cannot load"):
        ts.load(f"hf:{tmp_path}")


def test_transformers_folder(tmp_path: Path, image: Path) -> None:
    from transformers import CLIPImageProcessor, CLIPTokenizer

    source = transformers_model()
    source.save_pretrained(tmp_path / "model")
    letters = [f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz." for end in ("", "</w>")]
    vocab = {piece: i for i, piece in enumerate(["<pad>", *letters, "no</w>"])}
    vocab |= {"<|startoftext|>": 62, "<|endoftext|>": 63}
    CLIPTokenizer(vocab=vocab, merges=[("n", "o</w>")], pad_token="<|endoftext|>").save_pretrained(tmp_path / "model")
    size = {"shortest_edge": 32}
    CLIPImageProcessor(size=size, crop_size={"height": 32, "width": 32}).save_pretrained(tmp_path / "model")
    model = ts.load(f"hf:{tmp_path / 'model'}")
    ids = model.text.tokenize(["no edema"])
    assert ids.shape == (1, 12) and ids[0, 0] == 62
    assert model.text.token_strings(model.text.token_ids("no edema"))[:2] == ["[SOT]", "no"]
    with torch.no_grad():
        expected = torch.nn.functional.normalize(source_encoder(source, ids), dim=-1)
    torch.testing.assert_close(model.encode_texts(["no edema"]), expected, atol=2e-6, rtol=0)
    assert model.encode_images([image]).shape == (1, 16)


@pytest.mark.parametrize(
    ("name", "pretrained", "message"),
    [
        ("phantm", None, "unknown model 'phantm', did you mean 'phantom'"),
        ("phantom", "openai", "'phantom' names its own weights: drop pretrained='openai'"),
        ("open_clip:ViT-B-33", None, "no architecture 'ViT-B-33'.*'ViT-B-32'"),
        ("open_clip:ViT-B-32", "no-such-tag", "cannot load 'ViT-B-32'.*no-such-tag"),
        ("open_clip:local-dir:/nowhere/at/all", None, "cannot load 'local-dir:/nowhere/at/all'"),
        ("hf:./nowhere", None, "cannot load './nowhere'"),
        ("hf:anything", "openai", "names its own weights"),
        ("open_clip:local-dir:anything", "openai", "names its own weights"),
    ],
)
def test_what_cannot_be_loaded(
    name: str, pretrained: str | None, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    with pytest.raises(UnknownModelError, match=message):
        ts.load(name, pretrained=pretrained)


def test_images_that_cannot_be_read_are_named(tmp_path: Path, image: Path) -> None:
    preprocess = open_clip.image_transform(32, is_train=False)
    model = ts.wrap(
        open_clip_model(), tokenizer=lambda texts: torch.zeros(len(texts), 12).long(), preprocess=preprocess
    )
    with pytest.raises(DataFormatError, match=r"gone\.png' does not exist"):
        model.encode_images([image, tmp_path / "gone.png"])
    broken = tmp_path / "broken.png"
    broken.write_bytes(image.read_bytes()[:60])
    with pytest.raises(DataFormatError, match=r"broken\.png' cannot be read"):
        model.encode_images([broken])
    bare = ts.wrap(open_clip_model(), tokenizer=lambda texts: torch.zeros(len(texts), 12).long())
    with pytest.raises(UnsupportedTowerError, match="without preprocess"):
        bare.encode_images([image])
    assert bare.encode_images(torch.zeros(2, 3, 32, 32)).shape == (2, 16)


class Truncating:
    """A tokenizer as many projects write it: pads to the context, cuts without a word."""

    def __call__(self, texts: list[str]) -> torch.Tensor:
        rows = [[62, *(1 + len(word) for word in text.split()), 63] for text in texts]
        return torch.tensor([(row + [0] * 12)[:12] for row in rows])


def test_a_function_as_tokenizer_is_read_and_never_truncates_silently() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=Truncating())
    assert model.text.token_ids("a bb ccc") == [62, 2, 3, 4, 63]
    with pytest.raises(ContextOverflowError, match="fills all 12 places"):
        model.text.token_ids("a " * 11)
    assert len(model.text.token_ids("a " * 10)) == 12  # fits exactly: repeating it shows that nothing was cut
    with pytest.raises(UnsupportedTowerError, match="no tokenizer that tracescribe knows"):
        ts.wrap(open_clip_model(), tokenizer=object())


def test_a_tokenizer_of_another_model_is_refused() -> None:
    with pytest.raises(UnsupportedTowerError, match="vocabulary has only 64"):
        ts.wrap(open_clip_model(context_length=77), tokenizer=open_clip.get_tokenizer("ViT-B-32"))
