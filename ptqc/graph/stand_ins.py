"""Operators of the standard with the shapes of onnxruntime's own: onnx infers the shapes of what it knows only."""

from collections.abc import Callable, Mapping, Sequence

import onnx

from ptqc.graph.walk import MICROSOFT

Names = Sequence[str]

# Operator -> the one that gives results of the same shape and type, and its inputs.
_STAND_INS: Mapping[str, tuple[str, Callable[[Names], Names]]] = {
    "QLinearAdd": ("Add", lambda inputs: [inputs[0], inputs[3]]),
    "QLinearMul": ("Mul", lambda inputs: [inputs[0], inputs[3]]),
    "QLinearSigmoid": ("Identity", lambda inputs: inputs[:1]),
    "QLinearLeakyRelu": ("Identity", lambda inputs: inputs[:1]),
    "QLinearSoftmax": ("Identity", lambda inputs: inputs[:1]),
    "QLinearConcat": ("Concat", lambda inputs: inputs[2::3]),
    "QGemm": ("Gemm", lambda inputs: [inputs[0], inputs[3]]),
}
_ATTRIBUTES = {"QLinearConcat": ("axis",), "QGemm": ("transA", "transB")}
_LEAST_INPUTS = {"QGemm": 9}  # with fewer it gives real numbers, of another type than its inputs


def stand_in(graph: onnx.GraphProto) -> None:
    """Replaces nodes of ``graph``, which is only good for inferring shapes afterwards; their outputs stay."""
    for node in graph.node:
        if node.domain != MICROSOFT or node.op_type not in _STAND_INS:
            continue
        operator, choose = _STAND_INS[node.op_type]
        if len(node.input) < _LEAST_INPUTS.get(node.op_type, 4):
            continue
        kept = [one for one in node.attribute if one.name in _ATTRIBUTES.get(node.op_type, ())]
        inputs = list(choose(list(node.input)))
        del node.input[:], node.attribute[:]
        node.domain, node.op_type = "", operator
        node.input.extend(inputs)
        node.attribute.extend(kept)
