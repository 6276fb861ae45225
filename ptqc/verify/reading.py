"""The state of reading one file: what each value stands for, and the parts of the program found so far."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import quoted
from ptqc.core.types import Array
from ptqc.graph.load import REPLACEABLE
from ptqc.graph.walk import Names, constant_tensor
from ptqc.verify.constants import Folder
from ptqc.verify.program import Carrier, Door, Obstacle, Operator, Program, Shape, Step, TensorInfo
from ptqc.verify.read_operations import Operation, Place, ProductOperation
from ptqc.verify.read_values import (
    Codes,
    Floats,
    Numbers,
    Parameters,
    Real,
    Unreadable,
    constant_state,
    is_integer,
    shape_of,
    type_of,
)

NOT_QUANTIZED = "computes in float: no QuantizeLinear behind it"


@dataclass(frozen=True, slots=True, eq=False)
class Pending:
    """The result of a float operator on dequantized codes, before it is quantized.

    Attributes:
        nodes: that compute it: the operator, the Add of its bias, clamps.
        low, high: bounds of clamps so far.
    """

    nodes: tuple[ir.Node, ...]
    operation: Operation
    low: float = float("-inf")
    high: float = float("inf")

    @property
    def clamped(self) -> bool:
        """Whether there are bounds."""
        return self.low > float("-inf") or self.high < float("inf")


State = Codes | Real | Numbers | Floats | Pending


class Reading:
    """One run of the reader."""

    def __init__(self, model: ir.Model, islands: frozenset[str]) -> None:
        self.model, self.folder, self._islands = model, Folder(model), islands
        self._names = Names(model)
        self._states: dict[ir.Value, State] = {}
        self._entries: list[Door] = []
        self._inner_exits: dict[str, Door] = {}
        self._steps: list[Step] = []
        self._constants: dict[str, Array] = {}
        self._tensors: dict[str, TensorInfo] = {}
        self._scales: dict[str, tuple[float, ...]] = {}
        self._obstacles: dict[ir.Node, str] = {}
        for value in model.graph.inputs:
            if constant_tensor(value) is None:
                self._states[value] = self._input(value)

    def _input(self, value: ir.Value) -> State:
        name, type_name = value.name or "", type_of(value)
        if not is_integer(type_name):
            return Floats(name, entry=True)
        return self.entry(Door("", name, name, str(type_name)), shape_of(value))

    def entry(self, door: Door, shape: Shape | None) -> Codes:
        """Codes that come in at ``door``."""
        self._entries.append(door)
        self._tensors[door.codes] = TensorInfo(door.type, shape)
        return Codes(door.codes, door.type, shape)

    def fresh(self, name: str) -> str:
        """``name`` for integers that the file does not name, or one like it where the file has it."""
        return self._names.fresh(name)

    def state(self, value: ir.Value) -> State:
        """What ``value`` stands for."""
        if value not in self._states:
            self._states[value] = constant_state(value) or Floats(value.name or "")
        return self._states[value]

    def settled(self, value: ir.Value | None) -> Codes | Real | Numbers | Floats | None:
        """The same where nothing may be left pending; None for an absent input."""
        if value is None:
            return None
        state = self.state(value)
        if isinstance(state, Pending):
            state = self._settle(value, state)
        return state

    def define(self, value: ir.Value, state: State) -> None:
        """Says what an output of a node stands for."""
        self._states[value] = state

    def emit(self, step: Step, outputs: Iterable[Codes], read: Iterable[Codes] = ()) -> None:
        """Appends ``step``, which gives ``outputs``; constants among ``read`` whose names it uses are kept."""
        for codes in outputs:
            self._tensors[codes.name] = TensorInfo(codes.type, codes.shape)
        for codes in read:
            if codes.constant is not None and codes.name in step.inputs and codes.name not in self._constants:
                wide = codes.constant if codes.constant.dtype == np.bool_ else codes.constant.astype(np.int64)
                self._constants[codes.name] = wide
                self._tensors[codes.name] = TensorInfo(codes.type, codes.shape)
        self._steps.append(step)

    def emit_operation(
        self, node: ir.Node, operation: Operation, result: Parameters, value: ir.Value, carrier: Carrier, like: ir.Value
    ) -> None:
        """The step of ``operation``, whose codes are ``value``, of the shape of ``like``."""
        codes = Codes(value.name or "", result.type, shape_of(value) or shape_of(like))
        step = operation.step(Place(node.name or "", codes.name, carrier), result)
        self.emit(step, (codes,), [operand.codes for operand in operation.operands])
        self._note_scales(operation)
        self._note_scale(codes.name, result)
        self.define(value, codes)

    def _note_scales(self, operation: Operation) -> None:
        for operand in operation.operands:
            self._note_scale(operand.codes.name, operand.parameters)

    def _note_scale(self, name: str, parameters: Parameters) -> None:
        """Codes may be read with another scale than they were written with."""
        if parameters.axis is None:
            known = self._scales.get(name, ())
            self._scales[name] = tuple(dict.fromkeys((*known, float(parameters.scale))))

    def emit_operator(
        self,
        node: ir.Node,
        inputs: Sequence[Codes | None],
        outputs: Sequence[Codes],
        attributes: dict[str, object],
        carrier: Carrier = Carrier.INTEGER,
        operator: str = "",
    ) -> None:
        """An ONNX operator as it stands."""
        names = tuple("" if one is None else one.name for one in inputs)
        while names and not names[-1]:
            names = names[:-1]
        results = tuple(codes.name for codes in outputs)
        step = Operator(
            node=node.name or "",
            inputs=names,
            output=results[0],
            carrier=carrier,
            operator=operator or node.op_type,
            attributes=attributes,
            outputs=results if len(results) > 1 else (),
        )
        self.emit(step, [codes for codes in outputs if codes.name], [one for one in inputs if one is not None])

    def _settle(self, value: ir.Value, pending: Pending) -> Real | Floats:
        """What a result without QuantizeLinear is: accumulators of a matrix product, or floats."""
        state: Real | Floats
        try:
            state = self._accumulators(value, pending)
        except Unreadable as error:
            for node in pending.nodes:
                self._obstacles.setdefault(node, str(error))
            for operand in pending.operation.operands:
                self.leave(operand)
            state = Floats(value.name or "")
        self._states[value] = state
        return state

    def _accumulators(self, value: ir.Value, pending: Pending) -> Real:
        operation = pending.operation
        if not isinstance(operation, ProductOperation) or operation.operator == "Conv" or pending.clamped:
            raise Unreadable(NOT_QUANTIZED)
        if len(pending.nodes) > 1 and len(shape_of(value) or ()) != 2:  # with two, the runtime makes a Gemm of it
            raise Unreadable("adds its bias in float: no QuantizeLinear behind it")
        node = pending.nodes[0].name or ""
        codes = Codes(self.fresh(f"{value.name}#accumulators"), "int32", shape_of(value))
        step = operation.accumulators(Place(node, codes.name, Carrier.QDQ))
        self.emit(step, (codes,), [operand.codes for operand in operation.operands])
        self._note_scales(operation)
        return Real(codes, accumulator_parameters(operation), node)

    def refuse(self, node: ir.Node, reason: str) -> None:
        """Makes ``node`` an obstacle: codes leave the program in front of it and enter again behind it."""
        self._obstacles.setdefault(node, reason)
        for value in node.inputs:
            state = self.settled(value)
            if isinstance(state, Real):
                self.leave(state)
            elif isinstance(state, Codes) and state.constant is None:
                self._inner_exits.setdefault(state.name, Door("", state.name, state.name, state.type))
        for output in node.outputs:
            name, type_name = output.name or "", type_of(output) or self._type_of_codes(node)
            if name and is_integer(type_name):
                self._states[output] = self.entry(Door("", name, name, str(type_name)), shape_of(output))
            else:
                self._states[output] = Floats(name)

    def _type_of_codes(self, node: ir.Node) -> str | None:
        """Element type of the codes that an operator of onnxruntime gives: the one that it takes; None of others."""
        if not node.op_type.startswith("QLinear"):
            return None
        states = [self.state(value) for value in node.inputs if value is not None]
        codes = [state for state in states if isinstance(state, Codes) and state.constant is None]
        return codes[0].type if codes else None

    def leave(self, real: Real) -> None:
        """Lets the codes of ``real`` leave the program: something in float reads them."""
        if real.codes.constant is None:
            self._inner_exits.setdefault(f"{real.codes.name} of {real.node}", exit_door(real, real.codes.name))

    def program(self) -> Program:
        """All that was found, once every node has been read."""
        outputs = list(dict.fromkeys(self.model.graph.outputs))
        exits = [door for value in outputs if (door := self._exit(value)) is not None]
        order = [node for node in self.model.graph if node in self._obstacles]
        obstacles = [
            Obstacle(node.name or "", node.op_type, self._obstacles[node], (node.name or "") in self._islands)
            for node in order
        ]
        for default in self.model.meta.get(REPLACEABLE, ()):
            why = f"input {quoted(default)} has a default value that a run may replace: leave it out of the inputs"
            obstacles.append(Obstacle("", "", why))
        for value in outputs:
            if (reason := self._no_program(value)) is not None:
                obstacles.append(Obstacle("", "", f"output {quoted(value.name)} is {reason}"))
        return Program(
            tuple(self._entries),
            (*exits, *self._inner_exits.values()),
            tuple(self._steps),
            self._constants,
            self._tensors,
            tuple(obstacles),
            self._scales,
        )

    def _no_program(self, value: ir.Value) -> str | None:
        """Why an output comes from no node of the program, where no node in float says it."""
        state = self.settled(value)
        if isinstance(state, Numbers):
            return "a float constant"
        return "a float input" if isinstance(state, Floats) and state.entry else None

    def _exit(self, value: ir.Value) -> Door | None:
        state, name = self.settled(value), value.name or ""
        if isinstance(state, Real | Codes):
            codes = state.codes if isinstance(state, Real) else state
            if codes.constant is not None:
                self._constants.setdefault(codes.name, codes.constant.astype(np.int64))
                self._tensors.setdefault(codes.name, TensorInfo(codes.type, codes.shape))
            return exit_door(state, name) if isinstance(state, Real) else Door("", name, codes.name, codes.type)
        return None


def exit_door(real: Real, name: str) -> Door:
    """The door where codes become the real tensor ``name``."""
    parameters = real.parameters
    return Door(
        real.node, name, real.codes.name, real.codes.type, parameters.scale, parameters.zero_point, parameters.axis
    )


def accumulator_parameters(operation: ProductOperation) -> Parameters:
    """What the accumulators of a product stand for: int32 with one scale, or one for each output."""
    scale = operation.accumulator_scale
    axis = operation.output_axis if scale.ndim else None
    return Parameters(scale, np.zeros(scale.shape, np.int64), "int32", axis)
