"""The network as distillation sees it: free inputs, the tensors whose statistics are known, the class scores."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
import torch

from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.convert import is_float
from ptqc.core.batch_statistics import METADATA_KEY, BatchStatistics, read_statistics
from ptqc.core.errors import quoted
from ptqc.core.types import Array
from ptqc.execute.torch_executor.executor import TorchExecutor

# What can be changed little by little; tokens cannot.
CONTINUOUS = (Kind.IMAGE, Kind.AUDIO, Kind.SPECTRUM, Kind.VECTOR)
FLAT = ("Ceil", "Floor", "Round", "Sign")  # their gradient is zero
PIECE_BYTES = 128 << 20  # of activations kept for the gradient


def can_change(contract: InputContract) -> bool:
    """Whether distillation can change an input little by little: whole numbers, such as uint8 pixels, it cannot."""
    return contract.kind in CONTINUOUS and is_float(contract.dtype)


def find_statistics(model: ir.Model) -> tuple[BatchStatistics, ...]:
    """The statistics of a canonical model whose tensors are still in its main graph.

    Raises ModelError for damaged ones and for NaN, Inf or negative variances.
    """
    values = {out.name: out for node in model.graph for out in node.outputs}
    values |= {value.name: value for value in model.graph.inputs}
    records = read_statistics(model.metadata_props.get(METADATA_KEY))
    return tuple(record for record in records if _fits(values.get(record.tensor), record))


def _fits(value: ir.Value | None, record: BatchStatistics) -> bool:
    if value is None:
        return False
    return value.shape is None or (len(value.shape) >= 2 and value.shape[1] == len(record.mean))


@dataclass(frozen=True, slots=True)
class Scores:
    """The class scores [N, classes] of a classifier; ``probabilities`` if they went through a softmax."""

    tensor: str
    classes: int
    probabilities: bool


def find_scores(model: ir.Model) -> Scores | None:
    """The class scores of a model with one output of them, or None; before a final Softmax where there is one.

    An output of the shape of an input is a reconstruction of it.
    """
    floats = [out for out in model.graph.outputs if out.dtype == ir.DataType.FLOAT]
    if len(floats) != 1 or floats[0].shape is None or len(floats[0].shape) != 2:
        return None
    classes, producer = floats[0].shape[1], floats[0].producer()
    if not isinstance(classes, int) or classes < 2:
        return None
    if any(
        value.shape is not None and len(value.shape) == 2 and value.shape[1] == classes for value in model.graph.inputs
    ):
        return None
    if producer is not None and producer.op_type == "Softmax" and producer.inputs[0] is not None:
        before = producer.inputs[0]
        if before.shape is not None and len(before.shape) == 2:
            return Scores(before.name or "", classes, probabilities=False)
        return Scores(floats[0].name or "", classes, probabilities=True)
    return Scores(floats[0].name or "", classes, probabilities=False)


def takes_one_sample(model: ir.Model, contracts: Sequence[InputContract]) -> bool:
    """Whether the model runs on one sample a call."""
    fixed = {value.name for value in model.graph.inputs if value.shape and isinstance(value.shape[0], int)}
    return any(contract.stacked or contract.name in fixed for contract in contracts)


class Network:
    """A canonical model in torch that returns tensors inside it for pieces of a set."""

    def __init__(self, model: ir.Model, contracts: Sequence[InputContract], tensors: Sequence[str]) -> None:
        self.contracts = {contract.name: contract for contract in contracts}
        self.tensors = tuple(dict.fromkeys(tensors))
        self.executor = TorchExecutor(model, self.tensors)
        self._one_by_one = takes_one_sample(model, contracts)

    @property
    def free(self) -> tuple[str, ...]:
        """The inputs that distillation changes."""
        return tuple(name for name, contract in self.contracts.items() if can_change(contract))

    def run(self, samples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        """The tensors for samples [n, ...] of every input, in one call where the model takes more than one sample."""
        if not self._one_by_one:
            outputs: dict[str, torch.Tensor] = self.executor(self._call(samples))
            return outputs
        count = len(next(iter(samples.values())))
        calls = [self.executor(self._call({name: x[i : i + 1] for name, x in samples.items()})) for i in range(count)]
        return {name: torch.cat([call[name] for call in calls]) for name in self.tensors}

    def _call(self, samples: Mapping[str, torch.Tensor]) -> dict[str, torch.Tensor]:
        return {name: x[0] if self.contracts[name].stacked else x for name, x in samples.items()}

    def stops(self, samples: Mapping[str, torch.Tensor]) -> tuple[str, ...]:
        """The operators at which gradients of ``samples`` end, in the order of the graph, for people."""
        environment, found = self.executor.start(self._call(samples)), []
        for step in self.executor.steps:
            inputs = self.executor.read(step, environment)
            outputs = self.executor.compute(step, inputs, environment)
            reached = any(isinstance(one, torch.Tensor) and one.requires_grad for one in inputs)
            leaves = any(isinstance(one, torch.Tensor) and one.requires_grad for one in outputs)
            if reached and (not leaves or step.call.op in FLAT):
                found.append(f"{step.call.op} {quoted(step.call.name or step.outputs[0], 60)}")
            self.executor.store(step, outputs, environment)
        return tuple(found)

    def piece(self, samples: Mapping[str, torch.Tensor]) -> int:
        """How many samples fit into PIECE_BYTES of activations, found by running one."""
        one, used = {name: x[:1] for name, x in samples.items()}, 0
        with torch.no_grad():
            environment = self.executor.start(self._call(one))
            for step in self.executor.steps:
                outputs = self.executor.compute(step, self.executor.read(step, environment), environment)
                used += sum(out.nbytes for out in outputs if isinstance(out, torch.Tensor) and out.is_floating_point())
                self.executor.store(step, outputs, environment)
        return max(1, PIECE_BYTES // max(used, 1))


def as_tensors(arrays: Mapping[str, Array]) -> dict[str, torch.Tensor]:
    """Copies in torch."""
    return {name: torch.from_numpy(np.array(array)) for name, array in arrays.items()}
