"""How much each node of a model loses at each precision: the cost table that choosing precisions stands on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.sensitivity import alike, candidate_precisions, measure_sensitivity
from ptqc.compile import canonicalise
from ptqc.core.cost import CostTable
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.data import sensitivity_data
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
        data: sample inputs, as for ``quantize``; without any ptqc makes samples itself.
        weight_bits, activation_bits: 2 to 8.
        options: ``samples``, ``preprocess``, ``passes`` and ``threads`` count, and without data ``inputs``,
            ``distill``, ``stats_from`` and ``seed``; 64 samples of data without options.
        progress: called with (stage, steps done, steps in all).

    Raises PtqcError kinds for models, data and widths that cannot be used.
    """
    options = options or QuantizeOptions(samples=None if data is None else SAMPLES)
    loaded = import_model(model)
    check_runs(loaded.model, str(loaded.path or ""))
    source = sensitivity_data(data, loaded, options, progress or (lambda stage, done, total: None)).source
    canonicalise(loaded.model, find_target(TARGET), options)
    return measure_sensitivity(
        loaded.model,
        alike(loaded.model, candidate_precisions(weight_bits, activation_bits)),
        None,
        None,
        source,
        threads=options.threads,
        progress=None if progress is None else lambda done, total: progress("sensitivities", done, total),
    )
