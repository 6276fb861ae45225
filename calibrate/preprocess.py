"""What is done to an image before the network sees it: read from text or from the ``[preprocess]`` table of a file."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from ptqc.calibrate.convert import is_float
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError, OptionError, nearest, quoted
from ptqc.core.types import Array

if TYPE_CHECKING:
    from PIL import Image

Size = tuple[int, int]  # height, width
MAX_SIDE = 16384
WORDS = {
    "layout": ("NCHW", "NHWC"),
    "color": ("RGB", "BGR", "GRAY"),
    "resize_mode": ("shorter", "exact"),
    "interpolation": ("nearest", "bilinear", "bicubic", "lanczos"),
}
ASSUMED = "no preprocessing was given: pixels were divided by 255, without mean and std"


@dataclass(frozen=True, slots=True)
class Preprocessing:
    """Steps in this order: colour, resize, central crop, ``(pixel / scale - mean) / std``, layout.

    Attributes:
        resize: pixels of the shorter side, or (height, width) with ``resize_mode`` exact; None leaves the size.
        crop: (height, width) cut out of the middle; None leaves all.
        mean, std: one number or one for each channel, in units of pixel / scale.
        scale: what pixels (0 to 255) are divided by; None: 1 if mean or std show that they are meant for 0 to 255,
            else 255.
        layout: order of the axes; None: from the model's input.
        color: order of the channels; None: GRAY for a model with one channel, else RGB.
        resize_mode: ``shorter`` keeps the proportions, ``exact`` does not.
        interpolation: of the resizing, with Pillow's antialiasing.
    """

    resize: Size | None = None
    crop: Size | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)
    scale: float | None = None
    layout: Literal["NCHW", "NHWC"] | None = None
    color: Literal["RGB", "BGR", "GRAY"] | None = None
    resize_mode: Literal["shorter", "exact"] = "shorter"
    interpolation: Literal["nearest", "bilinear", "bicubic", "lanczos"] = "bilinear"

    @classmethod
    def parse(cls, text: str) -> "Preprocessing":
        """Reads ``resize=256,crop=224,mean=0.485:0.456:0.406,std=0.229:0.224:0.225,layout=NCHW,color=RGB``.

        Sizes are one number or ``HEIGHTxWIDTH``. Raises OptionError for anything else.
        """
        table: dict[str, Any] = {}
        for part in filter(None, (part.strip() for part in text.split(","))):
            key, separator, value = part.partition("=")
            if not separator:
                raise OptionError(
                    f"{quoted(part)} is no preprocessing step",
                    why=f"the keys are {', '.join(item.name for item in fields(cls))}",
                    fix="write key=value pairs like resize=256,crop=224",
                )
            if key.strip() in table:
                raise OptionError(f"the preprocessing key {quoted(key)} is given twice")
            table[key.strip()] = value.strip()
        return cls.from_table(table)

    @classmethod
    def from_table(cls, table: Mapping[str, Any]) -> "Preprocessing":
        """Reads the ``[preprocess]`` table: numbers, lists of numbers, or the texts that :meth:`parse` takes.

        Raises OptionError for unknown keys (names the nearest) and for values that make no sense.
        """
        names = [item.name for item in fields(cls)]
        values: dict[str, Any] = {}
        for key, value in table.items():
            name = key.replace("-", "_")
            if name not in names:
                raise OptionError(f"there is no preprocessing key {quoted(key)}", fix=nearest(name, names))
            if name in ("resize", "crop"):
                values[name] = _size(key, value)
            elif name in WORDS:
                values[name] = _word(key, value, WORDS[name])
            else:
                values[name] = _numbers(key, value)
        if "scale" in values:
            values["scale"] = values["scale"][0]
        one_side = values.get("resize_mode") == "shorter" and "resize" in values
        if one_side and values["resize"][0] != values["resize"][1]:
            raise OptionError("resize gives two sides, which resize_mode=shorter has no use for")
        if 0.0 in (*values.get("std", ()), values.get("scale")):
            raise OptionError("std and scale divide, so they cannot be 0")
        size = table.get("resize")
        if "resize_mode" not in values and (isinstance(size, (list, tuple)) or "x" in str(size).lower()):
            values["resize_mode"] = "exact"
        return cls(**values)

    def text(self) -> str:
        """The inverse of :meth:`parse`, without what is left open."""
        parts = []
        for item in fields(self):
            value = getattr(self, item.name)
            if value is None:
                continue
            separator = "x" if item.name in ("resize", "crop") else ":"
            parts.append(
                f"{item.name}={separator.join(map(_short, value)) if isinstance(value, tuple) else _short(value)}"
            )
        return ",".join(parts)


def _short(value: object) -> str:
    return str(int(value)) if isinstance(value, float) and value.is_integer() else str(value)


def _numbers(key: str, value: Any) -> tuple[float, ...]:
    parts = value.split(":") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    try:
        numbers = tuple(float(part) for part in parts)
    except (TypeError, ValueError, OverflowError) as error:
        raise OptionError(f"{quoted(value)} is no number", where=f"preprocessing key {key}") from error
    if not numbers or not all(map(math.isfinite, numbers)) or len(numbers) > (1 if key == "scale" else 4):
        raise OptionError(
            f"{quoted(value)} is not one number for all channels or one for each", where=f"preprocessing key {key}"
        )
    return numbers


def _size(key: str, value: Any) -> Size:
    parts = (
        value.lower().split("x") if isinstance(value, str) else value if isinstance(value, (list, tuple)) else [value]
    )
    try:
        sides = [int(part) for part in parts]
    except (TypeError, ValueError):
        sides = []
    if len(sides) not in (1, 2) or not all(0 < side <= MAX_SIDE for side in sides):
        raise OptionError(
            f"{quoted(value)} is no size",
            where=f"preprocessing key {key}",
            fix="write it like 224 or 240x320 (height x width)",
        )
    return sides[0], sides[-1]


def _word(key: str, value: Any, valid: tuple[str, ...]) -> str:
    for word in valid:
        if str(value).lower() == word.lower():
            return word
    raise OptionError(f"{quoted(value)} is unknown", where=f"preprocessing key {key}", fix=nearest(str(value), valid))


def completed(steps: Preprocessing | None, spec: InputSpec) -> tuple[Preprocessing, tuple[str, ...]]:
    """``steps`` with all that was left open taken from the model's input, and notes on what was assumed.

    Raises:
        DataError: the input takes no images, or images of another size than the steps give.
    """
    given = steps or Preprocessing()
    layout, channels, size = _image_shape(spec, given)
    notes = []
    done = replace(given, layout=layout, color=given.color or ("GRAY" if channels == 1 else "RGB"))
    if channels is not None and channels != (1 if done.color == "GRAY" else 3):
        raise DataError(f"the input {quoted(spec.name)} takes {spec}, which does not fit color={done.color}")
    if done.scale is None:
        large = max(map(abs, (*given.mean, *given.std))) > 2
        done = replace(done, scale=1.0 if large or not is_float(spec.dtype) else 255.0)
    if steps is None and is_float(spec.dtype):
        notes.append(ASSUMED)
    wanted = given.crop or (given.resize if given.resize_mode == "exact" else None)
    height, width = size
    if height is not None and width is not None:
        if wanted is None:
            resize = given.resize or (min(height, width), min(height, width))
            exact = given.resize is None and height != width
            done = replace(done, crop=(height, width), resize=(height, width) if exact else resize)
            done = replace(done, resize_mode="exact") if exact else done
            how = "to the input's size" if exact else f"to {resize[0]} on the shorter side, then cropped"
            notes.append(f"images were resized {how}, as the model takes {height}x{width}")
        elif wanted != (height, width):
            raise DataError(
                f"the preprocessing gives {wanted[0]}x{wanted[1]} pixels, the input {quoted(spec.name)} takes {spec}",
                fix=f"use crop={height}x{width}",
            )
    if not is_float(spec.dtype) and (set(done.mean) != {0.0} or set(done.std) != {1.0} or done.scale != 1.0):
        raise DataError(f"the input {quoted(spec.name)} takes {spec.dtype} pixels", fix="leave out mean, std and scale")
    count = 1 if done.color == "GRAY" else 3
    for name, values in (("mean", done.mean), ("std", done.std)):
        if len(values) not in (1, count):
            raise DataError(f"{name} has {len(values)} numbers for {count} channels", where="preprocessing")
    return done, tuple(notes)


def _image_shape(
    spec: InputSpec, given: Preprocessing
) -> tuple[Literal["NCHW", "NHWC"], int | None, tuple[int | None, int | None]]:
    """Layout, channels and (height, width) of the input, None where they are free."""
    if spec.shape is None or len(spec.shape) != 4:
        raise DataError(
            f"the input {quoted(spec.name)} takes {spec}, not images",
            fix="give the data as .npz with the input names as keys",
        )
    first, last = spec.shape[1], spec.shape[3]
    layout = given.layout or ("NHWC" if last in (1, 3) and first not in (1, 3) else "NCHW")
    channels = first if layout == "NCHW" else last
    sides = spec.shape[2:] if layout == "NCHW" else spec.shape[1:3]
    if isinstance(channels, int) and channels not in (1, 3):
        raise DataError(f"the input {quoted(spec.name)} takes {spec}: images have 1 or 3 channels")
    height, width = (side if isinstance(side, int) else None for side in sides)
    return layout, channels if isinstance(channels, int) else None, (height, width)


def final_size(steps: Preprocessing, size: Size) -> Size:
    """(height, width) after resizing and cropping an image of ``size``."""
    return steps.crop or _resized(steps, size)


def final_shape(steps: Preprocessing, size: Size) -> tuple[int, int, int]:
    """Shape of one image of (height, width) ``size`` in the layout and channels of ``steps``."""
    channels = 1 if steps.color == "GRAY" else 3
    return (channels, *size) if steps.layout == "NCHW" else (*size, channels)


def _resized(steps: Preprocessing, size: Size) -> Size:
    if steps.resize is None:
        return size
    if steps.resize_mode == "exact":
        return steps.resize
    side, shorter = steps.resize[0], min(size)
    # As torchvision does: the longer side is cut to a whole number.
    height, width = (side if edge == shorter else int(side * edge / shorter) for edge in size)
    return height, width


def apply(steps: Preprocessing, image: "Image.Image", where: str) -> Array:
    """The image as the model takes it, without batch axis: float32 [C, H, W] or [H, W, C].

    Args:
        steps: as :func:`completed` returns them.

    Raises:
        DataError: the image is smaller than the crop.
    """
    from PIL import Image

    if image.mode[0] in "IF":
        raise DataError(f"the image has pixels of the kind {image.mode}, not 8 bits", where=where, fix="convert it")
    image = image.convert("L" if steps.color == "GRAY" else "RGB")
    height, width = _resized(steps, (image.height, image.width))
    if max(height, width) > MAX_SIDE:
        raise DataError(f"the image becomes {height}x{width} when resized", where=where, why="it is too narrow")
    if (height, width) != (image.height, image.width):
        image = image.resize((width, height), Image.Resampling[steps.interpolation.upper()])
    if steps.crop is not None:
        tall, wide = steps.crop
        if tall > height or wide > width:
            raise DataError(
                f"the image has {height}x{width} pixels, less than the crop of {tall}x{wide}",
                where=where,
                fix=f"add resize={max(tall, wide)}",
            )
        top, left = (height - tall) // 2, (width - wide) // 2
        image = image.crop((left, top, left + wide, top + tall))
    return _normalized(steps, np.asarray(image))


def _normalized(steps: Preprocessing, pixels: Array) -> Array:
    """uint8 [H, W] or [H, W, C] -> float32 in the final layout."""
    pixels = pixels[..., None] if pixels.ndim == 2 else pixels
    if steps.color == "BGR":
        pixels = pixels[..., ::-1]
    values: Array = pixels.astype(np.float32) / np.float32(steps.scale or 1.0)
    values = (values - np.asarray(steps.mean, np.float32)) / np.asarray(steps.std, np.float32)
    return np.ascontiguousarray(values.transpose(2, 0, 1) if steps.layout == "NCHW" else values)


def pixels_as_image(pixels: Array, where: str) -> "Image.Image":
    """uint8 [H, W], [H, W, 1] or [H, W, 3] as an image. DataError for another shape or type."""
    from PIL import Image

    if pixels.dtype == np.uint8 and pixels.ndim == 3 and pixels.shape[2] == 1:
        pixels = pixels[..., 0]
    if pixels.dtype != np.uint8 or not (pixels.ndim == 2 or (pixels.ndim == 3 and pixels.shape[2] == 3)):
        raise DataError(f"an array of {pixels.dtype} {list(pixels.shape)} is no image", where=where)
    return Image.fromarray(pixels)
