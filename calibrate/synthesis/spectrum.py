"""What the front ends of models make of sound: spectra, their magnitudes, mel energies. Made from waveforms of ours."""

import math
from dataclasses import dataclass
from typing import Literal

import numpy as np

from ptqc.calibrate.synthesis.audio import waveform
from ptqc.core.types import Array

MEL_COUNTS = (128, 80, 64, 40, 96, 32, 24, 23)  # usual ones first
LEAST_ENERGY = 1e-10
# Frames of mel energies are this long and this far apart, in seconds.
WINDOW_SECONDS, HOP_SECONDS = 0.032, 0.016

Unit = Literal["complex", "magnitude", "log"]


@dataclass(frozen=True, slots=True)
class SpectrumForm:
    """How an input holds frames of a spectrum.

    Attributes:
        unit: real and imaginary parts on the last axis, magnitudes, or logarithms of energies.
        mel: bands of a mel filter bank rather than bins of a Fourier transform.
        bins: bins or bands of one frame.
        frames: frames of one sample.
        axis: the axis of the bins, in the shape of a sample without the axis of the parts; None where frames and bins
            share one axis, frame after frame.
    """

    unit: Unit
    mel: bool
    bins: int
    frames: int
    axis: int | None


def spectrum_form(shape: tuple[int, ...], low: float | None) -> SpectrumForm:
    """What an input of this shape (of one sample) holds.

    A size of 2^k + 1 counts the bins of a Fourier transform, a last axis of 2 their parts. Other sizes count mel bands.
    Bins are magnitudes unless the least legal value says that there are negative ones: logarithms.
    """
    sizes = shape[:-1] if len(shape) > 1 and shape[-1] == 2 else shape
    fourier = [axis for axis, size in enumerate(sizes) if size >= 33 and (size - 1) & (size - 2) == 0]
    if fourier:
        axis = fourier[-1]
        unit: Unit = "complex" if sizes != shape else "log" if low is not None and low < 0 else "magnitude"
        return SpectrumForm(unit, False, sizes[axis], math.prod(sizes) // sizes[axis], axis)
    unit = "magnitude" if low is not None and low >= 0 else "log"
    for count in MEL_COUNTS:
        if count in shape:
            axis = len(shape) - 1 - shape[::-1].index(count)
            return SpectrumForm(unit, True, count, math.prod(shape) // count, axis)
    total = math.prod(shape)
    count = next((count for count in MEL_COUNTS if total % count == 0), total)
    return SpectrumForm(unit, True, count, total // count, None)


def spectra(
    rng: np.random.Generator, calls: int, shape: tuple[int, ...], form: SpectrumForm, rate: float, turn: int
) -> Array:
    """Samples that follow each other in one recording: float32 [calls, *shape].

    Magnitudes are those of waveforms in [-1, 1] under a window of height 1; logarithms are natural, of energies.
    """
    frames = _frames(rng, calls * form.frames, form, rate, turn)
    values = _in_unit(frames, form, rate).astype(np.float32)
    if form.axis is None:
        return values.reshape(calls, *shape)
    sizes = shape[:-1] if form.unit == "complex" else shape
    others = sizes[: form.axis] + sizes[form.axis + 1 :]
    parts = (2,) if form.unit == "complex" else ()
    cut = values.reshape(calls, *others, form.bins, *parts)
    return np.ascontiguousarray(np.moveaxis(cut, 1 + len(others), 1 + form.axis))


def _frames(rng: np.random.Generator, count: int, form: SpectrumForm, rate: float, turn: int) -> Array:
    """Fourier transforms of windows of one waveform: complex [count, bins]."""
    size = _fourier_size(form, rate)
    hop = int(HOP_SECONDS * rate) if form.mel else size // int(rng.choice([2, 4]))
    sound = waveform(rng, size + hop * (count - 1), rate, turn)
    windows = np.lib.stride_tricks.sliding_window_view(sound, size)[::hop]
    # Front ends differ; what leaks between bins does too.
    shapes = (np.hanning(size), np.hanning(size), np.sqrt(np.hanning(size)), np.ones(size))
    window = shapes[0 if form.mel else int(rng.integers(len(shapes)))].astype(np.float32)
    return np.asarray(np.fft.rfft(windows * window))


def _fourier_size(form: SpectrumForm, rate: float) -> int:
    return 2 * (form.bins - 1) if not form.mel else 1 << round(math.log2(WINDOW_SECONDS * rate))


def _in_unit(frames: Array, form: SpectrumForm, rate: float) -> Array:
    if form.unit == "complex":
        return np.stack([frames.real, frames.imag], axis=-1)
    if form.mel:
        energies = (frames.real**2 + frames.imag**2) @ mel_filters(form.bins, _fourier_size(form, rate), rate)
    else:
        energies = frames.real**2 + frames.imag**2
    return np.asarray(np.log(np.maximum(energies, LEAST_ENERGY)) if form.unit == "log" else np.sqrt(energies))


def mel_filters(bands: int, size: int, rate: float) -> Array:
    """Triangles evenly spaced on the mel scale: float64 [size // 2 + 1, bands]."""
    top = 2595 * math.log10(1 + rate / 2 / 700)
    corners = 700 * (10 ** (np.linspace(0, top, bands + 2) / 2595) - 1) * size / rate
    place = np.arange(size // 2 + 1)[:, None]
    # Narrow triangles at the bottom may fall between two bins; they get the nearest one.
    left, centre, right = corners[:-2], corners[1:-1], corners[2:]
    width_up, width_down = np.maximum(centre - left, 1), np.maximum(right - centre, 1)
    filters: Array = np.maximum(0, np.minimum(1 - (centre - place) / width_up, 1 - (place - centre) / width_down))
    return filters
