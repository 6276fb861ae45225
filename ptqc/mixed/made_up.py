"""Lowered graphs with made-up codes of weights: they take the bytes of real ones, and nothing is rounded for them."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

import numpy as np
import onnx_ir as ir

from ptqc.allocate.formats import layer_requests
from ptqc.allocate.groups import make_groups
from ptqc.allocate.place import Placement, place
from ptqc.allocate.plan import make_plan
from ptqc.allocate.restrict import Restrictions
from ptqc.compile import lower, weight_type
from ptqc.core.dyadic import ScaleRule
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import WEIGHT_ONLY, QuantPlan
from ptqc.core.types import Array, QuantParams, QuantType, WeightFormat
from ptqc.graph.linear import Linear, linear_parts
from ptqc.integer_only import without_doors
from ptqc.rounding.apply import apply_rounding
from ptqc.rounding.averages import is_average
from ptqc.rounding.layer import LayerRequest, RoundedLayer
from ptqc.rounding.multiplier_rules import with_multipliers
from ptqc.rounding.nearest import nearest_layers
from ptqc.rounding.rows import NARROW_FROM
from ptqc.stamp import stamp
from ptqc.targets.target import Target

_DIGEST = "0" * 64


@dataclass(frozen=True, slots=True)
class MadeUp:
    """One placed graph whose weights can be stored in different ways.

    Attributes:
        plan: with the parameters of 8-bit weights.
        codes: of all constants of ``plan``.
        layers: 8-bit weights of linear nodes; those of averages have other bits, and one storage alone.
        requests: the storage that each node has otherwise.
    """

    canonical: ir.Model
    target: Target
    options: QuantizeOptions
    plan: QuantPlan
    codes: Mapping[str, Array]
    layers: Mapping[str, RoundedLayer]
    requests: tuple[LayerRequest, ...]

    @classmethod
    def of(
        cls,
        canonical: ir.Model,
        target: Target,
        options: QuantizeOptions,
        restrictions: Restrictions,
        plan: QuantPlan | None = None,
    ) -> Self:
        """What ``restrictions`` make of a canonical graph.

        Args:
            plan: of ``canonical`` with the final parameters of activations; None makes them up.

        Raises ModelError where an integer-only graph has no admissible scales.
        """
        rule = ScaleRule(options.scales, options.multiplier_bits) if target.integer else None
        if plan is None:
            placement = place(canonical, target, restrictions)
            groups = make_groups(canonical, placement)
            ranges = {group.request.tensor: (-1.0, 1.0) for group in groups}
            kind = weight_type(target, options)
            plan = make_plan(canonical, target.name, placement, groups, ranges, kind, {}, rule)
        placement = Placement(plan.nodes, frozenset())
        requests = layer_requests(canonical, placement, restrictions, target, options)
        eight = tuple(replace(one, formats=(_eight_bits(one.formats[0]),)) for one in requests)
        if rule is not None:
            eight = with_multipliers(canonical, plan, eight, rule)
        layers = nearest_layers(canonical, plan, eight)
        plan, codes = apply_rounding(canonical, plan, layers)
        kept = tuple(replace(one, multiplier=wide.multiplier) for one, wide in zip(requests, eight, strict=True))
        return cls(canonical, target, options, plan, codes, layers, kept)

    def stored(self, formats: Mapping[str, WeightFormat]) -> tuple[ir.Model, Mapping[int, str]]:
        """The lowered graph as it will be written, and names of weights by the ``id`` of the array of their scales.

        Args:
            formats: of linear nodes, others as they are requested; of several that share weights the first counts.
        """
        tensors, codes = dict(self.plan.tensors), dict(self.codes)
        nodes, seen = {node.name: node for node in self.canonical.graph}, set()
        for request in self.requests:
            parts = linear_parts(nodes[request.node])
            assert parts is not None  # it is requested
            name = parts.weight.name or ""
            if name not in seen:
                seen.add(name)
                form = formats.get(request.node, request.formats[0])
                tensors[name], codes[name] = _weights(parts, request, self.layers[request.node], form)
        plan = replace(self.plan, tensors=tensors)
        unchecked = replace(self.options, check_passes=False)
        model, _ = lower(self.canonical, plan, codes, self.target, unchecked)
        stamp(model, _DIGEST, replace(plan, tensors={}))  # as long as any other
        if self.options.io == "integer":
            model = without_doors(model)
        return model, {id(tensors[name].scale): name for name in sorted(seen)}

    def float_readers(self) -> dict[str, str]:
        """Nodes that compute with real numbers, of weights that are stored as integers -> the names of these."""
        readers = {}
        for node in self.canonical.graph:
            weight = node.inputs[1] if len(node.inputs) > 1 else None
            if weight is not None and self.plan.nodes[node.name or ""].form in WEIGHT_ONLY:
                readers[node.name or ""] = weight.name or ""
        return readers


def _eight_bits(form: WeightFormat) -> WeightFormat:
    return WeightFormat(8, block=form.block)


def _weights(
    parts: Linear, request: LayerRequest, layer: RoundedLayer, form: WeightFormat
) -> tuple[QuantParams, Array]:
    """Parameters of weights that are stored so, and codes that these can have; the scales are those of ``layer``."""
    params, shape = layer.params, layer.codes.shape
    if is_average(parts, request) or form == _eight_bits(form):
        return params, layer.codes
    kind, zero_point, codebook = params.type, params.zero_point, None
    count = 1 << form.bits
    if form.codebook == "none":
        kind = QuantType(form.bits, signed=True)
        zero_point = np.full(zero_point.shape, int(form.zero_points))
        first = kind.qmin + (form.bits >= NARROW_FROM)
    else:
        first = 0
        codebook = np.arange(count) if form.codebook == "tensor" else np.tile(np.arange(count), (params.scale.size, 1))
    narrow = params.narrow if codebook is not None else form.bits >= NARROW_FROM
    numbers = np.arange(layer.codes.size).reshape(shape)
    rows = layer.codes.reshape(len(layer.codes), -1)
    if layer.codes.ndim > 2 and (rows == rows[:, :1]).all():  # as real codes would be
        numbers = np.broadcast_to(np.arange(shape[0]).reshape(-1, *[1] * (len(shape) - 1)), shape)
    codes = (first + numbers % (count - (first > kind.qmin if codebook is None else 0))).astype(np.int8)
    return QuantParams(kind, params.scale, zero_point, params.axis, narrow, params.block, codebook), codes
