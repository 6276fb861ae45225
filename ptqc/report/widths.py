"""Bits against quality: what one model keeps and takes at several widths of its weights."""

from collections.abc import Mapping
from dataclasses import dataclass

from ptqc.report.estimates import Estimate
from ptqc.report.report import DataInfo, FileInfo, Report
from ptqc.report.summary import accuracy_text, decibel_text, printable, share_text, size_text

HEADINGS = ("bits", "SQNR dB", "agreement", "accuracy", "weights", "file", "of 8 bits", "stored as", "s")


@dataclass(frozen=True, slots=True)
class Width:
    """One model at one width.

    Attributes:
        bits: of the weights; small first, last, depthwise and tiny layers keep 8.
        sqnr_db, agreement, accuracy: as in :class:`ptqc.report.report.Figures`.
        formats: format -> tensors stored so.
        weight_bytes, file_bytes: of the weights of linear layers, and of the whole file.
        seconds: the whole compilation.
    """

    bits: int
    sqnr_db: Estimate | None
    agreement: Estimate | None
    accuracy: Estimate | None
    formats: Mapping[str, int]
    weight_bytes: int
    file_bytes: int
    seconds: float


@dataclass(frozen=True, slots=True)
class WidthTable:
    """A model at several widths, in the order asked for; the samples behind the figures."""

    model: FileInfo
    data: DataInfo | None
    held_out: bool
    synthetic: bool
    metric: str
    float_accuracy: Estimate | None
    widths: tuple[Width, ...]


def width_of(report: Report, bits: int, file_bytes: int) -> Width:
    """The row of a report without an output file."""
    figures, weights = report.figures, report.weights
    return Width(
        bits=bits,
        sqnr_db=figures.sqnr_db,
        agreement=figures.agreement,
        accuracy=figures.accuracy_quantized,
        formats={} if weights is None else weights.formats,
        weight_bytes=0 if weights is None else weights.bytes,
        file_bytes=file_bytes,
        seconds=sum(report.seconds.values()),
    )


def width_rows(table: WidthTable) -> list[tuple[str, ...]]:
    """Cells under HEADINGS; shares are of the row with 8 bits, where there is one."""
    eight = next((row for row in table.widths if row.bits == 8), None)
    rows: list[tuple[str, ...]] = []
    for row in table.widths:
        share = "" if eight is None else f"{row.file_bytes / max(eight.file_bytes, 1):.0%}"
        rows.append(
            (
                str(row.bits),
                "" if row.sqnr_db is None else decibel_text(row.sqnr_db.value),
                "" if row.agreement is None else share_text(Estimate(row.agreement.value)),
                "" if row.accuracy is None else accuracy_text(Estimate(row.accuracy.value), table.metric),
                size_text(row.weight_bytes),
                size_text(row.file_bytes),
                share,
                printable(", ".join(row.formats), 60),
                f"{row.seconds:.0f}",
            )
        )
    return rows


def data_sentence(table: WidthTable) -> str:
    """Which samples the figures are measured on."""
    if table.data is None:
        return "nothing was measured"
    kind = "held out from calibration" if table.held_out else "the calibration data itself"
    return f"on {table.data.description}, {'made up: figures on real data will differ' if table.synthetic else kind}"
