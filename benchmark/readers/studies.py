"""What tables say of the studies that a file names: image, split and patient; MIMIC-CXR-JPG's, or the user's own."""

from __future__ import annotations

from collections import ChainMap
from collections.abc import Iterator, Mapping
from functools import cached_property
from pathlib import Path

from ...errors import DataFormatError
from ...io.quoting import shown
from ...io.tables import read_table
from ..records import Split
from . import fields
from .images import ImageFolder, study_folder
from .source import Source

__all__ = ["SPLITS", "Studies", "tables_beside"]

SPLITS: Mapping[str, Split] = {
    "train": "train",
    "validate": "val",
    "validation": "val",
    "valid": "val",
    "val": "val",
    "test": "test",
}
VIEWS = ("PA", "AP", "")  # the better first; an empty one, and "AP AXIAL" and the like, may be from the front
LATERAL = ("LATERAL", "LL", "XTABLE LATERAL")
STUDY_IMAGES = "study_images.csv"
METADATA, SPLIT = "mimic-cxr-*metadata.csv", "mimic-cxr-*split.csv"
OTHERS = ("split.csv", "indiana_projections.csv")  # of TAIX-Ray and Open-i


class Studies:
    """Looks studies up in tables beside their file, or else in the folder of images.

    ``study_images.csv`` (columns study_id and image), ``mimic-cxr-*-metadata.csv`` and ``mimic-cxr-*-split.csv``, each
    also as ``.csv.gz``.
    """

    def __init__(self, source: Source, folder: ImageFolder) -> None:
        self._folder = folder
        self._places = tuple(dict.fromkeys((source.path.parent, folder.root)))

    def image(self, subject: str, study: str, named: str | None = None) -> str | tuple[str, ...] | None:
        """The image of a study, see :class:`ImageFolder`.

        named: the image's name in MIMIC-CXR's layout. By default it is the one that ``study_images.csv`` lists first,
            else the first of the metadata that is no lateral one (PA before AP before others), else the first in
            alphabetical order. A study of lateral images only has none.
        """
        if named is None and study in self._image_files:
            return self._folder.find(self._image_files[study])
        chosen = self._frontal.get(study) if named is None else named
        if chosen == "":
            self._folder.missing[study_folder(subject, study)] = None
            return None
        return self._folder.find_study(subject, study, chosen)

    @cached_property
    def _image_files(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for where, row in self._rows(STUDY_IMAGES):
            found.setdefault(fields.name(row, "study_id", where), fields.text(row, "image", where))
        return found

    @property
    def splits(self) -> dict[str, Split]:
        """The split of every study."""
        return self._split_table[0]

    @property
    def subjects(self) -> Mapping[str, str]:
        """The patient of every study that the split or the metadata file lists."""
        return ChainMap(self._split_table[1], self._metadata[1])

    @property
    def _frontal(self) -> dict[str, str]:
        """The image of each study that is seen from the front, by its name without ending; "" where there is none."""
        return self._metadata[0]

    @cached_property
    def _metadata(self) -> tuple[dict[str, str], dict[str, str]]:
        """Frontal image and patient of every study."""
        found: dict[str, tuple[int, str]] = {}
        subjects: dict[str, str] = {}
        for where, row in self._rows(METADATA):
            view = fields.field(row, "ViewPosition", where).upper()
            study, image = fields.name(row, "study_id", where), fields.text(row, "dicom_id", where)
            ranked = (len(VIEWS), "") if view in LATERAL else (VIEWS.index(view if view in VIEWS else ""), image)
            found[study] = min(found.get(study, ranked), ranked, key=lambda one: one[0])
            _add_subject(subjects, study, row, where)
        return {study: image for study, (_, image) in found.items()}, subjects

    @cached_property
    def _split_table(self) -> tuple[dict[str, Split], dict[str, str]]:
        """Split and patient of every study; MIMIC-CXR-JPG's file has a row per image."""
        found: dict[str, Split] = {}
        subjects: dict[str, str] = {}
        for where, row in self._rows(SPLIT):
            split = SPLITS.get(fields.text(row, "split", where))
            if split is None:
                raise DataFormatError(
                    f"{where}: field 'split': expected train, validate or test, not {shown(row['split'])}"
                )
            study = fields.name(row, "study_id", where)
            if found.setdefault(study, split) != split:
                raise DataFormatError(f"{where}: study {shown(study)} is in two splits")
            _add_subject(subjects, study, row, where)
        return found, subjects

    def _rows(self, name: str) -> Iterator[tuple[str, dict[str, str]]]:
        """Place and cells of each row of the first table of that name."""
        for place in self._places:
            files = _tables(place, name)
            if files:
                for line, row in read_table(files[0]):
                    yield f"{files[0]}:{line}", row
                return


def tables_beside(path: Path, images: Path) -> list[Path]:
    """The tables, beside a file of labels or in the folder of its images, that readers take splits and images from."""
    names = (STUDY_IMAGES, METADATA, SPLIT, *OTHERS)
    found = [table for place in (path.parent, images) for name in names for table in _tables(place, name)]
    return [table for table in dict.fromkeys(found) if table != path]


def _tables(place: Path, name: str) -> list[Path]:
    return sorted([*place.glob(name), *place.glob(f"{name}.gz")])


def _add_subject(subjects: dict[str, str], study: str, row: dict[str, str], where: str) -> None:
    """Note the patient of a study, if the row names one."""
    if row.get("subject_id") and study not in subjects:
        subjects[study] = fields.name(row, "subject_id", where)
