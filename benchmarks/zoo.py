"""Models without labels: is each quantized or refused, how close to float, how fast, what stays in float."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.baseline import quantize_baseline
from benchmarks.data import halves, loader, save_samples
from benchmarks.scoring import figures, kernels, outputs_of, speeds
from benchmarks.worker import Job, run_job

IMAGES = 64  # to calibrate on, and as many others to score
QUICK = ("vww_mobilenet_v1_025", "toycar_autoencoder", "dtln_1")
Say = Callable[[str], None]


def models() -> tuple[str, ...]:
    """Names of the models of this section."""
    return tuple(card["name"] for card in loader().models(group="zoo") if card["metric"]["kind"] == "fidelity")


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``variants`` (tool -> figures, or what it says why not)."""
    data = loader()
    card = data.card(name)
    stacked = card["batch"] == "stacked"
    calibration, (scored, _) = data.calib(name, IMAGES), data.evalset(name, IMAGES)
    halved = card["data"]["calib"] == card["data"]["eval"] and card["data"]["calib"].endswith(".npz")
    if halved:  # one file serves both
        calibration, scored = halves(data.calib(name))
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        file = save_samples(Path(folder, "calibration.npz"), calibration)
        ours = Path(folder, "ptqc.onnx")
        job = Job("ptqc", str(data.path(name)), str(file), str(ours), stacked=stacked)
        say(f"{name}: ptqc")
        made = {"ptqc": (ours, run_job(job))}
        if not quick:
            say(f"{name}: onnxruntime MinMax")
            made["onnxruntime MinMax"] = quantize_baseline(name, "MinMax", job)
        usable = {variant: path for variant, (path, _) in made.items() if path.exists()}
        variants: dict[str, Any] = {variant: result for variant, (_, result) in made.items()}
        expected = outputs_of(data.path(name), data.runs(name, scored), stacked)
        one = next(iter(data.runs(name, scored, 1)))
        timed = speeds({"float": data.path(name), **usable}, one, 2.0 if quick else 6.0)
        for variant, path in usable.items():
            got = outputs_of(path, data.runs(name, scored), stacked)
            size = path.stat().st_size / data.path(name).stat().st_size
            variants[variant] |= figures(got, expected, None)
            variants[variant] |= {"speed": timed[variant], "size": size, **kernels(path)}
    return {"task": card["task"], "float_ms": timed["float"], "variants": variants}
