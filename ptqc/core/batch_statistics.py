"""What a BatchNormalization knows of the data that a network was trained on, kept when it is folded away."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from ptqc.core.errors import ModelError, quoted
from ptqc.core.types import Array

METADATA_KEY = "ptqc.batchnorm"  # of a model: a JSON list
VARIANCE_FLOOR = 1e-6  # added to variances, so that dead channels do not divide by zero
_PARAMETERS = ("gamma", "beta", "mean", "variance")


@dataclass(frozen=True, slots=True, eq=False)
class BatchStatistics:
    """Running statistics of one BatchNormalization, and the tensor at which they can be met again.

    Attributes:
        tensor: of the folded graph, channels along its second axis.
        normalized: ``tensor`` is the BatchNormalization's output, else its input.
        gamma, beta, mean, variance: float64 [C], its parameters.
    """

    tensor: str
    normalized: bool
    epsilon: float
    gamma: Array
    beta: Array
    mean: Array
    variance: Array

    @property
    def center(self) -> Array:
        """The mean that ``tensor`` had in training, float64 [C]."""
        return self.beta if self.normalized else self.mean

    @property
    def factor(self) -> Array:
        """Units of ``tensor`` in one unit of the BatchNormalization's input, float64 [C]; zero for dead channels."""
        if not self.normalized:
            return np.ones_like(self.mean)
        factor: Array = np.abs(self.gamma) / np.sqrt(self.variance + self.epsilon)
        return factor

    def to_json(self) -> dict[str, Any]:
        """Plain data; the shortest decimals that give the same float32 keep the text half as long."""
        record: dict[str, Any] = {"tensor": self.tensor, "normalized": self.normalized, "epsilon": self.epsilon}
        with np.errstate(over="ignore"):  # Inf is refused by name when it is read
            arrays = {name: getattr(self, name).astype(np.float32) for name in _PARAMETERS}
        record.update((name, [float(str(value)) for value in array]) for name, array in arrays.items())
        return record

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Self:
        """The inverse of :meth:`to_json`; ValueError, KeyError, TypeError or OverflowError on anything else."""
        arrays = {name: np.asarray(data[name], np.float64) for name in _PARAMETERS}
        if any(array.ndim != 1 or array.shape != arrays["mean"].shape for array in arrays.values()):
            raise ValueError("the parameters of a BatchNormalization differ in size")
        epsilon = float(data["epsilon"])
        if not 0.0 <= epsilon < math.inf:
            raise ValueError(f"{epsilon} is no epsilon")
        return cls(str(data["tensor"]), bool(data["normalized"]), epsilon, **arrays)


def read_statistics(text: str | None) -> tuple[BatchStatistics, ...]:
    """The statistics in a model's metadata, none where it is None.

    Raises ModelError where they are damaged, and for NaN, Inf or negative variances, naming the tensor.
    """
    if text is None:
        return ()
    try:
        records = tuple(BatchStatistics.from_json(record) for record in json.loads(text))
    except (ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        fix = f"remove the metadata {METADATA_KEY} from the model"
        raise ModelError("the statistics in the model's metadata are damaged", why=str(error), fix=fix) from error
    for record in records:
        for name in _PARAMETERS:
            values = getattr(record, name)
            if not np.isfinite(values).all() or (name == "variance" and (values < 0).any()):
                raise ModelError(
                    f"the BatchNormalization at {quoted(record.tensor)} has a {name} that is no number",
                    why=f"channel {int(np.argmin(np.isfinite(values) & ((values >= 0) | (name != 'variance'))))}",
                    fix="export the network again from a checkpoint that works",
                )
    return records


def write_statistics(records: Iterable[BatchStatistics]) -> str:
    """The inverse of :func:`read_statistics`."""
    return json.dumps([record.to_json() for record in records])
