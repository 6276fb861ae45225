"""Small quantized networks whose weights have a given width or codebook, lowered with and without packing."""

import tempfile
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.arithmetic import quantize, symmetric_params
from ptqc.core.plan import Form, NodePlan, QuantPlan
from ptqc.core.types import INT8, KEEP_FLOAT, Array, QuantParams, QuantType, WeightFormat
from ptqc.execute.runtime import session_of
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import constant_array
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import run_passes
from ptqc.passes.registry import load_pass
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.layer import RoundedLayer
from tests.allocate.networks import compiled


def params_of(weights: Array, axis: int, form: WeightFormat) -> QuantParams:
    """Parameters by channel that cover ``weights``; codebooks hold seeded codes."""
    others = tuple(other for other in range(weights.ndim) if other != axis)
    absmax = np.abs(weights).max(axis=others)
    if form.codebook == "none":
        return symmetric_params(absmax, QuantType(form.bits, signed=True), axis)
    rng = np.random.default_rng(form.bits)
    shape = (1 << form.bits,) if form.codebook == "tensor" else (len(absmax), 1 << form.bits)
    book = np.sort(rng.integers(-127, 128, shape), axis=-1).astype(np.int8)
    return replace(symmetric_params(absmax, INT8, axis), codebook=book)


def lowered(
    model: ir.Model, form: WeightFormat, *, last: str = "pack-weights", qoperator: bool = False, dynamic: bool = False
) -> tuple[ir.Model, ir.Model]:
    """``model`` with weights of ``form``, once in bytes and once packed by the pass ``last``."""
    done = compiled(model, activations="dynamic" if dynamic else "static", check_passes=False)
    rounding = {}
    for node in done.canonical.graph:
        parts = linear_parts(node)
        if parts is not None and parts.weight.name in done.plan.tensors:
            params = params_of(parts.weight_array, parts.axis, form)
            rounding[node.name or ""] = RoundedLayer(params, quantize(parts.weight_array, params))
    plan, codes = apply_rounding(done.canonical, done.plan, rounding)
    context = PassContext("int8", plan, codes)
    passes = ["insert-qdq", "qdq-to-qoperator"] if qoperator else ["insert-qdq"]
    models = []
    for names in (passes, [*passes, last]):
        copy = done.canonical.clone()
        run_passes(copy, [load_pass(name) for name in (*names, "drop-value-types")], context, check=True)
        models.append(copy)
    return models[0], models[1]


def weight_only(model: ir.Model, params: Mapping[str, QuantParams], last: str = "lower-weight-only") -> ir.Model:
    """``model`` with the weights in ``params`` as integers, the nodes that read them in float; by the pass ``last``."""
    readers = [node.name or "" for node in model.graph if any(v is not None and v.name in params for v in node.inputs)]
    nodes = {name: NodePlan(KEEP_FLOAT, "", Form.WEIGHT) for name in readers}
    codes = {name: quantize(array_of(model, name), one) for name, one in params.items()}
    lowered = model.clone()
    run_passes(lowered, [load_pass(last)], PassContext("int8", QuantPlan("int8", "", params, nodes), codes), check=True)
    return lowered


def array_of(model: ir.Model, name: str) -> Array:
    """The values of an initializer."""
    array = constant_array(model.graph.initializers[name])
    assert array is not None
    return array


def kernels(model: ir.Model) -> list[str]:
    """The operators of the runtime's optimized graph, constants folded and quantized operators fused."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "optimized.onnx")
        session_of(model, optimized_path=path, level="extended")
        return [f"{node.domain}::{node.op_type}" for node in onnx.load(path).graph.node]
