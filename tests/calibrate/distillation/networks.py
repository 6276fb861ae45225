"""Tiny networks whose BatchNormalization statistics are those of some data, and what distillation needs of them."""

import re
from dataclasses import replace

import numpy as np
import onnx
import onnx.parser
import onnx_ir as ir
import torch
from onnx import numpy_helper
from onnx.reference import ReferenceEvaluator

from ptqc.calibrate.contract import InputContract
from ptqc.calibrate.contract_inference import find_contracts
from ptqc.calibrate.distillation.losses import Target
from ptqc.calibrate.distillation.network import Network, find_scores, find_statistics
from ptqc.calibrate.distillation.optimize import Problem
from ptqc.calibrate.distillation.settings import BATCH_NORM, Settings
from ptqc.graph.load import import_model
from ptqc.passes.base import PassContext
from ptqc.passes.pipeline import canonical_passes, run_passes

HEAD = '<ir_version: 8, opset_import: ["" : 17]>\n'
QUICK = replace(BATCH_NORM, samples=6, steps=12)
PARAMETERS = ("gamma", "beta", "mean", "variance")

# Conv, BatchNormalization, Relu, a second such block, class scores.
CLASSIFIER = """g (float[N,3,8,8] x) => (float[N,5] y) <float[6,3,3,3] w1, float[4,6,3,3] w2, float[4,5] v>
    { a = Conv <pads=[1,1,1,1]> (x, w1) b = BatchNormalization (a, norm1/6) c = Relu(b)
      d = Conv <pads=[1,1,1,1], strides=[2,2]> (c, w2) e = BatchNormalization (d, norm2/4)
      f = Relu(e) g = GlobalAveragePool(f) h = Flatten(g) y = MatMul(h, v) }"""
IMAGE = "x:kind=image,range=-2:2"


def network(text: str, seed: int = 0) -> onnx.ModelProto:
    """A model with random weights; ``norm1/6`` stands for the four parameters of a BatchNormalization of 6 channels."""
    rng = np.random.default_rng(seed)
    names = {f"{name}{one}": size for one, size in re.findall(r"norm(\d)/(\d+)", text) for name in PARAMETERS}
    extra = ", ".join(f"float[{size}] {name}" for name, size in names.items())
    body = re.sub(r"norm(\d)/\d+", lambda mark: ", ".join(f"{name}{mark[1]}" for name in PARAMETERS), text)
    model = onnx.parser.parse_model(HEAD + (body.replace("<", f"<{extra}, ", 1) if extra else body))
    for value in model.graph.value_info:  # what is declared without values
        shape = tuple(dim.dim_value for dim in value.type.tensor_type.shape.dim)
        values = rng.normal(size=shape) / max(np.sqrt(np.prod(shape[1:])), 1) * 1.5
        if value.name.startswith("gamma"):
            values = rng.uniform(0.5, 1.5, shape) * rng.choice([-1, 1], shape)
        if value.name.startswith("variance"):
            values = rng.uniform(0.5, 2.0, shape)
        model.graph.initializer.append(numpy_helper.from_array(values.astype(np.float32), value.name))
    del model.graph.value_info[:]
    return model


def with_statistics_of(model: onnx.ModelProto, feeds: dict[str, np.ndarray]) -> onnx.ModelProto:
    """The model as training on ``feeds`` would have left it: the statistics are those that it computes on them."""
    initializers = {tensor.name: tensor for tensor in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type != "BatchNormalization":
            continue
        part = onnx.ModelProto()
        part.CopyFrom(model)
        del part.graph.output[:]
        part.graph.output.append(onnx.helper.make_tensor_value_info(node.input[0], onnx.TensorProto.FLOAT, None))
        fed = node.input[0] in feeds
        value = feeds[node.input[0]] if fed else ReferenceEvaluator(part).run(None, feeds)[0]
        axes = tuple(axis for axis in range(value.ndim) if axis != 1)
        for name, found in zip(node.input[3:5], (value.mean(axes), value.var(axes)), strict=True):
            initializers[name].CopyFrom(numpy_helper.from_array(found.astype(np.float32), name))
    return model


def canonical(model: onnx.ModelProto) -> ir.Model:
    """As distillation gets it: folded, with the statistics in the metadata."""
    loaded = import_model(model).model
    run_passes(loaded, canonical_passes(), PassContext())
    return loaded


def contracts_of(model: onnx.ModelProto, *given: str) -> tuple[InputContract, ...]:
    return find_contracts(import_model(model).model, given)


def problem_of(model: onnx.ModelProto, settings: Settings = QUICK, *given: str, count: int = 6) -> Problem:
    """The problem of a model, all its inputs as ``given``."""
    graph, contracts = canonical(model), contracts_of(model, *(given or (IMAGE,)))
    statistics, scores = find_statistics(graph), find_scores(graph) if settings.class_weight else None
    tensors = [record.tensor for record in statistics] + ([scores.tensor] if scores else [])
    return Problem(
        Network(graph, contracts, tensors),
        settings,
        tuple(Target.of(record, settings.relative) for record in statistics),
        scores,
        torch.arange(count) % (scores.classes if scores else 1),
        tuple(c.name for c in contracts if c.kind == "image"),
    )
