"""The report: everything that was decided and measured in one run, as plain data that is written as JSON."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

from ptqc.core.errors import OptionError
from ptqc.core.plain import from_plain, load_json, to_plain
from ptqc.graph.files import write_atomically
from ptqc.report.allocation import AllocationInfo
from ptqc.report.estimates import Estimate
from ptqc.report.front import Front

REPORT_VERSION = 1


@dataclass(frozen=True, slots=True)
class FileInfo:
    """A file: its path as given, its size and the SHA-256 of its bytes (with external data)."""

    path: str
    bytes: int
    sha256: str


@dataclass(frozen=True, slots=True)
class DataInfo:
    """A set of samples; ``digest`` is the SHA-256 of what was read."""

    description: str
    samples: int
    digest: str


@dataclass(frozen=True, slots=True)
class Figures:
    """Fidelity and accuracy of the quantized model.

    Attributes:
        data: the samples behind all figures; None where nothing was measured.
        held_out: the samples took no part in calibration.
        synthetic: they are made up: the figures are estimates of those on real data.
        agreement: share of samples with the float model's top-1, None where outputs are no class scores.
        sqnr_db: over all outputs, dB.
        metric: what the accuracies are: ``top1``, ``top5`` or ``module:function``; empty without.
        accuracy_float, accuracy_quantized: in the metric's unit (shares for top1 and top5).
        accuracy_difference: quantized - float, paired by sample.
    """

    data: DataInfo | None = None
    held_out: bool = False
    synthetic: bool = False
    agreement: Estimate | None = None
    sqnr_db: Estimate | None = None
    metric: str = ""
    accuracy_float: Estimate | None = None
    accuracy_quantized: Estimate | None = None
    accuracy_difference: Estimate | None = None


@dataclass(frozen=True, slots=True)
class Coverage:
    """The range [low, high] that the plan gives a tensor, that of other samples, and the share of it that is held."""

    tensor: str
    low: float
    high: float
    seen_low: float
    seen_high: float
    share: float


@dataclass(frozen=True, slots=True)
class Confidence:
    """How far a result without real data can be trusted: an estimate, no measurement.

    Attributes:
        grade: A to D.
        bound_db: what the SQNR on real data will hardly fall below, a multiple of 3 dB.
        basis: the samples that it was estimated on.
        losses: of the distillation that calibration rests on: for white ``noise``, at the ``start``, at the ``end``.
        coverage: by quantized activation.
    """

    grade: str
    bound_db: float
    basis: str
    losses: Mapping[str, float] = field(default_factory=dict)
    coverage: tuple[Coverage, ...] = ()


@dataclass(frozen=True, slots=True)
class LatencyInfo:
    """Median milliseconds of one call, float and quantized interleaved in one process; speedup = float / quantized."""

    threads: int
    batch: int
    float_ms: float
    quantized_ms: float
    speedup: float
    cpu: str


@dataclass(frozen=True, slots=True)
class Island:
    """A float node between the first and the last quantization: elements it touches in a call, and why it is float."""

    node: str
    op: str
    elements: int
    why: str


@dataclass(frozen=True, slots=True)
class FusionInfo:
    """What the runtime really made of the model: multiply-accumulates in integer kernels, float islands left."""

    macs_integer: int
    macs_total: int
    islands: tuple[Island, ...] = ()


@dataclass(frozen=True, slots=True)
class VerificationInfo:
    """A short verification of an integer-only model; ``ptqc verify`` does a long one.

    Attributes:
        proven: whether all that can be proven without running holds, but for allowed islands.
        scales: ``power-of-two`` (exact on every engine), ``free`` (exact where engines fuse), or empty.
        proofs, bounds: how many claims and bounds were checked.
        inputs: on which the runtime was compared with the integer meaning.
        codes: of all tensors inside on these inputs, ``differing`` of them between the two.
        unfused: codes that differ where the runtime does not fuse; None where nothing is left to fuse.
        islands: nodes that are allowed to be float.
        failures: what is not proven.
    """

    proven: bool
    scales: str = ""
    proofs: int = 0
    bounds: int = 0
    inputs: int = 0
    codes: int = 0
    differing: int = 0
    unfused: int | None = None
    islands: tuple[str, ...] = ()
    failures: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class LayerInfo:
    """One node of the canonical float graph.

    Attributes:
        precision, reason: as in the plan.
        sqnr_db: of its output against the float model's, dB; None where not measured.
        share: of all noise entering the network, what enters here (0..1); see ptqc.report.compare.
        macs: multiply-accumulates for one sample; weight_bytes: of its weights as stored.
        kernel: what the runtime runs for it (``QLinearConv``), empty where not known.
        stored_as: format of its weights (``int4``, ``codebook4/channel``); empty where they are not quantized.
        rounding_error: squared error of its output on held-back samples that rounding its weights leaves, relative to
            the output's power; None where not measured.
        nearest_error: the same with weights rounded to nearest.
        note: what rounding had to do otherwise than usual.
    """

    name: str
    op: str
    precision: str
    reason: str = ""
    sqnr_db: float | None = None
    share: float | None = None
    macs: int = 0
    weight_bytes: int = 0
    kernel: str = ""
    stored_as: str = ""
    rounding_error: float | None = None
    nearest_error: float | None = None
    note: str = ""


@dataclass(frozen=True, slots=True)
class WeightsInfo:
    """The quantized weights of all linear layers.

    Attributes:
        formats: format -> tensors stored so, the most frequent first.
        bytes: as stored, with scales and codebooks.
        int8_bytes: what they would take at 8 bits with a scale for each channel.
    """

    formats: Mapping[str, int]
    bytes: int
    int8_bytes: int


@dataclass(frozen=True, slots=True)
class RefusedMatch:
    """A place where a pass matched but its rewrite was not legal."""

    node: str
    reason: str


@dataclass(frozen=True, slots=True)
class PassInfo:
    """A pass that ran: rewrites made, matches refused."""

    name: str
    count: int
    refused: tuple[RefusedMatch, ...] = ()


@dataclass(frozen=True, slots=True)
class GateResult:
    """One limit of the user's: ``limit`` as given, ``value`` as measured, both for people."""

    name: str
    limit: str
    value: str
    passed: bool


@dataclass(frozen=True, slots=True)
class Report:
    """One run of ``ptqc quantize``.

    Attributes:
        output: the file written, None where none was.
        versions: package -> version of what had a part in the result.
        data: the calibration samples.
        allocation: how mixed precision chose; front: what else it could have chosen; None where it did not.
        options: every option that differs from its default, by its name on the command line.
        notes: what a reader should know; warnings: what he should act on.
        seconds: of each stage, wall time. peak_memory_bytes: of the whole process, None where unknown.
    """

    model: FileInfo
    target: str
    output: FileInfo | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    data: DataInfo | None = None
    options: Mapping[str, Any] = field(default_factory=dict)
    figures: Figures = Figures()
    confidence: Confidence | None = None
    latency: LatencyInfo | None = None
    fusion: FusionInfo | None = None
    verification: VerificationInfo | None = None
    weights: WeightsInfo | None = None
    allocation: AllocationInfo | None = None
    front: Front | None = None
    layers: tuple[LayerInfo, ...] = ()
    passes: tuple[PassInfo, ...] = ()
    notes: tuple[str, ...] = ()
    warnings: tuple[str, ...] = ()
    gates: tuple[GateResult, ...] = ()
    seconds: Mapping[str, float] = field(default_factory=dict)
    peak_memory_bytes: int | None = None

    @property
    def size_ratio(self) -> float | None:
        """Bytes of the output per byte of the input, None without output."""
        return None if self.output is None else self.output.bytes / max(self.model.bytes, 1)

    def to_json(self) -> dict[str, Any]:
        """Plain data with a version field; infinite figures are the strings ``inf`` and ``-inf``."""
        return {"version": REPORT_VERSION, **to_plain(self)}

    @classmethod
    def from_json(cls, data: Mapping[str, Any]) -> Self:
        """Reads what :meth:`to_json` wrote. Raises OptionError for another version or damaged data."""
        if not isinstance(data, Mapping) or data.get("version") != REPORT_VERSION:
            found = data.get("version") if isinstance(data, Mapping) else None
            raise OptionError(
                f"this is no report of version {REPORT_VERSION}",
                why=f"its version is {found!r}",
                fix="make the report again with this ptqc",
            )
        try:
            return from_plain(cls, {key: value for key, value in data.items() if key != "version"})
        except (TypeError, ValueError) as error:
            raise OptionError("the report is damaged", why=str(error), fix="make it again") from error

    def text(self) -> str:
        """The report as JSON text, keys in the order of the fields."""
        return json.dumps(self.to_json(), indent=1, allow_nan=False) + "\n"

    def save(self, path: Path) -> None:
        """Writes the JSON, whole or not at all. Raises OutputError where that is impossible."""
        write_atomically(path, self.text())

    @classmethod
    def load(cls, path: Path) -> Self:
        """Reads a report file. Raises OptionError where it is missing, too large or no report."""
        return cls.from_json(load_json(path, "report", "give the file that --report wrote"))
