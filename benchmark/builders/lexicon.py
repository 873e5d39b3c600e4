"""The words for each condition, when it is present and when it is absent.

The names are those of CheXpert, MIMIC-CXR-JPG, TAIX-Ray, CAD-Chest and the phantom; several names may mean one term.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["HEALTHY", "NAMES", "TERMS", "Term", "term_of"]

MILD = ("mild", "moderate", "severe")
SMALL = ("small", "moderate", "large")


@dataclass(frozen=True)
class Term:
    """How one condition is worded.

    noun: without article. many: its plural, where it takes "a" or "an" in the singular. plural: is a plural.
    healthy: what one sees, said without negation, where the condition is absent; no two terms share it.
    severities: words for mild, moderate and severe; None where the condition is not graded.
    paired: has a left and a right side.
    """

    name: str
    noun: str
    healthy: str
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


_TERMS = (
    Term("atelectasis", "atelectasis", "full lung expansion down to the bases", severities=MILD, paired=True),
    Term("cardiomegaly", "cardiomegaly", "a heart of normal size", severities=MILD),
    Term("congestion", "pulmonary vascular congestion", "pulmonary vessels of normal calibre", severities=MILD),
    Term("consolidation", "consolidation", "aerated alveoli in every lobe", severities=MILD, paired=True),
    Term("edema", "pulmonary edema", "crisp vascular markings", severities=MILD),
    Term(
        "enlarged cardiomediastinum",
        "enlarged cardiomediastinal silhouette",
        "a mediastinum of normal width",
        many="enlarged cardiomediastinal silhouettes",
    ),
    Term("fracture", "rib fracture", "intact ribs", many="rib fractures", paired=True),
    Term("lung lesion", "lung lesion", "uniform lung texture", many="lung lesions", severities=SMALL, paired=True),
    Term(
        "lung opacity",
        "lung opacity",
        "lung fields of normal density",
        many="lung opacities",
        severities=SMALL,
        paired=True,
    ),
    Term("opacities", "pulmonary opacities", "clear lung fields", plural=True, severities=MILD, paired=True),
    Term(
        "pleural effusion",
        "pleural effusion",
        "sharp costophrenic angles",
        many="pleural effusions",
        severities=SMALL,
        paired=True,
    ),
    Term("pleural other", "pleural thickening", "thin pleural surfaces", severities=MILD, paired=True),
    Term("pneumonia", "pneumonia", "lungs of healthy appearance", paired=True),
    Term(
        "pneumothorax",
        "pneumothorax",
        "lung markings that reach the chest wall",
        many="pneumothoraces",
        severities=SMALL,
        paired=True,
    ),
    Term("support devices", "support devices", "native structures only", plural=True),
)
TERMS: Mapping[str, Term] = MappingProxyType({term.name: term for term in _TERMS})

_OTHER_NAMES = {
    "effusion": "pleural effusion",
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
