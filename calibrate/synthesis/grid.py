"""A contact sheet of sample images, to look at before they are used."""

import io
from pathlib import Path

import numpy as np

from ptqc.core.types import Array
from ptqc.graph.files import write_atomically

MOST_TILES = 8  # in a row, and rows
TILE, LARGEST_TILE, GAP = 96, 256, 2  # pixels
BACKGROUND = 255


def write_grid(images: Array, path: Path) -> None:
    """Writes the first 64 images or fewer as one PNG, whole or not at all; small ones enlarged without smoothing.

    Args:
        images: uint8 [n, height, width, channels], channels 1 or 3, n at least 1.

    Raises OutputError where the file cannot be written.
    """
    from PIL import Image

    if images.ndim != 4 or images.dtype != np.uint8 or images.shape[3] not in (1, 3) or 0 in images.shape:
        raise ValueError(f"no images: {images.dtype} {list(images.shape)}")
    shown = images[: MOST_TILES**2]
    columns = min(MOST_TILES, int(np.ceil(len(shown) ** 0.5)))
    rows = -(-len(shown) // columns)
    height, width = _tile_size(images.shape[1], images.shape[2])
    reduced = max(images.shape[1:3]) > LARGEST_TILE
    method = Image.Resampling.BOX if reduced else Image.Resampling.NEAREST
    mode = "L" if images.shape[3] == 1 else "RGB"
    sheet = Image.new(mode, (columns * (width + GAP) + GAP, rows * (height + GAP) + GAP), (BACKGROUND,) * len(mode))
    for place, image in enumerate(shown):
        row, column = divmod(place, columns)
        tile = Image.fromarray(image[..., 0] if mode == "L" else image)
        tile = tile.resize((width, height), method)
        sheet.paste(tile, (GAP + column * (width + GAP), GAP + row * (height + GAP)))
    encoded = io.BytesIO()
    sheet.save(encoded, "PNG")
    write_atomically(path, encoded.getvalue())


def _tile_size(height: int, width: int) -> tuple[int, int]:
    """A whole multiple of small sizes, large ones reduced."""
    longest = max(height, width)
    if longest > LARGEST_TILE:
        return max(1, height * LARGEST_TILE // longest), max(1, width * LARGEST_TILE // longest)
    factor = max(1, TILE // longest)
    return height * factor, width * factor
