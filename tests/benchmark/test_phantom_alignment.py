"""An image tower aligned to a text encoder that exists: the text stays as it is, and the folder comes back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch

import tracescribe as ts
from tracescribe.benchmark.phantom.alignment import Alignment, align, build_aligned, load_aligned, main, save_aligned
from tracescribe.errors import DataFormatError

RECIPE = Alignment(n_images=12, steps=6, batch=8, warmup=1, width=8, lr=1e-2)
TEXTS = ["there is no effusion .", "large left effusion ."]


@pytest.fixture(scope="module")
def text_folder(tmp_path_factory):
    """A small random BERT with a word-piece tokenizer, as transformers saves it."""
    from transformers import BertConfig, BertModel, BertTokenizerFast

    from tracescribe.benchmark.phantom.captions import corpus

    folder = tmp_path_factory.mktemp("text") / "bert"
    folder.mkdir()
    words = sorted({word for text in corpus() for word in text.lower().replace(".", " .").replace(",", " ,").split()})
    (folder / "vocab.txt").write_text("\n".join(["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]))
    BertTokenizerFast(str(folder / "vocab.txt")).save_pretrained(str(folder))
    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=5 + len(words), hidden_size=32, num_hidden_layers=2, num_attention_heads=2, intermediate_size=32
    )
    BertModel(config).save_pretrained(str(folder))
    return folder


@pytest.fixture(scope="module")
def aligned(text_folder):
    losses = []
    return align(text_folder, RECIPE, lambda step, loss: losses.append(loss)), losses


def test_the_text_is_that_of_transformers_and_stays_frozen(aligned, text_folder):
    from open_clip.tokenizer import HFTokenizer
    from transformers import AutoModel, AutoTokenizer

    model, losses = aligned
    batch = AutoTokenizer.from_pretrained(str(text_folder))(TEXTS, padding=True, return_tensors="pt")
    states = AutoModel.from_pretrained(str(text_folder))(**batch).last_hidden_state
    mask = batch.attention_mask[..., None]
    expected = (states * mask).sum(1) / mask.sum(1)
    with torch.no_grad():
        found = model.encode_text(HFTokenizer(str(text_folder), context_length=64)(TEXTS))
    torch.testing.assert_close(found, expected, rtol=0, atol=1e-5)
    assert len(losses) == RECIPE.steps and np.isfinite(losses).all()
    fresh = build_aligned(text_folder, RECIPE.width)
    assert any(not torch.equal(a, b) for a, b in zip(model.visual.parameters(), fresh.visual.parameters(), strict=True))


def test_the_same_recipe_gives_the_same_tower(aligned, text_folder):
    again = align(text_folder, RECIPE)
    for one, other in zip(aligned[0].visual.parameters(), again.visual.parameters(), strict=True):
        assert torch.equal(one, other)


def test_a_saved_tower_comes_back_with_its_text_encoder(aligned, text_folder, tmp_path):
    model, _ = aligned
    folder = save_aligned(model, text_folder, tmp_path / "aligned", RECIPE)
    encoder = load_aligned(folder)
    with torch.no_grad():
        pixels = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
        assert torch.equal(encoder.source.visual(pixels), model.visual(pixels))
    assert encoder.text.n_layers == 2 and encoder.text.pooling == "mean"
    assert ts.load(f"phantom:{folder}").text.fingerprint() == encoder.text.fingerprint()

    with pytest.raises(DataFormatError, match="say where it is"):
        load_aligned(folder, tmp_path / "gone")
    from transformers import AutoTokenizer, BertConfig, BertModel

    other = tmp_path / "other"
    AutoTokenizer.from_pretrained(str(text_folder)).save_pretrained(str(other))
    BertModel(BertConfig.from_pretrained(str(text_folder))).save_pretrained(str(other))
    with pytest.raises(DataFormatError, match="another text encoder"):
        load_aligned(folder, other)
    path = folder / "image_tower.safetensors"
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    with pytest.raises(DataFormatError, match="damaged"):
        load_aligned(folder)


def test_a_text_encoder_that_was_moved_is_found_after_it_was_said_once(aligned, text_folder, tmp_path):
    old, new, elsewhere = (tmp_path / name for name in ("old", "new", "elsewhere"))
    shutil.copytree(text_folder, old)
    folder = save_aligned(aligned[0], old, tmp_path / "aligned", RECIPE)
    before = load_aligned(folder)
    old.rename(new)
    with pytest.raises(DataFormatError, match=r"is not at .*old; .*--out .*aligned --moved"):
        load_aligned(folder)
    kept = {path.name: path.read_bytes() for path in folder.iterdir()}
    elsewhere.mkdir()
    assert main([str(elsewhere), "--out", str(folder), "--moved"]) == 2
    assert kept == {path.name: path.read_bytes() for path in folder.iterdir()}
    assert main([str(new), "--out", str(folder), "--moved"]) == 0
    after = load_aligned(folder)
    assert after.text.fingerprint() == before.text.fingerprint()
    for one, other in zip(after.source.visual.parameters(), before.source.visual.parameters(), strict=True):
        assert torch.equal(one, other)


def test_the_command_trains_and_saves(text_folder, tmp_path):
    assert main([str(text_folder), "--out", str(tmp_path / "out"), "--steps", "1", "--images", "130"]) == 0
    assert load_aligned(tmp_path / "out").name == "aligned:out"


def test_what_is_no_text_encoder_and_a_folder_that_is_taken_are_refused_before_training(text_folder, tmp_path, caplog):
    def refused(text, out):
        caplog.clear()
        assert main([str(text), "--out", str(out), "--steps", "1", "--images", "130"]) == 2
        return caplog.messages[-1]

    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "mine" in refused(text_folder, tmp_path / "mine") and not any("step" in said for said in caplog.messages)
    assert [path.name for path in (tmp_path / "mine").iterdir()] == ["notes.txt"]
    assert "no config.json" in refused("no/such-model", tmp_path / "out")
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text('{"model_type": "no such type"}')
    assert "holds no text encoder of transformers" in refused(broken, tmp_path / "out")
    shutil.copy(text_folder / "config.json", broken)
    assert "holds no text encoder of transformers" in refused(broken, tmp_path / "out")
    assert not (tmp_path / "out").exists()
    with pytest.raises(DataFormatError, match=r"no config\.json"):
        build_aligned(tmp_path / "gone")
