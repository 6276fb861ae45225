"""Which products find the range of their input at run time: those that lose less that way on the calibration data."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir

from ptqc.allocate.place import Placement
from ptqc.calibrate.products import Products, Rows, product_weights, rounded_dynamically, rounded_statically
from ptqc.core.plan import REAL_FORMS, Form
from ptqc.core.products import ProductInput
from ptqc.core.ranges import Range
from ptqc.core.types import QuantType
from ptqc.graph.absorb import product_of
from ptqc.graph.linear import Linear, bias_add
from ptqc.graph.walk import single_consumer
from ptqc.passes.smooth_activations import foldable, products_of

# How the errors must compare. Fixed ranges do not depend on what else is in the batch. But onnxruntime adds a bias
# behind a MatMul inside the kernel only where the range is found at run time, which is up to a tenth faster.
DYNAMIC_GAIN, DYNAMIC_GAIN_WITH_BIAS = 0.7, 1.0


def product_inputs(model: ir.Model, placement: Placement) -> tuple[ProductInput, ...]:
    """The tensors computed in float whose only integer readers are products, in topological order."""
    found = []
    for node in model.graph:
        if placement.nodes[node.name or ""].form not in (*REAL_FORMS, Form.TABLE):
            continue
        for value in node.outputs:
            products = products_of(value)
            if any(parts.node.graph is not model.graph for parts in products):
                continue  # bodies of control flow stay in float
            forms = {placement.nodes[parts.node.name or ""].form for parts in products}
            readers = {parts.node for parts in products}
            others = [use.node for use in value.uses() if use.node not in readers]
            if not forms or not forms <= {Form.KERNEL, Form.DYNAMIC} or any(_integer(n, placement) for n in others):
                continue
            found.append(
                ProductInput(
                    tensor=value.name or "",
                    products=tuple(parts.node.name or "" for parts in products),
                    foldable=foldable(value),
                    float_results=all(_float_result(parts, placement) for parts in products),
                )
            )
    return tuple(found)


def _integer(node: ir.Node, placement: Placement) -> bool:
    return placement.form(node) not in (*REAL_FORMS, Form.TABLE)


def _float_result(parts: Linear, placement: Placement) -> bool:
    reader = single_consumer(parts.output)
    absorbed = reader is not None and placement.form(reader) is Form.ABSORBED
    return parts.output.name not in placement.quantized and not absorbed and product_of(parts.output) is not None


def choose_dynamic(
    model: ir.Model,
    inputs: Sequence[ProductInput],
    rows: Mapping[str, Rows],
    ranges: Mapping[str, Range],
    weights: QuantType,
) -> frozenset[str]:
    """Names of the products that lose less with ranges found at run time than with ``ranges``.

    Args:
        rows: by tensor; inputs without rows or without a fixed range stay as they are.
        ranges: fixed range by tensor.
        weights: integer type of the weights.
    """
    biased = {node.name for node in model.graph if bias_add(node) is not None}
    chosen: list[str] = []
    for one in inputs:
        if not one.float_results or one.tensor not in rows or one.tensor not in ranges:
            continue
        seen = rows[one.tensor]
        products = Products.of(product_weights(model, one.products), seen)
        rounded = products.rounded(weights)
        fixed = products.error(rounded_statically(seen, ranges[one.tensor]), rounded)
        gain = DYNAMIC_GAIN_WITH_BIAS if biased.issuperset(one.products) else DYNAMIC_GAIN
        if products.error(rounded_dynamically(seen), rounded) <= gain * fixed:
            chosen.extend(one.products)
    return frozenset(chosen)
