"""Public functions say which argument is of a wrong type, and write nothing."""

from __future__ import annotations

import inspect
from pathlib import Path
from typing import Any

import pytest

import tracescribe as ts
from tracescribe.arguments import explains_arguments
from tracescribe.tracer import Pair

# Functions of tensors, as torch's: they are called in every step, also by torch.compile.
OF_TENSORS = {"claim_loss", "clip_loss", "nast_loss"}
PAIRS = [Pair(correct="There is no edema.", foil="There is severe edema.", image="film.png")]


def public_functions() -> dict[str, Any]:
    parts = (ts.patching, ts.tracer, ts.finetune, ts.benchmark, ts.viz)
    named = {f"{part.__name__.split('.')[1]}.{name}": getattr(part, name) for part in parts for name in part.__all__}
    return {n: f for n, f in named.items() if inspect.isfunction(f) and f.__name__ not in OF_TENSORS}


@pytest.mark.parametrize("junk", ["phantom", 3, None], ids=str)
@pytest.mark.parametrize("name", public_functions())
def test_what_is_of_a_wrong_type_is_refused(
    name: str, junk: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    function = public_functions()[name]
    needed = [p for p in inspect.signature(function).parameters.values() if p.default is p.empty]
    by_place = [junk for p in needed if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    try:
        function(*by_place, **{p.name: "x" for p in needed if p.kind is p.KEYWORD_ONLY})
    except ts.errors.TracescribeError as error:
        assert 10 < len(str(error)) < 1000
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "name", ["trace", "trace_images", "neurons", "knock_out", "head_edges", "circuit", "negator_attention"]
)
def test_a_models_name_in_place_of_the_model_is_named(name: str) -> None:
    with pytest.raises(ts.errors.ArgumentError, match="the argument model must be of type DualEncoder, not 'phantom'"):
        getattr(ts, name)("phantom", PAIRS)


def test_switches_behind_any_number_of_arguments_are_known_by_name_only() -> None:
    """The third of `compare(a, b, c)` was taken for the switch that is third in its signature."""

    @explains_arguments
    def names(*parts: str, upper: bool = False) -> list[str]:
        return [part.upper() if upper else part for part in parts]

    assert names("a", "b", "c") == ["a", "b", "c"] and names("a", upper=True) == ["A"]
    with pytest.raises(ts.errors.ArgumentError, match="upper must be True or False, not 'no'"):
        names("a", "b", upper="no")  # type: ignore[arg-type]


def test_switches_that_may_be_given_in_place_are_refused_there_too() -> None:
    @explains_arguments
    def name(part: str, upper: bool = False) -> str:
        return part.upper() if upper else part

    assert name("a", True) == name("a", upper=True) == "A"
    with pytest.raises(ts.errors.ArgumentError, match="upper must be True or False, not 'no'"):
        name("a", "no")  # type: ignore[arg-type]
