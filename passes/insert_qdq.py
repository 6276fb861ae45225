"""Lowers a planned float graph to QuantizeLinear and DequantizeLinear pairs that onnxruntime fuses.

Every tensor of the plan gets one QuantizeLinear and one DequantizeLinear that all its readers share; weights and
biases become integer constants behind a DequantizeLinear. See :class:`ptqc.core.plan.Form` for what happens to
each node.
"""

from dataclasses import dataclass, replace
from typing import ClassVar

import numpy as np
import onnx_ir as ir

from ptqc.core.plan import REAL_FORMS, Form, QuantPlan
from ptqc.core.types import Array, QuantParams
from ptqc.graph.edit import remove_unused_initializers
from ptqc.graph.linear import Linear, linear_parts
from ptqc.graph.walk import Names, add_initializer, constant_array
from ptqc.passes.base import CODES_OF, Fact, PassContext, PassSpec, Rewrites


@dataclass(frozen=True)
class InsertQDQ:
    """Writes the plan into the graph as QuantizeLinear/DequantizeLinear pairs."""

    spec: ClassVar[PassSpec] = PassSpec(
        "insert-qdq",
        needs=frozenset({Fact.CONSTANTS_LIFTED}),
        gives=frozenset({Fact.QUANTIZED}),
        numerics="changes",
    )

    def run(self, model: ir.Model, context: PassContext) -> Rewrites:
        """Rewrites ``model`` by ``context.plan`` and ``context.codes``; both must belong to it."""
        if context.plan is None:
            raise ValueError("insert-qdq needs a plan")
        writer = _Writer(model, context)
        writer.run()
        return Rewrites(writer.count)


class _Writer:
    """The state of one run: codes of tensors already quantized, and fresh names."""

    def __init__(self, model: ir.Model, context: PassContext) -> None:
        assert context.plan is not None
        self.model, self.graph = model, model.graph
        self.plan: QuantPlan = context.plan
        self.arrays = context.codes
        self.names = Names(model)
        self.codes: dict[str, ir.Value] = {}
        self.constants: dict[str, ir.Value] = {}
        self.dynamic_weights: dict[str, ir.Value] = {}
        self.dynamic_inputs: dict[ir.Value, tuple[ir.Value, ...]] = {}
        self.count = 0

    def run(self) -> None:
        nodes = list(self.graph)
        for node in nodes:
            if self._form(node) is Form.ABSORBED:
                self._absorb(node)
        for value in list(self.graph.inputs):
            if value.name in self.plan.tensors:
                self._quantize(value, None)
        for node in nodes:
            if node.graph is not self.graph:
                continue
            self._write(node)
        self._remove_unread()
        remove_unused_initializers(self.graph)
        self.graph.sort()

    def _remove_unread(self) -> None:
        """Removes DequantizeLinear nodes whose codes alone are read: onnxruntime would run them all the same."""
        for node in list(self.graph):
            out = node.outputs[0]
            if node.op_type == "DequantizeLinear" and not out.uses() and not out.is_graph_output():
                self.graph.remove(node, safe=True)

    def _form(self, node: ir.Node) -> Form:
        plan = self.plan.nodes.get(node.name or "")
        return Form.FLOAT if plan is None else plan.form

    def _write(self, node: ir.Node) -> None:
        form, parts = self._form(node), linear_parts(node)
        if form is Form.DYNAMIC:
            if parts is not None:
                self._dynamic(parts)
            else:
                self._quantize_outputs(node)
            return
        if form is Form.RESCALE:
            self._reread(node)
            return
        if form is Form.CODES:
            self._on_codes(node)
            return
        if form is Form.KERNEL:
            self._constants(node, parts)
        self._quantize_outputs(node)

    def _quantize_outputs(self, node: ir.Node) -> None:
        for out in list(node.outputs):
            if out.name in self.plan.tensors:
                self._quantize(out, node)

    def _absorb(self, node: ir.Node) -> None:
        """Removes a clamp; the value that it clamped takes over the name that the plan knows."""
        value, clamped = node.inputs[0], node.outputs[0]
        assert value is not None
        name = clamped.name
        if clamped.is_graph_output():
            value.shape, value.type = clamped.shape, clamped.type  # as the model declares its output
        clamped.replace_all_uses_with(value, replace_graph_outputs=True)
        self.graph.remove(node, safe=True)
        value.name = name
        self.count += 1

    def _param_values(self, name: str, params: QuantParams) -> tuple[ir.Value, ir.Value]:
        scale = add_initializer(self.model, self.names.fresh(f"{name}_scale"), np.asarray(params.scale))
        zero_point = params.zero_point.astype(params.type.storage)
        return scale, add_initializer(self.model, self.names.fresh(f"{name}_zero_point"), zero_point)

    def _node(self, operator: str, name: str, inputs: list[ir.Value | None], out: str, **attributes: int) -> ir.Node:
        output = ir.Value(name=self.names.fresh(out))
        given = [ir.AttrInt64(key, number) for key, number in attributes.items()]
        self.count += 1
        return ir.Node("", operator, inputs, given, outputs=[output], name=self.names.fresh(name))

    def _insert(self, after: ir.Node | None, *nodes: ir.Node) -> None:
        if after is None:
            first = next(iter(self.graph))
            self.graph.insert_before(first, nodes)
        else:
            self.graph.insert_after(after, nodes)

    def _quantize(self, value: ir.Value, after: ir.Node | None) -> None:
        """Puts a QuantizeLinear and a DequantizeLinear behind ``value``."""
        name = value.name or ""
        scale, zero_point = self._param_values(name, self.plan.tensors[name])
        exceeds = self._exceeds(self.plan.tensors[name], after)
        stem = f"{name}_unclipped" if exceeds else f"{name}_quantized"
        quantize = self._node("QuantizeLinear", f"{name}_QuantizeLinear", [value, scale, zero_point], stem)
        codes = quantize.outputs[0]
        codes.shape, codes.type = value.shape, ir.TensorType(zero_point.dtype or ir.DataType.UINT8)
        written = [quantize]
        if exceeds:
            written.append(self._clipped(name, codes))
            codes = written[-1].outputs[0]
        dequantize = self._dequantize_node(name, codes, scale, zero_point, value)
        if self._computed_in_float(value):
            self._take_over_integer_readers(value, dequantize.outputs[0])
        else:
            self._take_over(value, dequantize.outputs[0], keep=quantize)
        self._insert(after, *written, dequantize)
        self.codes[name] = codes

    def _exceeds(self, params: QuantParams, producer: ir.Node | None) -> bool:
        """Whether QuantizeLinear, which stops at the codes of the storage type, may write greater codes than ``params``
        has; what only moves codes adds none."""
        moves = producer is not None and self._form(producer) is Form.MOVE
        return params.qmax < np.iinfo(params.type.storage).max and not moves

    def _clipped(self, name: str, codes: ir.Value) -> ir.Node:
        """A Clip of codes to those in use: on codes it stays between integer kernels, on reals it would part them."""
        greatest = np.asarray(self.plan.tensors[name].qmax, self.plan.tensors[name].type.storage)
        bound = add_initializer(self.model, self.names.fresh(f"{name}_greatest"), greatest)
        node = self._node("Clip", f"{name}_Clip", [codes, None, bound], f"{name}_quantized")
        node.outputs[0].shape, node.outputs[0].type = codes.shape, codes.type
        return node

    def _computed_in_float(self, value: ir.Value) -> bool:
        producer = value.producer()
        return producer is not None and self._form(producer) in (*REAL_FORMS, Form.TABLE, Form.DYNAMIC)

    def _take_over_integer_readers(self, old: ir.Value, new: ir.Value) -> None:
        """Lets integer readers read codes; float ones keep the float value, which is there anyway and exact."""
        for use in list(old.uses()):
            if self._form(use.node) not in (*REAL_FORMS, Form.DYNAMIC):
                use.node.replace_input_with(use.idx, new)

    def _dequantize_node(
        self, name: str, codes: ir.Value, scale: ir.Value, zero_point: ir.Value, like: ir.Value
    ) -> ir.Node:
        node = self._node(
            "DequantizeLinear", f"{name}_DequantizeLinear", [codes, scale, zero_point], f"{name}_dequantized"
        )
        node.outputs[0].shape, node.outputs[0].type = like.shape, like.type
        return node

    def _take_over(self, old: ir.Value, new: ir.Value, keep: ir.Node | None) -> None:
        """Lets every reader of ``old`` but ``keep`` read ``new``; a graph output keeps its name.

        A graph input that is an output as well stays as it is.
        """
        if old.is_graph_output() and not old.is_graph_input():
            name = old.name or ""
            for index, output in enumerate(self.graph.outputs):
                if output is old:
                    self.graph.outputs[index] = new
            old.name = self.names.fresh(f"{name}_unquantized")
            new.name = name
        for use in list(old.uses()):
            if use.node is not keep:
                use.node.replace_input_with(use.idx, new)

    def _reread(self, node: ir.Node) -> None:
        """A multiplication by a constant vanishes: its output are the codes of its input at another scale."""
        source = next(v for v in node.inputs if v is not None and constant_array(v) is None)
        out = node.outputs[0]
        name = out.name or ""
        codes = self._codes_of(source)
        dequantize = self._dequantize_node(name, codes, *self._param_values(name, self.plan.tensors[name]), out)
        self._take_over(out, dequantize.outputs[0], keep=None)
        self._insert(node, dequantize)
        self.graph.remove(node, safe=True)
        self.codes[name] = codes

    def _codes_of(self, dequantized: ir.Value) -> ir.Value:
        producer = dequantized.producer()
        assert producer is not None and producer.op_type == "DequantizeLinear"  # the plan quantizes it
        codes = producer.inputs[0]
        assert codes is not None
        return codes

    def _on_codes(self, node: ir.Node) -> None:
        """Moves ``node`` between QuantizeLinear and DequantizeLinear; constants become codes."""
        source, out = node.inputs[0], node.outputs[0]
        assert source is not None
        name = out.name or ""
        params = self.plan.tensors[name]
        scale, zero_point = self._param_values(name, params)
        inputs: list[ir.Value | None] = [self._codes_of(source), *node.inputs[1:]]
        operator = node.op_type
        if operator == "Pad":
            if node.attributes.get_string("mode", "constant") == "constant":
                inputs = [*inputs[:2], zero_point, *inputs[3:]]
        else:
            operator, inputs = "Clip", [inputs[0], *self._clip_codes(node, name, params)]
        on_codes = ir.Node(
            "",
            operator,
            inputs,
            node.attributes.values() if operator == "Pad" else (),
            outputs=[ir.Value(name=self.names.fresh(f"{name}_quantized"), type=ir.TensorType(ir.DataType.UINT8))],
            name=self.names.fresh(f"{node.name}_quantized"),
        )
        dequantize = self._dequantize_node(name, on_codes.outputs[0], scale, zero_point, out)
        self._take_over(out, dequantize.outputs[0], keep=None)
        self._insert(node, on_codes, dequantize)
        self.graph.remove(node, safe=True)
        self.codes[name] = on_codes.outputs[0]

    def _clip_codes(self, node: ir.Node, name: str, params: QuantParams) -> list[ir.Value | None]:
        """Bounds of a Relu or Clip as codes."""
        bounds: list[float | None] = [0.0, None]
        if node.op_type == "Clip":
            arrays = [constant_array(v) for v in (*node.inputs[1:], None, None)][:2]
            bounds = [None if a is None else float(a.item()) for a in arrays]
        values: list[ir.Value | None] = []
        for bound, end in zip(bounds, ("low", "high"), strict=True):
            if bound is None:
                values.append(None)
                continue
            code = np.clip(np.rint(bound / params.scale) + params.zero_point, params.qmin, params.qmax)
            array = np.asarray(code, params.type.storage)
            values.append(add_initializer(self.model, self.names.fresh(f"{name}_{end}"), array))
        return values

    def _constants(self, node: ir.Node, parts: Linear | None) -> None:
        """Replaces the constants of an integer kernel by codes behind a DequantizeLinear."""
        if parts is not None:
            holder = parts.bias_add or node
            if parts.bias is not None and parts.bias_add is not None and parts.bias_name not in self.plan.tensors:
                self._float_bias(parts, parts.bias, parts.bias_add)
            elif parts.bias is not None:
                stem = f"{parts.node.name}_bias"  # another tensor may have this name
                stem = parts.bias_name if stem in self.plan.tensors else stem
                self._constant(holder, holder.inputs.index(parts.bias), parts.bias_name, stem)
            self._constant(node, 1, parts.weight.name or "")
            return
        for index, value in enumerate(node.inputs):
            if value is not None and value.name in self.plan.tensors and constant_array(value) is not None:
                self._constant(node, index, value.name or "")

    def _constant(self, node: ir.Node, index: int, name: str, stem: str = "") -> None:
        """Lets ``node`` read the codes that the plan calls ``name``; new names begin with ``stem`` if it is given."""
        stem = stem or name
        if name not in self.plan.tensors:
            return
        if name not in self.constants:
            params, codes = self.plan.tensors[name], self.arrays[name]
            scale, zero_point = self._param_values(stem, params)
            codes_value = add_initializer(self.model, self.names.fresh(f"{stem}_quantized"), codes)
            codes_value.meta[CODES_OF] = params
            axis = {} if params.axis is None else {"axis": params.axis}
            dequantize = self._node(
                "DequantizeLinear",
                f"{stem}_DequantizeLinear",
                [codes_value, scale, zero_point],
                f"{stem}_dequantized",
                **axis,
            )
            dequantize.outputs[0].shape = codes_value.shape
            dequantize.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
            self._insert(None, dequantize)
            self.constants[name] = dequantize.outputs[0]
        node.replace_input_with(index, self.constants[name])

    def _float_bias(self, parts: Linear, bias: ir.Value, add: ir.Node) -> None:
        """Gives a float bias all the dimensions of the result: with one, onnxruntime might merge MatMul and Add
        to a Gemm, which has no integer kernel with a float bias."""
        shape, array = add.outputs[0].shape, constant_array(bias)
        assert shape is not None and array is not None  # the plan leaves the bias in float only then
        spread = array.reshape([1] * (len(shape) - 1) + [-1])
        value = add_initializer(self.model, self.names.fresh(f"{parts.node.name}_bias_float"), spread)
        add.replace_input_with(add.inputs.index(bias), value)

    def _dynamic(self, parts: Linear) -> None:
        """A product whose activation is quantized at run time: the form that onnxruntime fuses into one kernel."""
        node, name = parts.node, parts.node.name or ""
        weight_name = parts.weight.name or ""
        params = self.plan.tensors[weight_name]
        if parts.data not in self.dynamic_inputs:
            stem = parts.data.name or ""
            outputs = [ir.Value(name=self.names.fresh(f"{stem}_{end}")) for end in ("quantized", "scale", "zero_point")]
            quantize = ir.Node(
                "",
                "DynamicQuantizeLinear",
                [parts.data],
                outputs=outputs,
                name=self.names.fresh(f"{stem}_DynamicQuantizeLinear"),
            )
            self._insert(parts.data.producer(), quantize)
            self.dynamic_inputs[parts.data] = tuple(outputs)
        codes, scale, zero_point = self.dynamic_inputs[parts.data]
        if weight_name not in self.dynamic_weights:
            array: Array = self.arrays[weight_name]
            oriented = np.ascontiguousarray(array.T) if parts.axis == 0 else array
            value = add_initializer(self.model, self.names.fresh(f"{weight_name}_quantized"), oriented)
            value.meta[CODES_OF] = replace(params, axis=1) if params.axis == 0 else params
            self.dynamic_weights[weight_name] = value
        weight_scale = add_initializer(self.model, self.names.fresh(f"{name}_weight_scale"), np.asarray(params.scale))
        product = self._node(
            "MatMulInteger",
            f"{name}_MatMulInteger",
            [codes, self.dynamic_weights[weight_name], zero_point],
            f"{name}_product",
        )
        cast = self._node("Cast", f"{name}_Cast", [product.outputs[0]], f"{name}_cast", to=int(ir.DataType.FLOAT))
        factor = self._node("Mul", f"{name}_factor_Mul", [scale, weight_scale], f"{name}_factor")
        result = self._node("Mul", f"{name}_Mul", [cast.outputs[0], factor.outputs[0]], f"{name}_result")
        added = [product, cast, factor, result]
        if parts.bias is not None and parts.bias_add is None:
            added.append(self._node("Add", f"{name}_Add", [result.outputs[0], parts.bias], f"{name}_sum"))
        final, old = added[-1].outputs[0], node.outputs[0]
        final.shape, final.type = old.shape, old.type
        self._insert(node, *added)
        planned = old.name if old.name in self.plan.tensors else final.name
        self._take_over(old, final, keep=None)
        self.graph.remove(node, safe=True)
        if planned in self.plan.tensors:
            final.name = planned
            self._quantize_outputs(added[-1])
