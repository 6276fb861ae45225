"""Control flow: bodies run node by node, so that gradients pass through them."""

from collections.abc import Sequence
from typing import Any

import torch

from ptqc.execute.torch_executor.numbers import normalized
from ptqc.execute.torch_executor.registry import Body, Call, operator

Tensor = torch.Tensor


@operator("If")
def branch(call: Call, condition: Tensor, then_branch: Body, else_branch: Body) -> tuple[Any, ...]:
    """The outputs of one of two bodies."""
    return tuple((then_branch if bool(condition) else else_branch)([]))


@operator("Loop")
def loop(call: Call, trips: Tensor | None, condition: Tensor | None, *states: Any, body: Body) -> tuple[Any, ...]:
    """The last states, then what each run of the body put out, stacked."""
    limit = None if trips is None else int(trips)
    known = [value for value in (trips, condition) if value is not None]
    device = known[0].device if known else torch.device("cpu")
    go = torch.ones((), dtype=torch.bool, device=device) if condition is None else condition.reshape(())
    carried, rows, count = list(states), list[list[Any]](), 0
    while bool(go) and (limit is None or count < limit):
        found = body([torch.tensor(count, dtype=torch.int64, device=device), go, *carried])
        go = found[0].reshape(())
        carried = found[1 : 1 + len(states)]
        rows.append(found[1 + len(states) :])
        count += 1
    outputs = range(1 + len(states), len(body.outputs))
    return (*carried, *_stacked(rows, body, outputs, [0] * len(outputs)))


@operator("Scan", since=9)
def scan(call: Call, *values: Any, body: Body) -> tuple[Any, ...]:
    """The last states, then what the body put out for each slice of the scanned inputs, stacked."""
    count = call.get("num_scan_inputs")
    states, scanned = values[: len(values) - count], values[len(values) - count :]
    axes = call.get("scan_input_axes") or [0] * count
    backward = call.get("scan_input_directions") or [0] * count
    return _scan(call, states, _slices(scanned, axes, backward), body)


def _slices(scanned: Sequence[Tensor], axes: Sequence[int], backward: Sequence[int]) -> list[list[Tensor]]:
    """For each step the slices that the body gets."""
    columns = []
    for value, axis, turned in zip(scanned, axes, backward, strict=True):
        column = value.unbind(axis)
        columns.append(column[::-1] if turned else column)
    return [list(row) for row in zip(*columns, strict=True)]


def _scan(call: Call, states: Sequence[Any], slices: Sequence[Sequence[Tensor]], body: Body) -> tuple[Any, ...]:
    carried, rows = list(states), []
    for row in slices:
        found = body([*carried, *row])
        carried = found[: len(states)]
        rows.append(found[len(states) :])
    outputs = range(len(states), len(body.outputs))
    if any(call.get("scan_output_directions") or ()):
        backward = call.get("scan_output_directions")
        rows = [
            [rows[-1 - step if turned else step][column] for column, turned in enumerate(backward)]
            for step in range(len(rows))
        ]
    return (*carried, *_stacked(rows, body, outputs, call.get("scan_output_axes") or [0] * len(outputs)))


def _stacked(rows: Sequence[Sequence[Any]], body: Body, outputs: range, axes: Sequence[int]) -> list[Tensor]:
    if not rows:
        return [body.empty(position) for position in outputs]
    found = []
    for column, axis in enumerate(axes):
        values = [row[column] for row in rows]
        found.append(torch.stack(values, normalized(axis, values[0].dim() + 1)))
    return found


@operator("Scan", since=8)
def scan_batches(call: Call, lengths: Tensor | None, *values: Any, body: Body) -> tuple[Any, ...]:
    """A scan along axis 1 for each sample of a batch; outputs of short sequences are filled up with zeros."""
    count = call.get("num_scan_inputs")
    states, scanned = values[: len(values) - count], values[len(values) - count :]
    backward = call.get("directions") or [0] * count
    size, most = scanned[0].shape[:2]
    steps = [most] * size if lengths is None else [int(length) for length in lengths.tolist()]
    results = []
    for sample, length in enumerate(steps):
        slices = _slices([value[sample, :length] for value in scanned], [0] * count, backward)
        results.append(_scan(call, [state[sample] for state in states], slices, body))
    found = []
    for position, column in enumerate(zip(*results, strict=True)):
        if position >= len(states):
            column = tuple(_filled(value, most) for value in column)
        found.append(torch.stack(column))
    return tuple(found)


def _filled(value: Tensor, size: int) -> Tensor:
    missing = size - value.shape[0]
    return torch.cat([value, value.new_zeros((missing, *value.shape[1:]))]) if missing else value


@operator("SequenceMap")
def sequence_map(call: Call, sequence: Sequence[Any], *others: Any, body: Body) -> tuple[Any, ...]:
    """The body's outputs for each element, as sequences; inputs that are no sequences are the same for all."""
    columns: list[list[Any]] = [[] for _ in body.outputs]
    for index, item in enumerate(sequence):
        inputs = [other[index] if isinstance(other, list) else other for other in others]
        for column, value in zip(columns, body([item, *inputs]), strict=True):
            column.append(value)
    return tuple(columns)
