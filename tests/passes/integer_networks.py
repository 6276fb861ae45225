"""Graphs with QuantizeLinear and DequantizeLinear whose multipliers are dyadic, written by hand."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
import onnx_ir as ir
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from ptqc.core.dyadic import snap_scale
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of


class QDQBuilder:
    """Appends quantized operators; values are named by the caller, their scales kept."""

    def __init__(self, seed: int = 0, opset: int = 21) -> None:
        self.nodes: list[onnx.NodeProto] = []
        self.constants: list[onnx.TensorProto] = []
        self.inputs: list[onnx.ValueInfoProto] = []
        self.outputs: list[onnx.ValueInfoProto] = []
        self.params: dict[str, tuple[Array, Array]] = {}
        self.rng, self.opset = np.random.default_rng(seed), opset

    def constant(self, name: str, array: Array) -> str:
        self.constants.append(numpy_helper.from_array(np.ascontiguousarray(array).reshape(array.shape), name))
        return name

    def node(self, operator: str, inputs: Sequence[str], outputs: Sequence[str], **attributes: Any) -> None:
        self.nodes.append(
            helper.make_node(operator, inputs, outputs, name=outputs[0].removesuffix("_real"), **attributes)
        )

    def input(self, name: str, shape: Sequence[int | str], scale: float, zero_point: int, kind: str = "uint8") -> str:
        """A real input, quantized; gives the name of its real numbers."""
        self.inputs.append(helper.make_tensor_value_info(f"{name}_in", TensorProto.FLOAT, shape))
        return self.quantized(name, f"{name}_in", scale, zero_point, kind)

    def quantized(self, name: str, real: str, scale: float, zero_point: int, kind: str = "uint8") -> str:
        """QuantizeLinear and DequantizeLinear behind ``real``."""
        self.params[name] = np.asarray(scale, np.float32), np.asarray(zero_point, kind)
        scales = [
            self.constant(f"{name}_scale", self.params[name][0]),
            self.constant(f"{name}_zero", self.params[name][1]),
        ]
        self.nodes.append(helper.make_node("QuantizeLinear", [real, *scales], [f"{name}_codes"], name=f"{name}_Q"))
        self.nodes.append(helper.make_node("DequantizeLinear", [f"{name}_codes", *scales], [name], name=f"{name}_DQ"))
        return name

    def codes(self, name: str, codes: Array, scale: float, zero_point: int) -> str:
        """Constant codes behind a DequantizeLinear."""
        self.params[name] = np.asarray(scale, np.float32), np.asarray(zero_point, codes.dtype)
        scales = [
            self.constant(f"{name}_scale", self.params[name][0]),
            self.constant(f"{name}_zero", self.params[name][1]),
        ]
        self.nodes.append(
            helper.make_node(
                "DequantizeLinear", [self.constant(f"{name}_codes", codes), *scales], [name], name=f"{name}_DQ"
            )
        )
        return name

    def operator(
        self,
        operator: str,
        inputs: Sequence[str],
        name: str,
        scale: float | None = None,
        zero_point: int = 0,
        kind: str = "uint8",
        **attributes: Any,
    ) -> str:
        """An operator with a QuantizeLinear behind it, by default with the parameters of its first input."""
        self.node(operator, inputs, [f"{name}_real"], **attributes)
        if scale is None:
            first, zero = self.params[inputs[0]]
            return self.quantized(name, f"{name}_real", float(first), int(zero), str(zero.dtype))
        return self.quantized(name, f"{name}_real", scale, zero_point, kind)

    def product(
        self,
        operator: str,
        data: str,
        shape: Sequence[int],
        name: str,
        scale: float | None,
        zero_point: int = 128,
        *,
        bias: bool = True,
        per_channel: bool = True,
        bits: int = 8,
        kind: str = "uint8",
        **attributes: Any,
    ) -> str:
        """Conv, Gemm or MatMul with random weights of ``shape``; ``scale`` None gives real numbers, an exit."""
        transposed = attributes.get("transB", 0) == 1
        axis = 0 if operator == "Conv" or transposed else len(shape) - 1
        channels = shape[axis] if per_channel else 1
        limit = (1 << (bits - 1)) - 1
        codes = self.rng.integers(-limit, limit + 1, shape).astype(np.int8)
        source = self.params[data][0]
        fan = np.prod(shape) / shape[axis]
        reach = 100 * (scale or 0.05) / (source * limit / 2 * np.sqrt(fan) * 70)
        wanted = reach * self.rng.uniform(0.5, 2, channels)
        scales = wanted.astype(np.float32) if scale is None else snap_scale(wanted, source, np.float32(scale))
        if not per_channel:
            scales = scales.reshape(())
        assert np.isfinite(scales).all()
        inputs = [data, f"{name}_w"]
        parts = [self.constant(f"{name}_w_codes", codes), self.constant(f"{name}_w_scale", scales)]
        parts.append(self.constant(f"{name}_w_zero", np.zeros(scales.shape, np.int8)))
        given = {"axis": axis} if per_channel else {}
        self.nodes.append(helper.make_node("DequantizeLinear", parts, [inputs[1]], name=f"{name}_w_DQ", **given))
        if bias:
            numbers = self.rng.integers(-3000, 3000, shape[axis]).astype(np.int32)
            parts = [self.constant(f"{name}_b_codes", numbers), self.constant(f"{name}_b_scale", source * scales)]
            parts.append(self.constant(f"{name}_b_zero", np.zeros(scales.shape, np.int32)))
            given = {"axis": 0} if per_channel else {}
            self.nodes.append(helper.make_node("DequantizeLinear", parts, [f"{name}_b"], name=f"{name}_b_DQ", **given))
            inputs.append(f"{name}_b")
        real = f"{name}_real" if scale is not None else name
        if operator == "MatMul" and bias:
            self.node("MatMul", inputs[:2], [f"{name}_product"])
            self.node("Add", [f"{name}_product", inputs[2]], [real])
        else:
            self.node(operator, inputs, [real], **attributes)
        return name if scale is None else self.quantized(name, real, scale, zero_point, kind)

    def model(self, *outputs: str, drop_types: bool = False) -> ir.Model:
        """The graph so far, with inferred shapes."""
        infos = [helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in outputs]
        graph = helper.make_graph(self.nodes, "g", self.inputs, infos, self.constants)
        proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=10)
        return ir.from_proto(onnx.shape_inference.infer_shapes(proto, strict_mode=True, data_prop=True))


def run(model: ir.Model, feeds: Mapping[str, Array], level: str = "all") -> list[Array]:
    """All outputs by onnxruntime, or with ``reference`` by the reference evaluator."""
    if level == "reference":
        return list(ReferenceEvaluator(ir.to_proto(model)).run(None, dict(feeds)))
    session = session_of(model, level=level)  # type: ignore[arg-type]
    return run_session(session, [output.name for output in session.get_outputs()], feeds)
