"""What every tensor, accumulator and product of an integer program can hold, for every possible input.

Intervals are carried from the doors through all steps with the actual weights, so that "no overflow" is a proof and not
an observation. Each step of a program is one that docs/arithmetic.md describes.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

from ptqc.core.dyadic import Dyadic
from ptqc.core.types import Array, QuantType
from ptqc.verify.arithmetic_bounds import ARITHMETIC
from ptqc.verify.call import Call, Check, NoRule, Operand
from ptqc.verify.integers import limits
from ptqc.verify.intervals import Interval
from ptqc.verify.movement_bounds import MOVEMENT, Rule
from ptqc.verify.program import (
    AddCodes,
    ConcatCodes,
    Lookup,
    MultiplyCodes,
    Operator,
    Product,
    Program,
    Requantization,
    Step,
)
from ptqc.verify.sums import Sums, convolution_sums, free_sums, matrix_sums

RULES: Mapping[str, Rule] = {**MOVEMENT, **ARITHMETIC}
ACCUMULATOR = "int32"  # of products of codes
WIDE = "int64"  # in which the integer meaning of a requantization is computed


@dataclass(frozen=True, slots=True)
class Finding:
    """What one quantity of a step can be.

    Attributes:
        node: in the file.
        tensor: output of the step.
        quantity: ``sum of products``, ``product``, ``shift``, ``index``, ``divisor``, ...
        low, high: for every input.
        type: the type or limit that it must fit.
        holds: whether it does.
        reason: why not, a sentence; empty where it holds.
    """

    node: str
    tensor: str
    quantity: str
    low: int
    high: int
    type: str
    holds: bool
    reason: str = ""


@dataclass(frozen=True, slots=True, eq=False)
class Bounds:
    """The bounds of a program.

    Attributes:
        intervals: of every tensor.
        sums: accumulators of every product, by the name of its output.
        findings: everything that was computed and compared with its type, in order.
    """

    intervals: Mapping[str, Interval]
    sums: Mapping[str, Sums]
    findings: tuple[Finding, ...]

    @property
    def overflows(self) -> tuple[Finding, ...]:
        """The findings that do not hold."""
        return tuple(finding for finding in self.findings if not finding.holds)


def find_bounds(program: Program) -> Bounds:
    """Intervals of all tensors of ``program``, and whether everything fits its type.

    Tensors that no step makes (doors, what floats compute) hold any number of their type. After an overflow the
    analysis goes on with the whole type.
    """
    analysis = _Analysis(program)
    for step in program.steps:
        analysis.step(step)
    return Bounds(analysis.intervals, analysis.sums, tuple(analysis.findings))


@dataclass(slots=True)
class _Analysis:
    """The state of one walk over the steps."""

    program: Program
    intervals: dict[str, Interval] = field(default_factory=dict)
    sums: dict[str, Sums] = field(default_factory=dict)
    findings: list[Finding] = field(default_factory=list)

    def step(self, step: Step) -> None:
        match step:
            case Product():
                self.product(step)
            case AddCodes():
                self.add_codes(step)
            case MultiplyCodes():
                factors = [
                    self.of(name) - _point(zero) for name, zero in zip(step.inputs, step.zero_points, strict=True)
                ]
                self.requantize(step, factors[0] * factors[1], step.requantization, None)
            case ConcatCodes():
                found = [self.looked_up(name, table) for name, table in zip(step.inputs, step.tables, strict=True)]
                self.codes(step, found[0] if len(found) == 1 else _hull(found), step.type)
            case Lookup():
                self.codes(step, self.looked_up(step.inputs[0], step.table), step.type)
            case Operator():
                self.operator(step)
            case _:
                raise TypeError(f"no bounds for a step of type {type(step).__name__}")

    def of(self, name: str) -> Interval:
        """What a tensor can hold."""
        if name not in self.intervals:
            constant = self.program.constants.get(name)
            self.intervals[name] = self.whole(name) if constant is None else Interval.of_array(constant)
        return self.intervals[name]

    def whole(self, name: str) -> Interval:
        return Interval.of_type(self.type_of(name) or WIDE)

    def type_of(self, name: str) -> str:
        """Of the integers of a tensor; empty where the file does not say, or says that it holds none."""
        info = self.program.tensors.get(name)
        try:
            return "" if info is None or not limits(info.type) else info.type
        except ValueError:
            return ""

    def check(self, step: Step, check: Check) -> bool:
        """Notes a finding, and says whether it holds."""
        low, high = check.interval.least, check.interval.greatest
        reason = "" if check.holds else _complaint(check)
        finding = Finding(step.node, step.output, check.quantity, low, high, check.limit, check.holds, reason)
        self.findings.append(finding)
        return check.holds

    def product(self, step: Product) -> None:
        sums = self.sums_of(step)
        self.sums[step.output] = sums
        fits = self.check(step, Check.of_type("sum of products", sums.partial, ACCUMULATOR))
        total = sums.total if fits else Interval.of_type(ACCUMULATOR)
        if step.requantization is None:
            self.intervals[step.output] = total
        else:
            self.requantize(step, total, step.requantization, total.axis or _channels(step))

    def sums_of(self, step: Product) -> Sums:
        data = self.of(step.inputs[0]) - _point(step.zero_points[0])
        zero = np.asarray(step.zero_points[1])
        if step.weights is None:
            second = self.of(step.inputs[1]).collapse() - Interval.of(int(zero.min()), int(zero.max()))
            sums = free_sums(data, second, self.summed(step))
        elif step.operator == "Conv":
            weights = step.weights - zero.reshape((-1,) + (1,) * (step.weights.ndim - 1))
            sums = convolution_sums(weights, int(step.attributes.get("group", 1)), data)
        else:
            turned = step.operator == "Gemm" and int(step.attributes.get("transB", 0))
            weights = (step.weights.T if turned else step.weights) - zero
            sums = matrix_sums(weights, data.collapse() if int(step.attributes.get("transA", 0)) else data)
        return sums if step.bias is None else sums.plus(_numbers(step.bias, _axis(step)))

    def summed(self, step: Product) -> int:
        """How many products of two activations are added; the most that int32 sums could matter for if unknown."""
        turned = step.operator == "Gemm" and int(step.attributes.get("transB", 0))
        for name, axis in ((step.inputs[0], -1), (step.inputs[1], -1 if turned else -2)):
            info = self.program.tensors.get(name)
            shape = () if info is None or info.shape is None else info.shape
            size = shape[axis] if len(shape) >= 2 else None
            if isinstance(size, int):
                return size
        return 1 << 31

    def requantize(self, step: Step, value: Interval, how: Requantization, axis: int | None) -> None:
        try:
            dyadic = Dyadic.of(how.scale)
        except ValueError:  # a proof says so
            self.codes(step, Interval.of(how.type.qmin, how.type.qmax), how.type)
            return
        product = value * _numbers(dyadic.multiplier, axis)
        self.round(step, product, dyadic.shift, how.zero_point, how.type)

    def round(self, step: Step, value: Interval, shift: int, zero_point: int, kind: QuantType) -> None:
        """``clamp(RHE(value, shift) + zero_point)``."""
        half = (1 << shift) >> 1
        self.check(step, Check.of_type("times multiplier", value + Interval.of(min(half, 0), half), WIDE))
        self.codes(step, (value.round_shift(shift) + _point(zero_point)).clamp(kind.qmin, kind.qmax), kind)

    def codes(self, step: Step, interval: Interval, kind: QuantType) -> None:
        """Codes of ``kind`` must fit the type of the tensor that holds them."""
        check = Check.of_type("codes", interval, self.type_of(step.output) or str(kind))
        if not check.holds:
            self.check(step, check)
        self.intervals[step.output] = interval if check.holds else self.whole(step.output)

    def add_codes(self, step: AddCodes) -> None:
        terms = [self.of(name) - _point(zero) for name, zero in zip(step.inputs, step.zero_points, strict=True)]
        try:
            scales = [np.asarray(scale).reshape(-1) for scale in step.scales]
            dyadic = Dyadic.of(np.concatenate(scales))
        except ValueError:
            self.codes(step, Interval.of(step.type.qmin, step.type.qmax), step.type)
            return
        parts = np.split(dyadic.multiplier, [scales[0].size])
        scaled = [term * _numbers(numbers, None) for term, numbers in zip(terms, parts, strict=True)]
        self.round(step, scaled[0] + scaled[1], dyadic.shift, step.zero_point, step.type)

    def looked_up(self, name: str, table: Array) -> Interval:
        """The entries of ``table`` that the codes of a tensor reach."""
        first, codes = limits(self.type_of(name) or "uint8")[0], self.of(name)
        reached = table[max(codes.least - first, 0) : codes.greatest - first + 1]
        return Interval.of(int(reached.min()), int(reached.max())) if reached.size else Interval.of_array(table)

    def operator(self, step: Operator) -> None:
        outputs = step.outputs or (step.output,)
        declared = self.type_of(step.output)
        rule = RULES.get(step.operator)
        try:
            if rule is None:
                raise NoRule(f"no rule says what {step.operator} can give")
            if not declared:
                raise NoRule(f"the integer type of tensor '{step.output}' is not known")
            inputs = tuple(self.operand(name) for name in step.inputs)
            outcome = rule(Call(step.operator, step.attributes, inputs, declared))
        except NoRule as error:
            whole = self.whole(step.output)
            reason = str(error)
            self.findings.append(
                Finding(step.node, step.output, "result", whole.least, whole.greatest, "unknown", False, reason)
            )
            self.intervals.update({name: self.whole(name) for name in outputs if name})
            return
        fits = all([self.check(step, check) for check in outcome.checks])
        result = Check.of_type(outcome.quantity or "result", outcome.interval, declared)
        if outcome.quantity or not result.holds:
            fits &= self.check(step, result)
        for name in outputs:
            known = fits and (name == step.output or step.operator == "Split")
            self.intervals[name] = outcome.interval if known else self.whole(name)

    def operand(self, name: str) -> Operand | None:
        if not name:
            return None
        constant, info = self.program.constants.get(name), self.program.tensors.get(name)
        shape = constant.shape if constant is not None else None if info is None else info.shape
        return Operand(name, self.of(name), constant, "" if info is None else info.type, shape)


def _point(number: int) -> Interval:
    return Interval.of(number, number)


def _hull(intervals: list[Interval]) -> Interval:
    found = intervals[0].collapse()
    for interval in intervals[1:]:
        found = found.hull(interval.collapse())
    return found


def _axis(step: Product) -> int:
    """Of the output channels, counted from the last."""
    return -1 if step.operator != "Conv" or step.weights is None else 1 - step.weights.ndim


def _channels(step: Product) -> int | None:
    return _axis(step) if step.requantization is not None and step.requantization.scale.size > 1 else None


def _numbers(values: Array, axis: int | None) -> Interval:
    values = np.asarray(values).reshape(-1)
    if axis is None or values.size == 1:
        return Interval.of(int(values.min()), int(values.max()))
    return Interval.along(values, values, axis)


def _complaint(check: Check) -> str:
    low, high = check.interval.least, check.interval.greatest
    where = ""
    if check.interval.axis is not None:
        outside = [
            low < check.low or high > check.high
            for low, high in zip(check.interval.low, check.interval.high, strict=True)
        ]
        where = f" in channel {outside.index(True)}"
    return f"the {check.quantity} can be {low} to {high}{where}, outside {check.limit} ({check.low} to {check.high})"
