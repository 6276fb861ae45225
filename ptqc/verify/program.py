"""An integer graph as a program: steps over integer tensors, with every constant that they need.

The reader makes it from a file, the interpreter runs it, bounds and proofs look at it. Nothing here or in its users
knows the passes that wrote the file; docs/arithmetic.md says what each step computes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from ptqc.core.types import Array, QuantType

Shape = tuple[int | str | None, ...]


class Carrier(StrEnum):
    """Who computes a step in the file."""

    INTEGER = "integer"  # integer operators of the ONNX standard
    QLINEAR = "qlinear"  # an operator on codes with scales: QLinearConv, QGemm, ...
    QDQ = "qdq"  # a float operator between DequantizeLinear and QuantizeLinear, which the runtime may fuse


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An integer tensor: ONNX element type (``uint8``, ``int32``, ...) and shape as far as it is known."""

    type: str
    shape: Shape | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Requantization:
    """From accumulators to codes: ``clamp(RHE(acc * b, c) + zero_point)``.

    Attributes:
        scale: float32 [] or [O], the multiplier as the kernel forms it; exactly b / 2^c.
        zero_point: of the output.
        type: of the output codes, whose limits clamp.
    """

    scale: Array
    zero_point: int
    type: QuantType


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Step:
    """One step; ``inputs`` and ``output`` are names of integer tensors.

    Attributes:
        node: its name in the file, for messages.
        carrier: what computes it there.
    """

    node: str
    inputs: tuple[str, ...]
    output: str
    carrier: Carrier = Carrier.INTEGER


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Product(Step):
    """Conv, Gemm or MatMul of codes; one input with constant weights, two where both factors are activations.

    Attributes:
        operator: ``Conv``, ``Gemm`` or ``MatMul``.
        zero_points: of the first and of the second factor; the second int64 [] or [O].
        weights: int64, in the layout of the operator; None where the second factor is an activation.
        bias: int64 [O] or None.
        attributes: of the operator (strides, pads, group, transB, ...).
        requantization: None where the output are the accumulators, int32.
        output_axis: of the output channels in the result.
    """

    operator: str
    zero_points: tuple[int, Array]
    weights: Array | None
    bias: Array | None
    attributes: Mapping[str, Any]
    requantization: Requantization | None
    output_axis: int = 1


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class AddCodes(Step):
    """``clamp(RHE((a - za) * ba + (b - zb) * bb, c) + z)``; a constant operand is an entry of ``Program.constants``.

    Attributes:
        scales: float32 multipliers fl(sa / sy) and fl(sb / sy).
        zero_points: of the operands.
    """

    scales: tuple[Array, Array]
    zero_points: tuple[int, int]
    zero_point: int
    type: QuantType


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class MultiplyCodes(Step):
    """``clamp(RHE((a - za) * (b - zb) * m, c) + z)``."""

    zero_points: tuple[int, int]
    requantization: Requantization


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class ConcatCodes(Step):
    """Concat whose inputs are requantized one by one.

    Attributes:
        axis: of the concatenation.
        tables: for each input int64 [256], the output code of each code counted from the least of the input's type.
        scales: float32 multipliers fl(s / sy) of each input.
        zero_points: of each input; ``zero_point``: of the output.
    """

    axis: int
    tables: tuple[Array, ...]
    scales: tuple[Array, ...]
    zero_points: tuple[int, ...]
    zero_point: int
    type: QuantType


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Lookup(Step):
    """A function of one 8-bit tensor: ``table[q - least code]``.

    Attributes:
        function: operator in the file (``Sigmoid``), for messages.
        table: int64 [256].
        type: of the output.
        certain: no entry is so near to a tie that the runtime's own approximation of the function might differ.
    """

    function: str
    table: Array
    type: QuantType
    certain: bool = True


@dataclass(frozen=True, slots=True, eq=False, kw_only=True)
class Operator(Step):
    """An ONNX operator on integers as it stands: what moves codes, and the integer arithmetic of the portable form.

    Attributes:
        operator: ``Reshape``, ``MatMulInteger``, ``BitShift``, ...; absent optional inputs are empty names.
        attributes: as in the file.
        outputs: all output names where there are several (Split); ``output`` is the first.
    """

    operator: str
    attributes: Mapping[str, Any]
    outputs: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, eq=False)
class Door:
    """Where real numbers become codes or codes real numbers.

    Attributes:
        node: its name in the file; empty where codes themselves come in or go out.
        real: name of the real tensor, input or output of the model; that of the codes where there is none.
        codes: name of the integer tensor in the program.
        scale, zero_point: float32 and int64, [] or [C] along ``axis``; None where the file does not say.
        type: ONNX element type of the codes.
    """

    node: str
    real: str
    codes: str
    type: str
    scale: Array | None = None
    zero_point: Array | None = None
    axis: int | None = None


@dataclass(frozen=True, slots=True)
class Obstacle:
    """Why a part of the file is no integer program.

    Attributes:
        node: its name in the file.
        operator: its type.
        reason: a sentence.
        allowed: the model's metadata names the node as an island of float (``--allow-float``).
    """

    node: str
    operator: str
    reason: str
    allowed: bool = False


@dataclass(frozen=True, slots=True, eq=False)
class Program:
    """The integer meaning of one file.

    Attributes:
        entries, exits: the doors.
        steps: in topological order.
        constants: integer tensors that steps read, int64.
        tensors: type and shape of every integer tensor.
        obstacles: what is not part of the program; where there are any, steps are what could be read all the same.
        scales: for each tensor of codes that the file gives a scale, every float32 scale it is written or read with;
            no more than information, as only their ratios matter to the integers.
    """

    entries: tuple[Door, ...]
    exits: tuple[Door, ...]
    steps: tuple[Step, ...]
    constants: Mapping[str, Array] = field(default_factory=dict)
    tensors: Mapping[str, TensorInfo] = field(default_factory=dict)
    obstacles: tuple[Obstacle, ...] = ()
    scales: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def complete(self) -> bool:
        """Whether the whole file is an integer program."""
        return not self.obstacles
