"""The report page of a saved training run: what it did, what changed where, and how it came about."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from ...errors import DataFormatError
from ...io.folders import read_folder
from ...io.json_lines import read_json
from ...io.quoting import shown_path
from ..prescription.plan import Prescription
from .runs import CONFIG, FORMAT, LOG, NEEDED, OUTDATED, RESULT

if TYPE_CHECKING:
    from ...viz import Report, Section

__all__ = ["run_page"]


def run_page(folder: str | Path, *, title: str | None = None) -> Report:
    """The page of a folder that :meth:`TrainResult.save` wrote, for :func:`tracescribe.viz.report`.

    Raises:
        DataFormatError: the folder is no run, or its files are damaged.
    """
    import pandas as pd

    from ... import viz

    folder = Path(folder)
    manifest = read_folder(folder, FORMAT, needs=NEEDED, outdated=OUTDATED)
    config, result = read_json(folder / CONFIG), read_json(folder / RESULT)
    try:
        share = np.asarray(result["update"]["share"], dtype=np.float64)
        log = pd.read_csv(folder / LOG)
        history = {name: log[name].to_numpy(dtype=np.float64) for name in ("loss", "clip", "claim")}
        loss = history["loss"]
        base = dict(result["base"])
        multipliers = result["multipliers"]
        order = result["update"]["order"]
        seconds, effective = float(manifest.facts["seconds"]), float(result["update"]["effective_layers"])
        weighting = str(config["weighting"])
        first, last = float(loss[0]), float(loss[-1])
    except (KeyError, TypeError, ValueError, IndexError) as error:
        raise DataFormatError(f"{shown_path(folder)} holds no result of a run: {error!r}") from None
    name = str(config.get("model", "a model"))
    top = int(np.argmax(share)) + 1
    facts = [
        ("weighting", weighting),
        ("steps", f"{len(loss):,}"),
        ("loss, first and last step", f"{first:.3f} → {last:.3f}"),
        ("most changed", f"block {top} ({100 * share[top - 1]:.0f} %)"),
    ]
    lead = (
        f"{len(loss):,} steps with {weighting} weighting took the loss from {first:.3f} to {last:.3f}. Block {top} "
        f"changed most: {100 * share[top - 1]:.0f} % of the whole update; {effective:.1f} of {len(share)} blocks would "
        "have changed if all those that did had changed alike."
    )
    sections = [
        _losses(viz, history),
        _blocks(viz, share, multipliers, order),
        viz.Section(
            "How it came about",
            tables=[
                viz.Table([title, "value"], [[key, _text(value)] for key, value in told.items()])
                for title, told in (("option", config), ("base model", base))
            ],
            code=[
                "import tracescribe as ts\n\n"
                f"model = ts.finetune.load_run(ts.load({_name(name)}), {_name(folder.name)})"
            ],
        ),
    ]
    title = title if title is not None else f"Fine-tuning of {name}"
    return viz.Report(title, lead, sections, facts, f"{len(loss):,} steps in {seconds:.0f} s")


def _losses(viz: Any, history: dict[str, np.ndarray]) -> Section:
    steps = np.arange(1, len(history["loss"]) + 1)
    curves = {name: (steps, values) for name, values in history.items() if np.isfinite(values).any()}
    figure = viz.curves(curves, "step", "loss before the step")
    ends = ", ".join(f"{name} from {values[0]:.3f} to {values[-1]:.3f}" for name, (_, values) in curves.items())
    said = "The loss and its two parts before each step."
    return viz.Section("The loss", figures=[viz.Plot(figure, said, f"Lines of the losses by step: {ends}")])


def _blocks(viz: Any, share: np.ndarray, multipliers: list[float] | None, order: list[int] | None) -> Section:
    rank = {block: at + 1 for at, block in enumerate(order or [])}
    rows = [
        [block, 100 * value, None if multipliers is None else float(multipliers[block - 1]), rank.get(block)]
        for block, value in enumerate(share.tolist(), start=1)
    ]
    text = ["The share of a block is the norm of its change over the sum of all blocks' norms (NAST, Table 4)."]
    if order is not None:
        tops = [f"top {k}: {100 * sum(share[b - 1] for b in order[:k]):.1f} %" for k in (3, 5) if k <= len(order)]
        text.append(f"Of the blocks of highest CTE, {', '.join(tops)}.")
    weights = Prescription(np.ones(len(share)) if multipliers is None else np.asarray(multipliers))
    figure = viz.alpha_bars(weights, {"share of the update": share})
    alt = f"Bars of the multipliers and of the shares of the update; block {np.argmax(share) + 1} changed most."
    table = viz.Table(["block", "share of the update (%)", "multiplier", "rank by CTE"], rows)
    return viz.Section("What changed where", text=text, figures=[viz.Plot(figure, alt=alt)], tables=[table])


def _text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False, default=str)


def _name(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
