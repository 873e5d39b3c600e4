"""The atlas: the numbers of its traces, the same bytes however often it was stopped, and what is refused."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from builders import synthetic_trace
from scipy.stats import spearmanr

import tracescribe as ts
from tracescribe.atlas import Atlas, AtlasConfig, read_atlas, read_atlas_config, run_atlas
from tracescribe.atlas import run as running
from tracescribe.atlas.doubts import unknown_share
from tracescribe.atlas.numbers import agreement, counted, peak_of, top_share
from tracescribe.atlas.sets import read_set
from tracescribe.errors import DataFormatError, OptionError, OutputError, UnknownModelError


def all_bytes(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def test_each_file_is_the_trace_of_the_model_on_the_set(folder: Path, places: Path) -> None:
    atlas = read_atlas(folder)
    assert set(atlas.traces) == {(model, name) for model in ("one", "two") for name in ("negation", "severity")}
    assert set(atlas.heads) == set(atlas.traces)
    model, pairs = ts.load("phantom"), ts.read_pairs(places / "pairs.jsonl")
    direct = ts.trace(model, pairs, floor=0, progress=False)
    np.testing.assert_array_equal(atlas.traces["one", "negation"].scores.patched, direct.scores.patched)
    heads = ts.trace(model, pairs, site="z", heads="each", floor=0, progress=False)
    np.testing.assert_array_equal(atlas.heads["one", "negation"].scores.patched, heads.scores.patched)
    profile = direct.per_layer(n_boot=200)
    found = atlas.profiles("negation")["one"]
    for name in ("value", "lo", "hi"):
        np.testing.assert_array_equal(getattr(found, name), getattr(profile, name))
    row = atlas.table().set_index(["model", "set"]).loc[("one", "negation")]
    inner = profile.value[1:-1]
    assert row["peak_layer"] == 1 + inner.argmax() and row["peak_depth"] == row["peak_layer"] / 8
    top = np.sort(np.clip(inner, 0, None))[-3:].sum() / np.clip(inner, 0, None).sum()
    assert row["top3_share"] == pytest.approx(top) and row["top3_even"] == pytest.approx(3 / 7)
    two = atlas.profiles("negation")["two"].value[1:-1]
    assert row["agreement"] == pytest.approx(spearmanr(inner, two).statistic)
    listed = atlas.head_table()
    assert len(listed) == 5 * 4 and listed.iloc[0]["cte"] == atlas.heads["one", "negation"].map().values.max()
    drawn = atlas.head_figure().shown
    assert drawn.names == ("one, negation", "two, negation", "one, severity", "two, severity")
    np.testing.assert_array_equal(drawn.views[0].values, atlas.head_maps()["one", "negation"].values)


def test_the_difference_of_embeddings_as_target(folder: Path) -> None:
    """CTE is then the projection of the change of the embedding on the way from correct to foil."""
    model = ts.load("phantom")
    trace = read_atlas(folder).traces["one", "severity"]
    assert trace.provenance["atlas"]["left_out"] == {"whose captions have different numbers of tokens": 1}
    correct, foil = (model.encode_texts(list(side or ())).numpy() for side in (trace.captions, trace.foil_captions))
    way = np.linalg.norm(correct - foil, axis=1)
    np.testing.assert_allclose(trace.denominator, way, atol=1e-6)  # float32 embeddings of length 1
    np.testing.assert_allclose(np.nansum(trace.cte[:, 8], axis=1), 1, atol=1e-5)


def test_an_atlas_that_was_stopped_ends_in_the_same_bytes(
    config: AtlasConfig, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = []

    def stop_at_the_third(task: running.Task, *rest: object, make=running._make) -> None:
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task)
        make(task, *rest)

    monkeypatch.setattr(running, "_make", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_atlas(config, tmp_path / "out")
    assert len(list((tmp_path / "out" / "traces").iterdir())) == 2
    monkeypatch.undo()
    run_atlas(config, tmp_path / "out")
    expected = {name: content for name, content in all_bytes(folder).items() if "." in name}
    assert all_bytes(tmp_path / "out") == expected
    # no model is loaded to write tables, figures and the page
    monkeypatch.setattr(running, "_load", lambda *_: pytest.fail("a finished atlas loads no model"))
    read_atlas(run_atlas(config, tmp_path / "out")).write(tmp_path / "out")
    written = {
        "table.csv",
        "agreement.csv",
        "heads.csv",
        "atlas.pdf",
        "atlas.png",
        "atlas.html",
        "heads.pdf",
        "heads.png",
    }
    assert set(all_bytes(tmp_path / "out")) == {*expected, *written}
    table = pd.read_csv(tmp_path / "out" / "table.csv")
    pd.testing.assert_frame_equal(table, read_atlas(folder).table(), check_dtype=False)


def test_models_may_be_added_and_other_settings_are_refused(
    config: AtlasConfig, folder: Path, tmp_path: Path, places: Path
) -> None:
    small = config.model_copy(update={"sets": {"negation": config.sets["negation"]}, "heads": False})
    one = small.model_copy(update={"models": {"one": config.models["one"]}})
    run_atlas(one, tmp_path / "out")
    before = all_bytes(tmp_path / "out" / "traces")
    run_atlas(small, tmp_path / "out")
    after = all_bytes(tmp_path / "out" / "traces")
    assert len(after) == 2 and before.items() <= after.items()
    other = small.model_copy(update={"trace": {"floor": 0.0, "site": "mlp"}})
    with pytest.raises(OutputError, match=r"the atlas in .*out has other settings \(trace\)"):
        run_atlas(other, tmp_path / "out")
    swapped = small.model_copy(update={"models": {"one": config.models["two"]}})
    with pytest.raises(OutputError, match=r"models\.one"):
        run_atlas(swapped, tmp_path / "out")
    changed = tmp_path / "pairs.jsonl"
    changed.write_text((places / "pairs.jsonl").read_text().replace("clear", "large"))
    moved = small.model_copy(update={"sets": {"negation": small.sets["negation"].model_copy(update={"file": changed})}})
    with pytest.raises(OutputError, match="pairs of the set 'negation'"):
        run_atlas(moved, tmp_path / "out")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        run_atlas(small, tmp_path / "mine")


def test_damage_is_refused(config: AtlasConfig, folder: Path, tmp_path: Path) -> None:
    import shutil

    copy = tmp_path / "atlas"
    shutil.copytree(folder, copy)
    path = sorted((copy / "traces").glob("*.safetensors"))[0]
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DataFormatError, match="delete it, and it is made again"):
        read_atlas(copy)
    path.unlink()
    run_atlas(config, copy)
    assert all_bytes(copy / "traces") == all_bytes(folder / "traces")
    other = sorted((copy / "traces").glob("*.safetensors"))[1]
    path.write_bytes(other.read_bytes())  # the trace of something else under its name
    with pytest.raises(DataFormatError, match="is not the trace of"):
        read_atlas(copy)
    record = json.loads((copy / "atlas.json").read_text())
    record["config"]["seed"] = 3
    (copy / "atlas.json").write_text(json.dumps(record))
    with pytest.raises(DataFormatError, match="changed or damaged"):
        read_atlas(copy)


def test_a_model_that_does_not_load_is_named_and_left_out_only_if_asked(
    config: AtlasConfig, places: Path, tmp_path: Path
) -> None:
    models = {"broken": {"model": "hf:no/such/folder"}, "gone": {"model": "phantm"}, "one": "phantom"}
    wanted = AtlasConfig(
        models=models, sets={"negation": places / "pairs.jsonl"}, trace={"floor": 0.0, "positions": "all"}
    )
    with pytest.raises(UnknownModelError, match="the model 'broken'"):
        run_atlas(wanted, tmp_path / "out")
    atlas = read_atlas(run_atlas(wanted, tmp_path / "out", keep_going=True))
    table = atlas.table().set_index("model")
    assert table["n_pairs"].tolist() == [0, 0, 6]
    assert "did you mean 'phantom'" in table.loc["gone", "warnings"]
    assert "broken" in atlas.summary() and list(atlas.profiles("negation")) == ["one"]
    atlas.write(tmp_path / "out")
    cuda = wanted.model_copy(update={"models": {"gpu": config.models["one"].model_copy(update={"device": "gpu"})}})
    with pytest.raises(OptionError, match="the model 'gpu': unknown device 'gpu'"):
        run_atlas(cuda, tmp_path / "other")


def test_what_no_pair_gives_is_said(places: Path, tmp_path: Path) -> None:
    (tmp_path / "long.jsonl").write_text('{"correct": "no edema", "foil": "some very large edema"}\n')
    (tmp_path / "same.jsonl").write_text('{"correct": "xylophone edema", "foil": "zebrafish edema"}\n')
    wanted = AtlasConfig(
        models={"one": "phantom"},
        sets={
            "long": {"file": tmp_path / "long.jsonl", "target": "difference"},
            "same": {"file": tmp_path / "same.jsonl", "target": "a film with {correct}"},
        },
    )
    atlas = read_atlas(run_atlas(wanted, tmp_path / "out"))
    said = {each.set: each.why for each in atlas.entries}
    assert said["long"] == "none of the pairs can be traced: 1 whose captions have different numbers of tokens"
    assert atlas.table()["n_pairs"].tolist() == [0, 0] and "–" in atlas.as_text()
    ts.viz.report(tmp_path / "page.html", atlas.page())
    with pytest.raises(DataFormatError, match=r"1 of 1 pairs have no image.*target: difference"):
        read_set("long", wanted.sets["long"].model_copy(update={"target": "image"}), None, 0)


def test_sets_are_drawn_alike_and_named_apart(places: Path, config: AtlasConfig) -> None:
    spec = config.sets["negation"]
    few = read_set("negation", spec, 3, 0)
    assert len(few.pairs) == 3 and few.sha256 == read_set("negation", spec, 3, 0).sha256
    assert few.sha256 != read_set("negation", spec, 3, 1).sha256
    valse = spec.model_copy(
        update={"file": places / "existence.json", "format": "valse-existence", "target": "correct"}
    )
    pairs = read_set("existence", valse, None, 0).pairs
    assert len(pairs) == 5  # one of six is not valid by its annotators
    assert pairs[0].image == ts.Text(pairs[0].correct)
    with pytest.raises(DataFormatError, match=r"no pair of the attribute 'plural'; it has \['existence'\]"):
        read_set("existence", valse.model_copy(update={"attribute": "plural"}), None, 0)


def test_unknown_tokens_are_counted(folder: Path, places: Path) -> None:
    model = ts.load("phantom")
    with pytest.warns(UserWarning, match="does not know"):
        trace = ts.trace(
            model,
            [ts.Pair(correct="no zebra here", foil="severe zebra here", image=ts.Text("clear"))],
            floor=0,
            progress=False,
        )
    assert unknown_share(trace) == pytest.approx(2 / 3, abs=0.34)
    assert unknown_share(read_atlas(folder).traces["one", "negation"]) == 0


# -- the numbers ---------------------------------------------------------------------------------------------------


def named(trace: ts.CausalTrace) -> ts.CausalTrace:
    return replace(trace, named=np.ones(len(trace), dtype=bool))


def test_peaks_shares_and_agreement_of_planted_profiles(config: AtlasConfig) -> None:
    trace = named(synthetic_trace(n_pairs=60, n_texts=60, share_inverted=0))
    patched = trace.scores.patched.copy()
    patched[:, 3, -1] -= (trace.denominator * 5).astype(np.float32)  # layer 3 of 8 stands out by far
    planted = replace(trace, scores=replace(trace.scores, patched=patched))
    profile = planted.per_layer(n_boot=200)
    peak = peak_of(profile, counted(planted), 8, 0.95)
    assert peak is not None and (peak.layer, peak.depth, peak.share, peak.alike) == (3, 3 / 8, 1.0, ())
    assert peak.lo == peak.hi == 3 / 8
    share = top_share(profile, counted(planted), 0.95)
    assert share is not None and share.lo <= share.value <= share.hi and share.value > share.even
    # a model of half the depth that does the same at the same relative depth
    half = replace(
        planted,
        scores=replace(planted.scores, patched=planted.scores.patched[:, ::2]),
        provenance={**planted.provenance, "tower": {"n_layers": 4}},
    )
    alike = agreement(planted, half, config)
    assert alike is not None and alike.n_depths == 3 and alike.n_pairs == 60
    inner = profile.value[[2, 4, 6]]
    assert alike.rank == pytest.approx(1.0) and alike.lo == alike.hi == 1.0  # the same pairs are drawn for both
    assert alike.peaks == pytest.approx((1 + inner.argmax()) / 4 - 3 / 8)
    other = replace(planted, ids=tuple(f"other{i}" for i in range(60)))
    assert agreement(planted, other, config) is None


def test_one_cluster_has_no_interval_and_says_so(config: AtlasConfig) -> None:
    trace = named(synthetic_trace(n_pairs=5, share_inverted=0))
    alone = replace(trace, groups=("same",) * 5)
    atlas = Atlas(config, {("one", "negation"): alone}, n_pairs={"negation": 5})
    row = atlas.table().iloc[0]
    assert np.isnan(row["peak_lo"]) and "no interval" in row["warnings"]
    assert atlas.table().iloc[1]["warnings"] == "not traced yet"
    assert "negation" in repr(atlas.figure().shown.names) and "<b>Atlas</b>" in atlas._repr_html_()


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[]", "expected fields such as models: and sets:"),
        ("models: {a: phantom}", "field 'sets'"),
        ("models: {a: phantom}\nsets: {b: {file: x, targt: y}}", "'sets.b.targt'"),
        ("models: {a: {model: phantom, device: 3}}\nsets: {b: x}", "'models.a.device'"),
        ("models: {a: phantom}\nsets: {b: x}\ntrace: {cache: here}", "trace.cache is set by the atlas"),
        ("models: {a: phantom}\nsets: {b: x}\ntrace: {sight: mlp}", "no option 'sight'"),
        ("models: {a: phantom}\nsets: {b: x}\ntrace: {window: 0}", "window must be"),
        ("models: {a: phantom}\nsets: {b: x}\naggregate: total", "aggregate must be one of"),
        ("models: {a: phantom}\nsets: {b: {file: x, target: 'a {caption}'}}", "{caption} is no caption"),
        ('models: {"a\\tb": phantom}\nsets: {b: x}', "printable characters"),
        ("models: [phantom]\nsets: {b: x}", "models must be name: what ts.load takes"),
    ],
)
def test_a_file_that_is_no_atlas_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "atlas.yaml").write_text(text)
    with pytest.raises(DataFormatError) as refusal:
        read_atlas_config(tmp_path / "atlas.yaml")
    assert words in str(refusal.value)


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    (tmp_path / "atlas.yaml").write_text("models: {a: phantom}\nsets: {b: {file: data/x.json, images: films}}\n")
    config = read_atlas_config(tmp_path / "atlas.yaml", [Path("pairs.jsonl")], target="correct", n_pairs=7)
    assert config.sets["b"].file == tmp_path / "data" / "x.json" and config.sets["b"].images == tmp_path / "films"
    assert config.sets["pairs"].file == Path.cwd() / "pairs.jsonl" and config.sets["pairs"].target == "correct"
    assert (config.n_pairs, config.heads) == (7, False)
    with pytest.raises(DataFormatError, match="two sets are called 'b'"):
        read_atlas_config(tmp_path / "atlas.yaml", [Path("b.jsonl")])


def test_the_shipped_recipe_is_an_atlas() -> None:
    config = read_atlas_config(Path(__file__).resolve().parents[2] / "examples" / "atlas.yaml")
    assert set(config.models) == {"miniature", "MiniLM"} and len(config.sets) == 5
    assert config.options().site == "attn"
