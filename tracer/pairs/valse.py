"""Reads VALSE's existence items as caption pairs, rephrased to equal token counts as Quantmeyer et al. 2024 did."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

from ...arguments import explains_arguments
from ...errors import DataFormatError
from ...io.json_lines import read_json, shown
from ...io.quoting import shown_path
from .pairs import Pair

__all__ = ["read_valse", "rephrase"]

MIN_VOTES = 2  # of 3 annotators who found that the caption, not the foil, describes the image


@explains_arguments
def read_valse(
    path: str | os.PathLike[str],
    images: str | os.PathLike[str] | None = None,
    count_tokens: Callable[[str], int] | None = None,
) -> list[Pair]:
    """Pairs of VALSE's ``existence.json`` that at least 2 of 3 annotators found valid, "are" rephrased to "are some".

    Sources: Parcalabescu et al. 2022, VALSE (MIT licence); Quantmeyer, Mosteiro, Gatt 2024 (arXiv 2407.10488), who
    keep mturk.caption >= 2, rephrase so that lengths match, and put the negation in the caption exactly for
    provenance zero_to_something. They always put the negated sentence's states into the affirmative one: trace pairs
    with ``negation == "foil"`` in direction "foil->correct" and those with "correct" in direction "correct->foil".

    images: folder of the image files; None leaves ``Pair.image`` empty, to be given by embeddings later.
    count_tokens: number of tokens of a text. With it, only pairs of "There is/are" with equal counts are kept; by
        CLIP's tokenizer 490 of 505 (250 with the negation in the caption, 240 in the foil), as published.

    Raises:
        DataFormatError: the file is missing, not JSON, or an item lacks a field; names the item.
    """
    file = Path(path)
    items = read_json(file)
    if not isinstance(items, dict):
        raise DataFormatError(f"{str(file)!r} is not VALSE: expected an object of items by name")
    pairs = []
    for name, item in items.items():
        try:
            if item["mturk"]["caption"] >= MIN_VOTES:
                pairs.append(_pair(name, item, images))
        except DataFormatError as error:
            raise DataFormatError(f"{shown_path(file)}, item {shown(name)}: {error}") from None
        except KeyError as error:
            raise DataFormatError(
                f"{shown_path(file)}, item {shown(name)}: field {error} is missing; this reads VALSE's existence.json, "
                f"`tracescribe.read` its other phenomena"
            ) from None
        except (TypeError, AttributeError) as error:
            raise DataFormatError(f"{shown_path(file)}, item {shown(name)}: a field is malformed: {error}") from None
    if count_tokens is None:
        return pairs
    return [
        pair
        for pair in pairs
        if pair.correct.startswith("There ") and count_tokens(pair.correct) == count_tokens(pair.foil)
    ]


def _pair(name: str, item: dict[str, Any], images: str | os.PathLike[str] | None) -> Pair:
    negation: Literal["correct", "foil"] = "correct" if item["provenance_of_foils"] == "zero_to_something" else "foil"
    correct, foil = item["caption"], item["foil"]
    if negation == "correct":
        foil = rephrase(foil)
    else:
        correct = rephrase(correct)
    return Pair(
        correct=correct,
        foil=foil,
        image=None if images is None else Path(images) / item["image_file"],
        id=name,
        group=item["image_file"],
        attribute="existence",
        negation=negation,
    )


def rephrase(affirmative: str) -> str:
    """The affirmative sentence with a word where its negation has "no", so that both have as many tokens.

    >>> rephrase("There are people in the picture.")
    'There are some people in the picture.'
    >>> rephrase("There is a dog.")
    'There is a dog.'
    """
    return (
        affirmative.replace("There are ", "There are some ", 1) if affirmative.startswith("There are ") else affirmative
    )
