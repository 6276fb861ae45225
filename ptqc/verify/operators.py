"""ONNX operators on integers in NumPy, exact: what the interpreter computes for the steps that a file spells out.

Written from the ONNX standard (github.com/onnx/onnx, docs/Operators.md). All integers are int64, whatever the type in
the file: the interpreter compares values with that type, so nothing here wraps except Cast.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array
from ptqc.verify.operators_elementwise import ELEMENTWISE
from ptqc.verify.operators_moves import MOVES
from ptqc.verify.operators_products import PRODUCTS
from ptqc.verify.operators_reductions import REDUCTIONS

Attributes = Mapping[str, Any]
Compute = Callable[[Attributes, Sequence[Array | None]], Array | tuple[Array, ...]]

OPERATORS: dict[str, Compute] = {**MOVES, **ELEMENTWISE, **REDUCTIONS, **PRODUCTS}
SUPPORTED = frozenset(OPERATORS)


def run_operator(operator: str, attributes: Attributes, inputs: Sequence[Array | None]) -> tuple[Array, ...]:
    """The outputs of one ONNX operator.

    Args:
        operator: one of ``SUPPORTED``.
        attributes: as in the file; ``to`` of Cast is a type's name (``int8``), tensors are arrays.
        inputs: int64 or bool; None where an optional input is absent.

    Returns:
        int64 or bool arrays.

    Raises:
        Int64Overflow: a result does not fit 64 bits, so that it fits no integer type of ONNX that is in use.
        ModelError: an operator or attribute without integer form.
        ValueError, IndexError: inputs that do not fit each other.
        ZeroDivisionError: a divisor is 0.
    """
    if operator not in OPERATORS:
        raise ModelError(f"operator {quoted(operator)} is none that computes with integers")
    found = OPERATORS[operator](attributes, inputs)
    return found if isinstance(found, tuple) else (found,)
