"""Types of fields that all records share: names, texts, image paths."""

from __future__ import annotations

import os
from pathlib import Path, PureWindowsPath
from typing import Annotated, Any

import numpy as np
from pydantic import AfterValidator, BeforeValidator

from ...errors import DataFormatError
from ...io.quoting import shown, shown_path

__all__ = ["Name", "WholeText", "image_beside", "whole_characters"]


def _number_to_str(value: Any) -> Any:
    """Patient and study numbers are often written as numbers; they are names all the same."""
    is_number = isinstance(value, (int, np.integer)) and not isinstance(value, bool)
    return f"{value:d}" if is_number and abs(value) < 10**40 else value


def whole_characters(text: str) -> str:
    """The text, if it holds whole characters only; JSON can escape halves of them, which no UTF-8 file can hold."""
    try:
        text.encode("utf-8")
    except UnicodeEncodeError as error:
        raise ValueError(f"it holds {text[error.start]!a}, half of a character (a lone surrogate)") from None
    return text


WholeText = Annotated[str, AfterValidator(whole_characters)]
"""A text that a UTF-8 file can hold."""

Name = Annotated[WholeText, BeforeValidator(_number_to_str)]
"""A name, or a number that serves as one: 7 and numpy's int64(7) are "7"."""


def image_beside(folder: Path, name: str, where: str, *, outside: bool = False) -> Path:
    """The image file of that name in a data folder.

    where: file, line and field, for the errors.
    outside: accept a name that is absolute or leads out of the folder.

    Raises:
        DataFormatError: there is no such file, or it is outside the folder; links inside the folder are followed.
    """
    leads_out = Path(os.path.normpath(name)).parts[:1] == ("..",)
    if not outside and (leads_out or Path(name).is_absolute() or PureWindowsPath(name).anchor):
        raise DataFormatError(
            f"{where}: {shown(name)} leads out of the folder of the file; if you trust the file, read it with "
            f"outside_images=True (--outside-images)"
        )
    path = folder / name
    try:
        found = path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        found = False
    if not found:
        hint = "; separate folders by / instead of \\" if "\\" in name else ""
        hint = hint or "; images that are in another folder are found by images= (--images)"
        raise DataFormatError(f"{where}: there is no image file {shown_path(path)}{hint}")
    return path
