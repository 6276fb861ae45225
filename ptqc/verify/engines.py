"""What can run a model: onnxruntime at several levels and thread counts, the ONNX reference evaluator, the interpreter.

Which of them must agree depends on the form of the file: see :func:`engines_of`.
"""

import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import onnx
import onnx_ir as ir

from ptqc.core.errors import DataError, ModelError
from ptqc.core.types import Array
from ptqc.execute.latency import cpu_description
from ptqc.execute.runtime import Level, create_session, onnxruntime, run_session, session_of
from ptqc.verify.interpreter import quantize_entry, real_exit, run
from ptqc.verify.program import Carrier, Program

Feeds = Mapping[str, Array]
Run = Callable[[Feeds], tuple[Array, ...]]
Kind = Literal["onnxruntime", "reference", "interpreter"]
# What the reference evaluator, plain Python, raises where an operator or a type is missing there.
EVALUATOR_ERRORS = (ArithmeticError, AttributeError, LookupError, RuntimeError, TypeError, ValueError)


@dataclass(frozen=True, slots=True)
class Engine:
    """One way to run a model.

    Attributes:
        kind: what runs it.
        form: ``file`` for the model itself, ``portable`` for its portable form.
        level, threads: of onnxruntime.
        slow: runs on a sample of the inputs.
    """

    kind: Kind
    form: Literal["file", "portable"] = "file"
    level: Level = "all"
    threads: int = 1
    slow: bool = False

    @property
    def name(self) -> str:
        """For people: ``onnxruntime, all optimisations, 1 thread``."""
        if self.kind == "reference":
            return "ONNX reference evaluator"
        if self.kind == "interpreter":
            return "interpreter"
        levels = {"all": "all optimisations", "none": "no optimisation", "extended": "extended optimisations"}
        level = levels.get(self.level, f"{self.level} optimisations")
        return f"onnxruntime, {level}, {self.threads} thread{'s' if self.threads > 1 else ''}"

    @property
    def is_fast(self) -> bool:
        """Whether it is worth running on as many inputs as there is time for."""
        return self.kind == "onnxruntime" and self.form == "file" and self.level != "none"

    @property
    def version(self) -> str:
        """Of the package that computes; empty for the interpreter, which is ptqc's."""
        if self.kind == "onnxruntime":
            return str(onnxruntime().__version__)
        return str(onnx.__version__) if self.kind == "reference" else ""


@dataclass(frozen=True, slots=True)
class Forms:
    """The model in its forms.

    Attributes:
        model: as read from the file; ``path``: the file itself, which onnxruntime then loads.
        program: its integer meaning.
        portable: the portable form, None where there is none to compare with.
    """

    model: ir.Model
    program: Program
    path: Path | None = None
    portable: ir.Model | None = None

    def of(self, engine: Engine) -> ir.Model:
        """The graph that ``engine`` runs."""
        if engine.form == "file":
            return self.model
        assert self.portable is not None
        return self.portable


def engines_of(program: Program, unfused_exact: bool, portable: bool) -> tuple[Engine, ...]:
    """Every engine that must give the same bits; the interpreter first, then what runs fastest.

    A QDQ graph is integer arithmetic only where onnxruntime fuses it; without fusion it is float arithmetic, which is
    exact if ``unfused_exact``. QLinear operators are the runtime's own. Standard operators run everywhere.

    Args:
        unfused_exact: the static proof says so.
        portable: there is a portable form beside the file.
    """
    carriers = {step.carrier for step in program.steps}
    found = [Engine("onnxruntime"), Engine("onnxruntime", threads=2)]
    if Carrier.QDQ in carriers:
        found.append(Engine("onnxruntime", level="extended"))
    if Carrier.QDQ not in carriers or unfused_exact:
        found.append(Engine("onnxruntime", level="none"))
        if Carrier.QLINEAR not in carriers:
            found.append(Engine("reference", slow=True))
    if program.complete:
        found.insert(0, Engine("interpreter", slow=True))
    if portable:
        found += [Engine("onnxruntime", "portable", level, threads) for level in ("all", "none") for threads in (1, 2)]
        found.append(Engine("reference", "portable", slow=True))
    return tuple(found)


def open_engine(engine: Engine, forms: Forms, tensors: Sequence[str] = ()) -> Run:
    """A function from feeds to the outputs of the model, in its order.

    Args:
        tensors: values of the graph that come out as well, behind the outputs; not for the interpreter.

    Raises:
        ModelError: the engine does not take the model. So does the function, and DataError, where it fails on an
            input.
    """
    if engine.kind == "interpreter":
        return lambda feeds: interpret(forms, feeds)
    model = forms.of(engine)
    names = list(output_names(model))
    if tensors:
        model = with_outputs(model, tensors)
        names += [name for name in tensors if name not in names]
    if engine.kind == "reference":
        return _evaluator(model, names)
    if forms.path is not None and engine.form == "file" and not tensors:
        session = create_session(forms.path, engine.threads, level=engine.level)
    else:
        session = session_of(model, engine.threads, level=engine.level)
    return lambda feeds: tuple(run_session(session, names, feeds))


def interpret(forms: Forms, feeds: Feeds, observe: Any = None) -> tuple[Array, ...]:
    """What the interpreter makes of ``feeds``: the outputs of the model in its order, in the types of the file."""
    program = forms.program
    codes = {door.codes: quantize_entry(door, feeds[door.real]) for door in program.entries}
    found = run(program, codes, observe=observe)
    doors = {door.real: door for door in program.exits}
    return tuple(
        real_exit(door, found[door.codes]) if door.scale is not None else found[door.codes].astype(door.type)
        for door in (doors[name] for name in output_names(forms.model))
    )


def output_names(model: ir.Model) -> tuple[str, ...]:
    """Names of the outputs, in order."""
    return tuple(str(value.name) for value in model.graph.outputs)


def with_outputs(model: ir.Model, tensors: Sequence[str]) -> ir.Model:
    """A copy of ``model`` that also gives out the values called ``tensors``."""
    copy = model.clone()
    known = {value.name for value in copy.graph.outputs}
    values = {value.name: value for node in copy.graph for value in node.outputs if value.name}
    copy.graph.outputs.extend(values[name] for name in tensors if name not in known)
    return copy


def machine() -> str:
    """The CPU and the system that the engines run on."""
    return f"{cpu_description()['name']}, {platform.system()}"


def _evaluator(model: ir.Model, names: Sequence[str]) -> Run:
    from onnx.reference import ReferenceEvaluator
    from onnx.reference.ops.op_gather_elements import GatherElements as ShortGatherElements

    class GatherElements(ShortGatherElements):
        """Also of tables with more than 64 elements, with which that of onnx 1.23 fails."""

        op_domain = ""

        def _run(self, data: Array, indices: Array, axis: int = 0) -> tuple[Array, ...]:
            if data.ndim == 1:
                return (data[indices],)
            return tuple(super()._run(data, indices, axis=axis))  # type: ignore[no-untyped-call]

    try:
        evaluator = ReferenceEvaluator(ir.to_proto(model), new_ops=[GatherElements])
    except EVALUATOR_ERRORS as error:
        raise ModelError("the reference evaluator does not take the model", why=_first_line(error)) from error

    def evaluate(feeds: Feeds) -> tuple[Array, ...]:
        try:
            with np.errstate(all="ignore"):
                found = evaluator.run(list(names), dict(feeds))
        except EVALUATOR_ERRORS as error:
            raise DataError("the reference evaluator fails on this model", why=_first_line(error)) from error
        return tuple(np.asarray(array) for array in found)

    return evaluate


def _first_line(error: Exception) -> str:
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
