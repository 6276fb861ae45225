"""Operations on dequantized codes whose result is yet to be quantized, in any spelling: pairs or QLinear operators.

Each knows the step that it becomes once scale and zero point of its result are known.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from ptqc.core.dyadic import product_multiplier, ratio
from ptqc.core.types import Array
from ptqc.verify.program import (
    AddCodes,
    Carrier,
    ConcatCodes,
    Lookup,
    MultiplyCodes,
    Product,
    Requantization,
    Step,
)
from ptqc.verify.read_values import BYTES, Parameters, Real, Unreadable, scalar_parameters
from ptqc.verify.tables import function_table, is_certain, requantization_table


@dataclass(frozen=True, slots=True)
class Place:
    """Where a step stands: its node, what computes it, and the name of its output."""

    node: str
    output: str
    carrier: Carrier


class Operation(Protocol):
    """What waits for its quantization."""

    def step(self, place: Place, result: Parameters) -> Step:
        """The step; Unreadable where no integer kernel takes these types and scales."""
        ...

    @property
    def operands(self) -> tuple[Real, ...]:
        """What it reads."""
        ...


def _bytes(result: Parameters, *operands: Real) -> None:
    """Unreadable unless all codes have 8 bits and one scale."""
    if result.axis is not None:
        raise Unreadable("its result has a scale for each channel, which no integer kernel gives")
    for type_name in (*(operand.codes.type for operand in operands), result.type):
        if type_name not in BYTES:
            raise Unreadable(f"computes in float: no integer kernel takes or gives codes of type {type_name}")


def _same_type(result: Parameters, *operands: Real) -> None:
    _bytes(result, *operands)
    types = sorted({*(operand.codes.type for operand in operands), result.type})
    if len(types) > 1:
        raise Unreadable(f"computes in float: no integer kernel takes {' and '.join(types)} together")


@dataclass(frozen=True, slots=True, eq=False)
class ProductOperation:
    """Conv, Gemm or MatMul.

    Attributes:
        operator: its type.
        first, second: the factors, the second with constant codes where these are weights.
        bias: int64 [O] or None.
        attributes: of the operator.
        output_axis: of the output channels in the result.
    """

    operator: str
    first: Real
    second: Real
    bias: Array | None
    attributes: Mapping[str, Any]
    output_axis: int

    @property
    def operands(self) -> tuple[Real, ...]:
        return self.first, self.second

    @property
    def accumulator_scale(self) -> Array:
        """fl(s_x * s_w), float32 [] or [O]."""
        found: Array = self.first.parameters.scale * self.second.parameters.scale
        return found

    def step(self, place: Place, result: Parameters) -> Product:
        if result.axis is not None or result.type not in BYTES:
            raise Unreadable(f"computes in float: no integer kernel gives codes of type {result.type}")
        if result.type != self.first.codes.type:
            raise Unreadable(f"computes in float: no integer kernel makes {result.type} of {self.first.codes.type}")
        multiplier = product_multiplier(self.first.parameters.scale, self.second.parameters.scale, result.scale)
        return self._product(place, Requantization(multiplier, result.offset, result.quant_type))

    def accumulators(self, place: Place) -> Product:
        """The same without requantization."""
        return self._product(place, None)

    def _product(self, place: Place, requantization: Requantization | None) -> Product:
        first, second = self.first, self.second
        if second.codes.type not in BYTES or first.codes.type not in BYTES:
            types = f"{first.codes.type} and {second.codes.type}"
            raise Unreadable(f"computes in float: no integer kernel multiplies {types}")
        if first.codes.type == "int8" and second.codes.type == "uint8":
            raise Unreadable("no integer kernel multiplies int8 by uint8")
        weights = None if second.codes.constant is None else second.codes.constant.astype(np.int64)
        names = (first.codes.name,) if weights is not None else (first.codes.name, second.codes.name)
        return Product(
            node=place.node,
            inputs=names,
            output=place.output,
            carrier=place.carrier,
            operator=self.operator,
            zero_points=(first.parameters.offset, second.parameters.zero_point),
            weights=weights,
            bias=self.bias,
            attributes=self.attributes,
            requantization=requantization,
            output_axis=self.output_axis,
        )


@dataclass(frozen=True, slots=True, eq=False)
class AddOperation:
    """Add of two tensors."""

    first: Real
    second: Real

    @property
    def operands(self) -> tuple[Real, ...]:
        return self.first, self.second

    def step(self, place: Place, result: Parameters) -> AddCodes:
        _same_type(result, *self.operands)
        one, other = (scalar_parameters(operand, "an operand") for operand in self.operands)
        return AddCodes(
            node=place.node,
            inputs=(self.first.codes.name, self.second.codes.name),
            output=place.output,
            carrier=place.carrier,
            scales=(ratio(one.scale, result.scale), ratio(other.scale, result.scale)),
            zero_points=(one.offset, other.offset),
            zero_point=result.offset,
            type=result.quant_type,
        )


@dataclass(frozen=True, slots=True, eq=False)
class MultiplyOperation:
    """Mul of two tensors."""

    first: Real
    second: Real

    @property
    def operands(self) -> tuple[Real, ...]:
        return self.first, self.second

    def step(self, place: Place, result: Parameters) -> MultiplyCodes:
        _same_type(result, *self.operands)
        one, other = (scalar_parameters(operand, "an operand") for operand in self.operands)
        multiplier = product_multiplier(one.scale, other.scale, result.scale)
        return MultiplyCodes(
            node=place.node,
            inputs=(self.first.codes.name, self.second.codes.name),
            output=place.output,
            carrier=place.carrier,
            zero_points=(one.offset, other.offset),
            requantization=Requantization(multiplier, result.offset, result.quant_type),
        )


@dataclass(frozen=True, slots=True, eq=False)
class ConcatOperation:
    """Concat along ``axis``; of one input, a requantization."""

    operands: tuple[Real, ...]
    axis: int

    def step(self, place: Place, result: Parameters) -> ConcatCodes:
        _bytes(result, *self.operands)
        if len(self.operands) > 1:
            _same_type(result, *self.operands)
        sources = [scalar_parameters(operand, "an input") for operand in self.operands]
        return ConcatCodes(
            node=place.node,
            inputs=tuple(operand.codes.name for operand in self.operands),
            output=place.output,
            carrier=place.carrier,
            axis=self.axis,
            tables=tuple(requantization_table(source, result) for source in sources),
            scales=tuple(ratio(source.scale, result.scale) for source in sources),
            zero_points=tuple(source.offset for source in sources),
            zero_point=result.offset,
            type=result.quant_type,
        )


@dataclass(frozen=True, slots=True, eq=False)
class FunctionOperation:
    """A function of one tensor, one of ``tables.FUNCTIONS``."""

    operator: str
    source: Real
    attributes: Mapping[str, Any]

    @property
    def operands(self) -> tuple[Real, ...]:
        return (self.source,)

    def step(self, place: Place, result: Parameters) -> Lookup:
        _bytes(result, self.source)
        source = scalar_parameters(self.source, "its input")
        return Lookup(
            node=place.node,
            inputs=(self.source.codes.name,),
            output=place.output,
            carrier=place.carrier,
            function=self.operator,
            table=function_table(self.operator, self.attributes, source, result),
            type=result.quant_type,
            certain=is_certain(self.operator, self.attributes, source, result),
        )


def product_operation(
    operator: str, first: Real, second: Real, bias: Array | None, attributes: Mapping[str, Any], rank: int | None
) -> ProductOperation:
    """A product after the checks that no kernel skips without harm.

    Args:
        bias: integers of any shape with one element an output, or None.
        rank: of the first factor, if known.

    Raises Unreadable: factors transposed or scaled in a way that kernels do not know, scales along the axis that is
    summed over (runtime-dependent: some kernels take them for those of the outputs), biases of another shape.
    """
    scalar_parameters(first, "its first factor")
    weights = second.codes.constant
    if first.codes.constant is not None and weights is not None:
        raise Unreadable("multiplies two constants")
    axis = None
    if operator == "Gemm":
        if attributes.get("transA", 0) or attributes.get("alpha", 1.0) != 1.0:
            raise Unreadable("computes in float: its kernel knows neither transA nor alpha")
        axis = 0 if attributes.get("transB", 0) else 1
    elif operator == "Conv":
        axis = 0
        if weights is None:
            raise Unreadable("computes in float: its weights are no constants")
    elif weights is not None:
        axis = weights.ndim - 1
    if weights is not None and weights.ndim < 2:
        raise Unreadable("computes in float: its weights have one dimension")
    if second.parameters.axis is not None:
        if weights is None or second.parameters.axis != axis:
            raise Unreadable("its weights have scales along another axis than that of the outputs")
        if operator == "MatMul" and weights.ndim != 2:
            raise Unreadable("computes in float: its weights have scales by channel and more than two dimensions")
        if second.parameters.scale.size != weights.shape[axis]:
            raise Unreadable("its weights have not as many scales as outputs")
    outputs = None if weights is None or axis is None else weights.shape[axis]
    if bias is not None:
        most_axes = {"Conv": 1, "Gemm": 2}.get(operator, rank or 1)  # more would give the result more axes
        if outputs is None or bias.ndim > most_axes or bias.size != outputs or bias.shape[-1:] not in ((), (outputs,)):
            raise Unreadable("computes in float: its bias has not one number for each output")
        bias = bias.reshape(-1).astype(np.int64)
    last = -1 if rank is None or operator != "MatMul" else rank - 1
    return ProductOperation(operator, first, second, bias, attributes, 1 if operator != "MatMul" else last)
