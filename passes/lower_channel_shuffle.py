"""Channel shuffles written as Reshape, Transpose, Reshape become one Gather on the channel axis.

What the chain does is found by running it on the numbers of the elements, so every way of writing it is recognised.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.edit import Editor
from ptqc.graph.match import Const, Match, Op, Var
from ptqc.graph.walk import is_op
from ptqc.passes.base import PassContext, PassSpec, Rewrites
from ptqc.passes.rules import Rule, apply_rules

# Stand for a batch size that is not known: one alone could fit a wrong chain by accident.
BATCHES = (2, 3)
MOST_ELEMENTS = 1 << 24


@dataclass(frozen=True)
class LowerChannelShuffle:
    """``Reshape(Transpose(Reshape(x)))``, also followed by a Gather of one part, -> ``Gather(x, channels, axis=1)``."""

    spec: ClassVar[PassSpec] = PassSpec("lower-channel-shuffle", numerics="exact")

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` in place."""
        return apply_rules(model, RULES)


def _chain(found: Match) -> list[ir.Node]:
    return [found.nodes[name] for name in ("split", "swap", "join", "pick") if name in found.nodes]


def _channels(found: Match) -> Array | None:
    """Which channel of x each channel of the result is, int64 [C']; None where the chain does anything else."""
    x = found.values["x"]
    assert x.shape is not None  # checked
    batch = x.shape[0]
    rest = [size for size in list(x.shape)[1:] if isinstance(size, int)]
    answers: list[Array] = []
    for size in (batch,) if isinstance(batch, int) else BATCHES:
        shape = (size, *rest)
        numbers: Array = np.arange(np.prod(shape), dtype=np.int64).reshape(shape)
        result = _run(found, numbers)
        if result is None or result.ndim != len(shape) or result.shape[2:] != shape[2:] or result.size == 0:
            return None
        channels = result[0].reshape(result.shape[1], -1)[:, 0] // int(np.prod(rest[1:]))
        if (channels >= shape[1]).any() or not np.array_equal(result, numbers[:, channels]):
            return None
        answers.append(channels)
    return answers[0] if all(np.array_equal(answers[0], other) for other in answers) else None


def _run(found: Match, numbers: Array) -> Array | None:
    """The chain on an array; None where a shape does not fit it."""
    for node in _chain(found):
        if is_op(node, "Transpose"):
            order = node.attributes.get_ints("perm", tuple(reversed(range(numbers.ndim))))
            if len(order) != numbers.ndim:
                return None
            numbers = numbers.transpose(order)
        elif is_op(node, "Gather"):
            index, axis = found.array("index"), node.attributes.get_int("axis", 0)
            if not -numbers.ndim <= axis < numbers.ndim or not -numbers.shape[axis] <= index < numbers.shape[axis]:
                return None
            numbers = np.take(numbers, int(index), axis)
        else:
            sizes = found.array("first" if node is found.nodes["split"] else "second").tolist()
            shape = _reshaped(numbers.shape, sizes)
            if shape is None:
                return None
            numbers = numbers.reshape(shape)
    return numbers


def _reshaped(shape: Sequence[int], sizes: Sequence[int]) -> list[int] | None:
    """The shape that Reshape makes: 0 keeps a size, -1 takes what is left; None where it does not fit."""
    if any(size == 0 and index >= len(shape) for index, size in enumerate(sizes)) or list(sizes).count(-1) > 1:
        return None
    wanted = [shape[index] if size == 0 else size for index, size in enumerate(sizes)]
    known = int(np.prod([size for size in wanted if size != -1]))
    total = int(np.prod(shape))
    if known == 0 or total % known or (-1 not in wanted and known != total):
        return None
    return [total // known if size == -1 else size for size in wanted]


def _why_not(found: Match) -> str | None:
    x = found.values["x"]
    if x.shape is None or len(x.shape) < 3 or not all(isinstance(size, int) for size in list(x.shape)[1:]):
        return "the sizes of its input are not known"
    if np.prod([size for size in x.shape if isinstance(size, int)], dtype=np.float64) > MOST_ELEMENTS:
        return "its input is too large to follow every element"
    if any(found.nodes[name].attributes.get_int("allowzero", 0) for name in ("split", "join")):
        return "a Reshape takes zeros for sizes"
    if "index" in found.values and found.array("index").ndim:
        return "it picks more than one part"
    result = found.root.outputs[0].shape
    looks_alike = result is not None and len(result) == len(x.shape) and list(result)[2:] == list(x.shape)[2:]
    if looks_alike and _channels(found) is None:
        return "it does more than permute channels"
    return None


def _lower(found: Match, editor: Editor) -> bool:
    channels = _channels(found)
    if channels is None:
        return False
    stem = found.root.name or found.root.outputs[0].name
    editor.become(found.root, "Gather", [found.values["x"], editor.constant(f"{stem}.channels", channels)], {"axis": 1})
    return True


def _shuffle(shared: bool) -> Op:
    split = Op("Reshape", (Var("x"), Const("first")), "split", shared=True)
    swap = Op("Transpose", (split,), "swap", shared=True)
    return Op("Reshape", (swap, Const("second")), "join", shared=shared)


RULES = (
    Rule(Op("Gather", (_shuffle(shared=True), Const("index")), "pick"), _lower, _why_not),
    Rule(_shuffle(shared=False), _lower, _why_not),
)
