"""A graph as text: what tests compare and ``ptqc inspect --text`` prints.

Topological order, temporaries renumbered, attributes sorted and defaults omitted; small constants in full, others
by shape and hash (integers) or range (floats, whose last bits differ between machines).
"""

from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.errors import quoted
from ptqc.core.types import Array
from ptqc.graph.walk import tensor_digest

FULL_UP_TO = 8  # elements of a constant that are printed one by one


def to_text(model: ir.Model) -> str:
    """The main graph, its constants and bodies, one line a node, ending in a newline.

    Example::

        graph (x: FLOAT[N,4]) -> (y: FLOAT[N,2])
          init w: FLOAT[4,2] in [-0.5, 0.75]
          %0 = MatMul(x, w)
          y = Relu(%0)
    """
    printer = _Printer(model)
    return "\n".join(printer.graph(model.graph, "graph", 0)) + "\n"


class _Printer:
    """Numbers temporaries over the whole model, so that bodies can name what they capture."""

    def __init__(self, model: ir.Model) -> None:
        self._opsets = model.graph.opset_imports
        self._names: dict[ir.Value, str] = {}
        self._count = 0

    def graph(self, graph: ir.Graph, head: str, depth: int) -> Iterator[str]:
        indent = "  " * depth
        for value in (*graph.inputs, *graph.initializers.values(), *graph.outputs):
            self._names.setdefault(value, _escaped(value.name or "?"))
        inputs = ", ".join(self._typed(value) for value in graph.inputs)
        outputs = ", ".join(self._typed(value) for value in graph.outputs)
        yield f"{indent}{head} ({inputs}) -> ({outputs})"
        for name in sorted(graph.initializers):
            yield f"{indent}  init {_escaped(name)}: {_constant(graph.initializers[name].const_value)}"
        for node in graph:
            yield from self._node(node, depth + 1)

    def _node(self, node: ir.Node, depth: int) -> Iterator[str]:
        outputs = ", ".join(self._name(value) for value in node.outputs)
        inputs = ", ".join("_" if value is None else self._name(value) for value in node.inputs)
        operator = _escaped(f"{node.domain}::{node.op_type}" if node.domain else node.op_type)
        line = f"{'  ' * depth}{outputs} = {operator}({inputs})"
        bodies: list[tuple[str, ir.Graph]] = []
        defaults = _defaults(node.op_type, node.domain, node.version or self._opsets.get(node.domain))
        for key in sorted(node.attributes):
            attribute = node.attributes[key]
            if attribute.type == ir.AttributeType.GRAPH and not attribute.is_ref():
                bodies.append((key, attribute.as_graph()))
            elif attribute.type == ir.AttributeType.GRAPHS and not attribute.is_ref():
                bodies.extend((f"{key}[{index}]", body) for index, body in enumerate(attribute.as_graphs()))
            else:
                text = _attribute(attribute)
                if text != defaults.get(key):
                    line += f" {_escaped(key)}={text}"
        yield line
        for key, body in bodies:
            yield from self.graph(body, f"{key} =", depth + 1)

    def _name(self, value: ir.Value) -> str:
        if value.name == "":
            return "_"
        if value not in self._names:
            self._names[value] = f"%{self._count}"
            self._count += 1
        return self._names[value]

    def _typed(self, value: ir.Value) -> str:
        return f"{self._name(value)}: {_type(value)}"


def _type(value: ir.Value) -> str:
    kind = value.type
    if kind is not None and not isinstance(kind, ir.TensorType):
        return str(kind)
    name = "?" if value.dtype is None else value.dtype.name
    if value.shape is None:
        return f"{name}[...]"
    return f"{name}[{','.join(dimension(size) for size in value.shape)}]"


def dimension(size: int | ir.SymbolicDim) -> str:
    """One dimension: its number, its name, or ``?``."""
    if isinstance(size, int):
        return str(size)
    return "?" if size.value is None else _escaped(size.value)


def _constant(tensor: ir.TensorProtocol | None) -> str:
    if tensor is None:
        return "?"
    head = f"{tensor.dtype.name}[{','.join(str(size) for size in tensor.shape.numpy())}]"
    if tensor.dtype == ir.DataType.STRING:
        return head if tensor.size > FULL_UP_TO else f"{head} = {_escaped(tensor.numpy().reshape(-1).tolist())}"
    if tensor.size == 0:
        return f"{head} = {{}}"
    values = tensor.numpy()
    if tensor.size <= FULL_UP_TO:
        return f"{head} = {{{', '.join(_number(value) for value in values.reshape(-1))}}}"
    if tensor.dtype.is_floating_point():
        low, high = _range(values)
        return f"{head} in [{low}, {high}]"
    return f"{head} #{tensor_digest(tensor)[:8]}"


def _range(values: Array) -> tuple[str, str]:
    wide = values if values.dtype.itemsize >= 4 else values.astype(np.float32)
    return _number(wide.min()), _number(wide.max())


def _number(value: object) -> str:
    if isinstance(value, (bool, np.bool_)):
        return str(bool(value)).lower()
    if isinstance(value, (int, np.integer)):
        return str(int(value))
    if isinstance(value, (complex, np.complexfloating)):
        return f"{complex(value):.6g}"
    as_float = float(value)  # type: ignore[arg-type]
    if as_float.is_integer() and np.asarray(value).dtype.name.lstrip("u").startswith("int"):
        return str(int(as_float))
    return f"{as_float:.6g}"


def _attribute(attribute: ir.Attr) -> str:
    if attribute.is_ref():
        return f"@{attribute.ref_attr_name}"
    if attribute.type == ir.AttributeType.TENSOR:
        return _constant(attribute.as_tensor())
    if attribute.type == ir.AttributeType.TENSORS:
        return "[" + ", ".join(_constant(tensor) for tensor in attribute.as_tensors()) + "]"
    value = attribute.value
    if isinstance(value, (list, tuple)):
        return "[" + ", ".join(_plain(item) for item in value) + "]"
    return _plain(value)


def _plain(value: object) -> str:
    return f"{value:.6g}" if isinstance(value, float) else _escaped(value)


def _escaped(text: object) -> str:
    """Names come from files: no control characters, no endless lines."""
    return quoted(text, limit=500)[1:-1]


@lru_cache(maxsize=1024)
def _defaults(op_type: str, domain: str, version: int | None) -> dict[str, str]:
    """Attribute name -> printed default of an operator in an opset; empty for unknown operators."""
    if version is None:
        return {}
    try:
        schema = onnx.defs.get_schema(op_type, version, domain)
    except onnx.defs.SchemaError:
        return {}
    found: dict[str, str] = {}
    for name, attribute in schema.attributes.items():
        if attribute.default_value is not None and attribute.default_value.name:
            found[name] = _attribute(ir.serde.deserialize_attribute(attribute.default_value))
    return found
