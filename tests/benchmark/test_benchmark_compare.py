"""Comparisons: tests and intervals beside independent calculations, and tables in the form of the paper's."""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from itemfiles import items
from test_benchmark_protocols import PROTOCOLS, mcq_record

from tracescribe.benchmark import CaptionRecord, ClaimRecord, compare, evaluate
from tracescribe.benchmark.metrics import mcnemar, paired_difference
from tracescribe.errors import DataFormatError
from tracescribe.tracer import Pair


def exact_mcnemar(b: int, c: int) -> float:
    """Two-sided exact binomial p of b discordant pairs one way and c the other: the sum of all that are no likelier."""
    n = b + c
    chances = [math.comb(n, k) * 0.5**n for k in range(n + 1)]
    return min(1.0, sum(chance for chance in chances if chance <= chances[b] * (1 + 1e-9)))


@pytest.mark.parametrize("seed", range(6))
def test_mcnemar_is_the_exact_binomial_test(seed: int) -> None:
    rng = np.random.default_rng(seed)
    one, other = rng.integers(2, size=(2, 60)).astype(float)
    b, c = int(((one == 1) & (other == 0)).sum()), int(((one == 0) & (other == 1)).sum())
    assert mcnemar(one, other) == pytest.approx(exact_mcnemar(b, c))


def test_q_is_the_step_up_procedure_of_benjamini_and_hochberg(tmp_path: Path) -> None:
    rng = np.random.default_rng(1)
    n, kinds = 300, [f"kind {i % 7}" for i in range(300)]
    base = rng.integers(2, size=n).astype(float)
    other = np.where(rng.random(n) < [0.1 + 0.1 * (i % 7) for i in range(n)], 1.0, base)
    groups = [str(i) for i in range(n)]
    paths = [
        items(tmp_path / f"{name}.csv", {"claims": hits}, groups, attribute=kinds)
        for name, hits in (("a", base), ("b", other))
    ]
    tested = [one for one in compare(*paths, n_boot=50).differences if one.p is not None]
    assert len(tested) == 8  # all items, and seven kinds
    ranked = sorted((one.p or 0.0) for one in tested)
    for one in tested:
        expected = min(min(1.0, p * len(ranked) / (rank + 1)) for rank, p in enumerate(ranked) if p >= (one.p or 0.0))
        assert one.q == pytest.approx(expected)


@pytest.mark.parametrize("per_group", [1, 4])
def test_the_paired_interval_is_as_wide_as_the_cluster_robust_one(per_group: int) -> None:
    """The sandwich variance of a mean over clusters (Liang and Zeger 1986), with the normal quantile.

    Bootstrap percentiles with 4000 draws scatter by about 3 % of the width; 120 clusters leave the t quantile within
    1 % of the normal one. 10 % holds both.
    """
    rng = np.random.default_rng(2)
    n_groups = 120
    group = np.repeat(np.arange(n_groups), per_group)
    shift = rng.normal(size=n_groups)[group]
    one = (rng.normal(size=group.size) + shift > -0.5).astype(float)
    other = (rng.normal(size=group.size) + shift > 0).astype(float)
    difference = one - other
    sums = np.bincount(group, difference - difference.mean())
    error = math.sqrt(n_groups / (n_groups - 1) * float((sums**2).sum())) / group.size
    found = paired_difference(one, other, [str(g) for g in group], n_boot=4000)
    assert found.value == pytest.approx(100 * difference.mean())
    assert found.hi - found.lo == pytest.approx(100 * 2 * 1.96 * error, rel=0.1)


class Seeing:
    """Reads which of the texts is right off an index in it, with some noise; deaf to every ``deaf``-th negation."""

    def __init__(self, noise: float, deaf: int, seed: int) -> None:
        self.rng, self.noise, self.deaf = np.random.default_rng(seed), noise, deaf

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return np.ones((len(images), 1))

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        right = np.array([text.endswith((" 1", "+")) for text in texts], dtype=float)
        deaf = np.array([text.startswith("negation") and int(text.split()[1]) % self.deaf == 0 for text in texts])
        return (right * ~deaf + self.noise * self.rng.normal(size=len(texts)))[:, None]


def scored(noise: float, deaf: int, seed: int) -> Any:
    records: list[Any] = [mcq_record(i) for i in range(80)]
    records += [
        ClaimRecord(
            id=str(i),
            image=f"{i}a",
            group=f"p{i}",
            claims=[f"claim {i} +", f"claim {i} -"],
            label=0,
            attribute="side",
            polarity="affirmative" if i % 2 else "negated",
        )
        for i in range(60)
    ]
    records += [PROTOCOLS["retrieval in pools"](i) for i in range(20)]
    return evaluate(Seeing(noise, deaf, seed), records, n_boot=50)


@pytest.fixture(scope="module")
def models() -> tuple[Any, Any]:
    return scored(0.4, 2, 0), scored(0.1, 10**6, 1)


def test_the_gap_is_paired_and_compared_on_the_same_items(models: tuple[Any, Any]) -> None:
    found = compare(*models, names=("CLIP", "NAST"), n_boot=200)
    for gap, model in zip(found.gaps, models, strict=True):
        fine, bad = (model.items[f"mcq_{wording}"].hits for wording in ("affirmative", "negated"))
        assert (gap.affirmative, gap.negated) == pytest.approx((100 * fine.mean(), 100 * bad.mean()))
        assert gap.gap.value == pytest.approx(100 * (fine - bad).mean())
        assert gap.gap.lo <= gap.gap.value <= gap.gap.hi
        assert gap.both_right == pytest.approx(100 * (fine * bad).mean())
        assert gap.p == pytest.approx(mcnemar(fine, bad))
    assert compare(*models, n_boot=50).gaps[0].gap == models[0].gap  # the interval of the evaluation itself
    first, second = found.gaps
    assert first.difference is None and second.difference is not None
    assert second.difference.value == pytest.approx(second.gap.value - first.gap.value)
    assert second.difference.hi < 0  # the second model's gap is smaller
    assert "NAST: gap" in found.summary()


def test_tables_have_the_papers_columns_in_every_format(models: tuple[Any, Any]) -> None:
    found = compare(*models, names=("CLIP", "NAST_1"), n_boot=50)
    header = {
        "negation": ["model", "R@1", "R@5", "claim accuracy"],
        "affirmative": ["model", "R@1", "R@5", "claim accuracy"],
        "gap": ["model", "affirmative", "negated", "gap", "both right"],
    }
    for layout, columns in header.items():
        lines = found.table("csv", layout=layout).splitlines()  # type: ignore[arg-type]
        assert lines[0] == ",".join(columns)
        assert [line.split(",")[0] for line in lines[1:]] == ["CLIP", "NAST_1"]
        assert "–" not in "".join(lines)
        latex = found.table("latex", layout=layout)  # type: ignore[arg-type]
        assert latex.startswith(r"\begin{tabular}{l" + "r" * (len(columns) - 1) + "}") and r"NAST\_1" in latex
        assert found.table("markdown", layout=layout).startswith(f"| {' | '.join(columns)} |")  # type: ignore[arg-type]
    negation, affirmative = (
        found.table("csv", layout=x).splitlines()[2].split(",") for x in ("negation", "affirmative")
    )  # type: ignore[arg-type]
    tasks = models[1].tasks
    assert negation[1].rstrip("*") == f"{tasks['image_to_text_r1_captions'].accuracy.value:.1f}"
    assert affirmative[1].rstrip("*") == f"{tasks['image_to_text_r1_affirmative'].accuracy.value:.1f}"
    assert affirmative[3].rstrip("*") == f"{tasks['claims'].by['polarity']['affirmative']:.1f}"


def test_a_table_of_what_was_not_scored_says_what_it_needs(tmp_path: Path) -> None:
    paths = [items(tmp_path / f"{name}.csv", {"pairs": [1.0, 0.0] * 6}, [str(i) for i in range(12)]) for name in "ab"]
    found = compare(*paths, n_boot=20)
    with pytest.raises(DataFormatError, match="needs image_to_text_r1_captions, image_to_text_r5_captions, claims"):
        found.table(layout="negation")
    with pytest.raises(DataFormatError, match="multiple choice in both wordings"):
        found.table(layout="gap")
    with pytest.raises(DataFormatError, match="unknown table layout 'table 9'"):
        found.table(layout="table 9")  # type: ignore[arg-type]


def test_items_hold_every_options_score(models: tuple[Any, Any], tmp_path: Path) -> None:
    frame = models[0].items_frame()
    row = frame[frame["task"] == "mcq_negated"].iloc[3]
    scores = json.loads(row["scores"])
    assert len(scores) == 4 and row["gold"] == 0
    assert row["margin"] == pytest.approx(scores[0] - max(scores[1:]), abs=1e-6)
    assert frame[frame["task"].str.startswith("image_to_text")]["scores"].isna().all()
    paths = [model.save_items(tmp_path / f"{name}.parquet") for name, model in zip("ab", models, strict=True)]
    assert not {one.subset for one in compare(*paths, n_boot=20).differences} & {"scores", "gold", "options"}


def test_files_of_one_name_are_told_apart_by_their_folders(models: tuple[Any, Any], tmp_path: Path) -> None:
    paths = []
    for model, folder in zip((*models, models[0]), ("clip/a", "nast/a", "nast/b"), strict=True):
        (tmp_path / folder).mkdir(parents=True)
        paths.append(model.save_items(tmp_path / folder / "items.csv"))
    assert compare(*paths[:2], n_boot=20, subsets=False).models == ("clip/a/items", "nast/a/items")
    assert compare(paths[0], paths[2], n_boot=20, subsets=False).models == ("a/items", "b/items")
    assert compare(paths[0], models[1], n_boot=20, subsets=False).models == ("items", "model 2")
    with pytest.raises(DataFormatError, match="is given twice"):
        compare(paths[0], paths[0])
    for other in ({}, [], None, 3):  # a dict has items too
        with pytest.raises(DataFormatError, match="an evaluation, or the path of its items, is needed, not"):
            compare(paths[0], other)  # type: ignore[arg-type]


NAMES = ["NA", "None", "nan", "null", "a\rb", "a\nb", "1.0", "'-1", 'é, "q"', "=1+1", "N/A", "x; y"]


def named(seed: int, kinds: Sequence[str] = ("NA", "1", "none"), options: int = 3) -> Any:
    """Claims whose ids, groups and attributes are texts that parsers of tables take for something else."""
    records = [
        ClaimRecord(
            id=f"{NAMES[i % 12]}{'' if i < 12 else i}",
            image=f"{i}",
            group=NAMES[i % 12],
            claims=[f"{'no ' * (k == i % options) * (i % 2)}claim {i} {k}" for k in range(options)],
            label=i % options,
            attribute=kinds[i % len(kinds)],
        )
        for i in range(36)
    ]
    records += [PROTOCOLS["retrieval in pools"](i) for i in range(8)]  # which have no options: empty cells
    return evaluate(Seeing(0.5, 1, seed), records, n_boot=20)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_names_go_through_files_as_they_are(tmp_path: Path, suffix: str) -> None:
    one, other = named(0), named(1)
    files = [model.save_items(tmp_path / f"{name}{suffix}") for name, model in (("a", one), ("b", other))]
    expected = compare(one, other, names=("a", "b"), n_boot=20)
    for given in (files, (one, files[1]), (files[0], other)):
        found = compare(*given, names=("a", "b"), n_boot=20)
        # rows of a file may be summed in another order
        pd.testing.assert_frame_equal(found.to_frame(), expected.to_frame(), rtol=1e-13)
        assert found.unpaired == 0
    values = {(row.subset, row.value) for row in expected.differences}
    assert {("attribute", "NA"), ("attribute", "none"), ("attribute", "1"), ("negations", "1")} <= values


def test_models_that_were_scored_on_partly_other_items_are_compared_on_the_common_ones(tmp_path: Path) -> None:
    groups = [f"g{i // 2}" for i in range(12)]
    rng = np.random.default_rng(0)
    hits = rng.integers(2, size=(3, 12)).astype(float)
    frames = [items(tmp_path / f"{name}.csv", {"claims": row}, groups) for name, row in zip("abc", hits, strict=True)]
    ranges = (range(9), range(3, 12), range(1, 12))
    for path, kept in zip(frames, ranges, strict=True):
        lines = path.read_text().splitlines()
        path.write_text("\n".join([lines[0], *(lines[1 + i] for i in reversed(kept))]) + "\n")  # in another order
    found = compare(*frames, n_boot=50)
    assert found.unpaired == 6 and {one.n for one in found.differences} == {6}
    for number, one in enumerate(found.differences):
        assert one.accuracy.value == pytest.approx(100 * hits[number, 3:9].mean())
        if number:
            assert one.difference is not None
            assert one.difference.value == pytest.approx(100 * (hits[number, 3:9] - hits[0, 3:9]).mean())
            assert one.p == pytest.approx(mcnemar(hits[number, 3:9], hits[0, 3:9]))


def test_one_item_and_ties_alone_are_compared_without_a_claim(tmp_path: Path) -> None:
    one = [items(tmp_path / f"{name}.csv", {"claims": [hit]}, ["g"]) for name, hit in (("a", 0.0), ("b", 1.0))]
    (_, found) = compare(*one).differences
    assert (found.n, found.p, found.q) == (1, 1.0, 1.0)
    assert found.difference is not None and found.difference.value == 100 and math.isnan(found.difference.lo)
    assert "100.0 pp on 1 item," in compare(*one).summary()
    assert compare(*one).plot(tmp_path / "one.pdf").read_bytes()[:4] == b"%PDF"
    groups = [str(i) for i in range(30)]
    ties = [items(tmp_path / f"{name}.csv", {"claims": [0.25] * 30}, groups) for name in "cd"]
    (_, found) = compare(*ties, n_boot=50).differences
    assert found.difference is not None
    assert (found.difference.value, found.difference.lo, found.difference.hi, found.p) == (0, 0, 0, 1)


def test_items_of_one_name_must_be_the_same_question() -> None:
    """Two files that number their items: the same images, other options."""
    base = named(0)
    with pytest.raises(DataFormatError, match=r"of claims has the chance 0\.333\d* for a and 0\.25 for b: these are"):
        compare(base, named(0, options=4), names=("a", "b"))
    records = [
        ClaimRecord(id=str(i), image=f"{i}", group=str(i), claims=["a", "b"], label=i % 2, attribute="x")
        for i in range(4)
    ]
    turned = [record.model_copy(update={"label": 1 - record.label}) for record in records]
    two = [evaluate(Seeing(0.5, 1, 0), some, n_boot=20) for some in (records, turned)]
    with pytest.raises(DataFormatError, match=r"item '0' of claims has the right option 0 for a and 1 for b"):
        compare(*two, names=("a", "b"))


def test_items_keep_their_names_where_the_images_of_others_are_missing() -> None:
    """Questions and pairs without an id are named by their place: of the source, not of what could be scored."""
    records: list[Any] = [mcq_record(i) for i in range(12)]
    records += [Pair(correct=f"pair {i} +", foil=f"pair {i} -", image=f"{i}", group=f"g{i}") for i in range(6)]
    for number, record in enumerate(records[:12]):  # three questions per study, each in words of its own
        renamed = {"study_id": f"s{number // 3}", "group": f"p{number // 3}", "image": f"film {number // 3}"}
        records[number] = record.model_copy(update=renamed)
    partly = [
        record.model_copy(update={"image": None}) if record.image in ("film 1", "2") else record for record in records
    ]
    one, other = (evaluate(Seeing(0.5, 1, seed), some, n_boot=20) for seed, some in ((0, records), (1, partly)))
    found = compare(one, other, n_boot=20)
    assert {row.task: row.n for row in found.differences} == {"mcq_affirmative": 9, "mcq_negated": 9, "pairs": 5}
    assert found.unpaired == 7
    for task, scored in other.items.items():
        of_one = dict(zip(one.items[task].ids, one.items[task].groups, strict=True))
        assert all(of_one[name] == group for name, group in zip(scored.ids, scored.groups, strict=True))


def test_retrieval_among_other_candidates_is_not_compared(tmp_path: Path) -> None:
    """Of one model, R@1 in pools of another seed differed by points on items of the same names."""
    records = [
        CaptionRecord(id=f"c{i}", image=f"image {i}", group=f"g{i}", caption=f"no {i}", affirmative=f"text {i}",
                      states={"finding": state}, facts={"finding": state})
        for i, state in enumerate(["present", "absent"] * 20)
    ]  # fmt: skip
    one, other = (evaluate(Seeing(0.5, 1, 0), records, n_boot=20, seed=seed, pool=8) for seed in (0, 1))
    with pytest.raises(DataFormatError, match=r"rank other candidates for every query.*one seed and one pool size"):
        compare(one, other)
    again = evaluate(Seeing(0.5, 1, 1), records, n_boot=20, seed=0, pool=8)
    files = [scored.save_items(tmp_path / f"{name}.csv") for name, scored in (("one", one), ("again", again))]
    found = compare(*files, n_boot=20)
    assert found.unpaired == 0 and {row.n for row in found.differences} == {40}
    assert found.differences == compare(one, again, names=found.models, n_boot=20).differences


def test_labels_of_every_file_are_subsets_and_must_agree(tmp_path: Path) -> None:
    groups, kinds = [f"g{i}" for i in range(40)], ["left", "right"] * 20
    rng = np.random.default_rng(0)
    one, other = rng.integers(2, size=(2, 40)).astype(float)
    plain = items(tmp_path / "plain.csv", {"claims": one}, groups)
    known = items(tmp_path / "known.csv", {"claims": other}, groups, side=kinds)
    partly = items(tmp_path / "partly.csv", {"claims": other}, groups, side=[*kinds[:20], *([""] * 20)])
    turned = items(tmp_path / "turned.csv", {"claims": other}, groups, side=kinds[::-1])
    for pair in ((known, plain), (plain, known), (partly, known), (known, partly)):
        found = compare(*pair, n_boot=20)
        assert {(row.subset, row.value): row.n for row in found.differences} == {
            ("all items", "all items"): 40,
            ("side", "left"): 20,
            ("side", "right"): 20,
        }
    with pytest.raises(DataFormatError, match=r"item '0' of claims has the side 'left' for known and 'right' for turn"):
        compare(known, turned)
    with pytest.raises(DataFormatError, match=r"other items, or 'side' is not of the items: remove that column"):
        compare(plain, known, turned)


def test_files_that_differ_in_their_ending_alone_are_told_apart_by_it(tmp_path: Path) -> None:
    files = [named(seed).save_items(tmp_path / f"clip.{ending}") for seed, ending in enumerate(("csv", "parquet"))]
    assert compare(*files, n_boot=20, subsets=False).models == ("clip.csv", "clip.parquet")


Rows = list[list[str]]


def edit(name: str, value: str) -> Callable[[Rows], None]:
    """Writes a value into a column of the first row."""
    return lambda rows: rows[1].__setitem__(rows[0].index(name), value)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit("hit", "0.25"), r"item 'NA' of claims: hit 0.25, but [01] follows from its scores; was the file edited"),
        (edit("scores", "[1"), "columns 'scores' and 'gold' must hold a list of numbers and the number of one of them"),
        (edit("scores", "[]"), "columns 'scores' and 'gold' must hold a list of numbers"),
        (edit("gold", "3"), "columns 'scores' and 'gold' must hold a list of numbers"),
        (lambda rows: rows[-1].pop(), r"cannot be read as items: row 68 has 12 cells for 13 columns"),
        (lambda rows: rows[3].append("x"), r"row 3 has 14 cells for 13 columns"),
        (lambda rows: rows[0].__setitem__(-1, "hit"), "a column is given twice"),
        (lambda rows: rows.clear(), "cannot be read as items: the file is empty"),
    ],
)
def test_an_items_file_that_was_edited_or_cut_is_refused(
    tmp_path: Path, change: Callable[[Rows], object], message: str
) -> None:
    base, other = (named(seed).save_items(tmp_path / f"{seed}.csv") for seed in (0, 1))
    assert compare(base, other, n_boot=20).unpaired == 0
    with other.open(newline="") as file:
        rows = list(csv.reader(file))
    change(rows)
    with other.open("w", newline="") as file:
        csv.writer(file).writerows(rows)
    with pytest.raises(DataFormatError, match=message):
        compare(base, other, n_boot=20)


def test_one_file_is_not_compared_with_itself(tmp_path: Path) -> None:
    path = items(tmp_path / "a.csv", {"claims": [1.0, 0.0]}, ["g", "h"])
    (tmp_path / "b.csv").symlink_to(path)
    for other in (path, tmp_path / "b.csv", str(tmp_path / "x" / ".." / "a.csv")):
        with pytest.raises(DataFormatError, match=r"a.csv' is given twice; each model has a file of its own"):
            compare(path, other)
