"""Records and options made in Python say what is wrong in our words, however they are made."""

from __future__ import annotations

import copy
import pickle
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from pydantic import BaseModel
from pydantic import ValidationError as PydanticError

import tracescribe as ts
from tracescribe.benchmark import CaptionRecord, ClaimRecord
from tracescribe.benchmark.records import Fact, FactsRecord
from tracescribe.errors import ArgumentError, DataFormatError, PrescriptionError, TracescribeError
from tracescribe.finetune import PlanFile, StudyConfig, TrainConfig

CLAIM: dict[str, Any] = {"id": 1, "image": "a.png", "claims": ["X.", "No X."], "label": 0, "attribute": "e", "group": 7}
PLAN: dict[str, Any] = {"alpha": [0.5, 1.0], "beta": 1.0, "multipliers": [0.5, 1.0]}
KNOWN = "known are correct, foil, image, id, group, attribute, template, negation"

WRONG: dict[str, tuple[Callable[[], Any], type[TracescribeError], str]] = {
    "another type": (
        lambda: ts.Pair(correct=3, foil="a"),  # type: ignore[arg-type]
        DataFormatError,
        "field 'correct': Input should be a valid string, not 3",
    ),
    "nothing": (lambda: ts.Pair(correct="a", foil=""), DataFormatError, "field 'foil': the caption is empty ('')"),
    "missing": (lambda: ts.Pair(correct="a"), DataFormatError, "field 'foil': it is missing"),  # type: ignore[call-arg]
    "unknown": (
        lambda: ts.Pair(correct="a", foil="b", imge="c"),  # type: ignore[call-arg]
        DataFormatError,
        f"unknown field 'imge'; {KNOWN}",
    ),
    "NaN of pandas": (
        lambda: ts.Pair(correct="a", foil="b", id=float("nan")),  # type: ignore[arg-type]
        DataFormatError,
        "field 'id': Input should be a valid string, not nan; give None where there is no value",
    ),
    "by position": (
        lambda: ts.Pair("a", "b"),  # type: ignore[call-arg, misc]
        ArgumentError,
        "Pair takes its fields by name, such as Pair(correct=...)",
    ),
    "half a character": (
        lambda: ts.ImagePair(image="a", counterfactual="b", caption="\ud800"),
        DataFormatError,
        "field 'caption': it holds '\\ud800', half of a character (a lone surrogate)",
    ),
    "a Boolean": (
        lambda: ClaimRecord(**CLAIM | {"label": True}),
        DataFormatError,
        "field 'label': expected a whole number, not True",
    ),
    "no index": (
        lambda: ClaimRecord(**CLAIM | {"label": 2}),
        DataFormatError,
        "label 2 is not the index of one of 2 claims",
    ),
    "a caption of nothing": (
        lambda: CaptionRecord(id="1", image=None, group="p", caption=" "),
        DataFormatError,
        "the caption is empty",
    ),
    "inside a field": (
        lambda: FactsRecord(id="1", image=None, group="p", facts={"edema": {"state": "maybe"}}),  # type: ignore[dict-item]
        DataFormatError,
        "field 'facts.edema.state': Input should be 'present', 'absent' or 'uncertain', not 'maybe'",
    ),
    "a mapping": (
        lambda: ClaimRecord.model_validate(CLAIM | {"claims": "X."}),
        DataFormatError,
        "field 'claims': Input should be a valid list, not 'X.'",
    ),
    "JSON": (
        lambda: PlanFile.model_validate_json('{"alpha": [1]}'),
        DataFormatError,
        "field 'alpha': List should have at least 2 items after validation, not 1, not [1]",
    ),
    "a plan that contradicts itself": (
        lambda: PlanFile(**PLAN | {"multipliers": [0.5, 0.5]}),
        DataFormatError,
        "multipliers are not scale * alpha ** beta",
    ),
    "a study": (
        lambda: StudyConfig(data="data", arms=["nast", "nsat"]),  # type: ignore[arg-type]
        DataFormatError,
        "field 'arms': there is no arm 'nsat'; known are uniform, nast, ",
    ),
    "an option of a run": (
        lambda: TrainConfig(steps=0),
        PrescriptionError,
        "field 'steps': Input should be greater than or equal to 1, not 0",
    ),
    "one of many options": (
        lambda: TrainConfig(step=5),  # type: ignore[call-arg]
        PrescriptionError,
        "unknown field 'step'; did you mean 'steps'?",
    ),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_wrong_is_one_sentence_that_quotes_it(name: str) -> None:
    make, kind, message = WRONG[name]
    with pytest.raises(kind) as caught:
        make()
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert isinstance(caught.value, ValueError) or kind is ArgumentError  # as pydantic's error is
    assert not isinstance(caught.value, PydanticError)


def test_every_record_and_options_object_has_this_base() -> None:
    """A model that is made by users and raises pydantic's error would be one that was forgotten."""
    import tracescribe.benchmark.records as records

    public = [getattr(package, name) for package in PACKAGES for name in package.__all__]
    models = [found for found in [*public, *map(records.__dict__.get, records.__all__)] if is_model(found)]
    assert {"Pair", "ImagePair", "ClaimRecord", "McqRecord", "TrainConfig", "StudyConfig", "PlanFile"} <= {
        model.__name__ for model in models
    }
    for model in models:
        with pytest.raises(TracescribeError):
            model(there_is_no_such_field=1)


PACKAGES = (ts, ts.tracer, ts.patching, ts.finetune, ts.viz, ts.benchmark)


def is_model(found: Any) -> bool:
    return isinstance(found, type) and issubclass(found, BaseModel)


def test_records_are_what_they_were() -> None:
    """Copies, pickles, signatures and models around them work as with any pydantic model."""
    import inspect

    pair = ts.Pair(correct="a", foil="b", image=np.ones(3), id=np.int64(7))  # type: ignore[arg-type]
    assert pair.id == "7"
    assert pickle.loads(pickle.dumps(pair)).foil == copy.deepcopy(pair).foil == "b"
    assert list(inspect.signature(ts.Pair).parameters)[:3] == ["correct", "foil", "image"]

    class Study(BaseModel):
        fact: Fact

    assert Study.model_validate({"fact": {"state": "absent"}}).fact.state == "absent"
    with pytest.raises(PydanticError, match=r"fact\.state"):
        Study.model_validate({"fact": {"state": "maybe"}})
