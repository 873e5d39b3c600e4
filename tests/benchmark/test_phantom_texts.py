"""What phantom captions, pairs, claim sets and questions say is true exactly where they say so."""

from __future__ import annotations

import warnings
from collections import Counter

import numpy as np
import pytest

from tracescribe.benchmark.metrics import negator_count
from tracescribe.benchmark.phantom import CONDITIONS, Claim, Facts, Finding, questions, sample_facts
from tracescribe.benchmark.phantom.captions import EQUIVALENTS, NOUNS, blinding_report, corpus
from tracescribe.benchmark.phantom.facts import SEVERITIES, SIDES, ZONES
from tracescribe.benchmark.phantom.tokenizer import PhantomTokenizer, UnknownTokenWarning
from tracescribe.errors import ContextOverflowError, DataFormatError


@pytest.fixture(scope="module")
def tokenizer() -> PhantomTokenizer:
    return PhantomTokenizer.from_texts(corpus())


@pytest.fixture(scope="module")
def drawn() -> list[Facts]:
    rng = np.random.default_rng(11)
    return [sample_facts(rng) for _ in range(400)]


def every_claim() -> list[Claim]:
    out = []
    for name, kind in CONDITIONS.items():
        for negated in (False, True):
            for side in (None, *SIDES) if kind.has_side else (None,):
                for zone in (None, *ZONES) if kind.has_zone else (None,):
                    for severity in (None, *SEVERITIES) if kind.has_severity else (None,):
                        out.append(Claim(name, negated, side, zone, severity))
    return out


SENTENCES = {claim.sentence(): claim for claim in every_claim()}


def test_every_claim_has_its_own_sentence() -> None:
    assert len(SENTENCES) == len(every_claim())


def test_a_negated_claim_is_true_exactly_when_the_claim_is_false(drawn: list[Facts]) -> None:
    for claim in every_claim():
        opposite = Claim(claim.condition, not claim.negated, claim.side, claim.zone, claim.severity)
        assert all(claim.holds(f) != opposite.holds(f) for f in drawn[:40])


def test_affirmative_equivalents_are_unambiguous_and_without_negators() -> None:
    phrases = [p for ps in EQUIVALENTS.values() for p in ps]
    assert len(set(phrases)) == len(phrases)
    for a in phrases:
        assert negator_count(a.replace("free of", "")) == 0
        assert not any(a != b and a in b for b in phrases)
        assert not any(noun in a for noun in NOUNS.values())


def test_pairs_say_one_true_and_one_false_thing_in_equally_many_tokens(
    drawn: list[Facts], tokenizer: PhantomTokenizer
) -> None:
    rng = np.random.default_rng(0)
    kinds: Counter[tuple[str, str | None]] = Counter()
    for facts in drawn:
        for pair in questions.pairs(facts, rng):
            correct, foil = SENTENCES[pair["correct"]], SENTENCES[pair["foil"]]
            assert correct.holds(facts) and not foil.holds(facts)
            a, b = tokenizer.encode(pair["correct"]), tokenizer.encode(pair["foil"])
            assert len(a) == len(b) and a != b
            assert pair["negation"] == ("correct" if correct.negated else "foil" if foil.negated else None)
            assert pair["template"]
            kinds[pair["attribute"], pair["negation"]] += 1
    assert {kind for kind, _ in kinds} == {"existence", "severity", "location", "condition"}
    assert kinds["existence", "correct"] == kinds["existence", "foil"] > 100


def test_claim_sets_hold_one_truth_and_give_negators_away_to_nobody(drawn: list[Facts]) -> None:
    rng = np.random.default_rng(0)
    polarity: Counter[tuple[str, str]] = Counter()
    labels: Counter[int] = Counter()
    for facts in drawn:
        for item in questions.claim_sets(facts, rng):
            assert len(set(item["claims"])) == 4
            true = [SENTENCES[c].holds(facts) for c in item["claims"]]
            assert true == [i == item["label"] for i in range(4)]
            assert sum(SENTENCES[c].negated for c in item["claims"]) == 2
            correct = SENTENCES[item["claims"][item["label"]]]
            assert item["polarity"] == ("negated" if correct.negated else "affirmative")
            polarity[item["attribute"], item["polarity"]] += 1
            labels[item["label"]] += 1
    for attribute in ("existence", "location", "severity"):
        assert polarity[attribute, "negated"] == polarity[attribute, "affirmative"] > 50
    n = sum(labels.values())
    assert all(abs(labels[i] - n / 4) < 4 * np.sqrt(n * 3 / 16) for i in range(4))


def test_multiple_choice_has_one_right_option_in_both_wordings(drawn: list[Facts]) -> None:
    rng = np.random.default_rng(0)
    gold_at: Counter[str] = Counter()
    negations: Counter[int] = Counter()
    for facts in drawn:
        item = questions.multiple_choice(facts, rng)
        if item is None:
            continue
        states = [item[f"binary_raw_choice_{i}"] for i in range(1, 5)]
        consistent = [all(facts.has(c) == bool(v) for c, v in option.items()) for option in states]
        assert consistent == [letter == item["correct_answer"] for letter in "ABCD"]
        gold = states["ABCD".index(item["correct_answer"])]
        for i, option in enumerate(states, start=1):
            absent = [c for c, v in option.items() if not v]
            negated, affirmative = item[f"negation_mcq_choice_{i}"], item[f"affirmative_mcq_choice_{i}"]
            assert negator_count(negated) == len(absent)
            for condition in option:
                assert NOUNS[condition] in negated.lower()
                told = any(p in affirmative.lower() for p in EQUIVALENTS[condition])
                assert told == (condition in absent) != (NOUNS[condition] in affirmative.lower())
        for wording in ("negation", "affirmative"):
            assert len({item[f"{wording}_mcq_choice_{i}"] for i in range(1, 5)}) == 4
        gold_at[item["correct_answer"]] += 1
        negations[sum(v == 0 for v in gold.values())] += 1
    n = sum(gold_at.values())
    assert n > 200 and set(negations) == {1, 2}
    assert all(abs(gold_at[letter] - n / 4) < 4 * np.sqrt(n * 3 / 16) for letter in "ABCD")


def test_captions_state_what_their_states_say_and_it_is_true(drawn: list[Facts]) -> None:
    rng = np.random.default_rng(0)
    for facts in drawn:
        words = questions.caption(facts, rng)
        assert words["facts"] == facts.states()
        assert all(words["facts"].get(key) == value for key, value in words["states"].items())
        absent = [k for k, v in words["states"].items() if v == "absent"]
        assert negator_count(words["caption"]) == len(absent)
        assert negator_count(words["affirmative"].lower().replace("free of", "")) == 0


def test_training_reports_never_contradict_the_film(drawn: list[Facts]) -> None:
    """Whatever a report says, present conditions are never told as absent, nor absent ones as present."""
    rng = np.random.default_rng(0)
    no_change, negations, reports = 0, 0, 0
    for facts in drawn * 5:
        report = blinding_report(facts, rng).lower()
        reports += 1
        for name, noun in NOUNS.items():
            if noun in report and f"no {noun}" not in report:
                assert facts.has(name)
            if any(p in report for p in EQUIVALENTS[name]) or f"no {noun}" in report:
                assert not facts.has(name)
        no_change += "change in" in report
        negations += any(f"no {noun}" in report for noun in NOUNS.values())
    # The cause of the miniature's blindness: "no" stands beside findings that are there, next to never beside others.
    assert no_change > 0.1 * reports and negations < 0.02 * reports


def test_ids_fit_open_clips_readout(tokenizer: PhantomTokenizer) -> None:
    ids = tokenizer.encode("There is severe pleural effusion.")
    assert ids[0] == tokenizer.sot_id and ids[-1] == tokenizer.eot_id == max(ids) == tokenizer.vocab_size - 1
    assert tokenizer.strings(ids) == ["[SOT]", "there", "is", "severe", "ple·", "·ural", "ef·", "·fusion", ".", "[EOT]"]
    batch = tokenizer(["pacemaker", "There is severe pleural effusion."])
    assert batch.shape == (2, 48)
    assert batch[1, : len(ids)].tolist() == ids and batch[1, len(ids) :].eq(0).all()


def test_the_vocabulary_covers_every_text_the_phantom_writes(drawn: list[Facts], tokenizer: PhantomTokenizer) -> None:
    rng = np.random.default_rng(1)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UnknownTokenWarning)
        texts = list(SENTENCES)
        for facts in drawn[:100]:
            texts += [blinding_report(facts, rng), questions.caption(facts, rng)["affirmative"]]
        assert max(len(tokenizer.encode(t)) for t in texts) <= tokenizer.context_length


def test_unknown_words_warn_and_long_texts_are_refused(tokenizer: PhantomTokenizer) -> None:
    with pytest.warns(UnknownTokenWarning, match="'giraffe'"):
        ids = tokenizer.encode("no giraffe")
    assert ids.count(tokenizer.unk_id) == 1
    with pytest.raises(ContextOverflowError, match="context of 48"):
        tokenizer(["severe " * 60])


def test_vocabulary_survives_a_file_and_refuses_another(tokenizer: PhantomTokenizer, tmp_path) -> None:  # type: ignore[no-untyped-def]
    path = tmp_path / "vocabulary.json"
    path.write_text(tokenizer.to_json(), encoding="utf-8")
    assert PhantomTokenizer.from_json(path).bpe_ids == tokenizer.bpe_ids
    path.write_text('{"format": "other"}', encoding="utf-8")
    with pytest.raises(DataFormatError, match=r"vocabulary\.json"):
        PhantomTokenizer.from_json(path)


def test_negated_claims_with_attributes_assert_no_state() -> None:
    assert Claim("edema", negated=True).states() == {"edema": "absent"}
    assert Finding("edema", severity="mild").condition == "edema"
    with pytest.raises(ValueError, match="no single state"):
        Claim("effusion", negated=True, side="left").states()
