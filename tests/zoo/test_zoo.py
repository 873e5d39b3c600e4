"""The zoo proves itself: its models read texts, and its plain hooks patch what they say they patch."""

from __future__ import annotations

from contextlib import ExitStack
from pathlib import Path

import open_clip
import pytest
import torch
from torch import nn

from zoo import entries
from zoo.entry import Entry
from zoo.hooks import patched_by_hooks, recording

TEXTS = ("there is no edema.", "there is severe edema.")
# Normalised float32 embeddings of a few small blocks: both sides sum the same numbers, up to the order of two or three
# operations. The largest difference found over all entries is 1.3e-7.
ROUNDING = 1e-6


@pytest.fixture(scope="module", params=entries(), ids=lambda entry: entry.name)
def entry(request: pytest.FixtureRequest) -> Entry:
    return request.param


@pytest.fixture(scope="module")
def model(entry: Entry) -> nn.Module:
    return entry.build(0)


def test_every_configuration_of_open_clip_is_there_and_every_name_is_one() -> None:
    names = [entry.name for entry in entries()]
    assert len(names) == len(set(names))
    assert {f"open_clip:{name}" for name in open_clip.list_models()} <= set(names)


def test_different_texts_have_different_embeddings_and_a_seed_is_one_model(entry: Entry, model: nn.Module) -> None:
    ids = entry.ids(*TEXTS)
    embeddings = entry.reading.embed(model, ids)
    assert torch.isfinite(embeddings).all()
    assert (embeddings[0] - embeddings[1]).norm() > 1e-2
    assert torch.equal(entry.reading.embed(entry.build(0), ids), embeddings)
    assert (entry.reading.embed(entry.build(1), ids) - embeddings).norm(dim=-1).min() > 1e-2


def test_a_text_is_read_alone_as_in_a_batch(entry: Entry, model: nn.Module) -> None:
    ids = entry.ids(*TEXTS)
    together = entry.reading.embed(model, ids)
    alone = torch.cat([entry.reading.embed(model, row[None]) for row in ids])
    assert (together - alone).abs().max() <= ROUNDING


def test_all_positions_of_a_layer_carry_the_whole_text(entry: Entry, model: nn.Module) -> None:
    base, donor = entry.ids(*TEXTS).split(1)
    expected = entry.reading.embed(model, donor)[0]
    first, last = entry.reading.first_read(model), len(entry.reading.blocks(model))
    for layer in {0, 1, first}:
        patched = patched_by_hooks(entry.reading, model, base, donor, layer, None)
        assert (patched - expected).abs().max() <= ROUNDING, layer
    if first < last:  # states before the last are read too: the last layer alone does not carry the text
        patched = patched_by_hooks(entry.reading, model, base, donor, last, None)
        assert (patched - expected).norm() > 1e-2


def test_the_sites_are_what_the_block_adds(entry: Entry, model: nn.Module) -> None:
    sites = entry.reading.sites
    for layer, block in enumerate(entry.reading.blocks(model), start=1):
        with ExitStack() as stack:
            kept = {
                site: stack.enter_context(recording(entry.reading, model, layer, site))
                for site in ("in", "attn", "mid", "mlp", "resid")
            }
            entry.reading.embed(model, entry.ids(*TEXTS))
        seen = {site: states[0] for site, states in kept.items()}
        norms = [block.get_submodule(path) for path in sites.norms] if sites.norms else [nn.Identity(), nn.Identity()]
        torch.testing.assert_close(norms[0](seen["in"] + seen["attn"]), seen["mid"], atol=ROUNDING, rtol=0)
        torch.testing.assert_close(norms[1](seen["mid"] + seen["mlp"]), seen["resid"], atol=ROUNDING, rtol=0)


def test_a_patch_of_the_middle_carries_the_whole_text_too(entry: Entry, model: nn.Module) -> None:
    base, donor = entry.ids(*TEXTS).split(1)
    layer = max(entry.reading.first_read(model), 1)  # the MLP and what follows act on each position alone
    patched = patched_by_hooks(entry.reading, model, base, donor, layer, None, site="mid")
    expected = patched_by_hooks(entry.reading, model, base, donor, layer, None)
    assert (patched - expected).abs().max() <= ROUNDING


def test_a_texts_own_states_change_nothing_and_anothers_do(entry: Entry, model: nn.Module) -> None:
    base, donor = entry.ids(*TEXTS).split(1)
    differing = (base != donor)[0].nonzero()[:, 0].tolist()
    before = entry.reading.embed(model, base)[0]
    for site in ("resid", "attn", "mid", "mlp"):
        own = patched_by_hooks(entry.reading, model, base, base, 1, differing, site=site)
        assert (own - before).abs().max() <= ROUNDING, site
        others = patched_by_hooks(entry.reading, model, base, donor, 1, differing, site=site)
        assert (others - before).norm() > 1e-4, site


def test_openais_weights_load_into_open_clip_and_read_the_same(tmp_path: Path) -> None:
    entry = next(entry for entry in entries() if entry.name == "medical:chexzero")
    source = entry.build(0)
    torch.save(source.state_dict(), tmp_path / "best.pt")  # as CheXzero saves it: a plain state dict
    width = source.transformer.width
    text = {"width": width, "heads": width // 64, "layers": source.transformer.layers, "context_length": 12}
    loaded = open_clip.CLIP(
        source.text_projection.shape[1],
        {"image_size": 32, "patch_size": 16, "width": 64, "head_width": 64, "layers": 1},
        text | {"vocab_size": source.vocab_size},
        quick_gelu=True,
    ).eval()
    open_clip.load_checkpoint(loaded, str(tmp_path / "best.pt"))
    ids = entry.ids(*TEXTS)
    assert (entry.reading.embed(loaded, ids) - entry.reading.embed(source, ids)).abs().max() <= ROUNDING


def test_conchs_cls_is_read_as_that_of_open_clips_coca() -> None:
    from open_clip.transformer import TextTransformer

    entry = next(entry for entry in entries() if entry.name == "medical:conch")
    source = entry.build(0)
    ours = source.text
    theirs = TextTransformer(
        context_length=ours.context_length - 1,  # open_clip adds the place of CLS itself
        vocab_size=ours.token_embedding.num_embeddings,
        width=ours.transformer.width,
        heads=ours.heads,
        layers=ours.transformer.layers,
        output_dim=source.embed_dim,
        embed_cls=True,
    ).eval()
    theirs.load_state_dict(ours.state_dict())
    full = "one two three four five six seven eight nine"  # with start and end it fills the text's eleven places
    ids = entry.ids(*TEXTS, full)
    assert ids[-1, -2] != 0 == ids[-1, -1]
    with torch.no_grad():
        expected = nn.functional.normalize(theirs(ids[:, :-1]), dim=-1)
    assert (source.encode_text(ids) - expected).abs().max() <= ROUNDING


def test_medclip_depends_on_padding() -> None:
    entry = next(entry for entry in entries() if entry.name == "medical:medclip")
    model = entry.build(0)
    ids = entry.ids(TEXTS[0])
    padded = nn.functional.pad(ids, (0, 3))
    assert (entry.reading.embed(model, padded) - entry.reading.embed(model, ids)).norm() > 1e-2
