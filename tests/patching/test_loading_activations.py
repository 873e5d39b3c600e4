"""The QuickGELU trap: weights under the wrong activation are announced, where a file or a tag can tell; else not."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import open_clip
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from zoo.replicas.openai_clip import CLIP

import tracescribe as ts
from tracescribe.errors import TraceWarning, UnknownModelError
from tracescribe.patching.loading.checkpoints import read_checkpoint

TEXTS = ["no edema", "severe edema in here"]
SIZES = {"input_resolution": 32, "context_length": 77, "vocab_size": 49408}
SMALL = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "layers": 1, "width": 64, "head_width": 64},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 64, "heads": 1, "layers": 2},
}


@pytest.fixture(autouse=True)
def small_architectures(monkeypatch: pytest.MonkeyPatch) -> None:
    from open_clip import factory

    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    for name in ("ViT-B-32", "ViT-B-32-quickgelu"):
        monkeypatch.setitem(factory._MODEL_CONFIGS, name, SMALL | {"quick_gelu": name.endswith("quickgelu")})


@pytest.fixture(scope="module")
def openai() -> nn.Module:
    torch.manual_seed(0)
    return CLIP(16, 32, 1, 64, 16, 77, 49408, 64, 1, 2).eval()


@pytest.fixture(scope="module")
def of_open_clip() -> dict[str, Tensor]:
    return open_clip.CLIP(**SMALL).state_dict()


def warned(name: str, path: Path | str, caplog: pytest.LogCaptureFixture) -> list[str]:
    caplog.clear()
    with caplog.at_level(logging.WARNING, logger="tracescribe"):
        ts.load(name, pretrained=path)
    return [record.getMessage() for record in caplog.records if "trained with" in record.getMessage()]


def saved(folder: Path, kind: str, openai: nn.Module, plain: dict[str, Tensor]) -> Path:
    """A file that tells, or does not tell, which activation its weights had."""
    contents: dict[str, tuple[str, Any]] = {
        "OpenAI's class": ("best.pt", openai.state_dict()),
        "OpenAI's sizes": ("model.pt", plain | {name: torch.tensor(size) for name, size in SIZES.items()}),
        "a run of a QuickGELU model": ("epoch_9.pt", {"name": "model_ViT-B-32-quickgelu", "state_dict": plain}),
        "a name of OpenAI's": ("clip_openai_finetuned.pt", plain),
        "a name of LAION's": ("clip_laion2b.pt", plain),
        "nothing": ("model.pt", plain),
        "OpenAI's class, sorted": ("model.pt", dict(sorted(openai.state_dict().items()))),
    }
    name, content = contents[kind]
    torch.save(content, folder / name)
    return folder / name


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        ("OpenAI's class", "in the order in which OpenAI's class saves itself"),
        ("OpenAI's sizes", "in OpenAI's own format"),
        ("a run of a QuickGELU model", "open_clip noted the run 'model_ViT-B-32-quickgelu'"),
        ("a name of OpenAI's", "its name is 'clip_openai_finetuned.pt'"),
    ],
)
def test_weights_of_openais_descent_in_a_gelu_model_are_announced_with_the_fix(
    kind: str,
    reason: str,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    openai: nn.Module,
    of_open_clip: dict[str, Tensor],
) -> None:
    path = saved(tmp_path, kind, openai, of_open_clip)
    (line,) = warned("open_clip:ViT-B-32", path, caplog)
    assert reason in line and "was trained with QuickGELU, it seems" in line and "'ViT-B-32' computes GELU" in line
    assert line.endswith("load 'open_clip:ViT-B-32-quickgelu'")
    assert not warned("open_clip:ViT-B-32-quickgelu", path, caplog)


@pytest.mark.parametrize("kind", ["nothing", "OpenAI's class, sorted"])
def test_what_a_file_does_not_tell_is_not_guessed(
    kind: str, tmp_path: Path, caplog: pytest.LogCaptureFixture, openai: nn.Module, of_open_clip: dict[str, Tensor]
) -> None:
    path = saved(tmp_path, kind, openai, of_open_clip)
    with pytest.warns(TraceWarning, match=r"nothing tells which .*model\.pt.* load 'open_clip:ViT-B-32-quick"):
        assert not warned("open_clip:ViT-B-32", path, caplog)
    assert not warned("open_clip:ViT-B-32-quickgelu", path, caplog)  # who names it has said it


@pytest.mark.parametrize("quick", [False, True])
def test_a_file_may_state_its_activation(
    quick: bool, tmp_path: Path, caplog: pytest.LogCaptureFixture, of_open_clip: dict[str, Tensor]
) -> None:
    torch.save({"state_dict": of_open_clip, "quick_gelu": quick}, tmp_path / "w.pt")
    save_file(of_open_clip, tmp_path / "w.safetensors", metadata={"quick_gelu": str(quick).lower()})
    for name in ("w.pt", "w.safetensors"):
        lines = warned("open_clip:ViT-B-32", tmp_path / name, caplog)
        assert len(lines) == quick and all("the file says quick_gelu=True" in line for line in lines)


def test_the_reverse_is_announced_too(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, openai: nn.Module, of_open_clip: dict[str, Tensor]
) -> None:
    path = saved(tmp_path, "a name of LAION's", openai, of_open_clip)
    (line,) = warned("open_clip:ViT-B-32-quickgelu", path, caplog)
    assert "was trained with GELU" in line and line.endswith("load 'open_clip:ViT-B-32'")
    assert not warned("open_clip:ViT-B-32", path, caplog)
    torch.save(openai.state_dict(), path)  # open_clip saved itself in this order too before its version 2
    assert not warned("open_clip:ViT-B-32", path, caplog)


@pytest.mark.parametrize(
    ("name", "tag", "expected"),
    [
        ("ViT-B-32", "openai", True),
        ("ViT-B-32-quickgelu", "openai", False),
        ("ViT-B-32", "laion2b_s34b_b79k", False),
        ("ViT-B-32", "metaclip_400m", True),
    ],
)
def test_a_tag_is_compared_before_its_weights_are_fetched(
    name: str, tag: str, expected: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def unreachable(*args: Any, **options: Any) -> None:
        raise OSError("no network")

    monkeypatch.setattr("open_clip.factory.download_pretrained", unreachable)
    with pytest.raises(UnknownModelError, match="no network"), caplog.at_level(logging.WARNING, logger="tracescribe"):
        ts.load(f"open_clip:{name}", pretrained=tag)
    assert any("load 'open_clip:ViT-B-32-quickgelu'" in record.getMessage() for record in caplog.records) == expected


def test_the_model_is_never_changed_in_silence(tmp_path: Path, openai: nn.Module) -> None:
    torch.save(openai.state_dict(), tmp_path / "best.pt")
    quick, slow = (ts.load(f"open_clip:ViT-B-32{end}", pretrained=tmp_path / "best.pt") for end in ("-quickgelu", ""))
    assert type(slow.text.blocks[0].mlp.activation) is nn.GELU
    with torch.no_grad():
        expected = nn.functional.normalize(openai.encode_text(open_clip.get_tokenizer("ViT-B-32")(TEXTS)), dim=-1)
    torch.testing.assert_close(quick.encode_texts(TEXTS), expected, atol=2e-6, rtol=0)  # float32, two blocks
    assert (slow.encode_texts(TEXTS) - expected).abs().max() > 1e-5


@pytest.mark.filterwarnings("ignore::FutureWarning", "ignore::torch.jit.TracerWarning")
def test_openais_archives_are_read_without_rounding(tmp_path: Path, openai: nn.Module) -> None:
    inputs = {"encode_text": torch.zeros(1, 77).long(), "encode_image": torch.zeros(1, 3, 32, 32)}
    torch.jit.trace_module(openai, inputs).save(tmp_path / "ViT-B-32.pt")
    assert read_checkpoint(tmp_path / "ViT-B-32.pt").openai
    model = ts.load("open_clip:ViT-B-32-quickgelu", pretrained=tmp_path / "ViT-B-32.pt")
    assert torch.equal(model.source.text_projection, openai.text_projection)
