"""What a value of a file stands for while it is read: codes, real numbers that codes carry, plain floats."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array, QuantType
from ptqc.graph.walk import constant_tensor
from ptqc.verify.program import Shape

INTEGERS = ("bool", "int2", "uint2", "int4", "uint4", "int8", "uint8", "int16", "uint16", "int32", "uint32")
WIDE_INTEGERS = ("int64", "uint64")
BYTES = ("int8", "uint8")


class Unreadable(Exception):
    """A node is no integer step; the message is the reason that its obstacle gives."""


@dataclass(frozen=True, slots=True)
class Codes:
    """An integer tensor: of the program, by name, or a constant.

    Attributes:
        name: in the program.
        type: ONNX element type.
        shape: as far as known.
        constant: of any integer dtype; None for what is computed.
    """

    name: str
    type: str
    shape: Shape | None
    constant: Array | None = None

    @property
    def quant_type(self) -> QuantType:
        """Unreadable for types that are no codes (bool, int64)."""
        try:
            return QuantType.parse(self.type)
        except ValueError as error:
            raise Unreadable(f"codes of type {self.type} have no integer kernel") from error


@dataclass(frozen=True, slots=True, eq=False)
class Parameters:
    """Scale and zero point of a QuantizeLinear, DequantizeLinear or QLinear operator.

    Attributes:
        scale: float32 [] or [C], positive and finite.
        zero_point: int64 of the shape of ``scale``.
        type: of the codes.
        axis: of the channels; None where there is one scale.
    """

    scale: Array
    zero_point: Array
    type: str
    axis: int | None = None

    def same(self, other: "Parameters") -> bool:
        """Whether codes mean the same under both."""
        return (
            self.type == other.type
            and self.axis == other.axis
            and np.array_equal(self.scale, other.scale)
            and np.array_equal(self.zero_point, other.zero_point)
        )

    @property
    def offset(self) -> int:
        """The zero point of a tensor with one scale."""
        return int(self.zero_point)

    @property
    def quant_type(self) -> QuantType:
        """Type of the codes."""
        return QuantType.parse(self.type)


@dataclass(frozen=True, slots=True, eq=False)
class Real:
    """A float tensor whose every element is scale * (code - zero point).

    Attributes:
        node: the DequantizeLinear, or the product whose accumulators these are.
    """

    codes: Codes
    parameters: Parameters
    node: str


@dataclass(frozen=True, slots=True, eq=False)
class Numbers:
    """A float constant."""

    array: Array


@dataclass(frozen=True, slots=True)
class Floats:
    """A float tensor that nothing integer carries; ``entry`` where it is an input of the model."""

    name: str
    entry: bool = False


def shape_of(value: ir.Value) -> Shape | None:
    """Its shape, free dimensions by name or None."""
    if value.shape is None:
        return None
    return tuple(size if isinstance(size, int) else size.value for size in value.shape)


def type_of(value: ir.Value) -> str | None:
    """ONNX element type in lower case, None where unknown."""
    return None if value.dtype is None else value.dtype.name.lower()


def is_integer(type_name: str | None) -> bool:
    """Whether a tensor of that element type has a place in a program."""
    return type_name in INTEGERS or type_name in WIDE_INTEGERS


def constant_state(value: ir.Value) -> Codes | Numbers | None:
    """What a constant stands for; None for what is no constant, or no number."""
    tensor = constant_tensor(value)
    if tensor is None or tensor.dtype == ir.DataType.STRING:
        return None
    name = tensor.dtype.name.lower()
    if is_integer(name):
        return Codes(value.name or "", name, tuple(tensor.shape.numpy()), tensor.numpy())
    return Numbers(tensor.numpy())


def scalar_parameters(real: Real, what: str) -> Parameters:
    """Its parameters; Unreadable where there is not one scale for the tensor."""
    if real.parameters.axis is not None:
        raise Unreadable(f"{what} has a scale for each channel, which no integer kernel takes")
    return real.parameters


def parameters_of(scale: ir.Value | None, zero_point: ir.Value | None, type_name: str, axis: int) -> Parameters:
    """Parameters read from the inputs of a node.

    Args:
        type_name: of the codes where there is no zero point.
        axis: of the channels, not negative, for more than one scale.

    Raises Unreadable for what is not constant, of another type, or damaged.
    """
    scales = None if scale is None else constant_state(scale)
    if not isinstance(scales, Numbers):
        raise Unreadable("its scale is no constant: it is found at run time")
    array = scales.array
    if array.dtype != np.float32:
        raise Unreadable(f"its scale is {array.dtype}, not float32")
    if array.ndim > 1:
        raise Unreadable("its scales are those of blocks, which no integer kernel takes")
    if not (np.isfinite(array).all() and (array > 0).all()):
        raise Unreadable("its scale is not positive and finite")
    offsets = np.zeros((), np.int64)
    if zero_point is not None:
        found = constant_state(zero_point)
        if not isinstance(found, Codes) or found.constant is None:
            raise Unreadable("its zero point is no constant of an integer type")
        offsets, type_name = found.constant.astype(np.int64), found.type
    if type_name not in INTEGERS or type_name == "bool":
        raise Unreadable(f"codes of type {type_name} are no integers")
    if type_name.endswith("32") and offsets.any():
        raise Unreadable("codes of 32 bits have a zero point, so that their difference may overflow")
    if array.size == 1 and offsets.size == 1:
        return Parameters(array.reshape(()), offsets.reshape(()), type_name)
    if offsets.size not in (1, array.size):
        raise Unreadable("it has not as many zero points as scales")
    return Parameters(array, np.broadcast_to(offsets.reshape(-1), array.shape), type_name, axis)
