"""Finds the first node of a graph at which an engine leaves the integer meaning."""

from dataclasses import dataclass

import numpy as np

from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.verify.engines import Engine, Feeds, Forms, interpret, open_engine, output_names
from ptqc.verify.program import Operator, Step

MOST_TENSORS = 64  # that come out of one run


@dataclass(frozen=True, slots=True)
class Place:
    """The first tensor of codes that differs, the node that computes it, and the values at one element."""

    node: str
    tensor: str
    element: tuple[int, ...]
    expected: int
    found: int


def locate(forms: Forms, engine: Engine, feeds: Feeds) -> Place | None:
    """Where ``engine`` first differs from the interpreter on one input.

    None where it cannot be said: the tensors inside agree (as further outputs change what is fused), the engine does
    not run with them as outputs, or they have other names in the portable form.
    """
    if engine.kind == "interpreter" or not forms.program.complete:
        return None
    expected: dict[str, Array] = {}
    order: list[Step] = []

    def observe(step: Step, values: Array) -> None:
        order.append(step)
        expected[step.output] = values

    try:
        interpret(forms, feeds, observe)
    except PtqcError:
        return None
    model = forms.of(engine)
    present = {value.name for node in model.graph for value in node.outputs}
    steps = [step for step in order if step.output in present and not (isinstance(step, Operator) and not step.output)]
    skipped = len(output_names(model))
    for start in range(0, len(steps), MOST_TENSORS):
        part = steps[start : start + MOST_TENSORS]
        names = [step.output for step in part if step.output not in output_names(model)]
        try:
            found = dict(zip(names, open_engine(engine, forms, names)(feeds)[skipped:], strict=True))
        except PtqcError:
            return None
        for step in part:
            if step.output in found and (place := _place(step, expected[step.output], found[step.output])) is not None:
                return place
    return None


def _place(step: Step, expected: Array, found: Array) -> Place | None:
    if found.shape != expected.shape:
        return Place(step.node, step.output, (), expected.size, found.size)
    unequal = np.flatnonzero(found.astype(np.int64).ravel() != expected.astype(np.int64).ravel())
    if not unequal.size:
        return None
    at = int(unequal[0])
    element = tuple(int(part) for part in np.unravel_index(at, expected.shape))
    return Place(step.node, step.output, element, int(expected.ravel()[at]), int(found.ravel()[at]))
