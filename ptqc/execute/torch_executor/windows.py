"""Where the windows of convolutions and pooling lie: sizes, strides, padding, as ONNX names them."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from ptqc.execute.torch_executor.registry import Call, NoTorchForm


@dataclass(frozen=True, slots=True)
class Windows:
    """One entry for each spatial axis.

    Attributes:
        kernel, strides, dilations: of the window.
        begin, end: padding before and after the data.
        ceil: whether a window that the data fills only in part counts.
    """

    kernel: Sequence[int]
    strides: Sequence[int]
    dilations: Sequence[int]
    begin: Sequence[int]
    end: Sequence[int]
    ceil: bool = False

    @property
    def symmetric(self) -> bool:
        """Whether both ends are padded alike, as torch's own padding does."""
        return self.begin == self.end and min(self.begin, default=0) >= 0

    @property
    def spans(self) -> list[int]:
        """From the first to the last element of a window."""
        return [(k - 1) * d + 1 for k, d in zip(self.kernel, self.dilations, strict=True)]

    def counts(self, sizes: Sequence[int]) -> list[int]:
        """The number of windows; those that begin in the padding at the end do not count."""
        found = []
        for axis, size in enumerate(sizes):
            begin, end, stride = self.begin[axis], self.end[axis], self.strides[axis]
            room = size + begin + end - self.spans[axis]
            count = (-(-room // stride) if self.ceil else room // stride) + 1
            if self.ceil and (count - 1) * stride >= size + begin:
                count -= 1
            found.append(count)
        return found

    def reach(self, sizes: Sequence[int]) -> list[int]:
        """How far the last window goes beyond the data and its padding."""
        counts = self.counts(sizes)
        ends = [(c - 1) * s + span for c, s, span in zip(counts, self.strides, self.spans, strict=True)]
        return [max(e - (n + b + a), 0) for e, n, b, a in zip(ends, sizes, self.begin, self.end, strict=True)]


def windows_of(call: Call, sizes: Sequence[int], kernel: Sequence[int], pooling: bool = False) -> Windows:
    """The windows that a node's attributes describe over data with these spatial sizes.

    Where ``pooling`` is padded automatically, it is so as if there were no dilations, as onnxruntime does it.

    Raises NoTorchForm for more than three spatial axes, or none.
    """
    rank = len(sizes)
    if not 1 <= rank <= 3:
        raise NoTorchForm(f"{rank} spatial axes")
    strides = call.get("strides") or [1] * rank
    dilations = call.get("dilations") or [1] * rank
    pads = call.get("pads")
    begin, end = (pads[:rank], pads[rank:]) if pads else ([0] * rank, [0] * rank)
    auto = call.get("auto_pad", "NOTSET")
    if auto in ("SAME_UPPER", "SAME_LOWER"):
        begin, end = _same(auto == "SAME_LOWER", sizes, kernel, strides, None if pooling else dilations)
    elif auto == "VALID":
        begin, end = [0] * rank, [0] * rank
    return Windows(kernel, strides, dilations, begin, end, bool(call.get("ceil_mode", 0)))


def _same(
    lower: bool, sizes: Sequence[int], kernel: Sequence[int], strides: Sequence[int], dilations: Sequence[int] | None
) -> tuple[list[int], list[int]]:
    """Padding at the beginning, which is the larger one with ``lower``, and end; negative only without dilations."""
    begin, end = [], []
    for axis, size in enumerate(sizes):
        span = kernel[axis] if dilations is None else (kernel[axis] - 1) * dilations[axis] + 1
        total = (-(-size // strides[axis]) - 1) * strides[axis] + span - size
        total = total if dilations is None else max(total, 0)
        begin.append(int((total + lower) / 2))
        end.append(total - begin[-1])
    return begin, end


def pad(x: torch.Tensor, begin: Sequence[int], end: Sequence[int], value: float = 0.0) -> torch.Tensor:
    """``x`` padded along its last axes; negative amounts crop."""
    if not any(begin) and not any(end):
        return x
    amounts = [amount for pair in zip(reversed(begin), reversed(end), strict=True) for amount in pair]
    return torch.nn.functional.pad(x, amounts, value=value)
