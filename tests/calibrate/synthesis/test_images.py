"""Images made by rules: the same bytes from the same seed, mixed families, statistics of photographs."""

import hashlib
import os
import subprocess
import sys
import tracemalloc
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ptqc.calibrate.synthesis import images
from ptqc.calibrate.synthesis.images import synthesize_images

REPOSITORY = Path(__file__).resolve().parents[3]


@settings(deadline=None, max_examples=25)
@given(
    height=st.integers(1, 40),
    width=st.integers(1, 40),
    channels=st.sampled_from([1, 3]),
    seed=st.integers(0, 2**70),
    first=st.integers(0, 2**40),
)
def test_any_size_and_any_part_of_a_set(height, width, channels, seed, first):
    whole = synthesize_images(5, height, width, channels, seed, first)
    assert whole.dtype == np.uint8 and whole.shape == (5, height, width, channels)
    backwards = [synthesize_images(1, height, width, channels, seed, first + place)[0] for place in (4, 3, 2, 1, 0)]
    assert np.array_equal(whole, np.stack(backwards[::-1]))
    assert np.array_equal(whole[:3], synthesize_images(3, height, width, channels, seed, first))


def test_images_differ_from_each_other_and_between_seeds():
    sets = np.concatenate([synthesize_images(24, 16, 16, 3, seed) for seed in (0, 1, 2)])
    assert len(np.unique(sets.reshape(72, -1), axis=0)) == 72


def test_same_bytes_in_another_process_with_other_threads_and_hashes():
    code = (
        "import hashlib; from ptqc.calibrate.synthesis.images import synthesize_images as s;"
        "print(hashlib.sha256(s(8, 64, 48, 3, 5).tobytes()).hexdigest())"
    )
    settings_of = {"PYTHONHASHSEED": "7", "OMP_NUM_THREADS": "2", "OPENBLAS_NUM_THREADS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=REPOSITORY,
        env={**os.environ, "PYTHONPATH": str(REPOSITORY), **settings_of},
        check=True,
        capture_output=True,
        text=True,
    )
    assert done.stdout.strip() == hashlib.sha256(synthesize_images(8, 64, 48, 3, 5).tobytes()).hexdigest()


def test_families_take_turns(monkeypatch):
    def flat(value):
        return lambda rng, height, width, palette: np.full((height, width, 3), value, np.float32)

    monkeypatch.setattr(images, "FAMILIES", tuple(flat(value) for value in (0.2, 0.4, 0.6, 0.8)))
    monkeypatch.setattr(images, "_photographed", lambda rng, image: image)
    made = synthesize_images(6, 2, 2, 3, seed=0, first=3)
    assert made[:, 0, 0, 0].tolist() == [204, 51, 102, 153, 204, 51]


@pytest.mark.parametrize(
    "wrong",
    [{"channels": 2}, {"channels": 0}, {"height": 0}, {"width": -1}, {"count": -1}, {"seed": -1}, {"first": -1}],
)
def test_what_cannot_be_made_is_refused(wrong):
    with pytest.raises(ValueError, match="no images"):
        synthesize_images(**{"count": 1, "height": 8, "width": 8, "channels": 3, "seed": 0, **wrong})


def test_no_images_are_an_empty_array():
    assert synthesize_images(0, 8, 8, 3, 0).shape == (0, 8, 8, 3)


def test_grey_is_the_grey_of_the_coloured_image():
    # Colour images are blurred, stretched and rounded before they lose their colour; noise is the same.
    from PIL import Image

    coloured, grey = synthesize_images(12, 24, 24, 3, 3), synthesize_images(12, 24, 24, 1, 3)
    expected = np.stack([np.asarray(Image.fromarray(image).convert("L")) for image in coloured]).astype(int)
    unclipped = ((coloured > 0) & (coloured < 255)).all(axis=3)
    assert unclipped.mean() > 0.5
    assert np.abs(grey[..., 0].astype(int) - expected)[unclipped].max() <= 1


@pytest.mark.parametrize("side", [32, 64])
def test_statistics_are_those_of_varied_photographs(side):
    made = synthesize_images(160, side, side, 3, 1).astype(np.float32)
    brightness, contrast = made.mean(axis=(1, 2, 3)), made.std(axis=(1, 2, 3))
    assert 105 < brightness.mean() < 150 and brightness.std() > 35
    assert 60 < made.std() < 85  # CIFAR-10: 62, ImageNet: 70
    assert contrast.min() < 25 and contrast.max() > 80
    # Some black and white pixels, few: most of the range is used as it is.
    assert 0.005 < (made == 0).mean() < 0.1 and 0.005 < (made == 255).mean() < 0.15
    # Neighbours are alike (noise: 0), and channels too: luminance varies more than colour.
    along = np.corrcoef(made[:, :, 1:].ravel(), made[:, :, :-1].ravel())[0, 1]
    colour = np.corrcoef(made[..., 0].ravel(), made[..., 2].ravel())[0, 1]
    assert 0.8 < along < 0.99 and 0.4 < colour < 0.98


def test_memory_is_bounded_by_one_image():
    synthesize_images(1, 8, 8, 3, 0)  # what is imported on first use is not counted
    tracemalloc.start()
    made = synthesize_images(8, 512, 384, 3, 0)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak - made.nbytes < 30 * made[0].nbytes
