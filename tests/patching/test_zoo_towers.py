"""Every model of the zoo: verified, patched as plain hooks on the source patch it, listed in docs/tower_table.md."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import torch
from zoo import Entry, entries
from zoo.hooks import patched_by_hooks

import tracescribe as ts
from tracescribe.errors import UnsupportedTowerError
from tracescribe.patching import Column, PatchingEngine, Sweep, TextTower, site_named

TABLE = Path(__file__).parents[2] / "docs" / "tower_table.md"
WRITE = "TRACESCRIBE_WRITE_TABLES"  # set it to write the table instead of comparing it
TEXTS = ("there is no edema in here", "there is some mass in here")
VERIFIED = 1e-5
TOLERANCE = 2e-5  # on S; float32 and other orders of summation over a few small blocks give about 1e-6

# Sources that no tower reads, each with the reason; at most 5 of open_clip's list may stand here.
UNSUPPORTED: dict[str, str] = {}


HEAD = f"""# Every model a tower was built for, and what was checked

Written by the tests (`make tables`), which fail when it is out of date. Every source is a randomly
initialised model of the real class and configuration, shrunk in width and depth. *Verified*: the tower's
embeddings differ from the source's own by at most {VERIFIED:.0e}. *Sites*: checked at random cells against
plain PyTorch hooks on the source model. *Path*: what a residual map takes; `generic` is slower and as exact.

| model | origin | tower | verified | sites | path |
|---|---|---|---|---|---|
"""


@pytest.fixture(scope="module")
def table() -> dict[str, str]:
    """The row of each model: as the table says, or, with ``WRITE``, as this run finds it."""
    if os.environ.get(WRITE):
        return {}
    rows = TABLE.read_text(encoding="utf-8").splitlines()[len(HEAD.splitlines()) :]
    return {row.split(" | ")[0].removeprefix("| "): row for row in rows}


def check_row(table: dict[str, str], name: str, origin: str, kind: str, verified: str, sites: str, path: str) -> None:
    row = f"| {name} | {origin} | {kind} | {verified} | {sites} | {path} |"
    if os.environ.get(WRITE):
        table[name] = row
    assert table.get(name) == row, "run `make tables`"


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_a_source_is_verified_and_patched_as_plain_hooks_patch_it(entry: Entry, table: dict[str, str]) -> None:
    source = entry.build(0)
    if entry.name in UNSUPPORTED:
        with pytest.raises(UnsupportedTowerError):
            ts.wrap(source, tokenizer=entry.tokenizer)
        return check_row(table, entry.name, UNSUPPORTED[entry.name], entry.reading.kind, "refused", "–", "–")
    model = ts.wrap(source, tokenizer=entry.tokenizer)
    tower = model.text
    assert model.verified["embedding"] <= VERIFIED
    assert tower.n_layers == len(entry.reading.blocks(source)) == len(ts.patching.text_blocks(source))
    base, donor = tower.rows(TEXTS)
    engine = PatchingEngine(tower)
    result = engine.patch([base], [donor])
    assert model.embed_dim == result.base.shape[-1]
    check_residual_cells(entry, source, tower, result)
    sites = ["resid"]
    for site in () if tower.opaque else ("attn", "resid_mid", "mlp"):
        check_cell_inside_a_block(entry, source, tower, engine, site)
        sites.append(site)
    check_that_the_batch_does_not_matter(tower, engine, result.patched[0])
    inside = "every site" if not tower.opaque else "residual stream"
    attention = "causal" if tower.causal else "bidirectional"
    layers = "" if tower.readout_layers == (tower.n_layers,) else " of several layers"
    read = "appended token" if tower.spec.appended else tower.pooling
    kind = f"{attention}, {read}{layers}, padding: {tower.spec.padding}"
    return check_row(table, entry.name, entry.origin, kind, "yes", inside, result.path)


def check_residual_cells(entry: Entry, source: torch.nn.Module, tower: TextTower, result: object) -> None:
    """Random cells of the map, and all positions of any layer, against the source model's own passes."""
    cells, clean, other = result.patched[0], result.base[0], result.donor[0]  # type: ignore[attr-defined]
    ids = [entry.ids(text) for text in TEXTS]
    n = len(tower.token_ids(TEXTS[0]))
    generator = torch.Generator().manual_seed(len(entry.name))
    for _ in range(4):
        layer, position = (int(torch.randint(size, (), generator=generator)) for size in (tower.n_layers + 1, n))
        expected = patched_by_hooks(entry.reading, source, *ids, layer, [position])
        assert (cells[layer, position] - expected).abs().max() <= TOLERANCE, (layer, position)
    differs = [a != b for a, b in zip(*(tower.token_ids(text) for text in TEXTS), strict=True)]
    for position in range(n):
        if not differs[position]:
            torch.testing.assert_close(cells[0, position], clean, atol=TOLERANCE, rtol=0)
        if tower.causal and position < differs.index(True):
            torch.testing.assert_close(cells[:, position], clean.expand_as(cells[:, position]), atol=2e-6, rtol=0)
    if tower.readout_layers == (tower.n_layers,) and tower.spec.reads_one:
        pooled = int(tower.pooled_positions(tower.collate(tower.rows(TEXTS[:1])))[0])
        torch.testing.assert_close(cells[-1, pooled], other, atol=TOLERANCE, rtol=0)
        others = [p for p in range(cells.shape[1]) if p != pooled]
        torch.testing.assert_close(cells[-1, others], clean.expand(len(others), -1), atol=TOLERANCE, rtol=0)


def check_cell_inside_a_block(
    entry: Entry, source: torch.nn.Module, tower: TextTower, engine: PatchingEngine, site: str
) -> None:
    base, donor = tower.rows(TEXTS)
    generator = torch.Generator().manual_seed(len(entry.name) + len(site))
    layer = int(torch.randint(tower.n_layers, (), generator=generator))
    position = int(torch.randint(len(tower.token_ids(TEXTS[0])), (), generator=generator))
    columns = [[Column((position,)), Column(tuple(range(len(base))))]]
    cells = engine.patch([base], [donor], sweep=Sweep(site_named(site)), columns=columns).patched[0]
    ids = [entry.ids(text) for text in TEXTS]
    shown = {"resid_mid": "mid"}.get(site, site)
    for column, positions in enumerate(([position], None)):
        expected = patched_by_hooks(entry.reading, source, *ids, layer + 1, positions, site=shown)
        assert (cells[layer, column] - expected).abs().max() <= TOLERANCE, (site, layer + 1, positions)


def check_that_the_batch_does_not_matter(tower: TextTower, engine: PatchingEngine, alone: torch.Tensor) -> None:
    """A pair's numbers beside longer and shorter pairs."""
    pairs = [
        ("no mass", "a mass"),
        TEXTS,
        ("there is no large round mass in here", "there is no large round edema in it"),
    ]
    base, donor = tower.rows([a for a, _ in pairs]), tower.rows([b for _, b in pairs])
    together = engine.patch(base, donor).patched[1, :, : alone.shape[1]]
    torch.testing.assert_close(together, alone, atol=2e-6, rtol=0)
    torch.testing.assert_close(tower.encode([a for a, _ in pairs])[1], tower.encode([TEXTS[0]])[0], atol=2e-6, rtol=0)


def test_few_of_open_clips_models_are_refused() -> None:
    assert sum(name.startswith("open_clip:") for name in UNSUPPORTED) <= 5


def test_the_table_in_the_docs_names_every_model_once(table: dict[str, str]) -> None:
    """What its rows say is tested with each model. With ``WRITE`` it is written here, of a run over all of them."""
    if os.environ.get(WRITE):
        TABLE.write_text(HEAD + "".join(f"{table[entry.name]}\n" for entry in entries()), encoding="utf-8")
    text = TABLE.read_text(encoding="utf-8")
    assert text.startswith(HEAD), "run `make tables`"
    names = [row.split(" | ")[0].removeprefix("| ") for row in text.removeprefix(HEAD).splitlines()]
    assert names == [entry.name for entry in entries()], "run `make tables`"
