"""Detects that a source model has changed since a tower was built from it, before the tower is used again."""

from __future__ import annotations

from functools import partial
from types import FunctionType, MethodType
from typing import Any

from torch import Tensor, nn

from ...errors import StaleTowerError
from ..adapters.wrappers import class_names, computing_hooks, inner_source
from ..torch_state import neutral_state
from ..towers.tower import Tower, byte_sum

# What peft layers and wrappers say of themselves: which adapters act, whether they are merged, by which factors.
_PEFT_STATE = ("active_adapters", "disable_adapters", "merged_adapters", "scaling")
_PEFT_KINDS = {"peft.BaseTunerLayer", "peft.AuxiliaryTrainingWrapper"}
_PLAIN = (bool, int, float, str)  # the kinds of attributes that are compared
_CODE = (FunctionType, MethodType, partial)  # a method that was replaced in one module, as ``forward`` or encode_text


class SourceState:
    """A record of a source model at the moment a tower was built from it; calling it raises if the model has changed.

    A tower shares the parameters of its source, so training in place changes both alike, and needs no new tower. A new
    tower is needed when a module, parameter or buffer was added or replaced, a plain attribute of a module (a pooling
    type, a precision) changed, or something changed that the tower holds a computed copy of (under peft: weights with
    their adapters merged in).

    What is compared: the identity of every module, parameter and buffer; plain attributes and the state of adapters;
    and, only where the tower holds computed tensors, the memory address and version of every tensor that it does not
    share. Writes through ``.data`` count in no version: of the tensors in layers with adapters or parametrizations, and
    of small constants (attention masks, position ids), a sum over their bytes is compared.
    """

    def __init__(self, source: Any, tower: Tower) -> None:
        self._source = source
        self._inner = inner_source(source)
        of_inner = {id(tensor) for tensor in [*self._inner.parameters(), *self._inner.buffers()]}
        held = [*tower.parameters(), *tower.buffers()]
        # the ids stay valid: the tower, which holds the parameters, holds this object
        self._shared = frozenset(id(tensor) for tensor in held if id(tensor) in of_inner)
        self._computes = any(id(tensor) not in of_inner for tensor in held)
        self._objects, self._facts = self._look()

    @property
    def current(self) -> bool:
        """Whether a tower built now would be the one that was built."""
        if inner_source(self._source) is not self._inner:
            return False
        objects, facts = self._look()
        if len(objects) != len(self._objects) or facts != self._facts:
            return False
        return all(now is then for now, then in zip(objects, self._objects, strict=True))

    def __call__(self) -> None:
        """Raise if the source model has changed.

        Raises:
            StaleTowerError: it has.
        """
        if not self.current:
            raise StaleTowerError(
                f"the {type(self._inner).__name__} that this tower was built from has changed since (adapters, "
                f"replaced modules or parameters): take the tower anew from the model (model.text, model.vision), "
                f"which follows its source"
            )

    def __deepcopy__(self, memo: dict[int, Any]) -> None:
        return None  # the copy of a tower by itself has no source to follow

    def __reduce__(self) -> tuple[type[None], tuple[()]]:
        return type(None), ()

    @neutral_state()
    def _look(self) -> tuple[list[object], list[object]]:
        """What must be the same objects, and what must be equal."""
        # peft's attention registers its parameters anew whenever its modules are listed: those are not compared
        # by identity, and it does so here, before they are looked at
        modules = list(self._inner.modules())
        computed = {id(inner) for module in modules if _computes_weights(module) for inner in module.modules()}
        objects: list[object] = []
        facts: list[object] = []
        for module in modules:
            content = vars(module)
            tensors = [tensor for tensor in _tensors(module) if tensor is not None]
            objects += [module, type(module), *(value for value in content.values() if type(value) in _CODE)]
            facts.append(len(module._forward_hooks) + len(module._forward_pre_hooks))
            facts += [
                (name, value)
                for name, value in content.items()
                if type(value) in _PLAIN and name != "training" and name[0] != "_"
            ]
            if class_names(module) & _PEFT_KINDS:
                facts += [repr(getattr(module, name, None)) for name in _PEFT_STATE]
            facts += [tensor.dtype for tensor in tensors]
            facts += [byte_sum(tensor) for tensor in self._constants(module)]
            if id(module) not in computed:
                objects += _tensors(module)
                if self._computes:
                    facts += [_version(tensor) for tensor in tensors if id(tensor) not in self._shared]
            elif self._computes:
                facts += [byte_sum(tensor) for tensor in tensors]
        return objects, facts

    def _constants(self, module: nn.Module) -> list[Tensor]:
        """Buffers outside the state dict, which an adapter reads once."""
        buffers = (module._buffers.get(name) for name in sorted(module._non_persistent_buffers_set))
        return [buffer for buffer in buffers if buffer is not None and id(buffer) not in self._shared]


def _computes_weights(module: nn.Module) -> bool:
    """Whether the weight of this layer is computed from several: with peft adapters, parametrized, or by a hook."""
    return (
        "peft.BaseTunerLayer" in class_names(module)
        or "parametrizations" in module._modules
        or bool(computing_hooks(module))
    )


def _tensors(module: nn.Module) -> list[Tensor | None]:
    return [*module._parameters.values(), *module._buffers.values()]


def _version(tensor: Tensor) -> tuple[int, int | None]:
    """Where its values are and how often they were written; writes under inference mode are not counted by torch."""
    return tensor.data_ptr(), None if tensor.is_inference() else tensor._version
