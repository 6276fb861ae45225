"""The first samples of a source, as a source."""

from collections.abc import Iterator
from dataclasses import dataclass

from ptqc.calibrate.source import Batch, Source


@dataclass(frozen=True, slots=True)
class FirstSamples:
    """The first ``count`` samples of ``source``; a batch that the model takes only whole may go beyond."""

    source: Source
    count: int

    @property
    def description(self) -> str:
        """Where the data comes from."""
        if len(self) == len(self.source):
            return self.source.description
        return f"the first {len(self)} samples of {self.source.description}"

    @property
    def digest(self) -> str:
        """Key of caches."""
        return f"{self.source.digest}:{len(self)}"

    @property
    def notes(self) -> tuple[str, ...]:
        """Those of the whole source."""
        return self.source.notes

    @property
    def has_labels(self) -> bool:
        """Whether batches carry labels."""
        return self.source.has_labels

    def __len__(self) -> int:
        return min(self.count, len(self.source))

    def batches(self, size: int) -> Iterator[Batch]:
        """Batches until ``count`` samples are reached."""
        for batch in self.source.batches(min(size, self.count)):
            yield batch
            if batch.first + batch.samples >= self.count:
                return
