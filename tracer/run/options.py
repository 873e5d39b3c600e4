# ruff: noqa: RUF009 (`option` makes a dataclass field)
"""The options of tracing, each declared once: default, allowed values, meaning; with them its record and its flag.

:func:`tracescribe.trace`, :func:`tracescribe.trace_images`, the command line, the keys of the cache and the provenance
of a trace take them from here.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import Field, dataclass, field, fields
from typing import TYPE_CHECKING, Any, Literal, Self, get_args

from ...errors import TraceError
from ...io.json_lines import shown
from ...validation import (
    LARGEST,
    Allowed,
    Choice,
    Directions,
    Flag,
    FloatType,
    Folder,
    Nothing,
    Number,
    Text,
    Texts,
    Whole,
    Wholes,
    check_option,
)
from ..choices import METRIC_NAMES, Against
from ..pairs.directions import DIRECTIONS, Direction
from ..results.metric_options import CandidateList, MetricName

if TYPE_CHECKING:
    import os
    from collections.abc import Sequence

    import torch

    Positions = str | int | Sequence[int]
    Heads = Literal["each"] | int | Sequence[int] | None
    Keep = bool | Literal["auto"]
    Regions = Literal["each", "all", "differing"] | Mapping[str, Any]

__all__ = ["Declared", "ImageTraceOptions", "Options", "TraceOptions"]

Method = Literal["exact", "attribution", "direct"]
Align = Literal["none", "auto"]
PositionPolicy = Literal["shift", "keep"]
PatchPath = Literal["auto", "resume", "generic"]
Replace = Literal["foil", "zero", "mean", "resample", "cut"]
ImageDirection = Literal["counterfactual->image", "image->counterfactual"]

AUTO = Choice(("auto",))
GIB = 2**30


def _words(kind: Any) -> Choice:
    return Choice(get_args(kind))


def option(
    default: Any,
    *allowed: Allowed,
    help: str,
    recorded: str | bool = True,
    needs: tuple[str, str] | None = None,
) -> Any:
    """A field of options.

    allowed: what it may be. help: one sentence. recorded: whether a trace's provenance has it, or under which name.
    needs: another option and the value it must have for this one to mean anything.
    """
    return field(default=default, metadata={"allowed": allowed, "help": help, "recorded": recorded, "needs": needs})


@dataclass(frozen=True, kw_only=True)
class Declared:
    """Options that say themselves what is allowed. Every value is checked when they are made.

    Raises:
        TraceError: a value that is not allowed, or an option that means nothing beside the others; quotes it.
    """

    def __post_init__(self) -> None:
        for each in fields(self):
            value = check_option(each.name, getattr(self, each.name), each.metadata["allowed"])
            object.__setattr__(self, each.name, value)
        for each in fields(self):
            if getattr(self, each.name) != each.default and not self._has_meaning(each):
                other, needed = each.metadata["needs"]
                raise TraceError(
                    f"{each.name}= has no meaning with {other}={getattr(self, other)!r}: it belongs to "
                    f"{other}={needed!r}"
                )

    @classmethod
    def given(cls, arguments: Mapping[str, Any]) -> Self:
        """Options from a function's arguments, which may hold others too."""
        return cls(**{each.name: arguments[each.name] for each in fields(cls)})

    def recorded(self) -> dict[str, Any]:
        """What a trace's provenance says of the options, as JSON has it; None where one has no meaning."""
        found = {}
        for each in fields(self):
            if each.metadata["recorded"]:
                name = each.name if each.metadata["recorded"] is True else each.metadata["recorded"]
                value = getattr(self, each.name) if self._has_meaning(each) else None
                found[name] = list(value) if isinstance(value, tuple) else value
        return found

    def _has_meaning(self, each: Field[Any]) -> bool:
        needs = each.metadata["needs"]
        return needs is None or getattr(self, needs[0]) == needs[1]


@dataclass(frozen=True, kw_only=True)
class Options(Declared):
    """What :class:`TraceOptions` and :class:`ImageTraceOptions` share."""

    site: str = option(
        "resid",
        Text("the name of a site"),
        help="Which activation is replaced: resid, resid_pre, resid_mid, resid_post, attn, mlp, neurons, z, q, k, v, "
        "pattern; or edges, with replace=cut.",
    )
    window: int = option(1, Whole(1), help="Layers replaced together, centred on the layer.")
    path: PatchPath = option(
        "auto",
        _words(PatchPath),
        help="Run only what a patch can change (resume), or every cell from the start (generic).",
        recorded=False,  # the path that was taken is
    )
    batch_size: int | Literal["auto"] = option(
        "auto", Whole(1), AUTO, help="Pairs per batch; chosen by size and memory by default.", recorded=False
    )
    dtype: torch.dtype | str | None = option(
        None,
        Nothing(),
        FloatType(),
        help="Precision of the tower's passes; the tower's own by default.",
        recorded=False,  # the precision that was used is
    )
    floor: float | None = option(
        None,
        Nothing(),
        Number(0),
        help="Least |S_corr - S_foil| of a valid pair; by default the metric's, 1e-4.",
    )
    seed: int = option(0, Whole(0), help="Seed of the cells that are checked against the generic path.")

    @property
    def torch_dtype(self) -> torch.dtype | None:
        """The precision as torch has it."""
        import torch

        return None if self.dtype is None else getattr(torch, str(self.dtype))


@dataclass(frozen=True, kw_only=True)
class TraceOptions(Options):
    """The options of :func:`tracescribe.trace`, which says what each means.

    >>> TraceOptions(window=3).window, TraceOptions(positions=[3, -1]).positions
    (3, (3, -1))
    >>> TraceOptions(window=2.5)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: window must be a whole number >= 1, not 2.5
    >>> TraceOptions(steps=5)
    Traceback (most recent call last):
    tracescribe.errors.TraceError: steps= has no meaning with method='exact': it belongs to method='attribution'
    """

    positions: Positions | None = option(
        None,
        Nothing(),
        Text("the name of a set of tokens"),
        Whole(-LARGEST),
        Wholes(Whole(-LARGEST)),
        help='Each token by itself ("each"), or one set: all, differing, "from the first differing", a role such as '
        '"[end]", or token numbers.',
    )
    heads: Heads = option(
        None, Nothing(), Choice(("each",)), Whole(0), Wholes(), help='"each", or numbers; at z, q, k, v, pattern.'
    )
    align: Align = option(
        "none", _words(Align), help="Whether captions of different lengths are aligned or refused.", recorded=False
    )
    position_policy: PositionPolicy = option(
        "shift",
        _words(PositionPolicy),
        help="Whose places the donor's tokens take, where captions are aligned.",
        recorded="aligned",
        needs=("align", "auto"),
    )
    direction: Direction = option("foil->correct", Choice(DIRECTIONS), help="Whose states are put into whose run.")
    replace: Replace = option(
        "foil",
        _words(Replace),
        help="What goes in: the other caption's states, zeros, means over a pool of captions, or states of captions "
        "drawn from it; or, at site edges, attention is cut.",
    )
    queries: Positions | None = option(
        None,
        Nothing(),
        Text("the name of a set of tokens"),
        Whole(-LARGEST),
        Wholes(Whole(-LARGEST)),
        help='Tokens whose attention is cut ("[end]", "all", ...); the columns are what they may not read.',
        needs=("replace", "cut"),
    )
    pool: Sequence[str] | None = option(
        None,
        Nothing(),
        Texts("captions"),
        help="Captions of the pool; those of all pairs by default.",
        recorded=False,  # how many there are and their hash are
    )
    donors: int = option(
        1, Whole(1), help="Captions drawn per pair, whose scores are averaged.", needs=("replace", "resample")
    )
    directions: Any = option(
        None,
        Nothing(),
        Directions(),
        help="Only the component in the span of these directions is replaced.",
        recorded=False,  # how many there are and their hash are
    )
    method: Method = option(
        "exact",
        _words(Method),
        help="Replacements; gradients, with their agreement; or direct effects (path patching).",
    )
    steps: int = option(
        1, Whole(1), help="Gradients that are averaged, with attribution.", needs=("method", "attribution")
    )
    exact_sample: int = option(
        4,
        Whole(0),
        help="Text pairs whose exact maps an attribution is compared with; 0: none.",
        recorded=False,  # the agreement says how many there were
        needs=("method", "attribution"),
    )
    through_mlps: bool = option(
        False, Flag(), help="Let later MLPs recompute, with direct effects.", needs=("method", "direct")
    )
    metric: str = option(
        "cosine",
        MetricName(),
        help=f"What S is: {', '.join(METRIC_NAMES)}, or a registered function.",
        recorded=False,  # with its candidates
    )
    candidates: Any = option(
        None,
        Nothing(),
        CandidateList(),
        help="What a caption competes with, by margin, probability or rank: a .txt file of captions, or a .jsonl file "
        "of the candidates of each pair's id; by default the pair's foil.",
        recorded=False,
    )
    against: Against = option(
        "caption",
        _words(Against),
        help="Whether candidates compete with the caption, or with the pair's target.",
        recorded=False,
    )
    logit_scale: float | None = option(
        None,
        Nothing(),
        Number(1e-6),
        help="Factor of cosines in probabilities; the model's by default.",
        recorded=False,
    )
    memory: int = option(GIB, Whole(1), help="Bytes that tracing may take beside the model.", recorded=False)
    keep_embeddings: Keep = option(
        "auto", Flag(), AUTO, help="Keep the patched embeddings, to score other images later.", recorded=False
    )
    cache: str | os.PathLike[str] | None = option(
        None,
        Nothing(),
        Folder(),
        help="Folder that keeps what was traced: a stopped run goes on there, a second run is free, and several "
        "processes share one trace.",
        recorded=False,
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.method == "attribution":
            self._refuse(
                ("align", "cache", "metric", "replace", "directions"), "method='attribution': use method='exact'"
            )
        if self.method == "direct":
            self._refuse(("directions",), "method='direct': use method='exact'")
        if (self.site == "edges") != (self.replace == "cut"):
            raise TraceError(
                f"site 'edges' and replace='cut' belong together: attention edges are cut, and nothing else is; here "
                f"site={self.site!r} with replace={self.replace!r}"
            )
        if self.replace == "cut":
            self._refuse(("directions", "method"), "replace='cut': drop it")
        if self.queries == "each":
            raise TraceError("queries='each': a trace cuts one set of queries; ts.knock_out gives a trace for each row")
        if self.replace != "foil":
            self._refuse(("align",), f"replace={self.replace!r}: give pairs of equal lengths")
        if self.replace not in ("mean", "resample"):
            self._refuse(("pool",), f"replace={self.replace!r}: it belongs to replace='mean' and 'resample'")
        if self.donors > 1:
            self._refuse(("metric",), f"donors={self.donors}: only a cosine of the mean is the mean cosine")
        from ..results.scorer import check_metric

        check_metric(self.metric, self.candidates, self.against, self.logit_scale)

    def _refuse(self, names: Sequence[str], beside: str) -> None:
        """Refuse options that are not left at their defaults."""
        for name in names:
            if getattr(self, name) != getattr(type(self), name):
                raise TraceError(f"{name}={shown(getattr(self, name))} has no meaning with {beside}")

    @property
    def computation(self) -> str:
        """How a cell's numbers come about, beside where it is: a part of the cache's keys."""
        return f"{self.method} through MLPs" if self.through_mlps else self.method


@dataclass(frozen=True, kw_only=True)
class ImageTraceOptions(Options):
    """The options of :func:`tracescribe.trace_images`, which says what each means.

    ``positions`` and ``stride`` are checked against the tower's grid.
    """

    stride: int = option(1, Whole(1), help="Patches per side of a square that is replaced together.", recorded=False)
    grid: int | None = option(None, Nothing(), Whole(1), help="For a ResNet, a finer grid.", recorded=False)
    direction: ImageDirection = option(
        "counterfactual->image", _words(ImageDirection), help="Whose states are put into whose run.", recorded=False
    )
    keep_embeddings: bool = option(
        True, Flag(), help="Keep the patched embeddings, to score other captions later.", recorded=False
    )
