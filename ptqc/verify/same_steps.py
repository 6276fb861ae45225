"""The integer operators of the portable form against the steps of the fast one, step by step and without its inputs.

A whole network rarely brings an accumulator far inside it to a tie. Here every sum, product and table of codes is tried
with all codes there are, and every requantization at all accumulators where its result changes.
"""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from ptqc.core.dyadic import Dyadic, round_shift
from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.verify.bounds import Bounds, find_bounds
from ptqc.verify.integers import limits
from ptqc.verify.interpreter import run
from ptqc.verify.program import (
    AddCodes,
    Carrier,
    Door,
    MultiplyCodes,
    Operator,
    Product,
    Program,
    Requantization,
    Step,
    TensorInfo,
)
from ptqc.verify.proof import PORTABLE, Proof, StaticReport
from ptqc.verify.prove import prove
from ptqc.verify.ties import conv_geometry

HEADS = {"Conv": "ConvInteger", "Gemm": "MatMulInteger", "MatMul": "MatMulInteger"}
SAFE_SHIFT = 50  # up to it 2^c times the codes fits int64
OUTSIDE = 2  # ties beyond the last code
RANDOM = 64
BYTES = ("uint8", "int8")


def prove_portable(program: Program, portable: Program) -> StaticReport:
    """The proofs of a portable form, and that its steps are those of the fast form ``program``."""
    static = prove(portable)
    return replace(static, proofs=(*static.proofs, *same_steps(program, portable, find_bounds(program))))


def same_steps(program: Program, portable: Program, bounds: Bounds) -> tuple[Proof, ...]:
    """For each step that a kernel carries and that ``portable`` computes under the same name, whether it is the same.

    Args:
        program: of the fast form; ``bounds`` are its own.
        portable: of the portable form. Steps whose inputs and output it does not have by their names are left out:
            what leaves the model is compared when it runs.
    """
    found = list(_exits(program, portable))
    made = {name: step for step in portable.steps for name in (step.output, *_outputs(step))}
    leaving = {door.real: door.codes for door in portable.exits}
    other_names = {door.codes: leaving[door.real] for door in program.exits if door.real in leaving}
    for step in program.steps:
        output = step.output if step.output in made else other_names.get(step.output, "")
        if step.carrier is Carrier.INTEGER or isinstance(step, Operator) or output not in made:
            continue
        part = _part(step, output, program, portable, made)
        if part is not None and (proof := _compared(step, part, program, bounds)) is not None:
            found.append(proof)
    return tuple(found)


def _compared(step: Step, part: Program, program: Program, bounds: Bounds) -> Proof | None:
    try:
        complaint = _product(step, part, bounds) if isinstance(step, Product) else _codes(step, part, program)
    except PtqcError as error:  # an overflow, where codes that are fed leave the types of the operators
        complaint = str(error)
    if complaint is None:
        return None
    return Proof(PORTABLE, step.node, not complaint, {}, complaint or "all results agree")


def _exits(program: Program, portable: Program) -> Iterator[Proof]:
    """Whether codes leave both forms with the same scales."""
    doors = {door.real: door for door in portable.exits}
    for door in program.exits:
        other = doors.get(door.real)
        if other is None or door.scale is None:
            continue
        same = door.type == other.type and _equal(door.scale, other.scale) and _equal(door.zero_point, other.zero_point)
        reason = "" if same else f"output '{door.real}' of the portable form has another type, scale or zero point"
        yield Proof(PORTABLE, other.node or door.real, same, {}, reason or "scale and zero point are the same")


def _part(step: Step, output: str, program: Program, portable: Program, made: Mapping[str, Step]) -> Program | None:
    """What ``portable`` has between the inputs of ``step`` and ``output``; None where other tensors go in."""
    wanted, seen = [output], set()
    inputs: dict[str, None] = {}
    while wanted:
        name = wanted.pop()
        if name in portable.constants or name in seen or not name:
            continue
        if name != output and (name in program.tensors or name not in made):
            inputs[name] = None
            continue
        seen.add(name)
        wanted += made[name].inputs
    if set(inputs) != {name for name in step.inputs if name not in program.constants}:
        return None
    steps = tuple(one for one in portable.steps if one.output in seen or set(_outputs(one)) & seen)
    types = {name: portable.tensors[name].type for name in inputs if name in portable.tensors}
    if len(types) < len(inputs) or output not in portable.tensors:
        return None
    doors = tuple(Door("", name, name, types[name]) for name in inputs)
    exits = (Door("", output, output, portable.tensors[output].type),)
    return replace(portable, entries=doors, exits=exits, steps=steps, obstacles=())


def _codes(step: Step, part: Program, program: Program) -> str | None:
    """Compares a step on codes with all codes, or all pairs of codes; None where there is nothing to feed."""
    feeds = _all_codes(step, program, tuple(door.codes for door in part.entries))
    if feeds is None:
        return None
    alone = replace(program, entries=part.entries, exits=part.exits, steps=(step,), obstacles=())
    expected, found = (run(_without_shapes(one), feeds)[part.exits[0].codes] for one in (alone, part))
    if expected.shape != found.shape:
        return f"the portable operators give shape {found.shape} where {expected.shape} is meant"
    unequal = np.flatnonzero(expected.ravel() != found.ravel())
    if not unequal.size:
        return ""
    at = tuple(int(place) for place in np.unravel_index(int(unequal[0]), expected.shape))
    given = ", ".join(f"'{name}' = {int(codes.ravel()[at[0]])}" for name, codes in feeds.items())
    return (
        f"the portable operators give {int(found[at])} for {given} where {int(expected[at])} is meant "
        f"({unequal.size} of {expected.size} results differ)"
    )


def _all_codes(step: Step, program: Program, names: tuple[str, ...]) -> dict[str, Array] | None:
    """All codes along the first axis; of two factors or summands all pairs."""
    found: dict[str, Array] = {}
    pairs = isinstance(step, AddCodes | MultiplyCodes) and len(names) == 2
    for place, name in enumerate(names):
        info = program.tensors.get(name)
        if info is None or info.shape is None or not info.shape or info.type not in BYTES:
            return None
        low, high = limits(info.type)
        codes = np.arange(low, high + 1)
        if pairs:
            codes = codes.repeat(256) if place == 0 else np.tile(codes, 256)
        found[name] = codes.reshape(-1, *[1] * (len(info.shape) - 1))
    lengths = [constant.shape for name in step.inputs if (constant := program.constants.get(name)) is not None]
    ranks = [codes.ndim for codes in found.values()]
    if any(len(shape) > min(ranks) or (len(shape) == min(ranks) and shape[0] != 1) for shape in lengths if shape):
        return None  # a constant with a batch axis of its own
    return found


def _product(step: Product, part: Program, bounds: Bounds) -> str | None:
    """Compares weights, and what becomes of accumulators; None where another operator makes them."""
    heads = [one for one in part.steps if isinstance(one, Operator) and one.operator == HEADS[step.operator]]
    turned = step.weights is None and any(int(step.attributes.get(name, 0)) for name in ("transA", "transB"))
    if len(heads) != 1 or heads[0].inputs[: len(step.inputs)] != step.inputs or turned:
        return None
    complaint = _other_product(step, heads[0], part.constants)
    if complaint:
        return complaint
    sums, head = _sums(step, bounds), heads[0].output
    rank = 2 if step.operator != "Conv" or step.weights is None else step.weights.ndim
    bias = 0 if step.bias is None else step.bias
    rest = replace(
        part, entries=(Door("", head, head, "int32"),), steps=tuple(one for one in part.steps if one is not heads[0])
    )
    fed = (sums - bias).reshape(*sums.shape, *[1] * (rank - 2))
    found = run(_without_shapes(rest), {head: fed})[part.exits[0].codes].reshape(sums.shape)
    expected = sums if step.requantization is None else _requantized(sums, step.requantization)
    unequal = np.argwhere(found != expected)
    if not unequal.size:
        return ""
    row, channel = (int(place) for place in unequal[0])
    return (
        f"the portable operators make code {int(found[row, channel])} of accumulator {int(sums[row, channel])} of "
        f"channel {channel} where {int(expected[row, channel])} is meant ({len(unequal)} of {sums.size} results differ)"
    )


def _other_product(step: Product, head: Operator, constants: Mapping[str, Array]) -> str:
    """How the integer product differs from the one that is meant; empty where it does not."""
    weights = constants.get(head.inputs[1])
    zero, weight_zero = ([constants.get(name) for name in head.inputs[2:]] + [None, None])[:2]
    meant = step.weights
    if meant is not None and step.operator == "Gemm" and int(step.attributes.get("transB", 0)):
        meant = meant.T
    if (weights is None) != (meant is None) or (meant is not None and not np.array_equal(np.asarray(weights), meant)):
        return "the portable form has other weights"
    if not (np.asarray(0 if zero is None else zero) == step.zero_points[0]).all():
        return "the portable form has another zero point of the input"
    if not (np.asarray(0 if weight_zero is None else weight_zero) == step.zero_points[1]).all():
        return "the portable form has other zero points of the second factor"
    rank = 0 if meant is None else meant.ndim - 2
    if step.operator == "Conv" and _geometry(step.attributes, rank) != _geometry(head.attributes, rank):
        return "the portable form has other strides, pads, dilations or groups"
    return ""


def _geometry(attributes: Mapping[str, Any], rank: int) -> tuple[object, ...]:
    strides, dilations, _ = conv_geometry(attributes, rank)
    pads = tuple(attributes.get("pads") or (0,) * (2 * rank))
    return strides, dilations, pads, attributes.get("auto_pad", "NOTSET"), int(attributes.get("group", 1))


def _sums(step: Product, bounds: Bounds) -> Array:
    """Accumulators [P, O] at every tie of each channel and beside it, at the ends of their bounds and at random."""
    total, how = bounds.sums[step.output].total, step.requantization
    outputs = total.low.size if how is None else max(total.low.size, how.scale.size)
    low, high = (np.broadcast_to(end, outputs).astype(np.int64) for end in (total.low, total.high))
    chance = np.random.default_rng(0).integers(low, high, (RANDOM, outputs), endpoint=True)
    found = [chance, low[None], high[None]]
    if how is not None:
        numbers = Dyadic.of(how.scale)
        kind = np.int64 if numbers.shift <= SAFE_SHIFT else object
        multiplier = np.broadcast_to(numbers.multiplier, outputs).astype(kind)
        results = np.arange(how.type.qmin - OUTSIDE, how.type.qmax + OUTSIDE + 1).astype(kind) - how.zero_point
        ties = (2 * results + 1)[:, None] * ((1 << numbers.shift) // 2) // multiplier  # rounded down
        found += [np.clip(points, low.astype(kind), high.astype(kind)).astype(np.int64) for points in (ties, ties + 1)]
    return np.concatenate(found)


def _requantized(sums: Array, how: Requantization) -> Array:
    numbers = Dyadic.of(how.scale)
    found: Array = np.clip(
        round_shift(sums * numbers.multiplier, numbers.shift) + how.zero_point, how.type.qmin, how.type.qmax
    )
    return found


def _without_shapes(program: Program) -> Program:
    """Shapes are those of what is fed here."""
    return replace(program, tensors={name: TensorInfo(info.type) for name, info in program.tensors.items()})


def _equal(one: Array | None, other: Array | None) -> bool:
    return one is not None and other is not None and np.array_equal(np.ravel(one), np.ravel(other))


def _outputs(step: Step) -> tuple[str, ...]:
    return step.outputs if isinstance(step, Operator) else ()
