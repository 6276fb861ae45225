"""Calibration without data: every source of samples judged on real ones, and the estimate that ptqc gives of that.

``python -m benchmarks.run --only data-free`` goes on where an earlier run ended; ``--force`` measures everything anew.
"""

import base64
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks import results
from benchmarks.data import loader
from benchmarks.data_free_subjects import (
    NEED_STATISTICS,
    SOURCES,
    Feeds,
    Subject,
    calibration_of,
    subject,
)
from benchmarks.scoring import figures, outputs_of
from ptqc.calibrate.contract import InputContract
from ptqc.calibrate.synthetic import has_converged
from ptqc.compile import Compiled, canonicalise, compile_graph, restrictions_of
from ptqc.core.errors import PtqcError
from ptqc.core.types import Array
from ptqc.data import CalibrationData, describe_inputs, estimating_data
from ptqc.graph.load import LoadedModel, import_model
from ptqc.report.evaluate import evaluate
from ptqc.targets.registry import find_target

SECTION = "data-free-sources"
QUICK = ("resnet8", "digits_resnet", "dtln_1")
ESTIMATED_SEED = 0  # the confidence is measured for one seed of each source
Say = Callable[[str], None]
Runs = dict[str, dict[str, dict[str, Any]]]  # source -> seed -> figures


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``runs`` (source -> seed -> figures), kept from earlier runs where they are there."""
    known = {} if quick else results.comparable(SECTION).get(name, {})
    runs: Runs = {source: dict(seeds) for source, seeds in known.get("runs", {}).items()}
    try:
        model = _Model.of(subject(name, quick))
    except PtqcError as error:
        return {"refused": str(error)}
    record = {"statistics": model.has_statistics, "classifies": model.subject.classifies, "runs": runs}
    kept = sorted({run["commit"] for seeds in runs.values() for run in seeds.values()})
    if kept:
        say(f"{name}: runs of commit {', '.join(kept)} are kept; --force measures them anew")
    for source, seed in model.missing(runs, quick):
        start = time.perf_counter()
        found = model.measured(source, seed)
        runs.setdefault(source, {})[str(seed)] = {**found, "commit": results.commit()}
        say(f"{name}: {source}, seed {seed}: {brief(found)}; {time.perf_counter() - start:.0f} s")
        if not quick:
            results.store(SECTION, name, record)
    return record


def brief(found: Mapping[str, Any]) -> str:
    """The figures of one run."""
    if "refused" in found:
        return str(found["refused"])
    parts = [f"{found['sqnr_db']:.2f} dB" if found["sqnr_db"] is not None else "equal"]
    parts += [f"agreement {found['agreement']:.2%}"] if "agreement" in found else []
    parts += [f"estimated {found['estimate_db']:.2f} dB"] if found.get("estimate_db") is not None else []
    return f"{', '.join(parts)} ({found['samples']} samples, {found['method']})"


def agreement(got: Feeds, expected: Feeds) -> dict[str, Any]:
    """``agreement`` of the top-1 with the float model's, ``evaluated`` (samples) and ``agrees`` (their bits)."""
    first, second = (next(iter(outputs.values())) for outputs in (got, expected))
    same = first.reshape(len(first), -1).argmax(axis=1) == second.reshape(len(second), -1).argmax(axis=1)
    bits = base64.b64encode(np.packbits(same).tobytes()).decode()
    return {"agreement": float(same.mean()), "evaluated": len(same), "agrees": bits}


def agrees(found: Mapping[str, Any]) -> Array:
    """Whether the top-1 is the float model's, bool [samples]."""
    bits = np.frombuffer(base64.b64decode(found["agrees"]), np.uint8)
    return np.unpackbits(bits, count=found["evaluated"]).astype(bool)


@dataclass(frozen=True, slots=True, eq=False)
class _Model:
    """A subject with what all its runs share."""

    subject: Subject
    loaded: LoadedModel
    contracts: Sequence[InputContract]
    has_statistics: bool
    expected: Feeds
    estimating: dict[int, CalibrationData]

    @classmethod
    def of(cls, subject: Subject) -> "_Model":
        options = subject.options
        loaded = import_model(subject.path)
        contracts = describe_inputs(loaded, options)
        expected = _outputs(subject, loaded.model)
        return cls(subject, loaded, contracts, _has_statistics(loaded.model), expected, {})

    def missing(self, runs: Runs, quick: bool) -> list[tuple[str, int]]:
        """(source, seed) of what has not been measured, seed by seed, so that a run that stops has all sources."""
        sources = SOURCES if self.has_statistics else [one for one in SOURCES if one not in NEED_STATISTICS]
        wanted = [
            (source, seed)
            for seed in range(1 if quick else self.subject.seeds)
            for source in sources
            if seed in self.subject.seeds_of(source)
        ]
        return [(source, seed) for source, seed in wanted if str(seed) not in runs.get(source, {})]

    def measured(self, source: str, seed: int) -> dict[str, Any]:
        """The figures of one run, or why it was refused."""
        try:
            data = calibration_of(self.subject, source, seed, self.loaded, self.contracts)
            compiled = self.compiled(data, seed)
        except PtqcError as error:
            return {"refused": str(error)}
        got = _outputs(self.subject, compiled.model)
        found: dict[str, Any] = {
            "samples": len(data.source),
            "method": compiled.plan.provenance.get("calibration-method"),
            "sqnr_db": figures(got, self.expected, None)["sqnr_db"]["value"],
        }
        if self.subject.classifies:
            found |= agreement(got, self.expected)
        if data.info is not None:
            found["made"] = {"method": data.info.method, "steps": data.info.steps, "losses": dict(data.info.losses)}
        if seed == ESTIMATED_SEED:
            found |= self.estimated(compiled)
        return found

    def compiled(self, data: CalibrationData, seed: int) -> Compiled:
        """Quantized as ``ptqc quantize`` does it."""
        options, target = replace(self.subject.options, seed=seed), find_target("int8")
        canonical = self.loaded.model.clone()
        canonicalise(canonical, target, options)
        return compile_graph(canonical, target, data.source, restrictions_of(options), options, _silent, data.limits)

    def estimated(self, compiled: Compiled) -> dict[str, Any]:
        """SQNR on samples that calibration has not seen, and whether these were distilled until statistics fitted."""
        seed = ESTIMATED_SEED
        if seed not in self.estimating:
            self.estimating[seed] = estimating_data(self.loaded, self.subject.options, seed, _silent)
        data = self.estimating[seed]
        (figure,) = evaluate(compiled.model, data.source, ("sqnr",), self.loaded.model, self.subject.options.threads)
        finite = figure.estimate.value if np.isfinite(figure.estimate.value) else None
        return {"estimate_db": finite, "distilled": data.info is not None and has_converged(data.info)}


def _has_statistics(model: ir.Model) -> bool:
    """Whether anything can be distilled from BatchNormalization."""
    from ptqc.calibrate.distillation.network import find_statistics
    from ptqc.passes.base import PassContext
    from ptqc.passes.pipeline import canonical_passes, run_passes

    canonical = model.clone()
    run_passes(canonical, canonical_passes(), PassContext())
    return bool(find_statistics(canonical))


def _outputs(subject: Subject, model: ir.Model) -> dict[str, Array]:
    feeds, size = subject.evaluation, 1 if subject.batch == "one" else 50
    if subject.batch == "stacked":
        runs = loader().runs(subject.name, feeds)
    else:
        count = len(next(iter(feeds.values())))
        runs = ({key: array[i : i + size] for key, array in feeds.items()} for i in range(0, count, size))
    return outputs_of(model, runs, subject.batch == "stacked")


def _silent(stage: str, done: int, total: int) -> None:
    pass
