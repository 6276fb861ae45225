"""What the plan of an integer-only graph demands of the scales of weights, and whether a finished one keeps to it."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
import onnx_ir as ir

from ptqc.core.dyadic import MOST_SHIFT, Dyadic, ScaleRule, product_multiplier
from ptqc.core.errors import quoted
from ptqc.core.plan import Form, QuantPlan
from ptqc.core.types import Array, QuantParams
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import single_consumer
from ptqc.rounding.layer import LayerRequest
from ptqc.rounding.matrices import array_to_matrix
from ptqc.rounding.multipliers import MultiplierRule, sums_are_exact

MOST_WIDE_SHIFT = 30  # where codes have more than 8 bits: integer operators round, not kernels with float multipliers
MOST_EXIT_SHIFT = 60  # of a product that nothing requantizes, whose sums alone must be exact


def with_multipliers(
    model: ir.Model, plan: QuantPlan, requests: Sequence[LayerRequest], scales: ScaleRule
) -> tuple[LayerRequest, ...]:
    """``requests`` that say what the multipliers of nodes with integer inputs and outputs have to be.

    Args:
        model: the canonical graph of ``plan``.
        plan: with the final parameters of activations.
        scales: of the model. Where those of activations are powers of two, float32 must hold the sums of unfused
            products as well.
    """
    bits, exact_sums = scales.multiplier_bits, scales.family == "pow2"
    rules = {
        parts.node.name or "": rule
        for parts in _products(model, plan)
        if (rule := _rule(parts, plan, bits, exact_sums)) is not None
    }
    return tuple(replace(request, multiplier=rules.get(request.node)) for request in requests)


def check_multipliers(model: ir.Model, plan: QuantPlan) -> tuple[str, ...]:
    """Sentences on products of an integer-only plan whose multipliers are not what docs/arithmetic.md says."""
    problems = []
    for parts in _products(model, plan):
        output = _output(parts, plan)
        weight = plan.tensors[parts.weight.name or ""]
        if output is None:
            continue
        numbers = product_multiplier(plan.tensors[parts.data.name or ""].scale, weight.scale, output.scale)
        most, where = _most_shift(output), f"{parts.node.op_type} {quoted(parts.node.name)}"
        try:
            shift = Dyadic.of(numbers).shift
        except ValueError:
            shift = most + 1
        if shift > most:
            problems.append(f"{where}: a multiplier is no integer divided by 2^{most}")
        if (numbers <= 0).any() or weight.zero_point.any():
            problems.append(f"{where}: a multiplier or a zero point of its weights is not what integers need")
    return tuple(problems)


def check_sums(model: ir.Model, plan: QuantPlan, codes: Mapping[str, Array]) -> tuple[str, ...]:
    """Sentences on products whose unfused real numbers float32 does not sum exactly, where scales are powers of two.

    Args:
        codes: of the plan's constants.
    """
    problems = []
    for parts in _products(model, plan):
        rule = _rule(parts, plan, 1, exact_sums=True)
        assert rule is not None
        weight = plan.tensors[parts.weight.name or ""]
        matrix = array_to_matrix(codes[parts.weight.name or ""].astype(np.float64), parts)
        bias = np.zeros(matrix.shape[0] * matrix.shape[1])
        if parts.bias_name in plan.tensors:
            bias = codes[parts.bias_name] * plan.tensors[parts.bias_name].scale.astype(np.float64)
        if not sums_are_exact(rule, matrix.reshape(-1, matrix.shape[-1]), weight.scale, bias).all():
            problems.append(f"{parts.node.op_type} {quoted(parts.node.name)}: sums of real numbers are not exact")
    return tuple(problems)


def _products(model: ir.Model, plan: QuantPlan) -> Iterator[Linear]:
    """The linear nodes that read codes."""
    for node in model.graph:
        parts = linear_parts(node)
        known = plan.nodes.get(node.name or "")
        if parts is None or known is None or known.form not in (Form.KERNEL, Form.INTEGER):
            continue
        if parts.data.name in plan.tensors and parts.weight.name in plan.tensors:
            yield parts


def _rule(parts: Linear, plan: QuantPlan, bits: int, exact_sums: bool) -> MultiplierRule | None:
    data, output = plan.tensors[parts.data.name or ""], _output(parts, plan)
    zero_point = int(data.zero_point)
    limits = (data.qmin - zero_point, data.qmax - zero_point) if exact_sums else None
    if output is not None:
        return MultiplierRule(float(data.scale), float(output.scale), bits, _most_shift(output), limits)
    return MultiplierRule(float(data.scale), 1.0, bits, MOST_EXIT_SHIFT, limits) if exact_sums else None


def _most_shift(output: QuantParams) -> int:
    return MOST_SHIFT if output.type.bits <= 8 else MOST_WIDE_SHIFT


def _output(parts: Linear, plan: QuantPlan) -> QuantParams | None:
    """Of the codes that the accumulators become, behind clamps that its range implies; None where there are none."""
    value = parts.output
    while (reader := single_consumer(value)) is not None:
        known = plan.nodes.get(reader.name or "")
        if known is None or known.form is not Form.ABSORBED:
            break
        value = reader.outputs[0]
    return plan.tensors.get(value.name or "")
