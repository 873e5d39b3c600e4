"""The data of faithfulness curves: CTE of joint patches over the number of cells."""

from __future__ import annotations

from ...errors import FigureError
from ...tracer.results.faithfulness import RANDOM, Faithfulness
from ...tracer.results.maps import LayerProfile
from .labels import plural, quoted
from .profile import ProfileData

__all__ = ["faithfulness_data"]

_NAMES = {
    "sufficiency": {"effect": "first k patched", "magnitude": "first k by |CTE|", RANDOM: "random k"},
    "necessity": {
        "effect": "all but first k patched",
        "magnitude": "all but first k by |CTE|",
        RANDOM: "all but random k",
    },
}


def faithfulness_data(source: Faithfulness, title: str | None, ci: float | None, n_boot: int, seed: int) -> ProfileData:
    """The curves of both kinds, by CTE, by \\|CTE\\| where that is another order, and at random.

    Raises:
        FigureError: something else than a Faithfulness.
    """
    if not isinstance(source, Faithfulness):
        raise FigureError(f"cannot draw the faithfulness of {quoted(source)}; give what ts.faithfulness returns")
    orders: list[str] = [name for name in ("effect", "magnitude") if name in source.orders]
    if len(orders) == 2 and (source.permutations[0] == source.permutations[1]).all():
        orders = orders[:1]
    if any(name.startswith(f"{RANDOM} ") for name in source.orders):
        orders.append(RANDOM)
    series, areas = [], []
    for curve, names in _NAMES.items():
        for order in orders:
            one = source.curve(curve, order, ci, n_boot, seed)
            drawn = LayerProfile(one.value, one.sizes, "joint patch", one.lo, one.hi, ci=one.ci, n_pairs=source.n_pairs)
            series.append((names.get(order, order), drawn))
            areas.append(f"{names.get(order, order)}: CPR {one.cpr:.2f}, CMD {one.cmd:.2f}")
    told = source.provenance
    notes = [f"{plural(source.n_pairs, 'pair')}, {plural(len(source.cells), 'cell')}", *areas]
    if any(curve.ci is not None for _, curve in series):
        notes.append(f"band: {ci or 0:.0%} bootstrap interval; of random orders: lowest to highest")
    site = f", site {told['site']}" if "site" in told else ""
    model = f" · {told['model']}" if told.get("model") else ""
    name = f"Faithfulness of the map{site}{model}" if title is None else title
    axis = f"cells (of {len(source.cells)}), k"
    return ProfileData(tuple(series), "CTE of the joint patch", name, tuple(notes), axis=axis, unit="k =")
