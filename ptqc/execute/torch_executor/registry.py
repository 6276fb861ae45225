"""Finds the torch form of an operator by domain, name and opset."""

import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Any, Protocol, TypeVar

from ptqc.graph.walk import STANDARD_DOMAINS

# Tensors; lists of tensors for sequences; None for absent inputs and empty optionals; NumPy arrays of strings, which
# pass between islands.
Value = Any
Function = Callable[..., Any]
F = TypeVar("F", bound=Function)


class Body(Protocol):
    """A body of control flow; sees the tensors around it.

    Attributes:
        outputs: their names.
    """

    outputs: tuple[str, ...]

    def __call__(self, values: Sequence[Value]) -> list[Value]:
        """The outputs for its inputs."""

    def empty(self, position: int) -> Value:
        """What no runs put out, stacked: a tensor of no elements, as the type of the output says."""


class NoTorchForm(Exception):
    """Raised by an operator for attributes or types that it cannot compute: the node runs in onnxruntime."""


@dataclass(frozen=True, slots=True)
class Call:
    """What an operator knows of the node that it computes.

    Attributes:
        name, op: of the node.
        opset: version of the node's domain that the model asks for.
        attributes: plain Python values; tensors as torch tensors, bodies as :data:`Body`.
        wanted: for each output whether anybody reads it; optional outputs may be left out from the end.
    """

    name: str
    op: str
    opset: int
    attributes: Mapping[str, Any] = field(default_factory=dict)
    wanted: tuple[bool, ...] = (True,)

    def get(self, name: str, default: Any = None) -> Any:
        """The attribute, or ``default``."""
        return self.attributes.get(name, default)


_FORMS: dict[tuple[str, str], list[tuple[int, Function]]] = {}


def operator(*names: str, since: int = 1, domain: str = "") -> Callable[[F], F]:
    """Registers a function as the torch form of operators from opset ``since`` up to the next form registered.

    The function takes the :class:`Call` and the node's inputs (None for absent ones; bodies of control flow by
    keyword) and returns the output, or a tuple of outputs. It changes no input, and raises :class:`NoTorchForm` for
    what it cannot compute.
    """

    def register(function: F) -> F:
        for name in names:
            forms = _FORMS.setdefault((domain, name), [])
            assert all(version != since for version, _ in forms), f"{name} since {since} is there already"
            forms.append((since, function))
            forms.sort(key=lambda form: form[0])
        return function

    return register


def find_form(domain: str, name: str, opset: int) -> Function | None:
    """The torch form of an operator, or None."""
    _load_families()
    found = None
    for since, function in _FORMS.get(("" if domain in STANDARD_DOMAINS else domain, name), ()):
        if since <= opset:
            found = function
    return found


@cache
def _load_families() -> None:
    from ptqc.execute.torch_executor import operators

    for module in sorted(pkgutil.iter_modules(operators.__path__), key=lambda module: module.name):
        importlib.import_module(f"{operators.__name__}.{module.name}")
