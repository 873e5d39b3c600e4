"""Every medical model by its name, from a random model saved as its authors save it; no network, no other package."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import open_clip
import pytest
import torch
from models import VISION, open_clip_hf_model, open_clip_model, siglip_model, source_encoder, transformers_model
from PIL import Image
from torch import nn
from zoo import entries
from zoo.building import CONTEXT, EMBED

import tracescribe as ts
from tracescribe.errors import DataFormatError, UnknownModelError, UnsupportedTowerError
from tracescribe.patching.loading.medical import MEDICAL, gloria_words

TEXTS = ["no edema", "severe edema in here"]
WORDS = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "no", "severe", "edema", "in", "here", ".", "##s"]
ENTRIES = {entry.name.removeprefix("medical:"): entry for entry in entries() if entry.group == "medical"}
SMALL = {
    "embed_dim": 16,
    "vision_cfg": VISION | {"width": 64, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture(autouse=True)
def offline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")


@pytest.fixture
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Small models under the names of the real architectures; nothing else of the loading is replaced."""
    from open_clip import factory

    for name in ("ViT-B-32", "ViT-B-32-quickgelu", "ViT-L-14"):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, SMALL | {"quick_gelu": name.endswith("quickgelu")})


def bert_tokenizer(folder: Path) -> None:
    from transformers import BertTokenizer

    BertTokenizer(vocab={word: i for i, word in enumerate(WORDS)}).save_pretrained(folder)


def clip_tokenizer(folder: Path) -> None:
    from transformers import CLIPTokenizer

    letters = [f"{c}{end}" for c in "abcdefghijklmnopqrstuvwxyz." for end in ("", "</w>")]
    vocab = {piece: i for i, piece in enumerate(["<pad>", *letters])} | {"<|startoftext|>": 62, "<|endoftext|>": 63}
    CLIPTokenizer(vocab=vocab, merges=[], pad_token="<|endoftext|>").save_pretrained(folder)


def processor(folder: Path, kind: str) -> None:
    import transformers

    square = {"height": 32, "width": 32}
    crop = {"crop_size": square} if kind == "CLIP" else {}
    getattr(transformers, f"{kind}ImageProcessor")(size=square, **crop).save_pretrained(folder)


def of_openais_class() -> nn.Module:
    """CheXzero's class in the size of the small architectures."""
    from zoo.replicas.openai_clip import CLIP

    torch.manual_seed(0)
    return CLIP(16, 32, 1, 64, 16, 77, 49408, 64, 1, 2).eval()


def film(size: tuple[int, int] = (640, 480)) -> Image.Image:
    return Image.new("RGB", size, (200, 200, 200))


def check(model: ts.patching.DualEncoder, expected: torch.Tensor, images: bool = True) -> None:
    """The loaded model says what the saved one said, of texts; and encodes an image from its preprocessing."""
    # float32, unit vectors, a few blocks
    torch.testing.assert_close(model.encode_texts(TEXTS), nn.functional.normalize(expected, dim=-1), atol=2e-6, rtol=0)
    assert max(model.verified.values()) < 1e-5
    if images:
        assert model.encode_images([film()]).shape == (1, model.embed_dim)


def test_every_medical_model_of_the_zoo_has_a_name_here() -> None:
    assert set(MEDICAL) == set(ENTRIES)


def test_biomedclip_from_a_folder_in_the_hubs_layout(tmp_path: Path) -> None:
    from transformers import BertConfig

    source = open_clip_hf_model()
    bert_tokenizer(tmp_path)
    text = BertConfig(**source.text.config.to_dict())
    text.save_pretrained(tmp_path)
    of_text = {"hf_model_name": str(tmp_path), "hf_tokenizer_name": str(tmp_path), "context_length": CONTEXT}
    of_text |= {"hf_proj_type": "mlp", "hf_pooler_type": "cls_last_hidden_state_pooler"}
    config = {"embed_dim": EMBED, "vision_cfg": VISION, "text_cfg": of_text, "custom_text": True}
    (tmp_path / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": {}}))
    with pytest.raises(UnknownModelError, match=r"weights .*could not be loaded"):  # never a random model in silence
        ts.load("biomedclip", pretrained=tmp_path)
    torch.save(source.state_dict(), tmp_path / "open_clip_pytorch_model.bin")
    model = ts.load("biomedclip", pretrained=tmp_path)
    with torch.no_grad():
        check(model, source.encode_text(model.text.tokenize(TEXTS)))
    assert model.name == "biomedclip" and model.text.token_strings(model.text.token_ids("no"))[0] == "[CLS]"


@pytest.mark.parametrize("name", ["pubmedclip", "plip"])
def test_transformers_models_from_a_folder(name: str, tmp_path: Path) -> None:
    source = transformers_model(eos_token_id=63)
    source.save_pretrained(tmp_path)
    clip_tokenizer(tmp_path)
    processor(tmp_path, "CLIP")
    model = ts.load(name, pretrained=tmp_path)
    with torch.no_grad():
        check_ids = model.text.tokenize([text[:4] for text in TEXTS])  # letter by letter, twelve places
        expected = nn.functional.normalize(source_encoder(source, check_ids), dim=-1)
    got = model.encode_texts([text[:4] for text in TEXTS])
    torch.testing.assert_close(got, expected, atol=2e-6, rtol=0)
    assert model.encode_images([film()]).shape == (1, EMBED)


def test_a_folder_that_lacks_a_weight_is_no_random_model(tmp_path: Path) -> None:
    from safetensors.torch import load_file, save_file

    transformers_model().save_pretrained(tmp_path)
    clip_tokenizer(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    del weights["text_projection.weight"]
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UnknownModelError, match=r"CLIPModel: its weights do not fit: 1 missing \(text_projection"):
        ts.load("plip", pretrained=tmp_path)


def test_medsiglip_from_a_folder(tmp_path: Path) -> None:
    source = siglip_model()
    source.save_pretrained(tmp_path)
    bert_tokenizer(tmp_path)
    processor(tmp_path, "Siglip")
    model = ts.load("medsiglip", pretrained=tmp_path)
    with torch.no_grad():
        check(model, source_encoder(source, model.text.tokenize(TEXTS)))


@pytest.mark.usefixtures("small_architectures")
def test_chexzero_from_a_state_dict_of_openais_class(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    source = of_openais_class()
    torch.save(source.state_dict(), tmp_path / "best.pt")
    model = ts.load("chexzero", pretrained=tmp_path / "best.pt")
    with torch.no_grad():
        check(model, source.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS)), images=False)
    assert model.preprocess is not None and model.preprocess(film()).shape == (3, 224, 224)
    assert "trained with" not in caplog.text


@pytest.mark.usefixtures("small_architectures")
def test_bmc_clip_from_a_training_checkpoint(tmp_path: Path) -> None:
    source = open_clip.CLIP(**SMALL).eval()
    weights = {f"module.{name}": weight for name, weight in source.state_dict().items()}
    torch.save({"epoch": 3, "name": "run", "state_dict": weights}, tmp_path / "epoch_3.pt")
    model = ts.load("bmc-clip", pretrained=tmp_path / "epoch_3.pt")
    with torch.no_grad():
        check(model, source.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS)))


class Package:
    """A stand-in for a package on no index here: its loading functions over the zoo's replicas, as files to import."""

    def __init__(self, root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.root = root / "packages"
        self.root.mkdir()
        monkeypatch.syspath_prepend(str(self.root))
        for name in [name for name in sys.modules if name.split(".")[0] in {"conch", "gloria", "medclip"}]:
            monkeypatch.delitem(sys.modules, name)

    def write(self, path: str, code: str) -> None:
        file = self.root / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(code)
        for parent in file.relative_to(self.root).parents:
            if str(parent) != "." and not (self.root / parent / "__init__.py").exists():
                (self.root / parent / "__init__.py").write_text("")


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Package:
    return Package(tmp_path, monkeypatch)


def test_medclip_from_its_folder_without_its_broken_init(tmp_path: Path, package: Package) -> None:
    package.write("medclip/__init__.py", "from transformers import CLIPFeatureExtractor  # as 0.0.3 does\n")
    package.write(
        "medclip/modeling_medclip.py",
        "from zoo import entries\nMedCLIPVisionModelViT = object\n"
        "def MedCLIPModel(vision_cls):\n"
        "    return next(e for e in entries() if e.name == 'medical:medclip').build(7)\n",
    )
    source = ENTRIES["medclip"].build(0)
    old = {"text_model.model.embeddings.position_ids": torch.arange(CONTEXT)[None]}  # older versions saved it
    torch.save(source.state_dict() | old, tmp_path / "pytorch_model.bin")
    bert_tokenizer(tmp_path)
    model = ts.load("medclip", pretrained=tmp_path)
    with torch.no_grad():
        alone = [model.text.collate([model.text.token_ids(text)]) for text in TEXTS]
        check(model, torch.cat([source.encode_text(ids, torch.ones_like(ids)) for ids in alone]))
    assert "medclip" not in sys.modules


def test_conch_from_its_file_and_never_with_weights_missing(tmp_path: Path, package: Package) -> None:
    package.write(
        "conch/open_clip_custom.py",
        "import torch\nfrom pathlib import Path\nfrom zoo import entries\n"
        "from tracescribe.patching.loading.pixels import biovil_pixels\n"
        "ENTRY = next(e for e in entries() if e.name == 'medical:conch')\n"
        "def create_model_from_pretrained(config, path):\n"
        "    model = ENTRY.build(7)\n    model.load_state_dict(torch.load(path), strict=False)\n"
        "    return model, biovil_pixels\n"
        "def get_tokenizer():\n    return ENTRY.tokenizer\n",
    )
    source = ENTRIES["conch"].build(0)
    torch.save(source.state_dict(), tmp_path / "pytorch_model.bin")
    for place in (tmp_path, tmp_path / "pytorch_model.bin"):
        check(ts.load("conch", pretrained=place), source.encode_text(ENTRIES["conch"].ids(*TEXTS)))
    weights = source.state_dict()
    del weights["text.cls_emb"]
    torch.save(weights, tmp_path / "pytorch_model.bin")
    with pytest.raises(UnknownModelError, match=r"do not fit: 1 missing \(text\.cls_emb\)"):
        ts.load("conch", pretrained=tmp_path)


class Settings(dict):  # type: ignore[type-arg]
    """A class of the training code inside the checkpoint, as omegaconf's is in GLoRIA's."""


def test_gloria_from_its_training_checkpoint_which_is_a_pickle(tmp_path: Path, package: Package) -> None:
    package.write(
        "gloria/builder.py",
        "from transformers import BertTokenizer\nfrom zoo import entries\n"
        "def build_gloria_model(config):\n"
        "    model = next(e for e in entries() if e.name == 'medical:gloria').build(7)\n"
        "    model.tokenizer = BertTokenizer.from_pretrained(config['folder'])\n"
        "    model.text_encoder.idxtoword = {i: word for word, i in model.tokenizer.get_vocab().items()}\n"
        "    model.image_encoder_forward = lambda pixels: (None, model.img_encoder(pixels))\n"
        "    return model\n",
    )
    source = ENTRIES["gloria"].build(0)
    bert_tokenizer(tmp_path)
    path = tmp_path / "chexpert_resnet50.ckpt"
    weights = {f"gloria.{name}": weight for name, weight in source.state_dict().items()}
    torch.save({"state_dict": weights, "hyper_parameters": Settings(folder=str(tmp_path))}, path)
    with pytest.raises(UnknownModelError, match=r"may run any code.*trust_remote_code=True"):
        ts.load("gloria", pretrained=path)
    model = ts.load("gloria", pretrained=path, trust_remote_code=True)
    ids = model.text.tokenize(TEXTS)
    source.text_encoder.idxtoword = dict(enumerate(WORDS))
    with torch.no_grad():
        check(model, source.text_encoder_forward(ids, (ids != 0).long(), torch.zeros_like(ids))[1])
    assert model.text.token_ids("No edema!") == model.text.token_ids("no edema")


def test_glorias_cleaning() -> None:
    assert gloria_words("1. No effusion.\n2. Heart size: normal") == "no effusion heart size normal"
    with pytest.raises(DataFormatError, match=r"nothing is left of 'Edema\.'"):
        gloria_words("Edema.")


def test_biovil_t_by_hi_mls_class_or_by_remote_code(
    tmp_path: Path, package: Package, monkeypatch: pytest.MonkeyPatch
) -> None:
    from zoo.replicas import cxr_bert

    source = ENTRIES["biovil-t"].build(0)
    source.save_pretrained(tmp_path)
    bert_tokenizer(tmp_path)
    with pytest.raises(UnknownModelError, match=r"pip install 'hi-ml-multimodal', or pass trust_remote_code=True"):
        ts.load("biovil-t", pretrained=tmp_path)
    package.write(
        "health_multimodal/text/model.py",
        "from transformers import BertTokenizer as CXRBertTokenizer\nfrom zoo.replicas.cxr_bert import CXRBertModel\n",
    )
    model = ts.load("biovil-t", pretrained=tmp_path)
    ids = model.text.tokenize(TEXTS)
    with torch.no_grad():
        expected = source.get_projected_text_embeddings(ids, (ids != 0).long())
    check(model, expected, images=False)
    assert model.preprocess is not None and model.preprocess(film()).shape == (3, 448, 448)
    with pytest.raises(UnsupportedTowerError, match="encodes no images"):
        model.encode_images([film()])
    # the same folder as the hub holds it: the configuration names classes of a Python file beside the weights
    code = Path(cxr_bert.__file__).read_text().partition("for _class in")[0]
    (tmp_path / "modeling_cxrbert.py").write_text(code)
    config = json.loads((tmp_path / "config.json").read_text())
    config["auto_map"] = {"AutoConfig": "modeling_cxrbert.CXRBertConfig", "AutoModel": "modeling_cxrbert.CXRBertModel"}
    (tmp_path / "config.json").write_text(json.dumps(config))
    monkeypatch.setattr("transformers.dynamic_module_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    with pytest.raises(UnknownModelError, match=r"brings Python code of its own.*trust_remote_code=True"):
        ts.load(f"hf:{tmp_path}")
    check(ts.load("biovil-t", pretrained=tmp_path, trust_remote_code=True), expected, images=False)


@pytest.mark.usefixtures("small_architectures")
def test_what_no_medical_model_can_be_loaded_from(tmp_path: Path, package: Package) -> None:
    (tmp_path / "text.pt").write_text("no weights")
    torch.save([1, 2], tmp_path / "list.pt")
    torch.save({"epoch": 1}, tmp_path / "empty.pt")
    torch.save(open_clip_model().state_dict(), tmp_path / "other.pt")
    weights = open_clip.CLIP(**SMALL).state_dict()
    torch.save(
        {"ln_final.gain" if name == "ln_final.bias" else name: w for name, w in weights.items()}, tmp_path / "1.pt"
    )
    for name, pretrained, message in [
        ("chexzero", None, "distributed by its authors .*CheXzero.*pretrained="),
        ("chexzero", tmp_path / "gone.pt", "gone.pt' does not exist"),
        ("chexzero", tmp_path / "text.pt", "text.pt' cannot be read"),
        ("chexzero", tmp_path / "list.pt", "holds a list, not weights by name"),
        ("bmc-clip", tmp_path / "empty.pt", r"holds no weights, only \['epoch'\]"),
        ("bmc-clip", tmp_path / "other.pt", "cannot load 'ViT-L-14'.*pos_embed width"),
        ("bmc-clip", tmp_path / "1.pt", r"do not fit: 1 missing \(ln_final\.bias\); 1 unexpected \(ln_final\.gain\)"),
        ("biomedclip", tmp_path / "nowhere", "nowhere"),
        ("plip", tmp_path, "transformers cannot load"),
        ("medclip", tmp_path, "needs the package 'medclip' .*pip install 'medclip==0.0.3'"),
        ("conch", tmp_path, r"needs the package 'conch' .*pip install 'git\+https://github.com/mahmoodlab/CONCH'"),
        ("gloria", tmp_path / "list.pt", "needs the package 'gloria'"),
        ("biomedclp", None, "did you mean 'biomedclip'"),
    ]:
        with pytest.raises(UnknownModelError, match=message):
            ts.load(name, pretrained=pretrained)


def test_pixels_are_padded_scaled_and_normalised_as_published() -> None:
    from tracescribe.patching.loading.pixels import biovil_pixels, chexzero_pixels, gloria_pixels, medclip_pixels

    grey = 200.0
    for pixels, side, padded, inside in [
        (chexzero_pixels, 224, -101.48761 / 83.43944, (grey - 101.48761) / 83.43944),
        (medclip_pixels, 224, -0.5862785803043838 / 0.27950088968644304, (grey / 255 - 0.58627858) / 0.27950089),
        (gloria_pixels, 224, -1.0, grey / 255 * 2 - 1),
        (biovil_pixels, 448, grey / 255, grey / 255),  # cropped, never padded
    ]:
        found = pixels(film((640, 320)))
        assert found.shape == (3, side, side) and torch.equal(found[0], found[2])
        assert found[0, side // 2, side // 2] == pytest.approx(inside, abs=1e-4)
        assert found[0, 2, side // 2] == pytest.approx(padded, abs=1e-4)
