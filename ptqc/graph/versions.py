"""Which versions of ONNX go in and come out; newer ones are refused by the runtime."""

NEWEST_OPSET = 26  # of the standard domain, that onnxruntime 1.31 accepts
NEWEST_IR_VERSION = 13  # that onnxruntime 1.31 accepts
CANONICAL_OPSET = 21  # what models are brought to where the converter can
OLDEST_OPSET = 13  # per-channel QuantizeLinear begins here; older models must be converted
CANONICAL_IR_VERSION = 10  # the one that belongs to opset 21

# First IR version whose specification knows an opset, from the table of ONNX releases.
_IR_OF_OPSET = {21: 10, 22: 10, 23: 11, 24: 12, 25: 13, 26: 13}


def ir_version_for(opset: int) -> int:
    """The IR version to write for a model of ``opset``; never above :data:`NEWEST_IR_VERSION`."""
    return min(_IR_OF_OPSET.get(opset, CANONICAL_IR_VERSION), NEWEST_IR_VERSION)
