"""The contract of every input: what the user says, else what the metadata says, else what the graph suggests."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract import GREATEST, InputContract, Kind
from ptqc.calibrate.contract_checks import (
    check_declared,
    check_limits,
    check_preprocessing,
    known_vocabulary,
    unknown_input,
)
from ptqc.calibrate.contract_metadata import image_metadata, image_size, read_metadata
from ptqc.calibrate.contract_options import UNITS, Declared, Given, read_declared
from ptqc.calibrate.convert import is_float
from ptqc.calibrate.image_contract import image_units, legal_range
from ptqc.calibrate.input_kinds import Guess, guess_kind
from ptqc.calibrate.input_sizes import Shape, find_call
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import InputSpec, input_specs, shape_text
from ptqc.core.errors import OptionError, quoted
from ptqc.core.types import Array
from ptqc.graph.walk import constant_array, is_op, single_consumer

SAMPLE_RATE = 16000.0


@dataclass(frozen=True, slots=True)
class _Input:
    """An input, what is said of it and what was guessed."""

    spec: InputSpec
    declared: Declared
    guess: Guess
    sources: tuple[str, ...]


def find_contracts(
    model: ir.Model, given: Given = (), preprocessing: Preprocessing | None = None
) -> tuple[InputContract, ...]:
    """The contract of every input, in the graph's order.

    Args:
        model: as loaded, BatchNormalization not folded.
        given: texts ``NAME:key=value,...`` as ``--input`` takes them, or tables by name of the input.
        preprocessing: what is done to images (``--preprocess``).

    Raises:
        OptionError: what is said makes no sense, contradicts itself or the model, or an input cannot be guessed; says
            what to declare.
        ModelError: an input is not a tensor of numbers, or the runtime does not accept the model.
    """
    specs = input_specs(model)
    names = tuple(spec.name for spec in specs)
    said, noted = read_declared(given, names), read_metadata(model.metadata_props, names)
    inputs = []
    for spec in specs:
        value = next(value for value in model.graph.inputs if value.name == spec.name)
        guess = guess_kind(value, spec, specs, tuple(model.graph.outputs))
        inputs.append(_input(spec, guess, said.get(spec.name), noted.get(spec.name), preprocessing, model))
    check_preprocessing(preprocessing, {one.spec.name: one.guess.kind for one in inputs})
    kinds = {one.spec.name: one.guess.kind for one in inputs}
    known = {one.spec.name: _known_shape(one, preprocessing, model) for one in inputs}
    values = {one.spec.name: one.declared.value or SAMPLE_RATE for one in inputs if one.guess.kind is Kind.VALUE}
    call = find_call(model, specs, kinds, {name: shape for name, shape in known.items() if shape}, values)
    blank = partial(call.blank, specs, kinds, values)
    contracts = []
    for one in inputs:
        contract = _contract(model, one, call.shapes[one.spec.name], blank, preprocessing)
        if one.spec.name in call.chosen:
            contract = replace(contract, origin=f"{contract.origin}; the size {shape_text(contract.shape)} is assumed")
        contracts.append(contract)
    return tuple(contracts)


def _input(
    spec: InputSpec,
    guess: Guess | None,
    said: Declared | None,
    noted: Declared | None,
    given: Preprocessing | None,
    model: ir.Model,
) -> _Input:
    """Declarations in the order of their precedence, merged, with the guess for what they leave open."""
    empty = Declared(name=spec.name)
    declared = (said or empty).or_else(noted or empty)
    sources = ["--input" if said else "", "metadata" if noted else ""]
    if (declared.kind or (guess and guess.kind)) is Kind.IMAGE:
        declared = (said or empty).or_else(_overruled(noted or empty, given))
        images = image_metadata(model.metadata_props)
        if images is not None and spec.shape is not None and len(spec.shape) == 4:
            declared = declared.or_else(_overruled(images, given))
            sources.append("image metadata")
    declared = declared.checked()
    check_declared(declared, spec)
    kind = declared.kind
    if kind is None and guess is None and declared.range is not None and is_float(spec.dtype):
        kind = Kind.VECTOR
    if kind is None and guess is None:
        raise unknown_input(spec)
    if guess is None or (kind is not None and kind is not guess.kind):
        rows = guess.rows if guess is not None else 0
        guess = Guess(kind or Kind.VECTOR, "", rows, *_image_axes(spec, declared, kind))
    if kind is not None:
        guess = replace(guess, why="")
    return _Input(spec, declared, guess, tuple(filter(None, sources)))


def _overruled(noted: Declared, given: Preprocessing | None) -> Declared:
    """What metadata says of an image, less what ``--preprocess`` says."""
    if given is None:
        return noted
    dropped = {key for key in ("color", "layout") if getattr(given, key) is not None}
    if (given.mean, given.std, given.scale) != ((0.0,), (1.0,), None):  # else it is about sizes only
        dropped.update(UNITS)
        noted = replace(noted, range=None)
    return replace(noted, steps=tuple((key, value) for key, value in noted.steps if key not in dropped))


def _image_axes(spec: InputSpec, declared: Declared, kind: Kind | None) -> tuple[int, str]:
    """Channels and layout of an input that only its user calls an image."""
    shape = declared.shape or spec.shape or ()
    if kind is not Kind.IMAGE or len(shape) != 4:
        return 0, ""
    layout = dict(declared.steps).get("layout", "").upper()
    layout = layout or ("NHWC" if shape[3] in (1, 3) and shape[1] not in (1, 3) else "NCHW")
    channels = shape[1] if layout == "NCHW" else shape[3]
    return (channels if isinstance(channels, int) else 3), layout


def _known_shape(one: _Input, preprocessing: Preprocessing | None, model: ir.Model) -> Shape | None:
    """The shape as far as somebody said it; the size of images may come from the preprocessing or metadata."""
    if one.declared.shape is not None:
        return one.declared.shape
    spec, shape = one.spec, one.spec.shape
    if shape is None:
        raise OptionError(
            f"the model does not say the shape of the input {quoted(spec.name)}",
            fix=f"declare it: --input {spec.name}:shape=1x3x224x224",
        )
    if one.guess.kind is not Kind.IMAGE:
        return None
    steps = preprocessing or Preprocessing()
    size = steps.crop or (steps.resize if steps.resize_mode == "exact" else None) or image_size(model.metadata_props)
    sides = (1, 2) if one.guess.layout == "NHWC" else (2, 3)
    if size is None or any(isinstance(shape[axis], int) for axis in sides):
        return None
    wanted = {sides[0]: size[0], sides[1]: size[1], 6 - sum(sides): one.guess.channels or 3}
    return tuple(item if isinstance(item, int) else wanted.get(axis, 1) for axis, item in enumerate(shape))


def _contract(
    model: ir.Model, one: _Input, shape: Shape, blank: Callable[[], dict[str, Array]], given: Preprocessing | None
) -> InputContract:
    """The contract of one input whose shape is settled."""
    spec, kind = one.spec, one.guess.kind
    contract = InputContract(spec.name, kind, spec.dtype, shape, _is_stacked(spec, kind))
    notes = [_sources(one, given if kind is Kind.IMAGE else None), one.guess.why]
    if kind is Kind.IMAGE:
        known = InputSpec(spec.name, spec.dtype, shape)
        units = image_units(model, known, one.declared, given, one.guess.channels, one.guess.layout, blank)
        low, high = legal_range(units.steps)
        check_limits(low, high, spec.name)
        contract = replace(contract, preprocessing=units.steps, assumed=units.assumed)
        notes.append(units.origin)
    elif kind is Kind.TOKENS:
        vocabulary = known_vocabulary(one.declared.vocabulary, one.guess.rows, spec.name)
        contract = replace(contract, vocabulary=vocabulary)
        low, high = (0.0,), (vocabulary - 1.0,)
    elif kind is Kind.VALUE:
        value = SAMPLE_RATE if one.declared.value is None else one.declared.value
        notes.append("" if one.declared.value is not None else f"{value:g} is assumed")
        contract, low, high = replace(contract, value=value), (value,), (value,)
    else:
        low, high = _range(model, one, shape)
    return replace(contract, low=low, high=high, origin="; ".join(filter(None, notes)))


def _sources(one: _Input, given: Preprocessing | None) -> str:
    """Who said something of the input."""
    sources = [*one.sources, *(["--preprocess"] if given is not None else [])]
    return f"from {' and '.join(sources)}" if sources else ""


def _is_stacked(spec: InputSpec, kind: Kind) -> bool:
    """Whether no axis numbers the samples: not the first one of a state [layers, batch, size]."""
    if not spec.shape:
        return True
    first = spec.shape[0]
    alone = len(spec.shape) == 1 and kind in (Kind.AUDIO, Kind.TOKENS, Kind.VALUE)
    return alone or (isinstance(first, int) and first != 1 and (kind is Kind.STATE or len(spec.shape) == 1))


def _range(model: ir.Model, one: _Input, shape: Shape) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Legal values of an input that is no image: declared, usual for its kind, or what a Clip lets through."""
    kind, rows = one.guess.kind, one.guess.rows
    if one.declared.range is not None:
        return (one.declared.range[0],), (one.declared.range[1],)
    if kind is Kind.AUDIO:
        return (-1.0,), (1.0,)
    if kind is Kind.MASK:
        return (0.0,), (1.0,)
    if kind is Kind.SEGMENTS:
        return (0.0,), (max(min(rows, 2) - 1.0, 0.0) if rows else 1.0,)
    if kind is Kind.POSITIONS:
        return (0.0,), (shape[-1] - 1.0,)
    value = next(value for value in model.graph.inputs if value.name == one.spec.name)
    node = single_consumer(value)
    bounds = [constant_array(item) for item in node.inputs[1:3]] if is_op(node, "Clip") and node is not None else []
    if len(bounds) == 2 and all(bound is not None and bound.size == 1 for bound in bounds):
        low, high = (float(np.asarray(bound).reshape(())) for bound in bounds)
        if -GREATEST <= low < high <= GREATEST:  # others bound nothing: Inf, or the greatest float
            return (low,), (high,)
    return (), ()
