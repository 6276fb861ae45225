"""In which units a model wants its features: read from the normalization at its input or behind its first layer."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import constant_array, is_op, single_consumer

LEAST_DEVIATION = 1e-6
# How far a direction of the input must show in the first layer, relative to the strongest, to be recovered from it.
LEAST_SINGULAR = 0.3


@dataclass(frozen=True, slots=True, eq=False)
class Units:
    """How features of about mean 0 and deviation 1 become the model's: ``values * scale + shift``.

    Attributes:
        scale, shift: float32, broadcast to the shape of a sample.
        origin: what they were read from, for people.
    """

    scale: Array
    shift: Array
    origin: str


def find_units(model: ir.Model, name: str, reference: Array) -> Units | None:
    """The units of an input, or None where the model does not show them.

    Args:
        model: before or after folding of BatchNormalization; only a BatchNormalization that is still there is seen.
        reference: float [samples, ...] of the kind that will be scaled.
    """
    value = next((value for value in model.graph.inputs if value.name == name), None)
    node = None if value is None else single_consumer(value)
    if value is None or node is None:
        return None
    return _standardized(value, node, reference) or _behind_linear(node, reference)


def _standardized(value: ir.Value, node: ir.Node, reference: Array) -> Units | None:
    """From BatchNormalization, or (x - mean) / deviation, at the input itself."""
    shape = reference.shape[1:]
    if is_op(node, "BatchNormalization") and shape:
        statistics = _statistics(node)
        if statistics is None or len(statistics[0]) != shape[0]:
            return None
        by_channel = (-1, *[1] * (len(shape) - 1))
        mean, deviation = (part.reshape(by_channel) for part in statistics)
        return _per_feature(mean, deviation, reference, "BatchNormalization at the input")
    if not is_op(node, "Sub") or node.inputs[0] is not value:
        return None
    mean_of, division = constant_array(node.inputs[1]), single_consumer(node.outputs[0])
    if mean_of is None or division is None or not is_op(division, "Div", "Mul"):
        return None
    factor = constant_array(next((one for one in division.inputs if one is not node.outputs[0]), None))
    if factor is None or (is_op(division, "Div") and division.inputs[0] is not node.outputs[0]):
        return None
    factor = factor.astype(np.float64)
    with np.errstate(divide="ignore"):
        deviation = factor if is_op(division, "Div") else 1 / factor
    try:
        mean, deviation = (np.broadcast_to(part, (1, *shape))[0] for part in (mean_of.astype(np.float64), deviation))
    except ValueError:
        return None
    return _per_feature(mean, np.abs(deviation), reference, "the standardization at the input")


def _per_feature(mean: Array, deviation: Array, reference: Array, origin: str) -> Units | None:
    if not (np.isfinite(mean).all() and np.isfinite(deviation).all()):
        return None
    scale = deviation / max(float(reference.std()), LEAST_DEVIATION)
    shift = mean - scale * float(reference.mean())
    return Units(scale.astype(np.float32), shift.astype(np.float32), origin)


def _behind_linear(node: ir.Node, reference: Array) -> Units | None:
    """From BatchNormalization behind a Gemm or MatMul: mean by least squares, one scale for all features."""
    linear = linear_parts(node) if is_op(node, "Gemm", "MatMul") else None
    if linear is None or reference.ndim != 2:
        return None
    norm = single_consumer(linear.output)
    statistics = _statistics(norm) if norm is not None and is_op(norm, "BatchNormalization") else None
    weight = constant_array(linear.weight)
    if statistics is None or weight is None:
        return None
    weight = np.asarray(weight, np.float64)
    weight = weight.T if linear.axis == 0 else weight  # [features, outputs]
    bias = constant_array(linear.bias) if linear.bias is not None else None
    mean, deviation = statistics
    if weight.shape != (reference.shape[1], len(mean)):
        return None
    if bias is not None:
        mean = mean - np.asarray(bias, np.float64).reshape(-1)
    # Outputs that hardly vary say more about the mean than others.
    shares = 1 / np.maximum(deviation, LEAST_DEVIATION)
    shift = np.linalg.lstsq((weight * shares).T, mean * shares, rcond=LEAST_SINGULAR)[0]
    # The median: some outputs look for what the reference does not have.
    spread = ((reference - reference.mean(axis=0)) @ weight).std(axis=0)
    scale = float(np.median(deviation / np.maximum(spread, LEAST_DEVIATION)))
    if not (np.isfinite(shift).all() and np.isfinite(scale)):
        return None
    shift = shift - scale * reference.mean(axis=0)
    origin = "BatchNormalization behind the first layer"
    return Units(np.asarray(scale, np.float32), shift.astype(np.float32), origin)


def _statistics(node: ir.Node) -> tuple[Array, Array] | None:
    """Mean and deviation of a BatchNormalization: float64 [channels]."""
    mean, variance = (constant_array(value) for value in node.inputs[3:5])
    if mean is None or variance is None or not (np.isfinite(mean).all() and (np.asarray(variance) >= 0).all()):
        return None
    return np.asarray(mean, np.float64), np.sqrt(np.asarray(variance, np.float64))
