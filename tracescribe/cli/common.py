"""Shared by the commands: options, checks before long work, output for people and for machines."""

from __future__ import annotations

import contextlib
import json
import math
import sys
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from ..devices import check_device
from ..errors import OptionError as OptionError
from ..io.atomic import check_output as check_output  # for the commands
from ..progress import Bar, bars
from ..threads import spare_threads

if TYPE_CHECKING:
    from rich.console import Console, RenderableType
    from rich.table import Table

    from ..patching import DualEncoder

ModelName = Annotated[
    str,
    typer.Argument(
        metavar="MODEL",
        help='"phantom" (the shipped miniature), "open_clip:NAME", "hf:NAME", "st:FOLDER" (a sentence encoder), or a '
        'medical model such as "biomedclip".',
        show_default=False,
    ),
]
Pretrained = Annotated[
    str | None,
    typer.Option(
        help="open_clip's weights: a tag such as openai, or a checkpoint file; a medical model's local file or folder.",
        show_default=False,
    ),
]
RemoteCode = Annotated[
    bool,
    typer.Option("--trust-remote-code", help="Run Python code that a model's hub page ships. Off unless you read it."),
]
Device = Annotated[str, typer.Option(help="cpu, cuda, cuda:1, mps.")]
Json = Annotated[bool, typer.Option("--json", help="Print one JSON document and nothing else on stdout.")]
Seed = Annotated[int, typer.Option(min=0, max=2**63 - 1, help="Seed of everything random.")]
Split = Annotated[
    Literal["train", "val", "test", "all"], typer.Option(help="Which records; those without a split are always taken.")
]
ImagesFolder = Annotated[
    Path | None,
    typer.Option(
        "--images",
        help="The folder that image paths are relative to; by default that of the data.",
        exists=True,
        file_okay=False,
    ),
]
OutsideImages = Annotated[
    bool,
    typer.Option("--outside-images", help="Read images whose paths are absolute or lead out of the data's folder."),
]
Overwrite = Annotated[
    bool,
    typer.Option("--overwrite", help="Replace an earlier result of this command, if the folder holds nothing else."),
]
FIGURES = (".pdf", ".svg", ".eps", ".pgf", ".png")  # as of viz.export, which is not imported for them
FigureFile = Annotated[
    Path | None, typer.Option(help=f"Also a figure: {', '.join(FIGURES[:-1])} or {FIGURES[-1]}.", show_default=False)
]
PairsFile = Annotated[
    Path,
    typer.Argument(metavar="PAIRS", help="Pairs: .jsonl, .csv.", exists=True, dir_okay=False, show_default=False),
]
TraceFile = Annotated[
    Path,
    typer.Argument(metavar="TRACE", help="A saved trace.", exists=True, dir_okay=False, show_default=False),
]


def load_model(
    name: str, pretrained: str | None = None, device: str = "cpu", trust_remote_code: bool = False
) -> DualEncoder:
    """`tracescribe.load`, with the device checked first, in a sentence."""
    from ..patching import load

    check_device(device)
    model = load(name, pretrained=pretrained, device=device, trust_remote_code=trust_remote_code)
    spare_threads(model.text)
    return model


def show_progress(as_json: bool) -> bool:
    """Progress bars are for people: on a terminal, and never beside ``--json``."""
    return not as_json and sys.stderr.isatty()


@contextlib.contextmanager
def progress_bar(as_json: bool, name: str, total: int | None) -> Iterator[Bar]:
    """A bar on stderr of a terminal, nothing elsewhere."""
    with bars(show_progress(as_json)) as drawn:
        yield drawn.add(name, total)


def announce(as_json: bool) -> None:
    """Say on a terminal that libraries are loaded, before the imports that take seconds, the first time."""
    if show_progress(as_json) and "torch" not in sys.modules:
        typer.echo("loading libraries (torch, ...)", err=True)


@contextlib.contextmanager
def working(as_json: bool, message: str) -> Iterator[None]:
    """Say on a terminal what is being done; keep libraries' chatter out of stdout, which is for the result."""
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.redirect_stdout(sys.stderr))
        if message and show_progress(as_json):
            typer.echo(message, err=True)
        yield


def show(as_json: bool, document: Mapping[str, Any], *parts: RenderableType) -> None:
    """The result: one JSON document for machines, or ``parts`` drawn for people."""
    from rich.text import Text

    if as_json:
        utf8 = "utf" in (sys.stdout.encoding or "").lower()
        typer.echo(json.dumps(json_ready(document), ensure_ascii=not utf8, indent=2, allow_nan=False))
        return
    console = console_for_people()
    for part in parts:
        # A sentence is left to the terminal to wrap, so that a pipe gets it whole.
        console.print(Text(part) if isinstance(part, str) else part, soft_wrap=isinstance(part, str))


def console_for_people() -> Console:
    """stdout at the terminal's width; 120 columns where there is no terminal, so that tables survive a pipe."""
    from rich.console import Console

    return Console(highlight=False, width=None if sys.stdout.isatty() else 120)


def table(
    columns: list[str], rows: list[list[str]], left: int = 1, header: bool = True, unbroken: Collection[str] = ()
) -> Table:
    """A table of plain texts (no markup: a token may be "[b]"), its first ``left`` columns aligned left.

    unbroken: columns whose cells are copied, such as names of files; others go on in the next line for want of space.
    """
    from rich.table import Table
    from rich.text import Text

    drawn = Table(show_header=header)
    for index, name in enumerate(columns):
        drawn.add_column(
            Text(name), justify="left" if index < left else "right", overflow="fold", no_wrap=name in unbroken
        )
    for row in rows:
        drawn.add_row(*(Text(cell) for cell in row))
    return drawn


def json_ready(value: Any) -> Any:
    """``value`` as JSON has it: arrays become lists, NaN and infinity become null, paths become texts.

    >>> json_ready({"a": (1, float("nan")), "b": Path("x")})
    {'a': [1, None], 'b': 'x'}
    """
    if isinstance(value, Mapping):
        return {str(key): json_ready(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | set):
        return [json_ready(entry) for entry in value]
    if hasattr(value, "tolist"):  # numpy arrays and scalars
        return json_ready(value.tolist())
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if value is None or isinstance(value, bool | int | str):
        return value
    return str(value)
