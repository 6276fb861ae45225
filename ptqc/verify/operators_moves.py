"""ONNX operators that move elements and compute nothing."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array
from ptqc.verify.integers import present

Attributes = Mapping[str, Any]
Inputs = Sequence[Array | None]


def listed(attributes: Attributes, inputs: Inputs, name: str, position: int) -> list[int] | None:
    """Numbers that newer versions of an operator take as an input and older ones as an attribute; None if absent."""
    if len(inputs) > position and (given := inputs[position]) is not None:
        return [int(number) for number in given.reshape(-1)]
    if name in attributes:
        return [int(number) for number in attributes[name]]
    return None


def identity(attributes: Attributes, inputs: Inputs) -> Array:
    """Its first input."""
    return present(inputs, 1)[0]


def reshape(attributes: Attributes, inputs: Inputs) -> Array:
    """Reshape: 0 keeps a dimension unless ``allowzero``, -1 is what is left."""
    values = identity(attributes, inputs)
    shape = listed(attributes, inputs, "shape", 1) or []
    if not attributes.get("allowzero", 0):
        shape = [values.shape[axis] if size == 0 else size for axis, size in enumerate(shape)]
    return values.reshape(shape)


def flatten(attributes: Attributes, inputs: Inputs) -> Array:
    """Flatten to two dimensions at ``axis``."""
    values = identity(attributes, inputs)
    axis = int(attributes.get("axis", 1))
    axis += values.ndim if axis < 0 else 0
    return values.reshape(int(np.prod(values.shape[:axis])), -1 if values.size else int(np.prod(values.shape[axis:])))


def squeeze(attributes: Attributes, inputs: Inputs) -> Array:
    """Without the axes given, or without all of length 1."""
    axes = listed(attributes, inputs, "axes", 1)
    return np.squeeze(identity(attributes, inputs), None if axes is None else tuple(axes))


def unsqueeze(attributes: Attributes, inputs: Inputs) -> Array:
    """With axes of length 1, counted in the result."""
    return np.expand_dims(identity(attributes, inputs), tuple(listed(attributes, inputs, "axes", 1) or ()))


def transpose(attributes: Attributes, inputs: Inputs) -> Array:
    """Axes in the order ``perm``, reversed without one."""
    return np.transpose(identity(attributes, inputs), attributes.get("perm"))


def cut(attributes: Attributes, inputs: Inputs) -> Array:
    """Slice."""
    values = identity(attributes, inputs)
    starts, ends = (listed(attributes, inputs, name, at) or [] for at, name in ((1, "starts"), (2, "ends")))
    axes = listed(attributes, inputs, "axes", 3) or list(range(len(starts)))
    steps = listed(attributes, inputs, "steps", 4) or [1] * len(starts)
    region = [slice(None)] * values.ndim
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        region[axis] = slice(start, end, step)
    return values[tuple(region)]


def gather(attributes: Attributes, inputs: Inputs) -> Array:
    """Entries along ``axis``; negative indices count from the end. IndexError beyond it."""
    values, indices = present(inputs, 2)
    return np.take(values, indices, axis=int(attributes.get("axis", 0)))


def gather_elements(attributes: Attributes, inputs: Inputs) -> Array:
    """GatherElements: an index for each element of the result."""
    values, indices = present(inputs, 2)
    axis = int(attributes.get("axis", 0))
    window = tuple(slice(None) if at == axis % values.ndim else slice(size) for at, size in enumerate(indices.shape))
    return np.take_along_axis(values[window], indices, axis)


def concat(attributes: Attributes, inputs: Inputs) -> Array:
    """Concat along ``axis``."""
    return np.concatenate(present(inputs, len(inputs)), axis=int(attributes["axis"]))


def split(attributes: Attributes, inputs: Inputs) -> tuple[Array, ...]:
    """Parts along ``axis``: of the lengths given, or ``num_outputs`` equal ones with a shorter last."""
    values = identity(attributes, inputs)
    axis = int(attributes.get("axis", 0))
    sizes = listed(attributes, inputs, "split", 1)
    if sizes is None:
        part = -(-values.shape[axis] // int(attributes["num_outputs"]))
        sizes = [part] * int(attributes["num_outputs"])
        sizes[-1] = values.shape[axis] - sum(sizes[:-1])
    if sum(sizes) != values.shape[axis] or min(sizes) < 0:
        raise ValueError(f"parts of {sizes} do not make up {values.shape[axis]}")
    return tuple(np.split(values, np.cumsum(sizes)[:-1], axis=axis))


def expand(attributes: Attributes, inputs: Inputs) -> Array:
    """Expand: broadcast both ways with the shape given."""
    values, shape = present(inputs, 2)
    return np.broadcast_to(values, np.broadcast_shapes(values.shape, tuple(int(size) for size in shape)))


def tile(attributes: Attributes, inputs: Inputs) -> Array:
    """Tile."""
    values, repeats = present(inputs, 2)
    return np.tile(values, tuple(int(count) for count in repeats))


def pad(attributes: Attributes, inputs: Inputs) -> Array:
    """Pad by a constant, the edge, reflection or wrapping around; negative pads cut off."""
    values = identity(attributes, inputs)
    pads = listed(attributes, inputs, "pads", 1) or []
    axes = listed(attributes, inputs, "axes", 3) or list(range(values.ndim))
    around, region = [(0, 0)] * values.ndim, [slice(None)] * values.ndim
    for at, axis in enumerate(axes):
        before, after = pads[at], pads[at + len(axes)]
        around[axis] = (max(before, 0), max(after, 0))
        region[axis] = slice(max(-before, 0), values.shape[axis] + min(after, 0))
    kept = values[tuple(region)]
    mode = attributes.get("mode", "constant")
    if mode == "constant":
        fill = inputs[2] if len(inputs) > 2 else None
        return np.pad(kept, around, constant_values=0 if fill is None else fill.reshape(()).item())
    if mode not in ("edge", "reflect", "wrap"):
        raise ModelError(f"Pad has no mode {quoted(mode)}")
    return np.pad(kept, around, mode=mode)


def depth_to_space(attributes: Attributes, inputs: Inputs) -> Array:
    """DepthToSpace, modes DCR and CRD."""
    values = identity(attributes, inputs)  # [N, C, H, W]
    size, (count, channels, height, width) = int(attributes["blocksize"]), values.shape
    left = channels // (size * size)
    if attributes.get("mode", "DCR") == "DCR":
        blocks = values.reshape(count, size, size, left, height, width).transpose(0, 3, 4, 1, 5, 2)
    else:
        blocks = values.reshape(count, left, size, size, height, width).transpose(0, 1, 4, 2, 5, 3)
    return blocks.reshape(count, left, height * size, width * size)


def space_to_depth(attributes: Attributes, inputs: Inputs) -> Array:
    """SpaceToDepth."""
    values = identity(attributes, inputs)  # [N, C, H, W]
    size, (count, channels, height, width) = int(attributes["blocksize"]), values.shape
    blocks = values.reshape(count, channels, height // size, size, width // size, size).transpose(0, 3, 5, 1, 2, 4)
    return blocks.reshape(count, channels * size * size, height // size, width // size)


def shape_of(attributes: Attributes, inputs: Inputs) -> Array:
    """Shape, from ``start`` to ``end``."""
    shape = identity(attributes, inputs).shape
    return np.asarray(shape[slice(attributes.get("start", 0), attributes.get("end"))], np.int64)


def constant_of_shape(attributes: Attributes, inputs: Inputs) -> Array:
    """ConstantOfShape, whose ``value`` must be an integer."""
    shape = tuple(int(size) for size in identity(attributes, inputs))
    value = attributes.get("value")
    if value is None or np.asarray(value).dtype.kind not in "iub":
        raise ModelError("ConstantOfShape without an integer value")
    filled = np.asarray(value).reshape(())
    return np.full(shape, filled, bool if filled.dtype.kind == "b" else np.int64)


MOVES: dict[str, Callable[[Attributes, Inputs], Array | tuple[Array, ...]]] = {
    "Concat": concat,
    "ConstantOfShape": constant_of_shape,
    "DepthToSpace": depth_to_space,
    "Dropout": identity,
    "Expand": expand,
    "Flatten": flatten,
    "Gather": gather,
    "GatherElements": gather_elements,
    "Identity": identity,
    "Pad": pad,
    "Reshape": reshape,
    "Shape": shape_of,
    "Slice": cut,
    "SpaceToDepth": space_to_depth,
    "Split": split,
    "Squeeze": squeeze,
    "Tile": tile,
    "Transpose": transpose,
    "Unsqueeze": unsqueeze,
}
