"""Plans as files: they come back as they were, and damage is named by file and field."""

from __future__ import annotations

import json

import numpy as np
import pytest
from builders import PROFILE, profile_with_draws, synthetic_trace

import tracescribe as ts
from tracescribe.errors import DataFormatError, OutputError


def test_saved_plan_is_the_plan(tmp_path):
    draws = PROFILE + np.random.default_rng(0).normal(0, 0.05, size=(50, 6))
    plan = ts.prescribe(profile_with_draws(draws), beta=1.7).with_budget("mean")
    plan.save(tmp_path / "plan.json")
    again = ts.load_plan(tmp_path / "plan.json")
    np.testing.assert_array_equal(again.alpha, plan.alpha)
    np.testing.assert_array_equal(again.multipliers, plan.multipliers)
    np.testing.assert_array_equal(again.ci, plan.ci)
    assert (again.beta, again.stability, again.warnings) == (plan.beta, plan.stability, plan.warnings)
    assert again.provenance == json.loads(json.dumps(plan.provenance))


def test_the_agreement_of_parts_is_saved_and_a_plan_of_before_it_is_read(tmp_path):
    path = tmp_path / "plan.json"
    plan = ts.prescribe(synthetic_trace(n_pairs=40, n_layers=6))
    plan.save(path)
    assert plan.agreement is not None
    assert ts.load_plan(path).agreement == plan.agreement
    content = json.loads(path.read_text(encoding="utf-8"))
    older = {name: value for name, value in content.items() if name not in ("agreement", "sha256")}
    path.write_text(json.dumps(older), encoding="utf-8")
    assert ts.load_plan(path).agreement is None
    path.write_text(json.dumps(older | {"agreement": {"halves": 1.5}}), encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"plan\.json: agreement: correlations must lie within -1\.\.1"):
        ts.load_plan(path)


def test_file_follows_its_published_schema(tmp_path):
    schema = ts.finetune.plan_schema()
    ts.prescribe(PROFILE).save(tmp_path / "plan.json")
    content = json.loads((tmp_path / "plan.json").read_text(encoding="utf-8"))
    assert set(schema["required"]) <= set(content) <= set(schema["properties"])


def stability(**changes):
    return {"argmax_share": 1.0, "spearman": 1.0, "top_overlap": 1.0, "top_k": 3, "n_draws": 9, **changes}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda c: c.update(format="tracescribe.trace/1"), "format"),
        (lambda c: c.update(beta=-1), "beta"),
        (lambda c: c.update(alpha=c["alpha"][:-1]), "multipliers for"),
        (lambda c: c.update(alpha=[0.5] * 5), "multipliers are not"),
        (lambda c: c.update(weights=[1]), "weights"),
        (lambda c: c.pop("alpha"), "alpha"),
        (lambda c: c["alpha"].__setitem__(0, "much"), "alpha.0"),
        (lambda c: c["alpha"].__setitem__(0, "0.5"), "alpha.0"),
        (lambda c: c["alpha"].__setitem__(0, float("nan")), "NaN is no number"),
        (lambda c: c["alpha"].__setitem__(0, -0.1), "negative"),
        (lambda c: c.update(alpha=[0.0] * 5, multipliers=[0.0] * 5), "every multiplier is 0"),
        (lambda c: c.update(beta=True), "beta"),
        (lambda c: c.update(beta="1"), "beta"),
        (lambda c: c.update(scale=float("inf")), "Infinity is no number"),
        (lambda c: c.update(ci=[[0.5, 0.4]] * 5), "block 1 has its lower bound 0.5 above the upper 0.4"),
        (lambda c: c.update(ci=[[0.5, 0.6]] * 4), "intervals for"),
        (lambda c: c.update(stability=stability(argmax_share=1.1)), "shares must lie within"),
        (lambda c: c.update(stability=stability(top_k=9)), "top_k must lie within 1..5"),
        (lambda c: c.update(stability=stability(n_draws="many")), "stability.n_draws"),
        (lambda c: c.update(sha256="0" * 64), "changed or damaged after it was saved"),
        (lambda c: c["provenance"].update(seed=7), "changed or damaged after it was saved"),
        (lambda c: c["warnings"].pop(), "changed or damaged after it was saved"),
    ],
)
def test_damaged_plan_names_file_and_field(tmp_path, change, expected):
    path = tmp_path / "plan.json"
    ts.prescribe(PROFILE).save(path)
    content = json.loads(path.read_text(encoding="utf-8"))
    change(content)
    path.write_text(json.dumps(content), encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"plan\.json") as caught:
        ts.load_plan(path)
    assert expected in str(caught.value)


def test_any_flipped_bit_is_found(tmp_path):
    path = tmp_path / "plan.json"
    plan = ts.prescribe(PROFILE)
    plan.save(path)
    good = path.read_bytes()
    generator = np.random.default_rng(0)
    for place, bit in zip(generator.integers(len(good), size=200), generator.integers(8, size=200), strict=True):
        path.write_bytes(good[:place] + bytes([good[place] ^ (1 << bit)]) + good[place + 1 :])
        try:
            again = ts.load_plan(path)
        except DataFormatError:
            continue
        # what is left: white space that became other white space
        np.testing.assert_array_equal(again.alpha, plan.alpha)
        assert (again.beta, again.warnings, again.provenance) == (plan.beta, plan.warnings, plan.provenance)


def test_a_plan_written_by_hand_needs_no_checksum(tmp_path):
    path = tmp_path / "plan.json"
    path.write_text('{"format": "tracescribe.plan/1", "alpha": [1, 0.5], "beta": 1, "multipliers": [1, 0.5]}')
    plan = ts.load_plan(path)
    assert plan.alpha.tolist() == [1, 0.5]
    assert plan.provenance["checksum"].startswith("none in the file")
    plan.save(path)  # with a checksum, and the note that its first file had none
    assert ts.load_plan(path).provenance == plan.provenance
    path.write_text('{"format": "tracescribe.plan/1", "alpha": [1, 0.5], "alpha": [1, 0], "beta": 1}')
    with pytest.raises(DataFormatError, match="field 'alpha' is given twice"):
        ts.load_plan(path)


def test_what_is_no_plan_file(tmp_path):
    with pytest.raises(DataFormatError, match="no such plan file"):
        ts.load_plan(tmp_path)
    path = tmp_path / "big.json"
    with path.open("wb") as file:
        file.truncate(1 << 27)  # sparse
    with pytest.raises(DataFormatError, match="at most 67,108,864 are read"):
        ts.load_plan(path)


def test_truncated_or_missing_plan(tmp_path):
    path = tmp_path / "plan.json"
    ts.prescribe(PROFILE).save(path)
    path.write_text(path.read_text(encoding="utf-8")[:60], encoding="utf-8")
    with pytest.raises(DataFormatError, match="not JSON"):
        ts.load_plan(path)
    with pytest.raises(DataFormatError, match="no such plan file"):
        ts.load_plan(tmp_path / "none.json")
    path.write_text("[" * 100_000, encoding="utf-8")
    with pytest.raises(DataFormatError, match="not JSON"):
        ts.load_plan(path)


def test_a_plan_saved_by_an_editor_that_marks_utf8(tmp_path):
    path = tmp_path / "plan.json"
    ts.prescribe(PROFILE).save(path)
    path.write_bytes(b"\xef\xbb\xbf" + path.read_bytes())
    assert ts.load_plan(path).alpha.max() == 1


def test_unwritable_path_leaves_nothing(tmp_path):
    with pytest.raises(OutputError):
        ts.prescribe(PROFILE).save(tmp_path / "missing" / "plan.json")
    assert list(tmp_path.iterdir()) == []


def test_a_saved_plan_of_a_trace_comes_back(tmp_path):
    plan = ts.prescribe(synthetic_trace())
    plan.save(tmp_path / "plan.json")
    assert ts.load_plan(tmp_path / "plan.json").provenance["trace"] == plan.provenance["trace"]
