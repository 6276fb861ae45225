"""Quantized models that several sections measure: made once for each state of ptqc's source, in the cache folder."""

import hashlib
import json
import shutil
from dataclasses import asdict, replace
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

from benchmarks.baseline import baseline_folder
from benchmarks.data import REPOSITORY
from benchmarks.worker import Job, run_job

SOURCES = ("ptqc", "passes", "calibrate", "targets", "benchmarks/worker.py")
NO_SOURCES = ("ptqc/cli", "ptqc/verify")  # look at finished files, or call what makes them


def stored_job(job: Job) -> dict[str, Any]:
    """Does ``job``, or takes the file and the worker's result of an earlier time (``from_cache`` says so)."""
    folder = baseline_folder()
    folder.mkdir(parents=True, exist_ok=True)
    stem = folder / f"{Path(job.model).stem}-{job.target}-{_key(job)}"
    model, record = stem.with_suffix(".onnx"), stem.with_suffix(".json")
    if record.is_file() and model.is_file():
        shutil.copyfile(model, job.output)
        return {**json.loads(record.read_text()), "from_cache": True}
    result = run_job(job)
    if "failed" not in result and "refused" not in result:
        partial = stem.with_suffix(".partial.onnx")
        shutil.copyfile(job.output, partial)
        partial.replace(model)
        record.write_text(json.dumps(result))
    return result


def _key(job: Job) -> str:
    """Of everything that the file depends on."""
    content = hashlib.sha256(source_digest().encode())
    for path in (job.model, job.data):
        content.update(Path(path).read_bytes() if path else b"")
    fields = {**asdict(replace(job, model="", data="", output="")), "packages": _packages()}
    content.update(json.dumps(fields, sort_keys=True).encode())
    return content.hexdigest()[:20]


@cache
def source_digest() -> str:
    """SHA-256 of all that quantizes, uncommitted changes included."""
    found = hashlib.sha256()
    for place in SOURCES:
        root = REPOSITORY / place
        files = sorted(root.rglob("*")) if root.is_dir() else [root]
        for path in (one for one in files if one.suffix in (".py", ".toml", ".json")):
            name = path.relative_to(REPOSITORY).as_posix()
            if not name.startswith(NO_SOURCES):
                found.update(name.encode() + b"\0" + path.read_bytes())
    return found.hexdigest()


def _packages() -> list[str]:
    return [version(name) for name in ("numpy", "onnx", "onnx-ir", "onnxruntime")]
