"""Small models that show what a candidate range does: quantize a tensor, run its consumers, return their outputs."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import affine_params
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.types import UINT8, Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.walk import is_constant


class ConsumerProbe:
    """A session of the consumers of one tensor, fed with that tensor rounded to the codes of a range.

    Attributes:
        needs: tensors of the whole model that a run is fed with; the probed one first.
        outputs: tensors at which the error is measured.
    """

    def __init__(self, model: ir.Model, request: RangeRequest, threads: int) -> None:
        """Cuts the probe nodes of ``request`` out of ``model``, which stays unchanged."""
        wanted = set(request.probe_nodes)
        nodes = [node for node in model.graph if node.name in wanted]
        inside = {out for node in nodes for out in node.outputs}
        outside = [v for node in nodes for v in node.inputs if v is not None and v not in inside]
        others = [v for v in dict.fromkeys(outside) if not is_constant(v) and v.name != request.tensor]
        self.needs = (request.tensor, *(v.name or "" for v in others))
        self.outputs = request.probe_outputs
        self._session = session_of(_cut(model, nodes, request, others), threads) if self.outputs else None

    def run(self, tensors: Mapping[str, Array], candidate: Range) -> tuple[Array, list[Array]]:
        """The probed tensor after quantization with ``candidate``, and the outputs computed from it."""
        params = affine_params(*candidate, UINT8)
        name = self.needs[0]
        values = np.multiply(tensors[name], np.float32(1) / params.scale)
        np.rint(values, out=values)
        zero_point = np.float32(params.zero_point)
        np.clip(values, params.qmin - zero_point, params.qmax - zero_point, out=values)
        values *= params.scale
        if self._session is None:
            return values, []
        feeds = {name: values} | {other: tensors[other] for other in self.needs[1:]}
        return values, run_session(self._session, self.outputs, feeds)


def _cut(model: ir.Model, nodes: Sequence[ir.Node], request: RangeRequest, others: Sequence[ir.Value]) -> ir.Model:
    """A model of copies of ``nodes`` whose inputs are the probed tensor and ``others``."""
    values: dict[ir.Value | None, ir.Value | None] = {None: None}
    graph_inputs: list[ir.Value] = []
    initializers: list[ir.Value] = []

    def copied(value: ir.Value | None) -> ir.Value | None:
        if value is None or value in values:
            return values[value]
        copy = ir.Value(name=value.name, type=value.type, const_value=value.const_value)
        if value.name == request.tensor or value in others:
            graph_inputs.append(copy)  # without a shape: batches differ in size
        else:
            copy.shape = value.shape
            initializers.append(copy)
        values[value] = copy
        return copy

    copies: list[ir.Node] = []
    for node in nodes:
        inputs = [copied(value) for value in node.inputs]
        outputs = [ir.Value(name=out.name, type=out.type) for out in node.outputs]
        values.update(zip(node.outputs, outputs, strict=True))
        copies.append(
            ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name=node.name)
        )
    by_name = {value.name: value for value in values.values() if value is not None}
    graph = ir.Graph(
        graph_inputs,
        [by_name[name] for name in request.probe_outputs],
        nodes=copies,
        initializers=initializers,
        opset_imports=dict(model.graph.opset_imports),
        name="probe",
    )
    return ir.Model(graph, ir_version=model.ir_version)
