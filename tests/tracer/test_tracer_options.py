"""Options are declared once: others are refused in a sentence, and functions spell the declared defaults."""

from __future__ import annotations

import dataclasses
import inspect

import numpy as np
import pytest
from bounds import assert_same_cte
from models import WordTokenizer, open_clip_model

import tracescribe as ts
from tracescribe.tracer import TraceError
from tracescribe.tracer.run.options import ImageTraceOptions, TraceOptions

BAD = [
    *({"window": value} for value in (float("nan"), float("inf"), 2.5, 0, True)),
    *({"positions": value} for value in (True, [1.5], [], [True])),
    *({"heads": value} for value in ("0", 1.5, True, -1)),
    *({"batch_size": 0}, {"memory": -5}, {"memory": float("inf")}, {"floor": -1}, {"floor": float("nan")}),
    *({"keep_embeddings": "no"}, {"keep_embeddings": "yes"}, {"dtype": "int8"}, {"seed": 2**64}, {"steps": 5}),
]


@pytest.mark.parametrize("options", BAD, ids=str)
def test_what_is_not_allowed_is_refused_in_a_sentence(options: dict) -> None:
    with pytest.raises(TraceError, match=next(iter(options))):
        TraceOptions(**options)


def test_numpy_numbers_are_numbers() -> None:
    given = TraceOptions(positions=np.int64(3), window=np.int64(2), heads=np.array([0, 1]), dtype="float16")
    assert (given.positions, given.window, given.heads, given.dtype) == (3, 2, (0, 1), "float16")


@pytest.mark.parametrize(("function", "kind"), [(ts.trace, TraceOptions), (ts.trace_images, ImageTraceOptions)])
def test_functions_spell_the_options_with_their_defaults(function: object, kind: type) -> None:
    spelled = {name: p.default for name, p in inspect.signature(function).parameters.items()}
    assert {f.name: f.default for f in dataclasses.fields(kind)}.items() <= spelled.items()
    assert set(spelled) - {f.name for f in dataclasses.fields(kind)} <= {"model", "pairs", "progress", "positions"}


def test_two_captions_may_be_given_both_ways_round() -> None:
    model = ts.wrap(open_clip_model(), tokenizer=WordTokenizer(), name="tiny")
    image = np.random.default_rng(0).normal(size=16)
    no, some = "there is no edema", "there is some edema"
    pairs = [
        ts.Pair(correct=no, foil=some, negation="correct", image=image),
        ts.Pair(correct=some, foil=no, negation="foil", image=image),
    ]
    options = {"direction": "negated->affirmative", "floor": 0, "progress": False}
    both = ts.trace(model, pairs, **options)
    for i, pair in enumerate(pairs):
        alone = ts.trace(model, [pair], **options)
        assert_same_cte(both.cte[i], alone, 0)
        np.testing.assert_allclose(both.rescore([image, image]).scores.patched[i], alone.scores.patched[0], atol=1e-6)
