"""What many nodes lose together: the loss of whole assignments, one forward pass each."""

import math
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ptqc.allocate.trials import ActivationParams, FactorSource, FloatNetwork, linear_nodes, power
from ptqc.calibrate.source import Source
from ptqc.core.errors import DataError
from ptqc.core.progress import Steps
from ptqc.core.types import Array, NodeChoice

if TYPE_CHECKING:
    from ptqc.allocate.variants import Variants

MOST_SAMPLES = 32  # of a batch


class JointMeasurement:
    """Measures assignments against the float network: relative squared error of its outputs.

    Activations are quantized where the nodes of an assignment read them, as in the sensitivities of single nodes.
    """

    def __init__(
        self,
        model: ir.Model,
        variants: "Variants | None",
        activations: ActivationParams,
        source: Source,
        *,
        batch: int = MOST_SAMPLES,
    ) -> None:
        """Prepares the float network.

        Args:
            model: canonical float graph; it must not change afterwards.
            variants: weights of every storage in the assignments; None: rounded to nearest.
            activations: see :func:`ptqc.allocate.trials.activation_params`.
            source: samples; read again for every call.
            batch: samples at a time.

        Raises ModelError for a model without linear nodes or outputs of real numbers.
        """
        self._network = FloatNetwork(model)
        self._parts = linear_nodes(model)
        self._factors = FactorSource(activations, variants)
        self._source, self._batch = source, batch

    def losses(self, assignments: Sequence[Mapping[str, NodeChoice]], *, progress: Steps | None = None) -> list[float]:
        """The loss of each assignment; nodes that it does not name stay in float.

        Raises:
            KeyError: a node that is not linear, or a choice without variant or parameters.
            DataError: the float model gives NaN, Inf or nothing but zeros on the samples.
        """
        import torch

        from ptqc.execute.torch_executor.threads import torch_threads

        noise, signal, total = [0.0] * len(assignments), 0.0, len(self._source) * len(assignments)
        with torch_threads(), torch.no_grad():
            for batch in self._source.batches(self._batch):
                exact = self._network.exact(batch.feeds)
                signal += self._power(exact, batch.first)
                for index, assignment in enumerate(assignments):
                    found = self._outputs(batch.feeds, assignment)
                    noise[index] += power(found[name] - exact[name] for name in self._network.outputs)
                    if progress is not None:
                        done = batch.first * len(assignments) + batch.samples * (index + 1)
                        progress(min(done, total), total)
        if signal == 0.0:
            why = "an error cannot be put in relation to nothing"
            raise DataError("all outputs of the float model are zero", where=self._source.description, why=why)
        return [bounded(one / signal) for one in noise]

    def _power(self, exact: Mapping[str, Any], first: int) -> float:
        found = power(exact[name] for name in self._network.outputs)
        if not math.isfinite(found):
            where = f"{self._source.description}, samples from {first}"
            raise DataError("the float model gives NaN or Inf", where=where, fix="leave these samples out")
        return found

    def _outputs(self, feeds: Mapping[str, Array], assignment: Mapping[str, NodeChoice]) -> dict[str, Any]:
        network = self._network
        environment = network.executor.start(feeds)
        for step in network.executor.steps:
            name = step.node.name or ""
            if name in assignment:
                parts = self._parts[name]
                network.advance(step, environment, parts, self._factors.of(parts, assignment[name]))
            else:
                network.executor.advance(step, environment)
        return {name: environment[name] for name in network.outputs}


def bounded(loss: float) -> float:
    """``loss``, or the greatest float where a model broke down: as bad as can be, but a number."""
    return loss if loss < sys.float_info.max else sys.float_info.max
