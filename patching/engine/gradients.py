"""Attribution patching: first-order estimates of every patch of a sweep, from a few forward and backward passes."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from ...cards import short_repr
from ...errors import NonFiniteError, SiteError
from ..resume.clean_run import CleanRun, run_clean
from ..resume.known_cells import RUN
from ..sites import Column, Site, Sweep
from ..torch_state import neutral_state
from ..towers.tower import normalise
from .batching import TARGET_ROWS, Prepared
from .buckets import Bucket
from .engine import PatchingEngine


@dataclass(frozen=True, eq=False)
class FirstOrder:
    """First-order effects of every patch on the cosine similarity with the directions of each pair.

    base, donor: the L2-normalised embeddings of the clean runs. effects: by pair; what is to be added to the base's
    similarity. fixed: by pair, True where the exact result is the base or the donor run by construction.
    """

    base: Float[Tensor, "text_pair embed"]
    donor: Float[Tensor, "text_pair embed"]
    effects: list[Float[Tensor, "_ layer _"]]  # (direction, layer, column), of each pair its own number
    fixed: list[Bool[Tensor, "layer _"]]

    __repr__ = short_repr


class AttributionEngine(PatchingEngine):
    """Gradient times difference instead of a replacement: attribution patching.

    For a state h of the base run that a patch replaces by the donor's h', S changes by about <dS/dh, h' - h> (Nanda
    2023, "Attribution patching"; Kramár et al. 2024, AtP*, arXiv 2403.00745). One forward and one backward pass give
    the gradients of all layers and positions. ``steps`` > 1 averages them over inputs between base and donor,
    interpolated at layer 0, which helps where a gradient vanishes at the base (EAP-IG; Hanna, Pezzelle, Belinkov 2024,
    arXiv 2403.17806).

    >>> import tracescribe as ts
    >>> text = ts.load("phantom").text
    >>> base, donor = text.rows(["There is no opacity.", "There is severe opacity."])
    >>> target = text.encode(["The lungs are clear."])
    >>> found = AttributionEngine(text).attribute([base], [donor], [target])
    >>> list(found.effects[0].shape)  # 1 direction, layers 0..8, 8 tokens
    [1, 9, 8]
    >>> float(found.effects[0][0, :, :3].abs().max())  # before the first difference nothing differs
    0.0
    """

    def attribute(
        self,
        base: Sequence[Any],
        donor: Sequence[Any],
        directions: Sequence[Float[Tensor, "_direction embed"]],
        *,
        sweep: Sweep | None = None,
        columns: Sequence[Sequence[Column]] | None = None,
        steps: int = 1,
        batch_size: int | Literal["auto"] = "auto",
        progress: Callable[[int], None] | None = None,
    ) -> FirstOrder:
        """First-order effects of the patches that :meth:`PatchingEngine.patch` runs.

        Args:
            base, donor, sweep, columns, batch_size, progress: as in :meth:`PatchingEngine.patch`.
            directions: for each pair the unit vectors (image embeddings) whose cosine with the text is S. They share
                the forward passes, and their backward passes run as one; more of them than the embedding has
                dimensions cost no more than those dimensions.
            steps: gradients that are averaged. 1: the base's own. N > 1: at the N midpoints of the path, so that the
                error of the integral falls with 1/N².

        Raises:
            SiteError: as in :meth:`PatchingEngine.patch`; a window, or fewer than 1 step.
            LengthMismatchError: a pair's rows have different lengths or are read out at different positions.
            NonFiniteError: a gradient is NaN or infinite.
        """
        sweep = sweep or Sweep()
        if steps < 1:
            raise SiteError(f"steps must be a number of gradients >= 1, not {steps!r}")
        if sweep.window > 1:
            raise SiteError(
                f"window={sweep.window} has no first-order effect that is a sum over layers (each layer's replacement "
                f"undoes what those before it did to the same state): use window=1, or method='exact'"
            )
        prepared = self.prepare(base, donor, sweep=sweep, columns=columns, batch_size=batch_size)
        self._spell_out(sweep)
        effects: dict[int, Tensor] = {}
        fixed: dict[int, Tensor] = {}
        ends: dict[int, tuple[Tensor, Tensor]] = {}
        for shard in prepared.shards:
            with neutral_state(self.tower, grad=True):
                towards = {i: directions[i].to(self.tower.device).clone() for i in shard}
                for members in _with_equally_many(prepared.buckets(shard), towards):
                    spans = [_spanning(towards[i]) for i in members]
                    bucket, changes = self._first_order(prepared, members, spans, steps)
                    require_finite(changes)
                    known = torch.from_numpy(bucket.known(self.tower, sweep) != RUN)
                    clean, other = normalise(bucket.base.embedding), normalise(bucket.donor_embedding)
                    for at, i in enumerate(members):
                        of_pair = changes[:, at]
                        many = len(towards[i]) > len(of_pair)
                        effects[i] = (
                            torch.einsum("de,elc->dlc", towards[i].to(of_pair.dtype), of_pair) if many else of_pair
                        )
                        fixed[i], ends[i] = known[at], (clean[at], other[at])
            if progress:
                progress(len(effects))
        if not effects:
            raise ValueError("there is no text pair to patch")
        order = range(len(base))
        return FirstOrder(
            base=torch.stack([ends[i][0] for i in order]),
            donor=torch.stack([ends[i][1] for i in order]),
            effects=[effects[i] for i in order],
            fixed=[fixed[i] for i in order],
        )

    def _first_order(
        self,
        prepared: Prepared,
        members: list[int],
        directions: Sequence[Float[Tensor, "direction embed"]],
        steps: int,
    ) -> tuple[Bucket, Float[Tensor, "direction batch layer column"]]:
        """Effects for pairs of one shape that have equally many directions."""
        columns = [prepared.columns[i] for i in members]
        (ours, base, donor), total = self._products(prepared, members, directions, steps)
        bucket = Bucket(members, ours, base, donor, columns)
        weights = total.new_zeros(len(members), len(columns[0]), *total.shape[3:])
        for pair, of_pair in enumerate(columns):
            for number, column in enumerate(of_pair):
                parts = slice(None) if column.head is None else column.head
                weights[pair, number, list(column.positions), parts] = 1
        # direction, text pair, layer, position, head or neuron, column
        return bucket, torch.einsum("dtlph,tcph->dtlc", total, weights)

    def _products(
        self,
        prepared: Prepared,
        members: list[int],
        directions: Sequence[Float[Tensor, "direction embed"]],
        steps: int,
    ) -> tuple[tuple[Tensor, CleanRun, CleanRun], Float[Tensor, "direction batch layer pos part"]]:
        """Inputs and clean runs of pairs of one shape, and <gradient, difference> of every state at the site."""
        sweep = prepared.sweep
        ours, theirs = (self.tower.collate([side[i] for i in members]) for side in (prepared.base, prepared.donor))
        keep = sweep.site.hook if sweep.site.residual is None else None
        with torch.no_grad():
            donor = run_clean(self.tower, theirs, keep)
            start = self.tower.embed(ours)
            # the pass for the gradient is the base's own run if there is no other point on the path
            base = run_clean(self.tower, ours, keep) if steps > 1 else None
        towards = torch.stack(list(directions), dim=1)  # (direction, batch, embed)
        total: Tensor | None = None
        for share in [(step + 0.5) / steps for step in range(steps)] if steps > 1 else [0.0]:
            embedded = (start + share * (donor.resid[0] - start)).requires_grad_()  # the graph begins at layer 0
            run = run_clean(self.tower, ours, keep, embedded=embedded)
            base = base or _without_graph(run)
            differences = [h - state for h, state in zip(_states(donor, sweep), _states(base, sweep), strict=True)]
            products = [
                torch.stack([_product(sweep.site, *pair) for pair in zip(gradients, differences, strict=True)], dim=2)
                for gradients in self._gradients(run, sweep, towards)
            ]
            total = torch.cat(products) if total is None else total + torch.cat(products)
        assert base is not None and total is not None
        return (ours, base, donor), total / steps

    def _gradients(
        self, run: CleanRun, sweep: Sweep, towards: Float[Tensor, "direction batch embed"]
    ) -> Iterator[list[Float[Tensor, "direction batch *state"]]]:
        """dS/dstate at every layer of the sweep, for as many directions at a time as fill a matrix product."""
        states, embedding = _states(run, sweep), normalise(run.embedding)
        size = max(1, TARGET_ROWS // run.resid[0][..., 0].numel())
        chunks = towards.to(embedding.dtype).split(size)
        for number, chunk in enumerate(chunks):
            found = torch.autograd.grad(
                embedding,
                states,
                chunk,
                retain_graph=number < len(chunks) - 1,
                is_grads_batched=True,
                allow_unused=True,  # states after the last one that is read out
            )
            yield [
                state.new_zeros(len(chunk), *state.shape) if gradient is None else gradient
                for gradient, state in zip(found, states, strict=True)
            ]


def require_finite(changes: Tensor) -> None:
    if not torch.isfinite(changes).all():
        raise NonFiniteError(
            "a gradient of the similarity is NaN or infinite: check the text tower's weights, or use "
            "dtype=torch.float32 if they are in half precision"
        )


def _with_equally_many(buckets: Sequence[Sequence[int]], directions: Mapping[int, Tensor]) -> Iterator[list[int]]:
    """The pairs of each bucket, by the number of backward passes that their directions need."""
    for members in buckets:
        alike: dict[int, list[int]] = {}
        for i in members:
            alike.setdefault(min(directions[i].shape), []).append(i)
        yield from alike.values()


def _spanning(directions: Float[Tensor, "direction embed"]) -> Float[Tensor, "fewer embed"]:
    """The directions, or the embedding's axes if there are fewer of those: effects are linear in the direction."""
    many, axes = directions.shape
    return directions if many <= axes else torch.eye(axes, dtype=directions.dtype, device=directions.device)


def _states(run: CleanRun, sweep: Sweep) -> list[Tensor]:
    """The activations of a run that the sweep replaces, layer by layer."""
    site = sweep.site
    if site.residual is None:
        return list(run.site)
    first = site.first_layer + site.residual
    return list(run.resid)[first : first + site.n_layers(len(run.resid) - 1)]


def _without_graph(run: CleanRun) -> CleanRun:
    resid, site = ([state.detach() for state in states] for states in (run.resid, run.site))
    return CleanRun(resid, site, run.pooled, run.embedding.detach())


def _product(site: Site, gradient: Tensor, difference: Tensor) -> Float[Tensor, "direction batch pos part"]:
    """<gradient, difference> of each position and head or neuron (one, at sites that have neither)."""
    wide = torch.promote_types(gradient.dtype, torch.float32)
    product = gradient.to(wide) * difference.to(wide)
    if site.parts == "neuron":
        return product
    product = product.sum(dim=-1)
    if site.name == "pattern":  # [head, query, key]
        return product.transpose(-1, -2)
    return product if site.by_head else product[..., None]
