"""Sites: which activation of a block is replaced, and how a sweep over layers, positions and heads is specified."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

from ..arguments import explains_arguments
from ..errors import SiteError
from ..io.quoting import shown


@dataclass(frozen=True)
class Site:
    """One kind of activation that can be replaced.

    name: as users write it. hook: TransformerLens' name of the hook point inside a block.
    first_layer: number of the first layer of a map. Layer l of the residual stream is the state after block l (0: the
        embedding output); layer l of any other site lies inside block l.
    residual: offset from the map's layer number to the number of the residual state; None where it is no such state.
    parts: what the axis after the positions holds, one of which can be replaced alone; None where there is no such
        axis. of_queries: its rows are queries, of which the last block computes only the one that is read out.
    """

    name: str
    hook: str
    first_layer: int = 1
    residual: int | None = None
    parts: Literal["head", "neuron"] | None = None
    of_queries: bool = True

    @property
    def by_head(self) -> bool:
        """Whether one head can be replaced alone."""
        return self.parts == "head"

    def n_layers(self, n_blocks: int) -> int:
        """Length of the layer axis of a map."""
        return n_blocks + 1 - self.first_layer


SITES = {
    site.name: site
    for site in (
        Site("resid", "hook_resid_pre", first_layer=0, residual=0, of_queries=False),
        Site("resid_pre", "hook_resid_pre", residual=-1, of_queries=False),
        Site("resid_mid", "hook_resid_mid"),
        Site("resid_post", "hook_resid_post", residual=0),
        Site("attn", "hook_attn_out"),
        Site("mlp", "hook_mlp_out"),
        Site("neurons", "mlp.hook_post", parts="neuron"),
        Site("z", "attn.hook_z", parts="head"),
        Site("q", "attn.hook_q", parts="head"),
        Site("k", "attn.hook_k", parts="head", of_queries=False),
        Site("v", "attn.hook_v", parts="head", of_queries=False),
        Site("pattern", "attn.hook_pattern", parts="head"),
    )
}
EDGES = Site("edges", "attn.hook_pattern", parts="head")  # from queries to keys; they are cut, not replaced
ALIASES = {"head": "z", "attn_out": "attn", "mlp_out": "mlp"}  # other names in the field


def site_named(name: str) -> Site:
    """The site of that name, or of another name that the field has for it.

    Raises:
        SiteError: there is none.

    >>> site_named("z").hook
    'attn.hook_z'
    >>> site_named("head").name
    'z'
    >>> site_named("residual")
    Traceback (most recent call last):
    tracescribe.errors.SiteError: unknown site 'residual'; choose one of: resid, resid_pre, resid_mid, resid_post, ...
    """
    name = ALIASES.get(name, name)
    if name == EDGES.name:
        return EDGES
    if name not in SITES:
        raise SiteError(f"unknown site {name!r}; choose one of: {', '.join((*SITES, EDGES.name))}")
    return SITES[name]


class Column(NamedTuple):
    """One column of a map: the positions that are replaced together, in one head or in all.

    At site "neurons" ``head`` is the number of a neuron. At site "edges" the positions are keys, and ``queries`` the
    positions that may not attend to them.
    """

    positions: tuple[int, ...]
    head: int | None = None
    queries: tuple[int, ...] | None = None


@dataclass(frozen=True)
class Sweep:
    """Which patches are run for a text pair: every layer of ``site``, in windows, at every column.

    window: number of consecutive layers that are replaced together, centred on the layer as in ROME (Meng et al. 2022,
        arXiv 2202.05262): layers l - window // 2 to l + ceil(window / 2) - 1, cut off at the ends.
    """

    site: Site = SITES["resid"]
    window: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.window, bool) or not hasattr(self.window, "__index__") or self.window < 1:
            raise SiteError(f"window must be a number of layers, a whole number >= 1, not {shown(self.window)}")

    def layers(self, at: int, n_blocks: int) -> range:
        """The layers replaced together for index ``at`` of the layer axis, as indices of that axis.

        >>> [list(Sweep(window=3).layers(at, n_blocks=4)) for at in range(5)]
        [[0, 1], [0, 1, 2], [1, 2, 3], [2, 3, 4], [3, 4]]
        """
        low = at - self.window // 2
        return range(max(0, low), min(self.site.n_layers(n_blocks), low + self.window))

    def events(self, at: int, n_blocks: int) -> list[tuple[int, str]]:
        """Where index ``at`` of the layer axis is replaced: (number of the block from 0, hook point in it)."""
        found = []
        for block in self.layers(at, n_blocks):
            # the last residual state is no block's input
            found.append((block, self.site.hook) if block < n_blocks else (n_blocks - 1, "hook_resid_post"))
        return found


@explains_arguments
def each_position(lengths: Sequence[int], head: int | None = None) -> list[list[Column]]:
    """One column for every position of rows of these lengths."""
    return [[Column((position,), head) for position in range(length)] for length in lengths]


def check_column(column: Column, length: int, site: Site, n_parts: int) -> None:
    """Refuse a column that a row of ``length`` tokens and blocks of ``n_parts`` heads (or neurons) do not have.

    Raises:
        SiteError: no such position, head or neuron; quotes it.
    """
    if (column.queries is None) == (site is EDGES):
        raise SiteError(f"queries belong to the columns of site 'edges', here: {column.queries} at site {site.name!r}")
    outside = [position for position in (*column.positions, *(column.queries or ())) if not 0 <= position < length]
    if outside or not column.positions:
        raise SiteError(f"there is no position {outside or 'at all'} to replace in a row of {length} tokens")
    if column.head is not None and site.parts is None:
        raise SiteError(f"site {site.name!r} has no heads, so that head {column.head} cannot be replaced in it")
    if column.head is not None and not 0 <= column.head < n_parts:
        raise SiteError(f"there is no {site.parts} {column.head}: this tower's blocks have {n_parts}")
