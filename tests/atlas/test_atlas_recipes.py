"""The recipe of docs/atlas.md for real models, end to end, on small random models saved as the real ones are."""

from __future__ import annotations

import json
import re
from pathlib import Path

import open_clip
import pytest
import torch
from gemma import save_gemma
from models import VISION, open_clip_hf_model, siglip_model, transformers_model
from torch import nn
from zoo.building import CONTEXT, EMBED

import tracescribe as ts
from tracescribe.atlas import read_atlas, read_atlas_config, run_atlas

DOCS = Path(__file__).resolve().parents[2] / "docs" / "atlas.md"
CLIP = {
    "embed_dim": 16,
    "vision_cfg": VISION | {"width": 64, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 4},
}


def openai_clip(folder: Path) -> dict[str, str]:
    """``open_clip:ViT-B-32-quickgelu`` with a file of weights."""
    torch.save(open_clip.CLIP(**CLIP, quick_gelu=True).state_dict(), folder / "openai.pt")
    return {"model": "open_clip:ViT-B-32-quickgelu", "pretrained": str(folder / "openai.pt")}


def openai_clip_of_transformers(folder: Path) -> dict[str, str]:
    """``hf:FOLDER`` of a CLIPModel."""
    from transformers import CLIPImageProcessor, CLIPTokenizer

    transformers_model().save_pretrained(folder)
    letters = [f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz." for end in ("", "</w>")]
    vocab = {piece: i for i, piece in enumerate(["<pad>", *letters])} | {"<|startoftext|>": 62, "<|endoftext|>": 63}
    CLIPTokenizer(vocab=vocab, merges=[], pad_token="<|endoftext|>").save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    return {"model": f"hf:{folder}"}


def openclip(folder: Path) -> dict[str, str]:
    """``open_clip:local-dir:FOLDER``."""
    torch.save(open_clip.CLIP(**CLIP).state_dict(), folder / "open_clip_pytorch_model.bin")
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": CLIP, "preprocess_cfg": {}}))
    return {"model": f"open_clip:local-dir:{folder}"}


def words(folder: Path) -> None:
    from transformers import BertTokenizer

    known = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "a", "b", "c", "d", "."]
    BertTokenizer(vocab={word: i for i, word in enumerate(known)}).save_pretrained(folder)


def siglip2(folder: Path) -> dict[str, str]:
    """``hf:FOLDER`` of a SigLIP 2 model; those of fixed resolution are SiglipModel, as google/siglip2-base-*."""
    from transformers import SiglipImageProcessor

    siglip_model().save_pretrained(folder)
    save_gemma(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    return {"model": f"hf:{folder}"}


def siglip2_naflex(folder: Path) -> dict[str, str]:
    """``hf:FOLDER`` of a Siglip2Model, as google/siglip2-*-naflex."""
    from transformers import Siglip2ImageProcessor

    siglip_model(version=2).save_pretrained(folder)
    save_gemma(folder, lowercase=True)
    Siglip2ImageProcessor(patch_size=16, max_num_patches=4).save_pretrained(folder)
    return {"model": f"hf:{folder}"}


def biomedclip(folder: Path) -> dict[str, str]:
    """``biomedclip`` with a folder in the hub's layout."""
    from transformers import BertConfig

    source = open_clip_hf_model()
    words(folder)
    BertConfig(**source.text.config.to_dict()).save_pretrained(folder)
    text = {"hf_model_name": str(folder), "hf_tokenizer_name": str(folder), "context_length": CONTEXT}
    text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    config = {"embed_dim": EMBED, "vision_cfg": VISION, "text_cfg": text, "custom_text": True}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    torch.save(source.state_dict(), folder / "open_clip_pytorch_model.bin")
    return {"model": "biomedclip", "pretrained": str(folder)}


MODELS = (openai_clip, openai_clip_of_transformers, openclip, siglip2, siglip2_naflex, biomedclip)


def test_the_recipe_runs_on_every_family(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    # a small model under the real architecture's name; nothing else of the loading is replaced
    monkeypatch.setitem(factory._MODEL_CONFIGS, "ViT-B-32-quickgelu", CLIP | {"quick_gelu": True})
    torch.manual_seed(0)
    models = {}
    for build in MODELS:
        (tmp_path / build.__name__).mkdir()
        models[build.__name__] = build(tmp_path / build.__name__)
    swaps = ["a b c .", "b a c .", "a d d .", "c b b ."]
    items = {
        str(i): {"filename": f"{i}.jpg", "caption": text, "negative_caption": f"d{text[1:]}"}
        for i, text in enumerate(swaps)
    }
    (tmp_path / "replace_obj.json").write_text(json.dumps(items))
    yaml = {
        "models": models,
        "sets": {"objects": {"file": "replace_obj.json", "target": "difference"}},
        "trace": {"floor": 0.0},
        "n_boot": 100,
    }
    (tmp_path / "models.yaml").write_text(json.dumps(yaml))  # JSON is YAML
    atlas = read_atlas(run_atlas(read_atlas_config(tmp_path / "models.yaml"), tmp_path / "atlas"))
    table = atlas.table().set_index("model")
    assert table["n_pairs"].to_dict() == dict.fromkeys(models, 4), atlas.summary()
    for name, spec in models.items():
        direct = ts.load(spec["model"], pretrained=spec.get("pretrained"))
        trace = atlas.traces[name, "objects"]
        assert table.loc[name, "n_layers"] == direct.text.n_layers == trace.n_layers
        assert trace.provenance["weights_sha256"] == direct.text.fingerprint()
        texts = [list(trace.captions or ()), list(trace.foil_captions or ())]
        correct, foil = (direct.encode_texts(side) for side in texts)
        target = nn.functional.normalize(correct - foil, dim=1)
        margin = ((correct - foil) * target).sum(dim=1)
        # cosines of unit vectors in float32, and a direction that is divided by its own length
        torch.testing.assert_close(torch.tensor(trace.denominator).float(), margin, atol=2e-6, rtol=1e-4)
    assert len(atlas.agreements()) == 15
    ts.viz.export(atlas.figure(), tmp_path / "atlas.svg")
    names = (tmp_path / "atlas.svg").read_text()
    assert all(name in names for name in models)


def test_the_files_of_the_page_are_atlases_and_name_the_models_as_they_are_tested_here(tmp_path: Path) -> None:
    snippets = re.findall(r"```yaml\n(.*?)```", DOCS.read_text(encoding="utf-8"), flags=re.DOTALL)
    assert len(snippets) == 2
    for number, snippet in enumerate(snippets):
        (tmp_path / f"{number}.yaml").write_text(snippet)
    first, recipe = (read_atlas_config(tmp_path / f"{number}.yaml") for number in range(2))
    assert first.heads and first.sets["existence"].format == "valse-existence"
    assert [spec.model.partition("/")[0] for spec in recipe.models.values()] == [
        *("open_clip:ViT-B-32-quickgelu", "hf:openai", "open_clip:ViT-B-32", "hf:google", "biomedclip", "st:minilm")
    ]
    tag = recipe.models["OpenCLIP"].pretrained
    assert tag in open_clip.list_pretrained_tags_by_model("ViT-B-32")
