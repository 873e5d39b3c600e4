"""The words for each condition, when it is present and when it is absent.

The names are those of CheXpert, MIMIC-CXR-JPG, TAIX-Ray, CAD-Chest and the phantom; several names may mean one term.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["HEALTHY", "NAMES", "TERMS", "Term", "term_of", "together"]

MILD = ("mild", "moderate", "severe")
SMALL = ("small", "moderate", "large")
SIZED = ("small", "medium-sized", "large")


@dataclass(frozen=True)
class Term:
    """How one condition is worded.

    noun: without article. many: its plural, where it takes "a" or "an" in the singular. plural: is a plural.
    healthy: what one sees, said without negation, where the condition is absent; no two terms share it.
    regions: what the condition and its healthy wording speak of. Conditions of one region imply each other
        (consolidation is a lung opacity) or contradict each other's healthy wording ("atelectasis, with clear lung
        fields"): one sentence names at most one of them (`together`).
    severities: words for mild, moderate and severe; None where the condition is not graded.
    paired: has a left and a right side.
    """

    name: str
    noun: str
    healthy: str
    regions: frozenset[str] = frozenset()
    many: str | None = None
    plural: bool = False
    severities: tuple[str, str, str] | None = None
    paired: bool = False

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


def article(words: str) -> str:
    """The indefinite article before these words; none of the lexicon's words is spelt with a vowel and said without."""
    return "an" if words[0] in "aeiou" else "a"


LUNG, HEART, VESSELS = frozenset({"lung"}), frozenset({"heart"}), frozenset({"vessels"})

_TERMS = (
    Term("atelectasis", "atelectasis", "fissures in normal position", LUNG, severities=MILD, paired=True),
    Term("cardiomegaly", "cardiomegaly", "a heart of normal size", HEART, severities=MILD),
    Term(
        "congestion", "pulmonary vascular congestion", "pulmonary vessels of normal caliber", VESSELS, severities=MILD
    ),
    Term("consolidation", "consolidation", "air-filled alveoli", LUNG, severities=MILD, paired=True),
    Term("edema", "pulmonary edema", "crisp vascular markings", LUNG | VESSELS, severities=MILD),
    Term(
        "enlarged cardiomediastinum",
        "enlarged cardiomediastinal silhouette",
        "a mediastinum of normal width",
        HEART,
        many="enlarged cardiomediastinal silhouettes",
    ),
    Term("fracture", "rib fracture", "intact ribs", many="rib fractures", paired=True),
    Term(
        "lung lesion", "lung lesion", "uniform lung texture", LUNG, many="lung lesions", severities=SIZED, paired=True
    ),
    Term(
        "lung opacity",
        "lung opacity",
        "lung parenchyma of normal density",
        LUNG,
        many="lung opacities",
        severities=SIZED,
        paired=True,
    ),
    Term("opacities", "pulmonary opacities", "clear lung fields", LUNG, plural=True, severities=MILD, paired=True),
    Term(
        "pleural effusion",
        "pleural effusion",
        "sharp costophrenic angles",
        many="pleural effusions",
        severities=SMALL,
        paired=True,
    ),
    Term("pleural other", "pleural thickening", "thin pleural surfaces", severities=MILD, paired=True),
    Term("pneumonia", "pneumonia", "lung parenchyma of normal appearance", LUNG, paired=True),
    Term(
        "pneumothorax",
        "pneumothorax",
        "peripheral lung markings on both sides",
        many="pneumothoraces",
        severities=SMALL,
        paired=True,
    ),
    Term("support devices", "support devices", "native structures only", plural=True),
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
    "rib fracture": "fracture",
    "nodule": "lung lesion",
    "lung nodule": "lung lesion",
}


def together(terms: Iterable[Term]) -> bool:
    """Whether one sentence may speak of all these conditions: no two are of one region.

    >>> together([TERMS["pneumonia"], TERMS["cardiomegaly"]]), together([TERMS["pneumonia"], TERMS["lung opacity"]])
    (True, False)
    """
    seen: set[str] = set()
    for term in terms:
        if seen & term.regions:
            return False
        seen |= term.regions
    return True


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
    "support device": "support devices",
    "pulmonary opacity": "lung opacity",
    "pulmonary nodule": "lung lesion",
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
