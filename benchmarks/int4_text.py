"""Transformers on text at 8, 4 and 2 bits: weights alone, and with activations at 8 bits, beside MatMulNBits."""

import tempfile
import time
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks import text
from benchmarks.int4_runs import Say, precision, weight_bytes
from benchmarks.worker import Job, options_of
from ptqc.api import quantize
from ptqc.core.errors import PtqcError
from ptqc.execute.runtime import onnxruntime

MODELS, QUICK = ("minilm_l6", "pylm"), ("pylm",)
OURS: Mapping[str, dict[str, Any]] = {
    "w8a16": precision("w8a16"),
    "w4a16": precision("w4a16"),
    "w2a16": precision("w2a16"),
    "w4a8 dynamic": precision("w4a8", activations="dynamic"),
}
NBITS = {8: "onnxruntime MatMulNBits 8", 4: "onnxruntime MatMulNBits 4", 2: "onnxruntime MatMulNBits 2"}
BLOCK = 32
QUICK_FORMS = ("w4a16", NBITS[4])


def measure(name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One transformer: ``rows``, float first; a form that is refused has the reason only."""
    make = text.sentence_encoder if name == "minilm_l6" else text.language_model
    return {"rows": make(forms=partial(_forms, name, quick, say))}


def _forms(
    name: str, quick: bool, say: Say, path: Path, calibration: Sequence[text.Feeds], row: text.Row
) -> list[dict[str, Any]]:
    wanted = [form for form in (*OURS, *NBITS.values()) if not quick or form in QUICK_FORMS]
    say(f"{name}: float")
    rows = [{**row("float", path), "weight_bytes": weight_bytes(path)}]
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        for index, form in enumerate(wanted):
            file = Path(folder, f"{index}.onnx")
            say(f"{name}: {form}")
            try:
                settings = make_form(form, path, calibration, file)
            except PtqcError as error:
                rows.append({"form": form, "refused": str(error)})
                continue
            rows.append({**row(form, file), **settings, "weight_bytes": weight_bytes(file)})
    return rows


def make_form(form: str, path: Path, calibration: Sequence[text.Feeds], file: Path) -> dict[str, Any]:
    """Writes one form of the model; returns ``seconds`` and the settings. PtqcError where ptqc refuses."""
    start = time.perf_counter()
    if form in OURS:
        options = {"no_measure": True, **OURS[form]}
        job = Job("ptqc", str(path), "", str(file), options, target="int4")
        quantize(path, job.target, calibration, options=options_of(job)).save(file)
        settings: dict[str, Any] = {"target": job.target, "options": options}
    else:
        bits = next(bits for bits, name in NBITS.items() if name == form)
        quantize_nbits(path, file, bits)
        settings = {"options": {"bits": bits, "block_size": BLOCK, "is_symmetric": True}}
    return {"seconds": time.perf_counter() - start, **settings}


def quantize_nbits(path: Path, file: Path, bits: int) -> None:
    """onnxruntime's weight-only quantization, rounded to nearest in blocks, after its preprocessing."""
    import onnx

    onnxruntime()  # with its telemetry off
    from onnxruntime.quantization.matmul_nbits_quantizer import MatMulNBitsQuantizer
    from onnxruntime.quantization.shape_inference import quant_pre_process

    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        prepared = Path(folder, "prepared.onnx")
        quant_pre_process(str(path), str(prepared), skip_symbolic_shape=True)
        made = MatMulNBitsQuantizer(
            onnx.load(prepared), bits=bits, block_size=BLOCK, is_symmetric=True, accuracy_level=4
        )
        made.process()
        made.model.save_model_to_file(str(file))
