"""Integer-only models under ``ptqc verify``: verdict, engines, inputs, and what the static proof costs."""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.command import run_command
from benchmarks.data_free_subjects import LARGE, Feeds, evaluation, subject
from benchmarks.int4_runs import Figures, Network, Say, Variant, continue_runs
from benchmarks.scoring import kernels
from ptqc.verify.bounds import Finding
from ptqc.verify.certificate import Certificate
from ptqc.verify.compare import EngineResult
from ptqc.verify.proof import Proof, StaticReport
from ptqc.verify.verify import verify_model

SECTION = "integer-proof"
# Of one model two runs are made: all engines on a sample, however long it takes; then as many inputs as are asked for,
# where engines other than the runtime on the file itself stop when their share of the time is over.
THOROUGH, MANY = range(2)
SAMPLE, QUICK_SAMPLE = 112, 40
INPUTS, INPUTS_LARGE, QUICK_INPUTS = 10_000, 256, 200
SECONDS, QUICK_SECONDS = 240.0, 20.0
MORE_SECONDS = {"resnet56": 360.0}  # where 10,000 inputs take the fast engines long


def twice(row: Variant) -> Variant:
    """``row`` with both runs."""
    return Variant(row.name, row.options, row.target, draws=2, stored=True)


def measure(rows: Sequence[Variant], name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``runs`` (variant -> run -> what ptqc verify says)."""
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        network: Network | None = None

        def run(variant: Variant, number: int) -> Figures:
            nonlocal network
            network = network or Network.of(name, True, Path(folder))
            path, result = network.file(variant, 0)
            if "refused" in result or "failed" in result:
                return result
            return verified(path, name, number, quick)

        return continue_runs(SECTION, name, [twice(row) for row in rows], quick, say, run, brief)


def verified(path: Path, name: str, number: int, quick: bool) -> Figures:
    """What one run says: ``verdict``, ``failures``, ``engines``, ``inputs``; the thorough one also what is proven."""
    wanted = QUICK_INPUTS if quick else INPUTS_LARGE if name in LARGE else INPUTS
    sample = QUICK_SAMPLE if quick else SAMPLE
    run = partial(verify_model, path, seed=number)
    if number == THOROUGH:
        found = run(given(name, sample // 2), inputs=sample, sample=sample, budget=None)
        return {**executed(found), **proven(found), **static_costs(path), "integer_macs": kernels(path)["integer_macs"]}
    seconds = QUICK_SECONDS if quick else MORE_SECONDS.get(name, SECONDS)
    return executed(run(given(name, wanted // 2), inputs=wanted, sample=1, budget=seconds))


def given(name: str, count: int) -> dict[str, Any]:
    """The first ``count`` images to judge on, as verify_model takes them."""
    feeds: Feeds = evaluation(subject(name, quick=True), count)[0]
    return dict(feeds)


def executed(found: Certificate) -> Figures:
    """What running showed."""
    comparison = found.comparison
    if comparison is None:
        return {"verdict": found.verdict, "failures": list(found.failures), "engines": [], "notes": list(found.notes)}
    return {
        "verdict": found.verdict,
        "failures": list(found.failures),
        "notes": list(found.notes),
        "engines": [_engine(result) for result in comparison.engines],
        "inputs": sum(kind.inputs for kind in comparison.kinds),
        "kinds": {kind.kind: kind.inputs for kind in comparison.kinds},
        "kernel_codes": sum(test.outputs for test in found.kernels),
        "kernel_ties": sum(test.ties for test in found.kernels),
        "kernel_differ": sum(test.differ for test in found.kernels),
    }


def _engine(result: EngineResult) -> dict[str, Any]:
    counts = {"inputs": sum(result.inputs.values()), "differs": result.difference is not None}
    return {
        "engine": result.engine,
        "form": result.form,
        "version": result.version,
        "refused": result.refused,
        **counts,
    }


def proven(found: Certificate) -> Figures:
    """What holds without running: proofs, fused kernels, bounds as (those that hold, all); the certificate's size."""
    static = found.static
    counted: dict[str, Sequence[Proof | Finding]] = {
        "proofs": static.proofs,
        "fused": found.fused,
        "unfused": static.unfused,
        "bounds": static.findings,
    }
    return {
        **{name: [sum(one.holds for one in some), len(some)] for name, some in counted.items()},
        "float_nodes": len(static.obstacles),
        "divisions": len(static.divisions),
        "accumulator_bits": accumulator_bits(static),
        "scales": found.scales,
        "certificate_bytes": len(found.text().encode()),
    }


def accumulator_bits(static: StaticReport) -> int:
    """Of the widest accumulator of any product."""
    bits = (proof.numbers.get("accumulator_bits", 0) for proof in static.proofs)
    return int(max(bits, default=0))


def static_costs(path: Path) -> Figures:
    """``ptqc verify --static`` in a fresh process, imports included: the quicker of two."""
    runs = [run_command(["verify", str(path), "--static"]) for _ in range(2)]
    failed = next((run["failed"] for run in runs if "failed" in run), None)
    return {"static": {"failed": failed} if failed else min(runs, key=lambda run: float(run["cpu_seconds"]))}


def brief(found: Figures) -> str:
    """What is printed of a run."""
    engines = found["engines"]
    differ = sum(engine["differs"] for engine in engines)
    words = f"{found['verdict']}, {found.get('inputs', 0):,} inputs, {differ} of {len(engines)} engines differ"
    return f"{words}; {found['failures'][0]}" if found["failures"] else words
