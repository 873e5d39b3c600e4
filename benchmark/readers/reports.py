"""Open-i's reports as the National Library of Medicine ships them: XML files, or the .tgz archive of all of them."""

from __future__ import annotations

import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from ...errors import DataFormatError
from ...io.packed import BROKEN
from ...io.quoting import shown, shown_path
from ...io.reading import open_regular

__all__ = ["is_report", "read_reports"]

LONGEST_REPORT = 2**20  # bytes; the published ones have some thousand
MOST_BYTES = 2**30  # of the archive


def is_report(path: Path) -> bool:
    """Whether a file's name says that it is an XML report, or an archive of them."""
    return path.name.lower().endswith((".xml", ".tgz", ".tar.gz"))


def read_reports(path: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """Name and content of every report, in the fields of the CSV that is made of them (uid, MeSH), and its images.

    No text of a report is read. Nothing is unpacked to the disk.

    Raises:
        DataFormatError: the file cannot be read, is no archive, or holds something that is no report.
    """
    with open_regular(path, MOST_BYTES) as handle:
        if path.suffix.lower() == ".xml":
            yield path.name, _report(handle.read(LONGEST_REPORT + 1), str(path))
            return
        try:
            with tarfile.open(fileobj=handle, mode="r:*") as archive:
                for member in archive:
                    content = archive.extractfile(member) if member.name.lower().endswith(".xml") else None
                    if content is not None:
                        text = content.read(LONGEST_REPORT + 1)
                        yield member.name, _report(text, f"{path}, file {shown(member.name)}")
        except (tarfile.TarError, *BROKEN) as error:
            raise DataFormatError(f"cannot read {shown_path(path)}: {str(error)[:200]}") from None


def _report(text: bytes, where: str) -> dict[str, Any]:
    if len(text) > LONGEST_REPORT:
        raise DataFormatError(f"{where}: an XML report of more than {LONGEST_REPORT:,} bytes")
    if b"<!ENTITY" in text.replace(b"\0", b""):  # also in UTF-16
        raise DataFormatError(f"{where}: an XML file that defines entities is not read")
    try:
        root = ElementTree.fromstring(text)  # without entities there is nothing to expand or to fetch
    except (ElementTree.ParseError, ValueError, LookupError) as error:
        raise DataFormatError(f"{where}: not XML: {error}") from None
    found = root.find(".//uId")
    if root.tag != "eCitation" or found is None:
        raise DataFormatError(f"{where}: not a report of Open-i (expected eCitation with uId)")
    terms = [(node.text or "").strip() for node in root.findall(".//MeSH/major")]
    images = [node.get("id", "") for node in root.findall(".//parentImage")]
    return {
        "uid": found.get("id", "").strip().removeprefix("CXR"),
        "MeSH": ";".join(term for term in terms if term),
        "images": [image for image in images if image],
    }
