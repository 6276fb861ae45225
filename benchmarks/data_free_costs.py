"""What quantizing without data takes, file to file through the command line: seconds and peak memory."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.command import run_command
from benchmarks.data_free_subjects import Subject, subject

# Seconds and MB that issue 9 allows.
LIMITS = {"resnet20": (25.0, 1200.0), "efficientnet_lite0": (120.0, 1200.0)}
MODELS = tuple(LIMITS)
COUNTS = {"resnet20": (32, 256)}  # samples to distil with `ptqc synth`: its memory must not grow
Say = Callable[[str], None]


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``commands`` (what was run -> ``seconds``, ``peak_mb`` or ``failed``)."""
    known, found = subject(name, quick=True), {}
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        for text, words in commands(known, Path(folder)).items():
            found[text] = run_command(words)
            say(f"{name}: {text}: {found[text]}")
    return {"commands": found}


def commands(known: Subject, folder: Path) -> dict[str, list[str]]:
    """Words of the command lines, by what is shown of them."""
    said = [] if known.options.preprocess is None else ["--preprocess", known.options.preprocess]
    model = str(known.path)
    found = {"quantize --target int8": ["quantize", model, "--target", "int8", *said, "-o", str(folder / "q.onnx")]}
    for count in COUNTS.get(known.name, ()):
        output = str(folder / f"{count}.npz")
        words = ["synth", model, "--distill", "batch-norm", "-n", str(count), *said, "-o", output]
        found[f"synth --distill batch-norm -n {count}"] = words
    return found
