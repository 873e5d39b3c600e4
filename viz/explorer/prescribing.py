"""From what is shown to layer weights: alpha, multipliers, warnings, and each block's share of the update."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from jaxtyping import Float

from ...warn import heard

__all__ = ["Plan", "make_plan"]


@dataclass(frozen=True, eq=False)
class Plan:
    """A :class:`tracescribe.Prescription`, and what its update shares would be.

    shares: multipliers / their sum: each block's share of the update if all would change equally without the plan, and
        steps are scaled (``plan.attach(mode="update")``, ``plan.param_groups``). top: of the 3 and the 5 blocks of
        highest alpha.
    """

    plan: Any  # a Prescription, whose part of the package lies behind this one

    @property
    def shares(self) -> Float[np.ndarray, " block"]:
        return self.plan.multipliers / self.plan.multipliers.sum()

    @property
    def top(self) -> dict[int, float]:
        order = [block - 1 for block in self.plan.order]
        return {k: float(self.shares[order[:k]].sum()) for k in (3, 5) if k < len(order)}


def make_plan(source: Any, *, beta: float, aggregate: str, layers: str, normalize: str) -> Plan:
    """Prescribe from a trace or an excess.

    Raises:
        PrescriptionError: the source or an option defines no weights.
    """
    # an application over all parts, so that it may use the part behind viz: imported when it is called
    from ...finetune import prescribe

    with heard():
        plan = prescribe(source, aggregate=aggregate, layers=layers, normalize=normalize)
    return Plan(replace(plan, beta=beta))
