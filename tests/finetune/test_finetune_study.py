"""The study: the same table however often it was stopped, every arm tuned alike, hand-computed statistics."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from tracescribe.errors import ArgumentError, DataFormatError, OutputError
from tracescribe.finetune.study import runs as study_runs
from tracescribe.finetune.study.analysis import StudyResult, crossing, holm, read_study_result
from tracescribe.finetune.study.config import PRESETS, StudyConfig, read_study
from tracescribe.finetune.study.records import scored_records, training_images, training_pairs, training_records
from tracescribe.finetune.study.runs import read_record, run_study
from tracescribe.io import records
from tracescribe.tracer import read_pairs

TRAIN = {"steps": 2, "batch_size": 4}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    from tracescribe.benchmark.phantom import build_phantom

    return build_phantom(tmp_path_factory.mktemp("study") / "data", 40, 0)


@pytest.fixture(scope="module")
def config(data):
    return StudyConfig(
        data=data,
        n_pairs=12,
        arms={"nast": None, "front": {"by": "front", "k": 2}},
        rates=(1e-3, 1e-2),
        seeds=2,
        tuning_seeds=1,
        interpolation=(0.5,),
        train=TRAIN,
    )


@pytest.fixture(scope="module")
def folder(config, tmp_path_factory):
    return run_study(config, tmp_path_factory.mktemp("study") / "out")


def test_a_result_shows_itself_in_a_notebook(config, folder):
    result = read_study_result(folder)
    assert repr(result) == f"StudyResult({config.model}: {len(config.arms)} arms, 2 seeds, {len(result.runs)} runs)"
    html = result._repr_html_()
    lines = [line.split() for line in result.as_text("csv").splitlines()]
    assert html.count("<tr") == len(lines) and all(f">{arm}" in html for arm in config.arms) and "(untrained)" in html


def test_every_arm_is_tuned_on_validation_and_run_with_every_seed(config, folder):
    result = read_study_result(folder)
    assert sorted(zip(result.runs["arm"], result.runs["seed"], strict=True)) == sorted(
        (arm, seed) for arm in config.arms for seed in range(2)
    )
    for arm in config.arms:
        val = {rate: read_record(folder / "runs" / f"{arm}-{rate:g}-0.json")["val"] for rate in config.rates}
        means = {r: np.mean([v[n] for n in ("claims", "negated", "affirmative", "r1")]) for r, v in val.items()}
        assert set(result.runs[result.runs["arm"] == arm]["rate"]) == {max(means, key=means.get)}


def test_arms_change_the_blocks_that_they_name(folder, config):
    from tracescribe.finetune import load_plan

    plan = load_plan(folder / "plans" / "front-0.json")
    np.testing.assert_allclose(plan.multipliers, [4, 4, 0, 0, 0, 0, 0, 0])
    sizes = [
        read_record(path)["update"]["size"] for path in (folder / "runs").iterdir() if path.name.startswith("front")
    ]
    assert all(min(size[:2]) > 0 and max(size[2:]) == 0 for size in sizes)


def test_plans_of_other_sites_come_from_traces_at_these_sites(config):
    import tracescribe as ts
    from tracescribe.finetune.study.sources import Sources

    model, images = ts.load(config.model), training_images(config)
    sources = Sources(config, model, None, images)
    pairs = training_pairs(config, images, (config.attribute,))
    controls = training_pairs(config, images, config.control)
    alphas = {}
    for name, site in (("nast", "resid"), ("nast_attn", "attn"), ("nast_mlp", "mlp")):
        trace = ts.trace(model, pairs, site=site)
        alphas[site] = sources.plan(PRESETS[name], 0).alpha
        np.testing.assert_array_equal(alphas[site], ts.prescribe(trace, budget="mean").alpha)
        excess = sources.plan(PRESETS["excess"].model_copy(update={"site": site}), 0).alpha
        expected = ts.prescribe(trace.control(ts.trace(model, controls, site=site)), layers="inner", budget="mean")
        np.testing.assert_array_equal(excess, expected.alpha)
    assert not np.allclose(alphas["attn"], alphas["resid"]) and not np.allclose(alphas["attn"], alphas["mlp"])


def test_a_study_learns_from_the_images_that_it_trains_on_and_from_no_other(config, data):
    """The plans of a study were made from pairs of test images too."""
    split = {r["image"]: r["split"] for r in map(json.loads, (data / "captions.jsonl").read_text().splitlines())}
    train = {(data / image).resolve() for image, of in split.items() if of == "train"}
    assert 0 < len(train) < len(split)
    images = training_images(config)
    pairs = training_pairs(config.model_copy(update={"n_pairs": 10**6}), images, ("existence",))
    found = {Path(pair.image).resolve() for pair in pairs}
    assert found <= train and len(found) > len(train) / 2
    everything = [pair for pair in read_pairs(data / "pairs.jsonl") if pair.attribute == "existence"]
    assert len(pairs) == sum(Path(pair.image).resolve() in train for pair in everything) < len(everything)
    assert len(training_pairs(config, images, ("existence",))) == config.n_pairs

    few = config.model_copy(update={"train_images": 5, "n_pairs": 10**6})
    first = {(data / image).resolve() for image in [image for image in split if split[image] == "train"][:5]}
    captions, claims = training_records(few, training_images(few))
    assert {Path(record.image).resolve() for record in captions} == first
    assert {Path(record.image).resolve() for record in claims} <= first
    assert {Path(pair.image).resolve() for pair in training_pairs(few, training_images(few), ("existence",))} <= first


def test_more_images_than_there_are_to_train_on_are_refused(config):
    with pytest.raises(DataFormatError, match=r"train_images is 1000, but .*captions\.jsonl has \d+ images"):
        training_images(config.model_copy(update={"train_images": 1000}))


def test_rates_are_chosen_and_scores_made_on_the_first_images_of_their_splits(config, folder, data, tmp_path):
    """The test split is not looked at before the rate is chosen."""
    split = {r["image"]: r["split"] for r in map(json.loads, (data / "captions.jsonl").read_text().splitlines())}
    few = config.model_copy(update={"score_images": 3})
    for of in ("val", "test"):
        first = {(data / image).resolve() for image in [image for image in split if split[image] == of][:3]}
        whole, found = scored_records(config, of), scored_records(few, of)
        assert {Path(record.image).resolve() for record in found} == first
        assert [r for r in whole if Path(r.image).resolve() in first] == list(found) and len(found) < len(whole)
    with pytest.raises(DataFormatError, match=r"score_images is 1000, but .* images of the split 'val'"):
        scored_records(config.model_copy(update={"score_images": 1000}), "val")
    made = [read_record(path) for path in (folder / "runs").iterdir()]
    assert {"test" in run for run in made} == {True, False}
    assert all(("test" in run) == ("interpolation" in run) and "val" in run for run in made)


@pytest.mark.slow
def test_a_study_that_was_stopped_ends_in_the_same_numbers(config, folder, tmp_path, monkeypatch):
    made = []

    def stop_at_the_third(task, run=study_runs._run):
        if len(made) == 2:
            raise KeyboardInterrupt
        made.append(task.run)
        return run(task)

    monkeypatch.setattr(study_runs, "_run", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        run_study(config, tmp_path / "out")
    monkeypatch.undo()
    times = {path.name: path.stat().st_mtime_ns for path in (tmp_path / "out" / "runs").iterdir()}
    assert len(times) == 2
    run_study(config, tmp_path / "out")
    for path in sorted((folder / "runs").iterdir()):
        found, again = (read_record(f / "runs" / path.name) for f in (folder, tmp_path / "out"))
        assert {**found, "seconds": 0} == {**again, "seconds": 0}
    result = read_study_result(tmp_path / "out")
    pd.testing.assert_frame_equal(result.table(), read_study_result(folder).table())


@pytest.mark.slow
def test_a_study_that_is_killed_again_and_again_ends_in_the_same_table(config, folder, tmp_path):
    """The command is killed as soon as one more file is there: plans, base, or a run."""
    options = {**config.model_dump(mode="json"), "data": str(config.data)}
    file, out = tmp_path / "study.yaml", tmp_path / "out"
    file.write_text(json.dumps(options))  # JSON is YAML
    command = [sys.executable, "-m", "tracescribe", "study", str(file), "-o", str(out), "--table", "csv"]
    kills = 0
    while True:
        before = files_of(out)
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
            while child.poll() is None and (kills >= 5 or files_of(out) <= before):
                time.sleep(0.01)
            if child.poll() is None:
                child.kill()  # SIGKILL
                kills += 1
                continue
            assert child.stdout is not None and child.returncode == 0
            printed = child.stdout.read()
        break
    assert kills == 5
    pd.testing.assert_frame_equal(read_study_result(out).table(), read_study_result(folder).table())
    assert read_study_result(folder).as_text("csv") in printed
    assert {path.name for path in files_of(out)} == {path.name for path in files_of(folder)}


def files_of(folder):
    return {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}


def test_the_curve_begins_at_the_base_and_ends_at_the_tuned_weights(folder):
    result = read_study_result(folder)
    one = result.curves[(result.curves["arm"] == "nast") & (result.curves["seed"] == 1)].set_index("share")
    assert one.index.tolist() == [0.0, 0.5, 1.0]
    assert one.loc[0.0, "claims"] == result.base["claims"]
    tuned = result.runs[(result.runs["arm"] == "nast") & (result.runs["seed"] == 1)].iloc[0]
    assert one.loc[1.0, "claims"] == tuned["claims"]


def test_data_may_be_moved_and_not_be_changed(config, folder, data, tmp_path):
    before = {path: path.read_bytes() for path in (folder / "runs").iterdir()}
    moved = shutil.copytree(data, tmp_path / "moved")
    assert run_study(config.model_copy(update={"data": moved}), folder) == folder
    assert before == {path: path.read_bytes() for path in (folder / "runs").iterdir()}
    with (moved / "claims.jsonl").open("a", encoding="utf-8") as handle:
        handle.write("\n")
    with pytest.raises(OutputError, match=r"begun with another .*claims\.jsonl"):
        run_study(config.model_copy(update={"data": moved}), folder)
    with pytest.raises(OutputError, match="begun with other weights of 'phantom'"):
        inputs = read_record(folder / "inputs.json")
        study_runs.write_record(folder / "inputs.json", {**inputs, "weights_sha256": "other"})
        run_study(config, folder)
    study_runs.write_record(folder / "inputs.json", inputs)


def test_data_that_changed_since_the_last_study_of_this_process_is_read_again(tmp_path):
    """It was kept by the folder's name: the second study trained and scored on data that were there no more."""
    from tracescribe.benchmark.phantom import build_phantom

    small = {"arms": ["uniform"], "rates": (1e-3,), "seeds": 1, "tuning_seeds": 1, "n_pairs": 4, "train": TRAIN}
    build_phantom(tmp_path / "data", 12, 0)
    run_study(StudyConfig(data=tmp_path / "data", **small), tmp_path / "one", progress=False)
    build_phantom(tmp_path / "data", 20, 0, overwrite=True)
    run_study(StudyConfig(data=tmp_path / "data", **small), tmp_path / "two", progress=False)
    build_phantom(tmp_path / "other", 20, 0)
    run_study(StudyConfig(data=tmp_path / "other", **small), tmp_path / "three", progress=False)
    one, two, three = (read_record(tmp_path / name / "base.json") for name in ("one", "two", "three"))
    assert two == three != one


def test_of_one_rate_nothing_is_tuned(config, tmp_path, monkeypatch):
    made = []

    def one_then_stop(task, run=study_runs._run):
        if len(made) in stops:
            raise KeyboardInterrupt
        made.append(task.run)
        return run(task)

    monkeypatch.setattr(study_runs, "_run", one_then_stop)
    single = config.model_copy(update={"rates": (1e-3,), "arms": {"front": config.arms["front"]}})
    stops = [0]
    with pytest.raises(KeyboardInterrupt):
        run_study(single, tmp_path / "out", progress=False)
    with pytest.raises(DataFormatError, match="no run is finished yet; run the study on"):
        read_study_result(tmp_path / "out")
    stops = []
    run_study(single, tmp_path / "out", progress=False)
    assert made == [study_runs.Run("front", 1e-3, seed) for seed in range(2)]
    assert set(read_study_result(tmp_path / "out").runs["rate"]) == {1e-3}


def test_a_study_of_a_version_that_knew_fewer_options_goes_on(config, folder):
    path = folder / "study.json"
    record = read_record(path)
    for options in record["config"]["arms"].values():
        del options["loss"]
    study_runs.write_record(path, record)
    before = {run: run.read_bytes() for run in (folder / "runs").iterdir()}
    run_study(config, folder)
    assert before == {run: run.read_bytes() for run in (folder / "runs").iterdir()}
    assert all(options["loss"] is None for options in read_record(path)["config"]["arms"].values())


def test_a_study_that_is_not_finished_shows_the_runs_that_are(folder, config, tmp_path):
    """Runs that rates were tuned by have no scores on the test split: they are not in the table, and not damaged."""
    part = tmp_path / "part"
    shutil.copytree(folder, part)
    whole = read_study_result(folder)
    for path in (part / "runs").iterdir():
        record = {key: value for key, value in read_record(path).items() if key not in ("test", "interpolation")}
        if path.name.startswith("front-"):
            study_runs.write_record(path, record)
    found = read_study_result(part)
    assert set(found.runs["arm"]) == {"nast"} == set(found.table()["arm"])
    kept = whole.runs[whole.runs["arm"] == "nast"].reset_index(drop=True)
    pd.testing.assert_frame_equal(found.runs, kept)
    for path in (part / "runs").glob("nast-*"):
        record = {key: value for key, value in read_record(path).items() if key not in ("test", "interpolation")}
        study_runs.write_record(path, record)
    with pytest.raises(DataFormatError, match="no run is finished yet; run the study on"):
        read_study_result(part)


def test_other_settings_and_damaged_runs_are_refused(config, folder, data, tmp_path):
    with pytest.raises(OutputError, match=r"other settings \(train\)"):
        run_study(config.model_copy(update={"train": {**TRAIN, "steps": 3}}), folder)
    with pytest.raises(OutputError, match=r"other settings \(arms\.front\)"):
        run_study(config.model_copy(update={"arms": {"front": PRESETS["front"]}}), folder)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="holds other files"):
        run_study(config, tmp_path / "mine")
    assert [p.name for p in (tmp_path / "mine").iterdir()] == ["notes.txt"]

    path = tmp_path / "run.json"
    content = json.loads(next((folder / "runs").glob("nast-*-0.json")).read_text())
    content["val"]["claims"] += 1
    path.write_text(json.dumps(content))
    with pytest.raises(DataFormatError, match="changed or damaged"):
        read_record(path)
    with pytest.raises(DataFormatError, match="holds no study"):
        read_study_result(tmp_path)


def test_arms_whose_files_would_lie_elsewhere_or_coincide_are_refused(data):
    for name in ("../../notes", "/tmp/x", ".hidden", "a/b", "", "x" * 61, "a\nb", 7):
        with pytest.raises(DataFormatError, match="an arm's name has up to 60 letters"):
            StudyConfig(data=data, arms={name: {"by": "uniform", "weighting": "uniform"}})
    with pytest.raises(DataFormatError, match="a rate is given twice"):
        StudyConfig(data=data, arms=["uniform"], rates=(1e-3, 1.0000001e-3))  # both would be uniform-0.001-0.json
    assert list(StudyConfig(data=data, arms={"nast beta=0.5": {"beta": 0.5}}).arms) == ["nast beta=0.5"]


def test_a_folder_of_other_files_is_refused_before_anything_is_written_there(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    monkeypatch.setattr(records, "check_growing_folder", lambda folder: pytest.fail("tried to write"))
    with pytest.raises(OutputError, match="holds other files and no study"):
        records.check_record_folder(tmp_path / "mine", "study.json", what="study")
    with pytest.raises(OutputError, match="'/' holds other files and no study"):
        records.check_record_folder("/", "study.json", what="study")
    monkeypatch.undo()
    left = tmp_path / "study" / f".tracescribe-{'0' * 16}.tmp"  # of a process that was killed at its first file
    left.parent.mkdir()
    left.write_text("{")
    assert records.check_record_folder(left.parent, "study.json", what="study") == left.parent
    assert not list((tmp_path / "study").iterdir())


# -- the statistics ------------------------------------------------------------------------------------------------


def synthetic(gain_of, n_seeds=6, base=None):
    """Runs of arms whose claim and negated accuracy are given by ``gain_of[arm]``, one number per seed."""
    base = base or {
        "claims": 20.0,
        "negated": 30.0,
        "affirmative": 98.0,
        "r1": 60.0,
        "r5": 80.0,
        "gap": 68.0,
        "both_right": 30.0,
        "preservation": 1.0,
    }
    runs, curves = [], []
    for arm, gains in gain_of.items():
        for seed in range(n_seeds):
            end = {"claims": gains[seed], "negated": gains[seed], "affirmative": 94.0, "r1": 58.0}
            runs.append({"arm": arm, "seed": seed, "rate": 1e-3, **base, **end, "diverged": False})
            for share in (0.0, 0.5, 1.0):
                between = {n: base[n] + share * (end[n] - base[n]) for n in end}
                curves.append({"arm": arm, "seed": seed, "share": share, **between})
    config = StudyConfig(data=".", arms=["uniform", "nast"])
    return StudyResult(config, pd.DataFrame(runs), base, pd.DataFrame(curves))


def test_differences_are_paired_by_seed_and_corrected_for_the_number_of_arms():
    from scipy import stats

    rng = np.random.default_rng(0)
    uniform = 60 + 10 * rng.normal(size=6)
    nast, front = uniform + 1 + 0.2 * rng.normal(size=6), uniform + 5 * rng.normal(size=6)
    table = synthetic({"uniform": uniform, "nast": nast, "front": front}).table().set_index("arm")
    for arm, values in (("nast", nast), ("front", front)):
        assert table.loc[arm, "p"] == pytest.approx(stats.ttest_rel(values, uniform).pvalue)
        interval = stats.ttest_rel(values, uniform).confidence_interval()
        np.testing.assert_allclose(table.loc[arm, ["lo", "hi"]].astype(float), interval)
    assert np.isnan(table.loc["uniform", "p"])
    assert table.loc["nast", "p_holm"] == pytest.approx(2 * table.loc["nast", "p"])
    assert table.loc["front", "p_holm"] == pytest.approx(table.loc["front", "p"])


def test_arms_are_compared_where_they_have_lost_the_same():
    # affirmative accuracy falls by 4 and R@1 by 2: half of the way loses 2 points
    result = synthetic({"uniform": np.full(6, 60.0), "nast": np.full(6, 70.0)})
    equal = result.at_equal_preservation()
    np.testing.assert_allclose(equal["share"], 0.5)
    np.testing.assert_allclose(equal[equal["arm"] == "nast"]["gain"], ((20 + 70) / 2 + (30 + 70) / 2) / 2)
    np.testing.assert_allclose(result.at_equal_preservation(allowed=10)["share"], 1.0)


def test_the_figure_has_every_arm_with_its_t_interval_and_the_untrained_model():
    from scipy import stats

    gains = {"uniform": 60 + np.arange(6.0), "nast": 70 - np.arange(6.0)}
    shown = synthetic(gains).figure("affirmative").shown
    assert shown.names == ("untrained", "uniform", "nast")
    interval = stats.ttest_1samp(gains["uniform"], 0).confidence_interval()
    np.testing.assert_allclose(shown.y[1], [62.5, interval.low, interval.high])
    np.testing.assert_allclose(shown.x[:, 0], [98, 94, 94])
    np.testing.assert_allclose(shown.y[0], [25, 25, 25])


def test_the_update_table_tells_where_weights_changed():
    result = synthetic({"uniform": np.full(2, 60.0)}, n_seeds=2)
    for name, values in {"top3_cte": [0.4, 0.6], "top3_size": [0.5, 0.5], "effective_layers": [6, 7]}.items():
        result.runs[f"update_{name}"] = values
    header, row = result.as_text("csv", of="update").splitlines()
    assert header == "arm,seeds,top 3 by CTE,top 3 by size,effective layers"
    assert row == "uniform,2,50.0 ± 14.1,50.0 ± 0.0,6.50 ± 0.71"


def test_collapse_is_flagged():
    result = synthetic({"uniform": np.full(6, 60.0)})
    result.runs.loc[0, "affirmative"] = 27.0
    assert result.table()["collapsed"].tolist() == [1]
    assert "collapsed: 1" in result.as_text("markdown")


def test_holm_agrees_with_its_definition():
    p = np.array([0.04, 0.001, 0.03, 0.5])
    np.testing.assert_allclose(holm(p), [0.09, 0.004, 0.09, 0.5])
    assert holm(np.array([0.9, 0.8])).max() == 1


def test_crossing_takes_the_first_loss_beyond_what_is_allowed():
    share = np.array([0, 0.25, 0.5, 1])
    assert crossing(share, np.array([0, 3, 1, 9]), 2) == pytest.approx(0.25 * 2 / 3)
    assert crossing(share, np.array([0, -1, 0, 2]), 2) == 1
    assert crossing(share, np.array([0, 8, 8, 8]), 0) == 0


def test_a_study_of_missing_data_leaves_no_folder(config, tmp_path):
    for data in (tmp_path, Path("9" * 5000)):
        with pytest.raises(DataFormatError, match=r"captions\.jsonl'? is missing; `tracescribe build phantom` makes"):
            run_study(config.model_copy(update={"data": data}), tmp_path / "out")
    with pytest.raises(ArgumentError, match="notify must be a function, not None"):
        run_study(config, tmp_path / "out", notify=None)
    assert not (tmp_path / "out").exists()


def test_a_folder_name_that_no_system_has_is_no_study():
    with pytest.raises(DataFormatError, match="holds no study") as told:
        read_study_result("9" * 5000)
    assert len(str(told.value)) < 400


@pytest.mark.parametrize(
    ("odd", "said"),
    [
        ({"config": {"data": "x", "arms": 3}}, "arms must be a list of names"),
        ({"config": {"data": "x", "arms": [[1]]}}, r"an arm's name has up to 60 letters, .* not \[1\]"),
        ({"config": None}, "instance of StudyConfig"),
        ({}, r"holds what no study writes \(KeyError: 'config'\)"),
    ],
)
def test_a_study_with_what_no_study_writes_is_said_in_a_sentence(odd, said, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    records.write_record(tmp_path / "out" / "study.json", odd)  # its checksum fits
    with pytest.raises(DataFormatError, match=said):
        read_study_result(tmp_path / "out")


@pytest.mark.parametrize("odd", [None, "x", [], {}, True, 1e9], ids=str)
def test_a_score_that_is_no_number_is_said_in_a_sentence(odd, folder, tmp_path):
    for file in ("base.json", "runs/nast-0.001-0.json"):
        out = tmp_path / file.replace("/", "-")
        shutil.copytree(folder, out)
        content = records.read_record(out / file)
        content["test"]["gap"] = odd
        records.write_record(out / file, content)  # its checksum fits
        if file != "base.json":  # so that this run is read
            for path in (out / "runs").glob("nast-0.01-*.json"):
                worse = records.read_record(path)
                worse["val"].update(claims=-100.0)
                records.write_record(path, worse)
        with pytest.raises(DataFormatError, match=r"holds what no study writes .*gap is "):
            read_study_result(out)


@pytest.mark.parametrize("name", ["claims", "negated", "affirmative", "gap", "both_right", "r1", "preservation"])
def test_a_score_that_is_missing_is_said_and_no_gap_in_the_table(name, folder, tmp_path):
    shutil.copytree(folder, tmp_path / "out")
    content = records.read_record(tmp_path / "out" / "base.json")
    del content["test"][name]
    records.write_record(tmp_path / "out" / "base.json", content)  # its checksum fits
    with pytest.raises(DataFormatError, match=rf"holds what no study writes \(KeyError: '{name}'\)"):
        read_study_result(tmp_path / "out")


# -- the file ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "path", sorted((Path(__file__).parents[2] / "examples").glob("study_*.yaml")), ids=lambda p: p.stem
)
def test_the_studies_of_the_documentation_are_read(path):
    config = read_study(path)
    assert {"uniform", "nast", "permuted", "inverse"} <= set(config.arms)
    films = (
        "../few" if path.stem == "study_few_minilm" else "../films"
    )  # a part of them, which the file says how to make
    assert config.data == path.parent / films and max(config.rates) <= 0.024


def test_a_study_file_names_presets_or_spells_arms_out(tmp_path):
    file = tmp_path / "study.yaml"
    file.write_text("data: films\narms:\n  uniform:\n  mine: {by: front, k: 3, weighting: lr}\ntrain: {steps: 5}\n")
    config = read_study(file)
    assert config.data == tmp_path / "films"
    assert config.arms["uniform"] == PRESETS["uniform"]
    assert (config.arms["mine"].k, config.arms["mine"].weighting) == (3, "lr")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("arms: [uniform]", "field 'data'"),
        ("data: d\narms: [unifrom]", "no arm 'unifrom'; known are uniform, nast"),
        ("data: d\narms: {a: {by: front}}", "the selector 'front' needs k"),
        ("data: d\narms: {a: {bye: front}}", "bye"),
        ("data: d\nrate: [1]", "'rate'"),
        ("data: d\nrates: [0]", "rates"),
        ("data: d\nrates: [0.1, 0.1]", "given twice"),
        ("data: d\nseeds: 1\ntuning_seeds: 2", "more than seeds"),
        ("data: d\ntrain: {lr: 1}", "set by the study itself"),
        ("data: d\ntrain: {stepps: 1}", "stepps"),
        ("data: d\narms: 3", "list of names"),
        ("- data", "expected fields"),
        ("data: [", "not YAML"),
        ("data: a\ndata: b", "not YAML: a key is given twice"),
        ("data: &a d\nmodel: *a", "not YAML: aliases"),
    ],
)
def test_a_bad_file_is_refused_by_field(tmp_path, text, sentence):
    file = tmp_path / "study.yaml"
    file.write_text(text)
    with pytest.raises(DataFormatError, match=sentence):
        read_study(file)


def test_missing_data_is_said_before_anything_is_trained(tmp_path):
    with pytest.raises(DataFormatError, match=r"captions\.jsonl' is missing"):
        run_study(StudyConfig(data=tmp_path / "nowhere", train=TRAIN), tmp_path / "out")
