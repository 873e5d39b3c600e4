"""Rivals of the trace: other ways to choose the blocks that train, under the same call, budget and checks.

Front and decayed layers know nothing of the data; gradients, Fisher information and the change of a short run do, and
need no pair of captions. A trace pays only where it does better than these.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np
from jaxtyping import Float

from ...errors import PrescriptionError
from ...io.quoting import shown
from ...validation import generator, is_number, is_whole
from .plan import Prescription
from .sources import Profile

By = Literal[
    "trace", "gradient", "fisher", "weight_change", "front", "decay", "random", "uniform", "permuted", "inverse"
]
CONTROLS = ("uniform", "permuted", "inverse")  # of the plan that the same source gives by its trace
N_BOOT = 1000


@dataclass(frozen=True)
class Fixed:
    """A choice of blocks that looks at no data: alpha by block, from the number of blocks and one option."""

    option: Literal["k", "decay"]
    alpha: Callable[[int, Any, int], np.ndarray]


def _front(n_blocks: int, k: int, seed: int) -> Float[np.ndarray, " block"]:
    return (np.arange(n_blocks) < k).astype(float)


def _random(n_blocks: int, k: int, seed: int) -> Float[np.ndarray, " block"]:
    alpha = np.zeros(n_blocks)
    alpha[generator(seed).choice(n_blocks, k, replace=False)] = 1
    return alpha


def _decay(n_blocks: int, decay: float, seed: int) -> Float[np.ndarray, " block"]:
    return decay ** np.arange(n_blocks - 1, -1, -1, dtype=float)


FIXED = {"front": Fixed("k", _front), "random": Fixed("k", _random), "decay": Fixed("decay", _decay)}


def check_by(by: Any, k: Any, decay: Any) -> None:
    """Raises PrescriptionError for an unknown selector, or an option that it does not take or that is out of range."""
    if not isinstance(by, str) or by not in get_args(By):
        raise PrescriptionError(f"unknown selector by={shown(by)}; choose one of: {', '.join(get_args(By))}")
    for name, value in (("k", k), ("decay", decay)):
        takes = [kind for kind, fixed in FIXED.items() if fixed.option == name]
        if value is not None and by not in takes:
            raise PrescriptionError(f"{name}={shown(value)} is used by the selectors {', '.join(takes)}, not by {by!r}")
        if value is None and by in takes:
            example = "by='front', k=4" if name == "k" else "by='decay', decay=0.8"
            raise PrescriptionError(f"the selector {by!r} needs {name}, such as {example}")
    if k is not None and not is_whole(k, least=1):
        raise PrescriptionError(f"k must be a whole number of blocks, at least 1, not {shown(k)}")
    if decay is not None and not (is_number(decay, most=1) and float(decay) > 0):
        raise PrescriptionError(f"decay must be a number above 0 and at most 1, not {shown(decay)}")


def fixed_alpha(by: str, n_blocks: int, k: int | None, decay: float | None, seed: int) -> np.ndarray:
    """alpha of a selector that looks at no data; see :func:`prescribe`."""
    fixed = FIXED[by]
    if fixed.option == "k" and k is not None:
        k = int(k)
        if k > n_blocks:
            raise PrescriptionError(f"k is {k}, but the text tower has {n_blocks} blocks")
    return fixed.alpha(n_blocks, k if fixed.option == "k" else decay, seed)


def measured_profile(by: str, source: Any, *, ci: float | None, seed: int) -> Profile:
    """The profile of a selector that was measured on training data; layer 0, which is no block, is NaN.

    Raises PrescriptionError for a source of another kind.
    """
    from ..apply.block_gradients import BlockGradients
    from ..apply.update_share import UpdateShare

    if by == "weight_change":
        if not isinstance(source, UpdateShare):
            raise PrescriptionError(
                f"by='weight_change' needs how much each block changed in a short uniform run (the result's `update`, "
                f"or tracescribe.finetune.update_share(before, after)), not {type(source).__name__}"
            )
        return _profile(source.size, None, {"source": "update_share"}, "the change of the weights")
    if not isinstance(source, BlockGradients):
        raise PrescriptionError(
            f"by={by!r} needs gradients by batch (tracescribe.finetune.block_gradients(model, loss, batches)), not "
            f"{type(source).__name__}"
        )
    values = source.relative if by == "gradient" else source.fisher  # [batch, block]
    draws = None
    if ci is not None and len(values) > 1:
        rng = generator(seed)
        draws = values[rng.integers(len(values), size=(N_BOOT, len(values)))].mean(axis=1)
    what = "the relative norm of the gradient" if by == "gradient" else "the Fisher information"
    about = {"source": "block_gradients", "n_batches": len(values), **source.provenance}
    return _profile(values.mean(axis=0), draws, about, what)


def _profile(
    values: Float[np.ndarray, " block"], draws: np.ndarray | None, about: dict[str, Any], quantity: str
) -> Profile:
    return Profile(
        np.concatenate([[np.nan], values]),
        "given",
        None if draws is None else np.pad(draws, ((0, 0), (1, 0)), constant_values=np.nan),
        provenance=about,
        quantity=quantity,
    )


def number_of_blocks(source: Any) -> tuple[int, dict[str, Any]]:
    """How many text blocks the source has, and what is known of it.

    source: the number itself, a model (DualEncoder, TextTower, source module), a trace, or a plan.

    Raises PrescriptionError for anything else.
    """
    from ...tracer import CausalTrace, Excess

    if isinstance(source, Prescription):
        return source.n_blocks, dict(source.provenance)
    if isinstance(source, Excess):
        source = source.trace
    if isinstance(source, CausalTrace):
        return int(source.layers[-1]), {"trace": dict(source.provenance)}
    if is_whole(source, least=2):
        return int(source), {}
    try:
        from torch.nn import Module

        from ...patching import DualEncoder, text_blocks

        if isinstance(source, Module | DualEncoder):
            return len(text_blocks(source)), {"model": str(getattr(source, "name", type(source).__name__))}
    except ImportError:  # plans can be made without torch
        pass
    raise PrescriptionError(
        f"cannot tell the number of text blocks from {shown(source)}; pass a model, a trace, a plan, or the number "
        "itself (at least 2)"
    )
