"""Images for an input that takes them: made as pixels, then preprocessed as photographs would be."""

import numpy as np

from ptqc.calibrate.arrays import MemoryRows
from ptqc.calibrate.contract import InputContract
from ptqc.calibrate.pixels import as_pixels
from ptqc.calibrate.preprocess import Preprocessing
from ptqc.calibrate.source import InputSpec
from ptqc.calibrate.synthesis.images import synthesize_images
from ptqc.core.errors import DataError, quoted
from ptqc.core.types import Array


def pictures(contract: InputContract, first: int, count: int, seed: int) -> Array:
    """Images ``first`` ... of the sequence of ``seed`` as the model takes them: [count, *sample_shape].

    Raises DataError for a shape that is no image's (1 or 3 channels), or that the preprocessing does not give.
    """
    shape, steps = contract.sample_shape, contract.preprocessing or Preprocessing()
    if len(shape) != 3 or not {1, 3} & {shape[0], shape[2]}:
        raise DataError(
            f"the input {quoted(contract.name)} of shape {list(contract.shape)} takes no images",
            fix=f"declare what it is: --input {contract.name}:kind=vector",
        )
    layout = steps.layout or ("NHWC" if shape[2] in (1, 3) and shape[0] not in (1, 3) else "NCHW")
    height, width = shape[1:] if layout == "NCHW" else shape[:2]
    channels = shape[0] if layout == "NCHW" else shape[2]
    if steps.resize is not None:  # images of that size pass the resizing as they are
        height, width = steps.resize
    pixels = synthesize_images(count, height, width, channels, seed, first)
    spec = InputSpec(contract.name, contract.dtype, (None, *shape))
    rows, _ = as_pixels(MemoryRows(pixels), spec, steps, "synthetic images")
    with rows.open() as reader:
        return reader.read(count)


def as_pixels_again(contract: InputContract, samples: Array) -> Array:
    """Images as people see them, from images as the model takes them: the preprocessing undone.

    Args:
        samples: [n, *contract.sample_shape].

    Returns:
        uint8 [n, height, width, channels] with 1 or 3 channels.
    """
    steps = contract.preprocessing or Preprocessing(scale=1.0 if contract.dtype.kind in "iu" else 255.0)
    values = np.asarray(samples, np.float32)
    if steps.layout != "NHWC":
        values = values.transpose(0, 2, 3, 1)
    values = values[..., : 3 if values.shape[3] >= 3 else 1]
    mean, std = (np.asarray(part, np.float32) for part in (steps.mean, steps.std))
    values = (values * std + mean) * np.float32(steps.scale or 1.0)
    if steps.color == "BGR":
        values = values[..., ::-1]
    return np.asarray(np.clip(np.rint(values), 0, 255), np.uint8)
