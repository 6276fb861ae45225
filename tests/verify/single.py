"""One-node models, run by onnxruntime and by the ONNX reference evaluator."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnxruntime
from onnx import helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ptqc.core.types import Array

IR_VERSION = 10


def model_of(
    operator: str,
    attributes: Mapping[str, Any],
    inputs: Sequence[Array | None],
    output_types: Sequence[np.dtype[Any]],
    *,
    opset: int = 21,
    domain: str = "",
) -> onnx.ModelProto:
    """All ``inputs`` are inputs of the graph."""
    names = ["" if value is None else f"input{index}" for index, value in enumerate(inputs)]
    outputs = [f"output{index}" for index in range(len(output_types))]
    node = helper.make_node(operator, names, outputs, domain=domain, name="node", **attributes)
    graph = helper.make_graph(
        [node],
        "graph",
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
            for name, value in zip(names, inputs, strict=True)
            if value is not None
        ],
        [
            helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(type), None)
            for name, type in zip(outputs, output_types, strict=True)
        ],
    )
    imports = [helper.make_opsetid("", opset), *([helper.make_opsetid(domain, 1)] if domain else [])]
    return helper.make_model(graph, opset_imports=imports, ir_version=IR_VERSION)


def feeds_of(inputs: Sequence[Array | None]) -> dict[str, Array]:
    return {f"input{index}": value for index, value in enumerate(inputs) if value is not None}


def by_runtime(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model.SerializeToString(), options, providers=["CPUExecutionProvider"])
    found: list[Array] = session.run(None, dict(feeds))
    return found


def by_reference(model: onnx.ModelProto, feeds: Mapping[str, Array]) -> list[Array]:
    found: list[Array] = ReferenceEvaluator(model).run(None, dict(feeds))  # type: ignore[arg-type]
    return found


def attribute_tensor(value: Array) -> onnx.TensorProto:
    return numpy_helper.from_array(value)
