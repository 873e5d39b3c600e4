"""Merged weights of a run: what is exported is loaded again, by tracescribe and by the libraries themselves."""

from __future__ import annotations

import json
from pathlib import Path

import open_clip
import pytest
import torch
from models import VISION, WordTokenizer, open_clip_model, transformers_model
from peft import PeftModel
from safetensors.torch import load_file

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.cli import main
from tracescribe.errors import OutputError, PrescriptionError
from tracescribe.finetune import TrainConfig, load_run, train
from tracescribe.finetune.training.data import training_data
from tracescribe.finetune.training.export import export, interpolate

TEXTS = ["no edema", "a nodule"]
CONFIG = {
    "embed_dim": 16,
    "vision_cfg": VISION,
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


def tuned(model: ts.DualEncoder):
    images = torch.eye(16)[:4]
    captions = [CaptionRecord(id=str(i), image=x, caption=TEXTS[i % 2], group=str(i)) for i, x in enumerate(images)]
    claims = [
        ClaimRecord(id=str(i), image=x, claims=TEXTS, label=i % 2, attribute="x", group=str(i))
        for i, x in enumerate(images)
    ]
    config = TrainConfig(model=model.name, steps=3, batch_size=2, rank=2, lr=0.02)
    return train(config, model, data=training_data(model, captions, claims))


def local_dir(folder: Path) -> str:
    folder.mkdir()
    torch.save(open_clip.model.CLIP(**CONFIG).state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CONFIG, "preprocess_cfg": {}}))
    return f"open_clip:local-dir:{folder}"


def hf_folder(folder: Path) -> str:
    from transformers import CLIPImageProcessor, CLIPTokenizer

    transformers_model().save_pretrained(folder)
    letters = [f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz." for end in ("", "</w>")]
    vocab = {piece: i for i, piece in enumerate(["<pad>", *letters, "no</w>"])}
    vocab |= {"<|startoftext|>": 62, "<|endoftext|>": 63}
    CLIPTokenizer(vocab=vocab, merges=[("n", "o</w>")], pad_token="<|endoftext|>").save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return f"hf:{folder}"


@pytest.mark.parametrize(("build", "scheme"), [(local_dir, "open_clip:local-dir:"), (hf_folder, "hf:")])
def test_an_exported_folder_is_the_tuned_model(build, scheme, tmp_path):
    from PIL import Image

    base = ts.load(build(tmp_path / "base"))
    result = tuned(base)
    result.save(tmp_path / "run")
    with pytest.raises(SystemExit) as leaving:
        main(["export", str(tmp_path / "run"), "-o", str(tmp_path / "out")])
    assert leaving.value.code == 0
    again = ts.load(f"{scheme}{tmp_path / 'out'}")
    expected = load_run(base, tmp_path / "run")
    ours, theirs = again.source.state_dict(), expected.source.state_dict()
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in ours)
    # weights that lie elsewhere in memory are summed in another order: units in the last place
    torch.testing.assert_close(again.encode_texts(TEXTS), expected.encode_texts(TEXTS), rtol=0, atol=2e-6)
    assert (again.encode_texts(TEXTS) - base.encode_texts(TEXTS)).abs().max() > 1e-3
    image = Image.new("RGB", (40, 32), (200, 30, 90))
    torch.testing.assert_close(again.encode_images([image]), base.encode_images([image]), rtol=0, atol=2e-6)


def test_a_state_dict_has_every_weight_of_the_tuned_model(tmp_path):
    model = ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    result = tuned(model)
    folder = export(result.model, tmp_path / "out")
    state, expected = load_file(folder / "model.safetensors"), result.model.source.state_dict()
    assert state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in state)
    with pytest.raises(OutputError, match="overwrite"):
        export(result.model, tmp_path / "out")
    export(result.model, tmp_path / "out", overwrite=True)
    for kind, said in (
        ("open_clip", "none of open_clip's architectures"),
        ("transformers", "no model of transformers"),
    ):
        with pytest.raises(PrescriptionError, match=said):
            export(result.model, tmp_path / "other", kind)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out"]


def test_stock_peft_loads_the_adapters(tmp_path):
    model = ts.wrap(transformers_model(layers=2), tokenizer=WordTokenizer())
    result = tuned(model)
    folder = result.save(tmp_path / "run")
    adapted = PeftModel.from_pretrained(transformers_model(layers=2), str(folder / "adapter"))
    again = ts.wrap(adapted, tokenizer=WordTokenizer())
    # adapters are added in another order of operations: units in the last place
    torch.testing.assert_close(again.encode_texts(TEXTS), result.model.encode_texts(TEXTS), rtol=0, atol=2e-6)
    card = (folder / "README.md").read_text(encoding="utf-8")
    assert "library_name: peft" in card and "These weights were not scored." in card


def test_weights_between_two_models():
    model = ts.wrap(open_clip_model(layers=2), tokenizer=WordTokenizer())
    after = tuned(model).model
    for weight in (0.0, 0.25, 1.0):
        state = interpolate(model, after, weight).source.state_dict()
        for name, value in model.source.state_dict().items():
            expected = (1 - weight) * value + weight * after.source.state_dict()[name]
            torch.testing.assert_close(state[name], expected, rtol=1e-6, atol=1e-7)
    with pytest.raises(PrescriptionError, match="other parameters"):
        interpolate(model, ts.wrap(open_clip_model(layers=3), tokenizer=WordTokenizer()), 0.5)
    with pytest.raises(PrescriptionError, match="a number such as"):
        interpolate(model, after, float("nan"))
