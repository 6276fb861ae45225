"""The only place that imports onnxruntime, so that its telemetry is off before it is loaded (it writes files).

A user's own ``ORT_DISABLE_TELEMETRY`` wins.
"""

import os
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import DataError, ModelError
from ptqc.core.types import Array
from ptqc.graph.versions import NEWEST_IR_VERSION as NEWEST_IR_VERSION
from ptqc.graph.versions import NEWEST_OPSET as NEWEST_OPSET

if TYPE_CHECKING:
    import onnxruntime as ort

# A protobuf message ends at 2 GiB; beyond this size weights go to a file beside the model.
LARGEST_MESSAGE_BYTES = 1_800_000_000

Level = Literal["none", "basic", "extended", "all"]


def onnxruntime() -> Any:
    """The onnxruntime module."""
    os.environ.setdefault("ORT_DISABLE_TELEMETRY", "1")
    import onnxruntime as ort

    return ort


@cache
def runtime_errors() -> tuple[type[Exception], ...]:
    """Every class of exception that onnxruntime raises of its own; they have no common base."""
    onnxruntime()
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    members = (getattr(state, name) for name in sorted(dir(state)))
    return tuple(member for member in members if isinstance(member, type) and issubclass(member, Exception))


def create_session(
    model: bytes | str | Path,
    threads: int = 1,
    optimized_path: Path | None = None,
    optimize: bool = True,
    config: Sequence[tuple[str, str]] = (),
    level: Level | None = None,
    arena: bool = True,
    profile: Path | None = None,
) -> "ort.InferenceSession":
    """A CPU session.

    Args:
        model: serialized bytes, or a path (needed where weights are external).
        threads: intra-op threads.
        optimized_path: where to dump the optimized graph.
        optimize: False switches every graph optimization off.
        config: session configuration entries.
        level: how far to optimize; overrides ``optimize``.
        arena: keep the memory of a run for the next one, and plan it; False where many sessions live at a time.
        profile: how the file begins into which the session writes the times of its kernels when profiling ends.

    Raises:
        ModelError: the runtime does not accept the model.
    """
    ort = onnxruntime()
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_cpu_mem_arena = options.enable_mem_pattern = arena
    levels = ort.GraphOptimizationLevel
    options.graph_optimization_level = {
        "none": levels.ORT_DISABLE_ALL,
        "basic": levels.ORT_ENABLE_BASIC,
        "extended": levels.ORT_ENABLE_EXTENDED,
        "all": levels.ORT_ENABLE_ALL,
    }[level or ("all" if optimize else "none")]
    if optimized_path is not None:
        options.optimized_model_filepath = str(optimized_path)
    if profile is not None:
        options.enable_profiling = True
        options.profile_file_prefix = str(profile)
    for key, value in config:
        options.add_session_config_entry(key, value)
    source = model if isinstance(model, bytes) else str(model)
    try:
        return ort.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except runtime_errors() as error:
        raise ModelError(
            "onnxruntime does not accept the model",
            where="" if isinstance(model, bytes) else str(model),
            why=_first_line(error),
            fix="check that the model runs in onnxruntime as it is",
        ) from error


def session_of(
    model: ir.Model,
    threads: int = 1,
    optimized_path: Path | None = None,
    config: Sequence[tuple[str, str]] = (),
    level: Level = "all",
    arena: bool = True,
    profile: Path | None = None,
) -> "ort.InferenceSession":
    """A CPU session of a model in memory; weights that are external or too large go through a temporary file.

    Raises:
        ModelError: the runtime does not accept the model.
    """
    tensors = list(_weights(model))
    external = any(isinstance(tensor, ir.ExternalTensor) for tensor in tensors)
    if not external and sum(tensor.nbytes for tensor in tensors) < LARGEST_MESSAGE_BYTES:
        return create_session(
            ir.to_proto(model).SerializeToString(), threads, optimized_path, True, config, level, arena, profile
        )
    # onnxruntime maps the file, and a mapped file outlives its name.
    with tempfile.TemporaryDirectory(prefix="ptqc-") as folder:
        path = Path(folder, "model.onnx")
        ir.save(model, path, external_data="model.data")
        return create_session(path, threads, optimized_path, True, config, level, arena, profile)


def run_session(
    session: "ort.InferenceSession", names: Sequence[str], feeds: Mapping[str, Array | list[Any]]
) -> list[Any]:
    """The outputs ``names`` of one run; feeds are arrays, and lists of them for sequences.

    Raises:
        DataError: the runtime refuses the feeds (names, types, shapes) or fails on them.
    """
    # A missing input is a ValueError of the Python wrapper.
    refusals: tuple[type[Exception], ...] = (ValueError, *runtime_errors())
    try:
        # Arithmetic on arrays of rank 0 gives scalars, which the runtime does not take.
        given = {name: value if isinstance(value, list) else np.asarray(value) for name, value in feeds.items()}
        outputs: list[Any] = session.run(list(names), given)
    except refusals as error:
        shapes = ", ".join(f"{name} {_kind(feeds[name])}" for name in sorted(feeds))
        raise DataError("the model does not run on this input", where=shapes, why=_first_line(error)) from error
    return outputs


def _kind(value: Array | list[Any]) -> str:
    return f"sequence of {len(value)}" if isinstance(value, list) else f"{value.dtype}{list(value.shape)}"


def _weights(model: ir.Model) -> Iterator[ir.TensorProtocol]:
    """The initializers of the graph and of the bodies inside it."""
    for graph in (model.graph, *model.graph.subgraphs()):
        for value in graph.initializers.values():
            if value.const_value is not None:
                yield value.const_value


def _first_line(error: Exception) -> str:
    """The runtime's message without its trailing stack, shortened."""
    text = str(error).strip().splitlines()
    return text[0][:300] if text else type(error).__name__
