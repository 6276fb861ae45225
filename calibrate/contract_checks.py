"""Refusals of declarations that cannot be, and of inputs of which too little is known."""

from collections.abc import Mapping

import numpy as np

from ptqc.calibrate.contract import GREATEST, Kind
from ptqc.calibrate.contract_options import Declared
from ptqc.calibrate.convert import is_float
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import InputSpec, shape_text
from ptqc.core.errors import OptionError, quoted

FLOATS = (Kind.AUDIO, Kind.SPECTRUM)
INDICES = (Kind.TOKENS, Kind.SEGMENTS, Kind.POSITIONS)
NUMBERS = (Kind.VECTOR, Kind.STATE, Kind.VALUE)


def unknown_input(spec: InputSpec) -> OptionError:
    """The error for an input of which nothing is known, with what to declare."""
    if spec.shape in ((), (1,)):
        example = "value=16000"
    elif not is_float(spec.dtype):
        example = "kind=tokens,vocabulary=30522"
    else:
        sizes = spec.shape or (1, 128)
        filled = [size if isinstance(size, int) else 1 if axis == 0 else 128 for axis, size in enumerate(sizes)]
        example = f"kind=vector,range=-1:1,shape={'x'.join(map(str, filled))}"
    return OptionError(
        f"what the input {quoted(spec.name)} ({spec}) stands for cannot be guessed",
        why="neither its name nor the graph says",
        fix=f"declare it, such as --input {spec.name}:{example} (kinds: {', '.join(Kind)}), or give real data",
    )


def check_declared(declared: Declared, spec: InputSpec) -> None:
    """Raises OptionError where a declaration does not fit the type or the shape of the input."""
    where, kind = f"input {quoted(spec.name)}", declared.kind
    needs = _misses(spec.dtype, kind)
    if needs:
        raise OptionError(
            f"an input of type {spec.dtype} cannot be of the kind {kind}",
            where=where,
            why=f"{kind} needs {needs}",
            fix="give another kind",
        )
    shape = spec.shape or declared.shape or ()
    if kind is Kind.IMAGE and shape and (len(shape) != 4 or not _may_be_channels(shape[1], shape[3])):
        raise OptionError(
            f"an input of shape {shape_text(shape)} cannot be of the kind image",
            where=where,
            why="images have a batch axis, two sides and an axis of 1 or 3 channels",
            fix="declare kind=vector with a range",
        )
    given = declared.shape
    if given is None or spec.shape is None:
        return
    pairs = zip(spec.shape, given, strict=False)
    if len(given) != len(spec.shape) or any(isinstance(want, int) and want != have for want, have in pairs):
        raise OptionError(
            f"shape={'x'.join(map(str, given))} contradicts the model",
            where=where,
            why=f"it takes {spec}",
            fix="keep the sizes that the model fixes and choose the free ones",
        )


def check_preprocessing(preprocessing: Preprocessing | None, kinds: Mapping[str, Kind]) -> None:
    """Raises OptionError where there is preprocessing but no image among the inputs."""
    if preprocessing is None or Kind.IMAGE in kinds.values():
        return
    first = next(iter(kinds), "NAME")
    raise OptionError(
        "--preprocess is for images, and no input of the model seems to take any",
        fix=f"leave it out, or declare the input: --input {first}:kind=image",
    )


def check_limits(low: tuple[float, ...], high: tuple[float, ...], name: str) -> None:
    """Raises OptionError where the preprocessing of an image gives values that cannot be computed with."""
    if all(abs(end) <= GREATEST for end in (*low, *high)):
        return
    raise OptionError(
        "the preprocessing gives values that are too large",
        where=f"input {quoted(name)}",
        why=f"pixels from 0 to 255 become {min(low):.4g} to {max(high):.4g}",
        fix="correct mean, std and scale",
    )


def known_vocabulary(declared: int | None, rows: int, name: str) -> int:
    """The number of tokens: declared, or the rows of the table that they index.

    Raises OptionError where neither is known, or more is declared than the table has.
    """
    if not (declared or rows):
        raise OptionError(
            f"the vocabulary of the input {quoted(name)} is not known",
            why="it indexes no table of constants",
            fix=f"declare it: --input {name}:vocabulary=30522",
        )
    if declared and rows and declared > rows:
        raise OptionError(
            f"vocabulary={declared} contradicts the model",
            where=f"input {quoted(name)}",
            why=f"the table that the tokens index has {rows} rows",
            fix=f"give at most {rows}",
        )
    return declared or rows


def _misses(dtype: "np.dtype[np.generic]", kind: Kind | None) -> str:
    """What numbers a kind needs, where the type has others; empty where they fit."""
    if kind in FLOATS and not is_float(dtype):
        return "floats"
    if kind in INDICES and dtype.kind not in "iu":
        return "whole numbers"
    if kind is Kind.IMAGE and not is_float(dtype) and dtype != np.uint8:
        return "floats or uint8"
    return "numbers" if kind in NUMBERS and dtype.kind == "b" else ""


def _may_be_channels(first: object, last: object) -> bool:
    return any(not isinstance(size, int) or size in (1, 3) for size in (first, last))
