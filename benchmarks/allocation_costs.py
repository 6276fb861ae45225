"""How long mixed precision takes without data: the whole of ``ptqc quantize --target mixed``, and its sensitivities.

``python -m benchmarks.allocation_costs MODEL OUTPUT [PREPROCESSING]`` does it and prints seconds of each stage as JSON.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.data import REPOSITORY
from benchmarks.data_free_subjects import subject
from benchmarks.int4_runs import Say
from benchmarks.worker import peak_megabytes

SECTION = "allocation-cost"
MODELS, QUICK = ("efficientnet_lite0",), ("digits_resnet",)
SIZE = "15%"  # of the float file, about that of int4
SECONDS, SENSITIVITY_SECONDS = 600.0, 240.0  # that issue 12 allows
SENSITIVITIES = ("round each layer", "sensitivities", "check that losses add up")  # stages of the cost table


class Stages:
    """Seconds of each stage: what passes between two calls belongs to the stage of the second one."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def __call__(self, stage: str, done: int, total: int) -> None:
        """As :data:`ptqc.core.progress.Progress`."""
        name, now = stage.partition(",")[0], time.perf_counter()
        self.seconds[name] = self.seconds.get(name, 0.0) + now - self._last
        self._last = now


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``cost`` (``seconds`` of all, of sensitivities and of stages, ``peak_mb``) in a fresh process."""
    known = subject(name, quick=True)
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        words = [str(known.path), str(Path(folder, "mixed.onnx")), known.options.preprocess or ""]
        say(f"{name}: --target mixed --max-size {SIZE}")
        start = time.perf_counter()
        done = subprocess.run(
            [sys.executable, "-m", "benchmarks.allocation_costs", *words],
            cwd=REPOSITORY,
            env={**os.environ, "PTQC_CACHE": "", "ORT_DISABLE_TELEMETRY": "1"},
            capture_output=True,
            text=True,
        )
        seconds = time.perf_counter() - start
    if done.returncode != 0:
        return {"cost": {"failed": (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]}}
    told = json.loads(done.stdout.splitlines()[-1])
    sensitivities = sum(told["stages"].get(stage, 0.0) for stage in SENSITIVITIES)
    return {"cost": {"size": SIZE, "seconds": seconds, "sensitivity_seconds": sensitivities, **told}}


def brief(found: Mapping[str, Any]) -> str:
    """One line."""
    if "failed" in found:
        return str(found["failed"])
    stages = ", ".join(f"{name} {seconds:.0f}" for name, seconds in found["stages"].items() if seconds >= 1.0)
    times = f"{found['seconds']:.0f} s, sensitivities {found['sensitivity_seconds']:.0f} s"
    return f"{times}, {found['cpu_seconds']:.0f} CPU s, {found['peak_mb']:.0f} MB ({stages})"


def main(model: str, output: str, preprocess: str = "") -> None:
    """Quantizes and prints ``stages``, ``cpu_seconds``, ``peak_mb`` and ``bytes`` of the file."""
    from ptqc.api import quantize
    from ptqc.core.options import QuantizeOptions

    stages = Stages()
    options = QuantizeOptions(preprocess=preprocess or None, threads=2)
    result = quantize(model, "mixed", limits={"size": SIZE}, options=options, progress=stages)
    result.save(output)
    costs = {"cpu_seconds": time.process_time(), "peak_mb": peak_megabytes(), "bytes": Path(output).stat().st_size}
    print(json.dumps({"stages": stages.seconds, **costs}))


if __name__ == "__main__":
    main(*sys.argv[1:])
