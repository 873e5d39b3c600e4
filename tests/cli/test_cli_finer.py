"""The commands of finer cells: the numbers of the functions, files, tables, figures, pages, refusals."""

from __future__ import annotations

import csv
import dataclasses
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from commands import Run, refused
from test_cli_joint import PAIRS

import tracescribe as ts
from tracescribe.cli.declared import flag_name
from tracescribe.tracer import load_head_edges, load_knock_out, load_negator_attention, load_neurons
from tracescribe.tracer.run import finer_options

OPTIONS = {
    "neurons": finer_options.NeuronOptions,
    "head-edges": finer_options.HeadEdgeOptions,
    "knock-out": finer_options.KnockOutOptions,
    "negator-attention": finer_options.NegatorAttentionOptions,
}


@pytest.fixture(scope="module")
def pairs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("finer") / "pairs.jsonl"
    path.write_text(PAIRS + '\n{"correct": "no edema", "foil": "mild edema", "image": {"text": "Clear."}, '
                    '"attribute": "severity"}\n')  # fmt: skip
    return path


def lines(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def the_pairs(path: Path) -> list[ts.Pair]:
    return [pair for pair in ts.read_pairs(path) if pair.attribute == "existence"]


@pytest.mark.parametrize("command", OPTIONS)
def test_every_declared_option_has_a_flag_with_its_help(
    run: Run, command: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "1000")
    shown = " ".join(run(command, "--help").out.split())
    for each in dataclasses.fields(OPTIONS[command]):
        assert f"{flag_name(each.name)} " in shown and each.metadata["help"] in shown


def test_neurons_are_those_of_the_function(run: Run, pairs: Path, tmp_path: Path) -> None:
    out, listed, figure = tmp_path / "n.safetensors", tmp_path / "n.csv", tmp_path / "n.svg"
    flags = ("--top", "4", "--others", "2", "--positions", "differing", "--attribute", "existence")
    done = run("neurons", "phantom", pairs, "-o", out, *flags, "--out", listed, "--figure", figure, "--json")
    expected = ts.neurons(ts.load("phantom"), the_pairs(pairs), top=4, others=2, positions="differing", progress=False)
    found, document = load_neurons(out), done.document
    assert found.effects.tobytes() == expected.effects.tobytes() and found.provenance["top"] == 4
    assert document["share_together"] == expected.share_together and document["summary"] == expected.summary()
    assert document["agreement"]["cells"] == 4 and [cell["chosen_by"] for cell in document["cells"]][-1] == "random"
    rows = lines(listed)
    assert [float(row["cte"]) for row in rows] == expected.cte.tolist()
    assert figure.read_text(encoding="utf-8").startswith("<?xml")
    page = tmp_path / "n.html"
    assert run("report", out, "-o", page, "--json").document["kind"] == "neurons"
    assert "Neurons of phantom" in page.read_text(encoding="utf-8")


def test_edges_are_those_of_the_function(run: Run, pairs: Path, tmp_path: Path) -> None:
    out, listed, figure = tmp_path / "e.safetensors", tmp_path / "e.csv", tmp_path / "e.pdf"
    flags = ("--inputs", "v", "--attribute", "existence")
    done = run("head-edges", "phantom", pairs, "-o", out, *flags, "--out", listed, "--figure", figure, "--json")
    expected = ts.head_edges(ts.load("phantom"), the_pairs(pairs), inputs="v", progress=False)
    found = load_head_edges(out)
    np.testing.assert_array_equal(found.effects, expected.effects)
    assert found.inputs == "v" and len(done.document["edges"]) == 100 and len(lines(listed)) == 448
    assert [edge["cte"] for edge in done.document["edges"]] == expected.to_frame(top=100, ci=None)["cte"].tolist()
    assert figure.read_bytes().startswith(b"%PDF")
    assert run("report", out, "-o", tmp_path / "e.html", "--json").document["kind"] == "head_edges"
    people = run("head-edges", "phantom", pairs, "-o", out, *flags)  # its own output is replaced
    assert people.code == 0 and "448 edges between heads, 3 pairs" in people.out and "saved" in people.out


def test_a_knock_out_is_that_of_the_function(run: Run, pairs: Path, tmp_path: Path) -> None:
    out, listed, figure = tmp_path / "k.safetensors", tmp_path / "k.csv", tmp_path / "k.svg"
    flags = ("--heads", "1", "--window", "2", "--attribute", "existence")
    done = run("knock-out", "phantom", pairs, "-o", out, *flags, "--out", listed, "--figure", figure, "--json")
    expected = ts.knock_out(ts.load("phantom"), the_pairs(pairs), heads=1, window=2, progress=False)
    found = load_knock_out(out)
    assert found.queries == expected.queries and tuple(done.document["queries"]) == expected.queries
    for query, trace in expected.traces.items():
        assert found.traces[query].scores.patched.tobytes() == trace.scores.patched.tobytes()
    assert done.document["largest"][0] == expected.largest()[0]._asdict()
    rows, frame = lines(listed), expected.to_frame()
    assert len(rows) == len(frame) == len(done.document["cells"]) and {"lo", "hi"} <= set(rows[0])
    assert "queries: [end]" in figure.read_text(encoding="utf-8")
    assert run("report", out, "-o", tmp_path / "k.html", "--json").document["kind"] == "knock_out"
    refused(run("report", out, "-o", tmp_path / "x.html", "--control", out), "is a knock-out")


@pytest.fixture(scope="module")
def negated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("negated") / "pairs.jsonl"
    path.write_text("".join(
        f'{{"correct": "{first}", "foil": "{second}", "negation": "{side}", "attribute": "existence"}}\n'
        for first, second, side in (
            ("There is no edema.", "There is severe edema.", "correct"),
            ("There is mild effusion.", "There is no effusion.", "foil"),
        )
    ))  # fmt: skip
    return path


def test_negator_attention_is_that_of_the_function(run: Run, negated: Path, tmp_path: Path) -> None:
    out, listed, figure = tmp_path / "a.safetensors", tmp_path / "a.csv", tmp_path / "a.svg"
    flags = ("--negators", "no, free of", "--ci", "0.8", "--n-boot", "50", "--seed", "3", "--attribute", "existence")
    done = run(
        "negator-attention", "phantom", negated, "-o", out, *flags, "--out", listed, "--figure", figure, "--json"
    )
    options: Any = {"negators": {"no", "free of"}, "ci": 0.8, "n_boot": 50, "seed": 3, "progress": False}
    expected = ts.negator_attention(ts.load("phantom"), ts.read_pairs(negated), **options)
    found, document = load_negator_attention(out), done.document
    for name in ("selectivity", "negated", "affirmative", "lo", "hi"):
        np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
    assert found.negators == (("no", "severe"), ("no", "mild")) and document["negators"] == ["no"]
    assert sorted(found.provenance["negators"]) == ["free of", "no"] and found.provenance["n_boot"] == 50
    assert document["ci"] == found.ci == 0.8 and document["summary"] == expected.summary()
    values = [head["selectivity"] for head in document["heads"]]
    assert len(values) == 32 and values == sorted(expected.mean.ravel().tolist(), reverse=True)
    assert [float(row["lo"]) for row in lines(listed)] == expected.lo.ravel().tolist()
    assert "head 3" in figure.read_text(encoding="utf-8")
    page = tmp_path / "a.html"
    assert run("report", out, "-o", page, "--json").document["kind"] == "negator_attention"
    assert "Attention to negators of phantom" in page.read_text(encoding="utf-8")
    people = run("negator-attention", "phantom", negated, "-o", out)  # by default all negating words are known
    assert people.code == 0 and "2 pairs (no / severe, no / mild)" in people.out
    assert "95% CI" in people.out


def test_a_single_pair_has_no_interval(run: Run, pairs: Path, negated: Path, tmp_path: Path) -> None:
    one = tmp_path / "one.jsonl"
    one.write_text(PAIRS.splitlines()[0])
    for command, more in (("neurons", ("--top", "2", "--others", "0")), ("head-edges", ())):
        done = run(command, "phantom", one, "-o", tmp_path / "out.safetensors", *more)
        assert done.code == 0 and "nan" not in done.out and "–" in done.out
    one.write_text(negated.read_text().splitlines()[0])
    done = run("negator-attention", "phantom", one, "-o", tmp_path / "a.safetensors", "--json")
    found = load_negator_attention(tmp_path / "a.safetensors")
    assert (found.ci, found.lo, found.hi) == (None, None, None) and done.document["heads"][0]["lo"] is None


BAD: list[tuple[str, tuple[Any, ...], tuple[str, ...]]] = [
    ("neurons", ("--top", "0"), ("--top must be", "not 0")),
    ("neurons", ("--others", "-1"), ("--others must be",)),
    ("neurons", ("--positions", "everywhere"), ("everywhere",)),
    ("neurons", ("--align", "word"), ("word", "role")),
    ("neurons", ("--steps", "0"), ("--steps must be",)),
    ("head-edges", ("--inputs", "z"), ("'z'", "qkv")),
    ("head-edges", ("--segment", "some"), ("--segment 'some'", "incorrect")),
    ("head-edges", ("--path", "fast"), ("'fast'", "generic")),
    ("knock-out", ("--align", "word"), ("'word'", "position")),
    ("knock-out", ("--heads", "9"), ("9",)),
    ("knock-out", ("--window", "0"), ("--window must be",)),
    ("knock-out", ("--attribute", "location"), ("no pair of", "'location'", "existence, severity")),
    ("knock-out", ("--figure", "k.gif"), ("must end in .pdf",)),
    ("negator-attention", (), ("does not say which caption is negated",)),
    ("negator-attention", ("--negators", ","), ("--negators must be a list of words or phrases",)),
    ("negator-attention", ("--ci", "95"), ("--ci must be", "not 95")),
    ("negator-attention", ("--n-boot", "-1"), ("--n-boot must be",)),
]


@pytest.mark.parametrize(("command", "flags", "words"), BAD, ids=[" ".join((case[0], *case[1])) for case in BAD])
def test_what_cannot_be_is_refused(
    run: Run, pairs: Path, tmp_path: Path, command: str, flags: tuple[str, ...], words: tuple[str, ...]
) -> None:
    refused(run(command, "phantom", pairs, "-o", tmp_path / "out.safetensors", *flags), *words)
    assert list(tmp_path.iterdir()) == []
