"""Causal tracing of image towers: states of a counterfactual image are put into the image's run, layer by layer."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from jaxtyping import Bool, Float32, Int

from ...arguments import explains_arguments
from ...errors import DataFormatError, DegenerateTraceError, IdenticalPairError, TraceError
from ...io.json_lines import shown
from ...io.provenance import creation_time
from ...io.provenance import provenance as record
from ...validation import check_choice
from ..pairs.descriptions import descriptions
from ..pairs.image_pairs import ImagePair
from ..pairs.indexing import distinct
from ..pairs.roles import TokenKind
from ..pairs.unit_rows import normalise_rows
from ..results.causal_trace import CausalTrace, Scores
from ..results.metrics import METRICS
from ..results.scoring import score_maps
from .options import ImageDirection, ImageTraceOptions, PatchPath
from .progress import ProgressCallback, progress_bar

if TYPE_CHECKING:
    import torch

    from ...patching import Column, DualEncoder, ImageTower
    from .options import Regions

__all__ = ["trace_images"]

_CHUNK = 16  # image pairs whose pixels are held at once
_TOWER = ("causal", "pooling", "n_layers", "n_heads", "readout_layers", "grid", "cell", "image_size", "first")


@explains_arguments
def trace_images(
    model: DualEncoder,
    pairs: Sequence[ImagePair],
    *,
    positions: Regions = "each",
    stride: int = ImageTraceOptions.stride,
    grid: int | None = ImageTraceOptions.grid,
    site: str = ImageTraceOptions.site,
    window: int = ImageTraceOptions.window,
    direction: ImageDirection = ImageTraceOptions.direction,
    path: PatchPath = ImageTraceOptions.path,
    batch_size: int | Literal["auto"] = ImageTraceOptions.batch_size,
    dtype: torch.dtype | str | None = ImageTraceOptions.dtype,
    floor: float | None = ImageTraceOptions.floor,
    keep_embeddings: bool = ImageTraceOptions.keep_embeddings,
    seed: int = ImageTraceOptions.seed,
    progress: bool | ProgressCallback = True,
) -> CausalTrace:
    """Trace which layers and patches of the image tower carry what tells an image from its counterfactual.

    For every layer l (0 = embedding output) and patch p the counterfactual's hidden state replaces the image's, and
    CTE(l, p) = (S_image - S(l, p)) / (S_image - S_counterfactual), S being the cosine with the caption: the definition
    of NAST (arXiv 2602.12498), which leaves the image tower untraced, with the two images in the captions' place. The
    result is the same :class:`CausalTrace` ("correct" is the image, "foil" the counterfactual); its columns are the
    positions. ``trace.rescore(model.encode_texts([...]))`` judges by other captions without a new pass.

    Args:
        model: from :func:`tracescribe.load` or :func:`tracescribe.wrap`.
        pairs: :class:`ImagePair` objects, or mappings with their fields. Pairs of the same two images are patched once.
        positions: "each" position by itself; one set for all: "all", or "differing" (the patches whose pixels differ);
            or regions by name, each a boolean mask over the tower's grid of patches or a list of position numbers.
        stride: with "each", squares of this many patches a side are replaced together, for a coarser, cheaper map.
        grid: for a ResNet, a finer grid with fewer stages (see :mod:`tracescribe.patching.adapters.vision_resnet`).
        site, window, path, batch_size, dtype, floor, keep_embeddings, progress, seed: as in :func:`tracescribe.trace`.
        direction: whose states are put into whose run.

    Raises:
        DataFormatError: no pairs, an image that is missing or broken, or pixels of a shape the tower does not take.
        IdenticalPairError: the two images of a pair are the same pixels after preprocessing.
        UnsupportedTowerError: the model's image encoder is not read.
        SiteError, TraceError: the tower has no such site, grid, position or window.
        DegenerateTraceError: no pair reaches the floor.
        NonFiniteError, PatchDidNotFireError, TowerMismatchError: the engine's own checks failed.

    >>> import tracescribe as ts
    >>> from tracescribe.benchmark.phantom import counterfactual_pairs
    >>> trace = ts.trace_images(ts.load("phantom"), counterfactual_pairs(2), progress=False)
    >>> trace.cte.shape, trace.columns[-1]  # layers 0 (stem) to 4, the last stage's 2 x 2 cells
    ((2, 5, 4), 'patch 1,1')
    """
    from ...patching import PatchingEngine, Sweep, site_named

    options = ImageTraceOptions.given(locals())
    creation_time()  # it may be refused
    dtype = options.torch_dtype
    sweep = Sweep(site_named(options.site), options.window)
    tower = model.vision if options.grid is None else model.image_tower(options.grid)
    batch = _read(model, tower, _as_pairs(pairs))
    captions = _caption_embeddings(model, batch)
    columns, names = _columns(tower, batch, positions, options.stride)
    provenance = _provenance(model, tower, batch, captions)
    engine = PatchingEngine(tower, dtype=dtype)
    noising = options.direction == "counterfactual->image"
    found = []
    with progress_bar(progress, len(batch.examples), "image pairs") as advance:
        for chunk in _chunks(len(batch.examples)):
            image, other = _pixels(model, [batch.pairs[batch.examples[i]] for i in chunk])
            base, donor = (image, other) if noising else (other, image)
            done = engine.patch(
                base,
                donor,
                sweep=sweep,
                columns=[columns[i] for i in chunk],
                path=options.path,
                batch_size=options.batch_size,
                seed=options.seed,
                progress=_shifted(advance, chunk.start),
            )
            found.append(done)
    patched = np.concatenate([one.patched.cpu().float().numpy() for one in found])
    sides = [np.concatenate([getattr(one, side).cpu().float().numpy() for one in found]) for side in ("base", "donor")]
    correct, foil = sides if noising else sides[::-1]
    floor = METRICS["cosine"].floor if options.floor is None else options.floor
    kept: dict[str, Any] = {"embeddings": patched, "correct_embeddings": correct, "foil_embeddings": foil}
    kept |= {"target_embeddings": captions, "target": np.arange(len(captions))}
    every = np.ones((len(patched), len(names)), dtype=bool)
    scores = score_maps(captions, np.arange(len(captions)), batch.image_pair, correct, foil, patched, every)
    kinds = np.full((len(batch.pairs), tower.context_length), TokenKind.ORDINARY, dtype=np.int8)
    kinds[:, : len(tower.first)] = TokenKind.START
    measured = {
        "site": sweep.site.name,
        "first_layer": sweep.site.first_layer,
        "regions": None if isinstance(positions, str) and positions == "differing" else _regions(columns),
        "direction": "foil->correct" if noising else "correct->foil",
        "method": "exact",
        "path": found[0].path,
        "dtype": str(dtype or tower.dtype).removeprefix("torch."),
        "tf32": False,
    }
    result = CausalTrace(
        scores=Scores(correct=scores.correct, foil=scores.foil, patched=scores.patched),
        tokens=(tower.position_names,) * len(batch.pairs),
        foil_tokens=(tower.position_names,) * len(batch.pairs),
        differs=batch.differs,
        kinds=kinds,
        text_pair=batch.image_pair,
        ids=batch.ids,
        groups=batch.groups,
        provenance=provenance | options.recorded() | {"floor": floor, "metric": {"name": "cosine"}} | measured,
        **(kept if options.keep_embeddings else {}),
        columns=names,
        **descriptions(batch.pairs),
    )
    if not result.valid.any():
        raise DegenerateTraceError(
            f"none of the {len(batch.pairs)} image pairs can be traced: the largest |S_image - S_counterfactual| is "
            f"{np.abs(result.denominator).max():.1e}, below the floor {floor:g}, so that the captions do not "
            f"tell the images apart; use other captions or images, or lower floor="
        )
    return result


@dataclass(frozen=True, eq=False)
class _Batch:
    """Image pairs as the tower sees them. Those that several captions share are one image pair, patched once."""

    pairs: list[ImagePair]
    ids: tuple[str, ...]
    groups: tuple[str, ...]
    image_pair: Int[np.ndarray, "pair"]
    examples: list[int]  # a pair of each image pair
    differs: Bool[np.ndarray, "pair pos"]
    digest: str  # of all pixels


def _as_pairs(pairs: Any) -> list[ImagePair]:
    given = [pairs] if isinstance(pairs, (ImagePair, Mapping)) else list(pairs)
    out = []
    for i, pair in enumerate(given):
        if isinstance(pair, ImagePair):
            out.append(pair)
            continue
        if not isinstance(pair, Mapping):
            raise DataFormatError(
                f"image pair {i} is a {type(pair).__name__}, not an ImagePair: {shown(pair)}; give "
                f"ts.tracer.ImagePair(image=..., counterfactual=..., caption=...), or a mapping with these fields"
            )
        record = {str(name): value for name, value in pair.items()}
        try:
            out.append(ImagePair(**record))
        except DataFormatError as error:
            raise DataFormatError(f"image pair {i}: {error}") from None
    if not out:
        raise DataFormatError("there are no image pairs to trace: the list is empty")
    return out


def _read(model: DualEncoder, tower: ImageTower, pairs: list[ImagePair]) -> _Batch:
    """Read every image once, so that a bad one is found before anything is traced; pixels are not kept."""
    ids = tuple(str(i) if pair.id is None else pair.id for i, pair in enumerate(pairs))
    keys = []
    differs = np.zeros((len(pairs), tower.context_length), dtype=bool)
    for i, (pair, name) in enumerate(zip(pairs, ids, strict=True)):
        try:
            image, other = (side[0] for side in _pixels(model, [pair]))
            for pixels in (image, other):
                tower.shape_of(pixels)
        except DataFormatError as error:
            raise DataFormatError(f"image pair {name!r}: {error}") from None
        changed = (image != other).any(dim=0).cpu().numpy()
        if not changed.any():
            raise IdenticalPairError(
                f"image pair {name!r}: the image and its counterfactual are the same pixels to this model "
                f"({tower.image_size[0]} x {tower.image_size[1]} after preprocessing), so nothing can be traced"
            )
        differs[i, len(tower.first) :] = _by_cell(changed, tower).ravel()
        keys.append(hashlib.sha256(_bytes(image) + _bytes(other)).hexdigest())
    known, image_pair = distinct(keys)
    examples = np.unique(image_pair, return_index=True)[1].tolist()
    groups = tuple(name if pair.group is None else pair.group for pair, name in zip(pairs, ids, strict=True))
    digest = hashlib.sha256("".join(known).encode()).hexdigest()
    return _Batch(pairs, ids, groups, image_pair, examples, differs, digest)


def _pixels(model: DualEncoder, pairs: Sequence[ImagePair]) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    return [model.image.pixels(pair.image) for pair in pairs], [
        model.image.pixels(pair.counterfactual) for pair in pairs
    ]


def _bytes(pixels: torch.Tensor) -> bytes:
    """Of any dtype: NumPy has no bfloat16."""
    import torch

    return pixels.cpu().contiguous().view(torch.uint8).numpy().tobytes()


def _by_cell(changed: Bool[np.ndarray, "h w"], tower: ImageTower) -> Bool[np.ndarray, "row column"]:
    (rows, columns), (high, wide) = tower.grid, tower.cell
    return np.any(changed[: rows * high, : columns * wide].reshape(rows, high, columns, wide), axis=(1, 3))


def _caption_embeddings(model: DualEncoder, batch: _Batch) -> Float32[np.ndarray, "pair embed"]:
    """The unit-length caption of every pair; each text is encoded once."""
    texts = list(dict.fromkeys(pair.caption for pair in batch.pairs if isinstance(pair.caption, str)))
    encoded = dict(zip(texts, model.encode_texts(texts).float().cpu().numpy(), strict=True)) if texts else {}
    rows = []
    for pair, name in zip(batch.pairs, batch.ids, strict=True):
        if isinstance(pair.caption, str):
            rows.append(encoded[pair.caption])
            continue
        given = pair.caption.detach().cpu().double() if hasattr(pair.caption, "detach") else pair.caption
        row = np.asarray(given, dtype=np.float64)
        if row.shape != (model.embed_dim,):
            raise DataFormatError(
                f"image pair {name!r} has a caption embedding of shape {list(row.shape)}, but the model's are "
                f"[{model.embed_dim}]"
            )
        rows.append(normalise_rows(row[None], f"the caption embedding of image pair {name!r}")[0])
    return np.stack(rows)


def _columns(
    tower: ImageTower, batch: _Batch, positions: Regions, stride: int
) -> tuple[list[list[Column]], tuple[str, ...]]:
    """The engine's columns of every image pair, and their names."""
    from ...patching import Column

    if stride > 1 and not (isinstance(positions, str) and positions == "each"):
        raise TraceError(f"stride={stride} has no meaning without positions='each'")
    n = len(batch.examples)
    if isinstance(positions, Mapping):
        regions = {str(name): _region(tower, name, value) for name, value in positions.items()}
        if not regions:
            raise TraceError("positions={} names no region to replace")
        return [[Column(region) for region in regions.values()]] * n, tuple(regions)
    check_choice("positions", positions, ("each", "all", "differing"))
    if positions == "all":
        return [[Column(tuple(range(tower.context_length)))]] * n, ("all positions",)
    if positions == "differing":
        sets = [np.flatnonzero(batch.differs[pair]).tolist() for pair in batch.examples]
        empty = [batch.ids[pair] for pair, places in zip(batch.examples, sets, strict=True) if not places]
        if empty:
            raise TraceError(f"the images of pair {empty[0]!r} differ only outside the patches of this tower")
        return [[Column(tuple(places))] for places in sets], ("differing patches",)
    squares = list(_squares(tower, stride))
    return [[Column(square) for _, square in squares]] * n, tuple(name for name, _ in squares)


def _regions(columns: list[list[Column]]) -> list[list[int]]:
    """The positions of every column, for the provenance."""
    return [list(column.positions) for column in columns[0]]


def _squares(tower: ImageTower, stride: int) -> Iterator[tuple[str, tuple[int, ...]]]:
    """Name and positions of every token before the patches and every square of patches."""
    yield from ((name, (number,)) for number, name in enumerate(tower.first))
    rows, columns = tower.grid
    for top in range(0, rows, stride):
        for left in range(0, columns, stride):
            cells = [
                (r, c) for r in range(top, min(top + stride, rows)) for c in range(left, min(left + stride, columns))
            ]
            (r, c), (bottom, right) = cells[0], cells[-1]
            name = f"patch {r},{c}" if len(cells) == 1 else f"patches {r}-{bottom},{c}-{right}"
            yield name, tuple(len(tower.first) + r * columns + c for r, c in cells)


def _region(tower: ImageTower, name: Any, value: Any) -> tuple[int, ...]:
    mask = np.asarray(value)
    if mask.dtype == np.bool_:
        if mask.shape != tower.grid:
            raise TraceError(
                f"region {name!r} is a mask of shape {list(mask.shape)}, not of the grid {list(tower.grid)}"
            )
        chosen = len(tower.first) + np.flatnonzero(mask)
    else:
        chosen = np.unique(mask.ravel())
        if mask.size and not np.issubdtype(mask.dtype, np.integer):
            raise TraceError(f"region {name!r} must be a boolean mask over the grid or position numbers, not {value!r}")
    if not chosen.size or chosen.min() < 0 or chosen.max() >= tower.context_length:
        raise TraceError(
            f"region {name!r} holds {chosen.tolist() or 'no position'}; positions are numbered 0 to "
            f"{tower.context_length - 1}"
        )
    return tuple(chosen.tolist())


def _chunks(n: int) -> Iterator[range]:
    return (range(at, min(at + _CHUNK, n)) for at in range(0, n, _CHUNK))


def _shifted(advance: Callable[[int], None] | None, start: int) -> Callable[[int], None] | None:
    return None if advance is None else lambda done: advance(start + done)


def _provenance(model: DualEncoder, tower: ImageTower, batch: _Batch, captions: np.ndarray) -> dict[str, Any]:
    return record(
        model=model.name,
        modality="image",
        weights_sha256=tower.fingerprint(),
        pairs_sha256=hashlib.sha256(batch.digest.encode() + captions.tobytes()).hexdigest(),
        tower=tower,
        facts=_TOWER,
        logit_scale=model.stated_logit_scale,
    )
