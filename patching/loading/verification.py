"""Verifies at load time that a tower computes what its source model computes."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from ...arguments import explains_arguments
from ...errors import (
    ContextOverflowError,
    DataFormatError,
    NonFiniteError,
    TowerMismatchError,
    TracescribeError,
    UnsupportedTowerError,
)
from ..adapters.base import Adapter, ImageReading
from ..adapters.weights import has_adapters
from ..adapters.wrappers import class_names
from ..torch_state import neutral_state
from ..towers.spec import TOLERANCE
from ..towers.text_tower import TextTower
from ..towers.tower import Tower, normalise

# Long and short, upper and lower case, digits and punctuation; an adapter's bug in masking or pooling needs no more.
SAMPLE_TEXTS = (
    "There is no effusion.",
    "a photo of a cat",
    "No pneumothorax, 2 small nodules in the left lung; heart size is normal.",
)
PADDING = 128  # positions of padding behind the longest sample text, at most

# how code fails that a model of another build is given to
_FAILURES = (AssertionError, AttributeError, IndexError, KeyError, RuntimeError, TypeError, ValueError)


def eagerly(source: nn.Module) -> AbstractContextManager[Any]:
    """A block in which no compiled code of ``source`` runs.

    Compiled code may skip hooks that were not there when it was compiled, and sums in another order.
    """
    compiled = any(
        module._compiled_call_impl is not None or "torch.OptimizedModule" in class_names(module)
        for module in source.modules()
    )
    # asked for only where something is compiled: it imports torch's compiler
    return torch.compiler.set_stance("force_eager") if compiled else nullcontext()


def taken_apart(adapter: Adapter, source: nn.Module) -> AbstractContextManager[None]:
    """A block that builds or runs a tower over ``source``.

    Raises:
        UnsupportedTowerError: it fails, since the source is built otherwise than the adapter takes for granted.
    """
    return _refusing(
        f"this {type(source).__name__} is built otherwise than the adapter {adapter.name!r} reads it",
        "docs/add_a_tower.md says how to add an adapter",
    )


def _encoding(source: nn.Module, what: str, given: str) -> AbstractContextManager[None]:
    """A block in which ``source``, whose code is not ours, encodes something.

    Raises:
        UnsupportedTowerError: it fails.
    """
    return _refusing(
        f"{type(source).__name__} cannot encode {what} itself, so that no tower can be compared with it",
        f"try its own encoder on {given}",
    )


@contextmanager
def _refusing(why: str, advice: str) -> Iterator[None]:
    try:
        yield
    except (TracescribeError, torch.OutOfMemoryError):
        raise
    except _FAILURES as error:
        raise UnsupportedTowerError(f"{why} ({type(error).__name__}: {str(error)[:200]}); {advice}") from error


def check_finite(tower: Tower) -> None:
    """Raise if a weight of the tower is NaN or infinite.

    Raises:
        NonFiniteError: names the first such weight.
    """
    for name, tensor in [*tower.named_parameters(), *tower.named_buffers()]:
        if not torch.isfinite(tensor).all():
            bad = int((~torch.isfinite(tensor)).sum())
            raise NonFiniteError(
                f"the {type(tower).__name__}'s weight {name!r} holds {bad} NaN or infinite values: {list(tensor.shape)}"
            )


@explains_arguments
@neutral_state()
def verify(
    tower: TextTower, adapter: Adapter, source: nn.Module, texts: Sequence[str] = SAMPLE_TEXTS
) -> dict[str, float]:
    """Compare the tower with the source model's own text encoder on ``texts``, stage by stage.

    Returns:
        The largest absolute difference of each stage: hidden states of layers 0..L (relative to the largest entry of
        that layer) and the L2-normalised embedding.

    Raises:
        NonFiniteError: a weight is NaN or infinite.
        UnsupportedTowerError: the source model fails on the texts, or says something else of a text that is padded.
        TowerMismatchError: the embeddings differ by more than the tolerance of the tower's precision; the message is
            a table of the differences by stage, so that the first wrong stage shows.
    """
    check_finite(tower)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a small vocabulary may not know the sample words; unknown ids serve as well
        fitting = [text for text in texts if _fits(tower, text)] or [text for text in ("",) if _fits(tower, text)]
        rows = tower.rows(fitting)
        if not fitting:  # a function that gives no token at all may stand in where only images are encoded
            width = 1 if tower.spec.padding == "own" else tower.context_length
            batches = [tower.collate([[tower.tokenizer.pad_id] * width])]
        elif adapter.own_length or tower.spec.padding == "own":  # padding would change what the source says
            batches = [tower.collate([tower.token_ids(text)]) for text in fitting]
        else:
            ids = tower.tokenize(fitting)
            # whether padding is hidden shows by some of it; thousands of positions (BGE-M3, ModernBERT) take minutes
            enough = max(map(len, rows)) + PADDING
            batches = [ids[:, :enough] if tower.spec.padding == "mask" else ids]
    reference = _untouchable(source)
    found = [_compared(tower, adapter, reference, ids) for ids in batches]
    # torch's maximum keeps a NaN, Python's may lose it
    by_stage = torch.tensor([differ for differ, _, _ in found], dtype=torch.float64).amax(dim=0).tolist()
    got, expected = torch.cat([ours for _, ours, _ in found]), torch.cat([theirs for _, _, theirs in found])
    differences = _judged(tower, adapter, source, by_stage, got, expected)
    _check_without_padding(tower, source, rows, expected)
    return differences


def _check_without_padding(tower: TextTower, source: nn.Module, rows: Sequence[list[int]], expected: Tensor) -> None:
    """Make sure that texts in their own length, as they are traced, have the embeddings that padded ones have.

    Raises:
        UnsupportedTowerError: padding reaches the readout of a model that should not see it.
    """
    if all(len(row) == tower.context_length for row in rows):
        return
    with neutral_state(tower):
        got = torch.cat([tower(tower.collate([row])) for row in rows])
    gap = float((normalise(got) - normalise(expected)).abs().max())
    if not gap <= TOLERANCE[tower.dtype]:
        raise UnsupportedTowerError(
            f"padding changes what {type(source).__name__} says of a text (its embedding by {gap:.1e}), though a model "
            f"that is read at {tower.pooling!r} should not see it: the tokenizer pads with id "
            f"{tower.tokenizer.pad_id}, which this model was not trained with; pass the tokenizer that belongs to it"
        )


def _compared(tower: TextTower, adapter: Adapter, source: nn.Module, ids: Tensor) -> tuple[list[float], Tensor, Tensor]:
    """Of one batch: the differences of the hidden states, the tower's embeddings and the source's."""
    stages = [adapter.embedding_stage(source), *((block, False) for block in dict.fromkeys(adapter.blocks(source)))]
    with neutral_state(source), eagerly(source), _encoding(source, "a text", f"{list(ids.shape)} token ids"):
        theirs, expected = _source_stages(stages, lambda: adapter.encode_text(source, ids))
    if adapter.sequence_first:
        theirs = [state.transpose(0, 1) for state in theirs]
    rows = tower.from_source(ids)
    with neutral_state(tower), taken_apart(adapter, source):
        ours, got = _tower_stages(tower, rows)
    if got.shape != expected.shape:
        raise TowerMismatchError(
            f"the tower built by the adapter {adapter.name!r} gives embeddings of shape {list(got.shape)} for "
            f"{len(ids)} texts, and {type(source).__name__} itself gives {list(expected.shape)}"
        )
    if len(theirs) != len(ours):
        raise TowerMismatchError(
            f"the adapter {adapter.name!r} names {len(ours)} modules of {type(source).__name__} that show layers 0 to "
            f"{tower.n_layers}, but encoding a text calls them {len(theirs)} times instead of once each: the adapter's "
            f"`blocks` or `embedding_stage` is wrong"
        )
    # where padding is masked out, what stands at it is nobody's business
    kept = torch.ones_like(rows, dtype=torch.bool)
    if tower.spec.padding == "mask" or tower.spec.appended:
        kept[:, : ids.shape[1]] = ids != tower.tokenizer.pad_id
    return [_relative(a, b, kept) for a, b in zip(ours, theirs, strict=True)], got, expected


@neutral_state()
def verify_images(reading: ImageReading, adapter: Adapter, source: nn.Module) -> dict[str, float]:
    """Compare an image tower with the source model's own image encoder on random pixels, stage by stage.

    Returns and raises what :func:`verify` does.
    """
    tower = reading.tower
    check_finite(tower)
    pixels = torch.randn(2, 3, *tower.image_size, generator=torch.Generator().manual_seed(0))
    pixels = pixels.to(tower.device, tower.dtype)
    reference = _untouchable(source)
    own = _encoding(source, "an image", f"{list(pixels.shape)} pixels")
    with neutral_state(reference), eagerly(reference), own:
        theirs, expected = _source_stages(reading.stages(reference), lambda: adapter.encode_image(reference, pixels))
    with neutral_state(tower), taken_apart(adapter, source):
        ours, got = _tower_stages(tower, pixels)
    stages_differ = [_relative(a, tower.as_positions(b)) for a, b in zip(ours, theirs, strict=True)]
    return _judged(tower, adapter, source, stages_differ, got, expected)


def _untouchable(source: nn.Module) -> nn.Module:
    """The model to compare with.

    peft's MultiheadAttention merges and unmerges its adapters in place at every forward pass, which moves the weights
    by rounding; a copy bears that, the user's model does not.
    """
    return copy.deepcopy(source) if has_adapters(source) else source


def _judged(
    tower: Tower, adapter: Adapter, source: nn.Module, by_stage: Sequence[float], got: Tensor, expected: Tensor
) -> dict[str, float]:
    """The differences by name, or an error if the embeddings differ too much."""
    differences = {f"layer {layer}": value for layer, value in enumerate(by_stage)}
    differences["embedding"] = float((normalise(got) - normalise(expected)).abs().max())
    tolerance = TOLERANCE[tower.dtype]
    if not differences["embedding"] <= tolerance:
        table = "\n".join(f"  {stage:<10} {value:.2e}" for stage, value in differences.items())
        raise TowerMismatchError(
            f"the {type(tower).__name__} built by the adapter {adapter.name!r} does not compute what "
            f"{type(source).__name__} computes: the embeddings differ by {differences['embedding']:.1e} (allowed "
            f"{tolerance:.0e}). Differences by stage:\n{table}"
        )
    return differences


def _fits(tower: TextTower, text: str) -> bool:
    try:
        tower.token_ids(text)
    except (ContextOverflowError, DataFormatError):  # too long, or without any token that the tokenizer knows
        return False
    return True


def _source_stages(
    stages: Sequence[tuple[nn.Module, bool]], encode: Callable[[], Tensor]
) -> tuple[list[Tensor], Tensor]:
    """The states that pass these modules (their input, or their output), and what the whole pass returns."""
    states: list[Tensor] = []

    def keep_input(module: nn.Module, args: tuple[Tensor, ...]) -> None:
        states.append(args[0])

    def keep_output(module: nn.Module, args: tuple[Tensor, ...], output: Tensor | tuple[Tensor, ...]) -> None:
        states.append(output if isinstance(output, Tensor) else output[0])

    handles = [
        module.register_forward_pre_hook(keep_input) if read_input else module.register_forward_hook(keep_output)
        for module, read_input in stages
    ]
    try:
        expected = encode()
        if not isinstance(expected, Tensor):
            raise TypeError(f"it gives a {type(expected).__name__} in place of a tensor of embeddings")
    finally:
        for handle in handles:
            handle.remove()
    return states, expected


def _tower_stages(tower: Tower, inputs: Tensor) -> tuple[list[Tensor], Tensor]:
    states: list[Tensor] = []
    handles = [
        block.hook_resid_pre.register_forward_hook(lambda m, a, out: states.append(out)) for block in tower.blocks
    ]
    last = tower.blocks[-1].hook_resid_post.register_forward_hook(lambda m, a, out: states.append(out))
    try:
        embedding = tower(inputs)
    finally:
        for handle in [*handles, last]:
            handle.remove()
    return states, embedding


def _relative(ours: Tensor, theirs: Tensor, kept: Tensor | None = None) -> float:
    if ours.shape != theirs.shape:
        return float("nan")
    scale = theirs.abs().max().clamp_min(torch.finfo(theirs.dtype).tiny)
    gap = ours - theirs
    return float((gap if kept is None else gap[kept]).abs().max() / scale)
