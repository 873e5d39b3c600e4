"""Tasks on published files, against hand-computed values: pairs, multiple choice, Winoground, retrieval."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

import tracescribe as ts
from tracescribe.benchmark import compare, evaluate, read_items
from tracescribe.benchmark.retrieval import in_first
from tracescribe.benchmark.tables import as_table
from tracescribe.errors import DataFormatError, NonFiniteError


class Lookup:
    """A model of vectors given by name: of images by the file's stem, of texts by themselves."""

    def __init__(self, vectors: dict[str, Sequence[float]], default: Sequence[float] | None = None) -> None:
        self._vectors, self._default = vectors, default

    def _rows(self, names: Sequence[str]) -> np.ndarray:
        return np.array([self._vectors.get(name, self._default) for name in names], dtype=np.float32)

    def encode_images(self, images: Sequence[Any]) -> np.ndarray:
        return self._rows([Path(str(image)).stem for image in images])

    def encode_texts(self, texts: Sequence[str]) -> np.ndarray:
        return self._rows(texts)


def films(folder: Path, *names: str) -> None:
    for name in names:
        Image.new("L", (4, 4)).save(folder / f"{name}.jpg")


def mcq(folder: Path, n: int = 4) -> Path:
    films(folder, *(f"i{number}" for number in range(n)))
    rows = ["image_path,correct_answer,caption_0,caption_1,caption_2,caption_3,correct_answer_template"]
    kinds = ("positive", "negative", "hybrid")
    rows += [f"i{number}.jpg,0,t{number}a,t{number}b,t{number}c,t{number}d,{kinds[number % 3]}" for number in range(n)]
    path = folder / "mcq.csv"
    path.write_text("\n".join(rows) + "\n")
    return path


def test_negbench_accuracy_is_the_argmax_by_template(tmp_path: Path) -> None:
    """NegBench's rule (Alhamoud et al. 2025, section 3): the option of highest similarity is the answer."""
    vectors: dict[str, Sequence[float]] = {f"i{n}": (1, 0) for n in range(4)}
    vectors |= {f"t{n}a": (0.9, 0) for n in range(3)} | {"t3a": (0.1, 0)}  # wrong for the last
    scores = evaluate(Lookup(vectors, (0.5, 0)), mcq(tmp_path), n_boot=20)
    task = scores.tasks["claims"]
    assert task.accuracy.value == 75.0
    assert task.by["attribute"] == {"hybrid": 100.0, "negative": 100.0, "positive": 50.0}
    assert scores.items["claims"].margin == pytest.approx([0.4, 0.4, 0.4, -0.4])


def test_a_constant_scorer_gets_chance_though_every_right_answer_is_option_0(tmp_path: Path) -> None:
    scores = evaluate(Lookup({}, (1, 0)), mcq(tmp_path), n_boot=20)
    assert scores.tasks["claims"].accuracy.value == scores.tasks["claims"].chance == 25.0
    with pytest.raises(NonFiniteError):
        evaluate(Lookup({}, (np.nan, 0)), mcq(tmp_path), n_boot=20)


def test_pairwise_accuracy_of_sugarcrepe_counts_the_higher_caption(tmp_path: Path) -> None:
    films(tmp_path, "1", "2")
    items = {
        str(n): {"filename": f"{n}.jpg", "caption": f"right {n}", "negative_caption": f"wrong {n}"} for n in (1, 2, 3)
    }
    (tmp_path / "add_att.json").write_text(json.dumps(items))
    vectors = {"1": (1, 0), "2": (0, 1), "right 1": (1, 0), "wrong 1": (0, 1), "right 2": (1, 0), "wrong 2": (0, 1)}
    scores = evaluate(Lookup(vectors), tmp_path / "add_att.json", n_boot=20)
    assert scores.tasks["pairs"].accuracy.value == 50.0
    assert scores.tasks["pairs"].n == 2
    assert scores.without_image == 1
    assert "left out: 1 records whose image is missing" in scores.summary()
    with pytest.raises(DataFormatError, match=r"3\.jpg"):
        evaluate(Lookup(vectors), tmp_path / "add_att.json", strict=True)


def test_winogrounds_three_scores(tmp_path: Path) -> None:
    """Text right, image wrong; both right; neither: scores by hand from the definitions (Thrush et al. 2022)."""
    films(tmp_path, *(f"x{n}_{i}" for n in range(3) for i in range(2)))
    lines = [
        {"id": n, "image_0": f"x{n}_0.jpg", "image_1": f"x{n}_1.jpg", "caption_0": f"c{n}_0", "caption_1": f"c{n}_1"}
        for n in range(3)
    ]
    (tmp_path / "examples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    vectors = {
        "x0_0": (1, 0),
        "x0_1": (0.5, 0.6),
        "c0_0": (1, 0.1),
        "c0_1": (0.6, 1.0),  # each image prefers its own; caption 1 prefers image 1 (0.9) to image 0 (0.6)
        "x1_0": (1, 0),
        "x1_1": (3, 1),
        "c1_0": (1, 0),
        "c1_1": (0.9, 1),  # image 1: 3.7 against 3; image 0: 1 against .9; but caption 0 prefers image 1
        "x2_0": (1, 0),
        "x2_1": (0, 1),
        "c2_0": (0, 1),
        "c2_1": (1, 0),
    }
    scores = evaluate(Lookup(vectors), tmp_path / "examples.jsonl", n_boot=20)
    hits = {name: scores.items[f"winoground_{name}"].hits.tolist() for name in ("text", "image", "group")}
    assert hits == {"text": [1, 1, 0], "image": [1, 0, 0], "group": [1, 0, 0]}


def test_retrieval_in_both_directions_over_all_captions(tmp_path: Path) -> None:
    films(tmp_path, "a", "b")
    content = {
        "images": [{"id": 1, "file_name": "a.jpg"}, {"id": 2, "file_name": "b.jpg"}],
        "annotations": [{"image_id": i, "caption": c} for i, c in ((1, "a1"), (1, "a2"), (2, "b1"))],
    }
    (tmp_path / "captions.json").write_text(json.dumps(content))
    vectors = {"a": (1, 0), "b": (0, 1), "a1": (0.6, 0.7), "a2": (0.9, 0), "b1": (0.8, 0.5)}
    scores = evaluate(Lookup(vectors), tmp_path / "captions.json", n_boot=20)
    assert scores.items["image_to_text_r1"].hits.tolist() == [1, 0]  # b's best caption is a1 (.7)
    assert scores.items["text_to_image_r1"].hits.tolist() == [0, 1, 0]
    assert scores.tasks["image_to_text_r5"].accuracy.value == 100.0


@pytest.mark.parametrize(("k", "n_right"), [(1, 1), (1, 2), (2, 1), (3, 2), (5, 1)])
def test_ties_in_retrieval_are_the_mean_over_all_orders(k: int, n_right: int) -> None:
    from itertools import permutations

    scores = np.array([0.9, 0.5, 0.5, 0.5, 0.1])
    right = np.zeros(5, dtype=bool)
    right[1 : 1 + n_right] = True
    orders = [sorted(range(5), key=lambda i: (-scores[i], order[i])) for order in permutations(range(5))]
    expected = np.mean([any(right[i] for i in order[:k]) for order in orders])
    assert in_first(scores, right, k) == pytest.approx(expected)


def test_shortcuts_stand_beside_every_choice_and_find_what_text_tells(tmp_path: Path) -> None:
    films(tmp_path, *(f"i{n}" for n in range(20)))
    rows = ["image_path,correct_answer,caption_0,caption_1"]
    rows += [f"i{n}.jpg,0,there is no dog {n},a cat {n}" for n in range(20)]  # the negated one is always right
    (tmp_path / "a.csv").write_text("\n".join(rows) + "\n")
    task = evaluate(Lookup({}, (1, 0)), tmp_path / "a.csv", n_boot=20).tasks["claims"]
    assert task.accuracy.value == 50.0
    assert task.shortcuts == {
        "image_blind": 50.0,
        "shuffled_image": 50.0,
        "negator_count": 100.0,
        "length": 100.0,
        "bag_of_words": 100.0,
    }


# comparison ------------------------------------------------------------------------------------------


def two_models(folder: Path, n: int = 40) -> tuple[Any, Any]:
    source = mcq(folder, n)
    weak: dict[str, Sequence[float]] = {f"i{i}": (1, 0) for i in range(n)}
    strong = dict(weak)
    weak |= {f"t{i}a": (0.9, 0) for i in range(n // 2)} | {f"t{i}a": (0.1, 0) for i in range(n // 2, n)}
    strong |= {f"t{i}a": (0.9, 0) for i in range(n - 4)} | {f"t{i}a": (0.1, 0) for i in range(n - 4, n)}
    return tuple(evaluate(Lookup(one, (0.5, 0)), source, n_boot=50) for one in (weak, strong))


def test_models_are_compared_item_by_item(tmp_path: Path) -> None:
    weak, strong = two_models(tmp_path)
    found = compare(weak, strong, names=("CLIP", "NAST"), n_boot=200)
    whole = {(d.model, d.task): d for d in found.differences if d.subset == "all items"}
    change = whole["NAST", "claims"]
    assert change.accuracy.value == 90.0
    assert change.difference is not None and change.difference.value == 40.0
    assert change.difference.lo > 0
    assert change.p == pytest.approx(2 * 0.5**16)  # 16 items changed, all for the better
    assert change.q is not None and change.p <= change.q < 0.001
    assert whole["CLIP", "claims"].difference is None
    assert {d.value for d in found.differences if d.subset == "attribute"} == {"positive", "negative", "hybrid"}
    frame = found.to_frame()
    assert len(frame) == len(found.differences)
    same = compare(strong, strong, names=("a", "b"))
    assert all(d.difference.value == 0 and d.p == 1 for d in same.differences if d.difference is not None and d.p)


@pytest.mark.parametrize("suffix", [".csv", ".parquet"])
def test_items_go_through_files(tmp_path: Path, suffix: str) -> None:
    weak, strong = two_models(tmp_path)
    paths = [one.save_items(tmp_path / f"{name}{suffix}") for name, one in (("weak", weak), ("strong", strong))]
    found = compare(*paths)
    assert found.models == ("weak", "strong")
    assert found.table("csv").splitlines()[1:] == ["weak,50.0", "strong,90.0*"]
    assert compare(weak, strong, names=("weak", "strong")).to_frame().equals(found.to_frame())
    assert len(read_items(paths[0])) == 40


def test_what_cannot_be_compared_is_refused(tmp_path: Path) -> None:
    weak, strong = two_models(tmp_path)
    path = weak.save_items(tmp_path / "a.csv")
    with pytest.raises(DataFormatError, match="as many different names"):
        compare(weak, strong, names=("x", "x"))
    path.write_text(path.read_text().replace("claims,", "other,"))
    with pytest.raises(DataFormatError, match="no item in common"):
        compare(path, strong)
    path.write_text(path.read_text().replace("other,", "claims,").replace("i3.jpg", "somebody"))
    with pytest.raises(DataFormatError, match="these are other items"):
        compare(path, strong)
    path.write_text("task,id\n")
    with pytest.raises(DataFormatError, match="no column 'group'"):
        compare(path, strong)


def test_items_that_one_model_lacks_are_counted_and_left_out(tmp_path: Path) -> None:
    weak, strong = two_models(tmp_path)
    path = weak.save_items(tmp_path / "a.csv")
    path.write_text("\n".join(path.read_text().splitlines()[:-10]) + "\n")
    assert compare(path, strong).unpaired == 10


def test_tables_are_safe_in_latex_and_markdown() -> None:
    latex = as_table(["model", "R@1"], [["CLIP_B & co", "23.5"]], "latex")
    assert r"CLIP\_B \& co & 23.5 \\" in latex
    assert latex.startswith(r"\begin{tabular}{lr}")
    assert as_table(["model", "R@1"], [["CLIP", "23.5"]], "text") == "model   R@1\nCLIP   23.5"
    names = [["[a] <b>|c^~\\", "1"], ["*x\n& y", "2"]]
    assert as_table(["model", "n"], names, "latex").splitlines()[4:6] == [
        r"{}[a] \textless{}b\textgreater{}\textbar{}c\textasciicircum{}\textasciitilde{}\textbackslash{} & 1 \\",
        r"{}*x \& y & 2 \\",  # after the end of a row, [ and * would be its arguments
    ]
    assert as_table(["model", "n"], names, "markdown").splitlines()[2:] == [
        "| [a] &lt;b>\\|c^~\\\\ | 1 |",
        "| *x & y | 2 |",
    ]
    assert as_table(["model", "n"], names, "text").count("\n") == 2
    with pytest.raises(DataFormatError, match="unknown table format 'html'"):
        as_table(["a"], [], "html")


def test_the_plot_is_written(tmp_path: Path) -> None:
    found = compare(*two_models(tmp_path), n_boot=50)
    assert found.plot(tmp_path / "a.png").read_bytes()[:4] == b"\x89PNG"
    with pytest.raises(DataFormatError, match=r"\.pdf, \.svg or \.png"):
        found.plot(tmp_path / "a.gif")


def test_a_real_model_goes_through_end_to_end(tmp_path: Path) -> None:
    from tracescribe.benchmark.phantom import build_phantom

    build_phantom(tmp_path / "set", 6, 0)
    scores = evaluate(ts.load("phantom"), tmp_path / "set", split=None, n_boot=20)
    assert {"mcq_affirmative", "mcq_negated", "claims"} <= set(scores.tasks)
    assert scores.to_dict()["tasks"]["claims"]["n"] == scores.n_claims
