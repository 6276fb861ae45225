"""What every source of data looks like to the rest of ptqc."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Protocol

from ptqc.core.types import Array


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """One call of the model.

    Attributes:
        feeds: input name -> array of the model's own dtype and rank, ready for a session.
        samples: how many samples it holds (1 where the model has no free first axis).
        first: index of its first sample in the whole set, for messages.
        labels: int64 [samples], or None.
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
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        ...

    def __len__(self) -> int:
        """Number of samples, at least 1."""
        ...

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches of at most ``size`` samples (fewer at the end, one where the model's batch is fixed)."""
        ...
