"""Labelled image classifiers: ptqc beside onnxruntime's three calibration methods."""

import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from benchmarks.baseline import METHODS, quantize_baseline
from benchmarks.data import loader, save_samples
from benchmarks.scoring import figures, kernels, outputs_of, speeds
from benchmarks.worker import Job, run_job
from ptqc.core.types import Array

MODELS = (
    "resnet20",
    "resnet20-folded",
    "resnet56",
    "resnet8",
    "efficientnet_lite0",
    "squeezenet1_1",
    "mobilenet_v1_025",
    "mobilenet_v1_025-folded",
    "mnist_cntk",
)
QUICK = ("resnet8", "mobilenet_v1_025", "mnist_cntk")
# Where integer kernels do not win everywhere, so that ``--prefer latency`` may decide otherwise.
WITH_LATENCY = ("resnet8", "mobilenet_v1_025", "mobilenet_v1_025-folded")
CALIBRATION, QUICK_EVALUATION = 256, 500
Say = Callable[[str], None]


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``variants`` (tool -> figures, speed, size, kernels, seconds, peak memory) and what they are of."""
    data = loader()
    card = data.card(name)
    stacked = card["batch"] == "stacked"
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        calibration = save_samples(Path(folder, "calibration.npz"), data.calib(name, CALIBRATION))
        job = Job("ptqc", str(data.path(name)), str(calibration), "", stacked=stacked)
        made = {**_ours(name, job, Path(folder), say), **_theirs(name, job, quick, say)}
        usable = {variant: path for variant, (path, result) in made.items() if path.exists()}
        feeds, labels = data.evalset(name, QUICK_EVALUATION if quick else None)
        variants: dict[str, Any] = {variant: result for variant, (_, result) in made.items()}
        _score(variants, usable, name, feeds, labels)
        one = next(iter(data.runs(name, feeds, 1)))
        timed = speeds({"float": data.path(name), **usable}, one, 4.0 if quick else 15.0)
        for variant, path in usable.items():
            size = path.stat().st_size / data.path(name).stat().st_size
            variants[variant] |= {"speed": timed[variant], "size": size, **kernels(path)}
    return {
        "task": card["task"],
        "calibration_samples": CALIBRATION,
        "float_ms": timed["float"],
        "variants": variants,
    }


def _ours(name: str, job: Job, folder: Path, say: Say) -> dict[str, tuple[Path, dict[str, Any]]]:
    wanted: dict[str, dict[str, Any]] = {"ptqc": {}}
    if name in WITH_LATENCY:
        wanted["ptqc --prefer latency"] = {"prefer": "latency"}
    made = {}
    for index, (variant, options) in enumerate(wanted.items()):
        say(f"{name}: {variant}")
        output = folder / f"ptqc{index}.onnx"
        made[variant] = output, run_job(Job("ptqc", job.model, job.data, str(output), options))
    return made


def _theirs(name: str, job: Job, quick: bool, say: Say) -> dict[str, tuple[Path, dict[str, Any]]]:
    made = {}
    for method in METHODS[:1] if quick else METHODS:
        say(f"{name}: onnxruntime {method}")
        made[f"onnxruntime {method}"] = quantize_baseline(name, method, job)
    return made


def _score(
    variants: dict[str, Any], usable: Mapping[str, Path], name: str, feeds: Mapping[str, Array], labels: Array
) -> None:
    """Adds the figures of every variant."""
    data = loader()
    stacked = data.card(name)["batch"] == "stacked"
    expected = outputs_of(data.path(name), data.runs(name, feeds), stacked)
    for variant, path in usable.items():
        got = outputs_of(path, data.runs(name, feeds), stacked)
        variants[variant] |= figures(got, expected, labels)
