"""What a linear node reads in the quantized stream, and what it should give by the float stream."""

from dataclasses import dataclass

import onnx_ir as ir
import torch

from ptqc.core.plan import Form
from ptqc.execute.torch_executor.block import Step
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
        skip: keys of the other summand of an Add behind it, in the float and in the quantized stream.
    """

    step: Step
    parts: Linear
    data: str
    dynamic: bool
    added_bias: Tensor | None
    skip: tuple[str, str] | None

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
        if self.skip is not None and all(key in one for key, one in self._skipped(pair)):
            exact, rounded = (one[key] for key, one in self._skipped(pair))
            if exact.shape == target.shape == rounded.shape:
                target = target + (exact - rounded)
        kernel = self.parts.weight_array.shape[2:]
        columns = columns_of(self.step, x, kernel, groups_of(self.parts), samples)
        return columns, outputs_of(self.step, target, samples)

    def _skipped(self, pair: Pair) -> list[tuple[str, dict[str, Tensor]]]:
        assert self.skip is not None
        return [(self.skip[0], pair.reference), (self.skip[1], pair.quantized)]


def operands_of(step: Step, parts: Linear, executor: QuantizedExecutor) -> Operands:
    """The operands of a linear node in streams of ``executor`` and its float twin."""
    planned = executor.plan.nodes.get(step.node.name or "")
    bias = parts.bias_array if parts.bias_add is not None else None
    return Operands(
        step=step,
        parts=parts,
        data=executor.keys_read(step)[0],
        dynamic=planned is not None and planned.form is Form.DYNAMIC and parts.weight.name in executor.plan.tensors,
        added_bias=None if bias is None else torch.from_numpy(bias.copy()),
        skip=_skip(parts.output, executor),
    )


def _skip(value: ir.Value, executor: QuantizedExecutor) -> tuple[str, str] | None:
    """The other summand of an Add that alone reads ``value``: residual compensation."""
    add = single_consumer(value)
    step = next((step for step in executor.steps if step.node is add), None)
    if add is None or step is None or add.op_type != "Add" or add.domain != "":
        return None
    other = 1 if add.inputs[0] is value else 0
    if add.inputs[other] is value or is_constant(add.inputs[other]):
        return None
    return step.inputs[other], executor.keys_read(step)[other]
