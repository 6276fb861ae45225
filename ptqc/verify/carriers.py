"""Whether float32 kernels that carry a step compute its integer meaning, by the table in docs/arithmetic.md.

Nothing here is measured: float32 holds whole multiples of a power of two exactly up to 24 bits, and below that a
product, a sum and a rounding are those of integers.
"""

from collections.abc import Callable

import numpy as np

from ptqc.core.dyadic import FLOAT_BITS, Dyadic, round_shift
from ptqc.core.types import Array, QuantType
from ptqc.verify.bounds import Bounds
from ptqc.verify.intervals import Interval
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
from ptqc.verify.proof import EXIT, MOVEMENT, REQUANTIZATION, TABLE, Proof

CODES = 255  # greatest distance of two codes of 8 bits
MULTIPLY_SHIFT = 15  # 9 bits before the point where the zero point is added before rounding


class Unproven(Exception):
    """A condition that does not hold; the text is the reason, ``numbers`` what decided it."""

    def __init__(self, reason: str, **numbers: object) -> None:
        self.numbers = numbers
        super().__init__(reason)


def carrier_proof(step: Step, program: Program, bounds: Bounds) -> Proof:
    """Whether the kernel that carries ``step`` computes what docs/arithmetic.md says; not for integer operators."""
    claim, prove = _RULES[type(step)] if not _is_exit(step) else (EXIT, _exit)
    try:
        numbers, reason = prove(step, program, bounds)
    except Unproven as error:
        return Proof(claim, step.node, False, error.numbers, str(error))
    return Proof(claim, step.node, True, numbers, reason)


Found = tuple[dict[str, object], str]


def lowest_terms(scale: Array) -> tuple[Array, Array, Array]:
    """The float32 multipliers, and b and c of each in lowest terms: float64, int64, int64, all [C].

    Unproven where one is not positive and finite, or beyond 62 bits.
    """
    values = np.asarray(scale, np.float32).reshape(-1).astype(np.float64)
    wrong = np.flatnonzero(~(np.isfinite(values) & (values > 0)))
    if wrong.size:
        raise Unproven(f"{_named(values, int(wrong[0]))} is not positive and finite", channel=int(wrong[0]))
    try:
        dyadic = Dyadic.of(values)
    except ValueError:
        least = int(values.argmin())
        raise Unproven(f"{_named(values, least)} is b / 2^c with a c beyond 62", channel=least) from None
    shared = np.minimum(np.log2(dyadic.multiplier & -dyadic.multiplier).astype(np.int64), dyadic.shift)
    return values, dyadic.multiplier >> shared, dyadic.shift - shared


def common_multiplier(multiplier: Array, shift: Array, common: int) -> int:
    """The greatest b where c is ``common``, which none exceeds."""
    return max(int(b) << (common - int(c)) for b, c in zip(multiplier, shift, strict=True))


def bits(values: Array) -> Array:
    """Of whole numbers of any size: int64 of their shape."""
    return np.array([int(value).bit_length() for value in values.reshape(-1)], np.int64).reshape(values.shape)


def _named(values: Array, channel: int) -> str:
    number = f"the multiplier {values[channel]:.9g}"
    return f"{number} of channel {channel}" if values.size > 1 else number


def _product(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, Product) and step.requantization is not None
    if step.operator == "MatMul" and step.bias is not None:
        raise Unproven("the runtime has no kernel for MatMul with a bias, and adds that in float32")
    return requantization_numbers(step.requantization, bounds.sums[step.output].total)


def requantization_numbers(how: Requantization, total: Interval) -> Found:
    """``round_half_even(fl(acc) * M) + z`` against ``RHE(acc * b, c) + z``; Unproven where they may differ.

    A multiple of 2^-c below 2^t has t + c bits, and from 2^t on both sides saturate, t being the bits of a code.
    """
    values, multiplier, shift = lowest_terms(how.scale)
    most_shift = FLOAT_BITS - how.type.bits
    sums = np.broadcast_to(total.magnitude, values.shape) if values.size > 1 else np.array([max(total.magnitude)])
    width, reach = bits(multiplier), bits(sums)
    wrong = np.flatnonzero((shift > most_shift) & (width + reach > FLOAT_BITS))
    if wrong.size:
        channel = int(wrong[np.argmax((width + reach)[wrong])])
        b, c, acc = int(width[channel]), int(shift[channel]), int(reach[channel])
        raise Unproven(
            f"{_named(values, channel)} is b / 2^c with b of {b} bits and c = {c}: c exceeds {most_shift}, "
            f"and {b} + {acc} bits exceed {FLOAT_BITS}",
            channel=channel,
            multiplier_bits=b,
            shift=c,
            accumulator_bits=acc,
            channels=int(wrong.size),
        )
    deepest = int(shift.max())
    numbers: dict[str, object] = {
        "multiplier_bits": int(width.max()),
        "shift": deepest,
        "accumulator_bits": int(reach.max()),
    }
    short = f"c = {deepest} is at most {most_shift}"
    return numbers, short if deepest <= most_shift else f"bits of b and of the sums are at most {FLOAT_BITS}"


def _exit(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, Product)
    if step.operator == "MatMul" and step.bias is not None:
        raise Unproven("the runtime has no kernel for MatMul with a bias, and adds that in float32")
    reach = int(max(bits(bounds.sums[step.output].total.magnitude)))
    return {"accumulator_bits": reach}, "kernel and DequantizeLinear round an accumulator to float32 alike"


def _add(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, AddCodes)
    _eight_bits(step, program, step.type)
    first, second = (lowest_terms(scale) for scale in step.scales)
    shift = max(int(first[2].max()), int(second[2].max()))
    numbers = [common_multiplier(part[1], part[2], shift) for part in (first, second)]
    whole = CODES * (2 * numbers[0] + 2 * numbers[1] + (1 << shift))
    found: dict[str, object] = {"shift": shift, "sum_bits": whole.bit_length()}
    if whole > 1 << FLOAT_BITS:
        raise Unproven(
            f"with the multipliers {first[0].max():.9g} and {second[0].max():.9g}, b / 2^{shift}, the sums that the "
            f"kernel adds up are up to {whole} / 2^{shift}, and float32 is exact to 2^{FLOAT_BITS}",
            **found,
        )
    _even(step.zero_point, shift)
    return found, f"255 (2 M_a + 2 M_b + 1) 2^{shift} = {whole} is at most 2^{FLOAT_BITS}"


def _multiply(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, MultiplyCodes)
    how = step.requantization
    _eight_bits(step, program, how.type)
    values, multiplier, shift = lowest_terms(how.scale)
    one, two = (
        int(max((bounds.intervals[name] - Interval.of(zero, zero)).magnitude))
        for name, zero in zip(step.inputs, step.zero_points, strict=True)
    )
    channel = int(shift.argmax())
    c, b = int(shift[channel]), int(multiplier[channel])
    greatest = one * two * b + (abs(how.zero_point) << c)
    found: dict[str, object] = {"shift": c, "multiplier_bits": b.bit_length(), "product_bits": (one * two).bit_length()}
    if c > MULTIPLY_SHIFT and greatest > 1 << FLOAT_BITS:
        raise Unproven(
            f"{_named(values, channel)} is b / 2^c with b of {b.bit_length()} bits and c = {c}: c exceeds "
            f"{MULTIPLY_SHIFT}, and the kernel's sums exceed {FLOAT_BITS} bits",
            **found,
        )
    _even(how.zero_point, c)
    return found, f"c = {c} is at most {MULTIPLY_SHIFT}" if c <= MULTIPLY_SHIFT else f"sums have {FLOAT_BITS} bits"


def _concat(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, ConcatCodes)
    for index, table in enumerate(step.tables):
        least = _least(step.inputs[index], program)
        codes = np.arange(least, least + table.size, dtype=np.int64)
        if np.array_equal(table, codes) and table.size == 1 << step.type.bits:
            continue
        _, multiplier, shift = lowest_terms(step.scales[index])
        centred = (codes - step.zero_points[index]) * multiplier[0]
        meaning = np.clip(round_shift(centred, int(shift[0])) + step.zero_point, step.type.qmin, step.type.qmax)
        wrong = np.flatnonzero(meaning != table)
        if wrong.size:
            code = int(codes[wrong[0]])
            raise Unproven(
                f"code {code} of input {index} becomes {int(table[wrong[0]])} in float32 and {int(meaning[wrong[0]])} "
                f"in integers ({wrong.size} of {table.size} codes differ)",
                input=index,
                code=code,
                differing=int(wrong.size),
            )
    return {"tables": len(step.tables)}, "all codes of all inputs were compared"


def _lookup(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, Lookup)
    low, high = int(step.table.min()), int(step.table.max())
    if step.table.size != 256 or low < step.type.qmin or high > step.type.qmax:
        raise Unproven(f"its table has {step.table.size} entries from {low} to {high}", entries=int(step.table.size))
    if not step.certain:
        raise Unproven(f"an entry of its table is so near to a tie that the runtime's {step.function} may differ")
    return {"entries": 256}, "float32 computes all 256 codes exactly as this table"


def _move(step: Step, program: Program, bounds: Bounds) -> Found:
    assert isinstance(step, Operator)
    if step.operator in ("ArgMax", "ArgMin"):
        reach = int(max(bounds.intervals[step.inputs[0]].magnitude)).bit_length()
        if reach > FLOAT_BITS:
            reason = f"it compares numbers of {reach} bits, which float32 makes equal beyond {FLOAT_BITS}"
            raise Unproven(reason, bits=reach)
        return {"bits": reach}, f"float32 tells numbers of {reach} bits apart"
    return {}, "scale and zero point are the same on both sides"


def _is_exit(step: Step) -> bool:
    return isinstance(step, Product) and step.requantization is None


def _eight_bits(step: Step, program: Program, kind: QuantType) -> None:
    """Unproven where codes have more bits than the kernel's."""
    for name in step.inputs:
        info = program.tensors.get(name)
        if info is not None and info.type not in ("uint8", "int8"):
            raise Unproven(f"the runtime has no kernel for codes of type {info.type}")
    if kind.bits != 8:
        raise Unproven(f"the runtime has no kernel for codes of type {kind}")


def _even(zero_point: int, shift: int) -> None:
    """Unproven where a zero point that is added before rounding would turn ties round."""
    if zero_point % 2 and shift:
        raise Unproven(
            f"the zero point {zero_point} of its output is odd: the kernel adds it before it rounds, so that ties go "
            "the other way",
            zero_point=zero_point,
        )


def _least(name: str, program: Program) -> int:
    info = program.tensors.get(name)
    return -128 if info is not None and info.type == "int8" else 0


_RULES: dict[type[Step], tuple[str, Callable[[Step, Program, Bounds], Found]]] = {
    Product: (REQUANTIZATION, _product),
    AddCodes: (REQUANTIZATION, _add),
    MultiplyCodes: (REQUANTIZATION, _multiply),
    ConcatCodes: (TABLE, _concat),
    Lookup: (TABLE, _lookup),
    Operator: (MOVEMENT, _move),
}
