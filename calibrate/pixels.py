"""Images that lie decoded in arrays of uint8 pixels, preprocessed when they are asked for."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from ptqc.calibrate.arrays import RowReader, Rows
from ptqc.calibrate.preprocess import Preprocessing, apply, completed, final_shape, final_size, pixels_as_image
from ptqc.calibrate.source import InputSpec
from ptqc.core.errors import DataError
from ptqc.core.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class PixelRows:
    """Preprocessed images from an array of pixels: uint8 [N, H, W], [N, H, W, 1] or [N, H, W, 3]."""

    pixels: Rows
    steps: Preprocessing
    wanted: np.dtype[Any]
    where: str

    @property
    def shape(self) -> tuple[int, ...]:
        """Of the preprocessed images."""
        height, width = final_size(self.steps, (self.pixels.shape[1], self.pixels.shape[2]))
        return (self.pixels.shape[0], *final_shape(self.steps, (height, width)))

    @property
    def dtype(self) -> np.dtype[Any]:
        """float32, or uint8 where the model takes integers."""
        return np.dtype(np.float32) if self.wanted.kind not in "iu" else np.dtype(np.uint8)

    @contextmanager
    def open(self) -> Iterator[RowReader]:
        """Reads from the first image."""
        with self.pixels.open() as reader:
            yield _PixelReader(self, reader)


class _PixelReader:
    def __init__(self, rows: PixelRows, reader: RowReader) -> None:
        self.rows, self.reader = rows, reader

    def read(self, rows: int) -> Array:
        where = self.rows.where
        images = [apply(self.rows.steps, pixels_as_image(one, where), where) for one in self.reader.read(rows)]
        return np.stack(images).astype(self.rows.dtype, copy=False)


def as_pixels(rows: Rows, spec: InputSpec, steps: Preprocessing, where: str) -> tuple[PixelRows, tuple[str, ...]]:
    """Rows of pixels as preprocessed images, with notes. DataError where they are no pixels."""
    shape = rows.shape
    if rows.dtype != np.uint8 or not (len(shape) == 3 or (len(shape) == 4 and shape[3] in (1, 3))) or 0 in shape[1:3]:
        raise DataError(
            f"preprocessing takes images, the data is {rows.dtype} {list(shape)}",
            where=where,
            fix="give uint8 [N, height, width, 3], or leave the preprocessing out",
        )
    done, notes = completed(steps, spec)
    return PixelRows(rows, done, spec.dtype, where), notes
