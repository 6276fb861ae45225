"""Sizes that a model leaves free: what was declared, else usual ones, the first of which the model runs with."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract import Kind
from ptqc.calibrate.contract_options import MAX_ELEMENTS
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, OptionError, quoted
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of

Shape = tuple[int, ...]
USUAL = {
    Kind.IMAGE: (224, 256, 320, 640, 512, 384, 299, 227, 128, 96, 64, 32, 28),
    Kind.TOKENS: (128, 64, 32, 16, 8),
    Kind.AUDIO: (16000, 32000, 48000, 8000, 512, 480, 256, 160),
    Kind.SPECTRUM: (100, 128, 64, 3000, 1000, 16, 1),
}
# With a state to carry on, a model takes its sound in short pieces.
PIECES = (512, 480, 320, 256, 160, 1024, 1600, 16000)
OTHERS = (16, 1)
BATCH_NAMES = ("N", "batch", "batch_size")


@dataclass(frozen=True, slots=True)
class Call:
    """The shapes of a call with one sample, and the inputs for which a size had to be chosen."""

    shapes: Mapping[str, Shape]
    chosen: frozenset[str]

    def blank(
        self, specs: Sequence[InputSpec], kinds: Mapping[str, Kind], values: Mapping[str, float]
    ) -> dict[str, Array]:
        """A call with nothing in it but the values; masks are set, so that there is something to attend to."""
        fill = {spec.name: values.get(spec.name, float(kinds[spec.name] is Kind.MASK)) for spec in specs}
        return {spec.name: np.full(self.shapes[spec.name], fill[spec.name]).astype(spec.dtype) for spec in specs}


def find_call(
    model: ir.Model,
    specs: Sequence[InputSpec],
    kinds: Mapping[str, Kind],
    known: Mapping[str, Shape],
    values: Mapping[str, float],
) -> Call:
    """The shapes with which the model can be called.

    Args:
        kinds: of every input.
        known: shapes that were declared, checked against the model.
        values: of inputs that are the same in every call.

    Raises:
        OptionError: the model runs with none of the sizes that were tried.
    """
    ranked = [spec if spec.shape is not None else replace(spec, shape=known[spec.name]) for spec in specs]
    sizes = _settled(ranked, kinds, known)
    free = {
        _symbol(spec, axis): (1,) if size in BATCH_NAMES else _usual(kinds[spec.name], kinds)
        for spec in reversed(ranked)
        for axis, size in enumerate(spec.shape or ())
        if not isinstance(size, int) and _symbol(spec, axis) not in sizes
    }
    for spec in ranked:
        _check_size(spec, sizes)
    if not free:
        return Call({spec.name: _filled(spec, sizes) for spec in ranked}, frozenset())
    chosen = [spec for spec in ranked if any(_symbol(spec, axis) in free for axis in range(len(spec.shape or ())))]
    session, output, reason = session_of(model, level="none"), str(model.graph.outputs[0].name), ""
    for index in range(max(map(len, free.values()))):
        attempt = sizes | {symbol: usual[min(index, len(usual) - 1)] for symbol, usual in free.items()}
        call = Call({spec.name: _filled(spec, attempt) for spec in ranked}, frozenset(spec.name for spec in chosen))
        try:
            run_session(session, [output], call.blank(ranked, kinds, values))
        except DataError as error:
            reason = reason or error.why
            continue
        return call
    name = chosen[0].name
    raise OptionError(
        f"the free sizes of the input {quoted(name)} ({chosen[0]}) cannot be guessed",
        why=f"the model runs with none of the usual ones: {reason}",
        fix=f"declare them: --input {name}:shape={'x'.join(map(str, call.shapes[name]))}",
    )


def _check_size(spec: InputSpec, sizes: Mapping[str, int]) -> None:
    """Raises OptionError where the sizes that are known alone make an input empty, or larger than anybody means."""
    known = [
        size if isinstance(size, int) else sizes.get(_symbol(spec, axis), 1)
        for axis, size in enumerate(spec.shape or ())
    ]
    if not all(size > 0 for size in known) or math.prod(known) > MAX_ELEMENTS:
        raise OptionError(
            f"no data can be made for the input {quoted(spec.name)} ({spec})",
            why=f"it must have from 1 to {MAX_ELEMENTS:,} elements",
            fix=f"declare other sizes: --input {spec.name}:shape=..., or give real data"
            if any(not isinstance(size, int) for size in spec.shape or ())
            else "give real data",
        )


def _settled(specs: Sequence[InputSpec], kinds: Mapping[str, Kind], known: Mapping[str, Shape]) -> dict[str, int]:
    """Free sizes that were declared, and the axes that number the samples."""
    sizes = {_symbol(spec, 0): 1 for spec in specs if _is_batch(spec, kinds[spec.name])}
    for spec in specs:
        for axis, size in enumerate(known.get(spec.name, ())):
            if not isinstance(spec.shape[axis] if spec.shape else size, int):
                sizes[_symbol(spec, axis)] = size
    return sizes


def _symbol(spec: InputSpec, axis: int) -> str:
    """Axes of one name have one size; nameless ones are on their own."""
    size = spec.shape[axis] if spec.shape else None
    return size if isinstance(size, str) else f"{spec.name}, axis {axis}"


def _is_batch(spec: InputSpec, kind: Kind) -> bool:
    """Whether a free first axis numbers the samples: not of sound without a batch axis, [samples]."""
    rank = len(spec.shape or ())
    return not isinstance((spec.shape or (1,))[0], int) and (rank > 1 or kind not in (Kind.AUDIO, Kind.TOKENS))


def _usual(kind: Kind, kinds: Mapping[str, Kind]) -> Sequence[int]:
    if kind is Kind.STATE:
        return (1,)
    if kind is Kind.AUDIO and Kind.STATE in kinds.values():
        return PIECES
    if kind in (Kind.MASK, Kind.SEGMENTS, Kind.POSITIONS):
        return USUAL[Kind.TOKENS]
    return USUAL.get(kind, OTHERS)


def _filled(spec: InputSpec, sizes: Mapping[str, int]) -> Shape:
    return tuple(
        size if isinstance(size, int) else sizes[_symbol(spec, axis)] for axis, size in enumerate(spec.shape or ())
    )
