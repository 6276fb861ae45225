"""A metric of the user's own, named ``module:function``: loaded and run only because the user named it."""

import math
from collections.abc import Callable

import numpy as np

from ptqc.core.errors import DataError, OptionError, quoted
from ptqc.core.types import Array
from ptqc.report.estimates import Estimate
from ptqc.report.metrics import Figure, Observation

MAX_HELD_BYTES = 1 << 30  # of outputs, both models together

UserFunction = Callable[[list[Array], Array | None], float]


class FunctionMetric:
    """Calls ``function(outputs, labels)`` once with the outputs of the whole set.

    Figures such as a rank correlation do not add up over batches, so the outputs are held, up to a limit.
    """

    def __init__(self, name: str, function: UserFunction) -> None:
        self.name, self.function = name, function
        self.samples = self.held_bytes = 0
        self.outputs: list[list[Array]] = []
        self.references: list[list[Array]] = []
        self.labels: list[Array] = []

    def obstacle(self, seen: Observation) -> str | None:
        """Any outputs will do; the function decides what it needs."""
        return None

    def update(self, seen: Observation) -> None:
        """Keeps the outputs. DataError above the limit."""
        for kept, outputs in ((self.outputs, seen.outputs), (self.references, seen.reference)):
            if outputs is not None:
                kept.append(list(outputs.values()))
                self.held_bytes += sum(value.nbytes for value in outputs.values())
        if self.held_bytes > MAX_HELD_BYTES:
            raise DataError(
                f"the outputs are too many for the metric {quoted(self.name)}",
                why=f"a metric of one's own holds all outputs, at most {MAX_HELD_BYTES >> 20} MiB",
                fix="evaluate fewer samples with --samples",
            )
        self.samples += seen.samples
        if seen.labels is not None:
            self.labels.append(seen.labels)

    def figure(self) -> Figure:
        """What the function returns; without interval. OptionError where it fails."""
        labels = np.concatenate(self.labels) if self.labels else None
        estimate = self._call(self.outputs, labels)
        if not self.references:
            return Figure(self.name, "number", self.samples, estimate)
        reference = self._call(self.references, labels)
        difference = Estimate(estimate.value - reference.value)
        return Figure(self.name, "number", self.samples, estimate, reference, difference)

    def _call(self, batches: list[list[Array]], labels: Array | None) -> Estimate:
        columns = list(zip(*batches, strict=True))
        if any(part.ndim == 0 or part.shape[1:] != column[0].shape[1:] for column in columns for part in column):
            raise DataError(
                f"the metric {quoted(self.name)} cannot be applied",
                why="the outputs of different samples differ in shape",
                fix="use data of one shape, or a metric of ptqc's own",
            )
        joined = [np.concatenate(column) for column in columns]
        try:
            value = float(self.function(joined, labels))
        except Exception as error:  # the user's code may raise anything; it is reported as theirs
            raise OptionError(
                f"the metric {quoted(self.name)} failed",
                why=f"{type(error).__name__}: {error}",
                fix="it is called as function(outputs: list of arrays, labels: array or None) and returns a number",
            ) from error
        if not math.isfinite(value):
            raise OptionError(f"the metric {quoted(self.name)} returned {value}", fix="return a finite number")
        return Estimate(value)
