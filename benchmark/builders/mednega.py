"""Multiple choice in MedNega-CXR's form: which of four statements about three conditions is true of the image?

Free of the published builder's defects: every option holds a negation, the four options have 1, 1, 2 and 2 of them and
are the same texts for four images of which each is true of one, no two conditions share an affirmative wording, and
everything follows from the seed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import combinations
from typing import Any, cast

import numpy as np

from ..records import LETTERS, Fact, FactsRecord, Split
from .balance import Block, Blocks, Study, count_one, rng_of, split_of
from .grammar import FRAMES, NEGATORS, lists, sentence
from .lexicon import TERMS, belied, term_of, together
from .rewriting import Wordings

__all__ = ["QUESTION", "mednega_items"]

NOTHING_OPEN = "no open question fits the study"
QUESTION = "Which statement describes this chest radiograph?"
N_CONDITIONS = 3
LEAST_PRESENT, LEAST_ABSENT = 2, 3  # of a study, as published
State = tuple[int, ...]  # of three conditions, 1 present
STATES: tuple[State, ...] = ((0, 1, 1), (1, 0, 1), (1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 1))
ONE_ABSENT, TWO_ABSENT = STATES[:3], STATES[3:]
OPTION_SETS = tuple((*ones, *twos) for ones in combinations(ONE_ABSENT, 2) for twos in combinations(TWO_ABSENT, 2))
"""Two statements with one absent condition and two with two: counting negations is no help."""
_SETS_WITH = {
    state: [(options, options.index(state)) for options in OPTION_SETS if state in options] for state in STATES
}
Options = tuple[State, ...]
Question = tuple[tuple[str, ...], Options]  # the conditions, and what the four options say of them
TRIED = 48  # sets of three conditions that are tried for a study
PER_STUDY = 4  # questions about one study at most


def mednega_items(
    records: Iterable[FactsRecord],
    *,
    seed: int = 0,
    per_study: int = PER_STUDY,
    report: dict[str, int] | None = None,
    blocks: Blocks[Study] | None = None,
    reword: Callable[[Wordings, Mapping[str, int]], Wordings] | None = None,
) -> Iterator[dict[str, Any]]:
    """Items in the fields of :class:`McqRecord`, made as the records come; memory does not grow with their number.

    Only studies with at least two present and three absent conditions are asked about, as published; uncertain ones
    are not mentioned. Items of a block of four follow each other.

    Args:
        per_study: questions about one study at most.
        report: counts of what was left out and why, filled while items are made.
        blocks: what was collected of earlier records, to go on from.
        reword: gives each statement another wording of the same facts (:class:`~.rewriting.Rewriter`); asked once per
            block, whose four items share their texts.
    """
    counts = report if report is not None else {}
    blocks = blocks if blocks is not None else Blocks()
    for record in records:
        states = certain(record).values()
        if sum(states) < LEAST_PRESENT or len(states) - sum(states) < LEAST_ABSENT:
            count_one(counts, f"fewer than {LEAST_PRESENT} present or {LEAST_ABSENT} absent conditions")
            continue
        known, split, placed = affirmable(record), split_of(record, seed), 0
        study = Study(record.id, record.group, record.image, split)
        for conditions, options in _questions(known, rng_of(seed, "mednega", record.id), blocks, split, per_study):
            option = options.index(tuple(known[name] for name in conditions))
            placed += 1
            block = blocks.add((split, conditions, options), option, len(options), study)
            if block is not None:
                yield from _worded(block, seed, blocks.completed - 1, reword)
        if not placed:
            count_one(counts, NOTHING_OPEN)
    if blocks.n_waiting:
        counts["questions whose four images were not all found"] = blocks.n_waiting


def certain(record: FactsRecord) -> dict[str, int]:
    """The conditions that are known to be present (1) or absent (0), by term.

    Left out are: a term that is said both ways, unless by side; one that is absent in part only ("no large effusion",
    no effusion on the left) or uncertain anywhere; and one that is called absent beside a case of it ("no lung
    opacity" of a consolidation, or of a possible one).

    >>> facts = {"Lung Opacity": "absent", "Consolidation": "present", "Edema": "uncertain", "Fracture": "absent"}
    >>> certain(FactsRecord(id="1", group="p", image=None, facts={n: Fact(state=s) for n, s in facts.items()}))
    {'consolidation': 1, 'fracture': 0}
    """
    return _told(record)[0]


def affirmable(record: FactsRecord) -> dict[str, int]:
    """Of the `certain` conditions those that can be told without negation, too.

    An absent one is left out if another finding, or a possible one, belies what would be said of it: "normal-appearing
    lung parenchyma" is no way to say that there is no pneumonia where there is atelectasis.
    """
    known, doubtful = _told(record)
    others = [TERMS[name] for name in doubtful]
    return {name: state for name, state in known.items() if state or not belied(TERMS[name], others)}


def _told(record: FactsRecord) -> tuple[dict[str, int], set[str]]:
    """The certain conditions, and the terms that are present or may be."""
    by_term = _by_term(record)
    known: dict[str, int] = {}
    for name, facts in by_term.items():
        sided = all(side for side, _ in facts)
        states = {
            "uncertain" if fact.state == "absent" and _in_part(side, fact) else fact.state for side, fact in facts
        }
        if "present" in states and (sided or "absent" not in states):
            known[name] = 1
        elif states == {"absent"} and (not sided or {side for side, _ in facts} == {"left", "right"}):
            known[name] = 0
    doubtful = {name for name, facts in by_term.items() if any(fact.state != "absent" for _, fact in facts)}
    certain_ones = {
        name: state for name, state in sorted(known.items()) if state or not TERMS[name].implied_by & doubtful
    }
    return certain_ones, doubtful


def _by_term(record: FactsRecord) -> dict[str, list[tuple[str, Fact]]]:
    """The facts about each term, with the side that they are about; "" where the condition's name states none."""
    found: dict[str, list[tuple[str, Fact]]] = {}
    for name, fact in record.facts.items():
        term = term_of(name)
        if term is not None:
            found.setdefault(term.name, []).append((name.partition(",")[2].strip().lower(), fact))
    return found


def _in_part(side: str, fact: Fact) -> bool:
    """Whether only some of a condition is absent: that of a severity, or of a place other than its side."""
    return fact.severity is not None or any(place.lower() != side for place in fact.location)


def _questions(
    known: dict[str, int], rng: np.random.Generator, blocks: Blocks[Study], split: Split, most: int
) -> list[Question]:
    """Questions that can be asked about a study, those first whose blocks lack the fewest images."""
    sets = _sets_of_conditions(tuple(known))
    chosen = rng.permutation(len(sets))[:TRIED].tolist()
    found: dict[Question, tuple[int, float]] = {}
    for number, luck in zip(chosen, rng.random(len(chosen)).tolist(), strict=True):
        conditions = sets[number]
        for options, option in _SETS_WITH.get(tuple(known[name] for name in conditions), ()):
            missing = blocks.missing((split, conditions, options), option, len(options))
            if missing is not None:
                found[conditions, options] = (missing, luck)
    return sorted(found, key=lambda question: found[question])[:most]


@lru_cache(maxsize=4096)
def _sets_of_conditions(names: tuple[str, ...]) -> list[tuple[str, ...]]:
    """Every three of the conditions that one sentence may name in both wordings."""
    return [three for three in combinations(names, N_CONDITIONS) if together(TERMS[name] for name in three)]


def _worded(
    block: Block[Study],
    seed: int,
    number: int,
    reword: Callable[[Wordings, Mapping[str, int]], Wordings] | None,
) -> Iterator[dict[str, Any]]:
    """The four items of a block: the same texts, another right answer each, in balanced positions."""
    _, conditions, options = cast("tuple[Split, tuple[str, ...], Options]", block.key)
    rng = rng_of(seed, "wording", number)
    terms = [TERMS[conditions[i]] for i in rng.permutation(len(conditions)).tolist()]
    frame, negator = FRAMES[rng.integers(len(FRAMES))], NEGATORS[rng.integers(len(NEGATORS))]
    worded: list[Wordings] = []
    for option in options:
        state = dict(zip(conditions, option, strict=True))
        template = Wordings(*(sentence(frame, *lists(terms, state, how)) for how in (negator, None)))
        worded.append(template if reword is None else reword(template, state))
    start = int(rng.integers(len(options)))
    for right, study in enumerate(block.members):
        shift = (start + right) % len(options)  # the right answer's position, another one for each member
        places = [(i - shift + right) % len(options) for i in range(len(options))]
        item: dict[str, Any] = {
            "subject_id": study.group,
            "study_id": study.name,
            "question": QUESTION,
            "correct_answer": LETTERS[shift],
            "image": study.image,
            "group": study.group,
            "split": study.split,
            "provenance": {"builder": "mednega", "seed": seed, "block": number},
        }
        for place, source in enumerate(places, start=1):
            item[f"binary_raw_choice_{place}"] = dict(zip(conditions, options[source], strict=True))
            item[f"negation_mcq_choice_{place}"] = worded[source].negated
            item[f"affirmative_mcq_choice_{place}"] = worded[source].affirmative
        yield item
