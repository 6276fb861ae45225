"""Relevance of layers: how much of the greatest logit goes through each, by layer-wise relevance propagation.

After "LRP-QViT" (arXiv 2401.11243). Relevance is activation times a gradient whose way back through some operators is
changed, so that what goes in equals what comes out:

- products with weights pass it on in proportion to the positive contributions, (x_i w_ij)+ (deep Taylor, "z+");
- products of two activations, half to each of them; a divisor gets none;
- functions of one number, all of it to that number;
- LayerNormalization and RMSNormalization, as if the statistics were constant;
- sums, moves, pooling, Relu and Softmax as gradient times activation does.

For other operators gradient times activation stands in, which need not keep the sum.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from ptqc.allocate.fisher import quantization_error
from ptqc.allocate.gradient_network import GradientNetwork
from ptqc.allocate.metrics import RELEVANCE
from ptqc.allocate.trials import DATA, WEIGHT
from ptqc.calibrate.source import Source
from ptqc.core.errors import OptionError
from ptqc.core.progress import Steps
from ptqc.core.types import QuantParams

if TYPE_CHECKING:
    from torch import Tensor

    from ptqc.execute.torch_executor.block import Environment, Step

_FUNCTIONS = (
    "Gelu Sigmoid Tanh Swish HardSwish HardSigmoid Mish Elu Selu Celu Softplus Softsign Erf Clip Sqrt Exp Log Pow Abs"
    " QuickGelu FastGelu"
).split()
_NORMALIZATIONS = ("LayerNormalization", "RMSNormalization")
_PRODUCTS = ("MatMul", "Gemm", "Mul")
# Through these, gradient times activation is relevance already.
_PLAIN = (
    "Add Sub Sum Neg Relu LeakyRelu PRelu Softmax MaxPool AveragePool GlobalAveragePool GlobalMaxPool LpPool ReduceMean"
    " ReduceSum ReduceMax ReduceMin Max Min Mean Reshape Transpose Concat Slice Split Gather GatherND GatherElements"
    " Flatten Pad Identity Cast Squeeze Unsqueeze Expand Tile Where Dropout Resize DepthToSpace SpaceToDepth Conv"
    " ConvTranspose BatchNormalization"
).split()


@dataclass(frozen=True, slots=True)
class Relevance:
    """What relevance says of the nodes.

    Attributes:
        shares: of each node, means over samples; their sum is 1.
        activations: relative squared error of what a node reads, by node and bits.
        notes: for people: where gradient times activation stood in.
    """

    shares: Mapping[str, float]
    activations: Mapping[tuple[str, int], float]
    notes: tuple[str, ...]


class RelevanceNetwork(GradientNetwork):
    """A network whose gradients are relevance divided by activation.

    Attributes:
        stand_ins: operators without a rule of their own that relevance went through so far.
    """

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.stand_ins: dict[str, None] = {}

    def compute(self, step: "Step", inputs: Sequence[Any], environment: "Environment") -> Sequence[Any]:
        """The outputs, with the way back as the rule for the operator says."""
        found = super().compute(step, inputs, environment)
        operator = step.call.op
        carried = [_carries(value) for value in inputs]
        if not any(carried):
            return found
        flow = None
        if (step.node.name or "") in self.parts:
            if not carried[DATA]:
                return found
            flow = self._positive(step, inputs, found[0], environment)
        elif operator in _PRODUCTS and sum(carried) > 1:
            flow = found[0] / 2.0
        elif operator == "Div":
            flow = inputs[0] / inputs[1].detach() if carried[0] else found[0].detach()
        elif operator in _NORMALIZATIONS:
            flow = _normalized(step, inputs)
        elif operator in _FUNCTIONS:
            flow = inputs[0] * _ratio(found[0], inputs[0])
        elif operator not in _PLAIN and operator not in _PRODUCTS:
            self.stand_ins[operator] = None
        return found if flow is None else [_with_flow(found[0], flow), *found[1:]]

    def _positive(self, step: "Step", inputs: Sequence[Any], product: "Tensor", environment: "Environment") -> "Tensor":
        """Of a linear node: the positive contributions to each output, scaled to what it is."""
        import torch

        data, weights = inputs[DATA], inputs[WEIGHT].detach()
        positive: Any = torch.zeros(())
        for one, other in ((data.clamp_min(0), weights.clamp_min(0)), (data.clamp_max(0), weights.clamp_max(0))):
            positive = positive + super().compute(step, [one, other], environment)[0]
        return positive * _ratio(product, positive)  # type: ignore[no-any-return]


def _carries(value: Any) -> bool:
    return bool(getattr(value, "requires_grad", False))


def _ratio(result: "Tensor", argument: "Tensor") -> "Tensor":
    """By how much each argument is multiplied to give the result, as a constant; 0 for arguments of 0."""
    import torch

    zero = argument == 0
    ratio = result.detach() / torch.where(zero, torch.ones_like(argument), argument).detach()
    return torch.where(zero, torch.zeros_like(ratio), ratio)


def _with_flow(value: "Tensor", flow: "Tensor") -> "Tensor":
    """``value``, with the way back of ``flow``."""
    return value.detach() + (flow - flow.detach())


def _normalized(step: "Step", inputs: Sequence[Any]) -> "Tensor":
    """A normalization with constant deviation; what is added as a constant does not matter."""
    x, scale = inputs[0], inputs[1].detach()
    axis = int(step.call.get("axis", -1))
    axes = list(range(axis % x.dim(), x.dim()))
    centred = x - x.mean(axes, keepdim=True) if step.call.op == "LayerNormalization" else x
    power = centred.detach().square().mean(axes, keepdim=True)
    return centred / (power + float(step.call.get("epsilon", 1e-5))).sqrt() * scale  # type: ignore[no-any-return]


def measure_relevance(
    network: RelevanceNetwork,
    source: Source,
    activations: Mapping[str, Mapping[int, QuantParams]],
    *,
    progress: Steps | None = None,
) -> Relevance:
    """The share of each node: the sum of its outputs' relevance without sign, over that of all nodes.

    Relevance starts at the greatest logit of each sample, or at the squares of all outputs where there are no classes.

    Args:
        network: of all linear nodes among which shares are taken.
        source: samples; shares are taken in each batch and averaged.
        activations: parameters of what nodes read, by node and bits.
        progress: told (samples done, samples in all).

    Raises OptionError where no gradient comes back to a node, or relevance is zero or no number.
    """
    import torch

    totals, samples = dict.fromkeys(network.parts, 0.0), 0
    errors: dict[tuple[str, int], float] = {}
    powers = dict.fromkeys(activations, 0.0)
    for batch in network.batches(source):
        with torch.enable_grad():
            run = network.run(batch.feeds, data=bool(activations))
            top = network.objective.top(run.outputs)
            gradients = network.gradients(top, run.products, run.products.values(), RELEVANCE)
        found = {
            name: float((product.detach() * gradient).double().abs().sum())
            for (name, product), gradient in zip(run.products.items(), gradients, strict=True)
        }
        whole = sum(found.values())
        if not 0.0 < whole < math.inf:
            what = "this model has no relevance that could be compared"
            raise OptionError(what, where=source.description, why=f"it is {whole}", fix="use the metric noise")
        for name, value in found.items():
            totals[name] += value / whole * batch.samples
        samples += batch.samples
        for name, widths in activations.items():
            data = run.data[name].detach()
            powers[name] += float(data.double().square().sum())
            for bits, params in widths.items():
                error = float(quantization_error(data, params).double().square().sum())
                errors[name, bits] = errors.get((name, bits), 0.0) + error
        if progress is not None:
            progress(samples, len(source))
    relative = {key: error / powers[key[0]] if powers[key[0]] else 0.0 for key, error in errors.items()}
    return Relevance({name: total / samples for name, total in totals.items()}, relative, _notes(network))


def _notes(network: RelevanceNetwork) -> tuple[str, ...]:
    if not network.stand_ins:
        return network.notes
    operators = ", ".join(network.stand_ins)
    return (f"gradient times activation stood in for relevance at {operators}", *network.notes)
