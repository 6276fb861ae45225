"""Why a node of an optimized graph stayed in float: what onnxruntime's fusion asks for, as sentences."""

import numpy as np
import onnx_ir as ir

from ptqc.graph.walk import constant_array, consumers

CONVERSIONS = ("QuantizeLinear", "DequantizeLinear", "DynamicQuantizeLinear")
# QLinearConv, QLinearMatMul and the integer products are standard; the others are the runtime's own.
INTEGER_KERNELS = frozenset(
    [
        "MatMulInteger",
        "ConvInteger",
        "QGemm",
        "MatMulIntegerToFloat",
        "DynamicQuantizeMatMul",
        "DynamicQuantizeLSTM",
        "QAttention",
        "QEmbedLayerNormalization",
        "NhwcMaxPool",
    ]
)
# Have an integer kernel whatever the parameters on both sides.
FUSIBLE = frozenset(
    [
        "Conv",
        "Gemm",
        "MatMul",
        "Add",
        "Mul",
        "Concat",
        "AveragePool",
        "GlobalAveragePool",
        "Sigmoid",
        "Softmax",
        "LeakyRelu",
        "Where",
        "ArgMax",
    ]
)
# Run on the codes, if these mean the same on both sides.
SAME_PARAMETERS = frozenset(
    [
        "MaxPool",
        "Reshape",
        "Transpose",
        "Flatten",
        "Squeeze",
        "Unsqueeze",
        "Slice",
        "Gather",
        "Expand",
        "Tile",
        "DepthToSpace",
        "ReduceMax",
        "ReduceMin",
        "Resize",
        "Split",
    ]
)
PRODUCTS = ("Conv", "FusedConv", "Gemm", "FusedGemm", "MatMul", "FusedMatMul")


def is_integer_kernel(node: ir.Node) -> bool:
    """Whether the node computes on integer codes, or makes float values out of integer products."""
    return node.op_type.startswith("QLinear") or node.op_type in INTEGER_KERNELS


def why_float(node: ir.Node) -> str:
    """Why ``node`` of an optimized graph is no integer kernel; a sentence without full stop."""
    if node.op_type in ("FusedConv", "FusedGemm") and _dequantized(node.inputs[0]) is not None:
        return "the activation after it is not implied by the range of the quantization behind it"
    if node.op_type in PRODUCTS:
        return _why_product(node)
    if node.op_type in SAME_PARAMETERS:
        return _why_moved(node)
    if node.op_type in FUSIBLE:
        return _why_unquantized(node) or f"onnxruntime did not fuse this {node.op_type}"
    if any(attribute.type == ir.AttributeType.GRAPH for attribute in node.attributes.values()):
        return "bodies of control flow stay in float"
    return f"onnxruntime has no integer kernel for {node.op_type}"


def _why_product(node: ir.Node) -> str:
    data, weight = node.inputs[0], node.inputs[1]
    source = _dequantized(data)
    if source is None:
        return "its input is not quantized"
    other = _dequantized(weight)
    if other is None:
        return "its weights are not quantized"
    if other.inputs[0] is not None and other.inputs[0].dtype not in (ir.DataType.INT8, ir.DataType.UINT8, None):
        return f"its weights are {other.inputs[0].dtype.name.lower()}; the integer kernels take int8"
    if not _writes_codes(node):
        # A product of two activations, or a Gemm, may keep a float output: then only its bias can be in the way.
        if node.op_type in ("Gemm", "MatMul") and len(node.inputs) > 2 and _dequantized(node.inputs[2]) is None:
            return "its bias is float: without a quantized output it must be int32 at scale input x weight"
        return _why_output(node)
    if len(node.inputs) > 2 and (reason := _why_bias(node.inputs[2], source, other)):
        return reason
    return f"onnxruntime did not fuse this {node.op_type}"


def _why_bias(bias: ir.Value | None, source: ir.Node, weight: ir.Node) -> str:
    dequantize = _dequantized(bias)
    if dequantize is None:
        return ""
    if dequantize.inputs[0] is not None and dequantize.inputs[0].dtype not in (ir.DataType.INT32, None):
        return "its bias is not int32"
    scales = [constant_array(other.inputs[1]) for other in (dequantize, source, weight)]
    if scales[0] is None or scales[1] is None or scales[2] is None:
        return "the scales of its bias are no constants"
    if not np.allclose(scales[0], scales[1] * scales[2], rtol=1e-5, atol=0):
        return "the scale of its bias is not input scale x weight scale"
    return ""


def _why_moved(node: ir.Node) -> str:
    if reason := _why_unquantized(node):
        return reason
    source, target = _dequantized(node.inputs[0]), consumers(node.outputs[0])
    if source is not None and target and not _same_parameters(source, target[0]):
        return "scale or zero point differ between its input and its output"
    if node.op_type == "Resize" and node.attributes.get_string("mode", "nearest") != "nearest":
        return "onnxruntime interpolates in float only"
    return f"onnxruntime did not fuse this {node.op_type}"


def _why_unquantized(node: ir.Node) -> str:
    data = [value for value in node.inputs if value is not None and value.dtype in (ir.DataType.FLOAT, None)]
    if _dequantized(node.inputs[0]) is None:
        return "its input is not quantized"
    if node.op_type in ("Add", "Mul", "Concat", "Where", "MatMul") and any(
        _dequantized(value) is None for value in data
    ):
        return "not all of its inputs are quantized"
    return "" if all(_is_quantized(value) for value in node.outputs) else _why_output(node)


def _why_output(node: ir.Node) -> str:
    value = node.outputs[0]
    readers = consumers(value)
    quantizers = [reader for reader in readers if reader.op_type == "QuantizeLinear"]
    if not quantizers:
        return "its output is not quantized"
    if len(quantizers) > 1:
        return "its output is quantized more than once"
    return "its output is also read in float"


def _writes_codes(node: ir.Node) -> bool:
    return _is_quantized(node.outputs[0])


def _is_quantized(value: ir.Value) -> bool:
    """Whether the only reader of ``value`` is one QuantizeLinear."""
    readers = consumers(value)
    return len(readers) == 1 and readers[0].op_type == "QuantizeLinear" and not value.is_graph_output()


def _dequantized(value: ir.Value | None) -> ir.Node | None:
    """The DequantizeLinear that makes ``value``, else None."""
    node = None if value is None else value.producer()
    return node if node is not None and node.op_type == "DequantizeLinear" else None


def _same_parameters(source: ir.Node, target: ir.Node) -> bool:
    if target.op_type != "QuantizeLinear":
        return True
    for left, right in zip(source.inputs[1:], target.inputs[1:], strict=False):
        a, b = constant_array(left), constant_array(right)
        if a is None or b is None or not np.array_equal(a, b):
            return False
    return True
