"""The explorer's widget: what crosses the wire, what a saved notebook keeps, and what is missing without anywidget."""

from __future__ import annotations

import base64
import builtins
import io
import shutil
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import nbformat
import numpy as np
import pytest
from nbconvert import HTMLExporter
from zoo.sentence_models import ALBERT, sentence
from zoo.tokens import WordTokenizer

import tracescribe as ts
from tracescribe.viz.explorer import start

pytest.importorskip("anywidget", reason="the extra 'jupyter' is not installed")

from tracescribe.viz.explorer.widget import Explorer

FOLDER = Path(start.__file__).parent
CLEAR = ts.Text("The lungs are clear.")


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.load("phantom")


@pytest.fixture
def explorer(model: ts.DualEncoder) -> Any:
    made = ts.viz.explore(model, correct="There is no edema.", foil="There is severe edema.", target=CLEAR)
    assert made.session.wait(120)
    yield made
    made.close()


def ask(explorer: Explorer, buffers: list[bytes] | None = None, **content: Any) -> dict[str, Any]:
    """What the page would send; the frame that answers it."""
    explorer._receive(explorer, content, buffers or [])
    assert explorer.session.wait(120)
    return explorer.frame


def test_the_page_gets_arrays_as_bytes_and_everything_else_as_json(explorer: Explorer) -> None:
    import json

    json.dumps(explorer.frame, allow_nan=False)
    where = explorer.frame["maps"]["panels"][0]["cells"]
    sent = np.frombuffer(explorer.data, "<f4", offset=where["at"], count=where["length"] // 4)
    assert where["shape"] == [9, 8] and sent[3] == 1.0  # layer 0 at the differing token
    assert len(explorer.get_state()["data"]) == len(explorer.data)


def test_an_explorer_says_what_it_explores(explorer: Explorer) -> None:
    assert repr(explorer) == "Explorer(phantom: 'There is no edema.' / 'There is severe edema.')"


def test_what_is_warned_of_is_on_the_page_and_not_below_the_cell(explorer: Explorer) -> None:
    """Each key of an unknown word wrote to the kernel's log, which a notebook shows below the cell."""
    from PIL import Image

    film = io.BytesIO()
    Image.new("LA", (64, 64), (90, 100)).save(film, format="PNG")
    with warnings.catch_warnings(record=True) as logged:
        warnings.simplefilter("always")
        chosen = {"foil": "There is giraffe edema.", "align": True, "layer": 2, "column": 7}
        ask(explorer, do="choose", value=chosen)
        first = ask(explorer, do="heads")
        second = ask(explorer, [film.getvalue()], do="target", kind="dropped", value="film.png")
        third = ask(explorer, do="target", kind="text", value=CLEAR.text)
    assert logged == []
    assert "giraffe" in " ".join(first["captions"]["notes"])
    transparent = "partly transparent and is put on black"
    for frame, there in ((first, 0), (second, 1), (third, 0)):  # said while it is of what is shown
        notes = frame["maps"]["notes"]
        assert sum("giraffe" in note for note in notes) == 0  # once, beside the captions
        assert sum(transparent in note for note in notes) == there


def test_requests_are_answered_by_frames(explorer: Explorer) -> None:
    assert ask(explorer, do="choose", value={"layer": 2, "column": 7})["ask"]["title"] == "layer 2 · token [EOT]"
    assert ask(explorer, do="choose", value={"beta": 2.0}, number=7)["answered"] == 7
    assert ask(explorer, do="heads")["ask"]["heads"]["shape"] == [8, 4]
    assert ask(explorer, do="choose", value={"foil": "There is edema."})["captions"]["fix"]["side"] == "foil"
    assert ask(explorer, do="fix")["captions"]["problem"] is None
    assert ask(explorer, do="restore", value=1)["captions"]["foil"]["text"] == "There is severe edema."
    assert ask(explorer, do="target", kind="film", value="7")["target"]["label"].startswith("phantom film 7")
    assert ask(explorer, do="candidate", value="There is mild edema.")["scores"][0]["rows"][2]["caption"]
    assert len(ask(explorer, do="no candidate", value="There is mild edema.")["scores"][0]["rows"]) == 2
    assert explorer.code() == explorer.frame["code"] and "ts.trace(model, [pair]" in explorer.code()


def test_views_of_one_explorer_count_on_from_each_other(explorer: Explorer) -> None:
    assert ask(explorer, do="choose", value={"beta": 2.0}, number=9)["answered"] == 9
    assert ask(explorer, do="choose", value={"beta": 1.0}, number=3)["answered"] == 9  # of a view that asked less


def test_an_exported_page_gets_the_script(explorer: Explorer) -> None:
    state = explorer._get_embed_state(drop_defaults=True)["state"]  # as ipywidgets.embed asks
    assert state["_esm"].startswith("// The page") and ".ts-explorer" in state["_css"] and state["frame"]


def test_a_dropped_image_is_its_bytes(explorer: Explorer, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "film.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
    frame = ask(explorer, [path.read_bytes()], do="target", kind="dropped", value="../a <b>film</b>.png")
    assert frame["target"]["label"] == "b>.png" and frame["status"]["kind"] == "ready"
    assert "dropped" in frame["code"]


def test_a_large_image_arrives_in_parts(explorer: Explorer, tmp_path: Path) -> None:
    """Jupyter closes the connection that a message of more than 10 MB comes through."""
    from PIL import Image

    path = tmp_path / "film.png"
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save(path)
    whole, before = path.read_bytes(), explorer.frame["target"]
    sent = {"do": "target", "kind": "dropped", "value": "film.png", "parts": 3}
    cut = [whole[:100], whole[100:150], whole[150:]]
    for part, content in enumerate(cut):
        assert explorer.frame["target"] == before
        frame = ask(explorer, [content], **sent, part=part, number=part + 1)
        assert frame["answered"] == part + 1 and frame["status"]["kind"] == "ready"
    assert explorer.session.target.content == whole
    for wrong in ((1,), (0, 2), (0, 1, 1), ("one",), (None,)):  # parts of which one is missing, or came twice
        for part in wrong:
            frame = ask(explorer, [cut[0]], **sent, part=part)
        assert "drop it again" in frame["status"]["text"] and explorer.session.target.content == whole
    assert ask(explorer, [whole], do="target", kind="dropped", value="film.png")["status"]["kind"] == "ready"


@pytest.mark.parametrize(
    "content",
    [
        {"do": "choose", "value": {"beta": "much"}},
        {"do": "choose", "value": 3},
        {"do": "choose", "value": {"no such": 1}},
        {"do": "preset", "value": 5},
        {"do": "restore", "value": None},
        {"do": "delete everything"},
        {},
        {"do": "target", "kind": "dropped", "value": "x.png"},
        {"do": "export", "value": "x.exe"},
        {"do": "candidate", "value": ["a"]},
        {"do": "no candidate", "value": ["a"]},
        {"do": "choose", "value": {"compare": "tried:99"}},
        {"do": "choose", "value": {"compare": "model:none"}},
        {"do": "export", "value": ".pdf"},
    ],
)
def test_a_wrong_request_is_a_sentence_in_the_status(explorer: Explorer, content: dict[str, Any]) -> None:
    before = explorer.frame["maps"]
    frame = ask(explorer, **content)
    assert frame["status"]["kind"] == "problem" and len(frame["status"]["text"]) > 10
    assert frame["maps"] == before
    assert ask(explorer, do="choose", value={"beta": 2})["status"]["kind"] == "ready"


def test_a_saved_notebook_and_its_html_keep_a_picture(explorer: Explorer) -> None:
    forms, metadata = explorer._repr_mimebundle_()
    assert {"application/vnd.jupyter.widget-view+json", "image/png", "text/html", "text/plain"} <= set(forms)
    assert base64.b64decode(forms["image/png"]).startswith(b"\x89PNG\r\n\x1a\n")
    output = nbformat.v4.new_output("display_data", data=forms, metadata=metadata)
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("explore", outputs=[output])])
    nbformat.validate(notebook)
    page, _ = HTMLExporter().from_notebook_node(notebook)
    assert 'src="data:image/png;base64,' in page


def test_colab_is_told_where_its_widget_manager_is(explorer: Explorer, monkeypatch: pytest.MonkeyPatch) -> None:
    """anywidget puts it beside the output; ours keeps it."""
    from types import SimpleNamespace

    url = "https://colab.example/manager.min.js"
    colab = SimpleNamespace(_widgets=SimpleNamespace(_installed_url=url), enable_custom_widget_manager=lambda: None)
    monkeypatch.setitem(sys.modules, "google.colab.output", colab)
    forms, metadata = explorer._repr_mimebundle_()
    view = "application/vnd.jupyter.widget-view+json"
    assert metadata == {view: {"colab": {"custom_widget_manager": {"url": url}}}}
    assert next(iter(forms)) in ("text/plain", view) and forms[view]["model_id"] == explorer.model_id


def test_texts_are_never_markup() -> None:
    """The page has no way to write markup: only text nodes and attributes that it sets by name."""
    script = (FOLDER / "explorer.js").read_text(encoding="utf-8")
    for way in ("innerHTML", "outerHTML", "insertAdjacentHTML", "document.write", "DOMParser", "eval(", "new Function"):
        assert way not in script
    for network in ("http://", "https://", "fetch(", "XMLHttpRequest", "import(", "WebSocket"):
        assert network not in script
    assert "url(" not in (FOLDER / "explorer.css").read_text(encoding="utf-8")


@pytest.fixture(scope="module")
def encoder() -> ts.DualEncoder:
    """A sentence encoder: it states no logit scale."""
    return ts.wrap(sentence("Albert", "mean", **ALBERT)(0), tokenizer=WordTokenizer(sot_id=61, eot_id=62))


def test_probabilities_by_a_sentence_encoder_ask_for_a_logit_scale(encoder: ts.DualEncoder) -> None:
    target = ts.Text("There is no edema.")  # the correct caption wins
    captions = {"correct": "There is no edema.", "foil": "There is some edema.", "target": target}
    bare = ts.viz.explore(encoder, **captions)
    assert bare.session.wait(120)
    before = ask(bare, do="candidate", value="The lungs are dark.")
    frame = ask(bare, do="choose", value={"metric": "probability"})
    assert frame["status"]["kind"] == "problem"
    assert frame["status"]["text"].endswith("has none: choose another score, or give one, explore(..., logit_scale=20)")
    assert frame["settings"]["metric"] == "cosine" and frame["maps"] == before["maps"]  # what was shown stays
    assert ask(bare, do="choose", value={"metric": "rank"})["status"]["kind"] == "ready"
    bare.close()
    with pytest.raises(ts.errors.FigureError, match=r"a probability needs a logit scale, and the model .* has none"):
        ts.viz.explore(encoder, metric="probability", **captions)
    scaled = ts.viz.explore(encoder, logit_scale=20, **captions)
    frame = ask(scaled, do="choose", value={"metric": "probability"})
    assert frame["status"]["kind"] == "ready", frame["status"]["text"]
    shown = scaled.session.result.traces[""]
    pair = ts.Pair(correct=captions["correct"], foil=captions["foil"], image=target)
    trace = ts.trace(encoder, [pair], metric="probability", logit_scale=20, progress=False)
    assert np.array_equal(shown.cte, trace.cte)
    space = {"model": encoder}
    exec(compile(scaled.code(), "copied", "exec"), space)
    assert "logit_scale=20" in scaled.code() and np.array_equal(space["cells"], shown.cte[0])
    assert ask(scaled, do="choose", value={"metric": "cosine"})["status"]["kind"] == "ready"
    scaled.close()


def test_a_compared_sentence_encoder_asks_for_a_logit_scale_too(model: ts.DualEncoder, encoder: ts.DualEncoder) -> None:
    both = ts.viz.explore(model, compare={"B": encoder}, metric="probability", target=CLEAR)
    frame = ask(both, do="choose", value={"compare": "model:B"})
    assert frame["status"]["kind"] == "problem" and "has none" in frame["status"]["text"]
    assert both.session.settings.compare == ""
    both.close()


@pytest.mark.skipif(shutil.which("node") is None, reason="node is not installed")
def test_the_script_is_an_es_module() -> None:
    script = (FOLDER / "explorer.js").read_bytes()
    done = subprocess.run(
        ["node", "--check", "--input-type=module", "-"], input=script, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_without_anywidget_explore_says_how_to_get_it(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def refusing(name: str, *arguments: Any, **options: Any) -> Any:
        if name.partition(".")[0] == "anywidget":
            raise ModuleNotFoundError("No module named 'anywidget'", name="anywidget")
        return real(name, *arguments, **options)

    monkeypatch.delitem(sys.modules, "tracescribe.viz.explorer.widget")
    monkeypatch.setattr(builtins, "__import__", refusing)
    with pytest.raises(ts.errors.FigureError, match=r"pip install 'tracescribe\[jupyter\]'"):
        ts.viz.explore(model)
