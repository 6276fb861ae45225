"""What a model's metadata says of its inputs: ``ptqc.input.NAME``, and what other tools write about images."""

import re
from collections.abc import Mapping

from ptqc.calibrate.contract import Kind
from ptqc.calibrate.contract_options import Declared
from ptqc.core.errors import OptionError, nearest, quoted

PREFIX = "ptqc.input."
# https://learn.microsoft.com/windows/ai/windows-ml: metadata of models that take images.
WINDOWS_COLORS = {"Gray8": "GRAY", "Rgb8": "RGB", "Bgr8": "BGR"}
WINDOWS_RANGES = {
    "NominalRange_0_255": (0.0, 255.0),
    "Normalized_0_1": (0.0, 1.0),
    "Normalized_1_1": (-1.0, 1.0),
    "NominalRange_16_235": (16.0, 235.0),
}


def read_metadata(metadata: Mapping[str, str], names: tuple[str, ...]) -> dict[str, Declared]:
    """What entries ``ptqc.input.NAME`` say, by name of the input; their text is that of ``--input`` without a name.

    Raises:
        OptionError: an entry makes no sense, or names no input.
    """
    found: dict[str, Declared] = {}
    for key in sorted(metadata):
        if not key.startswith(PREFIX):
            continue
        name = key.removeprefix(PREFIX)
        where = f"metadata entry {quoted(key)} of the model"
        if name not in names:
            raise OptionError(f"the model has no input {quoted(name)}", where=where, fix=nearest(name, names))
        try:
            declared = Declared.parse(metadata[key])
        except OptionError as error:
            raise OptionError(error.what, where=where, why=error.why, fix=error.fix) from error
        if declared.name:
            raise OptionError(
                f"{quoted(metadata[key])} has a name of its own", where=where, fix="leave out what stands before kind="
            )
        found[name] = declared
    return found


def image_metadata(metadata: Mapping[str, str]) -> Declared | None:
    """What Windows ML's or Ultralytics' entries say of the images that a model takes; None without such entries."""
    color = WINDOWS_COLORS.get(metadata.get("Image.BitmapPixelFormat", ""))
    values = WINDOWS_RANGES.get(metadata.get("Image.NominalPixelRange", ""))
    if color is not None or values is not None:
        return Declared(kind=Kind.IMAGE, range=values, steps=(("color", color),) if color else ())
    if metadata.get("author") == "Ultralytics":
        return Declared(kind=Kind.IMAGE, range=(0.0, 1.0), steps=(("color", "RGB"),))
    return None


def image_size(metadata: Mapping[str, str]) -> tuple[int, int] | None:
    """(height, width) that Ultralytics' entry ``imgsz`` gives, None without a usable one."""
    match = re.fullmatch(r"\[\s*(\d{1,5})\s*,\s*(\d{1,5})\s*\]", metadata.get("imgsz", "")[:32])
    if match is None or "0" in match.groups():
        return None
    return int(match[1]), int(match[2])
