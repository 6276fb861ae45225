"""One scale for all 16-bit tensors that are added to each other."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.allocate.groups import Group
from ptqc.core.types import UINT8, QuantParams
from ptqc.graph.walk import is_op


def common_scales(
    model: ir.Model, groups: Sequence[Group], params: Mapping[str, QuantParams]
) -> dict[str, QuantParams]:
    """``params`` where wide tensors that are added have one scale, the greatest: their sum needs no multiplier.

    16 bits leave a branch enough of them beside a stream that is a hundred times as large.
    """
    first = {name: group.request.tensor for group in groups for name in group.factors if _is_wide(params[name])}
    owner = {name: name for name in first.values()}

    def root(name: str) -> str:
        while owner[name] != name:
            name = owner[name]
        return name

    for node in model.graph:
        if is_op(node, "Add"):
            values = [value.name or "" for value in (*node.inputs, *node.outputs) if value is not None]
            together = [root(first[name]) for name in values if name in first]
            owner.update(dict.fromkeys(together[1:], together[0]) if together else {})
    scales: dict[str, np.float32] = {}
    for name in owner:
        scales[root(name)] = max(scales.get(root(name), np.float32(0)), np.float32(params[name].scale))
    found = dict(params)
    for group in groups:
        for name, factor in group.factors.items():
            if name in first:
                scale = np.asarray(scales[root(group.request.tensor)] * np.float32(factor))
                found[name] = QuantParams(params[name].type, scale, np.asarray(0))
    return found


def _is_wide(params: QuantParams) -> bool:
    return params.type.bits > UINT8.bits
