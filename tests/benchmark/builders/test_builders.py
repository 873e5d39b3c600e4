"""Built data sets: true of their facts, at chance for text alone, grammatical, and the same for the same seed."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import pytest

import tracescribe as ts
from tracescribe.benchmark.builders import caption_items, contextual_items, mednega_items, pair_items
from tracescribe.benchmark.builders.contextual import details
from tracescribe.benchmark.builders.grammar import FRAMES, NEGATORS, absent, parse_findings, sentence
from tracescribe.benchmark.builders.lexicon import TERMS, belied, distinct, term_of, together
from tracescribe.benchmark.builders.mednega import affirmable, certain
from tracescribe.benchmark.phantom import dataset
from tracescribe.benchmark.phantom.facts import CONDITIONS as PHANTOM_CONDITIONS
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


@pytest.fixture(scope="module")
def phantom_films() -> list[FactsRecord]:
    return [FactsRecord(**dataset.records(study, 3)["facts.jsonl"][0]) for study in dataset.studies(1500, 3)]


@pytest.fixture(scope="module")
def phantom_claims(phantom_films: list[FactsRecord]) -> list[ClaimRecord]:
    return [ClaimRecord(**item) for item in contextual_items(phantom_films)]


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


@pytest.mark.parametrize("kind", ["mcq", "claims", "phantom_claims"])
def test_text_alone_is_at_chance(kind: str, request: pytest.FixtureRequest) -> None:
    """Each set of texts is asked once for every option of it, within a split: no function of texts can do better."""
    items: list[McqRecord | ClaimRecord] = request.getfixturevalue(kind)
    golds: dict[object, Counter[str]] = defaultdict(Counter)
    for item in items:
        assert item.provenance is not None
        key = (item.split, item.provenance["block"], tuple(sorted(texts_of(item))))
        golds[key][texts_of(item)[item.label]] += 1
    assert all(set(count.values()) == {1} and set(count) == set(key[2]) for key, count in golds.items())  # type: ignore[index]


@pytest.mark.parametrize("kind", ["mcq", "claims", "phantom_claims"])
def test_a_classifier_of_words_fails_to_beat_chance(kind: str, request: pytest.FixtureRequest) -> None:
    """Naive Bayes on words, trained on one half of the patients and tested on the other."""
    items: list[McqRecord | ClaimRecord] = request.getfixturevalue(kind)
    right: Counter[str] = Counter()
    wrong: Counter[str] = Counter()
    half = [int(re.sub(r"\D", "", item.group)) % 2 == 0 for item in items]
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
    chance = np.mean([1 / len(texts_of(item)) for item, train in zip(items, half, strict=True) if not train])
    standard_error = 0.5 / np.sqrt(len(hits))
    assert np.mean(hits) < chance + 3 * standard_error


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


def test_a_pair_that_does_not_match_is_told_with_a_wording_that_would() -> None:
    def words(caption: str) -> int:
        return len(caption.split())

    film = FactsRecord(id="1", group="p", image=None, split="train", facts={"Fracture": YES, "Atelectasis": NO})
    report: dict[str, int] = {}
    assert {pair["attribute"] for pair in pair_items([film], words, report=report)} == {"existence"}
    assert report == {
        "condition of fracture: no wording has as many tokens ('There is a fracture.' has 4, 'There is atelectasis.' 3)"
        "; 'There is visible atelectasis.' would have as many; or trace such captions with align='auto'": 1
    }
    for lengths in ({"There is no fracture.": 9}, {"There is a fracture.": 9}):  # "no visible fracture" denies less
        report = {}
        list(pair_items([film], lambda caption, n=lengths: n.get(caption, 4), report=report))  # type: ignore[misc]
        (why,) = [why for why in report if why.startswith("existence")]
        assert "); trace such captions with align='auto'" in why


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
    studies = dataset.studies(600, 3)
    records = [FactsRecord(**dataset.records(study, 3)["facts.jsonl"][0]) for study in studies]
    by_name = {study.id: study.facts for study in studies}
    claims = [ClaimRecord(**item) for item in contextual_items(records)]
    assert {item.attribute for item in claims} == {"existence", "severity", "side"}
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
    "nodule": "nodule",
}


def test_a_known_severity_is_never_overstated() -> None:
    film = FactsRecord(id="1", group="p", image=None, facts={"Edema": Fact(state="present", severity=1)})
    pairs = pair_items([film], lambda text: len(text.split()), with_test=True)
    [pair] = [item for item in pairs if item["attribute"] == "existence"]
    assert pair["correct"] == "There is mild pulmonary edema."
    unknown = FactsRecord(id="1", group="p", image=None, facts={"Edema": Fact(state="present")})
    [pair] = list(pair_items([unknown], lambda text: len(text.split()), with_test=True))
    assert pair["correct"] == "There is definite pulmonary edema."


def film(**facts: Fact) -> FactsRecord:
    """An image with these facts; names are written with underscores, and a side after two."""
    named = {name.replace("__", ", ").replace("_", " "): fact for name, fact in facts.items()}
    return FactsRecord(id="1", group="p", image=None, split="train", facts=named)


YES, NO, PERHAPS = Fact(state="present"), Fact(state="absent"), Fact(state="uncertain")
LEFT, RIGHT = ("left",), ("right",)


@pytest.mark.parametrize(
    ("facts", "known"),
    [
        ({"edema": YES, "fracture": NO, "pneumonia": PERHAPS}, {"edema": 1, "fracture": 0}),
        ({"edema": NO, "pulmonary_edema": PERHAPS}, {}),  # two names of one condition
        ({"edema": YES, "pulmonary_edema": PERHAPS}, {"edema": 1}),
        ({"edema": YES, "pulmonary_edema": NO}, {}),
        ({"atelectasis__left": NO, "atelectasis__right": PERHAPS}, {}),
        ({"atelectasis__left": NO}, {}),  # of the right side nothing is known
        ({"atelectasis__left": NO, "atelectasis__right": NO}, {"atelectasis": 0}),
        ({"atelectasis__left": YES, "atelectasis__right": NO}, {"atelectasis": 1}),
        ({"effusion": Fact(state="absent", severity=3)}, {}),  # "no large effusion"
        ({"effusion": Fact(state="absent", location=LEFT)}, {}),
        ({"atelectasis__left": Fact(state="absent", location=LEFT)}, {}),
        ({"lung_opacity": NO, "consolidation": YES}, {"consolidation": 1}),
        ({"lung_opacity": NO, "consolidation": PERHAPS}, {}),
        ({"lung_opacity": NO, "consolidation": NO}, {"consolidation": 0, "lung opacity": 0}),
        ({"lung_opacity": YES, "consolidation": NO}, {"consolidation": 0, "lung opacity": 1}),
        ({"enlarged_cardiomediastinum": NO, "cardiomegaly": YES}, {"cardiomegaly": 1}),
        ({"nodule": NO, "lung_lesion": YES}, {"lung lesion": 1, "nodule": 0}),
        ({"nodule": YES, "lung_lesion": NO}, {"nodule": 1}),
        ({"rib_fracture": NO}, {}),  # there may be another one
    ],
)
def test_only_what_the_labels_imply_is_known(facts: dict[str, Fact], known: dict[str, int]) -> None:
    assert certain(film(**facts)) == known


def test_a_normal_finding_is_only_said_of_what_nothing_belies(mcq: list[McqRecord]) -> None:
    assert affirmable(film(pneumonia=NO, atelectasis=YES, effusion=NO)) == {"atelectasis": 1, "pleural effusion": 0}
    assert affirmable(film(pneumonia=NO, atelectasis=PERHAPS)) == {}
    assert affirmable(film(atelectasis=NO, consolidation=YES)) == {"atelectasis": 0, "consolidation": 1}
    assert affirmable(film(edema=NO, congestion=YES)) == {"congestion": 1}
    broad = [term.name for term in TERMS.values() if "lung" in term.normal]
    said = Counter()
    for item in mcq:
        for name, state in item.states[item.label].items():
            if name in broad and not state:
                others = {term_of(one) for one, fact in BY_NAME[item.study_id].facts.items() if fact.state != "absent"}
                assert not any("lung" in other.regions for other in others if other and other.name != name)
                said[name] += 1
    assert len(said) > 2


@pytest.mark.parametrize(
    ("facts", "side"),
    [
        ({"effusion": Fact(state="present", location=("left lower lobe",))}, "left"),
        ({"effusion": Fact(state="present", location=("Right-sided",))}, "right"),
        ({"effusion": Fact(state="present", location=("left", "bibasilar"))}, "bilateral"),
        ({"effusion": Fact(state="present", location=("base",))}, None),
        ({"effusion__left": Fact(state="present", location=LEFT), "effusion__right": PERHAPS}, None),
        ({"effusion__left": Fact(state="present", location=LEFT)}, None),
        ({"effusion__left": Fact(state="present", location=LEFT), "effusion__right": NO}, "left"),
    ],
)
def test_a_side_is_known_only_where_the_other_is_too(facts: dict[str, Fact], side: str | None) -> None:
    record = film(**facts)
    assert details(record.facts, TERMS["pleural effusion"])[1] == side
    sides = [item for item in pair_items([record], lambda text: 5) if item["attribute"] == "side"]
    assert len(sides) == (side in ("left", "right"))


def test_claims_about_a_side_are_never_true_together(
    claims: list[ClaimRecord], phantom_claims: list[ClaimRecord]
) -> None:
    """Who has an effusion on both sides has one on the left: beside "both", "left" says that it is the only one."""
    sets = [item for item in [*claims, *phantom_claims] if item.attribute == "side"]
    counts = Counter(len(item.claims) for item in sets)
    assert counts[3] > 100 and counts[4] > 100 and set(counts) == {3, 4}
    assert {len(item.claims) for item in phantom_claims if item.attribute == "side"} == {3}
    for item in sets:
        left = next(claim for claim in item.claims if "left" in claim)
        both = [claim for claim in item.claims if re.search("bilateral|both", claim)]
        assert len(both) == (len(item.claims) == 4) == bool(re.search("only|unilateral", left))


def test_a_set_of_sides_is_about_every_sided_finding_of_a_phantom(
    phantom_films: list[FactsRecord], phantom_claims: list[ClaimRecord]
) -> None:
    sets = [item for item in phantom_claims if item.attribute == "side"]
    terms = {name for item in sets if item.provenance for name in item.provenance["conditions"]}
    assert terms == {TERMS_OF_PHANTOM[name] for name, kind in PHANTOM_CONDITIONS.items() if kind.has_side}
    by_name = {record.id: record for record in phantom_films}
    for item in sets:
        assert item.provenance is not None
        (name,) = item.provenance["conditions"]
        side = details(by_name[item.provenance["source"]].facts, TERMS[name])[1]
        assert (side or "no ") in item.correct
    with_side = [record for record in phantom_films if any(fact.location for fact in record.facts.values())]
    assert len({item.provenance["source"] for item in sets if item.provenance}) > 0.8 * len(with_side)


def test_a_pair_states_no_number_that_is_not_known() -> None:
    for condition, correct in (("support_devices", "a support device"), ("opacities", "some pulmonary opacities")):
        [pair] = pair_items([film(**{condition: YES})], lambda text: len(text.split()))
        assert correct in pair["correct"]


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


def graded() -> Iterator[str]:
    """Every condition with every severity and side that claims and pairs state, in every frame."""
    for term in TERMS.values():
        phrases = [term.phrase(word) for word in term.severities or ()]
        if term.paired:
            phrases += [term.on_both_sides(), f"{term.many or term.noun} on both sides"]
        for side in ("left", "right") if term.paired else ():
            yield f"{'There are' if term.plural else 'There is'} {term.on_side(side)}."
            phrases += [term.phrase(f"{side}-sided")]
            phrases += [] if term.countable else [term.phrase("unilateral", f"{side}-sided")]
            phrases += [f"{term.phrase()} on the {side}", f"{term.phrase()} on the {side} only"]
        yield from (sentence(frame, [phrase]) for phrase in phrases for frame in FRAMES)


SINGULAR = "|".join(term.noun for term in TERMS.values() if term.many)
UNCOUNTABLE = "|".join(term.noun for term in TERMS.values() if not term.many)
BROKEN = {
    "a doubled negation": r"\bno no\b|\bno (sign|evidence) of no\b",
    "a doubled word": r"\b(\w+) \1\b",
    "a doubled conjunction": r"\b(and|but),? (and|but)\b",
    "a wrong article": r"\ba (?!uni)[aeiou]|\ban ([^aeiou]|uni)",
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
    "a number that no label states": r"\b(several|multiple|many)\b|\bone (?!sees)",
    "more than one of what may be one": r"(?<!bilateral )(support devices|fractures)(?! on both)",
    "a thing that has a place and no sides": r"\bunilateral \S+ (lung (nodule|lesion|opacity)|fracture|support device)",
    "a bone or a view that no label states": r"\b(rib|ribs|clavicle|frontal|lateral|portable)\b",
    "a list whose first phrase may go on behind its 'and'": r"\b(of|in) normal\b|\bon both sides,? and\b",
    "an 'only' beside something else": r"\bonly\b(?!\.$)",
    "a wording of the absent that another finding belies": r"\b(aerated|lungs of|lung bases|fields of)\b",
    "a space too many": r"  | [.,]|^ | $",
    "no capital at the beginning, or no full stop": r"^[^A-Z]|[^.]$",
}


def broken(texts: Iterable[str]) -> dict[str, list[str]]:
    """The first three sentences of each kind of fault."""
    found = {what: [text for text in texts if re.search(pattern, text)][:3] for what, pattern in BROKEN.items()}
    return {what: examples for what, examples in found.items() if examples}


def test_no_phrase_of_a_list_can_take_the_next_one_in() -> None:
    """ "a heart of normal size and intact bones": is the heart one of intact bones, too?"""
    for term in TERMS.values():
        for phrase in (term.noun, term.healthy):
            assert not re.search(r"\b(of|in|on|at|to|for|with|by|from)\b", phrase), phrase


def test_no_sentence_of_twenty_thousand_is_broken() -> None:
    found = set(sentences(20_000))
    assert len(found) > 5_000
    assert broken(found) == {}
    assert all(parse_findings(text) is not None for text in found)
    more = list(graded())
    assert len(more) > 500
    assert broken(more) == {}


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
        stated = parse_findings(text) or {}
        assert distinct(TERMS[name] for name in stated), text
        shown = [TERMS[name] for name, state in stated.items() if state]
        assert not any(TERMS[name].healthy in text and belied(TERMS[name], shown) for name in stated), text


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
        "The radiograph shows a heart of normal size and crisp vascular markings.",
        "The image reveals a pleural effusion, with native structures only and intact bones.",
        "There is some pneumonia.",
        "The image reveals right pneumonia.",
        "There is left pneumonia.",
        "There are right pulmonary opacities.",
        "There is a moderate lung opacity.",
        "The image reveals a pneumothorax, with fully aerated lobes.",
        "The image reveals an unilateral left-sided pleural effusion.",
        "There are several support devices.",
        "There is one pleural effusion.",
        "The radiograph shows support devices.",
        "The radiograph shows a rib fracture.",
        "The frontal view depicts cardiomegaly.",
    ],
)
def test_the_grammar_test_can_fail(text: str) -> None:
    assert any(re.search(pattern, text) for pattern in BROKEN.values())
