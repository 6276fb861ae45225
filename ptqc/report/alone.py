"""Float layers on inputs of one's own choice: what a layer makes of the noise that it receives."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of
from ptqc.graph.walk import Names


class LayersAlone:
    """A copy of a graph in which every reader of a cut tensor reads an extra input in its place."""

    def __init__(self, model: ir.Model, cuts: Sequence[str], outputs: Sequence[str], threads: int) -> None:
        """Builds the session; the model passed in stays unchanged.

        Args:
            cuts: float tensors, inputs of the graph or results of nodes, whose readers are to read given values.
            outputs: the tensors to compute; inputs of the graph among them are left out.
            threads: intra-op threads.
        """
        copy = model.clone()
        values = {value.name: value for value in copy.graph.inputs}
        values |= {value.name: value for node in copy.graph for value in node.outputs}
        names, given = Names(copy), {}
        for name in cuts:
            given[name] = _extra_input(values[name], names.fresh(f"{name}_given"))
            for use in list(values[name].uses()):
                use.node.replace_input_with(use.idx, given[name])
        self._outputs = tuple(name for name in outputs if values[name].producer() is not None)
        copy.graph.outputs[:] = [values[name] for name in self._outputs]
        copy.graph.inputs.extend(given.values())
        RemoveUnusedNodesPass()(copy)
        copy.graph.inputs[:] = [value for value in copy.graph.inputs if value.uses()]
        self._given = {name: value.name or "" for name, value in given.items() if value.uses()}
        self._free = tuple(value.name or "" for value in copy.graph.inputs if value not in given.values())
        self._session = session_of(copy, threads) if self._outputs else None

    @property
    def needs(self) -> tuple[str, ...]:
        """The cut tensors that the outputs depend on directly."""
        return tuple(self._given)

    def run(self, feeds: Mapping[str, Array], tensors: Mapping[str, Array]) -> dict[str, Array]:
        """The outputs, from the model's own feeds and a value for each tensor of ``needs``."""
        if self._session is None:
            return {}
        inputs = {name: feeds[name] for name in self._free}
        inputs |= {extra: tensors[name] for name, extra in self._given.items()}
        return dict(zip(self._outputs, run_session(self._session, self._outputs, inputs), strict=True))


def _extra_input(like: ir.Value, name: str) -> ir.Value:
    """An input of the type and rank of ``like``; its sizes are free."""
    shape = None if like.shape is None else ir.Shape([None] * len(like.shape))
    return ir.Value(name=name, type=ir.TensorType(ir.DataType.FLOAT), shape=shape)
