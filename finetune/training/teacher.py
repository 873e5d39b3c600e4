"""A teacher that follows the adapters slowly: their exponential moving average."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from jaxtyping import Float, Int
from torch import Tensor

from .accelerating import Embed


class Teacher:
    """The exponential moving average of adapters: of A and B each, as training changes them, not of their product.

    adapters: the parameters, by name, which the teacher equals at first. ema: how much of it stays in a step.
    """

    def __init__(self, adapters: Mapping[str, Tensor], ema: float) -> None:
        self._adapters, self._ema = adapters, ema
        self.weights = {name: weight.clone() for name, weight in adapters.items()}

    def embed(self, embed: Embed) -> Embed:
        """``embed`` with the teacher's weights in the place of the adapters, without gradients.

        To be called before a pass whose gradients are still wanted: it writes into the parameters, and back.
        """

        @torch.no_grad()
        def taught(wanted: Int[Tensor, " n"]) -> Float[Tensor, "n embed"]:
            students = {name: weight.clone() for name, weight in self._adapters.items()}
            try:
                self._put(self.weights)
                return embed(wanted)
            finally:
                self._put(students)

        return taught

    @torch.no_grad()
    def follow(self) -> None:
        """One step of the average."""
        for name, weight in self._adapters.items():
            self.weights[name].lerp_(weight, 1 - self._ema)

    def load(self, weights: Mapping[str, Tensor]) -> None:
        """Go back to weights of the same names."""
        for name, weight in weights.items():
            self.weights[name].copy_(weight)

    @torch.no_grad()
    def _put(self, weights: Mapping[str, Tensor]) -> None:
        for name, weight in self._adapters.items():
            weight.copy_(weights[name])
