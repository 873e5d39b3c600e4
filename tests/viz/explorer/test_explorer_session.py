"""The explorer's session: its numbers are the API's, nothing stale is kept, and what is wrong becomes a sentence."""

from __future__ import annotations

import copy
import csv
import json
import threading
import time
import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from builders import synthetic_trace

import tracescribe as ts
from tracescribe.benchmark.phantom import build_phantom
from tracescribe.errors import DataFormatError, FigureError, SiteError, TraceError
from tracescribe.viz.explorer import ExplorerSession, computing, make_session, tracing
from tracescribe.viz.explorer.frame import make_frame
from tracescribe.viz.explorer.leaving import static_figure
from tracescribe.viz.explorer.panels import Panels, draw_panels
from tracescribe.viz.explorer.prescribing import Plan
from tracescribe.viz.explorer.session import MAIN
from tracescribe.viz.figure_data import PanelsData

CLEAR = ts.Text("The lungs are clear.")
LONG = 120.0  # seconds until a test gives up; everything here takes well under one on a quiet machine


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.load("phantom")


@pytest.fixture(scope="module")
def tuned() -> ts.DualEncoder:
    """The miniature with another first block, for comparisons."""
    import torch

    other = ts.load("phantom")
    with torch.no_grad():
        for parameter in other.source.transformer.resblocks[0].mlp.parameters():
            parameter.mul_(0.5)
    return other


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> dict[str, list[ts.Pair]]:
    folder = build_phantom(tmp_path_factory.mktemp("films") / "set", 24, seed=0)
    pairs = ts.read_pairs(folder / "pairs.jsonl")
    return {kind: [p for p in pairs if p.attribute == kind][:12] for kind in ("existence", "severity")}


def started(model: ts.DualEncoder, *arguments: Any, **options: Any) -> ExplorerSession:
    session = make_session(model, *arguments, **{"target": CLEAR, **options})
    assert session.wait(LONG)
    return session


def shown(session: ExplorerSession) -> Panels:
    assert session.wait(LONG)
    panels = session.panels()
    assert isinstance(panels, Panels), panels or session.problem
    return panels


def run_code(session: ExplorerSession, **given: Any) -> dict[str, Any]:
    assert session.wait(LONG)
    space: dict[str, Any] = dict(given)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ts.tracer.TraceWarning)  # that the model prefers a foil, which the page notes
        exec(compile(make_frame(session)[0]["code"], "copied", "exec"), space)
    return space


# -- type and see ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"direction": "correct->foil"},
        {"site": "attn"},
        {"site": "mlp", "direction": "correct->foil"},
        {"metric": "margin"},
        {"metric": "probability", "site": "mlp"},
        {"metric": "rank", "direction": "correct->foil"},
    ],
)
def test_what_is_shown_is_what_trace_gives_to_the_last_bit(model: ts.DualEncoder, settings: dict[str, str]) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    session.choose(**settings)
    panels = shown(session)
    pair = ts.Pair(correct="There is no edema.", foil="There is severe edema.", image=CLEAR)
    expected = ts.trace(model, [pair], progress=False, **settings)  # type: ignore[arg-type]
    assert np.array_equal(panels.panels[0].values, expected.cte[0].astype(np.float64))
    frame, buffers = make_frame(session)
    where = frame["maps"]["panels"][0]["cells"]
    sent = np.frombuffer(buffers, "<f4", offset=where["at"], count=where["length"] // 4).reshape(where["shape"])
    assert np.array_equal(sent, expected.cte[0])


def test_a_trace_in_groups_of_layers_fills_the_map_and_ends_at_the_same_numbers(
    model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tracing, "QUICK", 0.0)
    monkeypatch.setattr(tracing, "SHOW_EVERY", 0.0)
    seen: list[np.ndarray] = []
    session = started(model, correct="no edema", foil="mild edema")

    def changed() -> None:
        if session.partial is not None:
            seen.append(session.partial)

    session.changed = changed
    session.choose(foil="severe edema")
    final = shown(session).panels[0].values
    filled = [int(np.isfinite(cells).all(axis=1).sum()) for cells in seen]
    assert filled[0] < filled[-1] == len(final) and filled == sorted(filled)
    for cells in seen:  # 1e-5: the scores' 1e-7 over a difference of scores of some hundredths
        known = np.isfinite(cells)
        np.testing.assert_allclose(cells[known], final[known], rtol=0, atol=1e-5)


def test_typing_traces_the_last_captions_only(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    traced: list[str] = []
    real = computing.trace_pair

    def counted(model: Any, query: Any, *rest: Any) -> Any:
        traced.append(query.foil)
        return real(model, query, *rest)

    session = started(model, correct="There is no edema.", foil="There is mild edema.")
    monkeypatch.setattr(computing, "trace_pair", counted)
    for foil in ("There is m edema.", "There is sev edema.", "There is severe edema."):
        session.choose(foil=foil)
    assert session.wait(LONG)
    assert traced == ["There is severe edema."]


def test_results_of_what_has_changed_are_never_shown(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    """A trace that ends after its captions were changed leaves nothing behind."""
    session = started(model, correct="There is no edema.", foil="There is mild edema.")
    reached, go = threading.Event(), threading.Event()
    real = computing.trace_pair

    def slow(model: Any, query: Any, *rest: Any) -> Any:
        if query.foil == "There is severe edema.":
            reached.set()
            assert go.wait(LONG)
        return real(model, query, *rest)

    monkeypatch.setattr(computing, "trace_pair", slow)
    session.choose(foil="There is severe edema.")
    assert reached.wait(LONG)
    session.choose(foil="There is edema.")  # another length: cannot be traced
    assert session.result is None and session.panels() is None
    go.set()
    assert session.wait(LONG)
    assert session.result is None and session.panels() is None
    assert [one.query.foil for one in session.tried] == ["There is mild edema."]
    frame, _ = make_frame(session)
    assert frame["maps"]["panels"] == [] and frame["scores"] == [] and frame["code"] == ""
    assert "8 and 7 tokens" in frame["status"]["text"] and frame["status"]["kind"] == "problem"


def test_stop_ends_a_trace_between_two_groups_of_layers(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tracing, "QUICK", 0.0)
    session = started(model, correct="no edema", foil="mild edema")
    reached, go = threading.Event(), threading.Event()

    def hold() -> None:
        if session.partial is not None and not reached.is_set():
            reached.set()
            assert go.wait(LONG)

    session.changed = hold
    session.choose(foil="severe edema")
    assert reached.wait(LONG)
    assert session.worker.doing == "tracing"
    session.stop()
    go.set()
    assert session.wait(LONG)
    assert session.result is None and session.partial is None
    assert make_frame(session)[0]["status"] == {"text": "stopped", "kind": "ready", "busy": False}
    session.changed = lambda: None
    session.choose(foil="large edema")
    assert session.wait(LONG) and session.result is not None


def test_a_keystroke_is_tokenised_in_well_under_50_milliseconds(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is mild edema.")
    times = []
    for i in range(9):
        before = time.thread_time()  # other work on the machine does not count
        session.choose(foil="There is severe edema."[: 12 + i])
        make_frame(session)
        times.append(time.thread_time() - before)
    session.stop()
    assert np.median(times) < 0.05


@pytest.mark.parametrize(
    ("correct", "foil", "said"),
    [
        ("", "a", "the correct caption is empty"),
        ("no edema", "   ", "the foil caption is empty"),
        ("no edema", "no edema", "both captions are the same tokens"),
        ("no edema", "no large edema", "the captions have 5 and 6 tokens"),
        ("no edema " * 40, "no edema", "the correct caption cannot be read: the text has 1"),
        ("x" * 9000, "no edema", "the correct caption has 9,000 characters"),
        ("no edema", "no \ud800", "the foil caption holds half of a character"),
    ],
)
def test_captions_that_cannot_be_traced_are_a_sentence(
    model: ts.DualEncoder, correct: str, foil: str, said: str
) -> None:
    session = started(model, correct="no edema", foil="mild edema")
    session.choose(correct=correct, foil=foil)
    status = make_frame(session)[0]["status"]
    assert session.result is None and status["kind"] == "problem" and status["text"].startswith(said)


def test_a_suggested_caption_fits_and_alignment_serves_where_none_is_taken(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is edema.")
    fix = session.captions.fix
    assert fix is not None and fix.side == "foil"
    session.choose(align=True)
    panels = shown(session)
    expected = ts.trace(
        model,
        [ts.Pair(correct="There is no edema.", foil="There is edema.", image=CLEAR)],
        align="auto",
        progress=False,
    )
    assert np.array_equal(panels.panels[0].values, expected.cte[0].astype(np.float64), equal_nan=True)
    assert "aligned" in " ".join(panels.notes)
    session.choose(align=False)
    session.apply_fix()
    assert session.captions.problem is None and session.settings.foil == fix.caption
    assert shown(session).panels[0].values.shape == (9, 8)
    with pytest.raises(FigureError, match="no suggestion"):
        session.apply_fix()


def test_scores_say_which_caption_wins(model: ts.DualEncoder) -> None:
    further = ("There is no effusion.", "The lungs are clear.")
    session = started(model, correct="There is no edema.", foil="There is severe edema.", candidates=further)
    [scores] = make_frame(session)[0]["scores"]
    captions = ["There is no edema.", "There is severe edema.", *further]
    unit = model.encode_texts([CLEAR.text])[0].numpy()
    expected = dict(zip(captions, (model.encode_texts(captions).numpy() @ unit).tolist(), strict=True))
    for row in scores["rows"]:
        assert row["score"] == pytest.approx(expected[row["caption"]], abs=1e-6)
    assert [row["caption"] for row in scores["rows"]] == sorted(captions, key=lambda text: -expected[text])
    assert scores["rows"][0]["caption"] == CLEAR.text and scores["winner"] == "other"


FURTHER = ("There is no effusion.", "There is mild edema.", "The lungs are clear.")


def test_each_of_two_models_has_its_ranking_and_its_patch(model: ts.DualEncoder, tuned: ts.DualEncoder) -> None:
    """Both were ranked by the first model's scores."""
    session = started(model, compare={"tuned": tuned}, candidates=FURTHER, **CAPTIONS)
    session.choose(compare="model:tuned", layer=0, column=3)
    shown(session)
    frame = make_frame(session)[0]
    rankings = frame["scores"]
    assert {panel["profile"]["name"] for panel in frame["maps"]["panels"]} == {"sum over tokens"}
    assert [(one["name"], one["about"]) for one in rankings] == [("A", "phantom"), ("B", "tuned")]
    captions = [*CAPTIONS.values(), *FURTHER]
    for one, of in zip(rankings, (model, tuned), strict=True):
        unit = of.encode_texts([CLEAR.text])[0].numpy()
        expected = dict(zip(captions, (of.encode_texts(captions).numpy() @ unit).tolist(), strict=True))
        assert {row["caption"]: row["score"] for row in one["rows"]} == pytest.approx(expected, abs=1e-6)
        # layer 0 at the only differing token: the base becomes the foil
        [patched] = [row for row in one["rows"] if row["patched"]]
        assert patched["role"] == "correct"
        assert patched["with"] == pytest.approx(expected[CAPTIONS["foil"]], abs=1e-6)
    assert rankings[0]["margin"] != rankings[1]["margin"]


def test_an_earlier_trace_has_its_own_ranking(model: ts.DualEncoder) -> None:
    session = started(model, candidates=FURTHER[:1], **CAPTIONS)
    first = make_frame(session)[0]["scores"][0]
    session.choose(foil="There is mild edema.")
    session.drop_candidate(FURTHER[0])
    session.choose(compare="tried:1", **CELL)
    shown(session)
    a, b = make_frame(session)[0]["scores"]
    assert (a["name"], a["about"], a["entered"]) == ("A", "trace 1", False)
    assert [row["caption"] for row in a["rows"]] == [row["caption"] for row in first["rows"]]
    assert a["margin"] == first["margin"]
    assert b["entered"] and {row["caption"] for row in b["rows"]} == {CAPTIONS["correct"], "There is mild edema."}
    compare_with_page(session, run_code(session))


@pytest.mark.parametrize("metric", ["margin", "probability", "rank"])
def test_another_score_counts_the_foil_and_every_candidate(
    model: ts.DualEncoder, data: dict[str, list[ts.Pair]], metric: str
) -> None:
    session = started(
        model, data["existence"], target=None, candidates=FURTHER, metric=metric, control=data["severity"]
    )
    pair, rivals = data["existence"][0], [data["existence"][0].foil, *FURTHER]
    values = shown(session).panels[0].values
    expected = ts.trace(model, [pair], metric=metric, candidates=rivals, progress=False)
    # the image is embedded once, before it is a target: 1e-7 in a cosine, over a difference of some hundredths
    np.testing.assert_allclose(values, expected.cte[0], rtol=0, atol=1e-5)
    found = run_code(session, pairs=data["existence"])
    assert np.array_equal(found["cells"], values.astype(np.float32)) and found["trace"].metric.name == metric
    session.choose(scope="data", subtract=True)
    pooled = shown(session).panels[0].values
    found = run_code(session, pairs=data["existence"], control_pairs=data["severity"])
    np.testing.assert_array_equal(found["cells"], pooled)
    assert found["trace"].metric.name == found["control"].metric.name == metric
    traces = len(session.pooled)
    session.choose(beta=2.0)
    assert session.wait(LONG) and len(session.pooled) == traces  # what is known is not traced again


def test_scores_and_ranks_of_captions_are_of_cosines_whatever_the_map_is_of(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.", candidates=FURTHER)
    session.choose(layer=2, column=7)
    before = make_frame(session)[0]
    session.choose(metric="rank")
    assert session.wait(LONG)
    after = make_frame(session)[0]
    for one, two in zip(before["scores"][0]["rows"], after["scores"][0]["rows"], strict=True):
        assert one["caption"] == two["caption"] and (one["rank"], one["rank_with"]) == (two["rank"], two["rank_with"])
        assert (one["score"], one["with"]) == pytest.approx((two["score"], two["with"]), abs=1e-6)
    assert "rank" in " ".join(after["maps"]["notes"]) and after["history"][0]["about"].endswith("(rank)")
    session.choose(compare="tried:1")
    assert session.wait(LONG)
    status = make_frame(session)[0]["status"]
    assert status["text"] == "A is scored by cosine and B by rank: choose the score of the earlier trace"
    session.restore(1)
    assert session.settings.metric == "cosine"


# -- ask ------------------------------------------------------------------------------------------------------------


def test_a_cell_gives_scores_and_ranks_with_the_patch(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    session.choose(layer=0, column=3)
    assert session.result is not None
    trace = session.result.traces[MAIN]
    frame = make_frame(session)[0]
    ask, by_caption = frame["ask"], {row["caption"]: row for row in frame["scores"][0]["rows"]}
    # layer 0 at the only differing token is the foil by construction
    patched = by_caption["There is no edema."]
    assert patched["patched"] and patched["with"] == pytest.approx(float(trace.scores.foil[0]), abs=1e-6)
    assert not by_caption["There is severe edema."]["patched"]
    assert ask["title"] == "layer 0 · token no / severe" and ask["cells"][0]["value"] == 1.0


def test_a_row_and_a_column_list_their_cells(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    values = shown(session).panels[0].values
    session.choose(layer=None, column=7)
    ask = make_frame(session)[0]["ask"]
    assert [line["name"] for line in ask["lines"]] == [f"layer {layer}" for layer in range(8, -1, -1)]
    assert [line["value"] for line in ask["lines"]] == pytest.approx(values[::-1, 7].tolist())
    session.choose(layer=3, column=None)
    ask = make_frame(session)[0]["ask"]
    assert ask["lines"][0]["value"] == pytest.approx(values[3][np.abs(values[3]).argmax()])
    assert ask["cells"][0]["value"] == pytest.approx(values[3].sum())


def test_heads_and_attention_are_the_apis(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    session.choose(layer=2, column=7)
    session.ask_heads()
    session.ask_attention()
    assert session.wait(LONG) and session.result is not None
    pair = session.result.query.pair(model)
    expected = ts.trace(model, [pair], site="z", positions=[7], heads="each", progress=False)
    assert np.array_equal(session.heads[(1, 7)], expected.cte[0])
    [(patterns, keys), (other, _)] = session.attention[(1, 2, 7)]
    [(_, all_patterns)] = ts.patching.attention_patterns(model.text, model.text.rows([pair.correct]))
    assert np.array_equal(patterns, all_patterns[0, 1, :, 7].numpy()) and keys[3] == "no"
    np.testing.assert_allclose(other.sum(axis=1), 1.0, atol=1e-5)
    ask = make_frame(session)[0]["ask"]
    assert ask["heads"]["shape"] == [8, 4] and ask["from"] == ["[EOT]", "[EOT]"]
    session.choose(foil="There is mild edema.")  # and they are gone with the captions they belong to
    assert session.wait(LONG)
    session.choose(layer=2, column=7)
    ask = make_frame(session)[0]["ask"]
    assert ask["heads"] is None and "attention" not in ask


def test_the_strongest_and_weakest_pairs_are_the_extremes_of_the_data_set(
    model: ts.DualEncoder, data: dict[str, list[ts.Pair]]
) -> None:
    pairs = data["existence"]
    session = started(model, pairs, target=None)
    session.choose(layer=2, column=3)
    assert make_frame(session)[0]["ask"]["data"] == {"traced": False, "role": "first differing"}
    session.ask_data()
    assert session.wait(LONG)
    found = make_frame(session)[0]["ask"]["data"]
    trace = ts.trace(model, pairs, batch_size=tracing.BATCH, progress=False)
    effect = [
        float(trace.cte[i, 2][trace.differs[i] & (np.cumsum(trace.differs[i]) == 1)].mean()) for i in range(len(pairs))
    ]
    order = [i for i in np.argsort(effect)[::-1] if np.isfinite(effect[i])]
    assert [one["number"] for one in found["strongest"]] == order[:4]
    assert [one["number"] for one in found["weakest"]] == order[::-1][:4]
    assert found["strongest"][0]["value"] == pytest.approx(effect[order[0]], abs=1e-6)
    assert found["strongest"][0]["picture"]["length"] > 100


# -- compare, prescribe, history ------------------------------------------------------------------------------------


def test_two_models_and_their_difference_share_a_scale(model: ts.DualEncoder, tuned: ts.DualEncoder) -> None:
    session = started(model, None, {"tuned": tuned}, correct="There is no edema.", foil="There is severe edema.")
    session.choose(compare="model:tuned")
    panels = shown(session)
    assert [panel.name for panel in panels.panels] == ["A", "B", "B − A"]
    a, b, difference = (panel.values for panel in panels.panels)
    assert np.array_equal(difference, b - a) and np.abs(difference).max() > 0.01
    assert panels.limit == max(np.abs(values).max() for values in (a, b, difference))
    assert session.result is not None and session.result.number == 1  # the same entry, now with both traces
    found = run_code(session, compare={"tuned": tuned})
    np.testing.assert_array_equal(found["cells"], difference)


def test_models_of_different_depths_are_shown_side_by_side(
    model: ts.DualEncoder, data: dict[str, list[ts.Pair]], tmp_path: Path
) -> None:
    """There was a sentence in the place of both maps."""
    source = copy.deepcopy(model.source)
    source.transformer.resblocks = source.transformer.resblocks[:5]
    shallow = ts.wrap(source, tokenizer=model.tokenizer, name="shallow")
    pairs = [pair.model_copy(update={"image": CLEAR}) for pair in data["existence"]]
    session = started(model, pairs, {"shallow": shallow}, **CAPTIONS)
    for scope in ("pair", "data"):
        session.choose(compare="model:shallow", scope=scope, layer=5, column=2)
        panels = shown(session)
        assert [panel.name for panel in panels.panels] == ["A", "B"] and "no difference to show" in panels.notes[-1]
        assert [panel.values.shape[0] for panel in panels.panels] == [9, 6] and panels.by_role == (scope == "data")
        compare_with_page(session, run_code(session, compare={"shallow": shallow}, pairs=pairs))
        session.export(str(tmp_path / f"{scope}.csv"))
        session.export(str(tmp_path / f"{scope}.svg"))
        assert session.wait(LONG) and session.problem is None
        header = (tmp_path / f"{scope}.csv").read_text(encoding="utf-8").splitlines()[0]
        assert header.startswith("layer,A: ") and ",B: " in header
    alone = started(shallow, **CAPTIONS)
    alone.set_target("film", 3)
    assert alone.wait(LONG) and "A text as the target needs no image encoder" in make_frame(alone)[0]["status"]["text"]


def test_what_a_patch_can_change_is_shaded_by_each_models_own_attention(
    model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The cone of a causal tower that was compared with a bidirectional one began at the first token, too."""
    other = ts.load("phantom")
    session = started(model, None, {"other": other}, **CAPTIONS)
    monkeypatch.setattr(type(other.text), "causal", property(lambda tower: tower is model.text))
    assert [panel["causal"] for panel in make_frame(session)[0]["maps"]["panels"]] == [True]
    session.choose(compare="model:other")
    assert session.wait(LONG) and session.panels() is not None
    assert [panel["causal"] for panel in make_frame(session)[0]["maps"]["panels"]] == [True, False, False]


def test_two_pairs_are_compared_position_by_position_on_the_page_and_in_its_files(
    model: ts.DualEncoder, tmp_path: Path
) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    session.choose(correct="There is no clear lung.", foil="There is severe clear lung.", aggregate="max")
    assert session.wait(LONG)
    session.choose(compare="tried:1")
    panels = shown(session)
    a, b, difference = panels.panels
    np.testing.assert_array_equal(difference.values, b.values - a.values)
    assert not panels.by_role and difference.data.labels[3:6] == ("no / severe", "ede· | clear", "·ma | lung")
    figure = static_figure(panels, "max").shown
    assert isinstance(figure, PanelsData)
    np.testing.assert_array_equal(figure.views[2].values, difference.values)
    assert figure.limit == panels.limit and figure.views[2].labels == difference.data.labels
    session.export(str(tmp_path / "a.csv"))
    assert session.wait(LONG) and session.problem is None
    with (tmp_path / "a.csv").open(encoding="utf-8", newline="") as handle:
        header, *lines = csv.reader(handle)
    assert header[4:7] == ["no / severe", "ede· | clear", "·ma | lung"]
    written = np.array(lines, dtype=float)[::-1, -1]
    assert difference.data.profile is not None and a.data.profile is not None and b.data.profile is not None
    np.testing.assert_array_equal(written, difference.data.profile.value)  # not the largest difference of a cell
    np.testing.assert_array_equal(written, b.data.profile.value - a.data.profile.value)


def test_one_caption_in_other_tokens_is_compared_by_role() -> None:
    """Two tokenizers may cut one caption into equally many tokens at other places."""
    one = synthetic_trace(1, 4)
    [tokens] = one.tokens
    other_marks = replace(one, tokens=(("[CLS]", *(f"Ġ{token.title()}" for token in tokens[1:-1]), "[SEP]"),))
    other_cuts = replace(one, tokens=((*tokens[:4], "ede", "ma.", *tokens[6:]),))
    for other, by_role in ((other_marks, False), (other_cuts, True)):
        panels = draw_panels([("A", one), ("B", other)], [], "sum", pooled=False)
        assert panels.by_role == by_role and len(panels.panels) == 3


def test_two_pairs_of_different_lengths_are_compared_by_role(model: ts.DualEncoder) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    session.choose(correct="no effusion", foil="large effusion")
    assert session.wait(LONG)
    session.choose(compare="tried:1")
    panels = shown(session)
    assert panels.by_role and panels.panels[2].data.columns[0] == "[start]"
    found = run_code(session)
    np.testing.assert_allclose(found["cells"], panels.panels[2].values, rtol=0, atol=1e-12)


def test_the_control_is_subtracted_by_a_switch(model: ts.DualEncoder, data: dict[str, list[ts.Pair]]) -> None:
    pairs, control = data["existence"], data["severity"]
    session = started(model, pairs, target=None, control=control)
    session.choose(scope="data")
    plain = shown(session)
    session.choose(subtract=True)
    panels = shown(session)
    traces = [ts.trace(model, of, batch_size=tracing.BATCH, progress=False) for of in (pairs, control)]
    np.testing.assert_array_equal(panels.panels[0].values, traces[0].control(traces[1]).map().values)
    assert not np.array_equal(plain.panels[0].values, panels.panels[0].values)
    curve = panels.panels[0].data.profile
    assert curve is not None and curve.lo is not None and curve.hi is not None
    assert (curve.lo <= curve.value).all() and (curve.value <= curve.hi).all()
    found = run_code(session, pairs=pairs, control_pairs=control)
    np.testing.assert_array_equal(found["cells"], panels.panels[0].values)
    np.testing.assert_array_equal(found["profile"], curve.value)


def test_a_plan_is_what_prescribe_gives(model: ts.DualEncoder, data: dict[str, list[ts.Pair]]) -> None:
    session = started(model, data["existence"], target=None)
    session.choose(scope="data", aggregate="max", layers="inner", normalize="max", beta=2.0)
    shown(session)
    plan = session.plan()
    assert isinstance(plan, Plan)
    found = run_code(session, pairs=data["existence"])["plan"]
    assert np.array_equal(plan.plan.alpha, found.alpha) and np.array_equal(plan.plan.multipliers, found.multipliers)
    assert plan.plan.warnings == found.warnings and plan.plan.ci is not None
    assert plan.shares.sum() == pytest.approx(1)
    top = found.multipliers[[block - 1 for block in found.order[:3]]].sum() / found.multipliers.sum()
    assert plan.top[3] == pytest.approx(top)
    session.choose(beta=0.0)
    plan = session.plan()
    assert isinstance(plan, Plan)
    np.testing.assert_allclose(plan.shares, 1 / 8)  # beta 0 trains uniformly


def test_the_pair_that_is_shown_is_the_preset_until_it_is_changed(
    model: ts.DualEncoder, data: dict[str, list[ts.Pair]]
) -> None:
    session = started(model, data["existence"], target=None)
    assert make_frame(session)[0]["preset"] == 0
    for change, left in (
        (lambda: session.choose(foil="There is mild edema."), None),
        (lambda: session.set_target("film", 3), None),
        (lambda: session.restore(1), None),
        (lambda: session.add_candidate("There is mild effusion."), 3),
        (lambda: session.choose(beta=2.0, site="mlp"), 3),
    ):
        session.preset(3)
        assert session.wait(LONG) and make_frame(session)[0]["preset"] == 3
        change()
        assert session.wait(LONG) and make_frame(session)[0]["preset"] == left


def test_a_trace_that_is_compared_with_stays_in_the_history(
    model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    """When it fell off the end, no frame could be made any more, and the background thread ended."""
    monkeypatch.setattr(computing, "KEPT", 2)
    session = started(model, **CAPTIONS)
    session.choose(compare="tried:1")
    for word in ("mild", "moderate", "a", "new"):
        session.choose(foil=f"There is {word} edema.")
        assert [panel.name for panel in shown(session).panels] == ["A", "B", "B − A"]
    assert [one["number"] for one in make_frame(session)[0]["history"]] == [5, 4, 1]
    session.choose(compare="", foil="There is large edema.")
    assert session.wait(LONG) and [one.number for one in session.tried] == [5, 6]


def test_a_page_that_cannot_be_written_to_does_not_end_the_thread(model: ts.DualEncoder) -> None:
    session = started(model, **CAPTIONS)
    session.changed = lambda: 1 / 0
    with pytest.raises(ZeroDivisionError):
        session.choose(site="mlp")
    assert session.wait(LONG)
    session.changed = lambda: None
    session.choose(site="attn")
    assert shown(session) and session.result is not None and session.result.query.options.site == "attn"


def test_a_further_caption_is_dropped(model: ts.DualEncoder) -> None:
    session = started(model, candidates=FURTHER, metric="rank", **CAPTIONS)
    session.drop_candidate(FURTHER[0])
    assert shown(session) and session.candidates == tuple(FURTHER[1:])
    compare_with_page(session, run_code(session))
    with pytest.raises(FigureError, match="is not among the further captions"):
        session.drop_candidate(FURTHER[0])


def test_a_caption_among_the_candidates_is_ranked_once(model: ts.DualEncoder) -> None:
    """It was ranked twice, so that the foil came third of two captions."""
    mild = "There is mild edema."
    session = started(model, candidates=[CAPTIONS["correct"], mild, mild, CAPTIONS["foil"]], **CAPTIONS)
    rows = {row["caption"]: (row["rank"], row["role"]) for row in make_frame(session)[0]["scores"][0]["rows"]}
    assert rows == {mild: (1, ""), CAPTIONS["correct"]: (2, "correct"), CAPTIONS["foil"]: (3, "foil")}
    compare_with_page(session, run_code(session))
    session.choose(foil=mild)  # what was the foil is now a candidate
    assert shown(session)
    rows = {row["caption"]: row["role"] for row in make_frame(session)[0]["scores"][0]["rows"]}
    assert rows == {mild: "foil", CAPTIONS["correct"]: "correct", CAPTIONS["foil"]: ""}


def test_weights_that_are_nan_are_a_sentence_and_no_number(model: ts.DualEncoder) -> None:
    import torch

    broken = ts.load("phantom")
    with torch.no_grad():
        broken.source.ln_final.weight.fill_(torch.nan)
    frame = make_frame(started(broken, **CAPTIONS))[0]
    assert frame["status"]["text"] == "the embedding of a caption is NaN or infinite: check the text tower's weights"
    json.dumps(frame, allow_nan=False)


def test_the_history_restores_without_computing(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    before = shown(session).panels[0].values
    session.choose(foil="There is mild edema.", direction="correct->foil")
    session.set_target("film", "3")
    assert session.wait(LONG) and len(session.tried) == 2
    monkeypatch.setattr(computing, "trace_pair", None)
    session.restore(1)
    assert np.array_equal(shown(session).panels[0].values, before)
    assert (session.settings.foil, session.settings.direction) == ("There is severe edema.", "foil->correct")
    assert session.target.kind == "text"
    assert [one["current"] for one in make_frame(session)[0]["history"]] == [False, True]
    with pytest.raises(FigureError, match="no trace 7"):
        session.restore(7)


# -- leave ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["text", "film", "file", "preset"])
def test_copied_code_gives_exactly_this_view(model: ts.DualEncoder, data: dict[str, list[ts.Pair]], kind: str) -> None:
    session = started(model, data["existence"], target=None)
    if kind == "preset":
        session.preset(2)
    else:
        values = {"text": "There is\n no edema.", "film": 5, "file": str(data["existence"][0].image)}
        session.set_target(kind, values[kind])
    session.choose(layer=3, column=7, direction="correct->foil", beta=0.5)
    values_shown = shown(session).panels[0].values
    plan = session.plan()
    found = run_code(session, pairs=data["existence"])
    assert np.array_equal(found["cells"], values_shown.astype(np.float32))
    assert found["cell"] == found["cells"][3, 7]
    curve = session.panels().panels[0].data.profile  # type: ignore[union-attr]
    assert np.array_equal(found["profile"], curve.value)
    assert isinstance(plan, Plan) and np.array_equal(plan.plan.multipliers, found["plan"].multipliers)


Given = dict[str, Any]
CAPTIONS = {"correct": "There is no edema.", "foil": "There is severe edema."}
CELL = {"layer": 2, "column": 7}
ROW = np.random.default_rng(0).normal(size=64).astype(np.float32) * 3  # an embedding that is not of length 1

VIEWS: dict[str, tuple[Given, Given, tuple[str, ...]]] = {
    # by what is tried: arguments of explore, what is chosen, and what is asked
    "attention output": ({}, {"site": "attn", **CELL}, ()),
    "MLP, denoising": ({}, {"site": "mlp", "direction": "correct->foil", **CELL}, ()),
    "largest, inner": ({}, {"aggregate": "max", "layers": "inner", "normalize": "max", "beta": 0.35}, ()),
    "mean as it is": ({}, {"aggregate": "mean", "normalize": "none", "beta": 1.2345678901}, ()),
    "spread": ({}, {"aggregate": "std"}, ()),
    "heads and attention": ({}, CELL, ("heads", "attention")),
    "heads, denoising": ({}, {"direction": "correct->foil", **CELL}, ("heads", "attention")),
    "heads of a column": ({}, {"column": 7}, ("heads",)),
    "heads by rank": ({"candidates": True, "metric": "rank"}, CELL, ("heads",)),
    "candidates": ({"candidates": True}, CELL, ("heads", "attention")),
    "candidates, a film": ({"candidates": True, "target": None}, CELL, ()),
    "candidates, an embedding": ({"candidates": True, "target": ROW}, CELL, ()),
    "margin": ({"candidates": True, "metric": "margin"}, CELL, ()),
    "aligned": ({"foil": "There is edema."}, {"align": True, **CELL}, ("heads", "attention")),
    "aligned, compared": ({"foil": "There is edema.", "compare": True}, {"align": True, "compare": "model:tuned"}, ()),
    "two models, a film": (
        {"compare": True, "target": None, "candidates": True},
        {"compare": "model:tuned", **CELL},
        (),
    ),
    "two models, a data set": ({"compare": True, "pairs": True}, {"compare": "model:tuned", "scope": "data"}, ()),
    "a pair's cell in the data set": ({"pairs": True}, CELL, ("data",)),
    "a data set's cell": ({"pairs": True}, {"scope": "data", "site": "attn", "layer": 1, "column": 2}, ()),
    "a pair beyond a control": ({"control": True}, {"subtract": True, "aggregate": "max", "layer": 3}, ()),
    "margins beyond a control": (
        {"control": True, "candidates": True, "metric": "margin"},
        {"subtract": True, "layer": 3, "column": 1},
        (),
    ),
    "two models beyond a control": (
        {"control": True, "pairs": True, "compare": True},
        {"subtract": True, "scope": "data", "compare": "model:tuned", "direction": "correct->foil"},
        (),
    ),
    "a floor": ({"floor": 0.001}, CELL, ()),
    "a cell of a map that is gone": ({}, {"site": "attn", "layer": 8, "column": 7}, ()),
}


@pytest.mark.parametrize("name", VIEWS)
def test_copied_code_gives_every_number_of_the_view(
    model: ts.DualEncoder, tuned: ts.DualEncoder, data: dict[str, list[ts.Pair]], name: str
) -> None:
    arguments, chosen, asked = VIEWS[name]
    known: Given = {"pairs": data["existence"], "control": data["severity"], "compare": {"tuned": tuned}}
    known["candidates"] = FURTHER
    filled = {key: known[key] if value is True else value for key, value in arguments.items()}
    session = started(model, **{**CAPTIONS, **filled})
    session.choose(**chosen)
    assert session.wait(LONG)
    for what in asked:
        getattr(session, f"ask_{what}")()
    shown(session)
    given = {"pairs": data["existence"], "control_pairs": data["severity"], "compare": known["compare"], "given": ROW}
    compare_with_page(session, run_code(session, **given))


def compare_with_page(session: ExplorerSession, found: dict[str, Any]) -> None:
    """The page's numbers, as they are sent, are those of the copied code."""
    frame, buffers = make_frame(session)

    def sent(where: dict[str, Any]) -> np.ndarray:
        return np.frombuffer(buffers, "<f4", where["length"] // 4, where["at"]).reshape(where["shape"])

    panels, ask, plan, settings = (frame["maps"]["panels"], frame["ask"], frame["plan"], frame["settings"])
    np.testing.assert_array_equal(np.float32(found["cells"]), sent(panels[-1]["cells"]))
    for panel, curve in zip(panels, ("profile", "profile_b"), strict=False):
        np.testing.assert_array_equal(np.float32(found[curve]), sent(panel["profile"]["value"]))
    for part in ("alpha", "multipliers"):
        np.testing.assert_array_equal(np.float32(getattr(found["plan"], part)), sent(plan[part]))
    np.testing.assert_array_equal(np.float32(found["shares"]), sent(plan["shares"]))
    assert tuple(plan["warnings"]) == found["plan"].warnings
    for ranking, suffix in zip(frame["scores"] if settings["scope"] == "pair" else [], ("", "_b"), strict=False):
        if len(ranking["rows"]) > 2:
            by_caption = dict(zip(found[f"captions{suffix}"], found[f"scores{suffix}"], strict=True))
            for row in ranking["rows"]:  # a product in float32 here, in float64 there
                assert row["score"] == pytest.approx(by_caption[row["caption"]], abs=1e-6)
        patched = [row["with"] for row in ranking["rows"] if row["patched"]]
        assert patched == ([float(found[f"patched{suffix}"])] if f"patched{suffix}" in found else [])
    cell = settings["layer"] is not None and settings["column"] is not None
    assert ("cell" in found) == (cell and ask is not None)
    if ask is None:
        return
    if cell:
        assert np.float32(found["cell"]) == np.float32(ask["cells"][-1]["value"])
    if ask.get("heads") is not None:
        np.testing.assert_array_equal(found["heads"], sent(ask["heads"]))
    for read, where in zip(found.get("attention", []), ask.get("attention", []), strict=True):
        np.testing.assert_array_equal(read.numpy(), sent(where["cells"]))
    traced = (ask.get("data") or {}).get("traced")
    assert ("effects" in found) == bool(traced)
    if traced:
        for one in (*ask["data"]["strongest"], *ask["data"]["weakest"]):  # a mean in float32 here, in float64 there
            assert found["effects"][one["number"]] == pytest.approx(one["value"], abs=1e-6)
        assert found["effects"].iloc[-1] == pytest.approx(ask["data"]["strongest"][0]["value"], abs=1e-6)


def test_copied_code_of_what_has_no_name_says_what_it_takes_as_given(
    model: ts.DualEncoder, data: dict[str, list[ts.Pair]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dropped image by its name, files of pairs by their paths, and a miniature that was trained not by its name."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    Image.fromarray(np.arange(64 * 64, dtype=np.uint8).reshape(64, 64)).save("film.png")
    for name, kind in (("pairs.jsonl", "existence"), ("it's control.jsonl", "severity")):
        lines = [{"correct": p.correct, "foil": p.foil, "image": ROW.tolist()} for p in data[kind]]
        Path(name).write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    session = started(model, "pairs.jsonl", control="it's control.jsonl")
    session.choose(scope="data", subtract=True)
    shown(session)
    compare_with_page(session, run_code(session))
    session.choose(scope="pair", subtract=False)
    session.set_target("dropped", "film.png", Path("film.png").read_bytes())
    shown(session)
    compare_with_page(session, run_code(session))


def test_copied_code_does_not_load_the_shipped_weights_of_a_miniature_that_was_trained(tuned: ts.DualEncoder) -> None:
    session = started(tuned, **CAPTIONS)
    assert tuned.name == "phantom" and "ts.load" not in make_frame(session)[0]["code"]
    compare_with_page(session, run_code(session, model=tuned))


@pytest.mark.parametrize("suffix", [".pdf", ".svg", ".png", ".csv", ".json"])
def test_a_view_is_exported(model: ts.DualEncoder, tmp_path: Path, suffix: str) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    path = tmp_path / f"view{suffix}"
    session.export(str(path))
    assert session.wait(LONG) and session.problem is None
    assert session.said == f"wrote {path}" and path.stat().st_size > 200
    if suffix == ".csv":
        lines = path.read_text(encoding="utf-8").splitlines()
        assert len(lines) == 10 and "no / severe" in lines[0]
        cells = [float(cell) for cell in lines[1].split(",")[1:9]]
        assert cells == pytest.approx(shown(session).panels[0].values[8].tolist())
    if suffix == ".json":
        plan = session.plan()
        assert isinstance(plan, Plan) and np.array_equal(ts.load_plan(path).alpha, plan.plan.alpha)


@pytest.mark.parametrize(
    ("path", "said"),
    [("view.doc", "must end in"), ("", "say where to write"), (None, "say where to write"), ("a/b/c.pdf", "a/b")],
)
def test_a_file_that_cannot_be_written_is_a_sentence(
    model: ts.DualEncoder, path: Any, said: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    try:
        session.export(path)
        assert session.wait(LONG)
        sentence = session.problem or ""
    except FigureError as error:
        sentence = str(error)
    assert said in sentence and not list(tmp_path.iterdir())


# -- what is refused ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ({"model": "phantom"}, FigureError, "model must be a model from ts.load"),
        ({"compare": {"": None}}, FigureError, "is no name of a model"),
        ({"compare": "phantom"}, FigureError, r"compare\['B'\] must be a model"),
        ({"pairs": "nowhere.jsonl"}, DataFormatError, "nowhere.jsonl"),
        ({"pairs": []}, DataFormatError, "there are no pairs"),
        ({"candidates": "one text"}, FigureError, "not the single text"),
        ({"candidates": np.zeros((1, 3))}, FigureError, "is none"),
        ({"candidates": ["a caption", 5]}, FigureError, "candidates must be a list of captions; 5 is none"),
        ({"candidates": 5}, FigureError, "candidates must be a list of captions, not 5"),
        ({"site": "z"}, FigureError, "unknown site 'z'"),
        (
            {"metric": "distance to foil"},
            FigureError,
            "unknown metric 'distance to foil'; choose one of: cosine, margin",
        ),
        ({"floor": float("nan")}, TraceError, "floor"),
        ({"correct": 3}, FigureError, "correct must be a text, not 3"),
        ({"target": 3.5}, DataFormatError, "3.5"),
    ],
)
def test_wrong_arguments_are_refused_in_a_sentence(
    model: ts.DualEncoder, arguments: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        make_session(**{"model": model, "target": CLEAR, **arguments})


def test_wrong_requests_are_refused_and_change_nothing(model: ts.DualEncoder, tmp_path: Path) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")
    before = (session.settings, session.target)
    (tmp_path / "no.png").write_bytes(b"no picture")
    for request in (
        lambda: session.choose(beta=float("inf")),
        lambda: session.choose(layer=-1),
        lambda: session.choose(colour="red"),
        lambda: session.choose(direction="negated->affirmative"),
        lambda: session.choose(compare="tried:99"),
        lambda: session.choose(compare="model:none"),
        lambda: session.choose(compare=3),
        lambda: session.export(".pdf"),
        lambda: session.drop_candidate("There is mild edema."),
        lambda: session.set_target("text", " "),
        lambda: session.set_target("film", "-1"),
        lambda: session.set_target("film", "many"),
        lambda: session.set_target("planet", "x"),
        lambda: session.set_target("file", str(tmp_path / "none.png")),
        lambda: session.set_target("file", str(tmp_path / "no.png")),
        lambda: session.set_target("dropped", "x.png", b"\x00" * 50),
        lambda: session.preset(0),
        lambda: session.add_candidate(""),
        lambda: session.ask_heads(),
        lambda: session.ask_data(),
    ):
        with pytest.raises((FigureError, DataFormatError)):
            request()
    assert (session.settings, session.target) == before


def test_a_failing_trace_is_a_sentence_in_the_status(model: ts.DualEncoder, monkeypatch: pytest.MonkeyPatch) -> None:
    session = started(model, correct="There is no edema.", foil="There is severe edema.")

    def fails(*arguments: Any) -> Any:
        raise SiteError("there is no such site")

    monkeypatch.setattr(computing, "trace_pair", fails)
    session.choose(site="mlp")
    assert session.wait(LONG)
    assert make_frame(session)[0]["status"] == {"text": "there is no such site", "kind": "problem", "busy": False}
    monkeypatch.undo()
    session.choose(site="attn")
    assert session.wait(LONG)
    assert make_frame(session)[0]["status"]["kind"] == "ready"
