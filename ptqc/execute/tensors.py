"""Running a model so that tensors inside it come out too: what calibration and comparisons look at."""

from collections.abc import Mapping, Sequence

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass

from ptqc.core.errors import DataError, OptionError, nearest, quoted
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of


class TensorRunner:
    """A session of a model whose outputs are any tensors of its main graph.

    Only what the wanted tensors need is computed. The model passed in stays unchanged and is not kept.
    """

    def __init__(self, model: ir.Model, tensors: Sequence[str], threads: int = 2) -> None:
        """Builds the session.

        Args:
            model: any model the runtime accepts.
            tensors: names of values of the main graph: graph inputs, initializers, outputs of nodes.
            threads: intra-op threads.

        Raises:
            OptionError: a name is no tensor of the main graph.
            ModelError: the runtime does not accept the model.
        """
        self.tensors = tuple(dict.fromkeys(tensors))
        copy = model.clone()
        values = _values(copy.graph)
        for name in self.tensors:
            if name not in values:
                raise OptionError(f"the graph has no tensor {quoted(name)}", fix=nearest(name, sorted(values)))
        # The runtime refuses outputs that no node makes, so inputs and initializers are handed through here.
        self._constants = {
            name: copy.graph.initializers[name] for name in self.tensors if name in copy.graph.initializers
        }
        self._computed = tuple(name for name in self.tensors if values[name].producer() is not None)
        copy.graph.outputs[:] = [values[name] for name in self._computed]
        RemoveUnusedNodesPass()(copy)
        self._session = session_of(copy, threads) if self._computed else None

    def run(self, feeds: Mapping[str, Array]) -> dict[str, Array]:
        """The tensors for one input, in the order in which they were asked for.

        Args:
            feeds: input name -> array of the model's dtype and shape.

        Raises:
            DataError: the runtime refuses the feeds or fails on them.
        """
        found: dict[str, Array] = {}
        if self._session is not None:
            outputs = run_session(self._session, self._computed, feeds)
            found.update(zip(self._computed, outputs, strict=True))
        for name in self.tensors:
            if name in found:
                continue
            constant = self._constants[name].const_value if name in self._constants else None
            if name in feeds:
                found[name] = feeds[name]
            elif constant is not None:
                found[name] = constant.numpy()
            else:
                raise DataError(f"the input {quoted(name)} is missing", fix=nearest(name, sorted(feeds)))
        return {name: found[name] for name in self.tensors}


def _values(graph: ir.Graph) -> dict[str, ir.Value]:
    """Every named value of the graph; bodies inside it are left out."""
    values = {value.name: value for value in (*graph.inputs, *graph.initializers.values()) if value.name}
    for node in graph:
        values.update({value.name: value for value in node.outputs if value.name})
    return values
