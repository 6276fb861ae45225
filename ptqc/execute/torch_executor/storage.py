"""Tensors that wait: packed to the fewest bytes that hold them, and in a temporary file beyond a budget of memory."""

import tempfile
from dataclasses import dataclass, replace
from math import frexp
from typing import Any, BinaryIO

import torch

from ptqc.execute.torch_executor.quantized import Quantizer

Tensor = torch.Tensor
_HALF_EXPONENT = 15  # float16 holds numbers below 2**16


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """One tensor, packed.

    Attributes:
        packed: its bytes where they are in memory.
        shape, dtype: of what is packed.
        offset, room: of its bytes in the file where they are not in memory, and how many fit there.
        grid: the packed numbers are the codes of this quantizer, less its ``qmin``.
        factor: what float16 numbers are multiplied with.
    """

    packed: Tensor | None
    shape: torch.Size
    dtype: torch.dtype
    offset: int = 0
    room: int = 0
    grid: Quantizer | None = None
    factor: float | None = None

    @property
    def size(self) -> int:
        """Bytes."""
        return self.shape.numel() * self.dtype.itemsize


class Storage:
    """Holds tensors between uses; what else travels through a graph (sequences, text) is held as it is."""

    def __init__(self, budget: int) -> None:
        """``budget``: bytes in memory; what comes later goes to an unnamed temporary file."""
        self._budget, self._used = budget, 0
        self._file: BinaryIO | None = None
        self._end = 0
        self._free: dict[int, list[int]] = {}  # by size: batches repeat the same few

    @property
    def used(self) -> int:
        """Bytes in memory."""
        return self._used

    @property
    def bytes_in_file(self) -> int:
        """Size of the file, free places included."""
        return self._end

    def put(self, value: Any, grid: Quantizer | None = None, half: bool = False) -> Any:
        """Packs a value.

        Args:
            grid: the tensor lies on its values, as far as is known; others are found and kept exactly.
            half: float32 may lose all but 11 bits of each number.
        """
        if not isinstance(value, Tensor):
            return value
        found = _coded(value, grid) if grid is not None else None
        if found is None:
            found = _halved(value) if half else None
        if found is None:
            found = _plain(value)
        return self._placed(found)

    def get(self, stored: Any) -> Any:
        """The value that was put in."""
        if not isinstance(stored, Stored):
            return stored
        packed = self._read(stored) if stored.packed is None else stored.packed
        if stored.grid is not None:
            codes = packed.to(torch.float32).add_(stored.grid.qmin)
            return codes.sub_(stored.grid.zero_point).mul_(stored.grid.scale)
        return packed if stored.factor is None else packed.to(torch.float32).mul_(stored.factor)

    def drop(self, stored: Any) -> None:
        """Frees the place of a value that nobody gets any more."""
        if not isinstance(stored, Stored):
            return
        if stored.packed is None:
            self._free.setdefault(stored.room, []).append(stored.offset)
        else:
            self._used -= stored.size

    def _placed(self, stored: Stored) -> Stored:
        if self._used + stored.size <= self._budget:
            self._used += stored.size
            return stored
        assert stored.packed is not None
        if self._file is None:
            self._file = tempfile.TemporaryFile()  # noqa: SIM115 - as long as this object
        offset, room = self._place(stored.size)
        self._file.seek(offset)
        self._file.write(_bytes(stored.packed))
        return replace(stored, packed=None, offset=offset, room=room)

    def _place(self, size: int) -> tuple[int, int]:
        """Offset and room of the smallest free place that is not much too large, or of a new one at the end."""
        fitting = [room for room, offsets in self._free.items() if offsets and size <= room <= 2 * size]
        if fitting:
            return self._free[min(fitting)].pop(), min(fitting)
        self._end += size
        return self._end - size, size

    def _read(self, stored: Stored) -> Tensor:
        assert self._file is not None
        found = torch.empty(stored.shape, dtype=stored.dtype)
        self._file.seek(stored.offset)
        self._file.readinto(_bytes(found))  # type: ignore[attr-defined]
        return found


def _bytes(tensor: Tensor) -> memoryview:
    return tensor.reshape(-1).view(torch.uint8).numpy().data


def _plain(value: Tensor) -> Stored:
    packed = value.contiguous()
    return Stored(packed, packed.shape, packed.dtype)


def _coded(value: Tensor, grid: Quantizer) -> Stored | None:
    """The codes of ``value``, or None where it does not lie on the grid."""
    if grid.axis is not None or grid.qmax - grid.qmin > 255 or value.dtype is not torch.float32:
        return None
    codes = grid.quantize(value)
    packed = (codes - grid.qmin).to(torch.uint8).contiguous()
    if not torch.equal(codes.sub_(grid.zero_point).mul_(grid.scale), value):
        return None
    return Stored(packed, packed.shape, packed.dtype, grid=grid)


def _halved(value: Tensor) -> Stored | None:
    """``value`` as float16, after a power of two brought the greatest number to the top of its range."""
    if value.dtype is not torch.float32 or value.numel() == 0:
        return None
    least, most = value.aminmax()
    greatest = max(-float(least), float(most))
    if not 2.0**-100 < greatest < 2.0**100:  # zeros, infinite or not a number among others
        return None
    factor = 2.0 ** (frexp(greatest)[1] - _HALF_EXPONENT)
    packed = (value / factor).to(torch.float16).contiguous()
    return Stored(packed, packed.shape, packed.dtype, factor=factor)
