"""Single nodes in onnxruntime, for operators without a torch form: values only, no gradient."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import DataError, ModelError, quoted
from ptqc.execute.runtime import create_session, run_session
from ptqc.execute.torch_executor.convert import from_array, to_array
from ptqc.graph.walk import subgraphs


class Island:
    """A session of one node; built at the first call, when the types of its inputs are known."""

    def __init__(self, node: ir.Node, opsets: dict[str, int], ir_version: int) -> None:
        self.node, self.opsets, self.ir_version = node, opsets, ir_version
        self._sessions: dict[tuple[str, ...], Any] = {}

    def run(self, values: Sequence[Any], device: Any = "cpu") -> list[Any]:
        """The outputs for the node's inputs, absent ones as None.

        Raises ModelError where onnxruntime has no kernel either, naming the node.
        """
        arrays = [to_array(value) for value in values]
        types = tuple(_kind(array) for array in arrays)
        if types not in self._sessions:
            self._sessions[types] = self._session(arrays)
        session = self._sessions[types]
        given = {f"i{index}": array for index, array in enumerate(arrays) if array is not None}
        feeds = {item.name: given[item.name] for item in session.get_inputs()}
        names = [item.name for item in session.get_outputs()]
        found = dict(zip(names, run_session(session, names, feeds), strict=True))
        results = [found.get(f"o{index}") for index in range(len(self.node.outputs))]
        return [_tensor(result, device) for result in results]

    def _session(self, arrays: Sequence[Any]) -> Any:
        try:
            return create_session(ir.to_proto(self._model(arrays)).SerializeToString())
        except ModelError as error:
            node = f"{self.node.op_type} {quoted(self.node.name or '')}"
            raise ModelError(f"the node {node} runs neither in torch nor in onnxruntime", why=error.why) from error

    def _model(self, arrays: Sequence[Any]) -> ir.Model:
        if subgraphs(self.node):
            raise ModelError("it has bodies", why="bodies of control flow run in torch only")
        inputs = [
            None if array is None else ir.Value(name=f"i{index}", type=_type(array))
            for index, array in enumerate(arrays)
        ]
        outputs = [
            ir.Value(name=f"o{index}" if out.name else "", type=out.type) for index, out in enumerate(self.node.outputs)
        ]
        node = ir.Node(
            self.node.domain, self.node.op_type, inputs, self.node.attributes.values(), outputs=outputs, name="island"
        )
        present = [value for value in inputs if value is not None]
        graph = ir.Graph(
            present, [out for out in outputs if out.name], nodes=[node], opset_imports=self.opsets, name="island"
        )
        return ir.Model(graph, ir_version=self.ir_version)


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


def _tensor(result: Any, device: Any) -> Any:
    if isinstance(result, list):
        return [_tensor(item, device) for item in result]
    value = from_array(result) if isinstance(result, np.ndarray) else result
    return value.to(device) if hasattr(value, "to") else value
