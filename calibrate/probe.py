"""Small models that show what a candidate range does: quantize a tensor, run its consumers, sum the squared errors."""

from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from ptqc.core.arithmetic import affine_params
from ptqc.core.ranges import Range, RangeRequest
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.walk import is_constant

SCALE, ZERO_POINT, REFERENCE, ERROR = "ptqc_scale", "ptqc_zero_point", "_ptqc_reference", "_ptqc_error"
# The probed tensor is rounded exactly as written; nothing is to become integer here.
AS_WRITTEN = (("session.disable_quant_qdq", "1"), ("session.intra_op.allow_spinning", "0"))


class ConsumerProbe:
    """A session of the consumers of one tensor that returns the errors which a range of that tensor causes.

    Attributes:
        needs: tensors of the whole model that a run is fed with.
        judged: tensors at which the error is measured, the probed one among them where it counts by itself.
    """

    def __init__(self, model: ir.Model, request: RangeRequest, threads: int) -> None:
        """Cuts the probe nodes of ``request`` out of ``model``, which stays unchanged."""
        wanted = set(request.probe_nodes)
        nodes = [node for node in model.graph if node.name in wanted]
        inside = {out for node in nodes for out in node.outputs}
        outside = [v for node in nodes for v in node.inputs if v is not None and v not in inside]
        others = [v for v in dict.fromkeys(outside) if not is_constant(v) and v.name != request.tensor]
        self.tensor, self.type = request.tensor, request.type
        self.judged = (*((request.tensor,) if request.direct else ()), *request.probe_outputs)
        self._others = tuple(v.name or "" for v in others)
        self.needs = tuple(dict.fromkeys((request.tensor, *self._others, *self.judged)))
        builder = _Builder(request, frozenset(others))
        # Some sixty such sessions live at a time: their arenas would hold a batch of all tensors several times over.
        self._session = session_of(builder.build(model, nodes, self.judged), threads, config=AS_WRITTEN, arena=False)

    def errors(self, tensors: Mapping[str, Array], candidate: Range) -> Array:
        """Sums of squared differences to the float tensors that quantizing with ``candidate`` causes.

        Args:
            tensors: at least ``needs``, from one run of the float model.

        Returns:
            float64 [len(judged)].
        """
        params = affine_params(*candidate, self.type)
        feeds: dict[str, Array] = {name: tensors[name] for name in (self.tensor, *self._others)}
        feeds |= {name + REFERENCE: tensors[name] for name in self.judged if name != self.tensor}
        feeds[SCALE] = np.asarray(params.scale)
        feeds[ZERO_POINT] = params.zero_point.astype(np.uint8)
        return np.array(run_session(self._session, [name + ERROR for name in self.judged], feeds), np.float64)


class _Builder:
    """Writes the model of one probe: rounding, the copied consumers, one error for each judged tensor."""

    def __init__(self, request: RangeRequest, others: frozenset[ir.Value]) -> None:
        self.tensor, self.others, self.type = request.tensor, others, request.type
        self.inputs: list[ir.Value] = []
        self.initializers: list[ir.Value] = []
        self.nodes: list[ir.Node] = []
        self.copies: dict[ir.Value, ir.Value] = {}

    def build(self, model: ir.Model, nodes: Sequence[ir.Node], judged: Sequence[str]) -> ir.Model:
        exact = self._input(self.tensor, ir.DataType.FLOAT)
        scale, zero_point = self._input(SCALE, ir.DataType.FLOAT), self._input(ZERO_POINT, ir.DataType.UINT8)
        codes = self._node("QuantizeLinear", [exact, scale, zero_point], "ptqc_codes")
        if self.type.bits < 8:
            greatest = ir.Value(name="ptqc_greatest", const_value=ir.tensor(np.uint8(self.type.qmax)))
            greatest.shape, greatest.type = ir.Shape([]), ir.TensorType(ir.DataType.UINT8)
            self.initializers.append(greatest)
            codes = self._node("Clip", [codes, None, greatest], "ptqc_clipped")
        rounded = self._node("DequantizeLinear", [codes, scale, zero_point], "ptqc_rounded")
        by_name = {self.tensor: rounded}
        for node in nodes:
            inputs = [None if v is None else rounded if v.name == self.tensor else self._copy(v) for v in node.inputs]
            outputs = [ir.Value(name=out.name, type=out.type) for out in node.outputs]
            self.copies.update(zip(node.outputs, outputs, strict=True))
            by_name.update({out.name or "": out for out in outputs})
            self.nodes.append(
                ir.Node(node.domain, node.op_type, inputs, node.attributes.values(), outputs=outputs, name=node.name)
            )
        errors = [self._error(by_name[name], exact) for name in judged]
        graph = ir.Graph(
            self.inputs,
            errors,
            nodes=self.nodes,
            initializers=self.initializers,
            opset_imports=dict(model.graph.opset_imports),
            name="probe",
        )
        return ir.Model(graph, ir_version=model.ir_version)

    def _error(self, value: ir.Value, exact: ir.Value) -> ir.Value:
        name = value.name or ""
        if name == "ptqc_rounded":
            name, reference = self.tensor, exact
        else:
            reference = self._input(name + REFERENCE, ir.DataType.FLOAT)
        difference = self._node("Sub", [value, reference], f"{name}_ptqc_difference")
        error = self._node("ReduceSumSquare", [difference], name + ERROR, keepdims=0)
        error.type = ir.TensorType(ir.DataType.FLOAT)
        return error

    def _input(self, name: str, dtype: ir.DataType) -> ir.Value:
        """A graph input, without a shape as batches differ in size."""
        shape = ir.Shape([]) if name in (SCALE, ZERO_POINT) else None
        value = ir.Value(name=name, type=ir.TensorType(dtype), shape=shape)
        self.inputs.append(value)
        return value

    def _node(self, operator: str, inputs: Sequence[ir.Value | None], output: str, **attributes: int) -> ir.Value:
        given = [ir.AttrInt64(name, number) for name, number in attributes.items()]
        node = ir.Node("", operator, inputs, given, outputs=[ir.Value(name=output)], name=f"{output}_{operator}")
        self.nodes.append(node)
        return node.outputs[0]

    def _copy(self, value: ir.Value) -> ir.Value:
        if value not in self.copies:
            if value in self.others:
                copy = self._input(value.name or "", value.dtype or ir.DataType.FLOAT)
            else:
                copy = ir.Value(name=value.name, type=value.type, shape=value.shape, const_value=value.const_value)
                self.initializers.append(copy)
            self.copies[value] = copy
        return self.copies[value]
