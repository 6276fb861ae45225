"""Single nodes in onnxruntime, for operators without a torch form: values only, no gradient."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.errors import DataError, ModelError, quoted
from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.convert import from_feed, to_array
from ptqc.graph.walk import subgraphs

# Names of onnxruntime for element types that NumPy has no type of its own for.
_EXOTIC = {
    "tensor(bfloat16)": ir.DataType.BFLOAT16,
    "tensor(float8e4m3fn)": ir.DataType.FLOAT8E4M3FN,
    "tensor(float8e4m3fnuz)": ir.DataType.FLOAT8E4M3FNUZ,
    "tensor(float8e5m2)": ir.DataType.FLOAT8E5M2,
    "tensor(float8e5m2fnuz)": ir.DataType.FLOAT8E5M2FNUZ,
    "tensor(float8e8m0)": ir.DataType.FLOAT8E8M0,
    "tensor(float4e2m1)": ir.DataType.FLOAT4E2M1,
    "tensor(int4)": ir.DataType.INT4,
    "tensor(uint4)": ir.DataType.UINT4,
    "tensor(int2)": ir.DataType.INT2,
    "tensor(uint2)": ir.DataType.UINT2,
}


class Island:
    """A session of one node; built at the first call, when the types of its inputs are known.

    Types that Python cannot hand to onnxruntime (int4, bfloat16, float8, ...) pass as float32, which holds them all.
    """

    def __init__(self, node: ir.Node, opsets: dict[str, int], ir_version: int) -> None:
        self.node, self.opsets, self.ir_version = node, opsets, ir_version
        self._sessions: dict[tuple[str, ...], Any] = {}

    def run(self, values: Sequence[Any], device: torch.device) -> list[Any]:
        """The outputs for the node's inputs, absent ones as None.

        Raises ModelError where onnxruntime has no kernel either, naming the node.
        """
        arrays = [to_array(value) for value in values]
        types = tuple(_kind(array) for array in arrays)
        if types not in self._sessions:
            self._sessions[types] = self._prepared(arrays)
        session, kinds = self._sessions[types]
        given = {f"i{index}": _passable(array) for index, array in enumerate(arrays) if array is not None}
        feeds = {item.name: given[item.name] for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        found = dict(zip(names, run_session(session, names, feeds), strict=True))
        results = [found.get(f"o{index}") for index in range(len(self.node.outputs))]
        for index, dtype in kinds.items():
            results[index] = np.asarray(results[index]).astype(dtype)
        return [from_feed(_array(result), device) for result in results]

    def _prepared(self, arrays: Sequence[Any]) -> tuple[Any, dict[int, Any]]:
        """A session, and the types of those outputs that it gives as float32."""
        where = f"{self.node.op_type} {quoted(self.node.name or '')}"
        if subgraphs(self.node):
            raise ModelError("the node does not run", where=where, why="bodies of control flow run in torch only")
        try:
            session = create_session(ir.to_proto(self._model(arrays, {})).SerializeToString())
            kinds = {int(item.name[1:]): _EXOTIC[item.type] for item in session.get_outputs() if item.type in _EXOTIC}
            if kinds:
                session = create_session(ir.to_proto(self._model(arrays, kinds)).SerializeToString())
        except ModelError as error:
            raise ModelError(f"the node {where} runs neither in torch nor in onnxruntime", why=error.why) from error
        return session, {index: kind.numpy() for index, kind in kinds.items()}

    def _model(self, arrays: Sequence[Any], narrow: Mapping[int, ir.DataType]) -> ir.Model:
        nodes: list[ir.Node] = []
        given: list[ir.Value] = []
        inputs: list[ir.Value | None] = []
        for index, array in enumerate(arrays):
            if array is None:
                inputs.append(None)
                continue
            kind = _type(array)
            exotic = isinstance(kind, ir.TensorType) and kind.dtype in _EXOTIC.values()
            value = ir.Value(name=f"i{index}", type=ir.TensorType(ir.DataType.FLOAT) if exotic else kind)
            given.append(value)
            if exotic:
                nodes.append(_cast(value, kind.dtype, f"n{index}"))
                value = nodes[-1].outputs[0]
            inputs.append(value)
        outputs = [
            ir.Value(name=("w" if index in narrow else "o") + str(index) if out.name else "", type=out.type)
            for index, out in enumerate(self.node.outputs)
        ]
        attributes = self.node.attributes.values()
        nodes.append(ir.Node(self.node.domain, self.node.op_type, inputs, attributes, outputs=outputs, name="island"))
        for index in narrow:
            nodes.append(_cast(outputs[index], ir.DataType.FLOAT, f"o{index}"))
            outputs[index] = nodes[-1].outputs[0]
        shown = [out for out in outputs if out.name]
        graph = ir.Graph(given, shown, nodes=nodes, opset_imports=self.opsets, name="island")
        return ir.Model(graph, ir_version=self.ir_version)


def _cast(value: ir.Value, kind: ir.DataType, name: str) -> ir.Node:
    attributes: dict[str, int] = {"to": int(kind)}
    if kind.name.startswith("FLOAT8"):
        attributes["saturate"] = 0
    node = ir.node("Cast", [value], attributes, name=f"cast_{name}")
    node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(kind)
    return node


def _kind(array: Any) -> str:
    if array is None:
        return ""
    return f"sequence of {_kind(array[0]) if array else ''}" if isinstance(array, list) else str(array.dtype)


def _type(array: Any) -> ir.TypeProtocol:
    if isinstance(array, list):
        if not array:
            raise DataError("an empty sequence has no type", why="onnxruntime needs it to run the node")
        return ir.SequenceType(_type(array[0]))
    if array.dtype.kind in "OUST":
        return ir.TensorType(ir.DataType.STRING)
    return ir.TensorType(ir.DataType.from_numpy(array.dtype))


def _passable(array: Any) -> Any:
    exotic = isinstance(array, np.ndarray) and array.dtype.kind not in "OUST" and not _is_numpys(array)
    return array.astype(np.float32) if exotic else array


def _is_numpys(array: Array) -> bool:
    return ir.DataType.from_numpy(array.dtype) not in _EXOTIC.values()


def _array(result: Any) -> Any:
    """What onnxruntime gave; scalars come as Python's own."""
    if result is None or isinstance(result, list):
        return result if result is None else [_array(item) for item in result]
    return np.asarray(result)
