"""Finds the first node of a graph at which an engine leaves the integer meaning."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.verify.engines import Engine, Feeds, Forms, interpret, open_engine, output_names
from ptqc.verify.program import Carrier, Step

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
        for step, expected, found in _compared(forms, engine, feeds, _expected(forms, feeds)):
            if (place := _place(step, expected, found)) is not None:
                return place
    except PtqcError:
        return None
    return None


def count_differences(forms: Forms, engines: Sequence[Engine], feeds: Feeds) -> tuple[tuple[int, ...], int]:
    """How many codes differ from the interpreter's on each engine, and of how many.

    Compared are the tensors that float32 arithmetic carries in the file; those of integer operators have no freedom.

    Raises PtqcError kinds where an engine or the interpreter does not run.
    """
    differing, expected = [], _expected(forms, feeds)
    carried = [one for one in expected if one[0].carrier is not Carrier.INTEGER]
    for engine in engines:
        count = 0
        for _, codes, found in _compared(forms, engine, feeds, carried):
            same_shape = found.shape == codes.shape
            count += int((found.astype(np.int64) != codes).sum()) if same_shape else codes.size
        differing.append(count)
    return tuple(differing), sum(codes.size for _, codes in carried)


def _expected(forms: Forms, feeds: Feeds) -> list[tuple[Step, Array]]:
    """Each step whose codes are a tensor inside the graph, in order, with the codes of the interpreter."""
    found: list[tuple[Step, Array]] = []
    present = {value.name for node in forms.model.graph for value in node.outputs}
    inside = present.difference(output_names(forms.model))

    def observe(step: Step, values: Array) -> None:
        if step.output in inside:
            found.append((step, values))

    interpret(forms, feeds, observe)
    return found


def _compared(
    forms: Forms, engine: Engine, feeds: Feeds, expected: Sequence[tuple[Step, Array]]
) -> Iterator[tuple[Step, Array, Array]]:
    """Those of ``expected`` that the form of ``engine`` has, with its codes beside them."""
    model = forms.of(engine)
    outputs = output_names(model)
    present = {value.name for node in model.graph for value in node.outputs}.difference(outputs)
    steps = [one for one in expected if one[0].output in present]
    for start in range(0, len(steps), MOST_TENSORS):
        part = steps[start : start + MOST_TENSORS]
        names = [step.output for step, _ in part]
        values = open_engine(engine, forms, names)(feeds)[len(outputs) :]
        for (step, codes), found in zip(part, values, strict=True):
            yield step, codes, found


def _place(step: Step, expected: Array, found: Array) -> Place | None:
    if found.shape != expected.shape:
        return Place(step.node, step.output, (), expected.size, found.size)
    unequal = np.flatnonzero(found.astype(np.int64).ravel() != expected.astype(np.int64).ravel())
    if not unequal.size:
        return None
    at = int(unequal[0])
    element = tuple(int(part) for part in np.unravel_index(at, expected.shape))
    return Place(step.node, step.output, element, int(expected.ravel()[at]), int(found.ravel()[at]))
