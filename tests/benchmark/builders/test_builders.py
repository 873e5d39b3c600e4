"""Built data sets: true of their facts, at chance for text alone, grammatical, and the same for the same seed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

import tracescribe as ts
from tracescribe.benchmark.builders import caption_items, contextual_items, mednega_items, pair_items
from tracescribe.benchmark.builders.grammar import FRAMES, NEGATORS, absent, parse_findings, sentence
from tracescribe.benchmark.builders.lexicon import TERMS, together
from tracescribe.benchmark.builders.mednega import certain
from tracescribe.benchmark.readers.chexpert import CONDITIONS
from tracescribe.benchmark.records import CaptionRecord, ClaimRecord, Fact, FactsRecord, McqRecord


def films(n: int, seed: int = 0) -> list[FactsRecord]:
    """Images with facts of uneven prevalence: text alone would do well if options were drawn by it."""
    rng = np.random.default_rng(seed)
    prevalence = rng.uniform(0.1, 0.6, len(CONDITIONS))
    places = (("left",), ("right",), ("bilateral",), ("left", "lower lobe"), ())
    out = []
    for number in range(n):
        facts = {}
        for condition, chance in zip(CONDITIONS, prevalence, strict=True):
            draw = rng.random()
            if draw < 0.7:
                facts[condition] = Fact(
                    state="present" if draw < 0.7 * chance else "absent",
                    severity=rng.choice([1, 2, 3, None]) if draw < 0.7 * chance else None,
                    location=places[rng.integers(len(places))] if draw < 0.7 * chance else (),
                )
            elif draw < 0.75:
                facts[condition] = Fact(state="uncertain")
        out.append(FactsRecord(id=f"s{number}", group=f"p{number // 3}", image=f"{number}.png", facts=facts))
    return out


FILMS = films(4000)
BY_NAME = {film.id: film for film in FILMS}


@pytest.fixture(scope="module")
def mcq() -> list[McqRecord]:
    return [McqRecord(**item) for item in mednega_items(FILMS)]


@pytest.fixture(scope="module")
def claims() -> list[ClaimRecord]:
    return [ClaimRecord(**item) for item in contextual_items(FILMS)]


def test_the_right_option_is_true_of_the_study_and_the_others_are_not(mcq: list[McqRecord]) -> None:
    assert len(mcq) > 1000
    for item in mcq:
        known = certain(BY_NAME[item.study_id])
        right = [all(known[name] == value for name, value in state.items()) for state in item.states]
        assert right == [number == item.label for number in range(4)]


def test_both_wordings_say_what_the_states_are_and_are_read_back(mcq: list[McqRecord]) -> None:
    for item in mcq:
        for state, negated, affirmative in zip(item.states, item.negated, item.affirmative, strict=True):
            assert (
                parse_findings(negated) == parse_findings(affirmative) == dict(parse_findings(negated) or {}, **state)
            )
            assert re.search(r"\bno\b", negated)  # every option, so the gold one too, holds a negation
            assert not re.search(r"\b(no|not|without|free)\b", affirmative)


def texts_of(item: McqRecord | ClaimRecord) -> Sequence[str]:
    return item.claims if isinstance(item, ClaimRecord) else item.negated


@pytest.mark.parametrize("kind", ["mcq", "claims"])
def test_text_alone_is_at_chance(kind: str, request: pytest.FixtureRequest) -> None:
    """Each set of texts is asked once for every option of it, within a split: no function of texts can do better."""
    items: list[McqRecord | ClaimRecord] = request.getfixturevalue(kind)
    golds: dict[object, Counter[str]] = defaultdict(Counter)
    for item in items:
        assert item.provenance is not None
        key = (item.split, item.provenance["block"], tuple(sorted(texts_of(item))))
        golds[key][texts_of(item)[item.label]] += 1
    assert all(set(count.values()) == {1} and set(count) == set(key[2]) for key, count in golds.items())  # type: ignore[index]


@pytest.mark.parametrize("kind", ["mcq", "claims"])
def test_a_classifier_of_words_fails_to_beat_chance(kind: str, request: pytest.FixtureRequest) -> None:
    """Naive Bayes on words, trained on one half of the patients and tested on the other."""
    items: list[McqRecord | ClaimRecord] = request.getfixturevalue(kind)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    half = [int(item.group[1:]) % 2 == 0 for item in items]
    for item, train in zip(items, half, strict=True):
        for number, text in enumerate(texts_of(item)):
            if train:
                (right if number == item.label else wrong).update(text.lower().split())
    weight = {word: np.log((right[word] + 1) / (wrong[word] + 3)) for word in right | wrong}
    hits = []
    for item, train in zip(items, half, strict=True):
        if not train:
            scores = np.array([sum(weight.get(word, 0) for word in text.lower().split()) for text in texts_of(item)])
            best = np.flatnonzero(np.isclose(scores, scores.max()))
            hits.append(float(item.label in best) / len(best))
    standard_error = 0.5 / np.sqrt(len(hits))
    assert np.mean(hits) < 0.25 + 3 * standard_error


def test_positions_and_numbers_of_negations_tell_nothing(mcq: list[McqRecord]) -> None:
    assert len(set(Counter(item.label for item in mcq).values())) == 1
    assert Counter(item.n_negations for item in mcq)[1] == Counter(item.n_negations for item in mcq)[2]
    for item in mcq:
        assert sorted(sum(value == 0 for value in state.values()) for state in item.states) == [1, 1, 2, 2]


def test_a_patient_is_in_one_split(mcq: list[McqRecord], claims: list[ClaimRecord]) -> None:
    splits = defaultdict(set)
    for item in [*mcq, *claims]:
        splits[item.group].add(item.split)
    assert all(len(found) == 1 for found in splits.values())
    assert {split for found in splits.values() for split in found} == {"train", "val", "test"}


def test_claims_are_true_as_labelled(claims: list[ClaimRecord]) -> None:
    assert {item.attribute for item in claims} == {"existence", "severity", "side"}
    existence = [item for item in claims if item.attribute == "existence"]
    for item in existence:
        assert item.provenance is not None
        known = certain(BY_NAME[item.provenance["source"]])
        for number, claim in enumerate(item.claims):
            states = parse_findings(claim)
            assert states is not None
            assert all(known[name] == value for name, value in states.items()) == (number == item.label)
    for item in claims:
        if item.attribute == "side" and "left" in item.correct:
            assert item.provenance is not None
            film = BY_NAME[item.provenance["source"]]
            named = [n for n, f in film.facts.items() if f.state == "present" and "left" in " ".join(f.location)]
            assert any(TERMS_BY_CONDITION[name] in item.correct for name in named)


TERMS_BY_CONDITION = {
    condition: term.noun for condition in CONDITIONS if (term := ts.benchmark.builders.lexicon.term_of(condition))
}


def test_captions_hold_a_negation_and_only_facts() -> None:
    captions = [CaptionRecord(**item) for item in caption_items(FILMS[:500])]
    for caption in captions:
        assert caption.states is not None
        known = certain(BY_NAME[caption.id])
        stated = parse_findings(caption.caption)
        assert stated == parse_findings(caption.affirmative or "")
        assert stated == {name: known[name] for name in stated}
        assert 0 in stated.values()


@pytest.mark.parametrize("build", [mednega_items, contextual_items, caption_items])
def test_equal_seeds_give_equal_records_and_others_do_not(build) -> None:  # type: ignore[no-untyped-def]
    once, again, other = (list(build(FILMS[:600], seed=seed)) for seed in (3, 3, 4))
    assert once == again
    assert once != other


def test_pairs_have_equally_many_tokens_and_true_correct_captions() -> None:
    def count(caption: str) -> int:
        return len(caption.replace(".", " .").split())

    report: dict[str, int] = {}
    items = list(pair_items(FILMS[:400], count, report=report))
    assert {item["attribute"] for item in items} == {"existence", "severity", "side", "condition"}
    for item in items:
        pair = ts.Pair(**item)
        assert count(pair.correct) == count(pair.foil)
        known = certain(BY_NAME[item["group"] and item["id"].rpartition("-")[0]])
        negated = [caption for caption in (pair.correct, pair.foil) if " no " in caption]
        assert len(negated) == (item["attribute"] == "existence")
        if item["attribute"] == "existence":
            noun = negated[0].partition(" no ")[2].rstrip(".")
            (name,) = [term.name for term in TERMS.values() if term.noun == noun]
            assert (" no " in pair.correct) == (known[name] == 0)
            assert pair.negation == ("correct" if known[name] == 0 else "foil")
    assert any("no wording has as many tokens" in why for why in report)


def test_pairs_say_how_they_were_made_and_leave_out_the_test_split() -> None:
    report: dict[str, int] = {}
    items = [ts.Pair(**item) for item in pair_items(FILMS[:300], lambda text: len(text.split()), report=report)]
    everything = [ts.Pair(**item) for item in pair_items(FILMS[:300], lambda text: len(text.split()), with_test=True)]
    assert {item.split for item in items} == {"train", "val"}
    assert items == [item for item in everything if item.split != "test"]
    tested = {item.provenance["source"] for item in everything if item.split == "test" and item.provenance}
    assert next(n for why, n in report.items() if "of the test split" in why) >= len(tested) > 0
    for item in items:
        assert item.provenance is not None and item.id is not None
        assert item.provenance["builder"] == "pairs" and item.id.startswith(f"{item.provenance['source']}-")
        assert TERMS[item.provenance["condition"]].noun in item.correct + item.foil


def test_every_caption_of_a_pair_is_among_those_that_identify_a_tokenizer() -> None:
    """Else a stopped build could go on with a tokenizer that counts differently."""
    from tracescribe.benchmark.builders.pairs import tokenizer_identity

    asked: set[str] = set()
    tokenizer_identity(lambda text: asked.add(text) or 1)  # type: ignore[func-returns-value]
    made = set()
    for count in (lambda text: len(text.split()), lambda text: 5, len):
        pair_items_made = list(pair_items(FILMS[:1500], lambda text, count=count: made.add(text) or count(text)))  # type: ignore[misc, func-returns-value]
        assert pair_items_made
    assert made <= asked


def test_data_sets_can_be_built_from_phantom_facts() -> None:
    from tracescribe.benchmark.phantom import dataset

    studies = dataset.studies(600, 3)
    records = [FactsRecord(**dataset.records(study, 3)["facts.jsonl"][0]) for study in studies]
    by_name = {study.id: study.facts for study in studies}
    claims = [ClaimRecord(**item) for item in contextual_items(records)]
    assert {item.attribute for item in claims} == {"existence", "severity"}  # no finding is on both sides, as sets ask
    for item in claims:
        assert item.provenance is not None
        facts = by_name[item.provenance["source"]]
        for term, state in item.provenance["conditions"].items():
            (name,) = [name for name in facts.states() if "." not in name and TERMS_OF_PHANTOM[name] == term]
            assert facts.has(name) == bool(state)
    assert {item.split for item in claims} == {"train", "val", "test"}
    assert len(list(mednega_items(records))) > 200


TERMS_OF_PHANTOM = {
    "effusion": "pleural effusion",
    "pneumothorax": "pneumothorax",
    "opacity": "lung opacity",
    "cardiomegaly": "cardiomegaly",
    "edema": "edema",
    "device": "support devices",
    "nodule": "lung lesion",
}


def test_a_known_severity_is_never_overstated() -> None:
    film = FactsRecord(id="1", group="p", image=None, facts={"Edema": Fact(state="present", severity=1)})
    pairs = pair_items([film], lambda text: len(text.split()), with_test=True)
    [pair] = [item for item in pairs if item["attribute"] == "existence"]
    assert pair["correct"] == "There is mild pulmonary edema."
    unknown = FactsRecord(id="1", group="p", image=None, facts={"Edema": Fact(state="present")})
    [pair] = list(pair_items([unknown], lambda text: len(text.split()), with_test=True))
    assert pair["correct"] == "There is definite pulmonary edema."


def sentences(n: int) -> Iterator[str]:
    rng = np.random.default_rng(0)
    terms = list(TERMS.values())
    for _ in range(n):
        drawn = [terms[i] for i in rng.permutation(len(terms))[: rng.integers(1, 5)]]
        chosen = drawn if together(drawn) else drawn[:1]
        state = rng.integers(2, size=len(chosen))
        negator = [*NEGATORS, None][rng.integers(len(NEGATORS) + 1)]
        present = [term.phrase() for term, s in zip(chosen, state, strict=True) if s]
        missing = [absent(term, negator) for term, s in zip(chosen, state, strict=True) if not s]
        yield sentence(FRAMES[rng.integers(len(FRAMES))], present, missing)


SINGULAR = "|".join(term.noun for term in TERMS.values() if term.many)
UNCOUNTABLE = "|".join(term.noun for term in TERMS.values() if not term.many)
BROKEN = {
    "a doubled negation": r"\bno no\b|\bno (sign|evidence) of no\b",
    "a doubled word": r"\b(\w+) \1\b",
    "a doubled conjunction": r"\b(and|but),? (and|but)\b",
    "a wrong article": r"\ba [aeiou]|\ban [^aeiou]",
    "an article that is missing": rf"(shows|demonstrates|reveals|depicts|sees|and|of) ({SINGULAR})\b",
    "an article too many": rf"\ban? ({UNCOUNTABLE})\b",
    "a negation whose reach is unclear": r"\bno [^,.]* and (?!no\b)|\bno [^.]*, (?!(and )?no\b)",
    "a contrast where none is": r"\bbut\b",
    "a relative clause before the end of a list": r"\bthat\b",
    "a spelling of another country": r"calibre|oedema|centre|colour",
    "an amount of what has none": r"\bsome (pneumonia|cardiomegaly|atelectasis|consolidation)|moderate lung (les|opac)",
    "a side that is no adjective of the noun": (
        rf"(shows|demonstrates|reveals|depicts|sees) (a )?(left|right) |\b(left|right) ({UNCOUNTABLE})\b"
    ),
    "a wording of the absent that another finding belies": r"\b(aerated|lungs of|lung bases|fields of)\b",
    "a space too many": r"  | [.,]|^ | $",
    "no capital at the beginning, or no full stop": r"^[^A-Z]|[^.]$",
}


def broken(texts: Iterable[str]) -> dict[str, list[str]]:
    """The first three sentences of each kind of fault."""
    found = {what: [text for text in texts if re.search(pattern, text)][:3] for what, pattern in BROKEN.items()}
    return {what: examples for what, examples in found.items() if examples}


def test_no_sentence_of_twenty_thousand_is_broken() -> None:
    found = set(sentences(20_000))
    assert len(found) > 5_000
    assert broken(found) == {}
    assert all(parse_findings(text) is not None for text in found)


def test_no_sentence_that_was_built_is_broken(mcq: list[McqRecord], claims: list[ClaimRecord]) -> None:
    """What is sampled above is how sentences could be put together; this is what the four kinds of files hold."""
    found = {text for item in mcq for text in (*item.negated, *item.affirmative)}
    found |= {claim for item in claims for claim in item.claims}
    for item in caption_items(FILMS):
        found |= {item["caption"], item["affirmative"]}
    for item in pair_items(FILMS, lambda text: len(text.replace(".", " .").split())):
        found |= {item["correct"], item["foil"]}
    assert len(found) > 5_000
    assert broken(found) == {}
    for text in found:
        stated = parse_findings(text)
        assert stated is None or together(TERMS[name] for name in stated), text


@pytest.mark.parametrize(
    "text",
    [
        "The radiograph shows a a b.",
        "the radiograph shows cardiomegaly",
        "The radiograph shows a edema.",
        "X  y.",
        "The radiograph shows no edema and cardiomegaly.",
        "The radiograph shows no edema, cardiomegaly, and no fracture.",
        "The radiograph shows no no edema.",
        "The image reveals pulmonary edema, but intact ribs.",
        "The image reveals lung markings that reach the chest wall, intact ribs, and a heart of normal size.",
        "The radiograph shows pulmonary vessels of normal calibre.",
        "There is some pneumonia.",
        "The image reveals right pneumonia.",
        "There is left pneumonia.",
        "There are right pulmonary opacities.",
        "There is a moderate lung opacity.",
        "The image reveals a pneumothorax, with fully aerated lobes.",
    ],
)
def test_the_grammar_test_can_fail(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in BROKEN.values())
