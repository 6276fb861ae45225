"""Quantizes one model in a process of its own, so that its peak memory can be told.

``python -m benchmarks.worker JOB``: the job and the result are JSON; the result is the last line of standard output.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from benchmarks.data import REPOSITORY
from ptqc.core.errors import PtqcError
from ptqc.core.options import QuantizeOptions
from ptqc.core.plan import QuantPlan
from ptqc.core.types import Array, Precision


@dataclass(frozen=True, slots=True)
class Job:
    """What to quantize: with ``ptqc`` (options as in QuantizeOptions) or ``onnxruntime`` (its calibration method).

    Attributes:
        data: .npz; ``stacked`` if its first axis is none of the model's. Empty: ptqc makes samples.
        target: of ptqc.
        samples: use the first ones only; None for all.
        stream: hand the samples over one by one, from a generator, instead of the path.
    """

    tool: str
    model: str
    data: str
    output: str
    options: Mapping[str, Any] = field(default_factory=dict)
    samples: int | None = None
    stacked: bool = False
    stream: bool = False
    target: str = "int8"


def run_job(job: Job, environment: Mapping[str, str] | None = None) -> dict[str, Any]:
    """Runs ``job`` in a fresh process without ptqc's cache.

    Returns its result (``seconds``, ``cpu_seconds``, ``peak_mb`` and what the tool reports), or ``refused`` with
    ptqc's message, or ``failed`` with the last line of the traceback.
    """
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        variables = {**os.environ, "PTQC_CACHE": "", "ORT_DISABLE_TELEMETRY": "1", "TMPDIR": folder}
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.worker", json.dumps(asdict(job))],
            cwd=REPOSITORY,
            env={**variables, **(environment or {})},
            capture_output=True,
            text=True,
        )
    if done.returncode != 0:
        lines = done.stderr.strip().splitlines()
        return {"failed": lines[-1] if lines else f"exit code {done.returncode}"}
    result: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return result


def main(text: str) -> None:
    """Does the job and prints the result."""
    job = Job(**json.loads(text))
    start = time.perf_counter()
    try:
        result = {"ptqc": quantize_ptqc, "onnxruntime": quantize_onnxruntime}[job.tool](job)
    except PtqcError as error:
        result = {"refused": str(error)}
    # The processor's seconds say more on a machine that has other work to do.
    times = {"seconds": time.perf_counter() - start, "cpu_seconds": time.process_time()}
    result |= {**times, "peak_mb": peak_megabytes()}
    print(json.dumps(result))


def peak_megabytes() -> float | None:
    """Greatest resident memory of this process; not getrusage's, which a forked process inherits from its parent."""
    try:
        status = Path("/proc/self/status").read_text()
    except OSError:
        return None
    return int(status.split("VmHWM:")[1].split()[0]) * 1024 / 1e6


def samples(job: Job) -> Iterator[dict[str, Array]]:
    """Feeds of one sample each."""
    from ptqc.calibrate.arrays import open_npz

    files = open_npz(Path(job.data))
    count = min(rows.shape[0] for rows in files.values())
    with ExitStack() as stack:
        readers = {name: stack.enter_context(rows.open()) for name, rows in files.items()}
        for _ in range(count if job.samples is None else min(count, job.samples)):
            rows = {name: reader.read(1) for name, reader in readers.items()}
            yield {name: row[0] for name, row in rows.items()} if job.stacked else rows


def options_of(job: Job) -> QuantizeOptions:
    """The options of a job: two threads, precisions as (pattern, text) pairs."""
    given = {"threads": 2, "samples": job.samples, **job.options}
    precision = tuple((pattern, Precision.parse(text)) for pattern, text in given.pop("precision", ()))
    return QuantizeOptions(precision=precision, **given)


def quantize_ptqc(job: Job) -> dict[str, Any]:
    """With ptqc's defaults but for ``job.options``; everything that a user gets is measured, the report included."""
    from ptqc.api import quantize

    data = samples(job) if job.stream else job.data or None
    result = quantize(job.model, job.target, data, options=options_of(job))
    result.save(job.output)
    provenance = result.plan.provenance
    return {
        "method": provenance.get("calibration-method"),
        "samples": None if result.report.data is None else result.report.data.samples,
        "formats": formats(result.plan),
        "stages": dict(result.report.seconds),
        "warnings": list(result.report.warnings),
        "notes": list(result.report.notes),
    }


def formats(plan: QuantPlan) -> dict[str, int]:
    """How many tensors of weights are stored in each way: signed integers of at most 8 bits are weights."""
    weights = [params for params in plan.tensors.values() if params.type.signed and params.type.bits <= 8]
    names = [
        str(params.type)
        if params.codebook is None
        else f"codebook{params.stored_bits}{'/channel' * (params.codebook.ndim > 1)}"
        for params in weights
    ]
    return dict(sorted(Counter(names).items()))


class Reader:
    """onnxruntime's CalibrationDataReader over :func:`samples`, one sample a call, as its examples do it."""

    def __init__(self, job: Job) -> None:
        self._samples = samples(job)

    def get_next(self) -> dict[str, Array] | None:
        """The next feeds, None at the end."""
        return next(self._samples, None)


def quantize_onnxruntime(job: Job) -> dict[str, Any]:
    """With onnxruntime's own tool at its best setting: preprocessed, QDQ, uint8 x int8."""
    import onnx

    from ptqc.execute.runtime import onnxruntime

    onnxruntime()
    from onnxruntime.quantization import CalibrationMethod, QuantFormat, QuantType, quantize_static
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory() as folder:
        model, prepared, converted = onnx.load(job.model), str(Path(folder, "prepared.onnx")), False
        if next(entry.version for entry in model.opset_import if entry.domain in ("", "ai.onnx")) < 13:
            # Scales per channel need opset 13, and its tool does not convert.
            model, converted = onnx.version_converter.convert_version(model, 17), True
        quant_pre_process(model, prepared)
        quantize_static(
            prepared,
            job.output,
            Reader(job),
            quant_format=QuantFormat.QDQ,
            activation_type=QuantType.QUInt8,
            weight_type=QuantType[job.options.get("weights", "QInt8")],
            per_channel=job.options["per_channel"],
            calibrate_method=CalibrationMethod[job.options["method"]],
        )
    return {"notes": ["converted to opset 17 first"] if converted else []}


if __name__ == "__main__":
    main(sys.argv[1])
