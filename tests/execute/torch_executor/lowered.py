"""A plan in torch beside the lowered graph in onnxruntime, with all its integers."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
import torch

from ptqc.compile import Compiled, lower
from ptqc.core.options import QuantizeOptions
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.execute.torch_executor.quantized import QuantizedExecutor
from ptqc.rounding.nearest import round_to_nearest
from ptqc.targets.registry import find_target


@dataclass(frozen=True)
class Agreement:
    """How the integers of both compare.

    Attributes:
        codes: how many were compared.
        different: how many differ.
        greatest: by how much.
        outputs: greatest difference of an output, relative to its greatest value.
    """

    codes: int
    different: int
    greatest: int
    outputs: float


def rounded(compiled: Compiled) -> tuple[Compiled, Mapping[str, Array]]:
    """The same lowered with constants rounded to nearest, and these."""
    codes = round_to_nearest(compiled.canonical, compiled.plan)
    model, _ = lower(compiled.canonical, compiled.plan, codes, find_target("int8"), QuantizeOptions())
    return replace(compiled, model=model), codes


def runtime_codes(model: ir.Model, feeds: Mapping[str, Array]) -> dict[str, Array]:
    """Outputs of a lowered graph without optimizations, and the codes of each tensor as ``NAME_quantized``."""
    model = model.clone()
    other = ("DequantizeLinear", "DynamicQuantizeLinear")
    made = [node.outputs[0] for node in model.graph if node.op_type not in other]
    wanted = [value for value in made if (value.name or "").endswith("_quantized") and not value.is_graph_output()]
    model.graph.outputs.extend(wanted)
    names = [value.name or "" for value in model.graph.outputs]
    return dict(zip(names, run_session(session_of(model, level="none"), names, feeds), strict=True))


def compare_codes(compiled: Compiled, feeds: Mapping[str, Array], given: bool = True) -> Agreement:
    """Runs both; each step of torch reads onnxruntime's codes, so that a tie does not spread."""
    compiled, codes = rounded(compiled)
    expected = runtime_codes(compiled.model, feeds)
    executor = QuantizedExecutor(compiled.canonical, compiled.plan, codes if given else None)
    compared = different = greatest = 0
    with torch.no_grad():
        environment = executor.start(feeds)
        for step in executor.steps:
            executor.advance(step, environment)
            for name in step.outputs:
                key = f"quantized:{name}" if f"quantized:{name}" in environment else name
                if f"{name}_quantized" not in expected or key not in environment:
                    continue
                quantizer, right = executor.quantizers[name], expected[f"{name}_quantized"].astype(int)
                apart = np.abs(quantizer.quantize(environment[key]).numpy().astype(int) - right)
                compared, different = compared + apart.size, different + int((apart > 0).sum())
                greatest = max(greatest, int(apart.max(initial=0)))
                environment[key] = (torch.from_numpy(right).float() - quantizer.zero_point) * quantizer.scale
    off = [
        np.abs(environment[name].numpy() - expected[name]).max() / np.abs(expected[name]).max()
        for name in executor.outputs
    ]
    return Agreement(compared, different, greatest, float(max(off)))
