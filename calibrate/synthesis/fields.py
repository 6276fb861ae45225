"""Scalar fields over an image that textures are made of: 1/f noise, gratings, gradients and windows."""

import numpy as np

from ptqc.core.types import Array


def coordinates(height: int, width: int) -> tuple[Array, Array]:
    """Centres of the pixels relative to the middle of the image: float32 y [height, 1] and x [1, width], in pixels."""
    y = np.arange(height, dtype=np.float32) - np.float32((height - 1) / 2)
    x = np.arange(width, dtype=np.float32) - np.float32((width - 1) / 2)
    return y[:, None], x[None, :]


def power_noise(rng: np.random.Generator, height: int, width: int, exponent: float) -> Array:
    """Noise with amplitudes of 1 / frequency**exponent: float32 [height, width], mean 0, standard deviation 1.

    It wraps around at the borders. An image of one pixel is 0.
    """
    rows = np.fft.fftfreq(height).astype(np.float32)[:, None]
    columns = np.fft.rfftfreq(width).astype(np.float32)[None, :]
    squares = rows**2 + columns**2
    squares[0, 0] = 1
    shape = (2, *squares.shape)
    parts = rng.standard_normal(shape, dtype=np.float32)
    parts *= squares ** np.float32(-exponent / 2)
    parts[:, 0, 0] = 0
    field = np.fft.irfft2(parts[0] + np.complex64(1j) * parts[1], s=(height, width))
    return standardized(field.astype(np.float32))


def standardized(field: Array) -> Array:
    """``field`` shifted and scaled to mean 0 and standard deviation 1, float32; a constant becomes 0."""
    centred = field.astype(np.float32) - np.float32(field.mean(dtype=np.float64))
    spread = np.sqrt(np.square(centred).mean(dtype=np.float64))
    centred /= np.float32(max(spread, 1e-12))
    return centred


def cropped_wrapped(sheet: Array, top: int, left: int, height: int, width: int) -> Array:
    """A window of a field that continues periodically, [height, width]."""
    rows = np.arange(top, top + height) % sheet.shape[0]
    columns = np.arange(left, left + width) % sheet.shape[1]
    window: Array = sheet[rows[:, None], columns[None, :]]
    return window


def ramp(y: Array, x: Array, angle: float) -> Array:
    """A linear gradient in the direction ``angle`` (radians), from 0 to 1 over the points given."""
    along: Array = y * np.float32(np.sin(angle)) + x * np.float32(np.cos(angle))
    low, high = along.min(), along.max()
    scaled: Array = (along - low) / max(high - low, np.float32(1e-6))
    return scaled


def grating(rng: np.random.Generator, y: Array, x: Array, side: float) -> Array:
    """A wave of any direction with values in [-1, 1], a sinusoid or square, 1.5 to side / 4 cycles over ``side``.

    Args:
        y, x: coordinates in pixels that broadcast against each other.
        side: pixels.
    """
    cycles = np.exp(rng.uniform(np.log(1.5), np.log(max(side / 4, 1.5))))
    angle, phase = rng.uniform(0, np.pi), rng.uniform(0, 2 * np.pi)
    turn = np.float32(2 * np.pi * cycles / side)
    wave: Array = np.sin(y * (turn * np.float32(np.sin(angle))) + x * (turn * np.float32(np.cos(angle))) + phase)
    if rng.random() < 0.5:
        return np.sign(wave).astype(np.float32)
    return wave.astype(np.float32)


def bell(y: Array, x: Array, centre: tuple[float, float], sigma: float) -> Array:
    """A Gaussian window with the value 1 at ``centre`` (y, x); lengths in pixels."""
    rate = np.float32(-0.5 / sigma**2)
    window: Array = np.exp(rate * (y - np.float32(centre[0])) ** 2) * np.exp(rate * (x - np.float32(centre[1])) ** 2)
    return window
