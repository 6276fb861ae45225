"""Whole sets of samples from the contracts of a model's inputs: what belongs together is made together."""

import math
import zlib
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract import InputContract, Kind
from ptqc.calibrate.convert import is_float
from ptqc.calibrate.synthesis.audio import waveform
from ptqc.calibrate.synthesis.info import SyntheticInfo
from ptqc.calibrate.synthesis.limits import by_channel, legal
from ptqc.calibrate.synthesis.moments import Units, find_units
from ptqc.calibrate.synthesis.pictures import pictures
from ptqc.calibrate.synthesis.spectrum import spectra, spectrum_form
from ptqc.calibrate.synthesis.states import StateRunner, random_states
from ptqc.calibrate.synthesis.tokens import Lengths, draw_lengths, tokens
from ptqc.calibrate.synthesis.vectors import into_range, vectors
from ptqc.core.errors import OptionError
from ptqc.core.progress import Steps
from ptqc.core.types import Array
from ptqc.graph.costs import node_costs

MAX_BYTES = 4 << 30  # of a whole set
RATES = range(4000, 96001)  # what a scalar input must hold to be a sampling rate
DEFAULT_RATE = 16000.0
# A recurrent model hears recordings from which so many samples are taken. Small ones get longer recordings of which
# only every 4th or 16th call becomes a sample: states grow for minutes (the most work of a call, calls for a sample).
KEPT = 8
STRIDES = ((2e6, 16), (2e7, 4))
REFERENCE = 64  # samples that show the spread of features before they are scaled to a model's units


def synthesize(
    contracts: Sequence[InputContract],
    count: int,
    seed: int,
    model: ir.Model | None = None,
    progress: Steps | None = None,
) -> dict[str, Array]:
    """Samples by input name: arrays [count, *contract.sample_shape], ready for the model.

    Sample i depends on the contracts, the model, the seed and i alone, not on ``count``.

    Args:
        contracts: of all inputs of a model.
        model: lets recurrent models make their own states, and shows the units of features; None for neither.
        progress: called with the samples done and their number.

    Raises:
        OptionError: a count or seed that makes no sense, or a set of more than 4 GiB.
        DataError: the model does not run on its samples; images that the preprocessing cannot make.
    """
    if count < 1 or seed < 0:
        raise OptionError(f"{count} samples with seed {seed} cannot be made", fix="give at least 1 sample, seed >= 0")
    arrays = {contract.name: _empty(contract, count) for contract in _checked(contracts, count)}
    for done, samples in _parts(_Maker(tuple(contracts), seed, model), count):
        for contract in contracts:
            array, made = arrays[contract.name], samples[contract.name]
            stop = min(done + len(made), count)
            array[done:stop] = legal(contract, made[: stop - done], array.dtype)
        if progress is not None:
            progress(stop, count)
    return arrays


def procedural_info(contracts: Sequence[InputContract], count: int, seed: int) -> SyntheticInfo:
    """What a file of such samples says of itself."""
    ranges = {c.name: (min(c.low), max(c.high)) for c in contracts if c.low and c.high and not c.assumed}
    kinds = tuple(dict.fromkeys(str(contract.kind) for contract in contracts))
    assumed = any(contract.assumed for contract in contracts)
    method = f"procedural: {', '.join(kinds)}"
    return SyntheticInfo("procedural", seed, count, method, ranges, kinds=kinds, assumed=assumed)


def _checked(contracts: Sequence[InputContract], count: int) -> Sequence[InputContract]:
    total = sum(math.prod(contract.sample_shape) * _stored(contract).itemsize for contract in contracts) * count
    if total > MAX_BYTES:
        raise OptionError(
            f"{count} samples would take {total / 2**30:.1f} GiB",
            why=f"at most {MAX_BYTES >> 30} GiB are made at a time",
            fix="make fewer samples, or declare smaller inputs with --input NAME:shape=...",
        )
    return contracts


def _stored(contract: InputContract) -> np.dtype[Any]:
    """NumPy's own types can be stored in files; values of others are converted when they are read."""
    return np.dtype(np.float32) if is_float(contract.dtype) and contract.dtype.kind != "f" else contract.dtype


def _empty(contract: InputContract, count: int) -> Array:
    return np.empty((count, *contract.sample_shape), _stored(contract))


def _parts(maker: "_Maker", count: int) -> Iterator[tuple[int, dict[str, Array]]]:
    done = 0
    while done < count:
        made = maker.recording(done // maker.kept)
        yield done, made
        done += maker.kept


def _stride(model: ir.Model) -> int:
    costs = node_costs(model)
    # Recurrent layers count no multiplications; a call reads each of their weights at least once.
    work = max(sum(cost.macs for cost in costs), sum(cost.weight_bytes for cost in costs))
    return next((stride for limit, stride in STRIDES if work <= limit), 1)


def _rng(seed: int, index: int, name: str) -> np.random.Generator:
    return np.random.default_rng([seed, index, zlib.crc32(name.encode())])


class _Maker:
    """Makes recordings: one sample each, or, for recurrent models, calls that follow each other."""

    def __init__(self, contracts: tuple[InputContract, ...], seed: int, model: ir.Model | None) -> None:
        self.contracts, self.seed = contracts, seed
        kinds = [contract.kind for contract in contracts]
        self.rate = next((c.value for c in contracts if c.kind is Kind.VALUE and int(c.value) in RATES), DEFAULT_RATE)
        self.padded, self.pairs = Kind.MASK in kinds, Kind.SEGMENTS in kinds
        self.images = [contract.name for contract in contracts if contract.kind is Kind.IMAGE]
        self.units = self._find_units(model)
        self.runner = self._find_runner(model) if Kind.STATE in kinds and model is not None else None
        self.kept = 1 if self.runner is None else KEPT
        self.stride = 1 if self.runner is None or model is None else _stride(model)

    def recording(self, turn: int) -> dict[str, Array]:
        """Samples [kept, *sample_shape] by input name."""
        if self.runner is None:
            return {contract.name: self._made(contract, turn, 1) for contract in self.contracts}
        inputs = [contract for contract in self.contracts if contract.kind is not Kind.STATE]
        count = KEPT * self.stride
        calls = {one.name: legal(one, self._made(one, turn, count), one.dtype) for one in inputs}
        states = self.runner.run(calls, count)
        return {name: values[:: self.stride] for name, values in {**calls, **states}.items()}

    def _made(self, contract: InputContract, turn: int, calls: int) -> Array:
        """[calls, *sample_shape] before it is clipped to the legal range."""
        name, shape = contract.name, contract.sample_shape
        rng = _rng(self.seed, turn, name)
        if contract.kind is Kind.IMAGE:
            return self._pictures(contract, turn * calls, calls)
        if contract.kind is Kind.AUDIO:
            return audio_calls(rng, calls, shape, self.rate, turn)
        if contract.kind is Kind.SPECTRUM:
            return self._in_units(contract, self._spectrum(contract, rng, calls, turn))
        if contract.kind is Kind.VALUE:
            return np.full((calls, *shape), contract.value)
        if contract.kind is Kind.STATE:
            return np.stack([random_states(rng, turn, contract) for _ in range(calls)])
        if contract.kind is Kind.VECTOR:
            return self._in_units(contract, np.stack([vectors(rng, shape) for _ in range(calls)]))
        return np.stack([self._tokens(contract, turn * calls + call) for call in range(calls)])

    def _spectrum(self, contract: InputContract, rng: np.random.Generator, calls: int, turn: int) -> Array:
        form = spectrum_form(contract.sample_shape, min(contract.low, default=None))
        return spectra(rng, calls, contract.sample_shape, form, self.rate, turn)

    def _tokens(self, contract: InputContract, index: int) -> Array:
        """One sample of tokens, or of what goes with them."""
        shape = contract.sample_shape
        size = shape[-1] if shape else 1
        # Inputs of the same length belong to the same sequence.
        lengths = draw_lengths(_rng(self.seed, index, f"length {size}"), size, self.padded, self.pairs)
        if contract.kind is Kind.TOKENS:
            return self._token_rows(contract, index, lengths)
        row = {Kind.MASK: lengths.mask, Kind.SEGMENTS: lengths.segments, Kind.POSITIONS: np.arange(size)}[contract.kind]
        return np.broadcast_to(row, shape) if shape else row[0]

    def _token_rows(self, contract: InputContract, index: int, lengths: Lengths) -> Array:
        shape, vocabulary = contract.sample_shape, max(contract.vocabulary, 1)
        rng = _rng(self.seed, index, contract.name)
        rows = [tokens(rng, lengths, vocabulary) for _ in range(math.prod(shape[:-1]))]
        return np.stack(rows).reshape(shape)

    def _pictures(self, contract: InputContract, first: int, count: int) -> Array:
        """Images like those that the preprocessing is meant for, preprocessed."""
        position = self.images.index(contract.name)
        return pictures(contract, first, count, self.seed + (position << 32))

    def _in_units(self, contract: InputContract, values: Array) -> Array:
        """Features in the units that the model shows; else over the declared range; else as they are."""
        units = self.units.get(contract.name)
        if units is not None:
            return np.asarray(values * units.scale + units.shift)
        if contract.low and contract.high and contract.kind is Kind.VECTOR:
            return into_range(values, *(by_channel(contract, limits) for limits in (contract.low, contract.high)))
        return values

    def _find_units(self, model: ir.Model | None) -> dict[str, Units]:
        found: dict[str, Units] = {}
        for contract in self.contracts if model is not None else ():
            if contract.kind is Kind.VECTOR or (contract.kind is Kind.SPECTRUM and not contract.low):
                self.units = found
                reference = [self._made(contract, turn, 1) for turn in range(REFERENCE)]
                units = None if model is None else find_units(model, contract.name, np.concatenate(reference))
                if units is not None:
                    found[contract.name] = units
        return found

    def _find_runner(self, model: ir.Model) -> StateRunner | None:
        """None where no output of the model can be the next call's state."""
        runner = StateRunner(model, self.contracts)
        inputs = [contract for contract in self.contracts if contract.kind is not Kind.STATE]
        runner.find_pairs({c.name: legal(c, self._made(c, 0, 1), c.dtype)[0] for c in inputs})
        return runner if runner.pairs else None


def audio_calls(rng: np.random.Generator, calls: int, shape: tuple[int, ...], rate: float, turn: int) -> Array:
    """Pieces of one recording, one after the other: float32 [calls, *shape]; the last axis is time.

    Models that keep a state get windows that begin a power of two apart: what is longer is repeated context.
    """
    length = shape[-1] if shape else 1
    hop = 1 << (length.bit_length() - 1) if calls > 1 else length
    channels = math.prod(shape[:-1])
    heard = [waveform(rng, length + hop * (calls - 1), rate, turn) for _ in range(channels)]
    windows = np.lib.stride_tricks.sliding_window_view(np.stack(heard), length, axis=1)[:, ::hop]
    return np.ascontiguousarray(windows.swapaxes(0, 1)).reshape(calls, *shape)
