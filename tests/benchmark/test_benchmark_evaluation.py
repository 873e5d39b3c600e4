"""Evaluation on scorers whose results are known, and readers that say where a file is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tracescribe.benchmark import (
    CaptionRecord,
    ClaimRecord,
    McqRecord,
    embed_images,
    evaluate,
    load_records,
    read_claims,
    read_mcq,
)
from tracescribe.benchmark.evaluation import _task_score
from tracescribe.benchmark.metrics import clustered_interval, negator_count
from tracescribe.benchmark.phantom import CONDITIONS, build_phantom
from tracescribe.benchmark.phantom.captions import EQUIVALENTS, NOUNS
from tracescribe.benchmark.tasks import questions_of
from tracescribe.errors import DataFormatError, NonFiniteError


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_phantom(tmp_path_factory.mktemp("phantom") / "set", n=120, seed=8)


class Reader:
    """Knows each image's facts, and reads texts by looking for their phrases; `hears_no` decides about negation."""

    def __init__(self, folder: Path, hears_no: bool) -> None:
        rows = [json.loads(line) for line in (folder / "captions.jsonl").read_text().splitlines()]
        self.facts = {Path(row["image"]).name: row["facts"] for row in rows}
        self.hears_no = hears_no
        self.calls = 0

    def encode_images(self, images: list[str]) -> np.ndarray:
        self.calls += len(images)
        rows = [[1.0 if self.facts[Path(i).name][c] == "present" else -1.0 for c in CONDITIONS] for i in images]
        return np.array(rows) / np.sqrt(len(CONDITIONS))

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        out = np.zeros((len(texts), len(CONDITIONS)))
        for row, text in zip(out, texts, strict=True):
            for k, condition in enumerate(CONDITIONS):
                lower = text.lower()
                if NOUNS[condition] in lower:
                    row[k] = 1
                    before = lower.split(NOUNS[condition])[0].split(",")[-1]
                    if self.hears_no and negator_count(before):
                        row[k] = -1
                elif any(p in lower for p in EQUIVALENTS[condition]):
                    row[k] = -1
        return out / np.linalg.norm(out, axis=1, keepdims=True).clip(1e-9)


class Constant:
    def __init__(self, value: float = 1.0) -> None:
        self.value = value

    def encode_images(self, images: list[str]) -> np.ndarray:
        return np.full((len(images), 4), self.value)

    def encode_texts(self, texts: list[str]) -> np.ndarray:
        return np.full((len(texts), 4), self.value)


def test_a_reader_that_hears_no_is_right_and_one_that_does_not_has_the_gap(folder: Path) -> None:
    hearing = evaluate(Reader(folder, hears_no=True), folder, split=None)
    deaf = evaluate(Reader(folder, hears_no=False), folder, split=None)
    assert hearing.affirmative_accuracy == hearing.negated_accuracy == hearing.both_right == 100
    assert hearing.gap is not None and hearing.gap.value == 0 and hearing.mcnemar_p == 1
    assert deaf.affirmative_accuracy == 100
    # Without "no" all four options read as the same three conditions present: a four-way tie, chance.
    assert deaf.negated_accuracy == pytest.approx(25)
    assert deaf.gap is not None and deaf.gap.value == pytest.approx(75) and deaf.mcnemar_p < 1e-9
    assert hearing.claims_by_attribute["existence"] == 100 > deaf.claims_by_attribute["existence"]
    assert deaf.claims_by_polarity["affirmative"] > deaf.claims_by_polarity["negated"]
    assert set(hearing.negated_by_count) == {1, 2}


def test_a_constant_scorer_gets_chance_everywhere(folder: Path) -> None:
    scores = evaluate(Constant(), folder, split=None, pool=10)
    assert scores.affirmative_accuracy == scores.negated_accuracy == scores.claim_accuracy == pytest.approx(25)
    assert scores.retrieval_r1 == pytest.approx(10)


def test_shortcuts_stand_beside_the_scores(folder: Path) -> None:
    scores = evaluate(Reader(folder, hears_no=True), folder, split=None)
    assert set(scores.baselines) == {"image_blind", "shuffled_image", "negator_count", "length", "bag_of_words"}
    for shortcut in scores.baselines.values():
        assert shortcut.affirmative is not None and shortcut.negated is not None and shortcut.claims is not None
        assert max(shortcut.affirmative, shortcut.negated, shortcut.claims) < 60
    assert scores.baselines["negator_count"].claims == pytest.approx(25)  # balanced by construction


def test_nan_is_an_error_not_a_score(folder: Path) -> None:
    with pytest.raises(NonFiniteError, match="NaN"):
        evaluate(Constant(float("nan")), folder, split=None)


def test_precomputed_images_give_the_same_scores_without_encoding(folder: Path) -> None:
    model = Reader(folder, hears_no=False)
    images = embed_images(model, folder, split="test")
    model.calls = 0
    given = evaluate(model, folder, image_embeddings=images)
    assert model.calls == 0
    assert given.to_dict() == evaluate(model, folder).to_dict()
    images.popitem()
    with pytest.raises(DataFormatError, match="lacks 1 of"):
        evaluate(model, folder, image_embeddings=images)


def test_splits_select_and_sources_agree(folder: Path) -> None:
    model = Reader(folder, hears_no=True)
    parts = [evaluate(model, folder, split=s) for s in ("train", "val", "test")]
    whole = evaluate(model, folder, split=None)
    assert sum(p.n_mcq for p in parts) == whole.n_mcq and sum(p.n_groups for p in parts) == whole.n_groups
    alone = evaluate(model, folder / "mcq.jsonl", split=None)
    assert alone.affirmative == whole.affirmative and alone.claims is None and alone.retrieval is None
    assert evaluate(model, load_records(folder, split=None)).to_dict() == whole.to_dict()


def test_preservation_is_one_for_the_same_texts_and_refuses_other_captions(folder: Path) -> None:
    model = Reader(folder, hears_no=True)
    before = evaluate(model, folder)
    assert evaluate(model, folder, before=before).preservation == pytest.approx(1)
    with pytest.raises(DataFormatError, match="other captions"):
        evaluate(model, folder, split="val", before=before)


@pytest.mark.parametrize("name", ["mcq.jsonl", "claims.jsonl"])
def test_before_and_after_without_captions(folder: Path, name: str) -> None:
    model = Reader(folder, hears_no=True)
    before = evaluate(model, folder / name)
    assert evaluate(model, folder / name, before=before).preservation is None


def test_what_one_group_or_one_image_cannot_tell_is_left_out(folder: Path) -> None:
    model = Reader(folder, hears_no=True)
    items = read_mcq(folder / "mcq.jsonl")
    one_group = evaluate(model, [item.model_copy(update={"group": "p"}) for item in items])
    assert one_group.baselines["shuffled_image"].affirmative is None  # there is no other patient's image
    assert one_group.baselines["image_blind"].affirmative is not None
    assert one_group.to_dict()["gap"]["lo"] is None
    json.dumps(one_group.to_dict(), allow_nan=False)
    assert evaluate(model, items[:1]).baselines["image_blind"].affirmative is None  # the mean is that image


def test_retrieval_needs_false_texts_and_says_how_many(folder: Path) -> None:
    model = Reader(folder, hears_no=True)
    captions = [r for r in load_records(folder) if isinstance(r, CaptionRecord)]
    few = evaluate(model, captions, pool=1000)
    assert few.retrieval_pool is not None and few.retrieval_pool <= len(captions)
    same = [captions[0].model_copy(update={"id": str(i), "group": str(i)}) for i in range(3)]
    assert evaluate(model, same).retrieval is None  # every text is true of every image: nothing to get wrong


def test_results_are_json_and_readable(folder: Path) -> None:
    scores = evaluate(Reader(folder, hears_no=True), folder)
    assert json.loads(json.dumps(scores.to_dict()))["gap"]["value"] == 0
    assert "gap 0.0" in scores.summary() and "image_blind" in scores.summary()


def claim(**changes: object) -> dict[str, object]:
    base = {"id": "1", "image": "a.png", "claims": ["X.", "No X."], "label": 0, "attribute": "existence", "group": "p"}
    return {**base, **changes}


def test_numbers_are_names_and_images_elsewhere_are_read_when_asked(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "deep").mkdir()
    path = tmp_path / "deep" / "claims.jsonl"
    path.write_text(json.dumps(claim(id=7, group=10, image=str(tmp_path / "a.png"))))
    with pytest.raises(DataFormatError, match="leads out of the folder"):
        read_claims(path)
    (record,) = read_claims(path, outside_images=True)
    assert (record.id, record.group, record.image) == ("7", "10", str(tmp_path / "a.png"))
    path.write_text(json.dumps(claim(image="../a.png")))
    assert len(read_claims(path, outside_images=True)) == 1


@pytest.mark.parametrize("states", [{}, {"edema": 2}, {"edema": True}, {"edema": "1"}, {"edema": 1.0}, [1], None])
def test_states_are_present_or_absent(folder: Path, tmp_path: Path, states: object) -> None:
    item = json.loads((folder / "mcq.jsonl").read_text().splitlines()[0])
    shutil.copytree(folder / "images", tmp_path / "images")
    path = tmp_path / "mcq.jsonl"
    path.write_text(json.dumps(item | {"split": None}))
    assert len(read_mcq(path)) == 1
    path.write_text(json.dumps(item | {"binary_raw_choice_2": states}))
    with pytest.raises(DataFormatError, match=r"mcq\.jsonl:1: field 'binary_raw_choice_2"):
        read_mcq(path)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (lambda: "{broken", r"claims\.jsonl:2: not JSON"),
        (lambda: "[1]", r':2: expected a JSON object, \{"field": \.\.\.\}, not \[1\]$'),
        (lambda: "[" * 100_000, r":2: brackets are nested deeper"),
        (lambda: '{"id": "1", "id": "2"}', r":2: field 'id' is given twice"),
        (lambda: json.dumps(claim(claims=["X.", " "])), r":2: .*a claim is empty"),
        (lambda: json.dumps(claim(label=2)), r":2: .*label 2 is not the index"),
        (lambda: json.dumps(claim(claims=["X.", "X."])), r":2: .*different texts"),
        (lambda: json.dumps(claim(group=3.5)), r":2: field 'group'"),
        (lambda: json.dumps(claim(group=[3])), r":2: field 'group'.*, not \[3\]"),
        (lambda: json.dumps(claim(label=True)), r":2: field 'label': expected a whole number, not True"),
        (lambda: json.dumps(claim(label="0")), r":2: field 'label': expected a whole number, not '0'"),
        (lambda: json.dumps(claim(label=0.0)), r":2: field 'label': expected a whole number, not 0\.0"),
        (lambda: json.dumps(claim(claims=["X.", 1])), r":2: field 'claims\.1'"),
        (lambda: json.dumps(claim(claims=["X.", "\ud800"])), r":2: .*half of a character"),
        (lambda: json.dumps(claim(image="../a.png")), r":2: field 'image': '\.\./a\.png' leads out of the folder"),
        (lambda: json.dumps(claim(image="/etc/hostname")), r":2: .*leads out of the folder.*--outside-images"),
        (lambda: json.dumps(claim(image="x" * 5000)), r":2: field 'image': there is no image file"),
        (lambda: json.dumps(claim(image="a\0.png")), r":2: field 'image': there is no image file"),
        (lambda: json.dumps(claim(colour="red")), r":2: unknown field 'colour'; known are image"),
        (lambda: json.dumps(claim(image="b.png")), r":2: field 'image': there is no image file"),
        (lambda: json.dumps(claim(image=5)), r":2: field 'image': expected a path"),
    ],
)
def test_readers_name_file_line_and_field(tmp_path: Path, text: Callable[[], str], message: str) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "claims.jsonl"
    path.write_text(json.dumps(claim()) + "\n" + text() + "\n")
    with pytest.raises(DataFormatError, match=message):
        read_claims(path)


def test_readers_resolve_images_and_refuse_empty_files(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "claims.jsonl"
    path.write_text(json.dumps(claim()) + "\n")
    assert read_claims(path)[0].image == str(tmp_path / "a.png")
    assert read_claims(path, split="test")[0].split is None  # a record without split belongs to every one
    path.write_text("\n")
    with pytest.raises(DataFormatError, match="no records"):
        read_claims(path)
    with pytest.raises(DataFormatError, match=r"cannot read '.*absent\.jsonl'"):
        read_claims(tmp_path / "absent.jsonl")
    with pytest.raises(DataFormatError, match=r"mcq\.jsonl"):
        load_records(tmp_path / "..")
    with pytest.raises(DataFormatError, match="empty"):
        evaluate(Constant(), [])


def test_what_editors_add_and_what_json_allows_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.png").write_bytes(b"")
    path = tmp_path / "claims.jsonl"
    record = json.dumps(claim(claims=["X\u2028.", "No X."]), ensure_ascii=False)
    path.write_bytes(b"\xef\xbb\xbf" + f"{record}\r\n{record}\r\n".encode())
    assert [r.claims[0] for r in read_claims(path)] == ["X\u2028."] * 2


def test_an_empty_caption_is_refused() -> None:
    with pytest.raises(ValueError, match="empty"):
        CaptionRecord(id="1", image="a.png", caption=" ", group="p")


def test_questions_with_equal_or_empty_options_are_refused(folder: Path) -> None:
    good = read_mcq(folder / "mcq.jsonl")[0].model_dump()
    for change in ({"negation_mcq_choice_1": good["negation_mcq_choice_2"]}, {"affirmative_mcq_choice_3": " "}):
        with pytest.raises(ValueError, match="mcq_choice"):
            McqRecord(**{**good, **change})


def test_claim_sets_may_differ_in_length_and_images_may_be_objects() -> None:
    class Words:
        def encode_images(self, images: list[object]) -> np.ndarray:
            return np.eye(3)[[0] * len(images)]

        def encode_texts(self, texts: list[str]) -> np.ndarray:
            return np.eye(3)[[min(len(t) - 1, 2) for t in texts]]

    image = object()
    records = [
        ClaimRecord(id="1", image=image, claims=["a", "bb"], label=0, attribute="x", group="p"),
        ClaimRecord(id="2", image=image, claims=["bb", "ccc", "a", "dddd"], label=2, attribute="y", group="q"),
    ]
    assert evaluate(Words(), records).claims_by_attribute == {"x": 100, "y": 100}
    assert evaluate(Words(), [CaptionRecord(id="1", image=image, caption="a", group="p")]).retrieval is None


def test_few_texts_asked_of_many_images_widen_the_interval() -> None:
    """What is right depends on the contrast set alone, and there are four: many images say no more about others."""
    sets = [("no effusion", "effusion"), ("no edema", "edema"), ("no nodule", "nodule"), ("no device", "device")]
    records = [
        ClaimRecord(
            id=f"{i}-{k}", image=np.eye(16)[0], claims=list(texts), label=i % 2, attribute="existence", group=str(i)
        )
        for i in range(40)
        for k, texts in enumerate(sets)
    ]
    [asked] = questions_of(records)
    right = np.array([float(k % 2) for _ in range(40) for k in range(4)])  # two of the sets, for every image
    scores = np.where(np.arange(2) == asked.gold[:, None], right[:, None], 0.5)
    items = asked.scored(scores)
    assert len(set(items.texts or ())) == 4  # whichever of a set is right
    found = _task_score(items, {}, {"n_boot": 400, "seed": 0, "ci": 0.95}).accuracy
    by_image = clustered_interval(items.hits, items.groups, n_boot=400)
    assert found.value == by_image.value == 50
    assert by_image.hi - by_image.lo == 0  # every image has the same share
    assert found.hi - found.lo > 80  # four sets, half of them right: nearly nothing is known


@pytest.mark.parametrize("name", ["claims.jsonl", ""])
def test_a_claim_set_that_is_given_twice_is_scored_once_or_refused(tmp_path: Path, name: str) -> None:
    """In a folder, and as a file; as `tracescribe.read` does with every file."""
    first = {"id": "1", "image": None, "claims": ["a", "b"], "label": 0, "attribute": "x", "group": "p"}
    lines = [json.dumps(one) + "\n" for one in (first, {**first, "id": "2"}, first)]
    (tmp_path / "claims.jsonl").write_text("".join(lines))
    found = load_records(tmp_path / name)
    assert [record.id for record in found] == ["1", "2"]
    assert found.left_out == {"given twice, word for word": 1}
    (tmp_path / "claims.jsonl").write_text("".join([*lines, json.dumps({**first, "label": 1})]))
    with pytest.raises(DataFormatError, match=r"claims.jsonl: the id '1' is given to more than one record"):
        load_records(tmp_path / name)
