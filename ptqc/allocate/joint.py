"""What many nodes lose together: the loss of whole assignments, one forward pass each."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import onnx_ir as ir

from ptqc.allocate.metrics import NOISE, make_metric
from ptqc.allocate.trials import ActivationParams, FactorSource, FloatNetwork, linear_nodes
from ptqc.calibrate.source import Source
from ptqc.core.progress import Steps
from ptqc.core.types import Array, NodeChoice

if TYPE_CHECKING:
    from ptqc.allocate.variants import Variants


class JointMeasurement:
    """Measures assignments against the float network, by default the relative squared error of its outputs.

    Activations are quantized where the nodes of an assignment read them, as in the sensitivities of single nodes.
    """

    def __init__(
        self,
        model: ir.Model,
        variants: "Variants | None",
        activations: ActivationParams,
        source: Source,
        *,
        metric: str = NOISE,
    ) -> None:
        """Prepares the float network.

        Args:
            model: canonical float graph; it must not change afterwards.
            variants: weights of every storage in the assignments; None: rounded to nearest.
            activations: see :func:`ptqc.allocate.trials.activation_params`.
            source: samples; read again for every call.
            metric: see :func:`ptqc.allocate.metrics.make_metric`.

        Raises:
            ModelError: a model without linear nodes or outputs of real numbers.
            OptionError: a metric that cannot be measured on this model.
        """
        from ptqc.execute.torch_executor.streams import batch_size

        make_metric(metric, model)
        self._network = FloatNetwork(model)
        self._parts = linear_nodes(model)
        self._factors = FactorSource(activations, variants)
        self._model, self._source, self._metric = model, source, metric
        self._batch = batch_size(model)

    def losses(self, assignments: Sequence[Mapping[str, NodeChoice]], *, progress: Steps | None = None) -> list[float]:
        """The loss of each assignment; nodes that it does not name stay in float.

        Raises:
            KeyError: a node that is not linear, or a choice without variant or parameters.
            DataError: the float model gives NaN, Inf or nothing but zeros on the samples.
        """
        import torch

        from ptqc.execute.torch_executor.threads import torch_threads

        sums, total = [0.0] * len(assignments), len(self._source) * len(assignments)
        metric = make_metric(self._metric, self._model)
        with torch_threads(), torch.no_grad():
            for batch in self._source.batches(self._batch):
                where = f"{self._source.description}, samples from {batch.first}"
                exact = self._network.exact(batch.feeds, where)
                metric.start(exact, batch.samples)
                for index, assignment in enumerate(assignments):
                    sums[index] += metric.add(exact, self._outputs(batch.feeds, assignment))
                    if progress is not None:
                        done = batch.first * len(assignments) + batch.samples * (index + 1)
                        progress(min(done, total), total)
        return [metric.finish(one) for one in sums]

    def _outputs(self, feeds: Mapping[str, Array], assignment: Mapping[str, NodeChoice]) -> dict[str, Any]:
        network = self._network
        environment = network.start(feeds)
        for step in network.executor.steps:
            name = step.node.name or ""
            if name in assignment:
                parts = self._parts[name]
                network.advance(step, environment, parts, self._factors.of(parts, assignment[name]))
            else:
                network.executor.advance(step, environment)
        return {name: environment[name] for name in network.outputs}
