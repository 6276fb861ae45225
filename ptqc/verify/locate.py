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
        for step, expected, found in _compared(forms, engine, [feeds], [_expected(forms, feeds)]):
            if (place := _place(step, expected, found)) is not None:
                return place
    except PtqcError:
        return None
    return None


def count_differences(forms: Forms, engines: Sequence[Engine], inputs: Sequence[Feeds]) -> tuple[tuple[int, ...], int]:
    """How many codes differ from the interpreter's on each engine, and of how many, over all ``inputs``.

    Compared are the tensors that float32 arithmetic carries in the file; those of integer operators have no freedom.

    Raises PtqcError kinds where an engine or the interpreter does not run.
    """
    expected = [
        [(step, codes) for step, codes in _expected(forms, feeds) if step.carrier is not Carrier.INTEGER]
        for feeds in inputs
    ]
    differing = []
    for engine in engines:
        count = 0
        for _, codes, found in _compared(forms, engine, inputs, expected):
            same_shape = found.shape == codes.shape
            count += int((found != codes).sum()) if same_shape else codes.size
        differing.append(count)
    return tuple(differing), sum(codes.size for tensors in expected for _, codes in tensors)


def _expected(forms: Forms, feeds: Feeds) -> list[tuple[Step, Array]]:
    """Each step whose codes are a tensor inside the graph, in order, with the codes of the interpreter."""
    found: list[tuple[Step, Array]] = []
    present = {value.name for node in forms.model.graph for value in node.outputs}
    inside = present.difference(output_names(forms.model))

    def observe(step: Step, values: Array) -> None:
        if step.output in inside:
            found.append((step, _narrowed(values)))

    interpret(forms, feeds, observe)
    return found


def _narrowed(values: Array) -> Array:
    """The same numbers in the smallest type that holds them."""
    low, high = int(values.min(initial=0)), int(values.max(initial=0))
    return values.astype(np.promote_types(np.min_scalar_type(low), np.min_scalar_type(high)))


def _compared(
    forms: Forms, engine: Engine, inputs: Sequence[Feeds], expected: Sequence[Sequence[tuple[Step, Array]]]
) -> Iterator[tuple[Step, Array, Array]]:
    """Those of ``expected``, of each input, that the form of ``engine`` has, with its codes beside them."""
    model = forms.of(engine)
    outputs = output_names(model)
    present = {value.name for node in model.graph for value in node.outputs}.difference(outputs)
    names = [step.output for step, _ in (expected[0] if expected else ()) if step.output in present]
    for start in range(0, len(names), MOST_TENSORS):
        part = names[start : start + MOST_TENSORS]
        run = open_engine(engine, forms, part)
        for feeds, tensors in zip(inputs, expected, strict=True):
            wanted = {step.output: (step, codes) for step, codes in tensors}
            for name, found in zip(part, run(feeds)[len(outputs) :], strict=True):
                yield (*wanted[name], found)


def _place(step: Step, expected: Array, found: Array) -> Place | None:
    if found.shape != expected.shape:
        return Place(step.node, step.output, (), expected.size, found.size)
    unequal = np.flatnonzero(found.astype(np.int64).ravel() != expected.astype(np.int64).ravel())
    if not unequal.size:
        return None
    at = int(unequal[0])
    element = tuple(int(part) for part in np.unravel_index(at, expected.shape))
    return Place(step.node, step.output, element, int(expected.ravel()[at]), int(found.ravel()[at]))
