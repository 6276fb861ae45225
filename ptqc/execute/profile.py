"""Where the time of a model goes: the kernels that the runtime runs, in its own optimized graph, with their times."""

import json
import tempfile
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.errors import ModelError
from ptqc.core.types import Array
from ptqc.execute.runtime import run_session, session_of

FEWEST_RUNS = 10
MOST_RUNS = 400
MOST_EVENTS = 200_000  # of which the file has a hundred bytes each
WARM_UP = 2  # runs that are not counted
_SUFFIX = "_kernel_time"


@dataclass(frozen=True, slots=True, eq=False)
class Profile:
    """The kernels of one session on one thread.

    Attributes:
        graph: as the runtime optimized it, layouts included; large weights are cut off.
        microseconds: of each kernel in one run, by node name of ``graph``: the lower quartile of the runs, as what
            else runs on the machine makes some far too long.
    """

    graph: ir.Graph
    microseconds: Mapping[str, float]


def profile_kernels(model: ir.Model, feeds: Mapping[str, Array], seconds: float = 0.15) -> Profile:
    """Runs a model on one thread and reads the runtime's own profile of it.

    The clock is that of the wall, so the times add up to somewhat more than the CPU time of a run without profiling.

    Args:
        model: stays unchanged.
        feeds: one input.
        seconds: time to spend, building the session apart; at least ten runs are made.

    Raises:
        ModelError: the runtime does not accept the model, or writes a profile that cannot be read.
        DataError: the model does not run on the feeds.
    """
    with tempfile.TemporaryDirectory(prefix="ptqc-") as folder:
        path = Path(folder, "optimized.onnx")
        config = (
            ("session.optimized_model_external_initializers_file_name", "optimized.data"),
            ("session.optimized_model_external_initializers_min_size_in_bytes", "65536"),
        )
        session = session_of(model, 1, path, config, profile=Path(folder, "profile"))
        graph = ir.load(path).graph
        names = [output.name for output in session.get_outputs()]
        wanted = {given.name for given in session.get_inputs()}
        mine = {name: array for name, array in feeds.items() if name in wanted}
        run_session(session, names, mine)
        most = max(FEWEST_RUNS, min(MOST_RUNS, MOST_EVENTS // max(len(graph), 1)))
        end, count = time.perf_counter() + seconds, 0
        while count < FEWEST_RUNS + WARM_UP or (count < most and time.perf_counter() < end):
            session.run(names, mine)
            count += 1
        events = _read(Path(session.end_profiling()))
    return Profile(graph, kernel_times(events, {node.name or "" for node in graph}))


def kernel_times(events: Sequence[Mapping[str, Any]], nodes: frozenset[str] | set[str]) -> dict[str, float]:
    """Microseconds of one run by node, in the order in which they run; bodies of control flow are left out."""
    times: dict[str, list[float]] = {}
    runs = max(sum(event.get("name") == "model_run" for event in events), 1)
    for event in events:
        name = str(event.get("name", ""))
        if event.get("cat") == "Node" and name.endswith(_SUFFIX) and name.removesuffix(_SUFFIX) in nodes:
            times.setdefault(name.removesuffix(_SUFFIX), []).append(float(event["dur"]))
    # A name that several kernels share occurs several times in each run.
    counted = {name: found[len(found) * WARM_UP // runs :] for name, found in times.items()}
    return {name: float(np.quantile(found, 0.25)) * len(times[name]) / runs for name, found in counted.items()}


def _read(path: Path) -> list[dict[str, Any]]:
    try:
        events = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ModelError("onnxruntime wrote no profile that can be read", why=str(error)) from error
    return [event for event in events if isinstance(event, dict)]
