"""`faithfulness`, `circuit` and `trace --directions`: the numbers of the functions, and what is refused."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from commands import Run, refused

import tracescribe as ts
from tracescribe.errors import DataFormatError
from tracescribe.io.matrices import read_matrix
from tracescribe.tracer import load_circuit, load_comparison

PAIRS = "\n".join(
    f'{{"correct": "There is no {thing}.", "foil": "There is severe {thing}.", "id": "{thing}", '
    '"image": {"text": "The lungs are clear."}, "attribute": "existence"}'
    for thing in ("edema", "effusion", "nodule")
)


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A trace of the attention's output and the pairs that were traced."""
    folder = tmp_path_factory.mktemp("joint")
    (folder / "pairs.jsonl").write_text(PAIRS)
    model, pairs = ts.load("phantom"), ts.read_pairs(folder / "pairs.jsonl")
    ts.trace(model, pairs, site="attn", positions="all", floor=0, progress=False).save(folder / "trace.safetensors")
    return folder


def test_faithfulness_is_that_of_the_function(run: Run, files: Path, tmp_path: Path) -> None:
    words = ("faithfulness", "phantom", files / "trace.safetensors", files / "pairs.jsonl")
    out, figure = tmp_path / "curves.safetensors", tmp_path / "curves.svg"
    document = run(*words, "-o", out, "--figure", figure, "--sizes", "1,3", "--random", "2", "--json").document
    trace, pairs = ts.load_trace(files / "trace.safetensors"), ts.read_pairs(files / "pairs.jsonl")
    expected = ts.faithfulness(ts.load("phantom"), trace, pairs, sizes=[1, 3], random=2, progress=False)
    found = ts.load_faithfulness(out)
    np.testing.assert_array_equal(found.sufficiency, expected.sufficiency)
    assert found.sizes.tolist() == [0, 1, 3, 8] and document["first"] == expected.top(10)
    assert figure.read_text().startswith("<?xml") and document["summary"] == expected.summary()
    page = tmp_path / "curves.html"
    assert run("report", out, "-o", page, "--json").document["kind"] == "faithfulness"
    assert "Faithfulness of the map of phantom" in page.read_text(encoding="utf-8")


def test_a_circuit_is_that_of_the_function(run: Run, files: Path, tmp_path: Path) -> None:
    words = ("circuit", "phantom", files / "trace.safetensors", files / "pairs.jsonl")
    done = run(*words, "-o", tmp_path / "c.json", "--share", "0.5", "--layers", "1,2,3", "--method", "order")
    assert done.code == 0 and "cells carry" in done.out
    trace, pairs = ts.load_trace(files / "trace.safetensors"), ts.read_pairs(files / "pairs.jsonl")
    expected = ts.circuit(ts.load("phantom"), trace, pairs, share=0.5, layers=[1, 2, 3], method="order", progress=False)
    found = load_circuit(tmp_path / "c.json")
    assert found.cells == expected.cells and found.shares.tobytes() == expected.shares.tobytes()
    document = run(*words, "-o", tmp_path / "one.json", "--share", "0.1", "--layers", "1", "--json").document
    assert [cell["layer"] for cell in document["cells"]] == [1]
    assert run("report", tmp_path / "c.json", "-o", tmp_path / "c.html", "--json").document["kind"] == "circuit"
    alpha = run("prescribe", tmp_path / "c.json", "-o", tmp_path / "plan.json", "--json").document["alpha"]
    assert alpha == ts.prescribe(expected).alpha.tolist()
    refused(run("prescribe", tmp_path / "plan.json", "-o", tmp_path / "p2.json"), "expected 'tracescribe.circuit/1'")


def test_pairs_are_found_by_their_images_folder_and_not_needed_where_the_trace_keeps_its_embeddings(
    run: Run, files: Path, tmp_path: Path
) -> None:
    from PIL import Image

    (tmp_path / "films").mkdir()
    for number, shade in enumerate((20, 200)):
        Image.new("L", (64, 64), shade).save(tmp_path / "films" / f"{number}.png")
    lines = [
        line.replace('{"text": "The lungs are clear."}', f'"{at}.png"') for at, line in enumerate(PAIRS.split("\n")[:2])
    ]
    (tmp_path / "pairs.jsonl").write_text("\n".join(lines))
    trace, images = tmp_path / "t.safetensors", ("--images", tmp_path / "films")
    how = ("--site", "attn", "--positions", "all", "--floor", "0", "-o")
    assert run("trace", "phantom", tmp_path / "pairs.jsonl", *images, *how, trace).code == 0
    start = ("phantom", trace, "--segment", "all", "--json")
    circuit = ("circuit", *start, "--share", "0.1", "-o", tmp_path / "c.json")
    curves = ("faithfulness", *start, "--sizes", "2", "-o", tmp_path / "f.safetensors")
    for words in (circuit, curves):
        refused(run(*words, *images), "--images and --outside-images are about PAIRS")
        refused(run(*words, "--attribute", "existence"), "--attribute")
        refused(run(*words, tmp_path / "pairs.jsonl"), "0.png")
    given, kept = run(*circuit, tmp_path / "pairs.jsonl", *images).document, run(*circuit).document
    assert given["cells"] == kept["cells"] and given["share"] == kept["share"]
    assert run(*curves).document["first"]
    bare = ts.load_trace(trace)
    replace(bare, target=None, target_embeddings=None).save(trace)
    refused(run(*circuit), "give either the traced pairs again")


def test_what_joint_patches_cannot_do_is_refused(run: Run, files: Path, tmp_path: Path) -> None:
    trace, pairs = files / "trace.safetensors", files / "pairs.jsonl"
    before = sorted(tmp_path.rglob("*"))
    circuit = ("circuit", "phantom", trace, pairs, "-o", tmp_path / "c.json")
    refused(run(*circuit, "--share", "7"), "all 8 cells of the map together carry")
    refused(run(*circuit, "--method", "best"), "best", "greedy")
    refused(run(*circuit, "--ci", "95"), "--ci must be", "not 95")
    refused(run(*circuit, "--attribute", "severity"), "no pair of", "'severity'", "existence")
    (tmp_path.parent / "other.jsonl").write_text(PAIRS.splitlines()[0])
    faithful = ("faithfulness", "phantom", trace, tmp_path.parent / "other.jsonl", "-o", tmp_path / "f.safetensors")
    refused(run(*faithful), "3", "1")
    refused(run(*faithful, "--figure", tmp_path / "f.gif"), "must end in .pdf")
    refused(run(*faithful, "--sizes", "1"), "--sizes must be")
    page = tmp_path / "x.html"
    refused(run("report", pairs, "-o", page), "pairs.jsonl")
    assert sorted(tmp_path.rglob("*")) == before


def test_directions_come_from_a_file(run: Run, files: Path, tmp_path: Path) -> None:
    pairs = files / "pairs.jsonl"
    matrix = np.random.default_rng(0).normal(size=(2, 64))
    np.save(tmp_path / "probe.npy", matrix)
    words = ("trace", "phantom", pairs, "--site", "mlp", "--positions", "all", "-o", tmp_path / "t.safetensors")
    assert run(*words, "--directions", tmp_path / "probe.npy").code == 0
    expected = ts.trace(
        ts.load("phantom"), ts.read_pairs(pairs), site="mlp", positions="all", directions=matrix, progress=False
    )
    found = ts.load_trace(tmp_path / "t.safetensors")
    np.testing.assert_array_equal(found.scores.patched, expected.scores.patched)
    assert found.provenance["directions"]["count"] == 2
    np.save(tmp_path / "narrow.npy", matrix[:, :3])
    refused(run(*words, "--directions", tmp_path / "narrow.npy"), "64")
    refused(run(*words, "--directions", tmp_path / "no.npy"), "no.npy")
    refused(run(*words, "--directions", tmp_path / "probe.npy", "--method", "direct"), "directions=")


def test_matrices_of_other_files_are_refused(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    matrix = np.arange(6.0, dtype=np.float32).reshape(2, 3)
    save_file({"decoder": matrix}, tmp_path / "one.safetensors")
    np.testing.assert_array_equal(read_matrix(tmp_path / "one.safetensors"), matrix)
    save_file({"a": matrix, "b": matrix}, tmp_path / "two.safetensors")
    bad: dict[str, np.ndarray] = {
        "vector": np.ones(3), "empty": np.ones((0, 3)), "nan": np.full((2, 2), np.nan), "text": np.array([["a"]]),
    }  # fmt: skip
    for name, array in bad.items():
        np.save(tmp_path / f"{name}.npy", array)
    np.save(tmp_path / "objects.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    (tmp_path / "junk.npy").write_bytes(b"\x93NUMPY junk")
    header = b"{'descr': '<f8', 'fortran_order': False, 'shape': (10000000, 10000000), }".ljust(117) + b"\n"
    (tmp_path / "huge.npy").write_bytes(b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
    (tmp_path / "words.csv").write_text("1,2")
    names = [f"{name}.npy" for name in (*bad, "objects", "junk", "huge", "missing")]
    for name in (*names, "two.safetensors", "words.csv"):
        with pytest.raises(DataFormatError) as refusal:
            read_matrix(tmp_path / name)
        assert len(str(refusal.value)) < 600


def test_a_comparison_of_traces_is_saved_and_has_a_page(run: Run, files: Path, tmp_path: Path) -> None:
    first, second = files / "trace.safetensors", tmp_path / "second.safetensors"
    first_trace = ts.load_trace(first)
    first_trace[[0, 1]].save(second)
    out = tmp_path / "comparison.safetensors"
    assert run("compare", first, second, "-o", out).code == 0
    found = load_comparison(out)
    assert found.names == ("trace", "second") and found.n_pairs == (2, 2)
    assert run("report", out, "-o", tmp_path / "a.html", "--json").document["kind"] == "comparison"
    assert run("compare", first, second, "-o", tmp_path / "b.html").code == 0
    pages = [(tmp_path / name).read_text(encoding="utf-8") for name in ("a.html", "b.html")]
    assert pages[0] == pages[1] and "second against trace" in pages[0]
    refused(run("report", out, "-o", tmp_path / "c.html", "--control", first), "is a comparison")
    how = {"segment": "all", "align": "position", "aggregate": "max", "reduce": "mean_of_ratios"}
    flags = [word for name, value in how.items() for word in (f"--{name}", value)]
    document = run("compare", first, second, *flags, "--seed", "3", "--json").document
    expected = ts.compare(first, second, seed=3, **how).to_frame()  # type: ignore[arg-type]
    assert [line["difference"] for line in document["differences"]] == expected["difference"].tolist()
    right = first_trace.denominator > 0
    for path, turned in ((first, right != [True, True, False]), (second, right != [False, False, True])):
        correct, foil = first_trace.scores.correct, first_trace.scores.foil
        scores = replace(
            first_trace.scores, correct=np.where(turned, foil, correct), foil=np.where(turned, correct, foil)
        )
        replace(first_trace, scores=scores).save(tmp_path / f"only {path.name}")
    others = [tmp_path / f"only {path.name}" for path in (first, second)]
    refused(run("compare", *others), "no pair enters from both traces", "segment")
    assert run("compare", *others, "--segment", "all").code == 0
