"""A planned graph in torch: what the lowered integer graph computes, in float arithmetic and with gradients."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import onnx_ir as ir
import torch

from ptqc.core.plan import REAL_FORMS, WEIGHT_ONLY, Form, QuantPlan
from ptqc.core.types import INT32, Array, QuantParams
from ptqc.execute.torch_executor.block import Environment, Step
from ptqc.execute.torch_executor.convert import from_array
from ptqc.execute.torch_executor.executor import TorchExecutor
from ptqc.execute.torch_executor.fake_quantize import dequantize, fake_quantize, quantize, round_through
from ptqc.graph.linear import linear_parts
from ptqc.graph.walk import constant_array

# What these compute is there in float, and float readers get it as it is.
_COMPUTED_IN_FLOAT = (*REAL_FORMS, Form.TABLE, Form.DYNAMIC)
_READ_FLOAT = (*REAL_FORMS, Form.DYNAMIC)
# Their outputs are multiples of the scale already.
_ON_CODES = (Form.MOVE, Form.RESCALE, Form.CODES)


class Quantizer(torch.nn.Module):
    """The parameters of one tensor of a plan, as tensors: ``requires_grad_`` on them makes them leaves.

    Attributes:
        scale, zero_point: float32, [] or [C], or by blocks of the rank of the tensor.
        codes: of a constant, in their integer type; None where they follow from its present values.
    """

    scale: torch.Tensor
    zero_point: torch.Tensor
    codes: torch.Tensor | None

    def __init__(self, params: QuantParams, codes: Array | None = None) -> None:
        super().__init__()
        self.qmin, self.qmax, self.block = params.qmin, params.qmax, params.block
        self.axis = params.axis if params.block is None else None  # blocks are spread to the shape of the tensor
        self._block_axis = params.axis or 0
        self.register_buffer("scale", torch.tensor(params.scale), persistent=False)
        self.register_buffer("zero_point", torch.tensor(params.zero_point, dtype=torch.float32), persistent=False)
        self.register_buffer("codes", None if codes is None else from_array(codes), persistent=False)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """``x`` after quantizing and dequantizing it."""
        return fake_quantize(x, *self.spread(x.shape), self.qmin, self.qmax, self.axis)

    def quantize(self, x: torch.Tensor) -> torch.Tensor:
        """Codes of ``x`` as whole floats."""
        return quantize(x, *self.spread(x.shape), self.qmin, self.qmax, self.axis)

    def constant(self, value: torch.Tensor) -> torch.Tensor:
        """What the codes of a constant stand for; those nearest to ``value`` where none are set."""
        if self.codes is None:
            return self.forward(value)
        return dequantize(self.codes, *self.spread(self.codes.shape), self.axis)

    def spread(self, shape: Sequence[int]) -> tuple[torch.Tensor, torch.Tensor]:
        """Scale and zero point as they are, or of every element of a tensor of ``shape`` where they are by blocks."""
        if self.block is None:
            return self.scale, self.zero_point
        axis, length = self._block_axis, shape[self._block_axis]
        scale, point = (v.repeat_interleave(self.block, axis) for v in (self.scale, self.zero_point))
        return scale.narrow(axis, 0, length), point.narrow(axis, 0, length)


@dataclass(frozen=True, slots=True)
class _Rule:
    """What the plan makes of one step.

    Attributes:
        form: of its node.
        reads: key in the environment of each input.
        constants: position of an input -> plan's name of the constant read there.
        writes: outputs that get codes.
    """

    form: Form
    reads: tuple[str, ...]
    constants: Mapping[int, str] = field(default_factory=dict)
    writes: frozenset[str] = frozenset()


class QuantizedExecutor(TorchExecutor):
    """A canonical model that computes as its plan says, with straight-through gradients.

    The integers are those of the lowered graph up to ties. Gradients reach inputs, constants without codes, and the
    scales and zero points of :attr:`quantizers`. What only moves data or clamps codes has the parameters of what it
    reads, so that a change of those is enough.
    """

    def __init__(
        self,
        model: ir.Model,
        plan: QuantPlan,
        codes: Mapping[str, Array] | None = None,
        outputs: Sequence[str] = (),
    ) -> None:
        """Prepares the steps; ``model`` must not change afterwards.

        Args:
            model: the canonical model of ``plan``.
            plan: forms of nodes and parameters of tensors.
            codes: integers of constants by the plan's name, as from ``ptqc.rounding``; those that are missing are
                rounded to nearest from the present values in every run.
            outputs: names of tensors of the main graph; the model's own outputs if empty.

        Raises:
            OptionError: a name is no tensor of the main graph.
        """
        super().__init__(model, outputs)
        self.plan = plan
        given = codes or {}
        self._numbers = {name: index for index, name in enumerate(sorted(plan.tensors))}
        self._quantizers = torch.nn.ModuleList(Quantizer(plan.tensors[name], given.get(name)) for name in self._numbers)
        self._rules = self._make_rules()

    @property
    def quantizers(self) -> dict[str, Quantizer]:
        """The quantizer of every tensor of the plan, by the plan's name."""
        return {name: self._quantizer(name) for name in self._numbers}

    def set_codes(self, name: str, codes: torch.Tensor | None) -> None:
        """Lets all later runs read these codes of a constant, by the plan's name; None: those nearest to its values."""
        self._quantizer(name).codes = codes

    def set_constant_params(self, name: str, params: QuantParams, codes: Array) -> None:
        """Lets all later runs read other parameters and codes of a constant, by the plan's name."""
        self._quantizers[self._numbers[name]] = Quantizer(params, codes)

    def keys_read(self, step: Step) -> tuple[str, ...]:
        """Under which keys of an environment ``step`` finds its inputs: some are there both in float and in codes."""
        return self._rules[step].reads

    def start(self, feeds: Mapping[str, Any], *, channels_last: bool = False) -> Environment:
        """As in float, but with quantized inputs."""
        environment = super().start(feeds, channels_last=channels_last)
        for name in self.inputs:
            if name in self.plan.tensors and name in environment:
                environment[name] = self._quantizer(name)(environment[name])
        return environment

    def read(self, step: Step, environment: Environment) -> list[Any]:
        """The inputs of a step, dequantized where it reads codes."""
        rule = self._rules.get(step)
        if rule is None:
            return super().read(step, environment)
        values: list[Any] = [environment[key] if key else None for key in rule.reads]
        if rule.form is not Form.TABLE:  # its rows are dequantized once they are looked up
            for position, name in rule.constants.items():
                values[position] = self._constant(name, values[position])
        return values

    def compute(self, step: Step, inputs: Sequence[Any], environment: Environment) -> Sequence[Any]:
        """The outputs of a step in the form that the plan gives it, before they are quantized."""
        rule = self._rules.get(step)
        form = Form.FLOAT if rule is None else rule.form
        if form is Form.ABSORBED:
            return (inputs[0],)
        if form is Form.RESCALE:
            return (self._rescaled(step, inputs),)
        if form is Form.CODES and step.call.op == "Pad":
            # Codes are padded with the zero point.
            inputs = [*inputs[:2], None, *inputs[3:]]
        elif form is Form.CODES:
            return (self._clamped(step, inputs),)
        elif form is Form.TABLE and rule is not None and rule.constants:
            return (self._looked_up(step, rule.constants[0], inputs, environment),)
        elif form is Form.DYNAMIC and rule is not None and rule.constants:
            inputs = [quantize_dynamically(inputs[0]), *inputs[1:]]
        return super().compute(step, inputs, environment)

    def store(self, step: Step, outputs: Sequence[Any], environment: Environment) -> None:
        """Puts the outputs into ``environment``, quantized where the plan says so."""
        rule = self._rules.get(step)
        found = list(outputs)
        for index, name in enumerate(step.outputs[: len(found)]):
            if rule is None or name not in rule.writes:
                continue
            quantized = self._quantizer(name)(found[index])
            if rule.form in _COMPUTED_IN_FLOAT:
                environment[_codes_key(name)] = quantized
            else:
                found[index] = quantized
        super().store(step, found, environment)
        for name in step.last:
            environment.pop(_codes_key(name), None)

    def _quantizer(self, name: str) -> Quantizer:
        found = self._quantizers[self._numbers[name]]
        assert isinstance(found, Quantizer)
        return found

    def _constant(self, name: str, value: torch.Tensor) -> torch.Tensor:
        bias = self.plan.tensors[name].type == INT32  # [O], whatever shape the model gives it
        return self._quantizer(name).constant(value.reshape(-1) if bias else value)

    def _rescaled(self, step: Step, inputs: Sequence[Any]) -> torch.Tensor:
        """The codes of the input, read with the scale of the output."""
        position = next(i for i, name in enumerate(step.inputs) if name in self.plan.tensors)
        before, after = self._quantizer(step.inputs[position]), self._quantizer(step.outputs[0])
        return round_through(inputs[position] / before.scale) * after.scale

    def _clamped(self, step: Step, inputs: Sequence[Any]) -> torch.Tensor:
        """A Relu or Clip whose bounds are rounded to codes."""
        quantizer = self._quantizer(step.outputs[0])
        x = inputs[0]
        bounds = [torch.zeros((), device=x.device), None] if step.call.op == "Relu" else [*inputs[1:], None, None][:2]
        low, high = (None if bound is None else quantizer(bound.reshape(())) for bound in bounds)
        return torch.clamp(x, low, high)

    def _looked_up(self, step: Step, table: str, inputs: Sequence[Any], environment: Environment) -> torch.Tensor:
        """Rows of a table and their scales: cheaper than the whole table."""
        quantizer = self._quantizer(table)

        def rows(values: torch.Tensor) -> torch.Tensor:
            found: torch.Tensor = super(QuantizedExecutor, self).compute(step, [values, *inputs[1:]], environment)[0]
            return found

        width = inputs[0].shape[-1] if quantizer.block is None else quantizer.block
        scale, point = (
            rows(values.reshape(len(inputs[0]), -1)).repeat_interleave(width, -1)[..., : inputs[0].shape[-1]]
            for values in (quantizer.scale, quantizer.zero_point)
        )
        if quantizer.codes is not None:
            return dequantize(rows(quantizer.codes), scale, point)
        return fake_quantize(rows(inputs[0]), scale, point, quantizer.qmin, quantizer.qmax)

    def _make_rules(self) -> dict[Step, _Rule]:
        forms = {step: self._form(step.node) for step in self.steps}
        exact = {name for step, form in forms.items() if form in _COMPUTED_IN_FLOAT for name in step.outputs}
        coded = {name for step, form in forms.items() if form not in _READ_FLOAT for name in step.inputs}
        constants = self._constants(forms)
        rules, tensors = {}, self.plan.tensors
        for step, form in forms.items():
            float_reader = form in _READ_FLOAT
            reads = tuple(
                _codes_key(name) if name in exact and name in tensors and not float_reader else name
                for name in step.inputs
            )
            written = [name for name in step.outputs if name in tensors and form not in _ON_CODES]
            writes = frozenset(name for name in written if form not in _COMPUTED_IN_FLOAT or name in coded)
            rules[step] = _Rule(form, reads, constants.get(step.node, {}), writes)
        return rules

    def _form(self, node: ir.Node) -> Form:
        planned = self.plan.nodes.get(node.name or "")
        return Form.FLOAT if planned is None else planned.form

    def _constants(self, forms: Mapping[Step, Form]) -> dict[ir.Node, dict[int, str]]:
        """For each node the plan's names of the constants that it reads as codes, by position."""
        found: dict[ir.Node, dict[int, str]] = {}
        for step, form in forms.items():
            node, parts = step.node, linear_parts(step.node)
            if parts is not None and form in (Form.KERNEL, Form.DYNAMIC, *WEIGHT_ONLY):
                if parts.weight.name in self.plan.tensors:
                    found.setdefault(node, {})[1] = parts.weight.name or ""
                if parts.bias is not None and parts.bias_name in self.plan.tensors:
                    holder = parts.bias_add or node
                    found.setdefault(holder, {})[list(holder.inputs).index(parts.bias)] = parts.bias_name
            elif form in WEIGHT_ONLY and node.inputs[1] is not None:
                found[node] = {1: node.inputs[1].name or ""}
            elif form in (Form.KERNEL, Form.TABLE):
                values = [(i, value) for i, value in enumerate(node.inputs) if constant_array(value) is not None]
                found[node] = {i: v.name or "" for i, v in values if v is not None and v.name in self.plan.tensors}
        return found


def quantize_dynamically(x: torch.Tensor) -> torch.Tensor:
    """``x`` after ONNX's DynamicQuantizeLinear and dequantizing: uint8 over the range of its values; the range itself
    has no gradient."""
    if x.numel() == 0:
        return x
    with torch.no_grad():
        low, high = x.amin().clamp(max=0.0), x.amax().clamp(min=0.0)
        scale = torch.where(high > low, (high - low) / 255.0, 1.0)
        zero_point = torch.clamp(torch.round(-low / scale), 0, 255)
    return fake_quantize(x, scale, zero_point, 0, 255)


_CODES = "quantized:"


def planned_name(key: str) -> str:
    """The name in the plan of what an environment keeps under ``key``."""
    return key.removeprefix(_CODES)


def _codes_key(name: str) -> str:
    """Where an environment keeps the quantized version of a tensor that float readers see exactly."""
    return f"{_CODES}{name}"
