"""The parts that images are made of: spectra of noise, cycles of gratings, outlines of leaves, colours, attractors."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.synthesis.fields import (
    bell,
    coordinates,
    cropped_wrapped,
    grating,
    power_noise,
    ramp,
    standardized,
)
from ptqc.calibrate.synthesis.fractals import fractals
from ptqc.calibrate.synthesis.images import gratings
from ptqc.calibrate.synthesis.leaves import dead_leaves, two_colour_gradient
from ptqc.calibrate.synthesis.palette import AXES, Palette
from ptqc.calibrate.synthesis.shapes import place_shape


def generator(seed=0):
    return np.random.default_rng(seed)


@pytest.mark.parametrize("exponent", [0.7, 1.0, 2.0])
@pytest.mark.parametrize("size", [(128, 128), (64, 200), (129, 77)])
def test_noise_has_the_spectrum_asked_for_in_every_direction(exponent, size):
    fields = [power_noise(generator(seed), *size, exponent) for seed in range(8)]
    assert all(field.dtype == np.float32 and field.shape == size for field in fields)
    assert all(abs(field.mean()) < 1e-4 and abs(field.std() - 1) < 1e-4 for field in fields)
    power = np.mean([np.abs(np.fft.fft2(field)) ** 2 for field in fields], axis=0)
    frequency = np.hypot(np.fft.fftfreq(size[0])[:, None], np.fft.fftfreq(size[1])[None, :])
    for axis in (np.s_[3 : size[0] // 2, :3], np.s_[:3, 3 : size[1] // 2]):  # along either axis
        slope, _ = np.polyfit(np.log(frequency[axis]).ravel(), np.log(power[axis]).ravel(), 1)
        assert abs(slope + 2 * exponent) < 0.3


@pytest.mark.parametrize("size", [(1, 1), (1, 2), (2, 1), (1, 7)])
def test_noise_on_next_to_no_pixels(size):
    field = power_noise(generator(), *size, 1.0)
    assert field.shape == size and np.isfinite(field).all() and abs(field.mean()) < 1e-6


def test_a_constant_has_no_spread_to_scale():
    assert np.array_equal(standardized(np.full((3, 4), 7.0)), np.zeros((3, 4)))


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 2**32), side=st.integers(8, 96))
def test_gratings_stay_within_their_cycles(seed, side):
    wave = grating(generator(seed), *coordinates(side, side), side)
    assert wave.dtype == np.float32 and np.abs(wave).max() <= 1
    changes = np.diff(wave > 0, axis=0).sum(axis=0).max(), np.diff(wave > 0, axis=1).sum(axis=1).max()
    # Two changes of sign a cycle, at most side / 4 cycles along any direction, and one more for the ends.
    assert max(changes) <= 2 * max(side / 4, 1.5) + 1


def test_small_fields():
    y, x = coordinates(3, 4)
    assert y.ravel().tolist() == [-1, 0, 1] and x.ravel().tolist() == [-1.5, -0.5, 0.5, 1.5]
    assert np.allclose(ramp(y, x, 0.0), [[0, 1 / 3, 2 / 3, 1]] * 3)
    assert np.allclose(bell(y, x, (0.0, 0.5), 2.0)[1], np.exp([-0.5, -0.125, 0, -0.125]))
    sheet = np.arange(6).reshape(2, 3)
    assert cropped_wrapped(sheet, 1, 2, 3, 2).tolist() == [[5, 3], [2, 0], [5, 3]]


@settings(deadline=None, max_examples=300)
@given(seed=st.integers(0, 2**32), radius=st.floats(2, 30))
def test_shapes_lie_whole_in_their_patch(seed, radius):
    patch = place_shape(generator(seed), 40, 50, radius)
    cover = patch.cover
    assert cover.shape == (patch.rows.stop - patch.rows.start, patch.columns.stop - patch.columns.start)
    assert patch.rows.stop <= 40 and patch.columns.stop <= 50 and cover.size > 0
    assert cover.min() >= 0 and cover.max() <= 1 and np.isfinite(cover).all()
    borders = [
        (patch.rows.start > 0, cover[0]),
        (patch.rows.stop < 40, cover[-1]),
        (patch.columns.start > 0, cover[:, 0]),
        (patch.columns.stop < 50, cover[:, -1]),
    ]
    assert all((border == 0).all() for inside, border in borders if inside)
    assert (cover[np.hypot(patch.y, patch.x) > 1.5 * radius + 2] == 0).all()


def test_shapes_have_area_and_soft_edges():
    patches = [place_shape(generator(seed), 200, 200, 20.0) for seed in range(200)]
    areas = np.array([patch.cover.sum() for patch in patches])
    edges = np.array([((patch.cover > 0) & (patch.cover < 1)).mean() for patch in patches])
    # From a narrow triangle cut by a corner of the image to a square of twice the radius.
    assert areas.max() <= 1600 * 1.02
    assert 400 < np.median(areas) < 1300
    assert np.median(edges) > 0.02


def test_palettes_vary_along_the_axes_of_colour():
    colours, spreads = [], []
    for seed in range(3000):
        palette = Palette(np.full(3, 0.5, np.float32), 0.1, 1.0)
        colours.append(palette.colour(generator(seed)))
        spreads.append(Palette.draw(generator(seed)).spread)
    drawn = np.stack(colours)
    assert drawn.dtype == np.float32 and drawn.min() >= 0 and drawn.max() <= 1
    measured = [((drawn - 0.5) * axis).sum(axis=1).std() for axis in AXES]
    assert np.allclose(measured, [3**0.5 * 0.1, 0.12, 0.05], rtol=0.06)
    assert 0.1 <= min(spreads) < 0.11 and 0.34 < max(spreads) <= 0.35


def test_grey_palettes_are_greyer():
    drawn = {
        saturation: np.stack(
            [Palette(np.full(3, 0.5, np.float32), 0.1, saturation).colour(generator(i)) for i in range(300)]
        )
        for saturation in (0.3, 2.0)
    }
    difference = {saturation: np.abs(colours[:, 0] - colours[:, 2]).mean() for saturation, colours in drawn.items()}
    assert difference[2.0] > 4 * difference[0.3]


@pytest.mark.parametrize("family", [dead_leaves, fractals, gratings])
@pytest.mark.parametrize("size", [(8, 8), (300, 40), (3, 5)])
def test_families_paint_over_their_background(family, size):
    changed = []
    for seed in range(12):
        palette = Palette.draw(generator(seed))
        image = family(generator(seed), *size, palette)
        background = two_colour_gradient(generator(seed), *size, palette)  # drawn first by each family
        assert image.shape == (*size, 3) and image.dtype == np.float32 and np.isfinite(image).all()
        changed.append((np.abs(image - background).max(axis=2) > 0.02).mean())
    assert np.mean(changed) > 0.05


def test_large_fractals_are_small_ones_enlarged():
    palette = Palette.draw(generator(3))
    small, large = fractals(generator(4), 256, 256, palette), fractals(generator(4), 512, 512, palette)
    again = large.reshape(256, 2, 256, 2, 3).mean(axis=(1, 3))
    assert np.abs(small - again).mean() < 0.02
