"""The choices of each node of a mixed-precision target: which precisions and which storage it may have."""

from collections.abc import Sequence

import onnx_ir as ir

from ptqc.allocate.formats import PLAIN_BITS, admissible_formats, cpu_kind, has_codes
from ptqc.allocate.place import Placement
from ptqc.allocate.restrict import Restrictions
from ptqc.core.options import WITHOUT_CODEBOOKS, QuantizeOptions
from ptqc.core.plan import WEIGHT_ONLY, Form
from ptqc.core.types import KEPT_FLOAT, NodeChoice, Precision, WeightFormat
from ptqc.graph.linear import linear_parts
from ptqc.rounding.averages import has_equal_weights
from ptqc.targets.target import Target


def choices(
    model: ir.Model,
    placement: Placement,
    restrictions: Restrictions,
    target: Target,
    options: QuantizeOptions,
    *,
    activation_bits: Sequence[int] = (8,),
    with_float: bool = False,
) -> dict[str, tuple[NodeChoice, ...]]:
    """The admissible choices of every node with integer weights, in graph order; one alone where the user fixed it,
    and for the averages of integer-only models, which are stored once for each channel anyway.

    Args:
        model: the canonical graph of ``placement``.
        activation_bits: widths of what integer kernels read.
        with_float: a node may stay in float, where the target allows it.
    """
    most = target.sensitive_bits[cpu_kind(options)]
    found: dict[str, tuple[NodeChoice, ...]] = {}
    for node in model.graph:
        if not has_codes(node, placement):
            continue
        form, demand = placement.form(node), restrictions.precision_of(node)
        if target.integer and _is_average(node):
            found[node.name or ""] = (NodeChoice(Precision(most, 8), WeightFormat(most)),)
            continue
        widths, activations = _widths(target, most, activation_bits, form, demand)
        if options.packing == "plain" and demand is None:
            widths = tuple(bits for bits in widths if bits in PLAIN_BITS)
        given = [
            NodeChoice(Precision(bits, activation), storage)
            for activation in activations
            for bits in widths
            for storage in admissible_formats(node, form, bits, options)
            if storage.codebook == "none" or options.rounding not in WITHOUT_CODEBOOKS
        ]
        free = demand is None and with_float and not target.integer and form not in WEIGHT_ONLY
        found[node.name or ""] = (*given, *((KEPT_FLOAT,) if free else ()))
    return found


def _is_average(node: ir.Node) -> bool:
    parts = linear_parts(node)
    return parts is not None and has_equal_weights(parts)


def _widths(
    target: Target, most: int, activation_bits: Sequence[int], form: Form, demand: Precision | None
) -> tuple[tuple[int, ...], tuple[int | None, ...]]:
    """Bits of weights and of activations, the latter None where they are float."""
    widths = tuple(dict.fromkeys(min(bits, most) for bits in target.weight_choices))
    if demand is not None and demand.weight_bits is not None:
        widths = (min(demand.weight_bits, most),)
    if form in WEIGHT_ONLY:
        return widths, (None,)
    if demand is not None:
        return widths, (demand.activation_bits or 8,)
    return widths, (8,) if form is Form.DYNAMIC else tuple(activation_bits)
