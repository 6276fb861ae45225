"""How fast one model is relative to another: interleaved runs in one process, as shared machines demand."""

import os
import platform
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from ptqc.core.types import Array
from ptqc.execute.runtime import create_session, run_session, session_of

FEWEST_ROUNDS = 7
MOST_ROUNDS = 2000


@dataclass(frozen=True, slots=True)
class Times:
    """Median and quartiles of the runs of one model, in microseconds."""

    median_us: float
    lower_us: float
    upper_us: float

    @classmethod
    def of(cls, seconds: Sequence[float]) -> "Times":
        """Of at least one measured time."""
        lower, median, upper = np.quantile(seconds, (0.25, 0.5, 0.75)) * 1e6
        return cls(float(median), float(lower), float(upper))


@dataclass(frozen=True, slots=True)
class Latency:
    """Two models compared.

    Attributes:
        ratio: median time of the first divided by that of the second: above 1 the second is faster.
        ratio_lower, ratio_upper: quartiles of the ratio over the rounds.
        first, second: times of the two.
        clock: ``thread`` (CPU time of the calling thread, which does all the work where threads == 1) or ``wall``.
        first_wall, second_wall: the same by the wall clock.
        rounds, threads, batch: how it was measured.
        cpu: what it was measured on.
    """

    ratio: float
    ratio_lower: float
    ratio_upper: float
    first: Times
    second: Times
    clock: str
    first_wall: Times
    second_wall: Times
    rounds: int
    threads: int
    batch: int
    cpu: Mapping[str, Any]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)


def measure_ratio(
    first: ir.Model | bytes | Path,
    second: ir.Model | bytes | Path,
    feeds: Mapping[str, Array],
    threads: int = 1,
    seconds: float = 2.0,
) -> Latency:
    """Runs two models in turn on the same input, in alternating order, and compares their medians.

    With one thread the CPU time of the caller is compared, which other processes disturb little; otherwise wall time.

    Args:
        first, second: usually the float and the quantized model; bytes are a serialized ModelProto.
        feeds: input of both.
        threads: intra-op threads.
        seconds: time to spend, building sessions apart; at least seven rounds are run.

    Raises:
        ModelError: the runtime does not accept a model.
        DataError: a model does not run on the feeds.
    """
    runs = [_runner(model, feeds, threads) for model in (first, second)]
    thread, wall = _interleaved(runs, seconds)
    measured = thread if threads == 1 else wall
    times, walls = [Times.of(column) for column in measured], [Times.of(column) for column in wall]
    ratios = [a / b for a, b in zip(*measured, strict=True) if b > 0]
    lower, upper = np.quantile(ratios, (0.25, 0.75)) if ratios else (1.0, 1.0)
    return Latency(
        ratio=statistics.median(measured[0]) / max(statistics.median(measured[1]), 1e-9),
        ratio_lower=float(lower),
        ratio_upper=float(upper),
        first=times[0],
        second=times[1],
        clock="thread" if threads == 1 else "wall",
        first_wall=walls[0],
        second_wall=walls[1],
        rounds=len(wall[0]),
        threads=threads,
        batch=max((array.shape[0] for array in feeds.values() if array.ndim), default=1),
        cpu=cpu_description(),
    )


def _runner(model: ir.Model | bytes | Path, feeds: Mapping[str, Array], threads: int) -> Callable[[], object]:
    session = session_of(model, threads) if isinstance(model, ir.Model) else create_session(model, threads)
    names = [output.name for output in session.get_outputs()]
    wanted = {given.name for given in session.get_inputs()}
    mine = {name: array for name, array in feeds.items() if name in wanted}
    # Bad feeds end here, with a message; what is measured is the bare call.
    run_session(session, names, mine)
    return lambda: session.run(names, mine)


def _interleaved(runs: Sequence[Callable[[], object]], seconds: float) -> tuple[list[list[float]], list[list[float]]]:
    """CPU times of the thread and wall times: one list a model, one entry a round."""
    thread: list[list[float]] = [[] for _ in runs]
    wall: list[list[float]] = [[] for _ in runs]
    for run in runs:
        run()
    end = time.perf_counter() + seconds
    order = list(enumerate(runs))
    while len(wall[0]) < MOST_ROUNDS and (len(wall[0]) < FEWEST_ROUNDS or time.perf_counter() < end):
        for index, run in order:
            wall_start, thread_start = time.perf_counter(), time.thread_time()
            run()
            thread[index].append(time.thread_time() - thread_start)
            wall[index].append(time.perf_counter() - wall_start)
        order.reverse()
    return thread, wall


@cache
def _cpu_flags() -> tuple[str, frozenset[str]]:
    """Model name and feature flags, as far as the system tells (Linux)."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return platform.processor() or platform.machine(), frozenset()
    fields: dict[str, str] = {}
    for line in text.splitlines():
        key, _, value = line.partition(":")
        fields.setdefault(key.strip(), value.strip())
    flags = fields.get("flags", fields.get("Features", ""))
    return fields.get("model name", platform.machine()), frozenset(flags.split())


def has_vnni() -> bool:
    """Whether this CPU multiplies uint8 by int8 without saturating in between (x86 VNNI, Arm dot product).

    False where the system does not tell: 7-bit weights are right on every CPU.
    """
    _, flags = _cpu_flags()
    return bool(flags & {"avx512_vnni", "avx_vnni", "asimddp", "i8mm"})


def cpu_description() -> dict[str, Any]:
    """What a measurement was made on: model name, architecture, cores, and the flags that matter for int8."""
    name, flags = _cpu_flags()
    relevant = ("avx2", "avx512f", "avx512_vnni", "avx_vnni", "avx_vnni_int8", "amx_int8", "asimddp", "i8mm")
    affinity = getattr(os, "sched_getaffinity", None)
    return {
        "name": name,
        "architecture": platform.machine(),
        "cores": len(affinity(0)) if affinity else os.cpu_count() or 1,
        "flags": [flag for flag in relevant if flag in flags],
        "vnni": has_vnni(),
    }
