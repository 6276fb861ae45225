"""How much each node of a model loses at each precision: the cost table that choosing precisions stands on."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.sensitivity import alike, candidate_precisions, measure_sensitivity
from ptqc.compile import canonicalise, restrictions_of
from ptqc.core.cost import CostTable
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.data import calibration_data, sensitivity_data
from ptqc.execute.check import check_runs
from ptqc.graph.load import import_model
from ptqc.targets.registry import find_target

__all__ = ["cost_table", "sensitivity"]

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


def cost_table(
    model: str | Path | onnx.ModelProto | ir.Model,
    data: Any = None,
    *,
    target: str = "mixed",
    latency: bool = False,
    narrow_activations: bool = False,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> CostTable:
    """The table from which ``quantize`` chooses precisions for such a target: every choice that a node has there.

    Weights are rounded as they will be, bytes are those of the file. Complete choices have the sum of what their
    weights and their activations lose alone, which have rows of their own.

    Args:
        model: a path, an ``onnx.ModelProto`` or an ``onnx_ir.Model``; it stays unchanged.
        data: sample inputs, as for ``quantize``; without any ptqc makes samples itself.
        target: one that chooses precisions: ``mixed`` or ``mixed-integer``.
        latency: measure latencies on this machine, too; nodes may then stay in float.
        narrow_activations: also activations of fewer than 8 bits, for limits of bit operations.
        options: as for ``quantize``; what fixes nodes leaves them one choice.
        progress: called with (stage, steps done, steps in all).

    Raises PtqcError kinds for models, data, targets and options that cannot be used.
    """
    from ptqc.mixed.choose import MixedCompiler, MixedJob
    from ptqc.mixed.table import Wanted

    options, shown = options or QuantizeOptions(), progress or (lambda stage, done, total: None)
    description = find_target(target)
    if not description.weight_choices:
        fix = "use mixed or mixed-integer; without a target nodes are measured at any widths"
        raise OptionError(f"the target {description.name} leaves no choice of precisions", fix=fix)
    if latency and options.no_measure:
        raise OptionError("latencies cannot be measured without measuring", fix="leave out no_measure")
    if options.table is not None or options.allocation is not None:
        raise OptionError("a table and an allocation come after the measurement", fix="leave them out")
    options.check(integer_only=description.integer, mixed=True)
    loaded = import_model(model)
    check_runs(loaded.model, str(loaded.path or ""))
    found = calibration_data(data, loaded, options, shown, description)
    canonicalise(loaded.model, description, options)
    restrictions = restrictions_of(options)
    job = MixedJob(loaded.model, description, found.source, restrictions, options, shown, found.limits, loaded.size)
    return MixedCompiler(job, Wanted(latency, narrow_activations)).table
