"""What a verification runs: the runtime's fusion, each kernel by itself, all engines on the same inputs."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import onnx_ir as ir

from ptqc.calibrate.source import Source
from ptqc.core.errors import PtqcError
from ptqc.core.progress import Progress
from ptqc.execute.fusion import check_fusion
from ptqc.verify.certificate import KERNEL, GivenData
from ptqc.verify.compare import Comparison, Task, compare
from ptqc.verify.engines import Forms, engines_of, machine
from ptqc.verify.inputs import InputSpace, Kind, input_space
from ptqc.verify.kernels import KernelTest, check_kernels
from ptqc.verify.program import Carrier, Product, Program
from ptqc.verify.proof import Proof, StaticReport


@dataclass(frozen=True, slots=True)
class Execution:
    """What running showed, and on what machine."""

    cpu: str
    shapes: Mapping[str, tuple[int, ...]]
    kernels: tuple[KernelTest, ...]
    comparison: Comparison


@dataclass(frozen=True, slots=True)
class Inputs:
    """Which inputs to run.

    Attributes:
        plan: inputs of each kind; ``sample``: how many of each slow engines get.
        budget: seconds, None without limit.
    """

    space: InputSpace
    plan: Mapping[Kind, int]
    sample: Mapping[Kind, int]
    seed: int
    source: Source | None = None
    budget: float | None = None


def fused_steps(model: ir.Model, program: Program, static: StaticReport) -> tuple[Proof, ...]:
    """For each step between DequantizeLinear and QuantizeLinear whether onnxruntime has an integer kernel for it.

    A step that is exact in float arithmetic too needs none. ModelError where the runtime does not take the model.
    """
    carried = [step for step in program.steps if step.carrier is Carrier.QDQ]
    if not carried:
        return ()
    report = check_fusion(model)
    floating = {node.name: node.reason for node in (*report.islands, *report.outside)}
    exact = {proof.node for proof in static.unfused if proof.holds}
    allowed = {obstacle.node for obstacle in program.obstacles if obstacle.allowed}
    found = []
    for step in carried:
        reason = floating.get(step.node)
        if reason is None:
            found.append(Proof(KERNEL, step.node, True))
        elif step.node in exact or step.node in allowed:
            found.append(Proof(KERNEL, step.node, True, {}, "it runs in float, which is exact here"))
        elif isinstance(step, Product) and step.operator == "MatMul" and step.bias is not None:
            found.append(Proof(KERNEL, step.node, True, {}, "its bias is added in float, which is proven exact"))
        else:
            found.append(Proof(KERNEL, step.node, False, {}, f"onnxruntime computes it in float: {reason}"))
    return tuple(found)


def execute(forms: Forms, static: StaticReport, inputs: Inputs, progress: Progress) -> Execution:
    """Each kernel by itself, then all engines that must agree."""
    kernels = check_kernels(forms.program, inputs.seed, partial(progress, "test kernels"))
    engines = engines_of(forms.program, static.unfused_exact, forms.portable is not None)
    task = Task(forms, engines, inputs.space, inputs.plan, inputs.sample, inputs.seed, inputs.source, inputs.budget)
    shapes = {entry.door.real: entry.shape for entry in inputs.space.entries}
    return Execution(machine(), shapes, kernels, compare(task, progress))


def space_of(model: ir.Model, program: Program, sizes: Mapping[str, Sequence[int]]) -> InputSpace | str:
    """What can be fed to the model, or why nothing can."""
    fed = {str(value.name) for value in model.graph.inputs if value.name not in model.graph.initializers}
    doors = {door.real for door in program.entries}
    missing = sorted(fed - doors)
    if missing:
        return f"the input '{missing[0]}' does not become codes: no inputs can be made for it"
    if doors - fed:
        return f"'{min(doors - fed)}' inside the model is float: its codes do not follow from the inputs"
    try:
        return input_space(program, sizes)
    except PtqcError as error:
        return str(error)


def described(source: Source | None) -> GivenData | None:
    """The given samples, for the certificate."""
    return None if source is None else GivenData(source.description, len(source), source.digest)
