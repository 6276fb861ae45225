"""The integer operators of the portable form against the steps of the fast one, step by step and without its inputs.

A whole network rarely brings an accumulator far inside it to a tie. Here every sum, product and table of codes is tried
with all codes there are, and every requantization at all accumulators where its result changes.
"""

from collections.abc import Mapping
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
BESIDE = (-1, 0, 1)  # neighbours of a tie
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
        portable: of the portable form. Steps that it does not have by their names are left out: what leaves the model
            is compared when it runs.
    """
    found = []
    made = {name: step for step in portable.steps for name in (step.output, *_outputs(step))}
    for step in program.steps:
        if step.carrier is Carrier.INTEGER or isinstance(step, Operator) or step.output not in made:
            continue
        part = _part(step, program, portable, made)
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


def _part(step: Step, program: Program, portable: Program, made: Mapping[str, Step]) -> Program | None:
    """What ``portable`` has between the inputs of ``step`` and its output; None where other tensors go in."""
    wanted, seen = [step.output], set()
    inputs: dict[str, None] = {}
    while wanted:
        name = wanted.pop()
        if name in portable.constants or name in seen or not name:
            continue
        if name != step.output and (name in program.tensors or name not in made):
            inputs[name] = None
            continue
        seen.add(name)
        wanted += made[name].inputs
    if set(inputs) != {name for name in step.inputs if name not in program.constants}:
        return None
    steps = tuple(one for one in portable.steps if one.output in seen or set(_outputs(one)) & seen)
    types = {name: portable.tensors[name].type for name in inputs if name in portable.tensors}
    if len(types) < len(inputs) or step.output not in portable.tensors:
        return None
    doors = tuple(Door("", name, name, types[name]) for name in inputs)
    exits = (Door("", step.output, step.output, portable.tensors[step.output].type),)
    return replace(portable, entries=doors, exits=exits, steps=steps, obstacles=())


def _codes(step: Step, part: Program, program: Program) -> str | None:
    """Compares a step on codes with all codes, or all pairs of codes; None where there is nothing to feed."""
    feeds = _all_codes(step, program, tuple(door.codes for door in part.entries))
    if feeds is None:
        return None
    exits = part.exits
    alone = replace(program, entries=part.entries, exits=exits, steps=(step,), obstacles=())
    expected, found = (run(_without_shapes(one), feeds)[step.output] for one in (alone, part))
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
    if len(heads) != 1 or step.requantization is None or step.weights is None or heads[0].inputs[0] != step.inputs[0]:
        return None
    complaint = _other_product(step, heads[0], part.constants)
    if complaint:
        return complaint
    sums = _sums(step, step.requantization, bounds)
    shape = (len(sums), -1, *[1] * (step.weights.ndim - 2)) if step.operator == "Conv" else (len(sums), -1)
    bias = 0 if step.bias is None else step.bias
    entry = Door("", heads[0].output, heads[0].output, "int32")
    rest = replace(part, entries=(entry,), steps=tuple(one for one in part.steps if one is not heads[0]))
    found = run(_without_shapes(rest), {heads[0].output: (sums - bias).reshape(shape)})[step.output].reshape(sums.shape)
    expected = _requantized(sums, step.requantization)
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
    assert step.weights is not None
    given = [constants.get(name) for name in head.inputs[1:]] + [None, None, None]
    weights, zero, weight_zero = given[:3]
    meant = step.weights.T if step.operator == "Gemm" and int(step.attributes.get("transB", 0)) else step.weights
    if weights is None or weights.shape != meant.shape or not np.array_equal(weights, meant):
        return "the portable form has other weights"
    if int(np.max(zero if zero is not None else 0)) != step.zero_points[0]:
        return "the portable form has another zero point of the input"
    if not (np.asarray(0 if weight_zero is None else weight_zero) == step.zero_points[1]).all():
        return "the portable form has other zero points of weights"
    if step.operator == "Conv" and _geometry(step.attributes, meant.ndim - 2) != _geometry(
        head.attributes, meant.ndim - 2
    ):
        return "the portable form has other strides, pads, dilations or groups"
    return ""


def _geometry(attributes: Mapping[str, Any], rank: int) -> tuple[object, ...]:
    strides, dilations, _ = conv_geometry(attributes, rank)
    pads = tuple(attributes.get("pads") or (0,) * (2 * rank))
    return strides, dilations, pads, attributes.get("auto_pad", "NOTSET"), int(attributes.get("group", 1))


def _sums(step: Product, how: Requantization, bounds: Bounds) -> Array:
    """Accumulators [P, O] at and beside every tie of each channel, at the ends of their bounds and at random."""
    assert step.weights is not None
    total, numbers = bounds.sums[step.output].total, Dyadic.of(how.scale)
    rows = 0 if step.operator == "Conv" or int(step.attributes.get("transB", 0)) else -1
    outputs = step.weights.shape[rows]
    low, high = (np.broadcast_to(end, outputs).astype(np.int64) for end in (total.low, total.high))
    multiplier = np.broadcast_to(numbers.multiplier, outputs).astype(object)
    results = np.arange(how.type.qmin - OUTSIDE, how.type.qmax + OUTSIDE + 1) - how.zero_point
    ties = (2 * results.astype(object) + 1)[:, None] * ((1 << numbers.shift) // 2) // multiplier
    points = np.concatenate([ties + beside for beside in BESIDE])
    chance = np.random.default_rng(0).integers(low, high, (RANDOM, outputs), endpoint=True)
    clipped = np.minimum(np.maximum(points, low.astype(object)), high.astype(object)).astype(np.int64)
    return np.concatenate([clipped, chance, low[None], high[None]])


def _requantized(sums: Array, how: Requantization) -> Array:
    numbers = Dyadic.of(how.scale)
    found: Array = np.clip(
        round_shift(sums * numbers.multiplier, numbers.shift) + how.zero_point, how.type.qmin, how.type.qmax
    )
    return found


def _without_shapes(program: Program) -> Program:
    """Shapes are those of what is fed here."""
    return replace(program, tensors={name: TensorInfo(info.type) for name, info in program.tensors.items()})


def _outputs(step: Step) -> tuple[str, ...]:
    return step.outputs if isinstance(step, Operator) else ()
