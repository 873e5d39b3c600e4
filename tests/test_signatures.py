"""What `?` and tab completion show: real signatures and documentation, and all public names without the rest."""

from __future__ import annotations

import importlib
import inspect
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import tracescribe as ts

NAMESPACES = ["", ".tracer", ".patching", ".finetune", ".benchmark", ".viz", ".errors", ".viz.explorer"]
# What these take goes on to a class of another library under that library's names, or is a field by its name.
PASSED_ON = {"lora_config": "options", "param_groups": "defaults", "choose": "values"}


def public(namespace: str) -> Iterator[tuple[str, Any]]:
    """The functions and classes of a namespace, and the classes' own methods."""
    module = importlib.import_module(f"tracescribe{namespace}")
    for name in getattr(module, "__all__", ()):
        found = getattr(module, name)
        if inspect.isroutine(found) or inspect.isclass(found):
            yield name, found
        if inspect.isclass(found):
            for inner, value in vars(found).items():
                function = getattr(value, "__func__", value)
                if inspect.isfunction(function) and not inner.startswith("_"):
                    yield f"{name}.{inner}", function


def is_ours(found: Any) -> bool:
    ours = getattr(found, "__module__", "").startswith("tracescribe")
    return ours and not (inspect.isclass(found) and issubclass(found, BaseException))


@pytest.mark.parametrize("namespace", NAMESPACES)
def test_signatures_name_every_argument_and_its_type(namespace: str) -> None:
    wrong = []
    for name, found in public(namespace):
        if not is_ours(found):
            continue
        if not inspect.getdoc(found):
            wrong.append(f"{name} has no documentation")
        if inspect.isclass(found) and (issubclass(found, int) or getattr(found, "_is_protocol", False)):
            continue  # an enumeration's and a protocol's signatures are Python's own
        signature = inspect.signature(found)
        if any(" at 0x" in str(each.annotation) for each in signature.parameters.values()):
            wrong.append(f"{name}{signature}")
        for each in signature.parameters.values():
            last = name.rpartition(".")[2]
            if each.kind is each.VAR_KEYWORD and PASSED_ON.get(last) != each.name and last != "HookPoint":
                wrong.append(f"{name}(**{each.name})")
            if each.annotation is each.empty and each.name not in ("self", "cls"):
                wrong.append(f"{name}: {each.name} has no type")
    assert wrong == []


@pytest.mark.parametrize("namespace", NAMESPACES[:6])
def test_completion_offers_every_public_name(namespace: str) -> None:
    module = importlib.import_module(f"tracescribe{namespace}")
    assert set(module.__all__) <= set(dir(module)) and dir(module) is not module.__all__


def test_completion_of_figures_offers_no_modules() -> None:
    assert not [name for name in dir(ts.viz) if isinstance(getattr(ts.viz, name), ModuleType)]


def test_a_records_signature_names_types_and_its_completion_its_fields() -> None:
    pair = ts.Pair(correct="no edema", foil="mild edema")
    shown = str(inspect.signature(ts.Pair))
    assert shown.startswith("(*, correct: str, foil: str, image: Any = None, id: str | None = None")
    assert {"correct", "foil", "model_copy", "model_dump"} <= set(dir(pair))
    assert not {"parse_raw", "construct", "from_orm"} & set(dir(pair))


@pytest.mark.parametrize("namespace", ["", ".tracer", ".patching", ".finetune", ".benchmark"])
def test_properties_do_not_stop_completion(namespace: str) -> None:
    """jedi, which IPython asks, fails at some types of properties (0.20: Literal); then nothing at all is offered."""
    jedi = pytest.importorskip("jedi")
    module = importlib.import_module(f"tracescribe{namespace}")
    for name in module.__all__:
        found = getattr(module, name)
        if not inspect.isclass(found) or not is_ours(found):
            continue
        properties = {
            inner: value
            for each in inspect.getmro(found)
            if is_ours(each)
            for inner, value in vars(each).items()
            if isinstance(value, property)
        }
        alone = type(name, (), properties)  # without torch's modules, whose reading takes jedi seconds
        offered = {one.name for one in jedi.Interpreter("it.", [{"it": object.__new__(alone)}]).complete()}
        assert set(properties) <= offered, name
