"""What the model takes, and what every source of data looks like to the rest of ptqc."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array

if TYPE_CHECKING:
    import onnx_ir as ir


@dataclass(frozen=True, slots=True)
class InputSpec:
    """One input of a model.

    Attributes:
        name: as in the graph.
        dtype: NumPy type (ml_dtypes' for bfloat16).
        shape: sizes; a name or None stands for a size that is free. None where not even the rank is known.
    """

    name: str
    dtype: np.dtype[Any]
    shape: tuple[int | str | None, ...] | None

    def __str__(self) -> str:
        return f"{self.dtype}{shape_text(self.shape)}"


def shape_text(shape: tuple[int | str | None, ...] | None) -> str:
    """A shape for people: ``[N, 3, 32, 32]``, ``?`` for a nameless free size."""
    if shape is None:
        return "[...]"
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def input_specs(model: "ir.Model") -> tuple[InputSpec, ...]:
    """The inputs that a caller has to feed, in the graph's order (initializers that are also inputs are left out).

    Raises ModelError for an input that is not a tensor of numbers.
    """
    graph = model.graph
    return tuple(_spec(value) for value in graph.inputs if value.name not in graph.initializers)


def _spec(value: "ir.Value") -> InputSpec:
    import onnx_ir as ir

    name = value.name or ""
    if value.dtype is None or value.dtype is ir.DataType.STRING or not isinstance(value.type, ir.TensorType):
        raise ModelError(
            f"the input {quoted(name)} is not a tensor of numbers",
            why=f"its type is {value.type}",
            fix="cut the model so that it begins with tensors of numbers",
        )
    shape = None
    if value.shape is not None:
        shape = tuple(size if isinstance(size, int) else size.value for size in value.shape)
    return InputSpec(name, np.dtype(value.dtype.numpy()), shape)


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One call of the model.

    Attributes:
        feeds: input name -> array of the model's own dtype and rank, ready for a session.
        samples: how many samples it holds (1 where the model has no free first axis).
        first: index of its first sample in the whole set, for messages.
        labels: int64 [samples, ...], or None.
    """

    feeds: Mapping[str, Array]
    samples: int
    first: int
    labels: Array | None = None


class Source(Protocol):
    """A set of samples that can be read several times, in the same order."""

    @property
    def description(self) -> str:
        """Where the data comes from, for reports: ``calib.npz (256 samples)``."""
        ...

    @property
    def digest(self) -> str:
        """SHA-256 over names, shapes, types and bytes of what was read: the key of caches."""
        ...

    @property
    def notes(self) -> tuple[str, ...]:
        """Sentences for people on what was converted, inferred or left out."""
        ...

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        ...

    def __len__(self) -> int:
        """Number of samples, at least 1."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most ``size`` samples (fewer at the end or where sizes change; fixed batches stay whole)."""
        ...
