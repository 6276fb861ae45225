"""How the arrays of a data set are cut into calls of the model, decided from shapes alone."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from ptqc.calibrate.source import InputSpec, shape_text
from ptqc.core.errors import DataError, quoted

Shape = tuple[int, ...]
Size = int | str | None
Kind = Literal["slice", "stack", "bare", "constant"]


@dataclass(frozen=True, slots=True)
class Part:
    """How one array serves its input.

    Attributes:
        kind: ``slice``: the first axis is the model's own, cut into pieces; ``stack``: the first axis only numbers
            the calls; ``bare``: one sample without its batch axis; ``constant``: a scalar, the same for every call.
        rows: rows of the array that one call takes (``slice``), else 1.
    """

    kind: Kind
    rows: int = 1


@dataclass(frozen=True, slots=True)
class Layout:
    """How a set of arrays becomes calls.

    Attributes:
        calls: number of calls; number of samples where ``free``.
        samples: samples of one call; 1 where ``free``.
        free: calls can be joined and cut along the first axis.
        parts: how each input is served, by name.
        left_over: rows at the end that fill no call of a fixed batch.
    """

    calls: int
    samples: int
    free: bool
    parts: Mapping[str, Part]
    left_over: int = 0


def find_layout(specs: Sequence[InputSpec], shapes: Mapping[str, Shape], where: str, one_call: bool = False) -> Layout:
    """The layout of arrays of these shapes (by input name).

    Args:
        where: file, for messages.
        one_call: the arrays were meant as the feeds of one call; first axes of different sizes are no error then.

    Raises:
        DataError: a shape does not fit, or inputs disagree on the number of samples; names input, expected and found.
    """
    kinds = {spec.name: _kind(spec, shapes[spec.name], where) for spec in specs}
    fixed = {
        spec.name: _fixed_calls(spec, kinds[spec.name], shapes[spec.name], where)
        for spec in specs
        if kinds[spec.name] == "stack" or (kinds[spec.name] in ("slice", "bare") and _fixed_rows(spec) is not None)
    }
    loose = {
        name: shapes[name][0] if kind == "slice" else 1
        for name, kind in kinds.items()
        if kind in ("slice", "bare") and name not in fixed
    }
    for name, count in [*fixed.items(), *loose.items()]:
        if count == 0:
            raise DataError(f"the input {quoted(name)} has no samples", where=where, fix="give at least one sample")
    if not fixed:
        return _free_layout(kinds, loose, where, one_call)
    _check_equal(fixed, where)
    return _fixed_layout(specs, kinds, shapes, fixed, loose, where)


def _kind(spec: InputSpec, found: Shape, where: str) -> Kind:
    expected = spec.shape
    if expected is None:
        return "slice" if found else "constant"
    if not expected and not found:
        return "constant"
    if len(found) == len(expected) and _fits(expected[1:], found[1:]):
        return "slice"
    if len(found) == len(expected) + 1 and _fits(expected, found[1:]):
        return "stack"
    single = bool(expected) and (not isinstance(expected[0], int) or expected[0] == 1)
    if single and _fits(expected[1:], found):
        return "bare"
    raise DataError(
        f"the data for the input {quoted(spec.name)} has shape {shape_text(found)}, the model takes {spec}",
        where=where,
        fix="the first axis numbers the samples, the others must be the model's",
    )


def _fits(expected: Sequence[Size], found: Sequence[int]) -> bool:
    return len(expected) == len(found) and all(
        want == have for want, have in zip(expected, found, strict=True) if isinstance(want, int)
    )


def _fixed_rows(spec: InputSpec) -> int | None:
    first = spec.shape[0] if spec.shape else None
    return first if isinstance(first, int) else None


def _fixed_calls(spec: InputSpec, kind: Kind, found: Shape, where: str) -> int:
    rows = _fixed_rows(spec)
    if kind == "bare":
        return 1
    if kind == "stack" or rows is None:
        return found[0]
    if rows > 0 and 0 < found[0] < rows:
        raise DataError(
            f"the input {quoted(spec.name)} takes {rows} samples at a time, the data holds {found[0]}",
            where=where,
            fix=f"give at least {rows} samples",
        )
    return found[0] // max(rows, 1)


def _check_equal(counts: Mapping[str, int], where: str) -> None:
    (first, count), *others = counts.items()
    for name, other in others:
        if other != count:
            raise DataError(
                f"the inputs have different numbers of samples: {quoted(first)} {count}, {quoted(name)} {other}",
                where=where,
                fix="give every input the same number of samples",
            )


def _free_layout(kinds: Mapping[str, Kind], loose: Mapping[str, int], where: str, one_call: bool) -> Layout:
    counts = list(loose.values())
    if one_call and (not counts or any(count != counts[0] for count in counts)):
        return Layout(1, 1, False, {name: Part(kind, loose.get(name, 1)) for name, kind in kinds.items()})
    if loose:
        _check_equal(loose, where)
    return Layout(counts[0] if counts else 1, 1, bool(counts), {name: Part(kind) for name, kind in kinds.items()})


def _fixed_layout(
    specs: Sequence[InputSpec],
    kinds: Mapping[str, Kind],
    shapes: Mapping[str, Shape],
    fixed: Mapping[str, int],
    loose: Mapping[str, int],
    where: str,
) -> Layout:
    calls = next(iter(fixed.values()))
    parts, left_over = {}, 0
    for spec in specs:
        name, kind = spec.name, kinds[spec.name]
        rows = 1
        if name in loose:
            rows, rest = divmod(loose[name], calls)
            if rest:
                _check_equal({**fixed, name: loose[name]}, where)
        elif kind == "slice":
            rows = _fixed_rows(spec) or 1
            left_over = max(left_over, shapes[name][0] - calls * rows)
        parts[name] = Part(kind, rows)
    per_call = {part.rows for part in parts.values() if part.kind != "constant"}
    return Layout(calls, per_call.pop() if len(per_call) == 1 else 1, False, parts, left_over)
