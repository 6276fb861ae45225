"""Sound without recordings: waveforms that have the levels, bands and rhythms of what models of sound listen to."""

from collections.abc import Callable

import numpy as np

from ptqc.core.types import Array

# What one waveform is, in turn, so that each kind has its share in any number of them. Speech comes most often:
# most models of sound are models of speech.
KINDS = ("speech", "noise", "speech", "harmonics", "mixture", "chirp", "speech", "noise", "mixture", "silence")
LEVELS_DB = (-40.0, 0.0)  # relative to full scale
LOUD = 99.5  # percentile of the magnitudes that has this level
CLIPPED = 0.04  # share of waveforms that are driven beyond full scale and clipped there
# Longer waveforms repeat pieces of this length at levels of their own: the statistics are the same.
MAX_PIECE = 1 << 16


def waveform(rng: np.random.Generator, length: int, rate: float = 16000.0, turn: int = 0) -> Array:
    """A waveform: float32 [length] in [-1, 1].

    Args:
        rng: decides everything.
        length: samples.
        rate: samples a second.
        turn: number of the waveform in its set, which decides what it is: see KINDS.
    """
    kind = KINDS[turn % len(KINDS)]
    piece = _recorded(rng, _shaped(rng, kind, min(length, MAX_PIECE), rate), rate)
    if length > MAX_PIECE:
        repeats = -(-length // MAX_PIECE)
        gains = 10 ** (-rng.uniform(0, 1, repeats))
        piece = np.concatenate([piece * gain for gain in gains])[:length]
    # Not the peak itself: recordings are as loud as their louder half, and what is rare may be clipped.
    peak = float(np.percentile(np.abs(piece), LOUD)) if kind != "silence" else 1.0
    # The middle of the levels is the most frequent one: full scale is rare, and wide ranges cost precision.
    level = 10 ** (rng.triangular(LEVELS_DB[0], sum(LEVELS_DB) / 2, LEVELS_DB[1]) / 20)
    if kind != "silence":
        if rng.random() < CLIPPED:
            level = rng.uniform(1.5, 4.0)
        piece = piece * (level / max(peak, 1e-9))
    # Every recording has a noise floor.
    piece = piece + rng.standard_normal(length) * 10 ** rng.uniform(-5, -3)
    return np.clip(piece, -1, 1).astype(np.float32)


def _shaped(rng: np.random.Generator, kind: str, length: int, rate: float) -> Array:
    makers: dict[str, Callable[[np.random.Generator, int, float], Array]] = {
        "speech": _speech,
        "noise": _noise,
        "harmonics": _harmonics,
        "chirp": _chirp,
        "mixture": _mixture,
        "silence": lambda rng, length, rate: np.zeros(length),
    }
    return makers[kind](rng, length, rate)


def _filtered(values: Array, rate: float, gain: Callable[[Array], Array]) -> Array:
    """``values`` with every frequency (Hz) multiplied by its gain."""
    size = 1 << (len(values) - 1).bit_length()  # lengths with large prime factors are slow
    spectrum = np.fft.rfft(values, size) * gain(np.fft.rfftfreq(size, 1 / rate))
    return np.asarray(np.fft.irfft(spectrum, size)[: len(values)])


def _noise(rng: np.random.Generator, length: int, rate: float) -> Array:
    """Noise of a band, falling by 0 to 12 dB an octave, swelling and fading."""
    low = 40 * (rate / 200) ** rng.random()
    high = low * (0.45 * rate / low) ** rng.random()
    slope = rng.uniform(0, 2)

    def gain(frequency: Array) -> Array:
        inside = 1 / (1 + (low / np.maximum(frequency, 1)) ** 4) / (1 + (frequency / high) ** 4)
        return np.asarray(inside * np.maximum(frequency / low, 0.1) ** -slope)

    return _filtered(rng.standard_normal(length), rate, gain) * _swell(rng, length, rate)


def _recorded(rng: np.random.Generator, values: Array, rate: float) -> Array:
    """What rooms and microphones leave: little below 100 Hz, and less of the high frequencies.

    Without it models hear energies that no recording has, and answer with activations that none provokes.
    """
    bottom, corner, slope = rng.uniform(50, 120), rng.uniform(400, 1200), rng.uniform(0.5, 1.5)

    def gain(frequency: Array) -> Array:
        low = (frequency / bottom) ** 2
        return np.asarray(low / (1 + low) * (1 + (frequency / corner) ** 2) ** (-slope / 2))

    return _filtered(values, rate, gain)


def _swell(rng: np.random.Generator, length: int, rate: float) -> Array:
    """A slow envelope in (0, 1]: [length]."""
    points = 2 + int(length / rate * rng.uniform(0.5, 5))
    heights = 10 ** -rng.uniform(0, 1, points)
    return np.interp(np.linspace(0, points - 1, length), np.arange(points), heights)


def _chirp(rng: np.random.Generator, length: int, rate: float) -> Array:
    """A tone that glides over several octaves."""
    start, end = np.exp(rng.uniform(np.log(40), np.log(0.45 * rate), 2))
    frequency = np.geomspace(start, end, length)
    return np.sin(2 * np.pi * np.cumsum(frequency) / rate + rng.uniform(0, 2 * np.pi)) * _swell(rng, length, rate)


def _harmonics(rng: np.random.Generator, length: int, rate: float) -> Array:
    """One to four notes, each a stack of harmonics that begins at once and decays: music, machines, animals."""
    total = np.zeros(length)
    time = np.arange(length) / rate
    for _ in range(rng.integers(1, 5)):
        pitch = 50 * 20 ** rng.random()
        begin = rng.uniform(-0.5, 0.7) * length / rate
        since = np.maximum(time - begin, 0)
        decay = np.where(time >= begin, np.exp(-since / rng.uniform(0.1, 2.0)), 0)
        vibrato = 1 + 0.005 * np.sin(2 * np.pi * rng.uniform(3, 7) * time)
        phase = 2 * np.pi * np.cumsum(pitch * vibrato) / rate
        slope = rng.uniform(0.5, 2)
        for number in range(1, 1 + min(12, int(0.45 * rate / pitch))):
            total += number**-slope * rng.uniform(0.3, 1) * np.sin(number * phase + rng.uniform(0, 6.28)) * decay
    return total


def _speech(rng: np.random.Generator, length: int, rate: float) -> Array:
    """Syllables of formants over a gliding voice or over noise, with pauses between phrases."""
    total = np.zeros(length)
    pitch = rng.uniform(80, 280)
    # Vocal tracts differ in length, and with them all formants.
    tract = rng.uniform(0.85, 1.2)
    at = int(rng.uniform(-0.2, 0.05) * rate)
    while at < length:
        size = int(rate * rng.uniform(0.08, 0.3))
        syllable = _syllable(rng, size, rate, pitch * rng.uniform(0.8, 1.25), tract) * 10 ** -rng.uniform(0, 1)
        first, last = max(at, 0), min(at + size, length)
        if last > first:
            total[first:last] += syllable[first - at : last - at]
        at += int(size * rng.uniform(0.7, 1.0))
        if rng.random() < 0.12:
            at += int(rate * rng.uniform(0.1, 0.6))
    return total


def _syllable(rng: np.random.Generator, size: int, rate: float, pitch: float, tract: float) -> Array:
    voiced = rng.random() < 0.75
    if voiced:
        glide = np.geomspace(pitch, pitch * rng.uniform(0.8, 1.2), size)
        source = np.diff(np.floor(np.cumsum(glide) / rate), prepend=0.0)
        formants = [(rng.uniform(250, 850), 90), (rng.uniform(800, 2300), 120), (rng.uniform(2200, 3200), 170)]
    else:
        source = rng.standard_normal(size) * 0.05
        formants = [(rng.uniform(1500, 3500), 600), (rng.uniform(3500, 7000), 1500)]

    def gain(frequency: Array) -> Array:
        peaks = sum(1 / np.hypot(1, (frequency - tract * centre) / width) for centre, width in formants)
        slope = 1 / np.maximum(frequency / 500, 1) if voiced else 1.0
        return np.asarray(peaks * slope * (frequency > 60))

    rise = np.sin(np.pi * np.linspace(0, 1, size)) ** rng.uniform(0.3, 1.5)
    return np.asarray(_filtered(source, rate, gain) * rise)


def _mixture(rng: np.random.Generator, length: int, rate: float) -> Array:
    """Speech in noise, 0 to 30 dB above it."""
    speech, noise = _speech(rng, length, rate), _noise(rng, length, rate)
    loudness = float(np.sqrt(np.mean(speech**2) / max(float(np.mean(noise**2)), 1e-12)))
    return speech + noise * loudness * 10 ** -rng.uniform(0, 1.5)
