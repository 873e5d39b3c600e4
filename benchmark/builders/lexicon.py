"""The words for each condition, when it is present and when it is absent.

The names are those of CheXpert, MIMIC-CXR-JPG, TAIX-Ray, CAD-Chest and the phantom; several names may mean one term.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import MappingProxyType

__all__ = ["HEALTHY", "NAMES", "TERMS", "Term", "belied", "distinct", "term_of", "together"]

MILD = ("mild", "moderate", "severe")
SMALL = ("small", "moderate", "large")
SIZED = ("small", "medium-sized", "large")


@dataclass(frozen=True)
class Term:
    """How one condition is worded.

    noun: without article. many: its plural, where it takes "a" or "an" in the singular. plural: is a plural.
    healthy: what one sees, said without negation, where the condition is absent; no two terms share it. It holds no
        preposition: of "a heart of normal size and intact bones" it would be unclear where the first phrase ends.
    regions: what the condition changes.
    normal: regions that the healthy wording calls normal altogether: it is false of an image that shows any other
        condition of them (`belied`).
    implied_by: conditions that are cases of this one: where one of them is present, this one is not absent. After the
        hierarchy of CheXpert's labels (Irvin et al. 2019, figure 1).
    severities: words for mild, moderate and severe; None where the condition is not graded.
    paired: has a left and a right side. bare_side: one says "a left pleural effusion", but "left-sided atelectasis".
    countable: a thing that lies somewhere; one says "a unilateral pleural effusion", but not "a unilateral nodule".
    """

    name: str
    noun: str
    healthy: str
    regions: frozenset[str] = frozenset()
    normal: frozenset[str] = frozenset()
    implied_by: frozenset[str] = frozenset()
    many: str | None = None
    plural: bool = False
    severities: tuple[str, str, str] | None = None
    paired: bool = False
    bare_side: bool = False
    countable: bool = False

    def phrase(self, *adjectives: str) -> str:
        """The condition as a noun phrase, with its article where it takes one.

        >>> term_of("Pleural Effusion").phrase(), term_of("Lung Opacity").phrase("large", "left")
        ('a pleural effusion', 'a large left lung opacity')
        >>> term_of("Enlarged Cardiomediastinum").phrase(), term_of("Edema").phrase("mild")
        ('an enlarged cardiomediastinal silhouette', 'mild pulmonary edema')
        """
        words = " ".join((*adjectives, self.noun))
        return f"{article(words)} {words}" if self.many else words

    def on_both_sides(self) -> str:
        """The condition on both sides: "bilateral pleural effusions", "bilateral atelectasis"."""
        return f"bilateral {self.many or self.noun}"

    def on_side(self, side: str) -> str:
        """The condition on the left or right: "a left pleural effusion", "left-sided atelectasis"."""
        return self.phrase(side if self.bare_side else f"{side}-sided")


def article(words: str) -> str:
    """The indefinite article before these words: "an enlarged heart", "a unilateral effusion"."""
    return "an" if words[0] in "aeiou" and not words.startswith("uni") else "a"


LUNG, HEART, VESSELS = frozenset({"lung"}), frozenset({"heart"}), frozenset({"vessels"})

_TERMS = (
    Term("atelectasis", "atelectasis", "normally positioned fissures", LUNG, severities=MILD, paired=True),
    Term("cardiomegaly", "cardiomegaly", "a normal-sized heart", HEART, severities=MILD),
    Term(
        "congestion",
        "pulmonary vascular congestion",
        "normal-caliber pulmonary vessels",
        VESSELS,
        normal=VESSELS,
        severities=MILD,
    ),
    Term(
        "consolidation",
        "consolidation",
        "air-filled alveoli",
        LUNG,
        normal=LUNG,
        implied_by=frozenset({"pneumonia"}),
        severities=MILD,
        paired=True,
    ),
    Term("edema", "pulmonary edema", "crisp vascular markings", LUNG | VESSELS, normal=VESSELS, severities=MILD),
    Term(
        "enlarged cardiomediastinum",
        "enlarged cardiomediastinal silhouette",
        "a normal-sized cardiomediastinal silhouette",
        HEART,
        implied_by=frozenset({"cardiomegaly"}),
        many="enlarged cardiomediastinal silhouettes",
    ),
    Term("fracture", "fracture", "intact bones", many="fractures", paired=True, countable=True),
    Term(
        "lung lesion",
        "lung lesion",
        "uniform lung texture",
        LUNG,
        normal=LUNG,
        implied_by=frozenset({"nodule"}),
        many="lung lesions",
        severities=SIZED,
        paired=True,
        bare_side=True,
        countable=True,
    ),
    Term(
        "lung opacity",
        "lung opacity",
        "normally lucent lungs",
        LUNG,
        normal=LUNG,
        implied_by=frozenset({"atelectasis", "consolidation", "edema", "lung lesion", "nodule", "pneumonia"}),
        many="lung opacities",
        severities=SIZED,
        paired=True,
        bare_side=True,
        countable=True,
    ),
    Term(
        "nodule",
        "lung nodule",
        "smooth lung texture",
        LUNG,
        normal=LUNG,
        many="lung nodules",
        severities=SIZED,
        paired=True,
        bare_side=True,
        countable=True,
    ),
    Term(
        "opacities",
        "pulmonary opacities",
        "clear lung fields",
        LUNG,
        normal=LUNG,
        implied_by=frozenset({"consolidation", "lung opacity", "pneumonia"}),  # TAIX-Ray grades atelectasis beside them
        plural=True,
        severities=MILD,
        paired=True,
    ),
    Term(
        "pleural effusion",
        "pleural effusion",
        "sharp costophrenic angles",
        many="pleural effusions",
        severities=SMALL,
        paired=True,
        bare_side=True,
    ),
    Term("pleural other", "pleural thickening", "thin pleural layers", severities=MILD, paired=True),
    Term("pneumonia", "pneumonia", "normal-appearing lung parenchyma", LUNG, normal=LUNG, paired=True),
    Term(
        "pneumothorax",
        "pneumothorax",
        "preserved peripheral lung markings",
        many="pneumothoraces",
        severities=SMALL,
        paired=True,
        bare_side=True,
    ),
    Term(
        "support devices",
        "support device",
        "purely native anatomy",
        many="support devices",
        paired=True,
        countable=True,
    ),
)
TERMS: Mapping[str, Term] = MappingProxyType({term.name: term for term in _TERMS})

_OTHER_NAMES = {
    "device": "support devices",
    "effusion": "pleural effusion",
    "pulmonary atelectasis": "atelectasis",
    "pulmonary edema": "edema",
    "pulmonary congestion": "congestion",
    "vascular congestion": "congestion",
    "pulmonary opacities": "opacities",
    "opacity": "lung opacity",
    "pleural thickening": "pleural other",
    "lung nodule": "nodule",
    "enlargement of the cardiac silhouette": "cardiomegaly",
}


def distinct(terms: Iterable[Term]) -> bool:
    """Whether one may speak of all these conditions: none is a case of another.

    >>> distinct([TERMS["pneumonia"], TERMS["atelectasis"]]), distinct([TERMS["pneumonia"], TERMS["lung opacity"]])
    (True, False)
    """
    return not _holds_one_of(terms, _RELATED)


def together(terms: Iterable[Term]) -> bool:
    """Whether one may speak of all these conditions, also without negation: beside each other, both wordings of each
    can be true.

    Of "pneumonia, with air-filled alveoli" a reader knows without the image that it is false.

    >>> together([TERMS["pneumonia"], TERMS["cardiomegaly"]]), together([TERMS["pneumonia"], TERMS["atelectasis"]])
    (True, False)
    """
    return not _holds_one_of(terms, _CLASHING)


def belied(absent: Term, not_absent: Iterable[Term]) -> bool:
    """Whether what one sees in place of an absent condition is false, or doubtful, beside these other ones.

    >>> belied(TERMS["pneumonia"], [TERMS["consolidation"]]), belied(TERMS["atelectasis"], [TERMS["consolidation"]])
    (True, False)
    """
    return any(term is not absent and term.regions & absent.normal for term in not_absent)


Relation = Mapping[str, frozenset[str]]  # by a term's name, those that it stands in the relation to


def _relation(holds: Callable[[Term, Term], bool]) -> Relation:
    return {
        one.name: frozenset(other.name for other in _TERMS if holds(one, other) or holds(other, one)) for one in _TERMS
    }


_RELATED = _relation(lambda one, other: one.name in other.implied_by)
_CLASHING = _relation(lambda one, other: one.name in other.implied_by or belied(one, [other]))


def _holds_one_of(terms: Iterable[Term], relation: Relation) -> bool:
    """Whether the relation holds between two of the terms."""
    seen: set[str] = set()
    for term in terms:
        if seen & relation[term.name]:
            return True
        seen.add(term.name)
    return False


@lru_cache(maxsize=4096)  # asked of every label of every record
def term_of(condition: str) -> Term | None:
    """The term of a condition by any of its names; None for a condition that nothing is said about here.

    >>> term_of("Pleural Effusion, left").name, term_of("hernia")
    ('pleural effusion', None)
    """
    name = condition.partition(",")[0].strip().lower()
    return TERMS.get(_OTHER_NAMES.get(name, name))


_IN_FREE_WORDING = {
    "cardiac enlargement": "cardiomegaly",
    "enlarged heart": "cardiomegaly",
    "enlarged cardiomediastinal contour": "enlarged cardiomediastinum",
    "enlarged mediastinum": "enlarged cardiomediastinum",
    "widened mediastinum": "enlarged cardiomediastinum",
    "pleural fluid": "pleural effusion",
    "pulmonary opacity": "lung opacity",
    "pulmonary nodule": "nodule",
}


def _names() -> dict[str, str]:
    """Terms by every name that a free sentence may give them, plurals included; a name of a term itself comes first."""
    found = {name: term.name for term in _TERMS for name in (term.name, term.noun, term.many) if name is not None}
    for name, term in (_OTHER_NAMES | _IN_FREE_WORDING).items():
        found.setdefault(name, term)
    return {name + ending: term for ending in ("s", "") for name, term in found.items()} | found


NAMES: Mapping[str, str] = MappingProxyType(_names())
"""Terms by the names that a sentence may give a condition."""
HEALTHY: Mapping[str, str] = MappingProxyType({term.healthy: term.name for term in _TERMS})
"""Terms by what one sees where they are absent."""
