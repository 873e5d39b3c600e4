"""The typer application: its commands, and the conversion of errors to a sentence and an exit code."""

from __future__ import annotations

import contextlib
import logging
import math
import os
import sys
import warnings
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer
import typer.core

from .. import __version__
from ..errors import OutputError, TracescribeError
from ..io.provenance import creation_time
from ..io.quoting import shown
from . import atlas as mapping
from . import build as building
from . import circuit as searching
from . import compare as comparing
from . import demo as demonstrating
from . import evaluate as scoring
from . import export as exporting
from . import faithfulness as judging
from . import finetune as training
from . import head_edges as path_patching
from . import info as describing
from . import knock_out as cutting
from . import negator_attention as attending
from . import neurons as finding
from . import plot as looking
from . import prescribe as prescribing
from . import report as reporting
from . import reproduce as reproducing
from . import study as comparing_training
from . import trace as tracing
from .streams import give_up_stdout, shortened, writable_streams

BAD_INPUT = 2
INTERRUPTED = 130  # the shell's code for a process stopped by Ctrl-C

SAID_OTHERWISE = ("tracescribe.finetune.prescription.prescribe",)


class _Stopped(Exception):
    """Ctrl-C, with what the command says about it."""


class _Commands(typer.core.TyperGroup):
    """typer answers Ctrl-C by leaving without a word."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt as stop:
            raise _Stopped(*stop.args) from None


app = typer.Typer(
    name="tracescribe",
    cls=_Commands,
    add_completion=False,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,  # help texts are plain: "[EOT]" must survive
    help="Trace which layers and tokens of a CLIP text encoder carry a distinction, and hand the finding to training.",
)
build = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Build data sets: phantoms, multiple choice, claims, pairs."
)

app.command()(demonstrating.demo)
app.command()(describing.info)
app.command()(tracing.trace)
app.command()(judging.faithfulness)
app.command()(searching.circuit)
app.command()(finding.neurons)
app.command("head-edges")(path_patching.head_edges)
app.command("knock-out")(cutting.knock_out)
app.command("negator-attention")(attending.negator_attention)
app.command()(looking.plot)
app.command()(prescribing.prescribe)
app.command()(training.finetune)
app.command()(exporting.export)
app.command()(comparing_training.study)
app.command()(mapping.atlas)
app.command()(scoring.evaluate)
app.command()(comparing.compare)
app.command()(reporting.report)
app.command()(reproducing.reproduce)
for one in (building.phantom, building.mednega, building.contextual, building.pairs):
    build.command(one.__name__)(one)
app.add_typer(build, name="build")


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"tracescribe {__version__}")
        raise typer.Exit


@app.callback()
def _root(
    version: Annotated[bool, typer.Option("--version", callback=_version, is_eager=True, help="The version.")] = False,
) -> None:
    creation_time()  # a bad SOURCE_DATE_EPOCH is found before any work
    try:
        Path.cwd()
    except FileNotFoundError:  # in which oneMKL ends the process
        raise OutputError("the current folder has been deleted: change to another one (cd)") from None


def run(arguments: Sequence[str]) -> int:
    """Run one command and return its exit code; an expected error is one sentence on stderr, never a traceback."""
    with writable_streams():
        return _run(arguments)


def _run(arguments: Sequence[str]) -> int:
    try:
        with warnings.catch_warnings(), _log_in_one_line():
            _warn_in_one_line()
            code = int(app(list(arguments), standalone_mode=False) or 0)
            sys.stdout.flush()  # or a full disk would be found after the last moment to say so
            return code
    except BrokenPipeError:  # `tracescribe ... | head`: nobody reads on
        give_up_stdout()
        return 1
    except (TracescribeError, OSError) as error:
        code = _refuse(_sentence(error))
        try:
            sys.stdout.flush()
        except OSError:  # it was stdout that could not be written
            give_up_stdout()
        return code
    except (_Stopped, KeyboardInterrupt, typer.Abort) as stop:
        return _refuse(str(stop) or "stopped; nothing half-written was left behind", INTERRUPTED)
    except Exception as error:
        # typer's own errors (a bad option, a missing argument) derive from click's in some versions and not in others.
        say = getattr(error, "format_message", None)
        bad = next((argument for argument in arguments if not _may_be_a_path(argument)), None)
        if say is None and isinstance(error, ValueError) and bad is not None:  # some versions of typer ask the system
            return _refuse(f"the argument {shown(bad)} has characters that no path has")
        if say is None:
            raise
        return _refuse(say())


def _may_be_a_path(argument: str) -> bool:
    try:
        return b"\0" not in os.fsencode(argument)
    except UnicodeEncodeError:  # a lone surrogate
        return False


def _refuse(sentence: str, code: int = BAD_INPUT) -> int:
    is_help = sentence.startswith("Usage:")  # no command was given
    sentence = sentence if is_help else shortened(sentence)
    _say(sentence if is_help else f"tracescribe: {sentence}")
    return code


def _say(sentence: str) -> None:
    """On stderr, if it can be written: a full disk there is no reason to fail."""
    with contextlib.suppress(OSError):
        typer.echo(sentence, err=True)


def _sentence(error: Exception) -> str:
    if isinstance(error, OSError) and error.strerror and error.filename is not None:
        return f"{error.strerror}: {str(error.filename)!r}"
    return str(error) or type(error).__name__


@contextlib.contextmanager
def _log_in_one_line() -> Iterator[None]:
    """The package's log from warnings up, on stderr, without what the commands or Python's warnings say already."""
    handler = logging.StreamHandler()
    handler.setLevel(logging.WARNING)
    handler.setFormatter(logging.Formatter("tracescribe: %(message)s"))
    handler.addFilter(lambda record: record.name not in SAID_OTHERWISE)
    logger = logging.getLogger("tracescribe")
    logger.addHandler(handler)
    try:
        yield
    finally:
        logger.removeHandler(handler)


def _warn_in_one_line() -> None:
    """Our warnings as one line each; libraries' deprecations are not the user's business."""
    for category in (DeprecationWarning, FutureWarning, PendingDeprecationWarning):
        warnings.simplefilter("ignore", category)

    counts = Counter[type[Warning]]()

    def show(message: Warning | str, category: type[Warning], *_: object, **__: object) -> None:
        counts[category] += 1
        most = getattr(category, "SHOWN", math.inf)  # of those that come once per text
        if counts[category] <= most:
            _say(f"tracescribe: warning: {message}")
        elif counts[category] == most + 1:
            _say("tracescribe: warning: further ones of this kind are not shown")

    warnings.showwarning = show
