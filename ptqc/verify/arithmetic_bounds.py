"""Bounds of ONNX operators that compute with integers."""

from math import prod

from ptqc.verify.call import Call, Check, NoRule, Operand, Outcome
from ptqc.verify.integers import limits
from ptqc.verify.intervals import Interval
from ptqc.verify.movement_bounds import Rule
from ptqc.verify.sums import Sums, convolution_sums, free_sums, matrix_sums

ZERO = Interval.of(0, 0)


def _pair(call: Call) -> tuple[Interval, Interval]:
    first, second = call.input(0), call.input(1)
    return first.beside(second), second.beside(first)


def _add(call: Call) -> Outcome:
    first, second = _pair(call)
    return Outcome(first + second, "sum")


def _subtract(call: Call) -> Outcome:
    first, second = _pair(call)
    return Outcome(first - second, "difference")


def _multiply(call: Call) -> Outcome:
    if call.input(0).name == call.input(1).name:
        return Outcome(call.input(0).interval.square(), "square")
    first, second = _pair(call)
    return Outcome(first * second, "product")


def _divide(call: Call) -> Outcome:
    dividend, divisor = _pair(call)
    check = Check("divisor", divisor, 1, limits(call.type)[1], "at least 1")
    if not check.holds:
        return Outcome(Interval.of_type(call.type), checks=(check,))
    return Outcome(dividend.divide(divisor), "quotient", (check,))


def _remainder(call: Call) -> Outcome:
    dividend, divisor = _pair(call)
    check = Check("divisor", divisor, 1, limits(call.type)[1], "at least 1")
    if not check.holds:
        return Outcome(Interval.of_type(call.type), checks=(check,))
    greatest = divisor.greatest - 1
    if dividend.least >= 0:
        greatest = min(greatest, dividend.greatest)
    least = -greatest if int(call.attributes.get("fmod", 0)) and dividend.least < 0 else 0
    return Outcome(Interval.of(least, greatest), "remainder", (check,))


def _negate(call: Call) -> Outcome:
    return Outcome(-call.input(0).interval, "negative")


def _absolute(call: Call) -> Outcome:
    return Outcome(call.input(0).interval.absolute(), "absolute value")


def _cast(call: Call) -> Outcome:
    return Outcome(call.input(0).interval, "cast")


def _shift(call: Call) -> Outcome:
    value, places = _pair(call)
    low, high = limits(call.type)
    if low < 0:
        raise NoRule("ONNX shifts unsigned integers only")
    width = high.bit_length()
    checks = (Check("shift", places, 0, width - 1, call.type), Check.of_type("shifted number", value, call.type))
    if not all(check.holds for check in checks):
        return Outcome(Interval.of_type(call.type), checks=checks)
    if call.attributes.get("direction") == "LEFT":
        return Outcome(value.shift_left(places), "shifted to the left", checks)
    return Outcome(value.shift_right(places), "shifted to the right", checks)


def _and(call: Call) -> Outcome:
    first, second = _pair(call)
    if first.least < 0 and second.least < 0:
        return Outcome(Interval.of_type(call.type))
    highest = [interval for interval in (first, second) if interval.least >= 0]
    found = highest[0] if len(highest) == 1 else highest[0].minimum(highest[1])
    return Outcome(Interval(found.low * 0, found.high, found.axis))


def _or(call: Call) -> Outcome:
    first, second = _pair(call)
    if first.least < 0 or second.least < 0:
        return Outcome(Interval.of_type(call.type))
    bits = max(first.greatest, second.greatest).bit_length()
    least = max(first.least, second.least) if call.operator == "BitwiseOr" else 0
    return Outcome(Interval.of(least, (1 << bits) - 1))


def _not(call: Call) -> Outcome:
    value, (low, high) = call.input(0).interval, limits(call.type)
    return Outcome(Interval.of(low + high, low + high) - value)


def _reduce_sum(call: Call) -> Outcome:
    data, axes = call.input(0), call.axes(1)
    if axes is None and int(call.attributes.get("noop_with_empty_axes", 0)):
        return Outcome(data.interval)
    rank = None if data.shape is None else len(data.shape)
    if axes is None:
        if rank is None:
            raise NoRule(f"the rank of tensor '{data.name}' is not known")
        axes = tuple(range(rank))
    return _repeated(data, prod(data.size(axis) for axis in axes))


def _cumulative_sum(call: Call) -> Outcome:
    axis = call.constant(1)
    if axis is None:
        raise NoRule("the axis is no constant")
    found = _repeated(call.input(0), call.input(0).size(int(axis.reshape(-1)[0])))
    return Outcome(found.interval.hull(ZERO), found.quantity, found.checks)


def _repeated(data: Operand, count: int) -> Outcome:
    value = data.interval.collapse()
    times = Interval.of(count, count)
    checks = (Check.of_type("part of the sum", value.hull(ZERO) * times, data.type),) if data.type else ()
    return Outcome(value * times, "sum", checks)


def _convolution(call: Call) -> Outcome:
    data, weights = call.input(0), call.constant(1)
    if weights is None:
        raise NoRule("the weights are no constant")
    zero = call.constant(3)
    if zero is not None:
        weights = weights - zero.reshape((-1,) + (1,) * (weights.ndim - 1))
    sums = convolution_sums(weights, int(call.attributes.get("group", 1)), _less(data, call.optional(2)))
    return _accumulated(sums, call.type)


def _matrix_product(call: Call) -> Outcome:
    first, second = call.input(0), call.input(1)
    zeros = (call.optional(2), call.optional(3)) if call.operator == "MatMulInteger" else (None, None)
    if (
        second.constant is not None
        and second.constant.ndim >= 2
        and (zeros[1] is None or zeros[1].constant is not None)
    ):
        weights = second.constant
        if zeros[1] is not None and zeros[1].constant is not None:
            zero = zeros[1].constant
            weights = weights - (zero.reshape(-1) if zero.size > 1 else int(zero.reshape(-1)[0]))
        return _accumulated(matrix_sums(weights, _less(first, zeros[0])), call.type)
    try:
        count = first.size(-1)
    except NoRule:
        shape = second.shape
        if shape is None:
            raise
        count = second.size(-2 if len(shape) > 1 else -1)
    return _accumulated(free_sums(_less(first, zeros[0]), _less(second, zeros[1]), count), call.type)


def _gemm(call: Call) -> Outcome:
    if any(call.attributes.get(name, 1) != 1 for name in ("alpha", "beta")):
        raise NoRule("Gemm of integers multiplies by alpha or beta")
    data, weights, bias = call.input(0), call.constant(1), call.optional(2)
    if weights is None:
        raise NoRule("the second factor is no constant")
    turned = int(call.attributes.get("transB", 0))
    rows = data.interval.collapse() if int(call.attributes.get("transA", 0)) else data.interval
    sums = matrix_sums(weights.T if turned else weights, rows)
    return _accumulated(sums if bias is None else sums.plus(bias.interval), call.type)


def _less(data: Operand, zero: Operand | None) -> Interval:
    """A factor without its zero point."""
    if zero is None:
        return data.interval
    return data.interval - (zero.interval if zero.interval.axis is None else zero.interval.collapse())


def _accumulated(sums: Sums, type_name: str) -> Outcome:
    return Outcome(sums.total, "sum of products", (Check.of_type("part of the sum", sums.partial, type_name),))


ARITHMETIC: dict[str, Rule] = {
    "Add": _add,
    "Sub": _subtract,
    "Mul": _multiply,
    "Div": _divide,
    "Mod": _remainder,
    "Neg": _negate,
    "Abs": _absolute,
    "Cast": _cast,
    "BitShift": _shift,
    "BitwiseAnd": _and,
    "BitwiseOr": _or,
    "BitwiseXor": _or,
    "BitwiseNot": _not,
    "ReduceSum": _reduce_sum,
    "CumSum": _cumulative_sum,
    "ConvInteger": _convolution,
    "MatMulInteger": _matrix_product,
    "Gemm": _gemm,
    "MatMul": _matrix_product,
}
DIVISIONS = frozenset({"Div", "Mod"})
