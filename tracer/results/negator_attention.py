"""How much more attention each head pays to the negator than to the word in its place, over pairs."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from jaxtyping import Float, Float32, Int

from ...arguments import explains_arguments
from ...errors import TraceError
from ...io.quoting import plural
from ...validation import is_share
from .array_file import ArrayFile, Facts
from .maps import TraceMap
from .pair_effects import check_shapes
from .read_only import ReadOnlyArrays, set_array
from .resampling import table_interval
from .statistics import PairTable, cluster_index, combine
from .trace_file import CheckedProvenance

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["NegatorAttention", "load_negator_attention"]

_AXES = {
    "selectivity": (np.float32, 3),
    "negated": (np.float32, 3),
    "affirmative": (np.float32, 3),
    "texts": (np.int64, 1),
}
_BOUNDS = {"lo": (np.float64, 2), "hi": (np.float64, 2)}
_ROUNDING = 1e-3  # of a softmax in bfloat16 or float16, in a sum of 1
Bounds = tuple[Float[np.ndarray, "layer head"], Float[np.ndarray, "layer head"]]


@dataclass(frozen=True, eq=False)
class NegatorAttention(ReadOnlyArrays):
    """How much more attention each head pays to the negator than to the affirmative caption's word in its place.

    selectivity: for each pair, the largest excess over the later queries: attention to the negator in the negated
        caption less attention to its counterpart in the affirmative one, by the same query position (-1 to 1).
    negated, affirmative: the largest attention that any later query pays to that token (0 to 1).
    negators: the two tokens that are compared, by pair. ids: of the pairs. groups: clusters of the bootstrap.
    texts: number of each pair's two captions. lo, hi: the ``ci`` percentile interval of :attr:`mean` over resampled
        groups and texts; None where none was asked for, and with one group.
    """

    selectivity: Float32[np.ndarray, "pair layer head"]
    negated: Float32[np.ndarray, "pair layer head"]
    affirmative: Float32[np.ndarray, "pair layer head"]
    negators: tuple[tuple[str, str], ...]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    texts: Int[np.ndarray, " pair"]
    ci: float | None = None
    lo: Float[np.ndarray, "layer head"] | None = None
    hi: Float[np.ndarray, "layer head"] | None = None
    provenance: dict[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name, (dtype, ndim) in _AXES.items():
            set_array(self, name, dtype, ndim)
        shape = self.negated.shape
        check_shapes(self, selectivity=shape, affirmative=shape, texts=shape[:1])
        if 0 in shape:
            raise TraceError("NegatorAttention needs at least one pair, one layer and one head")
        for name in ("negators", "ids", "groups"):
            if len(getattr(self, name)) != len(self.negated):
                raise TraceError(f"NegatorAttention.{name} has {len(getattr(self, name))} of {len(self.negated)} pairs")
        for name, least in (("negated", 0), ("affirmative", 0), ("selectivity", -1)):
            values = getattr(self, name)
            wrong = values[~((values >= least - _ROUNDING) & (values <= 1 + _ROUNDING))]
            if wrong.size:
                raise TraceError(f"NegatorAttention.{name} holds {wrong[0]:.6g}, but it lies between {least} and 1")
        # a difference of equal queries: no more than the negator gets, no less than the difference of both maxima
        excess = self.selectivity
        if (excess > self.negated).any() or (excess < self.negated - self.affirmative).any():
            raise TraceError("NegatorAttention.selectivity does not fit the attentions that it is a difference of")
        self._check_bounds()

    def _check_bounds(self) -> None:
        if self.ci is None and self.lo is None and self.hi is None:
            return
        if self.lo is None or self.hi is None or not is_share(self.ci):
            raise TraceError("an interval has lo, hi and a ci between 0 and 1, or none of the three")
        for name, (dtype, ndim) in _BOUNDS.items():
            set_array(self, name, dtype, ndim)
        check_shapes(self, lo=self.negated.shape[1:], hi=self.negated.shape[1:])
        if not np.less_equal(self.lo, self.hi).all():
            raise TraceError("NegatorAttention.lo must not lie above hi")

    @property
    def n_pairs(self) -> int:
        """Number of pairs."""
        return len(self.ids)

    @property
    def model(self) -> str:
        """The model's name."""
        return str(self.provenance.get("model") or "")

    @property
    def layers(self) -> Int[np.ndarray, "layer"]:
        """Numbers of the blocks, from 1."""
        return np.arange(1, self.negated.shape[1] + 1)

    @property
    def mean(self) -> Float[np.ndarray, "layer head"]:
        """Selectivity averaged over the pairs."""
        return combine(self._table())[0]

    def interval(self, ci: float = 0.95, n_boot: int = 1000, seed: int = 0) -> Bounds | None:
        """The interval of :attr:`mean` over resampled groups and texts; None with a single group."""
        groups = cluster_index(self.groups)[0]
        return table_interval(self._table(), groups, self.texts, ci=ci, n_boot=n_boot, seed=seed)

    def map(self) -> TraceMap:
        """Layer × head with its interval, for :func:`tracescribe.viz.heatmap`."""
        n_heads = self.negated.shape[2]
        return TraceMap(
            values=self.mean,
            rows=tuple(f"head {head}" for head in range(n_heads)),
            layers=self.layers,
            counts=np.full(n_heads, self.n_pairs),
            reduce="mean",
            align="head",
            n_pairs=self.n_pairs,
            quantity="attention to the negator − to its counterpart",
            lo=self.lo,
            hi=self.hi,
            ci=self.ci,
        )

    def to_frame(self) -> pd.DataFrame:
        """One line per head: layer, head, mean over the pairs, the two attentions it comes from, and its interval."""
        import pandas as pd

        mean = self.mean
        layer, head = (axis.ravel() for axis in np.indices(mean.shape))
        return pd.DataFrame(
            {
                "layer": self.layers[layer],
                "head": head,
                "selectivity": mean.ravel(),
                "negated": self.negated.mean(axis=0, dtype=np.float64).ravel(),
                "affirmative": self.affirmative.mean(axis=0, dtype=np.float64).ravel(),
                "lo": np.nan if self.lo is None else self.lo.ravel(),
                "hi": np.nan if self.hi is None else self.hi.ravel(),
                "n_pairs": self.n_pairs,
            }
        )

    def ranked(self) -> pd.DataFrame:
        """The lines of :meth:`to_frame`, the most selective head first."""
        return self.to_frame().sort_values("selectivity", ascending=False, kind="stable")

    def words(self, most: int = 3) -> str:
        """The first few of the distinct pairs of tokens that are compared, as "no / some, without / with, …"."""
        found = list(dict.fromkeys(f"{negator} / {other}" for negator, other in self.negators))
        return ", ".join(found[:most] + ["…"] * (len(found) > most))

    def summary(self) -> str:
        """How many pairs and heads there are, and the head that selects the negator most."""
        layer, head, value = self._highest()
        _, n_layers, n_heads = self.negated.shape
        return (
            f"{plural(self.n_pairs, 'pair')} ({self.words()}), {n_layers} layers × {n_heads} heads. The "
            f"most selective: layer {layer} head {head} with {value:.3f}"
        )

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write a safetensors file that :func:`tracescribe.tracer.load_negator_attention` reads back bit for bit.

        Raises:
            OutputError: nothing can be written at ``path``.
        """
        negators, counterparts = zip(*self.negators, strict=True)
        _FILE.write(path, {**vars(self), "negators": negators, "counterparts": counterparts})

    def report(self, path: str | os.PathLike[str]) -> Path:
        """Write a page about the heads as one HTML file; see :func:`tracescribe.viz.negator_attention_page`."""
        from ...viz import negator_attention_page, report

        return report(path, negator_attention_page(self))

    def _repr_html_(self) -> str:
        from ...viz.notebook.finer import negator_attention_html

        return negator_attention_html(self)

    def _table(self) -> PairTable:
        values = self.selectivity.astype(np.float64)
        return PairTable(values, np.ones((len(values), values.shape[2])), "mean_of_ratios")

    def _highest(self) -> tuple[int, int, float]:
        """Layer, head and value of the most selective head."""
        mean = self.mean
        layer, head = np.unravel_index(int(mean.argmax()), mean.shape)
        return int(self.layers[layer]), int(head), float(mean[layer, head])

    def __repr__(self) -> str:
        layer, head, value = self._highest()
        _, n_layers, n_heads = self.negated.shape
        return (
            f"NegatorAttention({plural(self.n_pairs, 'pair')}, {n_layers} layers × {n_heads} heads, "
            f"highest: layer {layer} head {head} with {value:.3f})"
        )


class _Facts(Facts):
    ci: float | None
    provenance: CheckedProvenance


_FILE = ArrayFile(
    "tracescribe.negator_attention/1",
    arrays={name: dtype for name, (dtype, _) in (_AXES | _BOUNDS).items()},
    texts=("negators", "counterparts", "ids", "groups"),
    facts=_Facts,
    optional=tuple(_BOUNDS),
)


@explains_arguments
def load_negator_attention(path: str | os.PathLike[str]) -> NegatorAttention:
    """Read a file of :meth:`NegatorAttention.save`.

    Raises:
        DataFormatError: no such file; it was cut short or changed, or holds something else.

    >>> load_negator_attention("no/such.safetensors")
    Traceback (most recent call last):
    tracescribe.errors.DataFormatError: cannot read 'no/such.safetensors': No such file or directory
    """

    def made(values: dict[str, Any]) -> NegatorAttention:
        negators = tuple(zip(values.pop("negators"), values.pop("counterparts"), strict=True))
        return NegatorAttention(**values, negators=negators)

    return _FILE.read(path, made)
