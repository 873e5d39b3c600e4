"""Attribution: the gradient is the true one, its limits are exact, and how far it is off is always told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from bounds import S_ERROR
from models import (
    WordTokenizer,
    chinese_clip_model,
    open_clip_model,
    siglip_model,
    transformers_model,
    vision_text_model,
    word_tokenizer,
)
from torch import Tensor, nn

import tracescribe as ts
from tracescribe.errors import LengthMismatchError, SiteError
from tracescribe.patching import (
    AttributionEngine,
    Column,
    DirectEngine,
    PatchingEngine,
    Sweep,
    TextTower,
    attention_patterns,
    site_named,
)
from tracescribe.patching.sites import SITES
from tracescribe.patching.towers.block import OpaqueBlock
from tracescribe.tracer.results.agreement import measure_agreement

FAMILIES: dict[str, Any] = {
    "open_clip": open_clip_model,
    "bidirectional argmax": lambda: open_clip_model(custom=True, no_causal_mask=True, pool_type="argmax"),
    "transformers": transformers_model,
    "SigLIP": siglip_model,
    "ChineseCLIP": chinese_clip_model,
    "RoBERTa": lambda: vision_text_model(text="Roberta"),
}
TEXTS = ["there is no edema.", "there are two masses."]


def tower_of(family: str) -> TextTower:
    source = FAMILIES[family]()
    return ts.wrap(source, tokenizer=word_tokenizer(source)).text


def targets(n: int, width: int, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return nn.functional.normalize(torch.randn(n, width, generator=generator, dtype=torch.float64), dim=-1)


def nearer(tower: TextTower, base: list[int], donor: list[int], share: float) -> TextTower:
    """A float64 tower in which the donor's tokens are embedded ``share`` of the way from the base's."""
    twin = tower.twin(torch.float64)
    tokens = twin.embedding.tokens.clone()
    for ours, theirs in zip(base, donor, strict=True):
        tokens[theirs] = tokens[ours] + share * (tokens[theirs] - tokens[ours])
    twin.embedding._buffers["tokens"] = tokens
    return twin


def exact_effects(engine: PatchingEngine, base: list[int], donor: list[int], to: Tensor, **options: Any) -> Tensor:
    found = engine.patch([base], [donor], path="generic", **options)
    return (found.patched[0] - found.base[0]) @ to


@pytest.mark.parametrize("site", ["resid", "resid_mid", "attn", "mlp", "z", "q", "k", "v", "pattern"])
@pytest.mark.parametrize("family", FAMILIES)
def test_attribution_is_exact_in_the_limit_of_small_differences(family: str, site: str) -> None:
    """Effects shrink with the difference, errors with its square: ten times nearer, a tenth of the relative error."""
    tower = tower_of(family)
    base, donor = tower.rows(TEXTS)
    to = targets(1, tower.encode(TEXTS).shape[1])
    errors = []
    for share in (1e-2, 1e-3):
        engine = AttributionEngine(nearer(tower, base, donor, share))
        sweep = Sweep(site_named(site))
        exact = exact_effects(engine, base, donor, to[0], sweep=sweep)
        found = engine.attribute([base], [donor], [to], sweep=sweep).effects[0][0]
        errors.append(float((found - exact).abs().max() / exact.abs().max()))
    assert errors[0] < 0.1 and errors[1] < 0.2 * errors[0]  # 0.1 in theory


def test_every_head_and_set_of_positions_in_the_limit() -> None:
    tower = tower_of("open_clip")
    base, donor = tower.rows(TEXTS)
    engine = AttributionEngine(nearer(tower, base, donor, 1e-4))
    to = targets(1, 16)
    for site, heads in (("z", [0, 1]), ("pattern", [1]), ("mlp", [None])):
        columns = [[Column(positions, head) for positions in ((2,), (3, 6), tuple(range(7))) for head in heads]]
        options = {"sweep": Sweep(site_named(site)), "columns": columns}
        exact = exact_effects(engine, base, donor, to[0], **options)
        found = engine.attribute([base], [donor], [to], **options).effects[0][0]  # type: ignore[arg-type]
        assert (found - exact).abs().max() < 1e-3 * exact.abs().max()


@pytest.mark.parametrize("family", FAMILIES)
def test_integrated_gradients_at_layer_0_add_up_to_the_whole_difference(family: str) -> None:
    """Completeness (Sundararajan et al. 2017); the midpoint rule's error falls with the square of the steps."""
    tower = tower_of(family).twin(torch.float64)
    base, donor = tower.rows(TEXTS)
    to = targets(1, tower.encode(TEXTS).shape[1])
    engine = AttributionEngine(tower)
    ends = engine.attribute([base], [donor], [to])
    whole = float((ends.donor[0] - ends.base[0]) @ to[0])
    errors = [
        abs(float(engine.attribute([base], [donor], [to], steps=steps).effects[0][0, 0].sum()) - whole)
        for steps in (32, 128)
    ]
    assert errors[1] < 1e-3 * abs(whole)
    assert errors[1] < errors[0] / 8  # 1/16 in theory


@pytest.mark.parametrize("site", SITES)
def test_gradients_are_those_of_finite_differences(site: str) -> None:
    tower = tower_of("open_clip").twin(torch.float64)
    base, donor = tower.rows(TEXTS)
    to = targets(1, 16)
    sweep, at, position = Sweep(site_named(site)), 1, 6
    found = AttributionEngine(tower).attribute([base], [donor], [to], sweep=sweep).effects[0][0, at, position]
    [(number, hook)] = sweep.events(at, tower.n_layers)
    kept: list[Tensor] = []

    def similarity(row: list[int], change: Any) -> float:
        twin = tower.twin()
        for block in twin.blocks:
            block.attn.explicit = True
        twin.blocks[number].get_submodule(hook).register_forward_hook(lambda module, args, output: change(output))
        with torch.no_grad():
            return float(nn.functional.normalize(twin(torch.tensor([row])), dim=-1)[0] @ to[0])

    def moved(share: float) -> Any:
        where: Any = (0, slice(None), position) if site == "pattern" else (0, position)

        def change(output: Tensor) -> Tensor:
            output = output.clone()
            output[where] += share * (kept[0] - output)[where]
            return output

        return change

    similarity(donor, lambda output: kept.append(output.clone()))
    step = 1e-5
    slope = (similarity(base, moved(step)) - similarity(base, moved(-step))) / (2 * step)
    assert float(found) == pytest.approx(slope, abs=1e-9)  # central differences: step² times a third derivative


@pytest.mark.parametrize("trainable", [True, False])
def test_one_cell_is_plain_autograd_on_the_source_which_stays_as_it_is(trainable: bool) -> None:
    source = open_clip_model().requires_grad_(trainable)
    model = ts.wrap(source, tokenizer=WordTokenizer())
    dicts = {name: set(module.__dict__) for name, module in source.named_modules()}
    pair = ts.Pair(correct=TEXTS[0], foil=TEXTS[1], image=targets(1, 16)[0].float())
    with torch.inference_mode():  # a caller's mode does not reach the gradients
        trace = ts.trace(model, [pair], method="attribution", floor=0, progress=False)
    assert {p.requires_grad for p in source.parameters()} == {trainable}
    assert all(p.grad is None for p in source.parameters())
    assert {name: set(module.__dict__) for name, module in source.named_modules()} == dicts

    kept: list[Tensor] = []
    layer, position = 2, 5

    def keep(module: nn.Module, args: Any, output: Tensor) -> Tensor:
        kept.append(output.detach().requires_grad_())
        return kept[-1]

    ids = model.text.tokenize(TEXTS)  # before the hook: a changed source is verified again, through the hook
    handle = source.transformer.resblocks[layer - 1].register_forward_hook(keep)
    unit = nn.functional.normalize(source.encode_text(ids), dim=-1)
    handle.remove()
    similarity = unit[0] @ pair.image
    (gradient,) = torch.autograd.grad(similarity, kept)
    expected = similarity.detach() + gradient[0, position] @ (kept[0][1] - kept[0][0]).detach()[position]
    assert trace.scores.patched[0, layer, position] == pytest.approx(float(expected), abs=S_ERROR)


def test_images_share_passes_without_changing_the_numbers() -> None:
    """One by one, batched, and (more than the embedding's 16 dimensions) through the basis."""
    tower = tower_of("open_clip")
    base, donor = (
        tower.rows(["there is no edema.", "no mass", "a large mass"]),
        tower.rows(["there is some edema.", "a mass", "no large mass"]),
    )
    engine = AttributionEngine(tower)
    many = [targets(n, 16, seed=n) for n in (3, 40, 3)]
    together = engine.attribute(base, donor, many, steps=2)
    for i, directions in enumerate(many):
        alone = torch.cat(
            [engine.attribute([base[i]], [donor[i]], [to[None]], steps=2).effects[0] for to in directions]
        )
        torch.testing.assert_close(together.effects[i], alone.to(together.effects[i].dtype), atol=1e-6, rtol=1e-5)


class Whole(nn.Module):
    """A block as an adapter that does not take it apart would hold it."""

    def __init__(self, block: nn.Module) -> None:
        super().__init__()
        self.block = block


def test_blocks_run_as_a_whole_give_the_same_gradients() -> None:
    tower = tower_of("open_clip")
    opaque = tower.twin()
    opaque.blocks = nn.ModuleList(  # type: ignore[assignment]
        OpaqueBlock(Whole(block), lambda source, x, mask: source.block(x, mask)) for block in tower.blocks
    )
    assert opaque.opaque
    base, donor = tower.rows(TEXTS)
    to = targets(2, 16).float()
    for steps in (1, 3):
        ours, theirs = (
            AttributionEngine(one).attribute([base], [donor], [to], steps=steps).effects[0] for one in (tower, opaque)
        )
        torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=1e-5)
    with pytest.raises(SiteError, match="site 'z' lies inside blocks"):
        AttributionEngine(opaque).attribute([base], [donor], [to], sweep=Sweep(site_named("z")))
    with pytest.raises(SiteError, match="direct effects need blocks that are taken apart"):
        DirectEngine(opaque).patch([base], [donor])
    with pytest.raises(SiteError, match="attention patterns cannot be read"):
        next(attention_patterns(opaque, [base]))


# -- ts.trace --------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def model() -> ts.DualEncoder:
    return ts.wrap(open_clip_model(seed=3), tokenizer=WordTokenizer(), name="tiny")


@pytest.fixture(scope="module")
def pairs() -> list[ts.Pair]:
    images = targets(6, 16, seed=2).numpy()
    texts = [
        ("there is no edema.", "there is some edema."),
        ("no large mass", "a large mass"),
        ("no b c d", "some b c d"),
    ]
    return [ts.Pair(correct=texts[i % 3][0], foil=texts[i % 3][1], image=image) for i, image in enumerate(images)]


def traced(model: ts.DualEncoder, pairs: list[ts.Pair], **options: Any) -> ts.CausalTrace:
    return ts.trace(model, pairs, floor=0, progress=False, **options)


@pytest.mark.parametrize("options", [{}, {"site": "z", "heads": "each"}, {"direction": "correct->foil", "steps": 4}])
def test_the_agreement_in_the_result_is_that_with_the_exact_trace(
    model: ts.DualEncoder, pairs: list[ts.Pair], options: dict[str, Any]
) -> None:
    from scipy.stats import spearmanr

    trace, exact = (
        traced(model, pairs, method="attribution", **options),
        traced(model, pairs, **{name: value for name, value in options.items() if name != "steps"}),
    )
    agreement = trace.provenance["agreement"]
    assert agreement["text_pairs"] == 3 and agreement["pairs"] == 6  # exact_sample=4 covers all of them
    # unpatched texts run in other batches, so that float32 sums differ in the last place
    np.testing.assert_allclose(trace.scores.correct, exact.scores.correct, atol=2e-7, rtol=0)
    correlations, errors = [], []
    for i, (ours, theirs) in enumerate(zip(trace.scores.patched, exact.scores.patched, strict=True)):
        free = np.ones(ours.shape, dtype=bool)
        if trace.columns is None:  # fixed in a causal tower whose captions differ in one token
            free[[0, -1]] = False
            free[:, : trace.differs[i].argmax()] = free[:, len(trace.tokens[i]) :] = False
        correlations.append(spearmanr(ours[free], theirs[free]).statistic)
        errors.append(np.abs(ours - theirs)[free])
    assert agreement["cells"] == sum(map(len, errors))
    assert agreement["rank_correlation"] == pytest.approx(np.mean(correlations), abs=0.02)  # float32 may swap ties
    assert agreement["lowest"] == pytest.approx(min(correlations), abs=0.02)
    assert agreement["max_error"] == pytest.approx(np.concatenate(errors).max(), abs=1e-6)
    assert agreement["mean_error"] == pytest.approx(np.concatenate(errors).mean(), abs=1e-6)
    assert f"rank correlation {agreement['rank_correlation']:.2f}" in trace.summary()


def test_cells_fixed_by_construction_do_not_count() -> None:
    exact = np.array([[[0.0, 0.0, 0.3, 0.2, 0.1, 1.0]]])
    free = np.array([[[False, False, True, True, True, False]]])
    wrong = exact + np.array([0, 0, -0.2, 0, 0.2, 0])
    found = measure_agreement(wrong, exact, free, np.array([1.0]), text_pairs=1)
    assert found.cells == 3 and found.rank_correlation == pytest.approx(-1)
    everything = measure_agreement(wrong, exact, np.ones_like(free), np.array([1.0]), text_pairs=1)
    assert everything.rank_correlation is not None and everything.rank_correlation > 0.7  # how it would flatter
    nothing = measure_agreement(wrong, exact, np.zeros_like(free), np.array([1.0]), text_pairs=1)
    assert nothing.rank_correlation is None and "no rank correlation" in str(nothing)


def test_an_attribution_is_a_trace_with_its_limits_told(
    model: ts.DualEncoder, pairs: list[ts.Pair], tmp_path: Path
) -> None:
    trace = traced(model, pairs, method="attribution", steps=2, exact_sample=2)
    assert {"method": "attribution", "steps": 2, "path": "gradient"}.items() <= trace.provenance.items()
    assert trace.provenance["agreement"]["text_pairs"] == 2
    assert "method attribution" in trace.summary()
    assert trace.embeddings is None
    with pytest.raises(ts.tracer.TraceError, match="an attribution depends on the image"):
        trace.rescore(np.stack([pair.image for pair in pairs]))
    trace.save(tmp_path / "trace.safetensors")
    again = ts.load_trace(tmp_path / "trace.safetensors")
    assert np.array_equal(again.scores.patched, trace.scores.patched, equal_nan=True)
    assert again.summary() == trace.summary()
    with pytest.raises(ts.tracer.TraceError, match=r"cache=.* has no meaning with method='attribution'"):
        traced(model, pairs, method="attribution", cache=tmp_path / "cache")
    assert trace.per_layer(segment="all").value.shape == (4,)
    with pytest.raises(ts.tracer.TraceError, match="differ in their method"):
        trace.control(traced(model, pairs))


def test_what_has_no_first_order_effect_is_refused(model: ts.DualEncoder, pairs: list[ts.Pair]) -> None:
    with pytest.raises(SiteError, match="window=2 has no first-order effect"):
        traced(model, pairs, method="attribution", window=2)
    with pytest.raises(ts.tracer.TraceError, match="steps must be a whole number >= 1, not 0"):
        traced(model, pairs, method="attribution", steps=0)
    with pytest.raises(ts.tracer.TraceError, match="exact_sample must be a whole number >= 0, not -1"):
        traced(model, pairs, method="attribution", exact_sample=-1)
    with pytest.raises(ts.tracer.TraceError, match="steps= has no meaning with method='exact'"):
        traced(model, pairs, steps=4)
    with pytest.raises(LengthMismatchError, match="rows of 3 and 4 tokens"):
        AttributionEngine(model.text).attribute([[62, 1, 63]], [[62, 1, 2, 63]], [targets(1, 16)])
