"""The command line: ``tracescribe`` and ``python -m tracescribe`` call `main`."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["main"]


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and leave the process: exit code 0, or 2 and one sentence on stderr for bad input.

    ``arguments`` are those after the program's name, ``sys.argv[1:]`` by default.
    """
    import sys

    from .app import run

    raise SystemExit(run(sys.argv[1:] if arguments is None else arguments))
