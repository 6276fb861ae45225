import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.synthesis.audio import KINDS, MAX_PIECE, waveform
from ptqc.calibrate.synthesis.spectrum import mel_filters, spectra, spectrum_form
from ptqc.core.types import Array


def _rng(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 4000), st.integers(0, 2**32), st.sampled_from([8000.0, 16000.0, 48000.0]), st.integers(0, 30))
def test_any_waveform_is_finite_and_within_full_scale(length: int, seed: int, rate: float, turn: int) -> None:
    sound = waveform(_rng(seed), length, rate, turn)
    assert sound.shape == (length,) and sound.dtype == np.float32
    assert np.isfinite(sound).all() and np.abs(sound).max() <= 1


def test_long_waveforms_go_on_beyond_one_piece() -> None:
    sound = waveform(_rng(0), 3 * MAX_PIECE + 5)
    assert len(sound) == 3 * MAX_PIECE + 5
    assert np.abs(sound[-MAX_PIECE // 2 :]).max() > 0.001


def test_the_levels_of_a_set_spread_over_forty_decibels_and_some_are_silent_or_clipped() -> None:
    sounds = [waveform(_rng(0, turn), 16000, turn=turn) for turn in range(100)]
    loud = np.array([np.percentile(np.abs(sound), 99.5) for sound in sounds])
    quiet = [level for level, turn in zip(loud, range(100), strict=True) if KINDS[turn % len(KINDS)] == "silence"]
    assert max(quiet) < 0.01
    others = np.sort([level for level, turn in zip(loud, range(100), strict=True) if level not in quiet])
    assert 20 * np.log10(others[-5] / others[5]) > 20
    assert any((np.abs(sound) == 1).mean() > 0.001 for sound in sounds)


def _share_below(sound: Array, frequency: float) -> float:
    energy = np.abs(np.fft.rfft(sound)) ** 2
    return float(energy[: int(frequency * len(sound) / 16000)].sum() / energy.sum())


def test_speech_has_its_energy_where_voices_have_it_and_pauses() -> None:
    sounds = [waveform(_rng(1, n), 32000, turn=KINDS.index("speech")) for n in range(16)]
    assert np.median([_share_below(sound, 4000) for sound in sounds]) > 0.8
    assert max(_share_below(sound, 40) for sound in sounds) < 0.05
    frames = np.stack(sounds)[:, : 200 * 160].reshape(16, 200, 160).std(axis=2)
    ratio = np.quantile(frames, 0.9, axis=1) / np.quantile(frames, 0.05, axis=1)
    assert np.median(ratio) > 5  # syllables and what lies between them


@pytest.mark.parametrize(
    ("shape", "low", "unit", "mel", "bins", "frames", "axis"),
    [
        ((1, 257, 1, 2), None, "complex", False, 257, 1, 1),
        ((257, 10, 2), None, "complex", False, 257, 10, 0),
        ((1, 257), None, "magnitude", False, 257, 1, 1),
        ((129, 30), 0.0, "magnitude", False, 129, 30, 0),
        ((513, 30), -100.0, "log", False, 513, 30, 0),
        ((80, 300), None, "log", True, 80, 300, 0),
        ((1, 98, 40), None, "log", True, 40, 98, 2),
        ((64, 96), 0.0, "magnitude", True, 64, 96, 0),
        ((640,), None, "log", True, 128, 5, None),
        ((7,), None, "log", True, 7, 1, None),
    ],
)
def test_shapes_say_what_a_spectrum_is(
    shape: tuple[int, ...], low: float | None, unit: str, mel: bool, bins: int, frames: int, axis: int | None
) -> None:
    form = spectrum_form(shape, low)
    assert (form.unit, form.mel, form.bins, form.frames, form.axis) == (unit, mel, bins, frames, axis)
    made = spectra(_rng(0), 3, shape, form, 16000.0, 0)
    assert made.shape == (3, *shape) and made.dtype == np.float32 and np.isfinite(made).all()


def test_parts_of_a_spectrum_are_those_of_a_real_waveform() -> None:
    form = spectrum_form((257, 4, 2), None)
    parts = spectra(_rng(0), 2, (257, 4, 2), form, 16000.0, 0)
    assert np.abs(parts[:, 0, :, 1]).max() < 1e-4  # the mean of a window has no imaginary part
    assert np.abs(parts[..., 1]).max() > 1e-3
    magnitudes = spectra(_rng(0), 2, (257, 4), spectrum_form((257, 4), None), 16000.0, 0)
    np.testing.assert_allclose(magnitudes, np.hypot(parts[..., 0], parts[..., 1]), rtol=1e-4, atol=1e-5)


def test_frames_lie_one_after_the_other_along_their_axis() -> None:
    tall = spectra(_rng(3), 1, (80, 20), spectrum_form((80, 20), None), 16000.0, 0)
    wide = spectra(_rng(3), 1, (20, 80), spectrum_form((20, 80), None), 16000.0, 0)
    np.testing.assert_array_equal(tall[0], wide[0].T)
    flat = spectra(_rng(3), 1, (640,), spectrum_form((640,), None), 16000.0, 0)
    rows = spectra(_rng(3), 1, (5, 128), spectrum_form((5, 128), None), 16000.0, 0)
    np.testing.assert_array_equal(flat[0].reshape(5, 128), rows[0])


def test_every_mel_band_hears_something_and_the_peaks_rise() -> None:
    filters = mel_filters(128, 512, 16000.0)
    assert filters.shape == (257, 128)
    assert (filters.max(axis=0) > 0).all() and (filters >= 0).all() and filters.max() <= 1
    assert (np.diff(filters.argmax(axis=0)) >= 0).all()
