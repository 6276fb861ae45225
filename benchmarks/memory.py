"""Peak memory with few and with many calibration samples; whether a second run gives the same bytes."""

import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.data import loader, save_samples
from benchmarks.worker import Job, run_job

MODELS = ("resnet20", "resnet8")
FEW, MANY = 64, 4096
Say = Callable[[str], None]


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``peaks`` (source -> MB and seconds with few and with many samples) and ``same_bytes``."""
    data = loader()
    samples, many = data.calib(name, FEW), FEW if quick else MANY
    found: dict[str, Any] = {"peaks": {}, "few": FEW, "many": many}
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        output = str(Path(folder, "out.onnx"))
        files = {
            count: save_samples(Path(folder, f"{count}.npz"), samples, copies=count // FEW) for count in (FEW, many)
        }
        for kind in ("npz", "generator"):
            runs = {}
            for count, file in files.items():
                say(f"{name}: {count} samples from {kind}")
                job = Job(
                    "ptqc", str(data.path(name)), str(file), output, {"no_measure": True}, stream=kind == "generator"
                )
                result = run_job(job)
                runs[str(count)] = {key: result.get(key) for key in ("peak_mb", "seconds", "refused", "failed")}
            found["peaks"][kind] = runs
        say(f"{name}: again with other hash seeds and threads")
        found["same_bytes"] = _same_bytes(str(data.path(name)), str(files[FEW]), Path(output))
    return found


def _same_bytes(model: str, file: str, output: Path) -> bool:
    """Whether runs with another PYTHONHASHSEED and another number of threads write the same file."""
    seen = set()
    for seed, threads in (("0", 1), ("1", 2), ("12345", 1)):
        output.unlink(missing_ok=True)
        run_job(Job("ptqc", model, file, str(output), {"threads": threads}), {"PYTHONHASHSEED": seed})
        seen.add(hashlib.sha256(output.read_bytes()).hexdigest() if output.exists() else "none")
    return len(seen) == 1 and "none" not in seen
