"""CC-Neg (Singh et al. 2024, CoN-CLIP): a file of torch.save with captions of CC-3M and their negated versions."""

from __future__ import annotations

from collections.abc import Iterator

from ...errors import DataFormatError
from ...tracer import Pair
from . import fields
from .images import ImageFolder
from .registry import Reader
from .source import Source

N_EVALUATED = 40_000
"""Records at the end of the file that CoN-CLIP evaluates on; it trains on the others."""

NEEDS = ("image_paths", "annotations")


def _matches(source: Source) -> bool:
    return source.kind == "tensors" and source.fields >= set(NEEDS)


def _records(source: Source, folder: ImageFolder) -> Iterator[Pair]:
    """The caption is true; the foil negates an object that the image shows. Read without executing anything.

    As in CoN-CLIP's own data sets, the negated caption has no commas and the last 40,000 records are the test split.
    """
    paths = fields.field(source.first, "image_paths", str(source.path))
    items = fields.field(source.first, "annotations", str(source.path))
    if not isinstance(paths, list | tuple) or not isinstance(items, list | tuple):
        raise DataFormatError(f"{source.path}: fields 'image_paths' and 'annotations': expected two lists")
    if len(paths) != len(items):
        raise DataFormatError(f"{source.path}: {len(paths)} image_paths for {len(items)} annotations")
    for number, (path, item) in enumerate(zip(paths, items, strict=True)):
        where = f"{source.path}, annotation {number}"
        image = fields.text({"image_paths": path}, "image_paths", where)
        with fields.checked(where):
            yield Pair(
                correct=fields.text(fields.field(item, "json", where), "caption", where),
                foil=fields.text(fields.field(item, "sop_data", where), "negative-prompt", where).replace(",", ""),
                image=folder.find(image),
                id=str(number),
                group=image,
                attribute="existence",
                negation="foil",
                split="test" if number >= len(items) - N_EVALUATED else "train",
            )


READERS = (Reader("cc-neg", "CC-Neg: captions and their negated versions", _matches, _records, NEEDS),)
