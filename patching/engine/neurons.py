"""Attribution of single neurons: gradient times difference of every activation inside the MLPs."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Literal

from jaxtyping import Float
from torch import Tensor

from ..sites import Sweep, site_named
from ..torch_state import neutral_state
from .gradients import AttributionEngine, require_finite


class NeuronAttribution(AttributionEngine):
    """First-order effects of replacing single neurons, as :class:`AttributionEngine` has them for other states.

    A neuron is one activation that an MLP's last linear layer reads, behind the activation function (and behind the
    gate, in MLPs that have one). MLPs are linear in their neurons, so that the effects of a token's neurons add up to
    the first-order effect of the MLP's output.

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> target = text.encode(["The lungs are clear."])[0]
    >>> [(number, effects)] = NeuronAttribution(text).by_neuron([base], [donor], [target])
    >>> number, list(effects.shape)  # blocks 1..8, 8 tokens, 256 neurons
    (0, [8, 8, 256])
    """

    def by_neuron(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        directions: Sequence[Float[Tensor, " embed"]],
        *,
        steps: int = 1,
        batch_size: int | Literal["auto"] = "auto",
    ) -> Iterator[tuple[int, Float[Tensor, "layer pos neuron"]]]:
        """What each neuron's replacement adds to <embedding, direction>, pair by pair; embeddings have length 1.

        Args:
            base, donor, steps, batch_size: as in :meth:`AttributionEngine.attribute`.
            directions: one of any length for each pair. The effects are linear in it, so that the sum of several
                images' embeddings gives the sum of their effects from one backward pass.

        Raises:
            SiteError: the tower's blocks are not taken apart.
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            NonFiniteError: a gradient is NaN or infinite.
        """
        prepared = self.prepare(base, donor, sweep=Sweep(site_named("neurons")), batch_size=batch_size)
        self._spell_out(prepared.sweep)
        for shard in prepared.shards:
            found: list[tuple[int, Tensor]] = []
            with neutral_state(self.tower, grad=True):
                for members in prepared.buckets(shard):
                    towards = [directions[i].to(self.tower.device).clone()[None] for i in members]
                    _, products = self._products(prepared, members, towards, steps)
                    require_finite(products)
                    found += zip(members, products[0], strict=True)
            yield from found
