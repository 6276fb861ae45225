"""Helpers of the tests of passes that prepare a float graph for integer kernels."""

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.execute.fusion import FusionReport, check_fusion
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.load import load_model
from ptqc.passes.base import Pass, PassContext, Rewrites


def parsed(body: str, opset: int = 21, canonical: bool = True) -> ir.Model:
    """A model out of ``g (inputs) => (outputs) <constants> { nodes }``, loaded as passes expect it, or as written."""
    proto = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\n{body}')
    return load_model(proto) if canonical else ir.from_proto(proto)


def outputs_of(model: ir.Model, feeds: Mapping[str, Array]) -> list[Array]:
    """Outputs by onnxruntime without optimizations."""
    session = session_of(model, level="none")
    return run_session(session, [output.name for output in session.get_outputs()], feeds)


def rewrite(model: ir.Model, rewriter: Pass, feeds: Mapping[str, Array], atol: float = 1e-6) -> Rewrites:
    """Runs a pass on ``model`` and checks its outputs, its interface and that a second run finds nothing."""
    names = [value.name for value in (*model.graph.inputs, *model.graph.outputs)]
    before = outputs_of(model, feeds)
    result = rewriter.run(model, PassContext())
    assert [value.name for value in (*model.graph.inputs, *model.graph.outputs)] == names
    for old, new in zip(before, outputs_of(model, feeds), strict=True):
        assert old.shape == new.shape
        np.testing.assert_allclose(new, old, rtol=1e-5, atol=atol)
    assert rewriter.run(model, PassContext()).count == 0
    return result


def operators(model: ir.Model) -> list[str]:
    """The operators of the main graph in order."""
    return [node.op_type for node in model.graph]


def refusals(model: ir.Model, rewriter: Pass) -> list[str]:
    """Reasons of a pass that must not change ``model``."""
    before = ir.to_proto(model).SerializeToString()
    result = rewriter.run(model, PassContext())
    assert result.count == 0
    assert ir.to_proto(model).SerializeToString() == before
    return [refusal.reason for refusal in result.refused]


def normal(*shape: int, seed: int = 0) -> Array:
    """Standard normal float32 values."""
    return np.random.default_rng(seed).normal(size=shape).astype(np.float32)


def convolution(name: str, channels: tuple[int, int], kernel: int = 1, groups: int = 1) -> tuple[str, Array]:
    """Name and values [O, I/groups, k, k] of a weight, scaled to keep the variance."""
    shape = (channels[1], channels[0] // groups, kernel, kernel)
    return name, normal(*shape, seed=len(name)) / np.float32(np.sqrt(np.prod(shape[1:])))


def with_weights(model: ir.Model, **arrays: Array) -> ir.Model:
    """Replaces inputs of ``model`` by constants of the same name."""
    for name, array in arrays.items():
        value = next(value for value in model.graph.inputs if value.name == name)
        model.graph.inputs.remove(value)
        value.const_value = ir.tensor(array, name=name)
        value.shape, value.type = ir.Shape(array.shape), ir.TensorType(value.const_value.dtype)
        model.graph.register_initializer(value)
    return load_model(model)


def fused_after_quantization(model: ir.Model, feeds: Mapping[str, Array], folder: Path) -> FusionReport:
    """What onnxruntime's own quantizer and optimizer make of a float graph."""
    import onnxruntime.quantization as quantization

    class OneSample(quantization.CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.samples = iter([dict(feeds)])

        def get_next(self) -> Mapping[str, Array] | None:
            return next(self.samples, None)

    target = folder / "quantized.onnx"
    quantization.quantize_static(
        ir.to_proto(model),
        target,
        OneSample(),
        per_channel=True,
        activation_type=quantization.QuantType.QUInt8,
        weight_type=quantization.QuantType.QInt8,
    )
    return check_fusion(target)
