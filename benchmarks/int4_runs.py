"""Quantizes labelled image models in many ways, each on several draws of calibration images, and scores every result.

What was measured before with the same options is kept, run by run.
"""

import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import onnx_ir as ir

from benchmarks import results
from benchmarks.data import save_samples
from benchmarks.data_free import agreement, brief
from benchmarks.data_free_subjects import Subject, calls, evaluation, real_samples, subject
from benchmarks.images import QUICK_EVALUATION
from benchmarks.scoring import figures, kernels, outputs_of, speeds
from benchmarks.stored_files import stored_job
from benchmarks.worker import Job, run_job
from ptqc.core.types import Array

QUICK_CALIBRATION = 64
SECONDS, QUICK_SECONDS = 10.0, 1.0  # of interleaved runs for one latency
NARROW = (ir.DataType.INT2, ir.DataType.UINT2, ir.DataType.INT4, ir.DataType.UINT4, ir.DataType.INT8, ir.DataType.UINT8)
Say = Callable[[str], None]
Figures = dict[str, Any]
Runs = dict[str, dict[str, Figures]]  # variant -> draw -> figures


@dataclass(frozen=True, slots=True)
class Variant:
    """One way to quantize a model.

    Attributes:
        name: in the tables.
        options: of ``tool`` as the worker takes them.
        target: of ptqc.
        draws: on so many draws of the calibration images, or seeds where ptqc makes samples itself.
        timed: its latency is measured on the first draw, interleaved with ptqc's int8 file.
        real: calibrated on real images; ptqc makes samples otherwise.
        stored: the file is kept for other sections that measure the same one.
    """

    name: str
    options: Mapping[str, Any] = field(default_factory=dict)
    target: str = "int4"
    tool: str = "ptqc"
    draws: int = 1
    timed: bool = False
    real: bool = True
    stored: bool = False

    @property
    def settings(self) -> dict[str, Any]:
        """What the record says of it, and what decides whether an earlier run is of the same thing."""
        found = {"tool": self.tool, "options": dict(self.options)}
        return found | ({"target": self.target} if self.tool == "ptqc" else {})


INT8 = Variant("int8", target="int8")  # the unit of size and speed


def precision(text: str, **options: Any) -> dict[str, Any]:
    """Options that ask for a precision of all nodes, and others."""
    return {"precision": [["*", text]], **options}


def measure_runs(section: str, name: str, variants: Sequence[Variant], quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``runs`` (variant -> draw -> figures, or why there are none)."""
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        network: Network | None = None

        def run(variant: Variant, draw: int) -> Figures:
            nonlocal network
            network = network or Network.of(name, quick, Path(folder))
            return network.run(variant, draw)

        return continue_runs(section, name, variants, quick, say, run)


def continue_runs(
    section: str,
    name: str,
    variants: Sequence[Variant],
    quick: bool,
    say: Say,
    run: Callable[[Variant, int], Figures],
    tell: Callable[[Figures], str] = brief,
) -> dict[str, Any]:
    """One model: ``runs``, those of earlier times with the same options kept; stored after each one.

    Draw by draw, so that a run that stops has all variants. A failure is tried again, a refusal is kept.
    """
    runs = {} if quick else kept_runs(section, name, variants)
    if runs:
        commits = sorted({one["commit"] for draws in runs.values() for one in draws.values()})
        say(f"{name}: runs of commit {', '.join(commits)} are kept; --force measures them anew")
    record: dict[str, Any] = {"runs": runs}
    for variant, draw in missing(variants, runs, quick):
        start = time.perf_counter()
        found = run(variant, draw)
        runs.setdefault(variant.name, {})[str(draw)] = {**found, **variant.settings, "commit": results.commit()}
        told = str(found.get("refused") or found.get("failed") or tell(found))
        say(f"{name}: {variant.name}, draw {draw}: {told}; {time.perf_counter() - start:.0f} s")
        if not quick:
            results.store(section, name, record)
    return record


def kept_runs(section: str, name: str, variants: Sequence[Variant]) -> Runs:
    """The runs of earlier times that are of these variants with these options, failures left out."""
    known = results.comparable(section).get(name, {}).get("runs", {})
    runs: Runs = {}
    for variant in variants:
        settings = results.rounded(variant.settings)
        for draw, run in known.get(variant.name, {}).items():
            if "failed" not in run and {key: run.get(key) for key in settings} == settings:
                runs.setdefault(variant.name, {})[draw] = run
    return runs


def missing(
    variants: Sequence[Variant], runs: Mapping[str, Mapping[str, Any]], quick: bool
) -> list[tuple[Variant, int]]:
    """(variant, draw) of what has not been measured; ``quick``: one draw."""
    draws = 1 if quick else max(variant.draws for variant in variants)
    return [
        (variant, draw)
        for draw in range(draws)
        for variant in variants
        if draw < variant.draws and str(draw) not in runs.get(variant.name, {})
    ]


@dataclass(frozen=True, slots=True, eq=False)
class Network:
    """A model with its images, and the files that were made of it in ``folder``.

    Attributes:
        expected: outputs of the float model on ``feeds``.
        made: (variant, draw) -> file and the worker's result.
    """

    subject: Subject
    quick: bool
    folder: Path
    feeds: Mapping[str, Array]
    labels: Array
    expected: Mapping[str, Array]
    made: dict[tuple[str, int], tuple[Path, dict[str, Any]]]

    @classmethod
    def of(cls, name: str, quick: bool, folder: Path) -> "Network":
        """The model of that name, whose images are labelled; all evaluation images unless ``quick``."""
        known = subject(name, quick=True)
        feeds, labels = evaluation(known, QUICK_EVALUATION if quick else None)
        expected = outputs_of(known.path, calls(known, feeds), known.batch == "stacked")
        return cls(known, quick, folder, feeds, labels, expected, {})

    def run(self, variant: Variant, draw: int) -> dict[str, Any]:
        """Figures, costs and sizes of one file, or ``refused`` or ``failed`` with the reason."""
        path, result = self.file(variant, draw)
        if "refused" in result or "failed" in result:
            return result
        got = outputs_of(path, calls(self.subject, self.feeds), self.subject.batch == "stacked")
        given = {
            "method": None,
            "samples": len(next(iter(self.calibration(draw).values()))),
        }  # where the tool does not say
        found = {**given, **result, **self.scored(got)}
        found |= {"bytes": path.stat().st_size, "weight_bytes": weight_bytes(path)}
        return found | (self._latency(path) if variant.timed and draw == 0 else {})

    def file(self, variant: Variant, draw: int) -> tuple[Path, dict[str, Any]]:
        """The quantized file, which may not be there, and what the worker says; made once."""
        key = variant.name, draw
        if key not in self.made:
            output = self.folder / f"{len(self.made)}.onnx"
            job = self._job(variant, draw, output)
            self.made[key] = output, stored_job(job) if variant.stored else run_job(job)
        return self.made[key]

    def _job(self, variant: Variant, draw: int, output: Path) -> Job:
        options, data = dict(variant.options), ""
        if variant.tool == "ptqc":
            options["seed"] = draw
        if variant.real:
            data = str(self._draw(draw))
        elif self.subject.options.preprocess:
            options["preprocess"] = self.subject.options.preprocess
        stacked = self.subject.batch == "stacked"
        return Job(
            variant.tool, str(self.subject.path), data, str(output), options, stacked=stacked, target=variant.target
        )

    def calibration(self, draw: int) -> Mapping[str, Array]:
        """A random choice of the calibration images."""
        chosen = real_samples(self.subject, draw)
        return {name: array[:QUICK_CALIBRATION] for name, array in chosen.items()} if self.quick else chosen

    def _draw(self, draw: int) -> Path:
        path = self.folder / f"draw{draw}.npz"
        return path if path.exists() else save_samples(path, self.calibration(draw))

    def scored(self, got: Mapping[str, Array]) -> dict[str, Any]:
        """Figures of outputs on ``feeds``."""
        found = figures(got, self.expected, self.labels)
        return {
            **agreement(got, self.expected),
            **{key: found[key]["value"] for key in ("sqnr_db", "top1", "top1_float")},
            "top1_difference": found["top1_difference"],
        }

    def _latency(self, path: Path) -> dict[str, Any]:
        """``speed`` and ``speed_float`` (time of ptqc's int8 file and of the float model by that of ``path``)."""
        units = {"int8": self.file(INT8, 0)[0], "float": self.subject.path}
        one = next(iter(calls(self.subject, self.feeds, 1)))
        models = {unit: file for unit, file in units.items() if file.exists()} | {"this": path}
        timed = speeds(models, one, QUICK_SECONDS if self.quick else SECONDS)
        return {
            "speed": timed["this"] if "int8" in timed else None,
            "speed_float": timed["float"]["ms"] / timed["this"]["ms"],
            **kernels(path),
        }


def weight_bytes(path: Path) -> int:
    """Bytes of all constants of at most 8 bits as they are stored: codes, planes, codebooks and zero points."""
    model = ir.load(path)
    graphs = [model.graph, *(function.graph for function in model.functions.values())]
    values = (value for graph in graphs for value in graph.initializers.values())
    return sum(value.const_value.nbytes for value in values if value.const_value and value.const_value.dtype in NARROW)
