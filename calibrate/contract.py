"""What an input of a model is: its kind, legal range, units and layout, and how ptqc came to know it."""

from collections.abc import Iterable
from dataclasses import dataclass
from enum import StrEnum

import numpy as np

from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import shape_text
from ptqc.core.errors import quoted

GREATEST = 1e30  # magnitude of legal values: products with larger ones are no float32


class Kind(StrEnum):
    """What the numbers of an input stand for."""

    IMAGE = "image"  # pixels, after the preprocessing that mean and std describe
    AUDIO = "audio"  # samples of a waveform
    SPECTRUM = "spectrum"  # magnitudes, real and imaginary parts, or log-mel energies of sound
    TOKENS = "tokens"  # indices into a vocabulary
    MASK = "mask"  # 1 where there is a token, 0 where there is padding
    SEGMENTS = "segments"  # which sentence a token belongs to
    POSITIONS = "positions"  # 0, 1, 2, ...
    STATE = "state"  # what a recurrent model hands to its next call; zeros at first
    VECTOR = "vector"  # anything else: features, measurements
    VALUE = "value"  # the same in every call: a sampling rate


@dataclass(frozen=True, slots=True)
class InputContract:
    """One input of a model.

    Attributes:
        name: as in the graph.
        kind: what its numbers stand for.
        dtype: as the model declares it.
        shape: of a call with one sample, every size known; free sizes are chosen (and said so in ``origin``).
        stacked: no axis of ``shape`` numbers the samples (a scalar, a state [layers, batch, size]), so that arrays of
            samples have one axis more; otherwise the first does, and arrays are [samples, *shape[1:]].
        low, high: legal values as the model takes them (after preprocessing), one for each channel or one for all;
            empty where nothing is known.
        preprocessing: of an image: how uint8 pixels become what the model takes; None for other kinds.
        vocabulary: number of tokens, 0 where the input is no token.
        value: of kind VALUE.
        origin: who says so, for people: ``--input`` (or ``ptqc.toml``), ``metadata``, or what it was inferred from.
        assumed: the units are a guess: neither the user nor anything in the model speaks for them.
    """

    name: str
    kind: Kind
    dtype: np.dtype[np.generic]
    shape: tuple[int, ...]
    stacked: bool = False
    low: tuple[float, ...] = ()
    high: tuple[float, ...] = ()
    preprocessing: Preprocessing | None = None
    vocabulary: int = 0
    value: float = 0.0
    origin: str = "given"
    assumed: bool = False

    @property
    def sample_shape(self) -> tuple[int, ...]:
        """Of one sample in arrays of samples."""
        return self.shape if self.stacked else self.shape[1:]

    def __str__(self) -> str:
        """For people: what the input is, in which units, and how that is known."""
        parts = [f"{quoted(self.name)} is {self.kind} {shape_text(self.shape)}"]
        if self.vocabulary:
            parts.append(f"of {self.vocabulary} different ones")
        elif self.kind is Kind.VALUE:
            parts.append(f"{self.value:g}")
        elif self.low and self.high:
            parts.append(f"from {min(self.low):.4g} to {max(self.high):.4g}")
        if self.preprocessing is not None:
            parts.append(f"({self.preprocessing.color}, {self.preprocessing.layout})")
        return f"{' '.join(parts)}: {self.origin}"


def contract_notes(contracts: Iterable[InputContract]) -> tuple[str, ...]:
    """A sentence on every input, for the notes of a run; those that were not sure of say ``assumed``."""
    return tuple(f"the input {contract}" for contract in contracts)
