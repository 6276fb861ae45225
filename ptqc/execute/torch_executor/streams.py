"""Two streams of activations side by side, float and with an already quantized prefix, for rounding layer by layer."""

import ctypes
import sys
import weakref
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from math import prod
from typing import Any

import onnx_ir as ir
import torch

from ptqc.execute.torch_executor.block import Environment
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor, planned_name
from ptqc.execute.torch_executor.storage import Storage

MEMORY = 256 << 20  # bytes of tensors that wait in memory
LARGEST = 4 << 20  # elements of the largest tensor of a batch: about ten of that size are there at a time
MOST_SAMPLES = 64
UNKNOWN_SIZE = 64  # of free sizes other than the first


@dataclass(frozen=True, slots=True, eq=False)
class Pair:
    """One batch at one node: the tensors by name, constants included.

    Attributes:
        index: of the batch.
        reference: the float stream, which has run the node.
        quantized: the quantized stream, which is about to run it.
    """

    index: int
    reference: Environment
    quantized: Environment


class Streams:
    """Both streams of all batches, held compactly between the nodes where somebody looks at them.

    Tensors on a quantization grid are held as their codes and are exact; those of the float stream lose all but 11
    bits of each number. What is beyond :data:`MEMORY` waits in a temporary file.
    """

    def __init__(
        self,
        reference: TorchExecutor,
        quantized: QuantizedExecutor,
        batches: Iterable[Mapping[str, Any]],
        memory: int = MEMORY,
    ) -> None:
        """Takes in the batches one by one.

        Args:
            reference, quantized: executors of the same model object and the same outputs.
            batches: feeds, one for each batch.
            memory: bytes that waiting tensors may take.

        Raises:
            ValueError: the executors are of different models.
        """
        if [step.node for step in reference.steps] != [step.node for step in quantized.steps]:
            raise ValueError("the executors must be of the same model")
        self.reference, self.quantized = reference, quantized
        self._storage = Storage(memory)
        self._grids = quantized.quantizers
        self._positions = {step.node: index for index, step in enumerate(reference.steps)}
        self._behind = self._before = 0  # the next step of the float stream, and of the quantized one
        self._held: list[tuple[Environment, Environment]] = []
        for feeds in batches:
            pair = reference.start(feeds), quantized.start(feeds)
            self._held.append((self._packed(pair[0], {}, {}, False), self._packed(pair[1], {}, {}, True)))

    def __len__(self) -> int:
        """The number of batches."""
        return len(self._held)

    @property
    def bytes_in_memory(self) -> int:
        """What waiting tensors take there."""
        return self._storage.used

    def reaches(self, node: ir.Node) -> bool:
        """Whether :meth:`to` goes to ``node``: not where no output needs it, or the streams are beyond it."""
        return self._positions.get(node, -1) >= self._behind

    def to(self, node: ir.Node, ahead: bool = True) -> Iterator[Pair]:
        """Every batch at ``node``, which must come after the node of the last call; exhaust it before the next call.

        Between calls the caller may change what the quantized stream goes on with, by ``set_codes``, ``set_constant``
        or the values of a constant's quantizer: the node of the last call runs with it.

        Args:
            ahead: the float stream has run ``node``; otherwise neither has.

        Raises:
            ValueError: the streams are beyond ``node``, or the outputs do not need it.
            DataError: a step does not run on these feeds.
        """
        if not self.reaches(node):
            raise ValueError(f"the streams do not come to {node.name!r} any more")
        place = self._positions[node]
        for index in range(len(self._held)):
            yield from self._batch_at(place, index, place + ahead)
        self._behind, self._before = place + ahead, place
        return_free_memory()

    def _batch_at(self, place: int, index: int, behind: int) -> Iterator[Pair]:
        packed = self._held[index]
        exact, rounded = (
            {name: self._storage.get(value) for name, value in one.items()} for one in (packed[0], packed[1])
        )
        # Weakly, so that what the steps do not need any more goes at once.
        before = _references(exact), _references(rounded)
        pair = Pair(index, {**_constants(self.reference), **exact}, {**_constants(self.quantized), **rounded})
        del exact, rounded
        for step in self.reference.steps[self._behind : behind]:
            self.reference.advance(step, pair.reference)
        for step in self.quantized.steps[self._before : place]:
            self.quantized.advance(step, pair.quantized)
        yield pair
        self._held[index] = (
            self._packed(pair.reference, before[0], packed[0], False),
            self._packed(pair.quantized, before[1], packed[1], True),
        )

    def _packed(
        self, values: Environment, before: Mapping[str, Callable[[], Any]], held: Environment, quantized: bool
    ) -> Environment:
        """``values`` without constants, packed; what was ``held`` already for the same tensor is kept as it is."""
        constants = _constants(self.quantized if quantized else self.reference)
        found: Environment = {}
        for name, stored in held.items():
            if name in values and values[name] is before.get(name, _nothing)():
                found[name] = stored
            else:
                self._storage.drop(stored)
        for name, value in values.items():
            if name not in found and not (name in constants and constants[name] is value):
                grid = self._grids.get(planned_name(name)) if quantized else None
                found[name] = self._storage.put(value, grid, half=not quantized)
        return found


def batch_size(model: ir.Model) -> int:
    """So many samples at a time keep what streams compute with in memory small, and products large enough."""
    largest = 1
    for node in model.graph:
        for value in node.outputs:
            sizes = () if value.shape is None else value.shape[1:]
            largest = max(largest, prod(size if isinstance(size, int) else UNKNOWN_SIZE for size in sizes))
    return max(1, min(MOST_SAMPLES, LARGEST // largest))


def return_free_memory() -> None:
    """Gives the system back what is free between blocks in use: tensors of ever other sizes leave many such gaps.

    Without it, EfficientNet-Lite0 takes half as much memory again. Only glibc has this; elsewhere nothing happens.
    """
    if sys.platform == "linux":
        trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
        if trim is not None:
            trim(0)


def _nothing() -> None:
    return None


def _references(values: Environment) -> dict[str, Callable[[], Any]]:
    return {name: weakref.ref(value) for name, value in values.items() if isinstance(value, torch.Tensor)}


def _constants(executor: TorchExecutor) -> Environment:
    return executor.local_constants(executor.block.graph)
