"""Whether an engine that does not fuse DequantizeLinear-operator-QuantizeLinear computes the same codes.

It does where scales of activations are powers of two and everything in between has at most 24 bits, whatever the order
of summation (last paragraph of docs/arithmetic.md). Where it does not, only engines that fuse are exact.
"""

from math import frexp

import numpy as np

from ptqc.core.dyadic import FLOAT_BITS
from ptqc.core.types import Array
from ptqc.verify.bounds import Bounds
from ptqc.verify.carriers import Unproven, bits, common_multiplier, lowest_terms
from ptqc.verify.intervals import Interval
from ptqc.verify.program import AddCodes, ConcatCodes, Lookup, MultiplyCodes, Product, Program, Step
from ptqc.verify.proof import UNFUSED, Proof

CODE_BITS = 8


def unfused_proof(step: Step, program: Program, bounds: Bounds) -> Proof:
    """Of a step between DequantizeLinear and QuantizeLinear."""
    try:
        return Proof(UNFUSED, step.node, True, *_numbers(step, program, bounds))
    except Unproven as error:
        return Proof(UNFUSED, step.node, False, error.numbers, str(error))


def _numbers(step: Step, program: Program, bounds: Bounds) -> tuple[dict[str, object], str]:
    match step:
        case Product():
            scales = _exit_scale(step, program) if step.requantization is None else step.requantization.scale
            _powers_of_two(step, program, without_output=step.requantization is None)
            return _fits(scales, bounds.sums[step.output].partial)
        case AddCodes():
            _short(step, program, CODE_BITS)
            parts = [
                _scaled(bounds.intervals[name] - Interval.of(zero, zero), scale)
                for name, zero, scale in zip(step.inputs, step.zero_points, step.scales, strict=True)
            ]
            shift = max(part[1] for part in parts)
            return _whole(sum(number << (shift - places) for number, places in parts))
        case MultiplyCodes():
            _short(step, program, 0)
            one, two = (
                bounds.intervals[name] - Interval.of(zero, zero)
                for name, zero in zip(step.inputs, step.zero_points, strict=True)
            )
            return _whole(_scaled(one * two, step.requantization.scale)[0])
        case Lookup() if step.function == "Sigmoid":
            raise Unproven("engines compute Sigmoid differently in the last bits")
        case Lookup() | ConcatCodes():
            return {}, "the same float32 computation for each code"
        case _:
            return {}, "moves codes"


def _powers_of_two(step: Step, program: Program, without_output: bool = False) -> None:
    _scales_are_powers(step.inputs if without_output else (*step.inputs, step.output), program)


def _scales_are_powers(names: tuple[str, ...], program: Program) -> None:
    for name in names:
        scales = program.scales.get(name)
        if not scales:
            raise Unproven(f"the scale of '{name}' is not known")
        for scale in scales:
            if frexp(scale)[0] != 0.5:
                raise Unproven(f"the scale {scale:.9g} of '{name}' is no power of two", scale=float(scale))


def _short(step: Step, program: Program, others: int) -> None:
    """The scale of the result is a power of two; those of the inputs may have a few bits, as those of constants do:
    with ``others`` more no more than float32 holds."""
    _scales_are_powers((step.output,), program)
    total = others
    for name in step.inputs:
        scales = program.scales.get(name)
        if not scales:
            raise Unproven(f"the scale of '{name}' is not known")
        for scale in scales:
            width = int(bits(lowest_terms(np.asarray([scale], np.float32))[1])[0])
            total = max(total, others + width) if others else total + width
            if total > FLOAT_BITS:
                raise Unproven(f"the scale {scale:.9g} of '{name}' has {width} bits, too many", scale=float(scale))


def _exit_scale(step: Product, program: Program) -> Array:
    for door in program.exits:
        if door.codes == step.output and door.scale is not None:
            return door.scale
    raise Unproven("the scale of its accumulators is not known")


def _fits(scale: Array, partial: Interval) -> tuple[dict[str, object], str]:
    """Bits of the multiplier and of any part of a sum, channel by channel."""
    values, multiplier, _ = lowest_terms(_odd(scale))
    sums = np.broadcast_to(partial.magnitude, values.shape) if values.size > 1 else np.array([max(partial.magnitude)])
    total = bits(multiplier) + bits(sums)
    channel = int(total.argmax())
    numbers: dict[str, object] = {
        "multiplier_bits": int(bits(multiplier)[channel]),
        "sum_bits": int(bits(sums)[channel]),
    }
    if total[channel] > FLOAT_BITS:
        parts = f"{numbers['multiplier_bits']} bits of the multiplier and {numbers['sum_bits']} of the sum"
        raise Unproven(f"{parts} of channel {channel} exceed {FLOAT_BITS}", **numbers)
    return numbers, f"{int(total[channel])} bits are at most {FLOAT_BITS}"


def _odd(scale: Array) -> Array:
    """The significands alone: a power of two changes nothing here."""
    return np.frexp(np.asarray(scale, np.float32))[0]


def _scaled(value: Interval, scale: Array) -> tuple[int, int]:
    """The greatest number times b, and c."""
    _, multiplier, shift = lowest_terms(scale)
    common = int(shift.max())
    return int(max(value.magnitude)) * common_multiplier(multiplier, shift, common), common


def _whole(number: int) -> tuple[dict[str, object], str]:
    numbers: dict[str, object] = {"sum_bits": number.bit_length()}
    if number > 1 << FLOAT_BITS:
        raise Unproven(f"its sums have {number.bit_length()} bits, more than {FLOAT_BITS}", **numbers)
    return numbers, f"{number.bit_length()} bits are at most {FLOAT_BITS}"
