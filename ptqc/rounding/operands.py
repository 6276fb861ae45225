"""What a linear node reads in the quantized stream, and what it should give by the float stream."""

from collections.abc import Set
from dataclasses import dataclass

import onnx_ir as ir
import torch

from ptqc.core.plan import Form
from ptqc.execute.torch_executor.block import Step, names_read
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.quantized import QuantizedExecutor, quantize_dynamically
from ptqc.execute.torch_executor.streams import Pair
from ptqc.graph.linear import Linear
from ptqc.graph.walk import is_constant, single_consumer
from ptqc.rounding.columns import Columns, columns_of, outputs_of
from ptqc.rounding.matrices import groups_of

Tensor = torch.Tensor


@dataclass(frozen=True, slots=True, eq=False)
class Operands:
    """Where one linear node finds them in a pair of streams.

    Attributes:
        step: of the node.
        parts: its anatomy.
        data: key of its input in the quantized stream.
        dynamic: its input is quantized at run time.
        added_bias: [O], what an Add behind it adds; None: its own result is all.
        skip: the other summand of an Add behind it.
    """

    step: Step
    parts: Linear
    data: str
    dynamic: bool
    added_bias: Tensor | None
    skip: "Skip | None"

    def read(self, pair: Pair, samples: int) -> tuple[Columns, Columns]:
        """Columns and targets of one batch.

        The target is the node's result in the float stream, bias included, and what makes up for the error that a skip
        connection carries in the quantized one.

        Args:
            pair: at this node.
            samples: of the batch.
        """
        x, target = pair.quantized[self.data], pair.reference[self.step.outputs[0]]
        if self.dynamic:
            x = quantize_dynamically(x)
        if self.added_bias is not None:
            target = target + self.added_bias
        if self.skip is not None:
            exact, rounded = self.skip.read(pair)
            if exact.shape == target.shape == rounded.shape:
                target = target + (exact - rounded)
        kernel = self.parts.weight_array.shape[2:]
        columns = columns_of(self.step, x, kernel, groups_of(self.parts), samples)
        return columns, outputs_of(self.step, target, samples)


@dataclass(frozen=True, slots=True, eq=False)
class Skip:
    """The other summand of an Add behind a linear node, found without running the node.

    Attributes:
        reference, quantized: its keys in the two streams.
        steps: that are still to run for it, in both executors; all of them between the node and the Add.
    """

    reference: str
    quantized: str
    steps: tuple[tuple[Step, Step], ...]
    executors: tuple[TorchExecutor, QuantizedExecutor]

    def read(self, pair: Pair) -> tuple[Tensor, Tensor]:
        """The summand in the float and in the quantized stream."""
        exact, rounded = dict(pair.reference), dict(pair.quantized)
        for step, own in self.steps:
            self.executors[0].advance(step, exact)
            self.executors[1].advance(own, rounded)
        return exact[self.reference], rounded[self.quantized]


def operands_of(parts: Linear, executors: tuple[TorchExecutor, QuantizedExecutor], later: Set[ir.Node]) -> Operands:
    """The operands of a linear node in streams of these executors.

    Args:
        parts: of the node.
        executors: of the float and of the quantized stream.
        later: nodes whose weights are not final yet: what depends on them is no skip connection to repair.

    Raises ValueError where no output needs the node.
    """
    executor = executors[1]
    step = next((step for step in executor.steps if step.node is parts.node), None)
    if step is None:
        raise ValueError(f"no output needs {parts.node.name!r}")
    planned = executor.plan.nodes.get(parts.node.name or "")
    bias = parts.bias_array if parts.bias_add is not None else None
    return Operands(
        step=step,
        parts=parts,
        data=executor.keys_read(step)[0],
        dynamic=planned is not None and planned.form is Form.DYNAMIC and parts.weight.name in executor.plan.tensors,
        added_bias=None if bias is None else torch.from_numpy(bias.copy()),
        skip=_skip(parts, executors, later),
    )


def _skip(parts: Linear, executors: tuple[TorchExecutor, QuantizedExecutor], later: Set[ir.Node]) -> Skip | None:
    """The other summand of an Add that alone reads the node's result: residual compensation."""
    reference, quantized = executors
    add = single_consumer(parts.output)
    positions = {step.node: index for index, step in enumerate(quantized.steps)}
    if add not in positions or add.op_type != "Add" or add.domain != "":
        return None
    other = 1 if add.inputs[0] is parts.output else 0
    if add.inputs[other] is parts.output or is_constant(add.inputs[other]):
        return None
    first, last = positions[parts.node] + 1, positions[add]
    needed, chosen = {quantized.steps[last].inputs[other]}, []
    for index in range(last - 1, first - 1, -1):
        step = quantized.steps[index]
        if needed.isdisjoint(step.outputs):
            continue
        if step.node in later:
            return None
        needed.update(names_read(step.node))
        chosen.append(index)
    if parts.node.outputs[0].name in needed:
        return None
    steps = tuple((reference.steps[index], quantized.steps[index]) for index in reversed(chosen))
    last_step = quantized.steps[last]
    return Skip(last_step.inputs[other], quantized.keys_read(last_step)[other], steps, executors)
