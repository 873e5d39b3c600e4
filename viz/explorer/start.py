"""`explore`: from a model and, if wanted, pairs to an interactive explorer in a notebook."""

from __future__ import annotations

import os
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from ...arguments import explains_arguments
from ...errors import FigureError
from ...io.quoting import shown
from ...tracer.pairs.directions import Direction
from ...tracer.pairs.pairs import Pair
from ...validation import Nothing, Number, check_option
from . import targets
from .session import ExplorerSession
from .settings import Settings

if TYPE_CHECKING:
    from ...patching import DualEncoder
    from .widget import Explorer

__all__ = ["explore", "make_session"]

PairsOrFile = Sequence[Pair] | str | os.PathLike[str]

CAPTIONS = ("There is severe effusion.", "There is no effusion.")
FILM = 24  # of the phantom: it has what the captions are about
TEXT = "The heart is large."


@explains_arguments
def explore(
    model: DualEncoder,
    pairs: PairsOrFile | None = None,
    compare: DualEncoder | Mapping[str, DualEncoder] | None = None,
    *,
    control: PairsOrFile | None = None,
    correct: str | None = None,
    foil: str | None = None,
    target: Any = None,
    candidates: Iterable[str] = (),
    direction: Direction = "foil->correct",
    site: str = "resid",
    metric: str = "cosine",
    logit_scale: float | None = None,
    floor: float | None = None,
) -> Explorer:
    """An explorer of a model's text encoder for a notebook: type two captions, see their map, ask, compare, prescribe.

    Args:
        model: from :func:`tracescribe.load` or :func:`tracescribe.wrap`.
        pairs: a data set: pairs, or the path of a file that :func:`tracescribe.read_pairs` reads. Its pairs are
            presets, and it can be traced as a whole.
        compare: another model, or several by name, such as the fine-tuned one; maps are then shown as A, B and B − A.
        control: pairs (or a file) whose map a switch subtracts: swaps of ordinary words.
        correct, foil: the captions to begin with; those of the first pair by default.
        target: what they are judged by at the start: a path, a PIL image, an embedding, or ``ts.Text``.
        candidates: captions that are ranked beside the two.
        direction, site: as in :func:`tracescribe.trace`; both can be changed on the page.
        metric: what S is: "cosine", or "margin", "probability" or "rank" among the foil and the candidates; can be
            changed on the page.
        logit_scale: factor of cosines in probabilities; the model's own by default. Encoders of texts alone have none.
        floor: as in :func:`tracescribe.trace`.

    Everything is computed by the API in a background thread of the kernel; "copy as code" shows by which calls. The
    page needs no network. It needs anywidget: ``pip install 'tracescribe[jupyter]'``.

    Raises:
        FigureError: anywidget is missing, or an argument is not what it should be.
        DataFormatError: pairs, control or target cannot be read.

    Example::

        import tracescribe as ts

        model = ts.load("phantom")
        ts.viz.explore(model)
    """
    arguments = {
        "control": control,
        "correct": correct,
        "foil": foil,
        "target": target,
        "candidates": candidates,
        "direction": direction,
        "site": site,
        "metric": metric,
        "logit_scale": logit_scale,
        "floor": floor,
    }
    try:
        from .widget import Explorer
    except ImportError as error:
        if (error.name or "").partition(".")[0] not in ("anywidget", "traitlets", "ipywidgets"):
            raise
        raise FigureError(
            f"explore() needs {error.name}, which is not installed: run  pip install 'tracescribe[jupyter]'"
        ) from None
    return Explorer(make_session(model, pairs, compare, **arguments))


def make_session(
    model: DualEncoder,
    pairs: PairsOrFile | None = None,
    compare: DualEncoder | Mapping[str, DualEncoder] | None = None,
    *,
    control: PairsOrFile | None = None,
    correct: str | None = None,
    foil: str | None = None,
    target: Any = None,
    candidates: Iterable[str] = (),
    direction: str = "foil->correct",
    site: str = "resid",
    metric: str = "cosine",
    logit_scale: float | None = None,
    floor: float | None = None,
) -> ExplorerSession:
    """The session of :func:`explore`, without a page; it takes the same arguments and raises the same errors."""
    from ...tracer.run.options import TraceOptions

    _check_model(model, "model")
    data = _read(pairs)
    models = _models(compare)
    first = data[0] if data else None
    given = target if target is not None else None if first is None else first.image
    settings = Settings(
        correct=correct if correct is not None else CAPTIONS[0] if first is None else first.correct,
        foil=foil if foil is not None else CAPTIONS[1] if first is None else first.foil,
        direction=direction,
        site=site,
        metric=metric,
    )
    scale: float | None = check_option("logit_scale", logit_scale, (Nothing(), Number(1e-6)))
    session = ExplorerSession(
        model,
        settings,
        _target(given, model, from_pairs=target is None),
        pairs=data,
        models=models,
        control=_read(control),
        candidates=_captions(candidates),
        options=TraceOptions(floor=floor),
        logit_scale=scale,
        files={
            name: os.fspath(given)
            for name, given in (("pairs", pairs), ("control_pairs", control))
            if isinstance(given, str | os.PathLike)
        },
    )
    if first is not None and correct is None and foil is None and target is None:
        session.preset_shown = 0
    return session


def _check_model(model: Any, name: str) -> None:
    from ...patching import DualEncoder

    if not isinstance(model, DualEncoder):
        raise FigureError(f"{name} must be a model from ts.load(...) or ts.wrap(...), not {shown(model)}")


def _captions(candidates: Iterable[str]) -> tuple[str, ...]:
    if isinstance(candidates, str):
        raise FigureError(f"candidates must be a list of captions, not the single text {shown(candidates)}")
    if not isinstance(candidates, Iterable):
        raise FigureError(f"candidates must be a list of captions, not {shown(candidates)}")
    found = tuple(candidates)
    for caption in found:
        if not isinstance(caption, str):
            raise FigureError(f"candidates must be a list of captions; {shown(caption)} is none")
    return found


def _read(pairs: PairsOrFile | None) -> list[Pair]:
    from ...tracer.pairs.batch import as_pairs
    from ...tracer.pairs.pairs import read_pairs

    if pairs is None:
        return []
    return read_pairs(pairs) if isinstance(pairs, str | os.PathLike) else as_pairs(pairs)


def _models(compare: Any) -> dict[str, DualEncoder]:
    if compare is None:
        return {}
    found = dict(compare) if isinstance(compare, Mapping) else {"B": compare}
    for name, other in found.items():
        if not isinstance(name, str) or not name.strip():
            raise FigureError(f"compare: {shown(name)} is no name of a model")
        _check_model(other, f"compare[{shown(name)}]")
    return found


def _target(given: Any, model: DualEncoder, *, from_pairs: bool) -> targets.Target:
    """The target to begin with: what was given, a phantom film for the miniature, or else a text."""
    if given is None:
        return targets.film(FILM) if model.name == "phantom" else targets.text(TEXT)
    return targets.of_pair(given, 0) if from_pairs else targets.of_object(given)
