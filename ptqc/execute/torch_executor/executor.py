"""A graph as a ``torch.nn.Module`` that computes what onnxruntime computes, and gives gradients."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir
import torch

from ptqc.core.errors import DataError, OptionError, nearest, quoted
from ptqc.execute.torch_executor.block import Block, Environment, Step, make_block
from ptqc.execute.torch_executor.convert import TORCH_TYPES, from_array, from_feed
from ptqc.execute.torch_executor.island import Island
from ptqc.execute.torch_executor.registry import NoTorchForm
from ptqc.graph.walk import graphs

# What torch and Python raise for inputs that an operator cannot take; NotImplementedError where torch has no kernel.
_FAILURES = (RuntimeError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError)
IMAGE_RANK = 4  # [N, C, H, W]
MOST_NAMED = 6  # inputs of a node, in messages


class TorchExecutor(torch.nn.Module):
    """A model whose outputs are any tensors of its main graph.

    Constants are buffers that share the model's memory; ``requires_grad_`` on one of :attr:`constants` makes it a
    leaf for gradients. Nodes without a torch form run in onnxruntime, without gradients: :attr:`islands` says which
    did so far, and why.
    """

    _place: torch.Tensor

    def __init__(self, model: ir.Model, outputs: Sequence[str] = ()) -> None:
        """Prepares the steps; ``model`` must not change afterwards.

        Args:
            model: any model that onnxruntime accepts.
            outputs: names of tensors of the main graph; the model's own outputs if empty.

        Raises:
            OptionError: a name is no tensor of the main graph.
        """
        super().__init__()
        self.opsets = {domain: version for domain, version in model.graph.opset_imports.items() if version is not None}
        self._ir_version = model.ir_version or 10
        self.block = make_block(model.graph, self.opsets, self._checked(model, outputs))
        self.inputs = tuple(v.name or "" for v in model.graph.inputs if v.name not in model.graph.initializers)
        self.islands: dict[str, str] = {}
        self._islands: dict[Step, Island] = {}
        self._keys: dict[ir.Graph, dict[str, str]] = {}
        self._others: dict[ir.Graph, Environment] = {}
        # Moves with the module, also where a model has no constants.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self._register(model)

    def _checked(self, model: ir.Model, outputs: Sequence[str]) -> tuple[str, ...]:
        known = {value.name or "" for value in (*model.graph.inputs, *model.graph.initializers.values())}
        known |= {out.name or "" for node in model.graph for out in node.outputs}
        for name in outputs:
            if name not in known:
                raise OptionError(f"the graph has no tensor {quoted(name)}", fix=nearest(name, sorted(known)))
        return tuple(dict.fromkeys(outputs))

    def _register(self, model: ir.Model) -> None:
        number = 0
        for graph in graphs(model):
            keys = self._keys[graph] = {}
            others = self._others[graph] = {}
            for name, value in graph.initializers.items():
                if value.const_value is None:
                    continue
                constant = from_array(value.const_value.numpy())
                if isinstance(constant, torch.Tensor):
                    keys[name] = f"constant_{number}"
                    self.register_buffer(keys[name], constant, persistent=False)
                    number += 1
                else:
                    others[name] = constant

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of what :meth:`forward` returns."""
        return self.block.outputs

    @property
    def steps(self) -> tuple[Step, ...]:
        """The nodes of the main graph that are needed, in topological order."""
        return self.block.steps

    @property
    def device(self) -> torch.device:
        """Where the constants are, and the inputs go."""
        return self._place.device

    @property
    def constants(self) -> dict[str, torch.Tensor]:
        """Every numeric constant of the main graph by its name, as it is used."""
        return self._tensors_of(self.block.graph)

    def local_constants(self, graph: ir.Graph) -> Environment:
        """All constants of the main graph or of a body, those included that are no tensors (text, int4)."""
        return {**self._others[graph], **self._tensors_of(graph)}

    def _tensors_of(self, graph: ir.Graph) -> dict[str, torch.Tensor]:
        return {name: self._buffers[key] for name, key in self._keys[graph].items()}  # type: ignore[misc]

    def set_constant(self, name: str, tensor: torch.Tensor) -> None:
        """Lets all later runs use ``tensor`` (of the same shape) in place of a constant of the main graph."""
        self._buffers[self._keys[self.block.graph][name]] = tensor

    def forward(self, feeds: Mapping[str, Any]) -> dict[str, Any]:
        """The outputs for tensors or arrays by input name.

        Raises:
            DataError: an input is missing, or the model does not run on these feeds.
            ModelError: a node runs neither in torch nor in onnxruntime.
        """
        environment = self.start(feeds)
        for step in self.block.steps:
            self.advance(step, environment)
        return {name: environment[name] for name in self.block.outputs}

    def start(self, feeds: Mapping[str, Any], *, channels_last: bool = False) -> Environment:
        """The environment of a run before its first step: for going node by node with :meth:`advance`.

        ``channels_last``: images lie in memory that way, and so do all tensors that follow: convolutions are up to
        twice as fast, and round a little differently.
        """
        device = self.device
        environment = self.local_constants(self.block.graph)
        for name in self.inputs:
            if name not in feeds and name not in environment:
                raise DataError(f"the input {quoted(name)} is missing", fix=nearest(name, sorted(feeds)))
        for name, value in feeds.items():
            if name not in self.block.inputs:
                raise DataError(f"the model has no input {quoted(name)}", fix=nearest(name, self.block.inputs))
            tensor = environment[name] = from_feed(value, device)
            if channels_last and isinstance(tensor, torch.Tensor) and tensor.ndim == IMAGE_RANK:
                environment[name] = tensor.contiguous(memory_format=torch.channels_last)
        return environment

    def advance(self, step: Step, environment: Environment) -> None:
        """Runs one step: adds its outputs to ``environment``, drops what nobody reads any more."""
        self.store(step, self.compute(step, self.read(step, environment), environment), environment)

    def read(self, step: Step, environment: Environment) -> list[Any]:
        """The inputs of a step."""
        return [environment[name] if name else None for name in step.inputs]

    def store(self, step: Step, outputs: Sequence[Any], environment: Environment) -> None:
        """Puts the outputs of a step into ``environment``, and drops what nobody reads any more."""
        for name, value in zip(step.outputs, outputs, strict=False):
            if name:
                environment[name] = value
        for name in step.last:
            environment.pop(name, None)

    def compute(self, step: Step, inputs: Sequence[Any], environment: Environment) -> Sequence[Any]:
        """The outputs of a step for ``inputs``; ``environment`` is what its bodies see."""
        if step.form is None:
            return self._on_island(step, inputs, "there is no torch form of it")
        bodies = {name: BoundBody(self, block, environment) for name, block in step.bodies.items()}
        try:
            found = step.form(step.call, *inputs, **bodies)
        except NoTorchForm as reason:
            return self._on_island(step, inputs, str(reason))
        except _FAILURES as error:
            why = _reason(error)
            if isinstance(error, NotImplementedError) or any(map(_has_arrays, inputs)):
                return self._on_island(step, inputs, why)
            raise _failure(step, inputs, why) from error
        results = found if isinstance(found, tuple) else (found,)
        # Attributes, and what is of types that torch lacks, are in the CPU's memory.
        return results if self.device.type == "cpu" else [from_feed(result, self.device) for result in results]

    def _on_island(self, step: Step, inputs: Sequence[Any], why: str) -> Sequence[Any]:
        self.islands.setdefault(step.call.name or step.outputs[0], f"{step.call.op}: {why}")
        if step not in self._islands:
            self._islands[step] = Island(step.node, self.opsets, self._ir_version)
        return self._islands[step].run(inputs, self.device)


def _reason(error: Exception) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]


def _has_arrays(value: Any) -> bool:
    """Whether a value is of a type that torch lacks."""
    return any(map(_has_arrays, value)) if isinstance(value, list) else isinstance(value, np.ndarray)


def _failure(step: Step, inputs: Sequence[Any], why: str) -> DataError:
    read = [f"{quoted(name)} {_described(value)}" for name, value in zip(step.inputs, inputs, strict=False) if name]
    named = ", ".join([*read[:MOST_NAMED], *(["..."] if len(read) > MOST_NAMED else [])])
    where = f"{step.call.op} {quoted(step.call.name or step.outputs[0])}"
    fix = "give inputs of the shapes and types that ptqc inspect shows"
    if "memory" in why:
        fix = "run fewer samples at a time"
    return DataError("the model does not run on this input", where=where, why=f"{why}; it read {named}", fix=fix)


def _described(value: Any) -> str:
    """The type and shape of a value."""
    if value is None:
        return "(absent)"
    if isinstance(value, list):
        return f"(sequence of {len(value)})"
    return f"{str(value.dtype).removeprefix('torch.')}{list(value.shape)}"


class BoundBody:
    """A body of control flow with what it sees around it: see :class:`~ptqc.execute.torch_executor.registry.Body`."""

    def __init__(self, executor: TorchExecutor, block: Block, environment: Environment) -> None:
        self.executor, self.block, self.outputs = executor, block, block.outputs
        self._around = {name: environment[name] for name in block.outside}
        self._around |= executor.local_constants(block.graph)

    def __call__(self, values: Sequence[Any]) -> list[Any]:
        """The outputs for its inputs."""
        environment = dict(self._around)
        environment.update(zip(self.block.inputs, values, strict=True))
        for step in self.block.steps:
            self.executor.advance(step, environment)
        return [environment[name] for name in self.outputs]

    def empty(self, position: int) -> Any:
        """What no runs put out, stacked: sizes that the type of the output leaves open are 0."""
        value = self.block.graph.outputs[position]
        dtype = TORCH_TYPES.get(value.dtype or ir.DataType.FLOAT, torch.float32)
        sizes = [size if isinstance(size, int) else 0 for size in value.shape or ()]
        return torch.empty([0, *sizes], dtype=dtype, device=self.executor.device)
