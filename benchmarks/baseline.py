"""onnxruntime.quantization's models, kept in the user's cache folder: some of its settings take minutes."""

import hashlib
import json
import os
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.worker import Job, run_job

REVISION = 1  # of how worker.py calls onnxruntime.quantization
METHODS = ("MinMax", "Entropy", "Percentile")
# These two keep every activation of every image in memory: the first images only, where those are large.
HISTOGRAM_SAMPLES = {
    "mobilenet_v1_025": 64,
    "mobilenet_v1_025-folded": 64,
    "squeezenet1_1": 32,
    "efficientnet_lite0": 32,
}
# Scales per channel are the better setting, but its tool ends in a ValueError with this model.
PER_TENSOR = ("mnist_cntk",)


def baseline_folder() -> Path:
    """Where the quantized models are kept; safe to delete."""
    base = os.environ.get("XDG_CACHE_HOME", "")
    root = Path(base) if os.path.isabs(base) else Path.home() / ".cache"
    return root / "ptqc-benchmarks"


def quantize_baseline(name: str, method: str, job: Job) -> tuple[Path, dict[str, Any]]:
    """The model that onnxruntime makes with ``method``, and the worker's result, from an earlier run if there was one.

    ``seconds`` and ``peak_mb`` are those of the run that made it (``from_cache`` says so).
    """
    limit = None if method == "MinMax" else HISTOGRAM_SAMPLES.get(name)
    job = replace(
        job,
        tool="onnxruntime",
        options={"method": method, "per_channel": name not in PER_TENSOR},
        samples=limit or job.samples,
    )
    settings = {"calibration_samples": job.samples, "per_channel": job.options["per_channel"]}
    content = hashlib.sha256()
    for path in (job.model, job.data):
        content.update(Path(path).read_bytes())
    key = [REVISION, dict(job.options), job.samples, job.stacked, version("onnxruntime"), version("onnx")]
    content.update(json.dumps(key).encode())
    folder = baseline_folder()
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{name}-{method}-{content.hexdigest()[:20]}"
    model, record = stem.with_suffix(".onnx"), stem.with_suffix(".json")
    if model.is_file() and record.is_file():
        return model, {**json.loads(record.read_text()), **settings, "from_cache": True}
    partial = stem.with_suffix(".partial.onnx")
    result = run_job(replace(job, output=str(partial)))
    if "failed" not in result:
        partial.replace(model)
        record.write_text(json.dumps(result))
    return model, {**result, **settings}
