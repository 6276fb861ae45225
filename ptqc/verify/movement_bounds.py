"""Bounds of ONNX operators that move, choose or compare numbers."""

from collections.abc import Callable

import numpy as np

from ptqc.verify.call import Call, Check, NoRule, Outcome
from ptqc.verify.integers import limits
from ptqc.verify.intervals import Interval

Rule = Callable[[Call], Outcome]


def _same(call: Call) -> Outcome:
    return Outcome(call.input(0).interval)


def _pool(call: Call) -> Outcome:
    automatic = str(call.attributes.get("auto_pad", "NOTSET")).startswith("SAME")
    if automatic and any(int(step) != 1 for step in call.attributes.get("dilations") or ()):
        raise NoRule("engines disagree on where windows with dilations and automatic padding lie")
    return _same(call)


def _mixed(call: Call) -> Outcome:
    """Elements change their places."""
    return Outcome(call.input(0).interval.collapse())


def _transpose(call: Call) -> Outcome:
    interval, order = call.input(0).interval, call.attributes.get("perm")
    if interval.axis is None or order is None:
        return _mixed(call)
    target = list(order).index(len(order) + interval.axis) - len(order)
    return Outcome(Interval(interval.low, interval.high, target))


def _concat(call: Call) -> Outcome:
    found = call.input(0).interval.collapse()
    for operand in call.inputs[1:]:
        found = found if operand is None else found.hull(operand.interval.collapse())
    return Outcome(found)


def _pad(call: Call) -> Outcome:
    filling = call.optional(2)
    if call.attributes.get("mode", "constant") != "constant":
        return _mixed(call)
    return Outcome(
        call.input(0).interval.collapse().hull(Interval.of(0, 0) if filling is None else filling.interval.collapse())
    )


def _gather(call: Call) -> Outcome:
    """The entries that an index can reach; an index below zero counts from the end."""
    data, indices = call.input(0), call.input(1).interval.collapse()
    axis = int(call.attributes.get("axis", 0))
    try:
        size = data.size(axis)
    except NoRule:
        if call.input(1).constant is None:
            raise
        return _mixed(call)  # an engine stops at a fixed index that is not there
    check = Check("index", indices, -size, size - 1, f"{size} entries")
    if data.constant is None or not check.holds or data.constant.ndim == 0:
        return Outcome(data.interval.collapse(), checks=(check,))
    reach = data.constant
    if indices.least >= 0 and call.operator == "Gather":
        reach = np.moveaxis(reach, axis, 0)[indices.least : indices.greatest + 1]
    return Outcome(Interval.of(int(reach.min()), int(reach.max())), checks=(check,))


def _where(call: Call) -> Outcome:
    first, second = call.input(1), call.input(2)
    return Outcome(first.beside(second).hull(second.beside(first)))


def _compared(*intervals: Interval, type_name: str) -> tuple[Check, ...]:
    """Of int64 onnxruntime 1.31 compares 32 bits only, where it looks for the greatest (docs/arithmetic.md)."""
    if type_name != "int64":
        return ()
    return tuple(Check("compared number", each, *limits("int32"), "32 bits of int64") for each in intervals)


def _extreme(call: Call) -> Outcome:
    """ReduceMax and ReduceMin."""
    found = call.input(0).interval.collapse()
    return Outcome(found, checks=_compared(found, type_name=call.type))


def _chosen(call: Call) -> Outcome:
    """Min or Max of any number of inputs."""
    first = call.input(0)
    checks = _compared(*(call.input(index).interval for index in range(len(call.inputs))), type_name=call.type)
    found = first.interval if len(call.inputs) == 1 else first.beside(call.input(1))
    for index in range(1, len(call.inputs)):
        other = call.input(index).beside(first)
        found = found.minimum(other) if call.operator == "Min" else found.maximum(other)
    return Outcome(found, checks=checks)


def _clip(call: Call) -> Outcome:
    found, low, high = call.input(0).interval, call.optional(1), call.optional(2)
    ends = [found, *(end.interval for end in (low, high) if end is not None)]
    checks = _compared(*ends, type_name=call.type)
    if low is not None:
        found = found.maximum(low.interval)
    if high is not None:
        found = found.minimum(high.interval)
    return Outcome(found, checks=checks)


def _relu(call: Call) -> Outcome:
    return Outcome(call.input(0).interval.maximum(Interval.of(0, 0)))


def _truth(call: Call) -> Outcome:
    return Outcome(Interval.of(0, 1))


def _sign(call: Call) -> Outcome:
    return Outcome(call.input(0).interval.clamp(-1, 1))


def _position(call: Call) -> Outcome:
    data = call.input(0)
    try:
        return Outcome(Interval.of(0, max(data.size(int(call.attributes.get("axis", 0))) - 1, 0)))
    except NoRule:
        return Outcome(Interval.of(0, limits("int64")[1]))


def _filled(call: Call) -> Outcome:
    value = call.attributes.get("value", 0)
    return Outcome(Interval.of_array(np.asarray(value)).collapse())


def _sizes(call: Call) -> Outcome:
    return Outcome(Interval.of(0, limits("int64")[1]))


MOVEMENT: dict[str, Rule] = {
    **dict.fromkeys(("Identity", "Dropout"), _same),
    "MaxPool": _pool,
    **dict.fromkeys(
        ("Reshape Flatten Squeeze Unsqueeze Slice Split Expand Tile DepthToSpace SpaceToDepth").split(),
        _mixed,
    ),
    **dict.fromkeys(("ReduceMax", "ReduceMin"), _extreme),
    **dict.fromkeys(("Gather", "GatherElements"), _gather),
    **dict.fromkeys(("Min", "Max"), _chosen),
    **dict.fromkeys("Equal Greater GreaterOrEqual Less LessOrEqual And Or Not Xor".split(), _truth),
    "Transpose": _transpose,
    "Concat": _concat,
    "Pad": _pad,
    "Where": _where,
    "Clip": _clip,
    "Relu": _relu,
    "Sign": _sign,
    "ArgMax": _position,
    "ArgMin": _position,
    "ConstantOfShape": _filled,
    "Shape": _sizes,
}
