"""Two readings of one QDQ file, node by node in float and fused to integer kernels: how far they are apart."""

import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from benchmarks.baseline import quantize_baseline
from benchmarks.data import save_samples
from benchmarks.data_free_subjects import Feeds, Subject, calls, evaluation, real_samples
from benchmarks.int4_runs import Figures, Network, Say, Variant, continue_runs
from benchmarks.worker import Job
from ptqc.core.types import Array
from ptqc.execute.runtime import Level, run_session, session_of
from ptqc.verify.engines import with_outputs

SECTION = "integer-readings"
ORT = Variant("onnxruntime MinMax", {"method": "MinMax", "per_channel": True}, tool="onnxruntime")
IMAGES, QUICK_IMAGES = 1000, 100
LARGE_IMAGES = 100


def measure(rows: Sequence[Variant], name: str, quick: bool, say: Say) -> dict[str, Any]:
    """One model: ``runs`` (tool or target -> 0 -> figures of :func:`readings`)."""
    with tempfile.TemporaryDirectory(prefix="ptqc-bench-") as folder:
        network: Network | None = None

        def run(variant: Variant, draw: int) -> Figures:
            nonlocal network
            network = network or Network.of(name, True, Path(folder))
            path, result = _file(network, variant, Path(folder))
            if "refused" in result or "failed" in result:
                return result
            count = QUICK_IMAGES if quick else IMAGES if network.subject.batch == "dynamic" else LARGE_IMAGES
            return readings(path, network.subject, evaluation(network.subject, count)[0])

        chosen = [row for row in rows if not quick or row.tool == "ptqc"]
        return continue_runs(SECTION, name, chosen, quick, say, run, brief)


def _file(network: Network, variant: Variant, folder: Path) -> tuple[Path, Figures]:
    """The file of a variant; onnxruntime's is the one that the section of images measures where that has been made."""
    if variant.tool == "ptqc":
        return network.file(variant, 0)
    known = network.subject
    data = save_samples(folder / "calibration.npz", real_samples(known, 0))
    job = Job("onnxruntime", str(known.path), str(data), "", stacked=known.batch == "stacked")
    return quantize_baseline(known.name, str(variant.options["method"]), job)


def readings(path: Path, subject: Subject, feeds: Feeds) -> Figures:
    """The reading without any optimisation against the fused one.

    Returns ``sqnr_db`` (of the outputs; None where all bits are equal), ``outputs_differ`` (share of their elements),
    ``codes_differ`` and ``codes_apart`` (share of the codes of the last quantized tensor, the greatest distance),
    ``decisions_differ`` (share of samples with another top-1), ``tensor`` (the last quantized one), ``samples``.
    """
    model = ir.load(path)
    names = [str(value.name) for value in model.graph.outputs]
    last = last_codes(model)
    fused, unfused = (_outputs(model, last, calls(subject, feeds), level) for level in ("all", "none"))
    first, second = fused[names[0]], unfused[names[0]]
    noise = float(((second.astype(np.float64) - first) ** 2).sum())
    signal = float((first.astype(np.float64) ** 2).sum())
    distance = np.abs(fused[last].astype(np.int64) - unfused[last])
    decisions = [part.reshape(len(part), -1).argmax(axis=1) for part in (first, second)]
    return {
        "sqnr_db": 10 * float(np.log10(signal / noise)) if noise else None,
        "outputs_differ": float((first != second).mean()),
        "codes_differ": float((distance != 0).mean()),
        "codes_apart": int(distance.max(initial=0)),
        "decisions_differ": float((decisions[0] != decisions[1]).mean()),
        "tensor": last,
        "samples": len(first),
    }


def last_codes(model: ir.Model) -> str:
    """The output of the last QuantizeLinear that depends on the inputs."""
    nodes = [node for node in model.graph if node.op_type == "QuantizeLinear" and node.domain == ""]
    found = [
        node.outputs[0].name for node in nodes if node.inputs[0] is not None and not node.inputs[0].is_initializer()
    ]
    if not found or found[-1] is None:
        raise ValueError("nothing is quantized")
    return found[-1]


def _outputs(model: ir.Model, tensor: str, feeds: Any, level: Level) -> Mapping[str, Array]:
    """Outputs of the file as it is by name, and the codes of ``tensor``, from a session that has them as an output."""
    names = [str(value.name) for value in model.graph.outputs]
    plain, watched = (session_of(one, threads=2, level=level) for one in (model, with_outputs(model, [tensor])))
    rows = []
    for feed in feeds:
        found = run_session(plain, names, feed)
        codes = found[names.index(tensor)] if tensor in names else run_session(watched, [tensor], feed)[0]
        rows.append([*found, codes])
    return {name: np.concatenate(parts) for name, parts in zip([*names, tensor], zip(*rows, strict=True), strict=True)}


def brief(found: Figures) -> str:
    """What is printed of a file."""
    level = "equal bits" if found["sqnr_db"] is None else f"{found['sqnr_db']:.1f} dB"
    return f"{level}, {found['codes_differ']:.2%} of codes differ, {found['decisions_differ']:.2%} of decisions"
