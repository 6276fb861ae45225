"""The preprocessing of an image input: from what was said, else from the graph; and the legal range that follows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from ptqc.calibrate.contract_options import UNITS, Declared
from ptqc.calibrate.convert import is_float
from ptqc.calibrate.image_probe import probe_images
from ptqc.calibrate.image_units import RAW, find_units, image_runner
from ptqc.calibrate.preprocess import Preprocessing, apply, completed, pixels_as_image
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import OptionError, PtqcError, quoted
from ptqc.core.types import Array

PROBES = 8
PROBE_PIXELS = 4 * 224 * 224
MOST_PIXELS = 1 << 24  # of all probing images: more are not tried
CLOSE = 1e-2  # share of the range by which a declared one may differ: people round


@dataclass(frozen=True, slots=True)
class ImageUnits:
    """Complete preprocessing of images of the final size, and who says so; ``assumed`` where it is a guess."""

    steps: Preprocessing
    origin: str
    assumed: bool = False


def image_units(
    model: ir.Model,
    spec: InputSpec,
    declared: Declared,
    given: Preprocessing | None,
    channels: int,
    layout: str,
    blank: Callable[[], dict[str, Array]],
) -> ImageUnits:
    """How pixels become what the model takes.

    Args:
        spec: of the input, all sizes known.
        declared: by the user or metadata; its units go before those of ``given``.
        given: ``--preprocess``; sizes in it are of no matter here.
        channels, layout: as the graph says.
        blank: a call of the model with something for every input.

    Raises:
        OptionError: the declared range contradicts the preprocessing.
    """
    base = replace(given or Preprocessing(), resize=None, crop=None, resize_mode="shorter")
    said = dict(declared.steps)
    units = {key: said[key] for key in UNITS if key in said}
    steps = replace(base, layout=base.layout or ("NHWC" if layout == "NHWC" else "NCHW"))
    if units:
        steps = replace(steps, mean=(0.0,), std=(1.0,), scale=None)
        steps = _with(steps, Preprocessing.from_table(units), tuple(units))
    steps = _with(steps, Preprocessing.from_table(said), tuple(key for key in ("color", "layout") if key in said))
    if declared.range is not None and not units and given is None:
        steps = _with(steps, _units_of(declared.range), UNITS)
    elif not units and given is None:
        return _inferred(model, spec, steps, channels, blank)
    if not is_float(spec.dtype):
        steps = replace(steps, scale=steps.scale or 1.0)
    done = _completed(steps, spec)
    if declared.range is not None:
        check_range(declared.range, done, spec.name, "mean and std" if units else "--preprocess")
    return ImageUnits(done, "")


def legal_range(steps: Preprocessing) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Least and greatest values of pixels from 0 to 255: one for each channel, or one where all are equal."""
    with np.errstate(all="ignore"):  # what is too large is refused, see check_limits
        ends = [
            (np.asarray([pixel / (steps.scale or 1.0)]) - np.asarray(steps.mean)) / np.asarray(steps.std)
            for pixel in (0.0, 255.0)
        ]
    low, high = np.minimum(*ends), np.maximum(*ends)
    if len(set(low)) == 1 and len(set(high)) == 1:
        low, high = low[:1], high[:1]
    return tuple(map(float, low)), tuple(map(float, high))


def check_range(declared: tuple[float, float], steps: Preprocessing, name: str, source: str) -> None:
    """Raises OptionError where pixels do not have the declared range after the preprocessing."""
    low, high = legal_range(steps)
    found = min(low), max(high)
    if max(abs(a - b) for a, b in zip(found, declared, strict=True)) > CLOSE * (found[1] - found[0]):
        raise OptionError(
            f"range={declared[0]:g}:{declared[1]:g} contradicts the preprocessing",
            where=f"input {quoted(name)}",
            why=f"with {source}, pixels from 0 to 255 become {found[0]:.4g} to {found[1]:.4g}",
            fix="leave out the range, which follows from the preprocessing, or correct one of them",
        )


def _with(steps: Preprocessing, other: Preprocessing, keys: Sequence[str]) -> Preprocessing:
    return replace(steps, **{key: getattr(other, key) for key in keys})


def _units_of(values: tuple[float, float]) -> Preprocessing:
    """Scale, mean and std that take pixels from 0 to 255 to a range."""
    low, high = values
    if low == 0:
        return Preprocessing(scale=255 / high)
    return Preprocessing(scale=255.0, mean=(-low / (high - low),), std=(1 / (high - low),))


def _completed(steps: Preprocessing, spec: InputSpec) -> Preprocessing:
    """With colour, scale and layout filled in, without resizing: images are made in the final size."""
    try:
        done, _ = completed(steps, spec)
    except PtqcError as error:
        raise OptionError(
            error.what,
            where=error.where or f"input {quoted(spec.name)}",
            fix=error.fix or "declare kind=vector with a range",
        ) from error
    return replace(done, resize=None, crop=None, resize_mode="shorter")


def _inferred(
    model: ir.Model,
    spec: InputSpec,
    steps: Preprocessing,
    channels: int,
    blank: Callable[[], dict[str, Array]],
) -> ImageUnits:
    if not is_float(spec.dtype):
        return ImageUnits(_completed(_with(steps, RAW, ("mean", "std", "scale")), spec), f"{spec.dtype} pixels")
    shape = spec.shape or ()
    height, width = (shape[1:3] if steps.layout == "NHWC" else shape[2:])[:2]
    batch = shape[0] if isinstance(shape[0], int) else 1
    height, width = int(height or 1), int(width or 1)
    count = max(2, min(PROBES, PROBE_PIXELS // (height * width)))
    count += -count % batch

    def feeds(units: Preprocessing) -> list[dict[str, Array]]:
        pixels = probe_images(count, height, width, channels)
        done = _completed(_with(steps, units, ("mean", "std", "scale", *(("color",) if units.color else ()))), spec)
        ready = np.stack([apply(done, pixels_as_image(image, "probe"), "probe") for image in pixels])
        ready = ready.astype(spec.dtype)
        return [blank() | {spec.name: ready[first : first + batch]} for first in range(0, count, batch)]

    run = image_runner(model, feeds) if count * height * width <= MOST_PIXELS else None
    found = find_units(model, spec.name, channels, run, steps.color)
    keys = ("mean", "std", "scale", *(("color",) if found.steps.color else ()))
    return ImageUnits(_completed(_with(steps, found.steps, keys), spec), found.why, found.assumed)
