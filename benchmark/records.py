"""Records of evaluation files (claim sets, multiple choice, captions) and readers that name file, line and field."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import numpy as np
from pydantic import BeforeValidator, ConfigDict, Field, model_validator

from ..arguments import explains_arguments
from ..checked import Checked
from ..errors import DataFormatError
from ..io.json_lines import read_jsonl
from ..io.quoting import shown
from ..io.reading import open_regular
from ..tracer.pairs.names import Name, WholeText, image_beside
from ..tracer.pairs.pairs import Text
from ..validation import is_number

__all__ = [
    "CaptionRecord",
    "ClaimRecord",
    "Fact",
    "FactsRecord",
    "McqRecord",
    "Record",
    "RetrievalRecord",
    "WinogroundRecord",
    "read_captions",
    "read_claims",
    "read_mcq",
    "stream_captions",
    "stream_claims",
]

LETTERS = "ABCD"
Split = Literal["train", "val", "test"]


def _no_bool_no_text(value: Any) -> Any:
    """True is no 1, and "0" is no 0: files that hold them mean something else, or were damaged."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        raise ValueError(f"expected a whole number, not {shown(value)}")
    return int(value)


Number = Annotated[int, BeforeValidator(_no_bool_no_text)]
States = Annotated[dict[WholeText, Annotated[Literal[0, 1], BeforeValidator(_no_bool_no_text)]], Field(min_length=1)]
"""Conditions that are present (1) or absent (0), at least one."""


def _weight(value: Any) -> float:
    if not is_number(value, least=1e-6, most=1e6):
        raise ValueError(f"expected a number from 1e-6 to 1e6, not {shown(value)}")
    return float(value)


Weight = Annotated[float, BeforeValidator(_weight)]
"""How much a record counts in training beside the others; float32 holds the range."""


class _Record(Checked):
    model_config = ConfigDict(frozen=True, extra="forbid")

    image: Any
    """A path, or whatever `DualEncoder.encode_images` takes; readers resolve paths against the file's folder."""
    group: Name
    split: Split | None = None
    provenance: dict[str, Any] | None = None
    """How the record was made, where a builder made it."""


class ClaimRecord(_Record):
    """Claims about one image, exactly one of them true.

    >>> ClaimRecord(id="1", image="a.png", claims=["X.", "No X."], label=0, attribute="existence", group="p1").correct
    'X.'
    """

    id: Name
    claims: list[WholeText]
    label: Number
    attribute: str
    polarity: Literal["affirmative", "negated"] | None = None
    weight: Weight = 1.0
    """In training: how much the set counts in the mean over sets."""

    @model_validator(mode="after")
    def _check(self) -> ClaimRecord:
        if not all(claim.strip() for claim in self.claims):
            raise ValueError("a claim is empty")
        if len(self.claims) < 2 or len(set(self.claims)) != len(self.claims):
            raise ValueError("claims must be two or more different texts")
        if not 0 <= self.label < len(self.claims):
            raise ValueError(f"label {self.label} is not the index of one of {len(self.claims)} claims")
        return self

    @property
    def correct(self) -> str:
        """The true claim."""
        return self.claims[self.label]


class McqRecord(_Record):
    """One question in the fields of MedNega-CXR, plus image, group and split.

    The four options are states of conditions (``binary_raw_choice``), each worded with negation and without.
    """

    subject_id: Name
    study_id: Name
    question: str
    binary_raw_choice_1: States
    binary_raw_choice_2: States
    binary_raw_choice_3: States
    binary_raw_choice_4: States
    negation_mcq_choice_1: str
    negation_mcq_choice_2: str
    negation_mcq_choice_3: str
    negation_mcq_choice_4: str
    affirmative_mcq_choice_1: str
    affirmative_mcq_choice_2: str
    affirmative_mcq_choice_3: str
    affirmative_mcq_choice_4: str
    correct_answer: Literal["A", "B", "C", "D"]

    @model_validator(mode="after")
    def _check(self) -> McqRecord:
        for name, options in (("negation", self.negated), ("affirmative", self.affirmative)):
            if not all(option.strip() for option in options):
                raise ValueError(f"an option of {name}_mcq_choice is empty")
            if len(set(options)) != 4:
                raise ValueError(f"two options of {name}_mcq_choice are the same text")
        return self

    @property
    def states(self) -> list[dict[str, int]]:
        """The four options as condition → 0 | 1."""
        return [getattr(self, f"binary_raw_choice_{i}") for i in range(1, 5)]

    @property
    def negated(self) -> list[str]:
        """The four options worded with negation."""
        return [getattr(self, f"negation_mcq_choice_{i}") for i in range(1, 5)]

    @property
    def affirmative(self) -> list[str]:
        """The four options worded without negation."""
        return [getattr(self, f"affirmative_mcq_choice_{i}") for i in range(1, 5)]

    @property
    def label(self) -> int:
        """Index of the correct option."""
        return LETTERS.index(self.correct_answer)

    @property
    def n_negations(self) -> int:
        """How many absent conditions the correct option names."""
        return sum(value == 0 for value in self.states[self.label].values())


class CaptionRecord(_Record):
    """A caption of an image, with its negation-free form and what it asserts, where the source knows them."""

    id: Name
    caption: str
    affirmative: str | None = None
    states: dict[str, str] | None = None
    facts: dict[str, str] | None = None
    neg_captions: tuple[str, ...] = ()
    """Captions like this one that are false of the image (hard negatives)."""
    neg_images: tuple[str, ...] = ()
    """Ids of records whose image is like this one, and of which the caption is false."""
    weight: Weight = 1.0
    """In training: how much the caption counts in the mean over captions."""

    @model_validator(mode="after")
    def _check(self) -> CaptionRecord:
        if not self.caption.strip() or (self.affirmative is not None and not self.affirmative.strip()):
            raise ValueError("the caption is empty")
        return self


class RetrievalRecord(_Record):
    """An image with all its captions, and the objects that they say are there or not, where the source knows them."""

    id: Name
    captions: tuple[str, ...]
    present: tuple[str, ...] = ()
    absent: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> RetrievalRecord:
        if not self.captions or not all(caption.strip() for caption in self.captions):
            raise ValueError("captions must be one or more texts")
        return self


class WinogroundRecord(Checked):
    """Two images and two captions of the same words: caption i belongs to image i (Thrush et al. 2022)."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: Name
    images: tuple[Any, Any]
    captions: tuple[str, str]
    tag: str | None = None


class Fact(Checked):
    """What is known of one condition in one image.

    location: where, as the source words it. severity: 1 mild, 2 moderate, 3 severe; None where it is not stated.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: Literal["present", "absent", "uncertain"]
    location: tuple[str, ...] = ()
    severity: Literal[1, 2, 3] | None = None


class FactsRecord(_Record):
    """Labels of one image or study by condition: what builders make claims of.

    >>> FactsRecord(id="s1", group="p1", image=None, facts={"edema": Fact(state="absent")}).facts["edema"].state
    'absent'
    """

    id: Name
    facts: dict[str, Fact]


Record = ClaimRecord | McqRecord | CaptionRecord
R = TypeVar("R", bound=_Record)


@explains_arguments
def read_claims(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> list[ClaimRecord]:
    """Claim sets of a JSONL file, of one split or all.

    images: the folder that image paths are relative to; by default that of the file.
    outside_images: accept image paths that are absolute or lead out of that folder; a file from elsewhere could name
        any file of this machine.

    Raises:
        DataFormatError: names the file, the line and the field that is not as expected.
    """
    return list(_records(path, ClaimRecord, split, images, outside_images))


@explains_arguments
def read_mcq(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> list[McqRecord]:
    """Multiple-choice items of a JSONL file; see `read_claims`."""
    return list(_records(path, McqRecord, split, images, outside_images))


@explains_arguments
def read_captions(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> list[CaptionRecord]:
    """Captions of a JSONL file; see `read_claims`."""
    return list(_records(path, CaptionRecord, split, images, outside_images))


def stream_captions(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> Iterator[CaptionRecord]:
    """Captions one by one, for files that are larger than memory. Here ``{"text": "..."}`` as image is a text target.

    Raises:
        DataFormatError: as `read_captions`, when the line is reached; a file without such records at its end.
    """
    return _records(path, CaptionRecord, split, images, outside_images, text_targets=True)


def stream_claims(
    path: str | os.PathLike[str],
    *,
    split: Split | None = None,
    images: str | os.PathLike[str] | None = None,
    outside_images: bool = False,
) -> Iterator[ClaimRecord]:
    """Claim sets one by one; see `stream_captions`."""
    return _records(path, ClaimRecord, split, images, outside_images, text_targets=True)


def _records(
    path: str | os.PathLike[str],
    kind: type[R],
    split: Split | None,
    images: str | os.PathLike[str] | None,
    outside_images: bool,
    *,
    text_targets: bool = False,
) -> Iterator[R]:
    open_regular(path).close()  # what has no place to resolve is refused here
    folder = (Path(path).parent if images is None else Path(images)).resolve()
    places: dict[str, str] = {}  # a file has several records per image
    some = False
    for number, value in read_jsonl(path):
        try:
            record = kind.model_validate(value)
        except DataFormatError as error:
            raise DataFormatError(f"{path}:{number}: {error}") from error
        if split is not None and record.split not in (split, None):
            continue
        some = True
        if record.image is None:  # the image is not there; whoever needs it counts such records
            yield record
            continue
        if text_targets and _is_text(record.image):
            yield record.model_copy(update={"image": Text(record.image["text"])})
            continue
        if not isinstance(record.image, str):
            raise DataFormatError(f"{path}:{number}: field 'image': expected a path, got {shown(record.image)}")
        if record.image not in places:
            where = f"{path}:{number}: field 'image'"
            places[record.image] = str(image_beside(folder, record.image, where, outside=outside_images))
        yield record.model_copy(update={"image": places[record.image]})
    if not some:
        wanted = "records" if split is None else f"records of the split {split!r}"
        raise DataFormatError(f"{path}: holds no {wanted}")


def _is_text(image: Any) -> bool:
    return isinstance(image, dict) and list(image) == ["text"] and isinstance(image["text"], str)
