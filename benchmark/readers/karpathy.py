"""Karpathy's split of COCO, Flickr30k and Flickr8k: his own file, and the lists that ALBEF and BLIP made of it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from ...errors import DataFormatError
from ...io.quoting import shown
from ..records import RetrievalRecord, Split
from . import fields
from .images import ImageFolder
from .registry import LeftOut, Reader
from .source import Source

SPLITS: Mapping[str, Split] = {"train": "train", "restval": "train", "val": "val", "test": "test"}


def _is_his(source: Source) -> bool:
    # the first value of Karpathy's object is a list, which has no fields itself
    return (
        source.kind == "object"
        and not source.fields
        and {"filename", "sentences", "split"} <= source.fields_of("images")
    )


def _is_list(source: Source) -> bool:
    return source.kind == "array" and source.fields in (
        {"image", "caption"},  # of validation and test: all captions of an image
        {"image", "caption", "image_id"},  # of training: one
    )


def _his(source: Source, folder: ImageFolder) -> Iterator[RetrievalRecord | LeftOut]:
    """Images with all their captions. "restval" is of the training split, as everyone who used it took it."""
    for where, item in source.items_of("images"):
        split = fields.text(item, "split", where)
        if split not in SPLITS:
            raise DataFormatError(f"{where}: field 'split': expected {', '.join(SPLITS)}, not {shown(split)}")
        sentences = fields.field(item, "sentences", where)
        if not isinstance(sentences, list):
            raise DataFormatError(f"{where}: field 'sentences': expected a list, not {shown(sentences)}")
        captions = tuple(fields.text(sentence, "raw", where) for sentence in sentences)
        path = fields.text(item, "filename", where)
        if not captions:
            yield LeftOut(where, "the image has no caption")
            continue
        with fields.checked(where):
            yield RetrievalRecord(
                id=fields.name(item, "cocoid" if "cocoid" in item else "imgid", where),
                image=folder.find(f"{item['filepath']}/{path}" if item.get("filepath") else path),
                group=path,
                captions=captions,
                split=SPLITS[split],
            )


def _list(source: Source, folder: ImageFolder) -> Iterator[RetrievalRecord]:
    """Images with all their captions; those of an image that is listed once per caption are put together."""
    captions: dict[str, list[str]] = {}
    for where, item in source.records():
        path, given = fields.text(item, "image", where), fields.field(item, "caption", where)
        one = isinstance(given, str)
        texts = [fields.text(item, "caption", where)] if one else fields.text_list(item, "caption", where)
        captions.setdefault(path, []).extend(texts)
    for path, texts in captions.items():
        with fields.checked(f"{source.path}, image {shown(path)}"):
            yield RetrievalRecord(id=path, image=folder.find(path), group=path, captions=tuple(texts))


READERS = (
    Reader("karpathy", "Karpathy's split of COCO or Flickr30k: images with all their captions", _is_his, _his),
    Reader("karpathy-list", "The same as ALBEF's and BLIP's lists (coco_karpathy_test.json)", _is_list, _list),
)
