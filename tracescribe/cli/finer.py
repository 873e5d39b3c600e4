"""Shared by the commands of finer cells: model and pairs in; a result, a table and a figure out."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from ..io.tables import write_csv
from .common import (
    FIGURES,
    Device,
    FigureFile,
    ImagesFolder,
    Json,
    ModelName,
    OutsideImages,
    PairsFile,
    Pretrained,
    RemoteCode,
    announce,
    check_output,
    load_model,
    progress_bar,
    show,
    working,
)
from .declared import declared_flags
from .joint import Attribute

if TYPE_CHECKING:
    import pandas as pd
    from rich.console import RenderableType

    from ..patching import DualEncoder
    from ..tracer import HeadEdges, KnockOut, NegatorAttention, Neurons, Pair
    from ..tracer.run.options import Declared

__all__ = ["Measured", "finer_command", "interval", "records"]

Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Measured:
    """A result, and what of it is written and shown.

    numbers: all of it as a table, made when it is asked for. draw: writes the figure. document: for machines.
    shown: for people.
    """

    found: Neurons | HeadEdges | KnockOut | NegatorAttention
    numbers: Callable[[], pd.DataFrame]
    draw: Callable[[Path], object]
    document: Mapping[str, Any]
    shown: RenderableType


def finer_command(
    kind: type[Declared], bar_name: str
) -> Callable[[Callable[[DualEncoder, list[Pair], Any, Progress], Measured]], Callable[..., None]]:
    """A decorator that makes a command of a function of a model, pairs, options of ``kind``, and a progress callback.

    The command's help is the function's docstring.
    """

    def decorate(measure: Callable[[DualEncoder, list[Pair], Any, Progress], Measured]) -> Callable[..., None]:
        def command(
            model: ModelName,
            pairs: PairsFile,
            output: Annotated[Path, typer.Option("-o", "--output", help="Where the result goes: a .safetensors file.")],
            options: Any,
            out: Annotated[
                Path | None, typer.Option(help="Also every number as a table: .csv.", show_default=False)
            ] = None,
            figure: FigureFile = None,
            attribute: Attribute = None,
            images: ImagesFolder = None,
            outside_images: OutsideImages = False,
            pretrained: Pretrained = None,
            trust_remote_code: RemoteCode = False,
            device: Device = "cpu",
            json: Json = False,
        ) -> None:
            for path, suffixes in ((output, (".safetensors",)), (out, (".csv",)), (figure, FIGURES)):
                if path is not None:
                    check_output(path, suffixes, inputs=[pairs])
            announce(json)
            from ..tracer import read_pairs
            from .trace import of_attribute

            with working(json, f"reading {pairs}"):
                chosen = of_attribute(read_pairs(pairs, images=images, outside_images=outside_images), attribute, pairs)
            with working(json, f"loading {model}"):
                encoder = load_model(model, pretrained, device, trust_remote_code)
            with progress_bar(json, bar_name, 1) as bar:
                done = measure(encoder, chosen, options, lambda count, total: bar.to(count, total))
            done.found.save(output)
            if out is not None:
                write_csv(done.numbers(), out)
            if figure is not None:
                done.draw(figure)
            said = done.found.summary()
            document = {"output": output, "summary": said, **done.document}
            show(json, document, said, done.shown, f"saved {output}")

        command.__name__, command.__doc__ = measure.__name__, measure.__doc__
        return declared_flags(kind)(command)

    return decorate


def interval(row: Mapping[str, float]) -> str:
    """The interval of a line of a table, for people; a dash where all pairs are of one cluster.

    >>> interval({"lo": 0.1, "hi": 0.25}), interval({"lo": float("nan"), "hi": float("nan")})
    ('0.1000 … 0.2500', '–')
    """
    return f"{row['lo']:.4f} … {row['hi']:.4f}" if math.isfinite(row["lo"]) else "–"


def records(numbers: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a table, for JSON."""
    return list(numbers.to_dict(orient="records"))
