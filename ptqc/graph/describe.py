"""What ``ptqc inspect`` says of a model: its interface, operators and sizes, as plain data."""

from collections import Counter
from dataclasses import asdict, dataclass
from typing import Any

import onnx_ir as ir

from ptqc.graph.costs import NodeCost, node_costs, operator
from ptqc.graph.load import LoadedModel
from ptqc.graph.opset import standard_opset
from ptqc.graph.text import dimension
from ptqc.graph.walk import graphs


@dataclass(frozen=True, slots=True)
class TensorInfo:
    """An input or output: its name, element type and dimensions (numbers, names, or ``?``)."""

    name: str
    dtype: str
    shape: tuple[str, ...] | None

    def __str__(self) -> str:
        return f"{self.name}: {self.dtype}[{', '.join(self.shape) if self.shape is not None else '...'}]"


@dataclass(frozen=True, slots=True)
class Description:
    """A model at a glance.

    Attributes:
        opset, ir_version: of the model as ptqc works on it.
        domains: other operator domains and their versions.
        operators: name -> how often, bodies included; the most frequent first.
        parameters: elements of all constants; ``bytes`` their size as stored.
        macs: multiply-accumulates for one sample, free dimensions taken as 1.
        nodes: the cost of every node of the main graph.
        metadata: what the file's author put into it.
        notes: what was changed on loading.
    """

    inputs: tuple[TensorInfo, ...]
    outputs: tuple[TensorInfo, ...]
    opset: int
    ir_version: int
    domains: dict[str, int]
    operators: dict[str, int]
    parameters: int
    bytes: int
    macs: int
    nodes: tuple[NodeCost, ...]
    producer: str
    metadata: dict[str, str]
    notes: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data for ``--json``."""
        return asdict(self)


def describe(loaded: LoadedModel | ir.Model) -> Description:
    """Collects the figures of a loaded model; each constant counts once, however many nodes read it."""
    model = loaded.model if isinstance(loaded, LoadedModel) else loaded
    tensors = [value.const_value for graph in graphs(model) for value in graph.initializers.values()]
    counts = Counter(operator(node) for graph in graphs(model) for node in graph)
    nodes = node_costs(model)
    return Description(
        inputs=tuple(_info(value) for value in model.graph.inputs),
        outputs=tuple(_info(value) for value in model.graph.outputs),
        opset=standard_opset(model) or 0,
        ir_version=model.ir_version,
        domains={name: version for name, version in sorted(model.graph.opset_imports.items()) if name},
        operators=dict(sorted(counts.items(), key=lambda item: (-item[1], item[0]))),
        parameters=sum(tensor.size for tensor in tensors if tensor is not None),
        bytes=sum(tensor.nbytes for tensor in tensors if tensor is not None and tensor.dtype != ir.DataType.STRING),
        macs=sum(node.macs for node in nodes),
        nodes=nodes,
        producer=" ".join(filter(None, (model.producer_name, model.producer_version))),
        metadata=dict(sorted(model.metadata_props.items())),
        notes=loaded.notes if isinstance(loaded, LoadedModel) else (),
    )


def _info(value: ir.Value) -> TensorInfo:
    dtype = "?" if value.dtype is None else value.dtype.name.lower()
    shape = None if value.shape is None else tuple(dimension(size) for size in value.shape)
    return TensorInfo(value.name or "", dtype, shape)
