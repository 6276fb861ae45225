"""Resize to the nearest neighbour as picking along axes, where it is by whole factors."""

from fractions import Fraction
from math import ceil, floor
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.verify.attributes import attributes_of
from ptqc.verify.program import Carrier, Shape
from ptqc.verify.read_values import Codes, Numbers, Unreadable, shape_of
from ptqc.verify.reading import Reading

_HALF = Fraction(1, 2)


def read_resize(reading: Reading, node: ir.Node, source: Codes, output: Codes, carrier: Carrier) -> None:
    """Gather steps from ``source`` to ``output``.

    Raises Unreadable: another mode than ``nearest``, sizes that are not known, factors that are not whole.
    """
    attributes = attributes_of(node)
    if attributes.get("mode", "nearest") != "nearest":
        raise Unreadable("computes in float: it interpolates between its elements")
    if len(node.inputs) == 2:
        raise Unreadable("resizes as Resize did before opset 11")
    wanted = shape_of(node.outputs[0])
    if source.shape is None or wanted is None or len(source.shape) != len(wanted):
        raise Unreadable("resizes to a size that is not known beforehand")
    kept = _kept_axes(reading, node, source.shape, wanted, attributes)
    pairs = [(axis, pair) for axis, pair in enumerate(zip(source.shape, wanted, strict=True)) if axis not in kept]
    picks = [(axis, _indices(before, after, attributes)) for axis, (before, after) in pairs]
    if not picks:
        reading.emit_operator(node, [source], [output], {}, carrier, "Identity")
        return
    current, shape = source, list(source.shape)
    for position, (axis, indices) in enumerate(picks):
        shape[axis] = int(indices.size)
        last = position == len(picks) - 1
        name = output.name if last else reading.fresh(f"{output.name}#axis{axis}")
        result = Codes(name, output.type, tuple(shape))
        chosen = Codes(reading.fresh(f"{output.name}#indices{axis}"), "int64", tuple(indices.shape), indices)
        reading.emit_operator(node, [current, chosen], [result], {"axis": axis}, carrier, "Gather")
        current = result


def _kept_axes(
    reading: Reading, node: ir.Node, before: Shape, after: Shape, attributes: dict[str, Any]
) -> frozenset[int]:
    """Axes that stay as they are. Unreadable where factors are given that are not exactly those of the sizes."""
    if attributes.get("keep_aspect_ratio_policy", "stretch") != "stretch":
        raise Unreadable("resizes by factors that are not whole")
    same = [axis for axis, (old, new) in enumerate(zip(before, after, strict=True)) if old == new and old is not None]
    state = reading.settled(node.inputs[2]) if len(node.inputs) > 2 else None
    if state is None or (isinstance(state, Numbers) and state.array.size == 0):
        return frozenset(same)
    axes = [axis % len(before) for axis in attributes.get("axes", range(len(before)))]
    if not isinstance(state, Numbers) or state.array.size != len(axes):
        raise Unreadable("resizes by factors that are no constants")
    factors = dict(zip(axes, state.array.reshape(-1).tolist(), strict=True))
    for axis, factor in factors.items():
        old, new = before[axis], after[axis]
        if factor != 1 and not (isinstance(old, int) and factor * old == new):
            raise Unreadable("resizes by factors that are not whole")
    return frozenset(axis for axis in range(len(before)) if factors.get(axis, 1) == 1)


def _indices(before: int | str | None, after: int | str | None, attributes: dict[str, Any]) -> Array:
    """Which element along an axis each element of the result is, int64 (ONNX, operator Resize)."""
    if not isinstance(before, int) or not isinstance(after, int) or before < 1 or after < 1:
        raise Unreadable("resizes to a size that is not known beforehand")
    if after % before and before % after:
        raise Unreadable("resizes by factors that are not whole")
    step = Fraction(before, after)
    mode = attributes.get("coordinate_transformation_mode", "half_pixel")
    if mode not in ("half_pixel", "pytorch_half_pixel", "asymmetric") or (mode[0] == "p" and after == 1):
        raise Unreadable(f"resizes with coordinates {mode}, which are not followed")
    if attributes.get("nearest_mode", "round_prefer_floor") not in _NEAREST:
        raise Unreadable("resizes in a mode that there is not")
    nearest = _NEAREST[attributes.get("nearest_mode", "round_prefer_floor")]
    positions = (step * at if mode == "asymmetric" else (at + _HALF) * step - _HALF for at in range(after))
    return np.clip(np.asarray([nearest(position) for position in positions], np.int64), 0, before - 1)


_NEAREST = {
    "floor": floor,
    "ceil": ceil,
    "round_prefer_floor": lambda x: ceil(x - _HALF),
    "round_prefer_ceil": lambda x: floor(x + _HALF),
}
