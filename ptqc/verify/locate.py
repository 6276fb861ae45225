"""Finds the first node of a graph at which an engine leaves the integer meaning."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.verify.engines import Engine, Feeds, Forms, interpret, open_engine, output_names
from ptqc.verify.program import Step

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
    try:
        for step, expected, found in compared_tensors(forms, engine, feeds):
            if (place := _place(step, expected, found)) is not None:
                return place
    except PtqcError:
        return None
    return None


def count_differences(forms: Forms, engine: Engine, feeds: Feeds) -> tuple[int, int]:
    """How many codes of all tensors inside differ from the interpreter's, and of how many.

    Raises PtqcError kinds where the engine or the interpreter does not run.
    """
    differing, codes = 0, 0
    for _, expected, found in compared_tensors(forms, engine, feeds):
        codes += expected.size
        same_shape = found.shape == expected.shape
        differing += int((found.astype(np.int64) != expected).sum()) if same_shape else expected.size
    return differing, codes


def compared_tensors(forms: Forms, engine: Engine, feeds: Feeds) -> Iterator[tuple[Step, Array, Array]]:
    """Each step whose codes are a tensor of the graph, in order, with the interpreter's codes and the engine's."""
    expected: dict[str, Array] = {}
    order: list[Step] = []

    def observe(step: Step, values: Array) -> None:
        order.append(step)
        expected[step.output] = values

    interpret(forms, feeds, observe)
    model = forms.of(engine)
    outputs = output_names(model)
    present = {value.name for node in model.graph for value in node.outputs}
    steps = [step for step in order if step.output in present and step.output not in outputs]
    for start in range(0, len(steps), MOST_TENSORS):
        part = steps[start : start + MOST_TENSORS]
        names = [step.output for step in part]
        values = open_engine(engine, forms, names)(feeds)[len(outputs) :]
        for step, found in zip(part, values, strict=True):
            yield step, expected[step.output], found


def _place(step: Step, expected: Array, found: Array) -> Place | None:
    if found.shape != expected.shape:
        return Place(step.node, step.output, (), expected.size, found.size)
    unequal = np.flatnonzero(found.astype(np.int64).ravel() != expected.astype(np.int64).ravel())
    if not unequal.size:
        return None
    at = int(unequal[0])
    element = tuple(int(part) for part in np.unravel_index(at, expected.shape))
    return Place(step.node, step.output, element, int(expected.ravel()[at]), int(found.ravel()[at]))
