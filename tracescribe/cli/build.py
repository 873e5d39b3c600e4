"""`build`: data sets written to a folder."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .common import Json, Overwrite, Seed, progress_bar, show, working


def phantom(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="Created if missing.", show_default=False)],
    n: Annotated[int, typer.Option("-n", min=1, max=10**7, help="How many images.")] = 200,
    seed: Seed = 0,
    size: Annotated[int, typer.Option(min=16, max=1024, help="Pixels per side; the miniature reads 64.")] = 64,
    overwrite: Overwrite = False,
    json: Json = False,
) -> None:
    """Draw phantom chest radiographs with captions, pairs, claims and multiple-choice questions (PNG and JSONL).

    Example:  tracescribe build phantom data -n 500 --seed 1
    """
    from ..benchmark.phantom import build_phantom
    from ..benchmark.phantom.dataset import check_phantom

    check_phantom(folder, overwrite=overwrite)
    with working(json, ""), progress_bar(json, "drawing", n) as bar:
        build_phantom(folder, n, seed, size=size, overwrite=overwrite, progress=lambda done: bar.to(done, n))
    files = sorted(path.name for path in folder.iterdir() if path.is_file())
    show(
        json,
        {"folder": folder, "n": n, "seed": seed, "files": files},
        f"wrote {n} images and {', '.join(files)} to {folder}",
    )
