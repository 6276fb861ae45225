"""Bits against quality: one model quantized at several widths of its weights."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import onnx
import onnx_ir as ir

from ptqc.allocate.formats import CODEBOOK_BITS, PLAIN_BITS
from ptqc.api import quantize
from ptqc.core.errors import OptionError
from ptqc.core.options import QuantizeOptions
from ptqc.core.progress import Progress
from ptqc.core.types import Precision
from ptqc.graph.save import serialize
from ptqc.report.widths import Width, WidthTable, width_of

__all__ = ["bits_against_quality"]

WIDTHS = (8, 6, 5, 4, 3, 2)


def bits_against_quality(
    model: str | Path | onnx.ModelProto | ir.Model,
    data: Any = None,
    *,
    widths: Sequence[int] = WIDTHS,
    options: QuantizeOptions | None = None,
    progress: Progress | None = None,
) -> WidthTable:
    """Quantizes a float model at each width and says what it keeps and what it takes.

    Activations have 8 bits throughout; formats of weights are those that ``quantize`` chooses.

    Args:
        model, data: as for ``quantize``. What yields samples once only will not do: it is read at each width.
        widths: of the weights, 2 to 8.
        options: as for ``quantize``; latency is not measured. Widths that have no codebooks have even levels.
        progress: called with (stage, steps done, steps in all); stages begin with the width.

    Raises PtqcError kinds as ``quantize`` does, and OptionError for other widths and those that the packing has not.
    """
    if not widths or any(bits not in range(2, 9) for bits in widths):
        raise OptionError("these are no widths of weights", where="--bits", fix="give widths from 2 to 8: 8,4,2")
    options = replace(options or QuantizeOptions(), no_measure=True)
    options.check()
    if options.packing == "plain" and not set(widths) <= set(PLAIN_BITS):
        fix = "give --bits 8,4,2, or leave out --packing"
        raise OptionError("--packing plain has weights of 8, 4 and 2 bits only", where="--bits", fix=fix)
    rows: list[Width] = []
    for bits in widths:
        asked = (("*", Precision(bits, 8)), *options.precision)
        steps = None if progress is None else _named(progress, bits)
        target = "int8" if bits == 8 else "int4"
        form = options.weight_format if bits in CODEBOOK_BITS else "auto"
        chosen = replace(options, precision=asked, weight_format=form)
        result = quantize(model, target, data, options=chosen, progress=steps)
        report = result.report
        rows.append(width_of(report, bits, len(serialize(result.model))))
    figures = report.figures
    return WidthTable(
        model=report.model,
        data=figures.data,
        held_out=figures.held_out,
        synthetic=figures.synthetic,
        metric=figures.metric,
        float_accuracy=figures.accuracy_float,
        widths=tuple(rows),
    )


def _named(progress: Progress, bits: int) -> Progress:
    """``progress`` with the width in front of the stage."""
    return lambda stage, done, total: progress(f"{bits} bits: {stage}", done, total)
