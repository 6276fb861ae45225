"""Limits that a pipeline sets: how much accuracy may be lost, how large and how slow the result may be."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Self

from ptqc.core.errors import GateFailed, OptionError, quoted
from ptqc.core.limits import Limit, parse_limit
from ptqc.report.allocation_text import amount_text
from ptqc.report.report import GateResult, Report

NUMBER = r"(\d+(?:\.\d+)?|\.\d+)"
LEAST_GRADES = ("A", "B", "C")
ROUNDING = 1e-12  # a drop of exactly the limit is allowed, whatever 0.84 - 0.83 is in binary


@dataclass(frozen=True, slots=True)
class Gates:
    """The limits, as text that :meth:`checked` has found valid; None where there is none.

    Attributes:
        max_drop: accuracy that may be lost, in absolute points: ``1%``, or in the unit of the metric: ``0.01``.
        min_sqnr: dB.
        max_size: share of the input file: ``60%``, or bytes: ``2MB``, ``900KiB``, ``1500000``; ``4.5bits`` limits the
            mean width of weights that an integer program chose.
        max_latency: share of the float model's, ``40%``, or ``3ms``, ``800us``.
        max_bops: bit operations of what an integer program chose.
        min_speedup: times float's speed: ``1.2``.
        min_confidence: grade of a result without real data: ``A``, ``B`` or ``C``.
    """

    max_drop: str | None = None
    min_sqnr: str | None = None
    max_size: str | None = None
    max_latency: str | None = None
    max_bops: str | None = None
    min_speedup: str | None = None
    min_confidence: str | None = None

    @classmethod
    def checked(
        cls,
        max_drop: str | None = None,
        min_sqnr: str | None = None,
        max_size: str | None = None,
        max_latency: str | None = None,
        max_bops: str | None = None,
        min_speedup: str | None = None,
        min_confidence: str | None = None,
    ) -> Self:
        """The gates. Raises OptionError for a limit that cannot be read."""
        for text, parse in ((max_drop, parse_drop), (min_sqnr, _sqnr), (min_speedup, _speedup)):
            if text is not None:
                parse(text)
        for name, limit in (("size", max_size), ("latency", max_latency), ("bops", max_bops)):
            if limit is not None:
                parse_limit(name, limit, f"--max-{name}", as_gate=True)
        if min_confidence is not None and min_confidence not in LEAST_GRADES:
            raise OptionError(
                f"--min-confidence {quoted(min_confidence)} is no grade", fix=f"give one of {', '.join(LEAST_GRADES)}"
            )
        return cls(max_drop, min_sqnr, max_size, max_latency, max_bops, min_speedup, min_confidence)

    def apply(self, report: Report) -> Report:
        """``report`` with one result for each limit.

        Raises OptionError where a limit concerns something that was not measured.
        """
        return replace(report, gates=tuple(self._results(report)))

    def _results(self, report: Report) -> Iterator[GateResult]:
        if self.max_drop is not None:
            yield _drop_result(self.max_drop, report)
        if self.min_sqnr is not None:
            sqnr = report.figures.sqnr_db
            if sqnr is None:
                raise _unmeasured("--min-sqnr", "the SQNR was not measured", "give data")
            yield GateResult("min-sqnr", self.min_sqnr, f"{sqnr.value:.2f} dB", sqnr.value >= _sqnr(self.min_sqnr))
        if self.max_size is not None:
            yield _size_result(self.max_size, report)
        if self.max_latency is not None:
            yield _latency_result(self.max_latency, report)
        if self.max_bops is not None:
            yield _allocated_result("max-bops", parse_limit("bops", self.max_bops, "--max-bops", as_gate=True), report)
        if self.min_speedup is not None:
            if report.latency is None:
                raise _unmeasured("--min-speedup", "the speed was not measured", "leave out --no-measure")
            speedup = report.latency.speedup
            yield GateResult("min-speedup", self.min_speedup, f"{speedup:.3f}", speedup >= _speedup(self.min_speedup))
        if self.min_confidence is not None:
            if report.confidence is None:
                why = "a grade is given to results without real data, by the error of outputs that are real numbers"
                raise _unmeasured("--min-confidence", why, "leave it out; --max-drop judges by labelled data")
            grade = report.confidence.grade
            yield GateResult("min-confidence", self.min_confidence, grade, grade <= self.min_confidence)


def gate_failure(report: Report) -> GateFailed | None:
    """The error that says which gates failed and by what figures; None where all passed.

    An integer-only result that is not proven fails by itself.
    """
    if report.verification is not None and not report.verification.proven:
        return GateFailed(
            "the result is not proven",
            where=quoted(report.model.path),
            why=report.verification.failures[0],
            fix="this should not happen: please report the model; --keep-failed writes the result, to be looked at",
        )
    failed = [gate for gate in report.gates if not gate.passed]
    if not failed:
        return None
    names = ", ".join(f"--{gate.name}" for gate in failed)
    figures = "; ".join(f"--{gate.name} {gate.limit}: measured {gate.value}" for gate in failed)
    return GateFailed(
        f"{names} not met",
        where=quoted(report.model.path),
        why=figures,
        fix="relax the limit, keep the layers that lose most in float with --keep-float, or add calibration data",
    )


def _drop_result(limit: str, report: Report) -> GateResult:
    difference = report.figures.accuracy_difference
    if difference is None:
        raise _unmeasured("--max-drop", "there is no accuracy to compare", "give data with labels, or --metric")
    allowed, drop = parse_drop(limit), -difference.value
    if report.figures.metric in ("top1", "top5"):
        if allowed > 1 or (allowed == 1 and "%" not in limit):
            raise OptionError(f"--max-drop {limit} allows everything to be lost", fix=f"write {limit}% for points")
        return GateResult("max-drop", limit, f"{round(drop * 100, 2) + 0.0:.2f} points", drop <= allowed + ROUNDING)
    return GateResult("max-drop", limit, f"{drop:.6g}", drop <= allowed + ROUNDING)


def _size_result(text: str, report: Report) -> GateResult:
    limit = parse_limit("size", text, "--max-size", as_gate=True)
    if limit.resource == "bits":
        return _allocated_result("max-size", limit, report)
    if report.output is None:
        raise _unmeasured("--max-size", "there is no output", "let the model be written")
    size, most = report.output.bytes, limit.amount * (report.model.bytes if limit.relative else 1)
    shown = f"{size} bytes, {size / max(report.model.bytes, 1):.1%} of the input"
    return GateResult("max-size", text, shown, size <= most)


def _latency_result(text: str, report: Report) -> GateResult:
    limit, latency = parse_limit("latency", text, "--max-latency", as_gate=True), report.latency
    if latency is None:
        raise _unmeasured("--max-latency", "the latency was not measured", "leave out --no-measure")
    most = limit.amount * latency.float_ms if limit.relative else limit.amount / 1000
    shown = f"{latency.quantized_ms:.3f} ms, {latency.quantized_ms / latency.float_ms:.1%} of float"
    return GateResult("max-latency", text, shown, latency.quantized_ms <= most)


def _allocated_result(name: str, limit: Limit, report: Report) -> GateResult:
    """Of what an integer program limits and can be counted exactly beforehand."""
    uses = () if report.allocation is None else report.allocation.limits
    use = next((use for use in uses if use.resource == limit.resource), None)
    if use is None:
        why = f"only targets that choose precisions count {limit.resource}"
        raise _unmeasured(f"--{name} {limit.text}", why, "add --target mixed, or leave it out")
    return GateResult(name, limit.text, amount_text(use.resource, use.used), use.used <= use.most)


def _unmeasured(option: str, why: str, fix: str) -> OptionError:
    return OptionError(f"{option} cannot be checked", why=why, fix=fix)


def _parse(option: str, text: str, pattern: str, example: str) -> "re.Match[str]":
    match = re.fullmatch(pattern, text.strip())
    if match is None:
        raise OptionError(f"{option} {quoted(text)} cannot be read", fix=f"write it like {example}")
    return match


def parse_drop(text: str) -> float:
    """Accuracy that may be lost: ``0.5%`` is 0.005. OptionError for what cannot be read."""
    match = _parse("--max-drop", text, NUMBER + r"\s*(%?)", "1% or 0.01")
    return float(match[1]) / (100 if match[2] else 1)


def _sqnr(text: str) -> float:
    return float(_parse("--min-sqnr", text, NUMBER + r"\s*(?:dB)?", "20")[1])


def _speedup(text: str) -> float:
    return float(_parse("--min-speedup", text, NUMBER + r"x?", "1.2")[1])
