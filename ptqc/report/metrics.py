"""What the outputs of a model are judged by, accumulated batch by batch: accuracy with labels, fidelity to a
reference model.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, Protocol

import numpy as np

from ptqc.core.errors import DataError, quoted
from ptqc.core.types import Array
from ptqc.report.estimates import Estimate, mean_estimate, paired_difference, sqnr_estimate, wilson

GROUPS = 1024  # samples are summed in at most so many groups, so that memory does not grow with their number
CHUNK = 1 << 13  # elements: within the cache, and below what OpenBLAS spreads over threads

Outputs = Mapping[str, Array]
Unit = Literal["share", "dB", "number"]


@dataclass(frozen=True, slots=True)
class Figure:
    """What one metric says.

    Attributes:
        name: of the metric, as named on the command line.
        unit: ``share`` (0..1), ``dB`` or ``number``.
        samples: number of samples behind it.
        estimate: the figure of the model.
        reference: the same for the reference model, where the metric judges a model alone.
        difference: ``estimate`` - ``reference``, paired by sample where the metric allows it.
        per_output: the figure of each output, where there are several.
    """

    name: str
    unit: Unit
    samples: int
    estimate: Estimate
    reference: Estimate | None = None
    difference: Estimate | None = None
    per_output: Mapping[str, Estimate] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Observation:
    """One batch as metrics see it; ``reference`` and ``labels`` may be missing."""

    outputs: Outputs
    samples: int
    first: int
    reference: Outputs | None = None
    labels: Array | None = None


class Metric(Protocol):
    """Accumulates observations; ``obstacle`` is asked with the first one."""

    def obstacle(self, seen: Observation) -> str | None:
        """Why this metric cannot judge such outputs, or None."""
        ...

    def update(self, seen: Observation) -> None:
        """Takes in one batch."""
        ...

    def figure(self) -> Figure:
        """The result; at least one batch was seen."""
        ...


def class_scores(outputs: Outputs, samples: int) -> Array | None:
    """The first output as scores [samples, classes], None where it has no such shape.

    Trailing axes of one element ([N, C, 1, 1]) and a missing batch axis are no obstacle; positions
    ([N, T, C]) are.
    """
    scores = next(iter(outputs.values()))
    while scores.ndim > 2 and scores.shape[-1] == 1:
        scores = scores[..., 0]
    if scores.ndim == 1 and samples == 1:
        scores = scores[None]
    if scores.ndim != 2 or scores.shape[0] != samples or scores.shape[1] < 2 or scores.dtype.kind != "f":
        return None
    return scores


def _scores_obstacle(seen: Observation) -> str | None:
    if class_scores(seen.outputs, seen.samples) is None:
        name, first = next(iter(seen.outputs.items()))
        return f"the first output {quoted(name)} of shape {list(first.shape)} holds no class scores [samples, classes]"
    return None


def _hits(scores: Array, labels: Array, k: int) -> Array:
    """Whether the label is among the k greatest scores, bool [samples]; ties resolve to the lower class."""
    wrong = (labels < 0) | (labels >= scores.shape[1])
    if wrong.any():
        raise DataError(
            f"label {int(labels[wrong][0])} does not fit the model",
            why=f"its first output scores classes 0 to {scores.shape[1] - 1}",
            fix="check the labels, or number the classes from 0",
        )
    order = np.argsort(-scores, axis=1, kind="stable")[:, :k]
    found: Array = (order == labels[:, None]).any(axis=1)
    return found


class TopK:
    """Share of samples whose label is among the k greatest scores; against a reference also the difference."""

    def __init__(self, k: int) -> None:
        self.k = k
        self.samples = self.hits = self.reference_hits = self.gained = self.lost = 0
        self.compared = False

    def obstacle(self, seen: Observation) -> str | None:
        """Needs labels and class scores."""
        if seen.labels is None:
            return f"top{self.k} needs labels, and the data has none"
        if seen.labels.ndim != 1 or seen.labels.dtype.kind not in "iu":
            return f"top{self.k} needs one class number as the label of each sample"
        scores = class_scores(seen.outputs, seen.samples)
        if scores is not None and scores.shape[1] <= self.k:
            return f"top{self.k} is always right with {scores.shape[1]} classes"
        return _scores_obstacle(seen)

    def update(self, seen: Observation) -> None:
        """Counts hits of one batch. DataError for labels outside the classes."""
        scores = class_scores(seen.outputs, seen.samples)
        assert scores is not None and seen.labels is not None  # obstacle() was asked
        hits = _hits(scores, seen.labels, self.k)
        self.samples += seen.samples
        self.hits += int(hits.sum())
        expected = None if seen.reference is None else class_scores(seen.reference, seen.samples)
        if expected is not None:
            reference_hits = _hits(expected, seen.labels, self.k)
            self.compared = True
            self.reference_hits += int(reference_hits.sum())
            self.gained += int((hits & ~reference_hits).sum())
            self.lost += int((reference_hits & ~hits).sum())

    def figure(self) -> Figure:
        """Accuracy with Wilson's interval, paired difference with Bonett and Price's."""
        reference = wilson(self.reference_hits, self.samples) if self.compared else None
        difference = paired_difference(self.lost, self.gained, self.samples) if self.compared else None
        estimate = wilson(self.hits, self.samples)
        return Figure(f"top{self.k}", "share", self.samples, estimate, reference, difference)


class Agreement:
    """Share of samples with the reference model's top-1 class."""

    def __init__(self) -> None:
        self.samples = self.same = 0

    def obstacle(self, seen: Observation) -> str | None:
        """Needs a reference and class scores."""
        if seen.reference is None:
            return "agreement needs a reference model"
        return _scores_obstacle(seen)

    def update(self, seen: Observation) -> None:
        """Counts samples of equal top-1."""
        assert seen.reference is not None  # obstacle() was asked
        ours, theirs = (class_scores(part, seen.samples) for part in (seen.outputs, seen.reference))
        assert ours is not None and theirs is not None
        self.samples += seen.samples
        self.same += int((ours.argmax(axis=1) == theirs.argmax(axis=1)).sum())

    def figure(self) -> Figure:
        """Proportion with Wilson's interval."""
        return Figure("agreement", "share", self.samples, wilson(self.same, self.samples))


def float_outputs(outputs: Outputs) -> tuple[str, ...]:
    """Names of the outputs with real values, in order."""
    return tuple(name for name, value in outputs.items() if value.dtype.kind == "f")


def powers(reference: Array, value: Array) -> tuple[float, float]:
    """Sums of y² and of (y - ŷ)² over the elements where the reference y is finite, float64.

    A value ŷ that is not finite where y is makes the noise infinite.
    """
    flat, other = reference.reshape(-1), value.reshape(-1)
    signal = noise = 0.0
    # In pieces: whole tensors as float64 are many times slower, most of all on a busy machine.
    for start in range(0, flat.size, CHUNK):
        wanted, got = (part[start : start + CHUNK].astype(np.float64) for part in (flat, other))
        finite = np.isfinite(wanted)
        if not finite.all():
            wanted, got = wanted[finite], got[finite]
        got -= wanted
        signal += float(wanted @ wanted)
        noise += float(got @ got)
    return signal, noise if math.isfinite(noise) else math.inf


def _rows(value: Array, samples: int) -> Array:
    """``value`` with one row for each sample; one row in all where its first axis does not number them."""
    return value.reshape(samples, -1) if value.ndim and value.shape[0] == samples else value.reshape(1, -1)


def _fidelity_obstacle(name: str, seen: Observation) -> str | None:
    if seen.reference is None:
        return f"{name} needs a reference model"
    if not float_outputs(seen.reference):
        return f"{name} needs an output of real values, and the model has none"
    return None


class Sqnr:
    """10 log10(Σy² / Σ(y - ŷ)²) over all elements of all real-valued outputs and samples, in dB."""

    def __init__(self, seed: int = 0) -> None:
        self.seed, self.samples = seed, 0
        self.sums: dict[str, Array] = {}  # output -> float64 [2, GROUPS]: signal, noise

    def obstacle(self, seen: Observation) -> str | None:
        """Needs a reference and an output of real values."""
        return _fidelity_obstacle("sqnr", seen)

    def update(self, seen: Observation) -> None:
        """Adds the powers of one batch, sample by sample."""
        assert seen.reference is not None  # obstacle() was asked
        self.samples += seen.samples
        for name in float_outputs(seen.reference):
            sums = self.sums.setdefault(name, np.zeros((2, GROUPS)))
            expected, got = (_rows(part[name], seen.samples) for part in (seen.reference, seen.outputs))
            for row in range(len(expected)):
                sums[:, (seen.first + row) % GROUPS] += powers(expected[row], got[row])

    def figure(self) -> Figure:
        """SQNR of all outputs together and of each, with bootstrap intervals over samples."""
        used = min(self.samples, GROUPS)
        total = np.sum(list(self.sums.values()), axis=0)[:, :used]
        single = {name: sqnr_estimate(sums[0, :used], sums[1, :used], self.seed) for name, sums in self.sums.items()}
        per_output = single if len(single) > 1 else {}
        return Figure("sqnr", "dB", self.samples, sqnr_estimate(total[0], total[1], self.seed), per_output=per_output)


class Cosine:
    """Mean over samples of the cosine between the outputs of the model and of the reference."""

    def __init__(self) -> None:
        self.samples = 0
        self.count = 0
        self.total = self.squares = 0.0

    def obstacle(self, seen: Observation) -> str | None:
        """Needs a reference and an output of real values."""
        return _fidelity_obstacle("cosine", seen)

    def update(self, seen: Observation) -> None:
        """Adds the cosines of one batch; all real-valued outputs of a sample make one vector."""
        assert seen.reference is not None  # obstacle() was asked
        names = float_outputs(seen.reference)
        rows = min(len(_rows(seen.reference[name], seen.samples)) for name in names)
        products = np.zeros((3, rows))
        for name in names:
            expected, got = (part[name].reshape(rows, -1).astype(np.float64) for part in (seen.reference, seen.outputs))
            held = np.isfinite(expected) & np.isfinite(got)
            expected, got = np.where(held, expected, 0.0), np.where(held, got, 0.0)
            for total, (a, b) in zip(products, ((expected, got), (expected, expected), (got, got)), strict=True):
                total += np.einsum("ij,ij->i", a, b)
        norms = np.sqrt(products[1] * products[2])
        both_zero = (products[1] == 0) & (products[2] == 0)
        cosines = np.where(norms > 0, products[0] / np.where(norms > 0, norms, 1.0), both_zero.astype(float))
        self.samples += seen.samples
        self.count += len(cosines)
        self.total += float(cosines.sum())
        self.squares += float(cosines @ cosines)

    def figure(self) -> Figure:
        """Mean with a normal interval."""
        return Figure("cosine", "number", self.samples, mean_estimate(self.total, self.squares, self.count))
