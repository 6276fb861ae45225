"""Linear nodes of the float network that compute with quantized factors, one alone or many at once."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import onnx_ir as ir

from ptqc.allocate.class_scores import real_outputs
from ptqc.allocate.place import is_activation
from ptqc.allocate.plan import weight_params
from ptqc.calibrate.observe import collect_statistics
from ptqc.calibrate.observers import range_mse
from ptqc.calibrate.source import Source
from ptqc.core.arithmetic import affine_params, fake_quantize
from ptqc.core.errors import DataError, ModelError, OptionError, nearest, quoted
from ptqc.core.types import Array, NodeChoice, QuantParams, QuantType, WeightFormat
from ptqc.execute.tensors import TensorRunner
from ptqc.graph.linear import Linear, linear_parts

if TYPE_CHECKING:
    from ptqc.allocate.variants import Variants
    from ptqc.execute.torch_executor.block import Environment, Step

ActivationParams = Mapping[tuple[str, int], QuantParams]  # of what nodes read, by tensor and bits
DATA, WEIGHT, BIAS = 0, 1, 2  # positions of the inputs of a linear node


def linear_nodes(model: ir.Model, names: Sequence[str] = ()) -> dict[str, Linear]:
    """The linear nodes that multiply an activation by constants, by name and in graph order; only ``names`` if given.

    Raises:
        OptionError: a name is none of them.
        ModelError: the model has none.
    """
    parts = [linear_parts(node) for node in model.graph]
    found = {p.node.name or "": p for p in parts if p is not None and is_activation(p.data)}
    for name in names:
        if name not in found:
            raise OptionError(f"there is no linear node {quoted(name)}", fix=nearest(name, list(found)))
    if not found:
        why = "no Conv, Gemm or MatMul multiplies an activation by constants"
        raise ModelError("the model has no node whose precision matters", why=why)
    return {name: parts for name, parts in found.items() if not names or name in names}


def activation_params(
    model: ir.Model, choices: Mapping[str, Iterable[NodeChoice]], source: Source, *, threads: int = 1
) -> dict[tuple[str, int], QuantParams]:
    """Parameters of what nodes read at the widths of their choices: asymmetric, with the least squared error.

    Args:
        model: canonical graph.
        choices: by node; those with float activations need none.
        threads: of the runtime that observes; the result does not depend on it.

    Raises:
        DataError: NaN or Inf in one of the tensors.
        OptionError: a name is no linear node.
    """
    wanted: dict[str, dict[int, None]] = {}
    for name, parts in linear_nodes(model, tuple(choices)).items():
        widths = [one.precision.activation_bits for one in choices[name]]
        wanted.setdefault(parts.data.name or "", {}).update({bits: None for bits in widths if bits is not None})
    tensors = [name for name, widths in wanted.items() if widths]
    if not tensors:
        return {}
    runner = TensorRunner(model, tensors, threads)
    statistics = collect_statistics(runner.run, tensors, source)
    found = {}
    for name in tensors:
        for bits in sorted(wanted[name]):
            kind = QuantType(bits, signed=False)
            found[name, bits] = affine_params(*range_mse(statistics[name], kind), kind)
    return found


@dataclass(frozen=True, slots=True, eq=False)
class Factors:
    """What a linear node computes with instead of its own; None: its own.

    Attributes:
        data: parameters of what it reads.
        weights: float32, in the shape of its own.
        bias: float32 [O].
    """

    data: QuantParams | None = None
    weights: Array | None = None
    bias: Array | None = None


@dataclass(frozen=True, slots=True, eq=False)
class FactorSource:
    """Where the factors of choices come from.

    Attributes:
        activations: for every width of activations.
        variants: the weights as they will be rounded; without, they are rounded to nearest, symmetric by channel.
    """

    activations: ActivationParams
    variants: "Variants | None" = None

    def of(self, parts: Linear, choice: NodeChoice) -> Factors:
        """The factors of one node; KeyError where the choice was not prepared."""
        precision, data, weights, bias = choice.precision, None, None, None
        if precision.activation_bits is not None:
            data = self.activations[parts.data.name or "", precision.activation_bits]
        storage = choice.storage if choice.storage is not None else self._usual(parts, precision.weight_bits)
        if storage is not None and self.variants is not None:
            weights, bias = self.variants.weights(parts.node.name or "", storage)
        elif precision.weight_bits is not None:
            params = weight_params(parts, QuantType(precision.weight_bits, signed=True), None)
            weights = fake_quantize(parts.weight_array, params)
        return Factors(data, weights, bias)

    def _usual(self, parts: Linear, bits: int | None) -> WeightFormat | None:
        """The first variant of so many bits, for choices that do not say how weights are stored."""
        layers = {} if self.variants is None else self.variants.layers.get(parts.node.name or "", {})
        return next((storage for storage in layers if storage.bits == bits), None)


class FloatNetwork:
    """The float network step by step, with other factors at some of its linear nodes.

    Attributes:
        outputs: names of the outputs of real numbers.
    """

    def __init__(self, model: ir.Model) -> None:
        """Prepares the steps; ModelError where no output is of real numbers."""
        from ptqc.execute.torch_executor.executor import TorchExecutor

        self.outputs = tuple(out.name or "" for out in real_outputs(model))
        if not self.outputs:
            why = "sensitivities are errors of such outputs"
            raise ModelError("the model has no output of real numbers", why=why)
        self.executor: TorchExecutor = TorchExecutor(model, self.outputs)

    def start(self, feeds: Mapping[str, Array]) -> "Environment":
        """The environment of a run before its first step."""
        return self.executor.start(feeds, channels_last=True)

    def exact(self, feeds: Mapping[str, Array], where: str) -> dict[str, Any]:
        """The outputs as they are. DataError where they are no numbers, for the data in ``where``."""
        environment = self.start(feeds)
        for step in self.executor.steps:
            self.executor.advance(step, environment)
        found = {name: environment[name] for name in self.outputs}
        if not math.isfinite(power(found.values())):
            raise DataError("the float model gives NaN or Inf", where=where, fix="leave these samples out")
        return found

    def advance(self, step: "Step", environment: "Environment", parts: Linear, factors: Factors) -> None:
        """Runs ``step``, the linear node ``parts``, with other factors."""
        from ptqc.execute.torch_executor.convert import from_array
        from ptqc.execute.torch_executor.quantized import Quantizer

        executor, inputs = self.executor, list(self.executor.read(step, environment))
        if factors.data is not None:
            inputs[DATA] = Quantizer(factors.data)(inputs[DATA])
        if factors.weights is not None:
            inputs[WEIGHT] = from_array(factors.weights)
        if factors.bias is not None and parts.bias_add is None:
            inputs[BIAS] = from_array(factors.bias).reshape(inputs[BIAS].shape)
        found = list(executor.compute(step, inputs, environment))
        if factors.bias is not None and parts.bias_add is not None:
            own = parts.bias_array  # an Add behind the node will still add this
            assert own is not None
            found[0] = found[0] + from_array(factors.bias - own.astype(np.float32))
        executor.store(step, found, environment)


def power(tensors: Iterable[Any]) -> float:
    """Sum of squares of torch tensors, in float64."""
    return float(sum(tensor.double().square().sum().item() for tensor in tensors))
