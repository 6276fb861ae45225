"""Static proofs about an integer program: no float, no unbounded division, no overflow, exact requantization."""

import numpy as np

from ptqc.verify.bounds import Bounds, find_bounds
from ptqc.verify.carriers import carrier_proof
from ptqc.verify.integers import limits
from ptqc.verify.program import Carrier, Door, Operator, Product, Program, Step
from ptqc.verify.proof import INTEGERS, Proof, StaticReport
from ptqc.verify.unfused import unfused_proof


def prove(program: Program, bounds: Bounds | None = None) -> StaticReport:
    """All proofs that need no run.

    Args:
        bounds: of ``program``, where they were found before.
    """
    found = find_bounds(program) if bounds is None else bounds
    carried = [step for step in program.steps if step.carrier is not Carrier.INTEGER]
    proofs = _integers(program) + [_carried(step, program, found) for step in carried]
    return StaticReport(
        proofs=tuple(proofs),
        findings=found.findings,
        obstacles=program.obstacles,
        divisions=tuple(finding for finding in found.findings if finding.quantity == "divisor"),
        unfused=tuple(unfused_proof(step, program, found) for step in carried if step.carrier is Carrier.QDQ),
    )


def _carried(step: Step, program: Program, bounds: Bounds) -> Proof:
    """Of a step that no integer operator carries; what has no kernel must be exact in float32."""
    if isinstance(step, Product) and step.operator == "MatMul" and step.bias is not None:
        return unfused_proof(step, program, bounds)
    return carrier_proof(step, program, bounds)


def _integers(program: Program) -> list[Proof]:
    """Every tensor is one of integers and comes from a door, a constant or a step; doors have proper scales."""
    found = [Proof(INTEGERS, door.node or door.codes, False, {}, reason) for door, reason in _doors(program)]
    known = {door.codes for door in program.entries} | set(program.constants)
    for step in program.steps:
        outputs = step.outputs or (step.output,) if isinstance(step, Operator) else (step.output,)
        strangers = [name for name in step.inputs if name and name not in known]
        if strangers and program.complete:
            found.append(Proof(INTEGERS, step.node, False, {}, f"nothing makes its input '{strangers[0]}'"))
        for name in outputs:
            info = program.tensors.get(name)
            if info is not None and not _is_integer(info.type):
                found.append(Proof(INTEGERS, step.node, False, {}, f"its output '{name}' is of type {info.type}"))
        known.update(name for name in outputs if name)
    lost = [door for door in program.exits if door.codes not in known]
    if program.complete:
        found += [Proof(INTEGERS, door.node, False, {}, f"nothing makes '{door.codes}'") for door in lost]
    if program.obstacles and not program.steps:
        found.append(Proof(INTEGERS, "", False, {}, "nothing in the file computes with integers"))
    whole = Proof(INTEGERS, "", not found, {"tensors": len(known), "steps": len(program.steps)})
    return found or [whole]


def _doors(program: Program) -> list[tuple[Door, str]]:
    found = []
    for door in (*program.entries, *program.exits):
        if not _is_integer(door.type):
            found.append((door, f"its codes are of type {door.type}"))
        if door.scale is not None and not (np.isfinite(door.scale) & (np.asarray(door.scale) > 0)).all():
            found.append((door, "its scale is not positive and finite"))
    return found


def _is_integer(type_name: str) -> bool:
    try:
        limits(type_name)
    except ValueError:
        return False
    return True
