"""Where the windows of convolutions and pools lie: pads, strides and the slice that each tap reads."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Windows:
    """The windows over padded spatial axes.

    Attributes:
        pads: before and after each axis; the one after covers what ``ceil_mode`` adds.
        sizes: of the result.
        strides, dilations: of each axis.
        taps: for each axis and position in the window the slice of the padded axis that it reads.
    """

    pads: tuple[tuple[int, int], ...]
    sizes: tuple[int, ...]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    taps: tuple[tuple[slice, ...], ...]


def windows(spatial: Sequence[int], kernel: Sequence[int], attributes: Mapping[str, Any]) -> Windows:
    """As the attributes of Conv and MaxPool say: ``strides``, ``dilations``, ``pads``, ``auto_pad``, ``ceil_mode``.

    Raises:
        ValueError: a window does not fit.
    """
    rank = len(kernel)
    if len(spatial) != rank:
        raise ValueError(f"windows of {rank} axes over {len(spatial)}")
    strides = tuple(int(stride) for stride in attributes.get("strides") or [1] * rank)
    dilations = tuple(int(step) for step in attributes.get("dilations") or [1] * rank)
    given = [int(size) for size in attributes.get("pads") or [0] * (2 * rank)]
    pads, sizes, taps = [], [], []
    for axis in range(rank):
        extent = (kernel[axis] - 1) * dilations[axis] + 1
        before, after, size = _along(
            spatial[axis], extent, strides[axis], (given[axis], given[axis + rank]), attributes
        )
        if size < 1:
            raise ValueError(f"a window of {extent} does not fit {spatial[axis]}")
        pads.append((before, max(after, (size - 1) * strides[axis] + extent - spatial[axis] - before)))
        sizes.append(size)
        last = (size - 1) * strides[axis] + 1
        starts = range(0, extent, dilations[axis])
        taps.append(tuple(slice(start, start + last, strides[axis]) for start in starts))
    return Windows(tuple(pads), tuple(sizes), strides, dilations, tuple(taps))


def _along(
    length: int, extent: int, stride: int, pads: tuple[int, int], attributes: Mapping[str, Any]
) -> tuple[int, int, int]:
    """Pads before and after one axis and the number of windows."""
    automatic = attributes.get("auto_pad", "NOTSET")
    if automatic in ("SAME_UPPER", "SAME_LOWER"):
        size = -(-length // stride)
        total = max((size - 1) * stride + extent - length, 0)
        less, more = total // 2, total - total // 2
        return (less, more, size) if automatic == "SAME_UPPER" else (more, less, size)
    before, after = (0, 0) if automatic == "VALID" else pads
    room = length + before + after - extent
    if not attributes.get("ceil_mode", 0):
        return before, after, room // stride + 1
    size = -(-room // stride) + 1
    # A window that begins in the padding behind the data is none (ONNX 1.16 and PyTorch).
    return before, after, size - 1 if (size - 1) * stride >= length + before else size
