"""Two streams of activations side by side, float and with an already quantized prefix, for rounding layer by layer."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from ptqc.execute.torch_executor.block import Environment, Step
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor


@dataclass(frozen=True, slots=True, eq=False)
class Visit:
    """One step before either stream has run it.

    Attributes:
        step: of the quantized executor.
        batches: how many pairs :meth:`inputs` gives.
    """

    step: Step
    _reference: TorchExecutor
    _quantized: QuantizedExecutor
    _pairs: Sequence[tuple[Environment, Environment]]

    @property
    def batches(self) -> int:
        """How many pairs :meth:`inputs` gives."""
        return len(self._pairs)

    def inputs(self) -> Iterator[tuple[list[Any], list[Any]]]:
        """For each batch the step's inputs in the float stream and in the quantized one, constants among them."""
        for exact, quantized in self._pairs:
            yield self._reference.read(self.step, exact), self._quantized.read(self.step, quantized)


def walk_together(
    reference: TorchExecutor, quantized: QuantizedExecutor, batches: Sequence[Mapping[str, Any]]
) -> Iterator[Visit]:
    """Every step in topological order, before both streams run it.

    Until it asks for the next step, the caller may change what the quantized stream goes on with: by ``set_codes``, or
    by ``set_constant`` for constants that a later step reads. In memory are the tensors of all batches that a later
    step reads, in both streams. Whether gradients are recorded is the caller's choice.

    Args:
        reference, quantized: executors of the same model object and the same outputs.
        batches: feeds, one for each batch.
    """
    pairs = [(reference.start(feeds), quantized.start(feeds)) for feeds in batches]
    started = quantized.constants
    for step, own in zip(reference.steps, quantized.steps, strict=True):
        if step.node is not own.node:
            raise ValueError("the executors must be of the same model")
        yield Visit(own, reference, quantized, pairs)
        present = quantized.constants
        changed = {name: present[name] for name in own.inputs if name in present and present[name] is not started[name]}
        for exact, environment in pairs:
            reference.advance(step, exact)
            environment.update(changed)
            quantized.advance(own, environment)
