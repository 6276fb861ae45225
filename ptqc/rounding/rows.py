"""What roundings without data have in common: weights as rows that share a scale, levels at equal distances."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import OptionError, quoted
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array, QuantParams, QuantType, WeightFormat
from ptqc.graph.linear import Linear, linear_parts
from ptqc.rounding.averages import is_average, round_average
from ptqc.rounding.layer import LayerRequest, RoundedLayer
from ptqc.rounding.matrices import array_to_matrix, from_matrix, is_matrix
from ptqc.rounding.multipliers import MOST_TRIES, AdmissibleScales
from ptqc.rounding.scales import least_scales

NARROW_FROM = 7  # bits from which the lowest code is left out: below, it is worth more than symmetry


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """The weights of one node as rows that have one scale each.

    Attributes:
        values: float64 [R, K]: of each output channel, or of each of its blocks; zeros fill the last block.
        kernel: so many neighbours in a row are the kernel between one input and one output channel.
        qmin, qmax: least and greatest code.
        least: least admissible scale [R].
        scales: the admissible ones; None: all from there on.
    """

    values: Array
    kernel: int
    qmin: int
    qmax: int
    least: Array
    scales: AdmissibleScales | None = None

    def admissible(self, wanted: Array) -> Array:
        """The admissible scales for positive ``wanted`` [R], float64 [R] of whole float32 numbers."""
        if self.scales is not None:
            return self.scales.nearest(wanted).astype(np.float64)
        return np.maximum(wanted, self.least).astype(np.float32).astype(np.float64)


Method = Callable[[Rows], tuple[Array, Array]]  # scales [R] and codes [R, K] of rows


def round_rows(model: ir.Model, plan: QuantPlan, request: LayerRequest, method: Method) -> RoundedLayer:
    """What ``method`` makes of the weights of one node in its first format with uniform levels.

    Raises OptionError where there is no such format, or the weights do not fit it.
    """
    node = next((node for node in model.graph if node.name == request.node), None)
    parts = None if node is None else linear_parts(node)
    if parts is None:
        raise ValueError(f"{request.node!r} is no linear node")
    form = next((form for form in request.formats if form.codebook == "none"), None)
    if form is None:
        raise OptionError(
            "this rounding knows no codebooks",
            where=quoted(request.node),
            fix="take --weight-format uniform, or --rounding second-order",
        )
    _refuse_misfit(parts, form)
    if is_average(parts, request):
        return round_average(parts, plan, request)
    kind = QuantType(form.bits, signed=True)
    rows = _rows(parts, plan, form, kind, request)
    scales, codes = method(rows)
    for _ in range(MOST_TRIES):
        if rows.scales is None or not (exceeded := rows.scales.exceeded(codes, scales, bias_of(parts))).any():
            break
        rows = replace(rows, scales=rows.scales.stricter(exceeded))
        scales, codes = method(rows)
    return _layer(parts, form, kind, scales, codes)


def _refuse_misfit(parts: Linear, form: WeightFormat) -> None:
    where = quoted(parts.node.name)
    if not is_matrix(parts):
        shape = list(parts.weight_array.shape)
        raise OptionError(f"weights of shape {shape} are no matrix", where=where, fix="leave the node in float")
    if form.block is not None and parts.weight_array.ndim != 2:
        raise OptionError("a convolution has no blocks", where=where, fix="give it one scale for each output channel")


def bias_of(parts: Linear) -> Array:
    """The bias float64 [O], zeros where there is none."""
    bias = parts.bias_array
    return np.zeros(parts.weight_array.shape[parts.axis]) if bias is None else bias.astype(np.float64)


def _rows(parts: Linear, plan: QuantPlan, form: WeightFormat, kind: QuantType, request: LayerRequest) -> Rows:
    matrix = array_to_matrix(parts.weight_array.astype(np.float64), parts)
    values = matrix.reshape(-1, matrix.shape[-1])
    least = least_scales(parts, plan)
    kernel = int(np.prod(parts.weight_array.shape[2:])) if parts.node.op_type == "Conv" else 1
    if form.block is not None:
        blocks = -(-values.shape[1] // form.block)
        missing = blocks * form.block - values.shape[1]
        values = np.pad(values, ((0, 0), (0, missing))).reshape(-1, form.block)
        least = least.repeat(blocks)
    rule, scales = request.multiplier, None
    if rule is not None:
        scales = AdmissibleScales.of(rule, values, bias_of(parts), least)
    return Rows(values, kernel, kind.qmin + (form.bits >= NARROW_FROM), kind.qmax, least, scales)


def _layer(parts: Linear, form: WeightFormat, kind: QuantType, scales: Array, codes: Array) -> RoundedLayer:
    shape = array_to_matrix(parts.weight_array, parts).shape
    channels, axis = shape[0] * shape[1], parts.axis
    whole = codes.reshape(channels, -1)[:, : shape[2]].astype(np.int8).reshape(shape)
    if form.block is not None:
        by_block = scales.reshape(channels, -1)
        scales, axis = by_block if axis == 0 else by_block.T, 1 - axis
    zeros = np.zeros(scales.shape, np.int64)
    params = QuantParams(kind, scales.astype(np.float32), zeros, axis, form.bits >= NARROW_FROM, form.block)
    return RoundedLayer(params, from_matrix(whole, parts), None)
