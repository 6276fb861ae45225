"""How much each node of a model loses at each precision: the cost table that choosing precisions stands on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.sensitivity import candidate_precisions, measure_sensitivity
from ptqc.calibrate.open import open_source
from ptqc.calibrate.source import input_specs
from ptqc.compile import canonicalise
from ptqc.core.cost import CostTable
from ptqc.core.errors import DataError
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.execute.check import check_runs
from ptqc.graph.load import import_model
from ptqc.targets.registry import find_target

__all__ = ["sensitivity"]

SAMPLES = 64
WEIGHT_BITS = (8, 4, 2)
ACTIVATION_BITS = (8, 4)
TARGET = "int8"  # its float rewrites name the nodes


def sensitivity(
    model: str | Path | onnx.ModelProto | ir.Model,
    data: Any = None,
    *,
    weight_bits: Sequence[int] = WEIGHT_BITS,
    activation_bits: Sequence[int] = ACTIVATION_BITS,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> CostTable:
    """The costs of every linear node of a float model, weights alone at each width, then the activation alone.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it stays unchanged.
        data: sample inputs, as for ``quantize``.
        weight_bits, activation_bits: 2 to 8.
        options: ``samples``, ``preprocess``, ``passes`` and ``threads`` count; 64 samples without options.
        progress: called with (stage, steps done, steps in all).

    Raises PtqcError kinds for models, data and widths that cannot be used.
    """
    options = options or QuantizeOptions(samples=SAMPLES)
    loaded = import_model(model)
    check_runs(loaded.model, str(loaded.path or ""))
    if data is None:
        why, fix = "sensitivities are measured on sample inputs", "give --data: an .npz file, or a folder of images"
        raise DataError("there are no samples to measure on", why=why, fix=fix)
    source = open_source(data, input_specs(loaded.model), limit=options.samples, preprocessing=options.preprocess)
    canonicalise(loaded.model, find_target(TARGET), options)
    return measure_sensitivity(
        loaded.model,
        tuple(candidate_precisions(weight_bits, activation_bits)),
        source,
        threads=options.threads,
        progress=None if progress is None else lambda done, total: progress("sensitivities", done, total),
    )
