"""The only place that imports onnxruntime, so that its telemetry is off before it is loaded (it writes files).

A user's own ``ORT_DISABLE_TELEMETRY`` wins.
"""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import onnxruntime as ort

NEWEST_OPSET = 26  # of the standard domain, that onnxruntime 1.31 accepts
NEWEST_IR_VERSION = 13


def onnxruntime() -> "ort":  # type: ignore[valid-type]
    """The onnxruntime module."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    return ort


def create_session(
    model: bytes | str | Path,
    threads: int = 1,
    optimized_path: Path | None = None,
    optimize: bool = True,
    config: Sequence[tuple[str, str]] = (),
) -> "ort.InferenceSession":
    """A CPU session.

    Args:
        model: serialized bytes, or a path (needed where weights are external).
        threads: intra-op threads.
        optimized_path: where to dump the optimized graph.
        optimize: False switches every graph optimization off.
        config: session configuration entries.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    if not optimize:
        options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    for key, value in config:
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
