"""The code of docs/add_a_tower.md runs as it stands, and the tower that it adds is as good as ours."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

import tracescribe as ts
from tracescribe.errors import TowerMismatchError
from tracescribe.patching.adapters import registry

PAGE = Path(__file__).parents[2] / "docs" / "add_a_tower.md"
SNIPPETS = re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.fixture
def session(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    registry._load_adapters()
    monkeypatch.setattr(registry, "_ADAPTERS", dict(registry._ADAPTERS))  # what the page registers is for this test
    torch.manual_seed(0)
    names: dict[str, Any] = {"__name__": "my_package"}
    for snippet in SNIPPETS:
        exec(compile(snippet, PAGE.name, "exec"), names)  # the page is ours
    yield names


def test_the_pages_tower_is_verified_and_traced(session: dict[str, Any]) -> None:
    model, trace = session["model"], session["trace"]
    assert max(model.verified.values()) < 1e-5
    assert list(model.verified) == ["layer 0", "layer 1", "layer 2", "layer 3", "embedding"]
    assert trace.cte.shape == (1, 4, 5)
    assert trace.cte[0, 0, 1] == pytest.approx(1)  # the one token that differs decides everything
    assert model.encode_images(torch.randn(2, 3, 8, 8)).shape == (2, 16)
    assert model.logit_scale == pytest.approx(1 / 0.07)


def test_the_pages_adapter_gives_lora_its_targets(session: dict[str, Any]) -> None:
    import peft

    source = session["Radiology"]().eval()
    config = peft.LoraConfig(r=2, target_modules=ts.patching.lora_targets(source), init_lora_weights=False)
    wrapped: Any = peft.get_peft_model(source, config)
    inside = {id(p) for block in ts.patching.text_blocks(wrapped) for p in block.parameters()}
    trainable = [p for p in wrapped.parameters() if p.requires_grad]
    assert len(trainable) == 3 * 4 * 2  # A and B of in_proj, out_proj and two MLP layers, 3 blocks
    assert all(id(p) in inside for p in trainable)
    ts.wrap(wrapped, tokenizer=session["Words"]())  # verified against the source with its adapters


def test_a_source_that_is_called_wrongly_is_told_the_shapes(session: dict[str, Any]) -> None:
    source = session["Radiology"]().eval()
    tower = ts.wrap(source, tokenizer=session["Words"]()).text
    every_token = replace(session["ADAPTER"], encode_text=lambda source, ids: source.tokens(ids))
    with pytest.raises(TowerMismatchError, match=r"\[3, 16\] for 3 texts, and Radiology itself gives \[3, 12, 32\]"):
        ts.patching.verify(tower, every_token, source, texts=["a", "b", "c"])


def test_the_pages_that_error_messages_name_exist() -> None:
    folder = Path(ts.__file__).resolve().parents[1] / "patching"
    named = {name for path in folder.rglob("*.py") for name in re.findall(r"docs/\w+\.md", path.read_text("utf-8"))}
    assert "docs/add_a_tower.md" in named
    assert [name for name in named if not (PAGE.parents[1] / name).exists()] == []


def test_an_adapter_that_names_modules_that_are_never_called_is_told_so() -> None:
    from models import WordTokenizer, open_clip_model

    from tracescribe.patching.adapters.open_clip import ADAPTER
    from tracescribe.patching.loading.verification import verify

    source = open_clip_model()
    tower = ADAPTER.build_tower(source, WordTokenizer())
    wrong = replace(ADAPTER, name="mine", embedding_stage=lambda source: (source.visual, True))
    with pytest.raises(TowerMismatchError, match=r"'mine' names 4 modules of CLIP .* calls them 3 times"):
        verify(tower, wrong, source)
