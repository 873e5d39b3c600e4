"""A warning is said once, at the user's line, whichever of our functions found it, and not in the log too."""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from builders import synthetic_trace

import tracescribe as ts

INVERTED = synthetic_trace(12, 8, share_inverted=1.0)
USUAL = synthetic_trace(12, 8, seed=3)
PREFERS = "the model prefers the foil in every valid pair"


def said(work: Callable[[], Any]) -> list[tuple[str, str]]:
    """What Python's default filter lets through: the texts, and the files of the lines that they name."""
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter("default")
        work()
    return [(str(one.message), one.filename) for one in found]


@pytest.mark.parametrize(
    "work",
    [
        lambda path: INVERTED.map(),
        lambda path: INVERTED.per_layer(),
        lambda path: INVERTED.heatmap(),
        lambda path: INVERTED.profile(),
        lambda path: ts.viz.heatmap(INVERTED, aggregate="max"),
        lambda path: ts.viz.panels({"one": INVERTED, "two": INVERTED}),
        lambda path: ts.viz.export(INVERTED, path / "map.pdf"),
        lambda path: ts.prescribe(INVERTED),
        lambda path: ts.compare(USUAL, INVERTED),
        lambda path: USUAL.control(INVERTED).map(),
    ],
    ids=["map", "profile", "heatmap", "drawn profile", "viz", "panels", "export", "prescribe", "compare", "control"],
)
def test_pairs_that_the_model_gets_wrong_are_said_once(
    work: Callable[[Path], Any], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING):
        [(text, file)] = said(lambda: work(tmp_path))
    assert text.startswith(PREFERS) and Path(file) == Path(__file__)
    assert caplog.text == ""


@pytest.mark.parametrize(
    "work",
    [
        lambda path: INVERTED._repr_html_(),
        lambda path: repr(INVERTED),
        lambda path: INVERTED.to_frame(),
        lambda path: INVERTED.report(path / "page.html", control=USUAL),
    ],
    ids=["card", "repr", "table", "report"],
)
def test_what_shows_it_does_not_warn_of_it(work: Callable[[Path], Any], tmp_path: Path) -> None:
    assert said(lambda: work(tmp_path)) == []


def test_each_line_of_the_user_hears_it() -> None:
    def two_lines() -> None:
        INVERTED.map()
        INVERTED.map()

    assert [text[: len(PREFERS)] for text, _ in said(two_lines)] == [PREFERS] * 2


def test_unknown_words_are_said_once_however_often_they_are_read() -> None:
    model = ts.load("phantom")
    texts = ["There is a zebra."]
    found = said(lambda: [model.encode_texts(texts) for _ in range(3)])
    assert len(found) == 1 and "zebra" in found[0][0] and Path(found[0][1]) == Path(__file__)


def test_random_weights_are_said_by_us_alone(
    caplog: pytest.LogCaptureFixture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip logs them too."""
    import json

    import open_clip

    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 32, "layers": 1, "width": 64, "patch_size": 32},
        "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2},
    }
    (tmp_path / "tiny-for-a-test.json").write_text(json.dumps(config), encoding="utf-8")
    # open_clip's list is the process's, and other tests go through it
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIG_PATHS", list(open_clip.factory._MODEL_CONFIG_PATHS))
    monkeypatch.setattr(open_clip.factory, "_MODEL_CONFIGS", dict(open_clip.factory._MODEL_CONFIGS))
    open_clip.add_model_config(tmp_path)
    with caplog.at_level(logging.WARNING):
        ts.load("open_clip:tiny-for-a-test")
    [record] = caplog.records
    assert record.name.startswith("tracescribe.") and "every parameter is random" in record.getMessage()
    logging.getLogger().warning("No pretrained weights loaded")  # others may say so again
    assert len(caplog.records) == 2
